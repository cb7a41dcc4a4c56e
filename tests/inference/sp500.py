"""`log_sp500_small`: three engines against quadrature on a posterior with a heavy, narrow tail.

Means of phi and sigma, medians of all three parameters, and the evidence.  `python -m tests.inference.sp500`
prints the table; it takes some minutes.  `python -m tests.inference.sp500 nuts` runs NUTS as it is by default and as it
was before divergences led to a new warm-up, with ten keys each.
"""

from __future__ import annotations

import sys
import warnings
from typing import NamedTuple

import jax
import numpy as np

import ssmscan
from ssmscan import datasets
from ssmscan.inference.nuts import NUTS
from ssmscan.inference.pmmh import PMMH
from ssmscan.inference.tempering import TemperedSMC
from ssmscan.results.result import Result
from ssmscan.results.summary import STATISTICS, summarise
from tests.inference.models import stochastic_volatility
from tests.inference.sv_quadrature import Quadrature, quadrature

ENGINES = {
    # The tail, where phi is near one, is narrow: longer steps diverge there.
    "NUTS": (NUTS(num_warmup=1000, num_samples=2500, target_accept=0.99), 0.03),
    "TemperedSMC": (TemperedSMC(num_particles=4000, num_runs=10), 0.03),
    "PMMH": (PMMH(num_samples=30_000, num_warmup=5000), 0.06),
    "PMMH, N = 20": (PMMH(num_samples=60_000, num_warmup=8000, num_particles=20), 0.06),
}
"""Each engine, and the largest Monte Carlo error allowed, in posterior standard deviations."""


DEFAULTS = {
    "default": NUTS(progress=False),
    "target_accept 0.8, no new warm-up": NUTS(target_accept=0.8, rewarm=False, progress=False),
}
KEYS = 10


class Check(NamedTuple):
    """One number of one engine beside the exact one; relative error in posterior standard deviations."""

    quantity: str
    exact: float
    value: float
    error: float
    relative_error: float
    rhat: float

    @property
    def z(self) -> float:
        """Difference in standard errors."""
        return (self.value - self.exact) / self.error


def check(result: Result, exact: Quadrature) -> list[Check]:
    """Compare a result with quadrature."""
    draws = {name: result.draws[name] for name in ("mu", "sigma")} | {"phi": 2 * result.draws["b"] - 1}
    wanted = [("phi", "mean"), ("sigma", "mean"), ("phi", "50 %"), ("sigma", "50 %"), ("mu", "50 %")]
    checks = []
    for name, statistic in wanted:
        summary = summarise(draws[name], independent_runs=result.independent_runs)
        found = summary.statistics[STATISTICS.index(statistic)]
        marginal = exact.marginals[name]
        truth = marginal.mean if statistic == "mean" else marginal.median
        checks.append(
            Check(f"{name} {statistic}", truth, found.value, found.error, found.error / marginal.sd, summary.rhat)
        )
    return checks


def run(name: str, seed: int = 0) -> Result:
    """Run one engine on the data."""
    ssm = ssmscan.trace(stochastic_volatility, datasets.sp500().values)
    return ENGINES[name][0].run(jax.random.key(seed), ssm)


def main() -> None:
    """Print the table."""
    exact = quadrature(datasets.sp500().values)
    print(f"exact log evidence {exact.log_evidence:.4f}")
    for name in ENGINES:
        result = run(name)
        costs = result.costs
        print(
            f"\n{name}: {result.num_chains} x {result.num_draws} draws; compile {costs.compile_seconds:.0f} s, "
            f"warm-up {costs.warmup_seconds:.0f} s, run {costs.run_seconds:.0f} s"
        )
        print(*(f"  {note}" for note in result.notes), sep="\n")
        print(f"  {'':12}{'exact':>10}{'found':>10}{'MCSE':>9}{'MCSE/sd':>9}{'z':>7}{'R-hat':>8}")
        for c in check(result, exact):
            print(
                f"  {c.quantity:12}{c.exact:10.4f}{c.value:10.4f}{c.error:9.4f}{c.relative_error:9.1%}"
                f"{c.z:7.2f}{c.rhat:8.4f}",
                flush=True,
            )
        if result.log_evidence is not None:
            z = (result.log_evidence - exact.log_evidence) / result.log_evidence_error
            runs = np.round(result.sample_stats["log_evidence"][:, 0], 2)
            print(
                f"  log evidence {result.log_evidence:.4f} +- {result.log_evidence_error:.4f}, z {z:.2f}; runs {runs}"
            )


def many_keys() -> None:
    """Print, for NUTS by default now and formerly, what the draws of all keys together say, and their cost."""
    exact = quadrature(datasets.sp500().values)
    ssm = ssmscan.trace(stochastic_volatility, datasets.sp500().values)
    for name, engine in DEFAULTS.items():
        print(f"\nNUTS, {name}")
        results = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ssmscan.ResultWarning)
            for seed in range(KEYS):
                results.append(result := engine.run(jax.random.key(seed), ssm))
                draws = {"phi": 2 * result.draws["b"] - 1, "sigma": result.draws["sigma"]}
                means = ", ".join(f"E {label} {values.mean():.4f}" for label, values in draws.items())
                print(
                    f"  key {seed}: {means}; {int(result.sample_stats['diverging'].sum())} divergences, "
                    f"{result.costs.gradient_evaluations:,} gradients, compile {result.costs.compile_seconds:.1f} s, "
                    f"warm-up {result.costs.warmup_seconds:.1f} s, run {result.costs.run_seconds:.1f} s",
                    *result.notes,
                    flush=True,
                )
        pooled = {label: np.concatenate([r.draws[label] for r in results]) for label in ("b", "sigma")}
        for label, values in (("phi", 2 * pooled["b"] - 1), ("sigma", pooled["sigma"])):
            found, truth = summarise(values, independent_runs=False).mean, exact.marginals[label]
            z = (found.value - truth.mean) / found.error
            print(
                f"  E {label}: exact {truth.mean:.5f}, found {found.value:.5f} +- {found.error:.5f}, z {z:.2f}, "
                f"{(found.value - truth.mean) / truth.sd:.1%} of an sd"
            )
        diverging = [int(r.sample_stats["diverging"].sum()) for r in results]
        gradients = sum(r.costs.gradient_evaluations for r in results)
        seconds = sum(r.costs.warmup_seconds + r.costs.run_seconds for r in results)
        print(
            f"  all keys: {sum(diverging)} divergences in {sum(map(bool, diverging))} runs, {gradients:,} gradients, "
            f"{seconds:.0f} s, {1e6 * seconds / gradients:.1f} us a gradient",
            flush=True,
        )


if __name__ == "__main__":
    many_keys() if sys.argv[1:] == ["nuts"] else main()
