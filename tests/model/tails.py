"""Code after a loop of many kinds: what is pointwise in time, and what joins its steps.

Each entry is a function of the path (T, 2), the initial state (2,) and data (T,) that observes something.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan

T = 6
_RNG = np.random.default_rng(3)
Y = _RNG.normal(size=T).astype(np.float32)
Y2 = _RNG.normal(size=(T, 2)).astype(np.float32)
Y3 = _RNG.normal(size=(T, 3)).astype(np.float32)
Y32 = _RNG.normal(size=(T, 3, 2)).astype(np.float32)
COUNTS = _RNG.poisson(2, size=T)
H = _RNG.normal(size=(3, 2)).astype(np.float32)
SEEN = np.array([True, False, True, True, False, True])
COV = np.array([[1.0, 0.3], [0.3, 0.5]], np.float32)


def model(tail):
    """Two random walks, observed by the tail."""

    def written(y):
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        x0 = numpyro.sample("x0", dist.Normal(0, 1).expand([2]).to_event(1))

        def step(x, _):
            x = numpyro.sample("x", dist.Normal(x, s).to_event(1))
            return x, x

        last, path = scan(step, x0, None, length=T)
        tail(path, x0, y, last)

    return written


def see(name, fn, y):
    numpyro.sample(name, fn, obs=y)


def two_sites(p, x0, y, last):
    r = numpyro.sample("r", dist.HalfNormal(1.0))
    see("a", dist.Normal(p[:, 0], r), y)
    see("b", dist.StudentT(4.0, p[:, 1], jnp.exp(0.1 * y)), y)


def plates(p, x0, y, last):
    with numpyro.plate("time", T, dim=-2), numpyro.plate("series", 2, dim=-1):
        see("a", dist.Normal(p, 0.5), Y2)


def later_loop(p, x0, y, last):
    """An exponential average of the data, and the path seen beside it."""

    def step(mean, inputs):
        x, yt = inputs
        see("a", dist.Normal(x[0] + mean, 1.0), yt)
        return 0.7 * mean + 0.3 * yt, mean * x

    _, means = scan(step, 0.2, (p, y))
    see("b", dist.Normal(means.sum(-1), 1.0), y)


def masked(p, x0, y, last):
    with handlers.mask(mask=SEEN), handlers.scale(scale=0.5):
        see("a", dist.Normal(p[:, 0], 1.0), y)


def inner_vmap(p, x0, y, last):
    means = jax.vmap(lambda x, h: jnp.tanh(h @ x))(p, jnp.asarray(Y32))
    see("a", dist.Normal(means, 1.0).to_event(1), Y3)


def flat(p, x0, y, last):
    back = p.reshape(-1).reshape(T, 2, 1)
    see("a", dist.Normal(p.reshape(-1), 1.0), Y2.reshape(-1))
    see("b", dist.Normal(back[..., 0], 1.0), Y2)


def look_up(p, x0, y, last):
    z = (p[:, 0] > 0).astype(int)
    see("a", dist.Normal(jnp.array([-1.0, 2.0])[z], 1.0), y)
    see("b", dist.Normal(jnp.asarray(Y2)[jnp.arange(T), z], 1.0), y)
    see("c", dist.Normal(jnp.take_along_axis(p, z[:, None], 1)[:, 0], 1.0), y)


def families(p, x0, y, last):
    see("a", dist.Poisson(jnp.exp(p[:, 0])), COUNTS)
    see("b", dist.NegativeBinomial2(jnp.exp(p[:, 0]), jnp.exp(p[:, 1])), COUNTS)
    see("c", dist.Categorical(logits=jnp.concatenate([p, 0 * p[:, :1]], -1)), COUNTS % 3)
    see("d", dist.Bernoulli(logits=p[:, 0]), SEEN.astype(int))


def more_families(p, x0, y, last):
    weights = dist.Categorical(probs=jnp.array([0.3, 0.7]))
    see("a", dist.MixtureSameFamily(weights, dist.Normal(p, 1.0)), y)
    see("b", dist.OrderedLogistic(p[:, 0], jnp.array([-1.0, 1.0])), COUNTS % 3)
    see("c", dist.TruncatedNormal(p[:, 0], 1.0, low=-6.0), y)
    see("d", dist.Gamma(jnp.exp(p[:, 0]), 2.0), jnp.exp(y))


def multivariate(p, x0, y, last):
    see("a", dist.MultivariateNormal(p, COV), Y2)
    see("b", dist.MultivariateNormal(p, COV * jnp.exp(y)[:, None, None]), Y2)
    see("c", dist.MultivariateNormal(p[:, None], COV), Y32)
    see("d", dist.MultivariateNormal(p, jnp.eye(2) + jnp.exp(p)[:, :, None] * jnp.exp(p)[:, None]), Y2)


def readouts(p, x0, y, last):
    see("a", dist.Normal(p @ H.T, 1.0).to_event(2), Y3)
    see("b", dist.Normal(H @ p.T, 1.0), Y3.T)
    see("c", dist.Normal(jnp.einsum("ti,tji->tj", p, jnp.asarray(Y32)), 1.0), Y3)
    see("d", dist.Normal(jnp.einsum("ti,tj->tij", p, p), 1.0), jnp.einsum("ti,tj->tij", Y2, Y2))


def factors(p, x0, y, last):
    residual = p[:, 0] - y
    numpyro.factor("a", -0.5 * residual @ residual)
    numpyro.factor("b", 3.0 - 2.0 * jnp.sum(residual**2) / 5.0 + (y * p[:, 1]).sum())
    numpyro.factor("c", jnp.dot(y, jnp.cos(p)).sum() - x0.sum() * 0)


def other_axes(p, x0, y, last):
    ranked = jnp.sort(p, 1) + jnp.cumsum(p, 1) + p[:, ::-1] + jax.nn.softmax(p, 1) + p.argmax(1)[:, None]
    see("a", dist.Normal(ranked.max(1) + jax.scipy.special.logsumexp(p, 1), 1.0), y)
    see("b", dist.Normal(jnp.stack([p[:, 1], y, p[:, 0]], 0), 1.0), Y3.T)
    see("c", dist.Normal(jnp.stack([p[:, 1], p[:, 0]], -1), 1.0), Y2)


def rows(p, x0, y, last):
    see("last", dist.Normal(p[-1], 1.0), Y2[-1])
    see("third", dist.MultivariateNormal(p[2], COV), Y2[2])
    see("looked up", dist.Normal(jnp.array([-1.0, 2.0])[(p[3, 0] > 0).astype(int)], 1.0), 0.5)
    see("every", dist.Normal(p[:, 0], 1.0), y)


def start_and_end(p, x0, y, last):
    """Rows before the first step and after the last."""
    whole = jnp.concatenate([x0[None], p, jnp.ones((1, 2)), jnp.asarray(Y2[:1])])
    see("a", dist.Normal(whole, 1.0), np.concatenate([Y2, Y2[:3]]))
    see("b", dist.Normal(whole[1:-2, 0], 1.0), y)
    see("c", dist.Normal(whole[:3], 1.0), Y2[:3])
    see("d", dist.Normal(whole[-4:], 1.0), Y2[:4])


def single(observe):
    """A tail that observes one site, 'a', at a mean."""

    def tail(p, x0, y, last):
        mean = observe(p, x0, y)
        see("a", dist.Normal(mean, 1.0), np.resize(Y2, mean.shape))

    return tail


def other_orders(p, x0, y, last):
    """Rows at some times, in any order and several times, and rows that data choose."""
    whole = jnp.concatenate([x0[None], p])
    see("a", dist.Normal(p[::-1], 1.0), Y2)
    see("b", dist.Normal(p[::2, 0], jnp.exp(0.1 * y[::2])), Y[:3])
    see("c", dist.Normal(whole[np.array([3, 1, 1, 5])], 1.0).to_event(2), Y2[:4])
    see("d", dist.Normal(jnp.roll(p, 2, 0) + jnp.roll(y, 2)[:, None], 1.0), Y2)
    see("e", dist.Normal(p[SEEN].T, 1.0), Y2[:4].T)
    see("f", dist.Normal(jnp.concatenate([p[4:], p[:2]]), 1.0), Y2[:4])


def chosen_by_data(p, x0, y, last):
    index = jnp.argsort(y)[:4]
    see("a", dist.Normal(p[index, 0], jnp.exp(0.1 * jnp.take(p[:, 1], index))), Y[:4])
    see("b", dist.MultivariateNormal(jnp.take(p, index, axis=0), COV), Y2[:4])
    see("c", dist.Normal(p[index, jnp.array([0, 1, 1, 0])], 1.0), Y[:4])
    see("d", dist.Normal(jnp.take_along_axis(p, jnp.argsort(Y2, 0), 0), 1.0), Y2)
    see("e", dist.Normal(p[index[0]], 1.0), Y2[0])


def merged_axes(p, x0, y, last):
    see("a", dist.Normal(p.T.reshape(-1), 1.0).to_event(1), Y2.ravel())
    see("b", dist.Normal(p.reshape(3, 4), 1.0), Y2.reshape(3, 4))
    with numpyro.plate("series", 2, dim=-2), numpyro.plate("time", T - 1, dim=-1):
        see("c", dist.Normal(p.T[:, ::-1][:, :-1], 1.0), Y2[1:].T)
    see("d", dist.Normal(jnp.repeat(p[:, 0], 2), 1.0), Y2.ravel())
    numpyro.factor("e", jnp.cumsum(-0.5 * (p[::-1, 0] - y) ** 2)[-1] + jnp.stack([p[2], p[0]]).sum())


def later_loop_by_time(p, x0, y, last):
    """A loop that reads the path at its own time, forwards and backwards."""

    def step(mean, t):
        see("a", dist.Normal(p[t, 0] + mean, 1.0), y[t])
        see("b", dist.Normal(p[T - 1 - t], 1.0).to_event(1), jnp.asarray(Y2)[t])
        return 0.7 * mean + 0.3 * y[t], None

    scan(step, 0.2, jnp.arange(T))


OTHER_LAYOUTS = {
    "other orders": other_orders,
    "chosen by data": chosen_by_data,
    "merged axes": merged_axes,
    "later loop by time": later_loop_by_time,
}

SLOW = {"chosen by data", "merged axes"}

POINTWISE = {
    "plain": single(lambda p, x0, y: p[:, 0]),
    "head slice": single(lambda p, x0, y: p[:4]),
    "slice": single(lambda p, x0, y: p[1:5]),
    "without the first": single(lambda p, x0, y: p[1:] * y[:-1, None]),
    "start in front": single(lambda p, x0, y: jnp.concatenate([x0[None], p])),
    "padded": single(lambda p, x0, y: jnp.pad(p, ((2, 1), (0, 1)), constant_values=0.3)),
    "constants after": single(lambda p, x0, y: jnp.concatenate([p[:4], jnp.asarray(Y2[:3])])),
    "parts joined": single(lambda p, x0, y: jnp.concatenate([p[:2], 2 * p[2:]])),
    "split": single(lambda p, x0, y: jnp.concatenate(jnp.split(p, [2, 3]))),
    "where": single(lambda p, x0, y: jnp.where(jnp.arange(T) < 3, p[:, 0], y)),
    "two sites": two_sites,
    "plates": plates,
    "later loop": later_loop,
    "masked": masked,
    "inner vmap": inner_vmap,
    "flat": flat,
    "look-up": look_up,
    "families": families,
    "more families": more_families,
    "multivariate": multivariate,
    "readouts": readouts,
    "factors": factors,
    "other axes": other_axes,
    "rows": rows,
    "start and end": start_and_end,
    **OTHER_LAYOUTS,
}


def from_last_carry(p, x0, y, last):
    see("a", dist.Normal(last, 1.0), Y2[0])


def loop_with_state(p, x0, y, last):
    def step(level, inputs):
        x, yt = inputs
        see("a", dist.Normal(level, 1.0), yt)
        return 0.5 * level + x[0], None

    scan(step, 0.0, (p, y))


def joint_over_time(p, x0, y, last):
    covariance = jnp.exp(-jnp.abs(jnp.arange(T)[:, None] - jnp.arange(T)))
    see("a", dist.MultivariateNormal(p[:, 0], covariance), y)


JOINED = {
    "cumulative": (single(lambda p, x0, y: jnp.cumsum(p, 0)), "cumsum"),
    "differences": (single(lambda p, x0, y: p[1:] - p[:-1]), "sub"),
    "sum": (single(lambda p, x0, y: p.sum(0)), "reduce_sum"),
    "centred": (single(lambda p, x0, y: p - p.mean(0)), "reduce_sum"),
    "largest": (single(lambda p, x0, y: p.max(0)), "reduce_max"),
    "convolution": (single(lambda p, x0, y: jnp.convolve(p[:, 0], jnp.ones(2))), "conv_general_dilated"),
    "sorted": (single(lambda p, x0, y: jnp.sort(p, 0)), "sort"),
    "against the first": (single(lambda p, x0, y: p - p[0]), "sub"),
    "pairs": (single(lambda p, x0, y: p[:, None, 0] - p[None, :, 0]), "sub"),
    "spline": (single(lambda p, x0, y: jnp.asarray(Y3.T) @ p), "dot_general"),
    "spectrum": (single(lambda p, x0, y: jnp.abs(jnp.fft.rfft(p[:, 0]))), "fft"),
    "loop with state": (loop_with_state, "scan"),
    "joint": (joint_over_time, "triangular_solve"),
}
