r"""`ImportanceSampler` against deterministic integrals, the coverage of its errors, and when its diagnostic warns.

Truth is a sum over a grid of the parameters in NumPy float64, of exact likelihoods: the Kalman filter below, at all
points of the grid at once, for the Nile and for an autoregression with noise (N = 8 particles there);
`tests.inference.sv_quadrature` for `log_sp500_small`.

    python -m tests.inference.importance_truth [truth] [coverage] [tails]
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy import stats

import ssmscan
from benchmarks.verdict_models import MODELS
from ssmscan import datasets
from ssmscan.inference.importance_weights import combine
from ssmscan.results.summary import STATISTICS
from tests.inference.models import NOISE, Y, linear_gaussian, stochastic_volatility
from tests.inference.sv_quadrature import quadrature

REPETITIONS = 200


class Truth(NamedTuple):
    """Exact answers.

    Attributes:
        log_evidence: log p(y).
        statistics: parameter -> the values of `STATISTICS` that are known.
    """

    log_evidence: float
    statistics: dict[str, dict[str, float]]


def kalman(y: np.ndarray, F: np.ndarray, Q: np.ndarray, R: np.ndarray, m: float, P: float) -> np.ndarray:
    """Evaluate log p(y) of x_0 ~ N(m, P), x_t = F x_{t-1} + N(0, Q), y_t = x_t + N(0, R); F, Q, R of one shape."""
    mean, variance, total = np.full(F.shape, m), np.full(F.shape, P), np.zeros(F.shape)
    for value in y:
        mean, variance = F * mean, F**2 * variance + Q
        total += stats.norm.logpdf(value, mean, np.sqrt(variance + R))
        gain = variance / (variance + R)
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance
    return total


def summed(log_joint: np.ndarray, axes: dict[str, tuple[np.ndarray, np.ndarray]]) -> Truth:
    """Sum over a regular grid; axes hold, by parameter, the grid points and the values of the parameter there."""
    peak = log_joint.max()
    mass = np.exp(log_joint - peak)
    cell = np.prod([np.diff(grid)[0] for grid, _ in axes.values()])
    log_evidence = float(peak + np.log(mass.sum() * cell))
    mass /= mass.sum()
    statistics = {}
    for number, (name, (_, values)) in enumerate(axes.items()):
        own = mass.sum(axis=tuple(i for i in range(len(axes)) if i != number))
        mean = own @ values
        quantiles = np.interp((0.05, 0.5, 0.95), np.cumsum(own) - own / 2, values)
        found = (mean, np.sqrt(own @ (values - mean) ** 2), *quantiles)
        statistics[name] = dict(zip(STATISTICS, map(float, found)))
    return Truth(log_evidence, statistics)


def nile_truth() -> Truth:
    """Integrate over the log sds of `nile`."""
    level, flow = np.linspace(-1.0, 5.6, 500), np.linspace(4.3, 5.3, 250)
    a, b = (np.exp(x) for x in np.meshgrid(level, flow, indexing="ij"))
    log_joint = kalman(datasets.nile().values, np.ones_like(a), a**2, b**2, 1000.0, 500.0**2)
    log_joint += stats.halfnorm.logpdf(a, scale=100) + stats.halfnorm.logpdf(b, scale=200) + np.log(a) + np.log(b)
    return summed(log_joint, {"sd_level": (level, np.exp(level)), "sd_flow": (flow, np.exp(flow))})


def autoregression_truth() -> Truth:
    """Integrate over logit rho and log q of `linear_gaussian`."""
    logit, log_q = np.linspace(-12.0, 12.0, 600), np.linspace(-0.5 - 3.2, -0.5 + 3.2, 300)
    r, q = np.meshgrid(1 / (1 + np.exp(-logit)), np.exp(log_q), indexing="ij")
    log_joint = kalman(Y, r, q**2, np.full_like(q, NOISE**2), 0.0, 1.0)
    log_joint += np.log(r * (1 - r)) + stats.norm.logpdf(log_q, -0.5, 0.5)
    return summed(log_joint, {"rho": (logit, 1 / (1 + np.exp(-logit))), "q": (log_q, np.exp(log_q))})


def volatility_truth() -> Truth:
    """Take means and medians of `log_sp500_small`; b has those of phi."""
    exact = quadrature(datasets.sp500().values)
    found = {name: {"mean": m.mean, "50 %": m.median} for name, m in exact.marginals.items()}
    b = {statistic: (value + 1) / 2 for statistic, value in found["phi"].items()}
    # The mean of mu hardly exists: its prior is Cauchy.
    return Truth(exact.log_evidence, {"b": b, "sigma": found["sigma"], "mu": {"50 %": found["mu"]["50 %"]}})


SAMPLER = ssmscan.ImportanceSampler(num_paths=0, progress=False)
EIGHT = ssmscan.ImportanceSampler(num_particles=8, num_paths=0, progress=False)
CASES: dict[str, tuple[Callable[[], ssmscan.StateSpaceModel], ssmscan.ImportanceSampler, Callable[[], Truth]]] = {
    "AR(1), N = 8": (lambda: ssmscan.trace(linear_gaussian, Y), EIGHT, autoregression_truth),
    "Nile": (lambda: MODELS["Nile"].traced(), SAMPLER, nile_truth),
    "log_sp500_small": (
        lambda: ssmscan.trace(stochastic_volatility, datasets.sp500().values),
        SAMPLER,
        volatility_truth,
    ),
}


class Check(NamedTuple):
    """One number beside the exact one."""

    quantity: str
    exact: float
    value: float
    error: float

    @property
    def z(self) -> float:
        """Difference in standard errors."""
        return (self.value - self.exact) / self.error


def checks(result: ssmscan.Result, truth: Truth) -> list[Check]:
    """Compare a result with the truth; the last is the log evidence."""
    found = []
    for name, known in truth.statistics.items():
        summary = result.summaries[name]
        for statistic, exact in known.items():
            estimate = summary.statistics[STATISTICS.index(statistic)]
            found.append(Check(f"{name} {statistic}", exact, estimate.value, estimate.error))
    return [*found, Check("log evidence", truth.log_evidence, result.log_evidence, result.log_evidence_error)]


# ---- estimates made again ------------------------------------------------------------------------


RIGHT = {
    "as it was": lambda one, other: one,
    "the other estimate": lambda one, other: other,
    "the mean of both": lambda one, other: np.logaddexp(one, other) - np.log(2),
}
"""Log likelihood of each point from two independent estimates: unbiased, so that the posterior is exact."""

WRONG = {
    "the larger": np.maximum,
    "the mean of the logarithms": lambda one, other: (one + other) / 2,
    "estimated again after the weights were formed": lambda one, other: one + other,
}
"""Not so: draws resampled by one estimate and weighed by another have the square of the likelihood."""


def estimated_twice(seed: int) -> tuple[ssmscan.Result, np.ndarray]:
    """Return a run with eight particles, and a second estimate for each of its points."""
    ssm = ssmscan.trace(linear_gaussian, Y)
    result = EIGHT.run(jax.random.key(seed), ssm)
    estimator = ssmscan.ParticleFilter(8, summaries=())
    theta = {name: jnp.asarray(values) for name, values in result.points.items()}
    keys = jax.random.split(jax.random.key(1000 + seed), len(result.log_weights))
    second = jax.jit(jax.vmap(lambda key, theta: estimator.estimate(key, ssm, theta).log_likelihood))(keys, theta)
    return result, np.asarray(second, np.float64)


def with_likelihoods(result: ssmscan.Result, second: np.ndarray, name: str) -> ssmscan.Result:
    """Return the result as it would be with other likelihoods of the same points."""
    first = result.continuation["log_likelihood"].astype(np.float64)
    log_weights = result.log_weights + (RIGHT | WRONG)[name](first, second) - first
    log_evidence, error = combine(log_weights)
    if name.startswith("estimated again"):
        log_evidence -= combine(result.log_weights)[0]
    return dataclasses.replace(result, log_weights=log_weights, log_evidence=log_evidence, log_evidence_error=error)


# ---- coverage ------------------------------------------------------------------------------------

SMALL = ssmscan.ImportanceSampler(num_points=1000, num_particles=32, num_paths=0, progress=False)


class Coverage(NamedTuple):
    """What many runs say.

    Attributes:
        quantities: what was estimated, the log evidence last.
        z: (runs, quantities) differences in standard errors.
        covered: (quantities,) share of 95 % t intervals that hold the truth.
        evidence: (runs,) estimates of the evidence over the exact one.
    """

    quantities: list[str]
    z: np.ndarray
    covered: np.ndarray
    evidence: np.ndarray


def coverage(repetitions: int = REPETITIONS, sampler: ssmscan.ImportanceSampler = SMALL) -> Coverage:
    """Repeat a small run with other keys."""
    ssm, truth = ssmscan.trace(linear_gaussian, Y), autoregression_truth()
    z, covered, evidence = [], [], []
    for seed in range(repetitions):
        result = sampler.run(jax.random.key(seed), ssm)
        found = checks(result, truth)
        df = [e.df for name in truth.statistics for e in result.summaries[name].statistics] + [np.inf]
        z.append([check.z for check in found])
        covered.append([abs(check.z) < stats.t.ppf(0.975, d) for check, d in zip(found, df)])
        evidence.append(np.exp(result.log_evidence - truth.log_evidence))
    return Coverage([c.quantity for c in found], np.array(z), np.mean(covered, axis=0), np.array(evidence))


# ---- tails ---------------------------------------------------------------------------------------


def ten_scales(y):
    """Ten log-scales of which two observations each say little."""
    with numpyro.plate("series", 10):
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 2.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.5 * x, 0.5))
        numpyro.sample("y", dist.Normal(x, scale).to_event(1), obs=y)
        return x, None

    scan(step, 0.0, y)


def funnel(y):
    """Neal's funnel in eight effects, hardly seen."""
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    effect = numpyro.sample("effect", dist.Normal(0.0, jnp.exp(v / 2)).expand([8]).to_event(1))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.5 * x, 0.5))
        numpyro.sample("y", dist.Normal(x + effect, 10.0).to_event(1), obs=y)
        return x, None

    scan(step, 0.0, y)


