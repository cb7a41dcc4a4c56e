"""Missing values on every engine, against Kalman filters that know them.  Run on demand:

    python -m tests.inference.missing

Two models with 20 % of their values missing: an AR(2) that feeds its own observed values back, so that a missing one
is an unknown that later ones depend on; and two series around one level, of which single coordinates are missing.
One parameter is unknown, its posterior is computed on a grid from the likelihood of dense normal algebra in float64,
and the posterior mean and standard deviation of each engine are compared with it; so are the filter's log likelihood
at a point, the smoothed states, and TemperedSMC's log evidence with the integral over the grid.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp
from scipy.stats import lognorm

import ssmscan
from ssmscan import containers
from tests.truth import LinearGaussian, linear_gaussian, z_threshold

T, MISSING = 40, 0.2
RNG = np.random.default_rng(20)
GRID = np.exp(np.linspace(np.log(0.05), np.log(6.0), 400))
SHARE = 0.1
"""Largest error of an approximation, in posterior standard deviations, that the tests must see."""


def feedback(y):
    """AR(2) of the observed values themselves."""
    q = numpyro.sample("q", dist.LogNormal(0.0, 0.5))

    def transition(lags, y):
        y = numpyro.sample("y", dist.Normal(0.9 * lags[0] - 0.4 * lags[1], q), obs=y)
        return (y, lags[0]), None

    scan(transition, (0.0, 0.0), y)


def bivariate(y):
    """Two series with correlated noise around a common level."""
    q = numpyro.sample("q", dist.LogNormal(0.0, 0.5))
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(0.9 * x, q))
        mean = x * jnp.array([1.0, 0.5])
        numpyro.sample("y", dist.MultivariateNormal(mean, jnp.array([[0.5, 0.2], [0.2, 0.4]])), obs=y)
        return x, None

    scan(transition, x0, y)


def feedback_truth(q):
    """Companion form; what is missing is a state without noise."""
    matrix = np.array([[0.9, -0.4], [1.0, 0.0]])
    noise = np.diag([q**2, 0.0])
    return LinearGaussian(np.zeros(2), noise, matrix, noise, np.array([[1.0, 0.0]]), np.zeros((1, 1)))


def bivariate_truth(q):
    """The first state is one step after x0."""
    return LinearGaussian(
        np.zeros(1),
        np.array([[0.81 + q**2]]),
        np.array([[0.9]]),
        np.array([[q**2]]),
        np.array([[1.0], [0.5]]),
        np.array([[0.5, 0.2], [0.2, 0.4]]),
    )


class Case(NamedTuple):
    """A model, its truth as a function of q, its data as the truth sees them, and the state to compare."""

    model: Callable
    truth: Callable
    y: np.ndarray
    state: str


def make_cases() -> dict[str, Case]:
    lags, series = [0.0, 0.0], []
    for _ in range(T):
        lags = [0.9 * lags[0] - 0.4 * lags[1] + RNG.normal(), lags[0]]
        series.append(lags[0])
    one = np.where(RNG.random(T) < MISSING, np.nan, series)[:, None]
    x, pairs = 0.0, []
    for _ in range(T):
        x = 0.9 * x + RNG.normal()
        pairs.append(x * np.array([1.0, 0.5]) + RNG.multivariate_normal([0, 0], [[0.5, 0.2], [0.2, 0.4]]))
    two = np.where(RNG.random((T, 2)) < MISSING, np.nan, pairs)
    return {
        "AR(2), fed back": Case(feedback, feedback_truth, one, "y_missing"),
        "two series": Case(bivariate, bivariate_truth, two, "x"),
    }


class Posterior(NamedTuple):
    """On the grid: log evidence, mean and sd of q, and smoothed mean (T, d) of the states."""

    log_evidence: float
    mean: float
    sd: float
    smoothed: np.ndarray


def posterior(case: Case) -> Posterior:
    found = [linear_gaussian(case.truth(q), case.y) for q in GRID]
    log = np.array([one.log_likelihood for one in found]) + lognorm(0.5).logpdf(GRID) + np.log(np.gradient(GRID))
    weights = np.exp(log - logsumexp(log))
    mean = weights @ GRID
    smoothed = np.einsum("g,gtd->td", weights, [one.smoothed_mean for one in found])
    return Posterior(float(logsumexp(log)), float(mean), float(np.sqrt(weights @ (GRID - mean) ** 2)), smoothed)


ENGINES = {
    "NUTS": ssmscan.NUTS(num_warmup=1000, num_samples=4000, num_chains=4),
    "PMMH": ssmscan.PMMH(num_warmup=2000, num_samples=12000, num_chains=4, num_paths=3000),
    "TemperedSMC": ssmscan.TemperedSMC(),
}


def check(name: str, case: Case) -> Iterator[bool]:
    """Print every comparison; say whether it passed."""
    y = case.y[:, 0] if case.y.shape[1] == 1 else case.y
    ssm = ssmscan.trace(case.model, y)
    print(f"\n{name}: {int(np.isnan(case.y).sum())} of {case.y.size} values missing\n{ssm}")
    exact, limit = posterior(case), z_threshold(14)
    at_one = linear_gaussian(case.truth(1.0), case.y).log_likelihood
    keys = jax.random.split(jax.random.key(0), 64)
    run = jax.jit(jax.vmap(lambda key: ssmscan.log_likelihood(key, ssm, {"q": 1.0}, num_particles=2000)))
    ratio = np.exp(np.asarray(run(keys), float) - at_one)
    z = (ratio.mean() - 1) / (ratio.std(ddof=1) / 8)
    print(f"filter at q = 1: log likelihood {at_one:.4f}, mean ratio {ratio.mean():.4f}, z = {z:.2f}")
    yield abs(z) < limit
    print(f"exact: mean {exact.mean:.4f}, sd {exact.sd:.4f}, log evidence {exact.log_evidence:.4f}")
    for engine, settings in ENGINES.items():
        result = settings.run(jax.random.key(0), ssm)
        q, runs = np.asarray(result.draws["q"], float), result.independent_runs
        error = q.mean(1).std(ddof=1) / np.sqrt(len(q)) if runs else q.std() / np.sqrt(containers.ess(q, "mean"))
        spread = (q - q.mean()) ** 2
        z = (q.mean() - exact.mean) / error
        ratio = np.sqrt(spread.mean()) / exact.sd
        states = np.asarray(result.states[case.state], float).mean((0, 1)).reshape(T, -1)[:, 0]
        gone = np.isnan(case.y[:, 0]) if case.state == "y_missing" else np.ones(T, bool)
        worst = np.abs(states - exact.smoothed[:, 0])[gone].max()
        print(
            f"{engine:12} mean {q.mean():.4f} (z = {z:.2f}, MCSE {error / exact.sd:.3f} sd), sd ratio {ratio:.3f}, "
            f"largest difference of a smoothed mean {worst:.3f}"
        )
        yield abs(z) < limit and error < SHARE * exact.sd and abs(ratio - 1) < 0.15
        if result.log_evidence is not None:
            z = (result.log_evidence - exact.log_evidence) / result.log_evidence_error
            print(f"{'':12} log evidence {result.log_evidence:.4f} +- {result.log_evidence_error:.4f} (z = {z:.2f})")
            yield abs(z) < limit


if __name__ == "__main__":
    passed = [ok for name, case in make_cases().items() for ok in check(name, case)]
    print(f"\n{sum(passed)} of {len(passed)} passed: {'PASS' if all(passed) else 'FAIL'}")
    sys.exit(not all(passed))
