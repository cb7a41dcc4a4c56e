"""Short series on which few particles of a bootstrap filter stick, their posteriors on a grid, and exact estimators.

`python -m tests.inference.looking_ahead` prints effective sample sizes of PMMH with eight particles, bootstrap and
looking ahead, beside the same sampler on the likelihood itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy import stats
from numpyro.contrib.control_flow import scan
from scipy.stats import norm, poisson

import ssmscan
from ssmscan.particles.estimators import LikelihoodEstimate, SampledPath
from ssmscan.results.summary import summarise
from tests.truth import LinearGaussian, point_mass_filter
from tests.truth import linear_gaussian as solve

NOISE, T = 0.2, 20
GRID = np.linspace(-8.0, 8.0, 241)
RHO = (np.arange(24) + 0.5) / 24
LOG_Q = np.linspace(-2.0, 2.0, 33)


def autoregression(y, observe):
    """x_0 ~ N(0, 1), x_t = rho x_{t-1} + q e_t; rho and q unknown."""
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))
    q = numpyro.sample("q", dist.LogNormal(0.0, 0.5))
    x_0 = numpyro.sample("x_0", dist.Normal(0.0, 1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(rho * x, q))
        numpyro.sample("y", observe(x), obs=y)
        return x, None

    scan(transition, x_0, y)


def gaussian(x):
    """Return the law of precise observations."""
    return dist.Normal(x, NOISE)


def counts(x):
    """Return the law of counts."""
    return dist.Poisson(jnp.exp(2.0 + x))


def series(counted: bool) -> np.ndarray:
    """Simulate x with rho = .9, q = 1 (counts: .5), and observe it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(), np.zeros(T)
    for t in range(T):
        x = 0.9 * x + (0.5 if counted else 1.0) * rng.normal()
        y[t] = rng.poisson(np.exp(2.0 + x)) if counted else x + NOISE * rng.normal()
    return y


@dataclass(frozen=True)
class GridLikelihood:
    """The likelihood by sums over a grid, as an estimator without noise; it has no paths."""

    log_emission: Callable
    num_particles: int = 8
    uses_later_data = True

    def with_num_particles(self, num_particles: int) -> GridLikelihood:
        return GridLikelihood(self.log_emission, num_particles)

    def particle_steps(self, ssm: Any) -> int:
        return 0

    def estimate(self, key: Any, ssm: Any, theta: dict) -> LikelihoodEstimate:
        grid = jnp.asarray(GRID, float)
        width = grid[1] - grid[0]
        transition = stats.norm.pdf(grid[None, :], theta["rho"] * grid[:, None], theta["q"]) * width

        def step(density, y):
            joint = (density @ transition) * jnp.exp(self.log_emission(grid, y))
            return joint / joint.sum(), jnp.log(joint.sum())

        start = stats.norm.pdf(grid) * width
        found = jax.lax.scan(step, start, ssm.at(theta).observed(ssm.at(theta).xs)["y"])[1].sum()
        return LikelihoodEstimate(found, jnp.zeros((), jnp.int32))

    def sample_path(self, key: Any, ssm: Any, theta: dict) -> SampledPath:
        return SampledPath(self.estimate(key, ssm, theta).log_likelihood, {"x": jnp.zeros(T)})

    def describe(self, key: Any, ssm: Any, theta: dict) -> str:
        return "exact"


def emit_gaussian(x, y):
    """Return the log density of an observation."""
    return stats.norm.logpdf(y, x, NOISE)


def emit_counts(x, y):
    """Return the log density of a count."""
    return stats.poisson.logpmf(y, jnp.exp(2.0 + x))


class Case(NamedTuple):
    """A model with data, the exact sampler, and its posterior mean of rho and q from a grid in NumPy."""

    ssm: Any
    likelihood: GridLikelihood
    means: dict[str, float]


@cache
def case(counted: bool) -> Case:
    """Build the series of precise observations, or that of counts."""
    y, observe = series(counted), counts if counted else gaussian
    width = GRID[1] - GRID[0]

    def log_likelihood(rho: float, q: float) -> float:
        if not counted:
            model = LinearGaussian.scalar(0.0, rho**2 + q**2, rho, q**2, 1.0, NOISE**2)
            return solve(model, y[:, None]).log_likelihood
        transition = norm.pdf(GRID[None, :], rho * GRID[:, None], q)
        first = (norm.pdf(GRID) @ transition) * width
        log_emission = poisson.logpmf(y[:, None], np.exp(2.0 + GRID)[None])
        return point_mass_filter(GRID, first, transition, log_emission).log_likelihood

    log_joint = np.array([[log_likelihood(rho, q) for q in np.exp(LOG_Q)] for rho in RHO])
    mass = np.exp(log_joint + norm.logpdf(LOG_Q, 0.0, 0.5) - log_joint.max())
    mass /= mass.sum()
    means = {"rho": float(mass.sum(1) @ RHO), "q": float(mass.sum(0) @ np.exp(LOG_Q))}
    likelihood = GridLikelihood(emit_counts if counted else emit_gaussian)
    return Case(ssmscan.trace(autoregression, y, observe), likelihood, means)


def run(seed: int, counted: bool, estimator: Any, num_samples: int = 6000, num_particles: int = 8) -> ssmscan.Result:
    """Run PMMH with few particles."""
    engine = ssmscan.PMMH(
        num_samples=num_samples,
        num_warmup=2000,
        num_particles=num_particles,
        estimator=estimator,
        num_paths=0,
        progress=False,
    )
    return engine.run(jax.random.key(seed), case(counted).ssm)


def report(result: ssmscan.Result, means: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Return by parameter the effective sample size and the z-score of the posterior mean."""
    found = {}
    for name, truth in means.items():
        summary = summarise(result.draws[name], independent_runs=False)
        mean = summary.statistics[0]
        found[name] = summary.ess_bulk, (mean.value - truth) / mean.error
    return found


def main() -> None:
    """Print the table."""
    import warnings

    warnings.simplefilter("ignore")
    for counted in (False, True):
        one = case(counted)
        ways = {"bootstrap": ssmscan.ParticleFilter(8), "chosen": None, "exact likelihood": one.likelihood}
        for seed in range(3):
            for name, estimator in ways.items():
                result = run(seed, counted, estimator)
                cells = "  ".join(f"{k}: ESS {e:7.0f}, z {z:5.2f}" for k, (e, z) in report(result, one.means).items())
                print(f"{'counts' if counted else 'AR(1) + noise'}, seed {seed}, {name:17} {cells}", flush=True)
                if estimator is None and seed == 0:
                    print("   ", *result.notes, sep="\n    ")


if __name__ == "__main__":
    main()
