r"""Filters that look ahead, against exact answers.

    python -m tests.particles.look_ahead [exact] [unbiased] [broken] [gradient]

`exact` asks a filter of two particles for the likelihood of linear Gaussian models, as Kalman has it; `unbiased` asks
E[Z_hat / Z] = 1 of sixteen particles where the model is not; `broken` has one mistake each, which the same tests must
reject; `gradient` asks for the score of a linear Gaussian model, and E[(Z_hat / Z) (grad log Z_hat - score)] = 0 else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ssmscan
from ssmscan.particles import filter_step, look_ahead
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.look_ahead import LookAhead
from ssmscan.particles.resampling import multinomial, stratified, systematic
from tests.particles import gradient
from tests.particles.ahead_models import COUNTED, COUNTS, EXACT, Known, counts, counts_truth, heavy, nile, poisson
from tests.particles.unbiased import HEADER, KEYS, LARGEST_SD, Cell, Ratio, mistake, renormalise_carried

SETTINGS = [
    ParticleFilter(2, threshold=threshold, resampling=scheme, proposal=LookAhead(), summaries=())
    for threshold, scheme in ((0, systematic), (0.5, systematic), (1, systematic), (1, stratified), (0.5, multinomial))
]


def errors(known: Known, settings: list[ParticleFilter] = SETTINGS) -> np.ndarray:
    """Return the relative error of the log likelihood, three keys of each setting."""

    def of(key, ssm, theta):
        return jnp.stack([one.run(key, ssm, theta).log_likelihood for one in settings])

    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    found = np.asarray(jax.jit(jax.vmap(of, (0, None, None)))(keys, known.ssm, known.ssm.canonical(known.theta)), float)
    return np.abs(found - known.log_likelihood) / abs(known.log_likelihood)


def cells(replicates: int, *, keys: tuple[int, ...] = KEYS, only: tuple[str, ...] = ("counts", "heavy")) -> list[Cell]:
    """Both models, every scheme and threshold; sixteen particles, of which the model draws every fiftieth or fifth."""
    return [
        Cell(
            name,
            known,
            ParticleFilter(
                16, resampling=scheme, threshold=threshold, summaries=(), proposal=LookAhead(defence=defence)
            ),
            key,
            replicates,
        )
        for name in only
        for known in [{"counts": counts, "heavy": heavy}[name]()]
        for scheme, threshold, defence in (
            (systematic, 0, 0.02),
            (systematic, 0.5, 0.02),
            (systematic, 1, 0.02),
            (systematic, 1, 0.2),
            (stratified, 0.9, 0.2),
            (multinomial, 1, 0.02),
        )
        for key in keys
    ]


# ---- one mistake each ---------------------------------------------------------------------------------


def without_v(needed: jax.Array, ratio: jax.Array, log_weights: jax.Array) -> jax.Array:
    """Carry equal weights after resampling, as a filter does that chose by W."""
    return CARRIED(needed, jnp.zeros_like(ratio), log_weights)


def unmixed(log_ratio: jax.Array, log_share: float) -> jax.Array:
    """Weigh the mixture as if all particles were drawn from its first component."""
    return log_ratio - np.log1p(-np.exp(log_share))


CARRIED, PREPARE = filter_step._carried, LookAhead.prepare


def of_the_next_step(self: LookAhead, dynamics: Any) -> tuple[Any, Any]:
    """Use at each step the gains of the one after it."""
    own, (steps, values) = PREPARE(self, dynamics)
    return own, (jax.tree.map(lambda leaf: jnp.concatenate([leaf[1:], leaf[-1:]]), steps), values)


BIASED: dict[str, tuple[Any, str, Callable]] = {
    "V not in the carried weights": (filter_step, "_carried", without_v),
    "mixture weighed as if unmixed": (look_ahead, "_log_sum", unmixed),
    "carried weights renormalised": (filter_step, "_carried", renormalise_carried),
}


def valid(found: Ratio) -> bool:
    """Return whether an average of these is what it should be: weights of a wrong law may have no average at all."""
    return found.sd <= LARGEST_SD and found.accepted(4)


def broken(replicates: int) -> Iterator[tuple[str, Ratio, Ratio]]:
    """Run each mistake that biases, and the right filter."""
    settings = ParticleFilter(16, threshold=1, summaries=(), proposal=LookAhead(defence=0.2))
    cell = Cell("heavy", heavy(), settings, 0, replicates)
    right = cell.run()
    for name, patch in BIASED.items():
        with mistake(*patch), np.errstate(over="ignore"):
            yield name, right, cell.run()


# ---- gradients ----------------------------------------------------------------------------------------


def gradient_of_counts() -> gradient.Known:
    ssm = ssmscan.trace(poisson, COUNTED)
    return gradient.Known("counts", ssm, COUNTS, lambda theta: counts_truth(theta).log_likelihood, 16)


# ---- reports ------------------------------------------------------------------------------------------


def report_exact() -> bool:
    fine = True
    for x64, limit in ((True, 1e-9), (False, 1e-5)):
        with jax.enable_x64(x64):
            for name, make in EXACT.items():
                worst = float(errors(make()).max())
                fine &= worst <= limit
                kind = "float64" if x64 else "float32"
                print(f"{name:22s} {kind} N = 2, largest relative error {worst:.1e}", flush=True)
    return fine


def report_unbiased(replicates: int = 100_000) -> bool:
    print(HEADER, flush=True)
    fine, family = True, cells(replicates)
    for cell in family:
        found = cell.run()
        fine &= found.accepted(len(family)) and found.sd <= LARGEST_SD
        print(cell.row(found, len(family)), flush=True)
    return fine


def report_broken(replicates: int = 100_000) -> bool:
    fine = True
    for name, right, wrong in broken(replicates):
        rejected = valid(right) and not valid(wrong)
        fine &= rejected
        verdict = "rejected" if rejected else "NOT REJECTED"
        print(f"{name:32s} right z {right.z:6.2f}, wrong z {wrong.z:8.2f}: {verdict}", flush=True)
    with mistake(LookAhead, "prepare", of_the_next_step), jax.enable_x64(True):
        worst = float(errors(nile(), SETTINGS[2:3]).max())
    fine &= worst > 1e-9
    print(f"{'gains of the next step':32s} relative error on Nile {worst:.1e}", flush=True)
    return fine


def report_gradient(replicates: int = 20_000) -> bool:
    fine = True
    with jax.enable_x64(True):
        for threshold in (0, 0.5, 1):
            settings = ParticleFilter(16, threshold=threshold, summaries=(), proposal=LookAhead())
            found = gradient.measure(gradient_of_counts(), settings, 0, replicates)
            fine &= found.accepted and found.sd <= LARGEST_SD
            print(f"counts {threshold:4.1f} sd {found.sd:8.3f} z {found.z} spread {found.spread}", flush=True)
    return fine


def main(parts: list[str]) -> int:
    """Print the parts asked for, all without arguments; nonzero if one fails."""
    runs: dict[str, Callable[[], bool]] = {
        "exact": report_exact,
        "unbiased": report_unbiased,
        "broken": report_broken,
        "gradient": report_gradient,
    }
    passed = [runs[part]() for part in parts or list(runs)]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
