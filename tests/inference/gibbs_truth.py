r"""Particle Gibbs against deterministic integrals, with and without interweaving, and what a draw costs.

The Nile and `log_sp500_small` are those of `tests.inference.importance_truth`.  The model with three regimes is summed
over a grid of its two parameters, with the likelihood of the forward recursion in NumPy float64.

    python -m tests.inference.gibbs_truth [case ...]
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

import ssmscan
from benchmarks.verdict_models import MODELS
from ssmscan import datasets
from tests.inference.exact_gibbs import regimes
from tests.inference.importance_truth import Check, Truth, nile_truth, summed, volatility_truth
from tests.inference.models import stochastic_volatility


def regime_data(num_steps: int = 100) -> np.ndarray:
    """Simulate the model at stay = 0.9, sd = 0.6."""
    rng = np.random.default_rng(0)
    z, y = rng.integers(3), []
    for _ in range(num_steps):
        z = z if rng.random() < 0.9 else (z + rng.integers(1, 3)) % 3
        y.append(z - 1.0 + 0.6 * rng.standard_normal())
    return np.array(y)


def regimes_truth() -> Truth:
    """Integrate over logit stay and log sd."""
    logit, log_sd = np.linspace(-2.0, 7.0, 300), np.linspace(-1.3, 0.3, 300)
    stay, sd = np.meshgrid(1 / (1 + np.exp(-logit)), np.exp(log_sd), indexing="ij")
    rows = np.where(np.eye(3, dtype=bool), stay[..., None, None], (1 - stay[..., None, None]) / 2)
    weights, log_joint = np.full((*stay.shape, 3), 1 / 3), np.zeros_like(stay)
    for y in regime_data():
        weights = np.einsum("abi,abij->abj", weights, rows) * stats.norm.pdf(y, [-1.0, 0.0, 1.0], sd[..., None])
        total = weights.sum(-1)
        log_joint, weights = log_joint + np.log(total), weights / total[..., None]
    log_joint += stats.beta.logpdf(stay, 4, 2) + np.log(stay * (1 - stay)) + stats.norm.logpdf(np.log(sd), -0.5, 0.5)
    return summed(log_joint, {"stay": (logit, 1 / (1 + np.exp(-logit))), "sd": (log_sd, np.exp(log_sd))})


class Case(NamedTuple):
    """A model over data, the engine, and the exact answers."""

    traced: Callable[[], ssmscan.StateSpaceModel]
    engine: ssmscan.ParticleGibbs
    truth: Callable[[], Truth]


ENGINE = ssmscan.ParticleGibbs(num_samples=5000, num_paths=100, progress=False)
SP500 = dataclasses.replace(ENGINE, num_samples=10_000, num_warmup=1000)
CASES = {
    "Nile": Case(MODELS["Nile"].traced, ENGINE, nile_truth),
    "log_sp500_small": Case(
        lambda: ssmscan.trace(stochastic_volatility, datasets.sp500().values), SP500, volatility_truth
    ),
    "three regimes": Case(lambda: ssmscan.trace(regimes, regime_data()), ENGINE, regimes_truth),
}


def checks(result: ssmscan.Result, truth: Truth) -> list[Check]:
    """Compare the statistics that are known."""
    found = []
    for name, known in truth.statistics.items():
        for statistic, exact in known.items():
            estimate = result.summaries[name].statistics[ssmscan.results.summary.STATISTICS.index(statistic)]
            found.append(Check(f"{name} {statistic}", exact, estimate.value, estimate.error))
    return found


def main(names: list[str]) -> None:
    """Print the table."""
    for name in names or CASES:
        case = CASES[name]
        ssm, truth = case.traced(), case.truth()
        for interweave in (True, False) if not ssmscan.inference.gibbs.obstacle_to_interweaving(ssm) else (False,):
            engine = dataclasses.replace(case.engine, interweave=interweave)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ssmscan.ResultWarning)
                result = engine.run(jax.random.key(0), ssm)
            costs, found = result.costs, checks(result, truth)
            print(
                f"{name}, {'interweaved' if interweave else 'states held alone'}: {result.num_chains} x "
                f"{result.num_draws} draws, compile {costs.compile_seconds:.1f} s, "
                f"warm-up {costs.warmup_seconds:.1f} s, run {costs.run_seconds:.1f} s, "
                f"{costs.gradient_evaluations:,} gradients"
            )
            for label, summary in result.summaries.items():
                print(
                    f"  {label:10} ESS {summary.ess_bulk:8.0f}, tail {summary.ess_tail:8.0f}, a second "
                    f"{summary.ess_bulk / costs.run_seconds:8.1f}, R-hat {summary.rhat:.4f}"
                )
            for one in found:
                print(f"  {one.quantity:16} exact {one.exact:10.4f}  found {one.value:10.4f}  z {one.z:6.2f}")
            print(f"  worst |z| {max(abs(one.z) for one in found):.2f} of {len(found)}")
            print(*(f"  {sentence}" for sentence in (*result.notes, *result.concerns())), sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
