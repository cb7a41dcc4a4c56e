"""Small models of many kinds, each with the roles that a reader would give its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan

Y = np.cumsum(np.random.default_rng(4).normal(size=12))
COUNTS = np.random.default_rng(5).poisson(3, size=10)


class Case(NamedTuple):
    """A model and what tracing must find: parameters, initial, innovations, observations of any kind."""

    model: Callable
    args: tuple = ()
    kwargs: dict[str, Any] = {}
    parameters: tuple[str, ...] = ()
    initial: tuple[str, ...] = ()
    innovations: tuple[str, ...] = ()
    observations: tuple[str, ...] = ()


def local_level(y=None, T=12):
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    r = numpyro.sample("r", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x_0", dist.Normal(0, 1))

    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, r), obs=yt)
        return x, x

    return scan(step, x0, y, length=T)


def parameter_in_carry(y):
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    x0 = numpyro.sample("x0", dist.Normal(0, 1))

    def step(carry, yt):
        x, phi = carry
        x = numpyro.sample("x", dist.Normal(phi * x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return (x, phi), None

    scan(step, (x0, phi), y)


def static_seasonal(y, period=4):
    s0 = numpyro.sample("s0", dist.Normal(0, 1).expand([period]).to_event(1))
    level0 = numpyro.sample("level0", dist.Normal(0, 5))

    def step(carry, yt):
        level, season = carry
        level = level + numpyro.sample("shock", dist.Normal(0, 0.3))
        numpyro.sample("y", dist.Normal(level + season[0], 1.0), obs=yt)
        return (level, jnp.roll(season, -1)), None

    scan(step, (level0, s0), y)


def holt_winters(y):
    a = numpyro.sample("a", dist.Beta(2, 2))
    level0 = numpyro.sample("level0", dist.Normal(0, 1))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))

    def step(level, yt):
        numpyro.sample("y", dist.Normal(level, sd), obs=yt)
        return a * yt + (1 - a) * level, None

    scan(step, level0, y)


def lags_from_data(y):
    p = numpyro.sample("p", dist.Normal(0, 0.5).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(carry, t):
        one, two = carry
        x = numpyro.sample("x", dist.Normal(p[0] * one + p[1] * two, s))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y[t])
        return (x, one), None

    scan(step, (y[1], y[0]), jnp.arange(2, y.shape[0]))


def hierarchical_start(y):
    m = numpyro.sample("m", dist.Normal(0, 3))
    x0 = numpyro.sample("x0", dist.Normal(m, 1.0))
    v = numpyro.sample("v", dist.Gamma(2.0, 2.0))
    numpyro.sample("y0", dist.Normal(x0, 1.0), obs=0.3)

    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, v))
        numpyro.sample("y", dist.StudentT(4.0, x, 1.0), obs=yt)
        return x, None

    scan(step, x0, y)


def conditioned(y):
    q = numpyro.sample("q", dist.LogNormal(0.0, 0.3))
    numpyro.sample("known", dist.Normal(q, 1.0), obs=0.5)

    def step(carry, t):
        x = numpyro.sample("x", dist.Normal(carry["x"], q))
        numpyro.deterministic("twice", 2 * x)
        numpyro.sample("y", dist.Normal(x, 1.0))
        return {"x": x, "n": carry["n"] + 1}, None

    with handlers.condition(data={"y": y}):
        scan(step, {"x": 0.0, "n": 0}, jnp.arange(y.shape[0]))
    numpyro.sample("after", dist.Normal(0, 1))


def masked_and_scaled(y, seen):
    x0 = numpyro.sample("x0", dist.Exponential(1.0))

    def step(x, inputs):
        yt, ok = inputs
        with handlers.scale(scale=0.5):
            e = numpyro.sample("e", dist.Laplace(0.0, 1.0))
        x = 0.9 * x + e
        with handlers.mask(mask=ok):
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        numpyro.factor("soft", -0.01 * x**2)
        return x, None

    scan(step, x0, (y, seen))


def switching(y):
    stay = numpyro.sample("stay", dist.Beta(8, 2))
    z0 = numpyro.sample("z0", dist.Bernoulli(0.5))

    def step(z, yt):
        z = numpyro.sample("z", dist.Bernoulli(jnp.where(z == 1, stay, 1 - stay)))
        k = numpyro.sample("k", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("y", dist.Normal(2.0 * z + 0.1 * k, 1.0), obs=yt)
        return z, None

    scan(step, z0, y)


def vectors(y, X):
    cov = jnp.array([[1.0, 0.3], [0.3, 0.5]])
    sd = numpyro.sample("sd", dist.LogNormal(jnp.zeros(2), 0.2).to_event(1))
    x0 = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(2), cov))

    def step(carry, inputs):
        (x, _), (yt, row) = carry, inputs
        x = numpyro.sample("x", dist.MultivariateNormal(0.8 * x + row, covariance_matrix=cov))
        with numpyro.plate("series", 2):
            g = numpyro.sample("g", dist.Gamma(3.0, jnp.array([1.0, 2.0])))
            numpyro.sample("y", dist.Normal(x * g, sd), obs=yt)
        return [x, None], x.sum()

    scan(step, [x0, None], (y, X))


def growth(cases):
    beta = numpyro.sample("beta", dist.LogNormal(-0.3, 0.3))

    def day(state, y):
        new = numpyro.sample("new", dist.Binomial(state["S"], probs=1 - jnp.exp(-beta * state["I"] / 200)))
        numpyro.deterministic("I", state["I"] + new)
        numpyro.sample("cases", dist.Poisson(new + 0.1), obs=y)
        return {"S": state["S"] - new, "I": state["I"] + new}, None

    scan(day, {"S": jnp.array(190), "I": jnp.array(10)}, cases)


def after_the_loop(y):
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0, 1))
    _, x = scan(lambda x, _: (numpyro.sample("x", dist.Normal(x, s)),) * 2, x0, None, length=y.shape[0])
    r = numpyro.sample("r", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(numpyro.deterministic("mean", 2 * x), r), obs=y)


def adstock_then_loop(y, spend):
    keep = numpyro.sample("keep", dist.Beta(2, 2))
    _, stock = scan(lambda a, s: (keep * a + s,) * 2, 0.0, spend)
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))

    def step(base, inputs):
        yt, effect = inputs
        base = numpyro.sample("base", dist.Normal(base, 0.1))
        numpyro.sample("y", dist.Normal(base + effect, sd), obs=yt)
        return base, None

    scan(step, 1, (y, stock))


def named_by_index(y):
    def step(x, t):
        x = numpyro.sample(f"x_{t}", dist.Normal(x, 1.0))
        numpyro.sample(f"y_{t}", dist.Normal(x, 1.0), obs=y[t])
        return x, None

    scan(step, 0.0, jnp.arange(y.shape[0]))


def sample_shapes(y):
    x0 = numpyro.sample("x0", dist.Normal(0, 1), sample_shape=(3,))

    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=yt)
        return x, None

    scan(step, x0, y)


_Y2 = np.random.default_rng(6).normal(size=(7, 2))
CASES = {
    "local_level": Case(local_level, (Y,), {}, ("q", "r"), ("x_0",), ("x",), ("y",)),
    "parameter_in_carry": Case(parameter_in_carry, (Y,), {}, ("phi",), ("x0",), ("x",), ("y",)),
    "static_seasonal": Case(static_seasonal, (Y,), {}, ("s0",), ("level0",), ("shock",), ("y",)),
    "holt_winters": Case(holt_winters, (Y,), {}, ("a", "level0", "sd"), (), (), ("y",)),
    "lags_from_data": Case(lags_from_data, (Y,), {}, ("p", "s"), (), ("x",), ("y",)),
    "hierarchical_start": Case(hierarchical_start, (Y,), {}, ("m", "v"), ("x0",), ("x",), ("y0", "y")),
    "conditioned": Case(conditioned, (Y,), {}, ("q", "after"), (), ("x",), ("y",)),
    "masked_and_scaled": Case(masked_and_scaled, (Y, Y > 0), {}, (), ("x0",), ("e",), ("y", "soft")),
    "switching": Case(switching, (Y,), {}, ("stay",), ("z0",), ("z", "k"), ("y",)),
    "vectors": Case(vectors, (_Y2, 0.1 * _Y2), {}, ("sd",), ("x0",), ("x", "g"), ("y",)),
    "growth": Case(growth, (COUNTS,), {}, ("beta",), (), ("new",), ("cases",)),
    "after_the_loop": Case(after_the_loop, (Y,), {}, ("s", "r"), ("x0",), ("x",), ("y",)),
    "adstock_then_loop": Case(adstock_then_loop, (Y, np.abs(Y)), {}, ("keep", "sd"), (), ("base",), ("y",)),
    "named_by_index": Case(named_by_index, (Y,), {}, (), (), ("x",), ("y",)),
    "sample_shapes": Case(sample_shapes, (Y,), {}, (), ("x0",), ("x",), ("y",)),
}


# ---- one source of error, and its forecasts --------------------------------------------------------


def smoothed():
    """Simple exponential smoothing: the parameters, and the step from an error to the next level."""
    alpha = numpyro.sample("alpha", dist.Beta(2.0, 2.0))
    level = numpyro.sample("level", dist.Normal(0.0, 1.0))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    return alpha, level, sd


def one_source_of_error(y, future=0):
    """The loop goes on beyond the data, where the observation is drawn."""
    alpha, level, sd = smoothed()

    def transition(level, _):
        y = numpyro.sample("y", dist.Normal(level, sd))
        return level + alpha * (y - level), None

    with handlers.condition(data={"y": y}):
        scan(transition, level, jnp.arange(y.shape[0] + future))


def padded_with_nan(y, future=0):
    """The same, the data padded with NaN."""
    alpha, level, sd = smoothed()

    def transition(level, y):
        y = numpyro.sample("y", dist.Normal(level, sd), obs=y)
        return level + alpha * (y - level), None

    scan(transition, level, jnp.concatenate([y, jnp.full(future, jnp.nan)]))


def masked_beyond_the_data(y, future=0):
    """The same, what lies beyond the data masked."""
    alpha, level, sd = smoothed()
    steps = jnp.arange(y.shape[0] + future)

    def transition(level, t):
        y_t = numpyro.sample("y", dist.Normal(level, sd), obs=y[jnp.minimum(t, len(y) - 1)], obs_mask=t < len(y))
        return level + alpha * (y_t - level), None

    scan(transition, level, steps)


def with_a_second_scan(y, future=0):
    """The same, the forecast a scan of its own."""
    alpha, level, sd = smoothed()

    def transition(level, y):
        numpyro.sample("y", dist.Normal(level, sd), obs=y)
        return level + alpha * (y - level), None

    def onward(level, _):
        y = numpyro.sample("ahead", dist.Normal(level, sd))
        return level + alpha * (y - level), None

    level, _ = scan(transition, level, y)
    if future:
        scan(onward, level, jnp.arange(future))


def observed_after_the_scan(y, future=0):
    """The same, observed after the loop, the forecast a scan of its own."""
    alpha, level, sd = smoothed()

    def onward(level, _):
        y = numpyro.sample("ahead", dist.Normal(level, sd))
        return level + alpha * (y - level), None

    level, levels = scan(lambda level, y: (level + alpha * (y - level), level), level, y)
    numpyro.sample("y", dist.Normal(levels, sd), obs=y)
    if future:
        scan(onward, level, jnp.arange(future))


SMOOTHING = {
    fn.__name__: fn
    for fn in (
        one_source_of_error,
        padded_with_nan,
        masked_beyond_the_data,
        with_a_second_scan,
        observed_after_the_scan,
    )
}
