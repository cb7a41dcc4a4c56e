"""Models whose states given all data have several modes, and some of which the states have one; data of fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan

T = 100


def kitagawa(y):
    """The benchmark of Kitagawa (1987): of the state little more than its square is seen."""
    q = numpyro.sample("q", dist.HalfNormal(10.0))
    r = numpyro.sample("r", dist.HalfNormal(10.0))
    first = numpyro.sample("first", dist.Normal(0.0, 5**0.5))
    numpyro.sample("y_first", dist.Normal(first**2 / 20, r), obs=y[0])

    def transition(x, inputs):
        y, n = inputs
        x = numpyro.sample("x", dist.Normal(x / 2 + 25 * x / (1 + x**2) + 8 * jnp.cos(1.2 * n), q))
        numpyro.sample("y", dist.Normal(x**2 / 20, r), obs=y)
        return x, None

    scan(transition, first, (y[1:], jnp.arange(2.0, len(y) + 1)))


def observed(law: Callable) -> Callable:
    """Return a stationary autoregression that is observed by law(x, r)."""

    def model(y):
        rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))
        q = numpyro.sample("q", dist.HalfNormal(1.0))
        r = numpyro.sample("r", dist.HalfNormal(1.0))
        first = numpyro.sample("first", dist.Normal(0.0, q / jnp.sqrt(1 - rho**2)))

        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(rho * x, q))
            numpyro.sample("y", law(x, r), obs=y)
            return x, None

        scan(transition, first, y)

    return model


def double_well(y):
    """A state that stays near -1 or 1, seen faintly."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    r = numpyro.sample("r", dist.HalfNormal(1.0))
    first = numpyro.sample("first", dist.Normal(0.0, 1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x + 0.2 * (x - x**3 / (1 + 0.05 * x**2)), q))
        numpyro.sample("y", dist.Normal(x, r), obs=y)
        return x, None

    scan(transition, first, y)


def far_apart(y):
    """A level of unknown sign that never comes near zero."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    first = numpyro.sample("first", dist.Normal(0.0, 3.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(jnp.abs(x), 0.5), obs=y)
        return x, None

    scan(transition, first, y)


def _autoregressive(seed: int, num_steps: int, rho: float, q: float) -> tuple[np.ndarray, Any]:
    rng = np.random.default_rng(seed)
    x, path = rng.normal() * q / np.sqrt(1 - rho**2), np.zeros(num_steps)
    for t in range(num_steps):
        path[t] = x = rho * x + q * rng.normal()
    return path, rng


Case = tuple[Any, dict[str, float]]


def _kitagawa() -> Case:
    z = np.random.RandomState(0).standard_normal((T, 2))
    x, y = np.zeros(T), np.zeros(T)
    for t in range(T):
        before = x[t - 1]
        mean = before / 2 + 25 * before / (1 + before**2) + 8 * np.cos(1.2 * (t + 1))
        x[t] = 5**0.5 * z[t, 0] if t == 0 else mean + 10**0.5 * z[t, 0]
        y[t] = x[t] ** 2 / 20 + 10**0.5 * z[t, 1]
    return ssmscan.trace(kitagawa, y), {"q": 10**0.5, "r": 10**0.5}


def _square() -> Case:
    path, rng = _autoregressive(0, T, 0.9, 2.0)
    model = observed(lambda x, r: dist.Normal(x**2 / 20, r))
    return ssmscan.trace(model, path**2 / 20 + rng.normal(size=T)), {"rho": 0.9, "q": 2.0, "r": 1.0}


def _absolute() -> Case:
    path, rng = _autoregressive(0, T, 0.9, 1.0)
    model = observed(lambda x, r: dist.Normal(jnp.abs(x), r))
    return ssmscan.trace(model, np.abs(path) + 0.3 * rng.normal(size=T)), {"rho": 0.9, "q": 1.0, "r": 0.3}


def _double_well() -> Case:
    rng, x, y = np.random.default_rng(0), 0.5, np.zeros(T)
    for t in range(T):
        x = x + 0.2 * (x - x**3 / (1 + 0.05 * x * x)) + 0.3 * rng.normal()
        y[t] = x + 1.5 * rng.normal()
    return ssmscan.trace(double_well, y), {"q": 0.3, "r": 1.5}


def _far_apart() -> Case:
    rng = np.random.default_rng(0)
    y = 4.0 + np.cumsum(0.05 * rng.normal(size=T)) + 0.5 * rng.normal(size=T)
    return ssmscan.trace(far_apart, y), {"q": 0.05}


def _student() -> Case:
    path, rng = _autoregressive(0, 200, 0.95, 0.3)
    model = observed(lambda x, r: dist.StudentT(3.0, x, r))
    return ssmscan.trace(model, path + 0.5 * rng.standard_t(3, 200)), {"rho": 0.95, "q": 0.3, "r": 0.5}


def _counts() -> Case:
    path, rng = _autoregressive(0, 200, 0.95, 0.3)
    model = observed(lambda x, r: dist.Poisson(jnp.exp(1 + x)))
    return ssmscan.trace(model, rng.poisson(np.exp(1 + path)).astype(float)), {"rho": 0.95, "q": 0.3, "r": 0.5}


def _binomial() -> Case:
    path, rng = _autoregressive(0, 300, 0.99, 0.3)
    y = rng.binomial(50, 1 / (1 + np.exp(3 - path))).astype(float)
    model = observed(lambda x, r: dist.BinomialLogits(x - 3.0, 50))
    return ssmscan.trace(model, y), {"rho": 0.99, "q": 0.3, "r": 0.5}


def _linear() -> Case:
    path, rng = _autoregressive(0, 100, 0.9, 1.0)
    return ssmscan.trace(observed(dist.Normal), path + 0.2 * rng.normal(size=100)), {"rho": 0.9, "q": 1.0, "r": 0.2}


SEVERAL_MODES: dict[str, Callable[[], Case]] = {
    "kitagawa": _kitagawa,
    "square": _square,
    "absolute value": _absolute,
    "double well": _double_well,
    "far apart": _far_apart,
}
"""By name what makes a model whose states have several modes, and parameters."""

ONE_MODE: dict[str, Callable[[], Case]] = {
    "student": _student,
    "counts": _counts,
    "binomial": _binomial,
    "linear": _linear,
}
"""The same of models whose states have one."""
