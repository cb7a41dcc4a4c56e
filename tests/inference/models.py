"""Small models for the samplers, and the posterior of the linear one from dense linear algebra."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy import stats

from tests.truth import LinearGaussian
from tests.truth import linear_gaussian as solve

NOISE = 0.5
Y = np.array([0.3, -0.2, 0.7, 1.4, 0.9, 1.6, 0.4, -0.6, -1.1, -0.3, 0.2, 1.0])


def linear_gaussian(y):
    """x_0 ~ N(0, 1), x_t = rho x_{t-1} + q e_t, y_t = x_t + 0.5 v_t; rho and q unknown."""
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))
    q = numpyro.sample("q", dist.LogNormal(-0.5, 0.5))
    x_0 = numpyro.sample("x_0", dist.Normal(0.0, 1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(rho * x, q))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=y)
        return x, None

    scan(transition, x_0, y)


def decaying(y):
    """A level that remembers all its draws, each by less and less, which gradient engines cannot take."""
    p = numpyro.sample("p", dist.Beta(2.0, 2.0))

    def transition(level, y):
        level = p * level + numpyro.sample("s", dist.Bernoulli(p))
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y)
        return level, None

    scan(transition, 0.0, y)


def switching(y):
    """A discrete state, which gradient engines sum out."""
    p = numpyro.sample("p", dist.Beta(2.0, 2.0))

    def transition(s, y):
        s = numpyro.sample("s", dist.Bernoulli(jnp.where(s == 1, p, 1.0 - p)))
        numpyro.sample("y", dist.Normal(2.0 * s, 1.0), obs=y)
        return s, None

    scan(transition, 0, y)


def stochastic_volatility(y):
    """The `log_sp500_small` model of inference-gym: y_t ~ N(0, exp(h_t)), h stationary, h_1 the first."""
    mu = numpyro.sample("mu", dist.Cauchy(0.0, 5.0))
    b = numpyro.sample("b", dist.Beta(20.0, 1.5))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.0))
    phi = 2.0 * b - 1.0
    h_1 = numpyro.sample("h_1", dist.Normal(mu, sigma / jnp.sqrt(1.0 - phi**2)))
    numpyro.sample("y_1", dist.Normal(0.0, jnp.exp(h_1 / 2.0)), obs=y[0])

    def transition(h, y):
        h = numpyro.sample("h", dist.Normal(mu + phi * (h - mu), sigma))
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2.0)), obs=y)
        return h, None

    scan(transition, h_1, y[1:])


def structural(y, wide=100.0):
    """A local level and a monthly pattern whose eleven starts are unknown, as `bsts` has it."""
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    q_level = numpyro.sample("q_level", dist.HalfNormal(0.5))
    q_season = numpyro.sample("q_season", dist.HalfNormal(0.5))
    level_0 = numpyro.sample("level_0", dist.Normal(0.0, wide))
    with numpyro.plate("months", 11):
        season_0 = numpyro.sample("season_0", dist.Normal(0.0, wide))

    def transition(carry, y):
        level, season = carry
        level = numpyro.sample("level", dist.Normal(level, q_level))
        now = numpyro.sample("season", dist.Normal(-season.sum(), q_season))
        numpyro.sample("y", dist.Normal(level + now, noise), obs=y)
        return (level, jnp.concatenate([now[None], season[:-1]])), None

    scan(transition, (level_0, season_0), y)


def impossible(y):
    """Data that no parameter explains."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, scale))
        numpyro.factor("never", jnp.where(x < 1e30, -jnp.inf, 0.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(transition, 0.0, y)


class LinearPosterior(NamedTuple):
    """Log evidence, and posterior means of rho, q, log q and of the states x_1..x_T."""

    log_evidence: float
    rho: float
    q: float
    states: np.ndarray


def linear_posterior(y: np.ndarray) -> LinearPosterior:
    """Integrate over rho and log q by sums on a regular grid; each likelihood is exact."""
    rho = (np.arange(24) + 0.5) / 24
    log_q = np.linspace(-0.5 - 6 * 0.5, -0.5 + 6 * 0.5, 25)
    answers = [
        [solve(LinearGaussian.scalar(0.0, r**2 + q**2, r, q**2, 1.0, NOISE**2), y[:, None]) for q in np.exp(log_q)]
        for r in rho
    ]
    log_joint = np.array([[answer.log_likelihood for answer in row] for row in answers])
    log_joint += stats.norm.logpdf(log_q, -0.5, 0.5)
    cell = (log_q[1] - log_q[0]) / len(rho)
    peak = log_joint.max()
    mass = np.exp(log_joint - peak)
    log_evidence = peak + np.log(mass.sum() * cell)
    mass /= mass.sum()
    states = np.einsum("ij,ijt->t", mass, [[answer.smoothed_mean[:, 0] for answer in row] for row in answers])
    return LinearPosterior(float(log_evidence), float(mass.sum(1) @ rho), float(mass.sum(0) @ np.exp(log_q)), states)
