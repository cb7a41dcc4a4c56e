"""NumPyro models with known likelihood, their data and parameters: what the long tests filter.

Exact values in float64: Kalman here, a point-mass filter in `tests/test_truth.py` for the other two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import StateSpaceModel, datasets
from tests.truth import LinearGaussian, linear_gaussian


class Known(NamedTuple):
    """A traced model, the parameters to filter it at, and its log likelihood there."""

    ssm: StateSpaceModel
    theta: Mapping[str, float]
    log_likelihood: float


def autoregression(y):
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    sx = numpyro.sample("sx", dist.HalfNormal(1))
    sy = numpyro.sample("sy", dist.HalfNormal(1))
    start = numpyro.sample("x0", dist.Normal(0, sx / jnp.sqrt(1 - rho**2)))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(rho * x, sx))
        numpyro.sample("y", dist.Normal(x, sy), obs=y)
        return x, x

    scan(transition, start, y)


def local_level(y):
    """Nile: the first observation is of the first level."""
    sd_y = numpyro.sample("sd_y", dist.HalfNormal(200))
    sd_level = numpyro.sample("sd_level", dist.HalfNormal(100))
    start = numpyro.sample("x1", dist.Normal(1000, 500))
    numpyro.sample("y1", dist.Normal(start, sd_y), obs=y[0])

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, sd_level))
        numpyro.sample("y", dist.Normal(x, sd_y), obs=y)
        return x, x

    scan(transition, start, y[1:])


def stochastic_volatility(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    start = numpyro.sample("x0", dist.Normal(mu, sigma / jnp.sqrt(1 - rho**2)))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(mu + rho * (x - mu), sigma))
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(x / 2)), obs=y)
        return x, x

    scan(transition, start, y)


def nonlinear(y):
    """The benchmark of Gordon, Salmond & Smith (1993), n = 1, ..., T."""
    var_x = numpyro.sample("var_x", dist.HalfNormal(20))
    start = numpyro.sample("x0", dist.Normal(0, jnp.sqrt(5.0)))
    first = y[0]
    numpyro.sample("y1", dist.Normal(start**2 / 20, jnp.sqrt(10.0)), obs=first)

    def transition(x, inputs):
        n, y = inputs
        mean = x / 2 + 25 * x / (1 + x**2) + 8 * jnp.cos(1.2 * n)
        x = numpyro.sample("x", dist.Normal(mean, jnp.sqrt(var_x)))
        numpyro.sample("y", dist.Normal(x**2 / 20, jnp.sqrt(10.0)), obs=y)
        return x, x

    scan(transition, start, (jnp.arange(2.0, len(y) + 1), y[1:]))


def small_autoregression() -> Known:
    """Ten steps, so noisy that sixteen particles never resampled have sd(log Z_hat) below 1/2."""
    theta = {"rho": 0.5, "sx": 0.5, "sy": 1.6}
    z = np.random.RandomState(0).standard_normal((10, 2))
    x, y = 0.5 * z[0, 0] / np.sqrt(0.75), []
    for t in range(10):
        x = 0.5 * x + 0.5 * z[t, 0] if t else x
        y.append(x + 1.6 * z[t, 1])
    truth = linear_gaussian(LinearGaussian.scalar(0, 0.25 / 0.75, 0.5, 0.25, 1, 1.6**2), np.array(y)[:, None])
    return Known(ssmscan.trace(autoregression, jnp.asarray(y, float)), theta, truth.log_likelihood)


def nile() -> Known:
    """Yearly flow of the Nile, 1871-1970."""
    y = datasets.nile().values
    truth = linear_gaussian(LinearGaussian.scalar(1000, 500**2, 1, 1469.1, 1, 15098.5), y[:, None])
    theta = {"sd_y": 15098.5**0.5, "sd_level": 1469.1**0.5}
    return Known(ssmscan.trace(local_level, jnp.asarray(y, float)), theta, truth.log_likelihood)


def gbpusd() -> Known:
    """Daily returns of pounds per US dollar, 750 of them."""
    y = datasets.gbpusd().values
    theta = {"mu": -1.02, "rho": 0.9702, "sigma": 0.178}
    return Known(ssmscan.trace(stochastic_volatility, jnp.asarray(y, float)), theta, -492.45424262228)


def nonlinear_benchmark() -> Known:
    """One hundred simulated steps."""
    z = np.random.RandomState(0).standard_normal((100, 2))
    x, y = np.sqrt(5) * z[0, 0], np.empty(100)
    for t in range(100):
        x = x / 2 + 25 * x / (1 + x**2) + 8 * np.cos(1.2 * (t + 1)) + np.sqrt(10) * z[t, 0] if t > 0 else x
        y[t] = x**2 / 20 + np.sqrt(10) * z[t, 1]
    return Known(ssmscan.trace(nonlinear, jnp.asarray(y, float)), {"var_x": 10.0}, -310.0963727572)
