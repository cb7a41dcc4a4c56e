"""Models in the styles that people write, each a small function with parameters at which its likelihood is known.

A style is a function of its options that returns a `Case`.  The likelihood comes from NumPyro's density of the model
as it was written and nothing of the package: by Laplace's formula where the model is linear and Gaussian, by adding
up all values of the discrete sites, or, where no state is drawn, as it stands; else by forward runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.contrib.control_flow import scan

STEPS = 6
RNG = np.random.default_rng(1)
Y = RNG.normal(size=STEPS).cumsum()
X = RNG.normal(size=STEPS)
COUNTS = RNG.poisson(3.0, size=STEPS)
BOTH = RNG.normal(size=(STEPS, 2)).cumsum(0)
Q, R = 0.8, 0.6


class Case(NamedTuple):
    """One model: its arguments, parameters, and how its likelihood is known.

    Attributes:
        name: style and options.
        model, args: the model and what it is called with.
        theta: every parameter; all other latent sites are states.
        truth: "gauss", "sum", "none" or "runs", see above.
        discrete: number of values of each discrete site, for "sum".
        twin: the same model in words that NumPyro runs forward, if it does not run this one.
    """

    name: str
    model: Callable
    args: tuple
    theta: dict[str, Any]
    truth: str
    discrete: dict[str, int] = {}
    twin: Callable | None = None


def sigma() -> jax.Array:
    return numpyro.sample("q", dist.HalfNormal(1.0))


THETA = {"q": Q}


def moved(loop: str, where: str, noise: str, see: str) -> Case:
    """Innovations that the user has drawn before the loop."""

    def draw(q, size):
        scale = q if noise == "scaled" else 1.0
        if where == "plate":
            with numpyro.plate("time", size):
                return numpyro.sample("e", dist.Normal(0.0, scale))
        if where == "expand":
            return numpyro.sample("e", dist.Normal(0.0, scale).expand([size]))
        if where == "event":
            return numpyro.sample("e", dist.Normal(0.0, scale).expand([size]).to_event(1))
        return numpyro.sample("e", dist.Normal(jnp.zeros(size), scale))

    def model(y):
        q = sigma()
        e = draw(q, len(y))
        e = e if noise == "scaled" else q * e

        def step(x, v):
            x = 0.9 * x + v
            return x, x

        def seen(x, inputs):
            v, yt = inputs
            x = 0.9 * x + v
            numpyro.sample("y", dist.Normal(x, R), obs=yt)
            return x, x

        if see == "inside":
            scan(seen, 0.0, (e, y))
            return
        path = {
            "scan": lambda: scan(step, 0.0, e)[1],
            "lax": lambda: lax.scan(step, 0.0, e)[1],
            "cumsum": lambda: jnp.cumsum(e),
            "named": lambda: numpyro.deterministic("x", lax.scan(step, jnp.zeros(()), e)[1]),
        }[loop]()
        if see == "plate":
            with numpyro.plate("obs", len(y)):
                numpyro.sample("y", dist.Normal(path, R), obs=y)
        else:
            numpyro.sample("y", dist.Normal(path, R), obs=y)

    return Case(f"moved {loop} {where} {noise} {see}", model, (jnp.asarray(Y),), THETA, "gauss")


def moved_with_start(kind: str) -> Case:
    """The same with a start, several noises, elements, or other uses of the noise."""

    def model(y):
        q, size = sigma(), len(y)
        if kind == "start":
            x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
            e = numpyro.sample("e", dist.Normal(0.0, 1.0).expand([size]))
            _, path = scan(lambda x, v: (x + q * v,) * 2, x0, e)
        elif kind == "two":
            e = numpyro.sample("e", dist.Normal(0.0, 1.0).expand([size]))
            d = numpyro.sample("d", dist.Normal(0.0, 0.1).expand([size]))

            def step(carry, v):
                level, slope = carry
                slope = slope + v[1]
                level = level + slope + q * v[0]
                return (level, slope), level

            _, path = lax.scan(step, (jnp.zeros(()), jnp.zeros(())), (e, d))
        elif kind == "one tree":
            e = numpyro.sample("e", dist.Normal(jnp.zeros((size, 2)), jnp.array([1.0, 0.1])).to_event(1))

            def both(carry, v):
                level, slope = carry
                return (level + slope + q * v[0], slope + v[1]), level

            _, path = scan(both, (0.0, 0.0), e)
        elif kind == "used twice":
            e = numpyro.sample("e", dist.Normal(0.0, 1.0).expand([size]))
            _, path = scan(lambda x, v: (x + q * v,) * 2, 0.0, e)
            path = path + 0.1 * e
        elif kind == "summed":
            e = numpyro.sample("e", dist.Normal(0.0, 1.0).expand([size]))
            path = q * jnp.cumsum(e - e.mean())
        elif kind == "reversed":
            e = numpyro.sample("e", dist.Normal(0.0, 1.0).expand([size]))
            _, path = scan(lambda x, v: (x + q * v,) * 2, 0.0, e[::-1])
        elif kind == "shorter":
            e = numpyro.sample("e", dist.Normal(0.0, 1.0).expand([size - 1]))
            _, path = scan(lambda x, v: (x + q * v,) * 2, 0.0, e)
            path = jnp.concatenate([jnp.zeros(1), path])
        elif kind == "indexed":
            e = numpyro.sample("e", dist.Normal(0.0, 1.0).expand([size]))
            _, path = scan(lambda x, t: (x + q * e[t],) * 2, 0.0, jnp.arange(size))
        elif kind == "chain":
            e = numpyro.sample("e", dist.GaussianRandomWalk(1.0, size))
            path = q * e
        elif kind == "hyper":
            m = numpyro.sample("m", dist.Normal(0.0, 1.0))
            e = numpyro.sample("e", dist.Normal(m, 1.0).expand([size]))
            path = q * jnp.cumsum(e)
        else:
            raise ValueError(kind)
        numpyro.sample("y", dist.Normal(path, R), obs=y)

    theta = THETA | ({"m": 0.3} if kind == "hyper" else {})
    return Case(f"moved noise, {kind}", model, (jnp.asarray(Y),), theta, "gauss")


def moved_panel(axis: str) -> Case:
    """Noise of several series, the time in front or behind."""

    def model(y):
        q = sigma()
        if axis == "front":
            with numpyro.plate("n", 2, dim=-1), numpyro.plate("t", len(y), dim=-2):
                e = numpyro.sample("e", dist.Normal(0.0, 1.0))
            path = lax.scan(lambda x, v: (x + q * v,) * 2, jnp.zeros(2), e)[1]
        else:
            with numpyro.plate("n", 2, dim=-2), numpyro.plate("t", len(y), dim=-1):
                e = numpyro.sample("e", dist.Normal(0.0, 1.0))
            path = jnp.cumsum(q * e, axis=1).T
        numpyro.sample("y", dist.Normal(path, R), obs=y)

    return Case(f"moved panel, time {axis}", model, (jnp.asarray(BOTH),), THETA, "gauss")


def stateless(loop: str, after: str) -> Case:
    """A recursion without noise, and odd code after it."""

    def model(y):
        a = numpyro.sample("a", dist.Beta(2.0, 2.0))

        def step(level, yt):
            new = level + a * (yt - level)
            return new, level

        if loop == "scan":
            last, path = scan(step, y[0], y)
        elif loop == "lax":
            last, path = lax.scan(step, y[0], y)
        elif loop == "for":
            level, path = y[0], []
            for t in range(len(y)):
                level, before = step(level, y[t])
                path.append(before)
            last, path = level, jnp.stack(path)
        else:
            scan(lambda c, yt: (step(c, yt)[0], numpyro.sample("in", dist.Normal(c, 1.0), obs=yt)), y[0], y)
            last, path = lax.scan(step, y[0], y)
        value, data = {
            "rows": lambda: (path, y),
            "last": lambda: (last, y[-1]),
            "index": lambda: (path[3], y[3]),
            "sum": lambda: (path.sum(), y.sum()),
            "mean of rest": lambda: (path[2:].mean() + last, y.mean()),
            "differences": lambda: (jnp.diff(path), jnp.diff(y)),
            "sorted": lambda: (jnp.sort(path), jnp.sort(y)),
            "rolled": lambda: (jnp.roll(path, 1), y),
            "product": lambda: (jnp.cumprod(1 + 0.1 * path), y),
            "matrix": lambda: (path.reshape(2, 3).T @ jnp.array([1.0, 2.0]), y[:3]),
            "residual": lambda: (0.0, y - path),
            "flip": lambda: (path[::-1], y[::-1]),
        }[after]()
        numpyro.sample("y", dist.Normal(value, R), obs=data)

    return Case(f"stateless {loop}, {after}", model, (jnp.asarray(Y),), {"a": 0.4}, "none")


def layout(how: str) -> Case:
    """Rows of the path observed in another layout."""
    at = np.array([0, 2, 3, 5])

    def model(y, x, at_data):
        q = sigma()
        wide = how in ("front", "front event", "matrix", "event time", "flat")
        zero = jnp.zeros(2) if wide else 0.0

        def step(c, _):
            new = numpyro.sample("x", dist.Normal(0.9 * c, q).to_event(1 if wide else 0))
            return new, new

        _, path = scan(step, zero, None, length=STEPS)
        both = jnp.stack([y, y + 1.0], 1)
        value, data, event = {
            "given times": lambda: (path[at], y[at], 0),
            "times in data": lambda: (path[at_data], y[at_data], 0),
            "take": lambda: (jnp.take(path, at_data), y[at], 0),
            "boolean": lambda: (path[np.isin(np.arange(STEPS), at)], y[at], 0),
            "stride": lambda: (path[::2], y[::2], 0),
            "late": lambda: (path[2:], y[2:], 0),
            "reversed": lambda: (path[::-1], y[::-1], 0),
            "twice": lambda: (jnp.concatenate([path, path[1:3]]), jnp.concatenate([y, y[1:3] + 0.1]), 0),
            "repeated": lambda: (jnp.repeat(path, 2), jnp.repeat(y, 2) + jnp.arange(2 * STEPS) * 0.1, 0),
            "outer": lambda: (path[:, None] * jnp.array([1.0, 0.5]), both, 0),
            "front": lambda: (path.T, both.T, 0),
            "front event": lambda: (path.T, both.T, 1),
            "matrix": lambda: (path @ jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), jnp.c_[both, y], 2),
            "event time": lambda: (path, both, 2),
            "flat": lambda: (path.reshape(-1), both.reshape(-1), 1),
            "moveaxis": lambda: (jnp.moveaxis(path[None], 0, 1), y[:, None], 0),
            "permuted": lambda: (path[np.array([3, 0, 1, 5, 4, 2])], y, 0),
            "covariate": lambda: (path + 0.3 * x, y, 0),
            "squeezed": lambda: (jnp.squeeze(path[:, None, None]), y, 1),
            "padded": lambda: (jnp.pad(path, (1, 0)), jnp.concatenate([jnp.zeros(1), y]), 0),
            "where": lambda: (jnp.where(x > 0, path, 0.5 * path), y, 0),
            "multivariate": lambda: (path, y, -1),
        }[how]()
        if event == -1:
            numpyro.sample("y", dist.MultivariateNormal(value, R**2 * jnp.eye(STEPS)), obs=data)
        else:
            numpyro.sample("y", dist.Normal(value, R).to_event(event), obs=data)

    return Case(f"layout {how}", model, (jnp.asarray(Y), jnp.asarray(X), jnp.asarray(at)), THETA, "gauss")


def later_scan(how: str) -> Case:
    """A later scan that observes and reads the path by its own time."""

    def model(y):
        q = sigma()
        _, path = scan(lambda c, _: (numpyro.sample("x", dist.Normal(0.9 * c, q)),) * 2, 0.0, None, length=STEPS)
        if how == "index":
            scan(lambda c, t: (c, numpyro.sample("y", dist.Normal(path[t], R), obs=y[t])), None, jnp.arange(STEPS))
        elif how == "lagged":
            times = jnp.arange(1, STEPS)
            scan(lambda c, t: (c, numpyro.sample("y", dist.Normal(path[t - 1], R), obs=y[t])), None, times)
        elif how == "counter":
            scan(lambda t, v: (t + 1, numpyro.sample("y", dist.Normal(path[t], R), obs=v)), 0, y)
        elif how == "late start":
            scan(lambda t, v: (t + 1, numpyro.sample("y", dist.Normal(path[t], R), obs=v)), 2, y[2:])
        else:
            scan(lambda c, v: (v[1], numpyro.sample("y", dist.Normal(v[0], R), obs=v[1])), 0.0, (path, y))

    return Case(f"later scan {how}", model, (jnp.asarray(Y),), THETA, "gauss")