def funnel_truth(draws: int = 500_000) -> dict[str, dict[str, float]]:
    """Return the quantiles of `funnel` by draws of the prior, almost all of which are effective, x integrated out."""
    _, shape = HARD["a funnel"]
    y, rng = np.random.default_rng(0).normal(size=shape), np.random.default_rng(5)
    states = np.linalg.inv(np.array([[0.25, 0.125], [0.125, 0.3125]])) + shape[1] / 100 * np.eye(2)
    v = 3.0 * rng.standard_normal(draws)
    effect = np.exp(v / 2)[:, None] * rng.standard_normal((draws, shape[1]))
    rest = y - effect[:, None, :]
    total = rest.sum(2) / 100
    weights = np.exp((total @ np.linalg.inv(states) * total).sum(1) / 2 - (rest**2).sum((1, 2)) / 200)
    found = {}
    for name, x in {"v": v, **{f"effect[{i}]": e for i, e in enumerate(effect.T)}}.items():
        order = np.argsort(x)
        cdf = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
        found[name] = dict(zip(STATISTICS[2:], map(float, np.interp((0.05, 0.5, 0.95), cdf, x[order]))))
    return found


HARD = {"ten parameters": (ten_scales, (2, 10)), "a funnel": (funnel, (2, 8))}


def tail_of(name: str, seed: int) -> ssmscan.Result:
    """Run on a model that importance sampling should not be trusted with."""
    model, shape = HARD[name]
    ssm = ssmscan.trace(model, np.random.default_rng(0).normal(size=shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ssmscan.ResultWarning)
        return ssmscan.ImportanceSampler(num_points=4000, num_paths=0, progress=False).run(jax.random.key(seed), ssm)


def main() -> None:
    """Print what was asked for, everything by default."""
    wanted = sys.argv[1:] or ["truth", "coverage", "tails"]
    if "truth" in wanted:
        for name, (make, sampler, find) in CASES.items():
            truth, ssm = find(), make()
            for seed in (0, 1, 2):
                start = time.perf_counter()
                result = sampler.run(jax.random.key(seed), ssm)
                print(
                    f"\n{name}, key {seed}: {len(result.log_weights):,} points in {time.perf_counter() - start:.0f} s, "
                    f"k-hat {result.tail_index:.2f}; {' '.join(result.notes)} {' '.join(result.concerns())}"
                )
                for c in checks(result, truth):
                    print(
                        f"  {c.quantity:14} exact {c.exact:10.4f}  found {c.value:10.4f} +- {c.error:.4f}  z {c.z:5.2f}"
                    )
                sys.stdout.flush()
    if "coverage" in wanted:
        start = time.perf_counter()
        found = coverage()
        print(f"\n{len(found.z)} runs of {SMALL.num_points} points, AR(1): {time.perf_counter() - start:.0f} s")
        for name, z, share in zip(found.quantities, found.z.T, found.covered):
            print(f"  {name:14} 95 % intervals hold in {share:.3f}; mean of z {z.mean():+.2f}, sd {z.std(ddof=1):.2f}")
        error = found.evidence.std(ddof=1) / np.sqrt(len(found.evidence))
        print(f"  E[evidence] / exact {found.evidence.mean():.5f} +- {error:.5f}")
    if "tails" in wanted:
        for name in HARD:
            for seed in (0, 1, 2):
                result = tail_of(name, seed)
                print(f"\n{name}, key {seed}: k-hat {result.tail_index:.2f}; {' '.join(result.concerns())}", flush=True)


if __name__ == "__main__":
    main()
