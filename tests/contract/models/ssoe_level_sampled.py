"""Innovations form (single source of error) whose level is sampled: its innovation enters a deterministic damped trend
and a seasonal buffer; the mean is a Delta site, a regulariser the log-density of another; data by `condition`, and a
loop that is longer than they are for the forecast.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan


def _innovations_form(y, period, future, damp):
    alpha = numpyro.sample("alpha", dist.HalfNormal(0.5))
    beta = numpyro.sample("beta", dist.Beta(2, 8))
    gamma = numpyro.sample("gamma", dist.Beta(2, 8))
    phi = numpyro.sample("phi", dist.Uniform(0.8, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    level0 = numpyro.sample("level0", dist.Normal(y[0], 1.0))
    trend0 = numpyro.sample("trend0", dist.Normal(0.0, 0.1))
    with numpyro.plate("seasons", period):
        season0 = numpyro.sample("season0", dist.Normal(0.0, 0.5))

    def step(carry, t):
        level, trend, season = carry
        expected = level + phi * trend
        new = numpyro.sample("level", dist.Normal(expected, alpha))
        error = new - expected
        trend = phi * trend + beta * error
        damp(trend, -0.5 * trend**2)
        mean = numpyro.sample("mean", dist.Delta(new + season[0]))
        numpyro.sample("y", dist.Normal(mean, sigma))
        return (new, trend, jnp.roll(season, -1).at[-1].add(gamma * error)), mean

    with handlers.condition(data={"y": y}):
        _, means = scan(step, (level0, trend0, season0), jnp.arange(len(y) + future))
    if future:
        numpyro.deterministic("forecast", means[-future:])


def model(y, period, future=0):
    def damp(trend, log_density):
        numpyro.sample("damping", dist.Delta(trend, log_density=log_density))

    _innovations_form(y, period, future, damp)


def twin(y, period, future=0):
    """The same with the log-density of the Delta as a factor, which counts as observed."""
    _innovations_form(y, period, future, lambda trend, log_density: numpyro.factor("damping", log_density))


_r = np.random.default_rng(33)
_t = np.arange(7)
model_args = (jnp.asarray(0.4 * np.sin(2 * np.pi * _t / 4) + 0.1 * _t + 0.2 * _r.normal(size=7)), 4)
model_kwargs = {}
predict_kwargs = dict(future=6)
OBS = ["y", "damping_log_density"]
LATENT_IN_SCAN = ["level"]
