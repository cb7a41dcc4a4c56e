"""Is the likelihood estimate unbiased?  E[Z_hat / Z] = 1, tested from independent filters.

    python -m tests.particles.unbiased [small] [long] [broken]

prints one row for each cell (model, resampling, threshold, key): the bias found, its z, and the
smallest bias that the test finds with 90 % power.  All cells of a part are one family: correct code
fails it with probability `ERROR_RATE`.  The ratio is averaged only where sd(log Z_hat) is at most
1/2; beyond that its mean is ruled by rare large values and no test is valid.

`broken` runs kernels and inputs with one mistake each; the same test must reject every one.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

from ssmscan.particles import filter_step
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.proposals import Bootstrap
from ssmscan.particles.resampling import multinomial, stratified, systematic
from ssmscan.particles.weights import uniform
from tests.truth import minimal_detectable_effect, z_threshold

KEYS = (0, 1, 2)
LARGEST_SD = 0.5
HEADER = "model           N     scheme       threshold  key  sd(log Z)   bias %       z  detectable %  verdict"


class Ratio(NamedTuple):
    """The ratio of estimates to the truth: mean - 1, its standard error, and sd(log Z_hat)."""

    bias: float
    error: float
    sd: float

    @property
    def z(self) -> float:
        return self.bias / self.error

    def detectable(self, comparisons: int) -> float:
        return minimal_detectable_effect(self.error, comparisons)

    def accepted(self, comparisons: int) -> bool:
        return bool(abs(self.z) < z_threshold(comparisons))


def log_likelihoods(
    ssm: Any, theta: Mapping[str, float], settings: ParticleFilter, seed: int, replicates: int
) -> np.ndarray:
    """Run independent filters, as many at a time as fill a cache; (replicates,) float64."""
    keys = jax.random.split(jax.random.key(seed), replicates)
    return np.asarray(_run_all(keys, ssm, ssm.canonical(theta), settings=settings), np.float64)


@partial(jax.jit, static_argnames=("settings",))
def _run_all(keys: jax.Array, ssm: Any, theta: Mapping[str, jax.Array], *, settings: ParticleFilter) -> jax.Array:
    batch = 8192 // settings.num_particles
    run = partial(settings.run, ssm=ssm, theta=theta)
    # One filter at a time, a step skips resampling where it need not; side by side all pay for it.
    return jax.lax.map(lambda key: run(key).log_likelihood, keys, batch_size=batch if batch > 8 else None)


def ratio(log_z: np.ndarray, truth: float) -> Ratio:
    """Average the ratio; refuse where the average means nothing."""
    sd = float(log_z.std(ddof=1))
    values = np.exp(log_z - truth)
    return Ratio(float(values.mean() - 1), float(values.std(ddof=1) / len(values) ** 0.5), sd)


class Cell(NamedTuple):
    """One comparison."""

    name: str
    known: Any
    settings: ParticleFilter
    seed: int
    replicates: int

    def run(self) -> Ratio:
        ssm, theta, truth = self.known
        return ratio(log_likelihoods(ssm, theta, self.settings, self.seed, self.replicates), truth)

    def row(self, found: Ratio, comparisons: int) -> str:
        s = self.settings
        verdict = "unbiased" if found.accepted(comparisons) else "BIASED"
        if found.sd > LARGEST_SD:
            verdict += " (test not valid: sd too large)"
        return (
            f"{self.name:15s} {s.num_particles:5d} {s.resampling.__name__:12s} {s.threshold:9.1f} {self.seed:4d}"
            f" {found.sd:10.3f} {100 * found.bias:8.3f} {found.z:7.2f}"
            f" {100 * found.detectable(comparisons):13.3f}  {verdict}"
        )


def small(known: Any, replicates: int, *, keys: tuple[int, ...] = KEYS) -> list[Cell]:
    """Every scheme and threshold, ten steps, sixteen particles."""
    return [
        Cell(
            "AR(1)+noise",
            known,
            ParticleFilter(16, resampling=scheme, threshold=threshold, summaries=()),
            key,
            replicates,
        )
        for scheme in (systematic, stratified, multinomial)
        for threshold in (0, 0.3, 0.5, 1)
        for key in keys
    ]


def long(replicates: int = 2000) -> list[Cell]:
    """Real and classical series, as many particles as give sd(log Z_hat) of at most 0.4."""
    from tests.particles import models

    series = (
        ("Nile", models.nile(), 1000),
        ("GBP/USD", models.gbpusd(), 1200),
        ("nonlinear", models.nonlinear_benchmark(), 5000),
    )
    return [
        Cell(name, known, ParticleFilter(n, threshold=threshold, summaries=()), key, replicates)
        for name, known, n in series
        for threshold in (0.5, 1)
        for key in KEYS
    ]


# ---- one mistake each ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Auxiliary(Bootstrap):
    """Look ahead with a normal density of the next observation around the predicted state."""

    scale: float

    def log_auxiliary(self, dynamics: Any, carry: Any, x: Any, n: int) -> jax.Array:
        y = jax.tree.leaves(x)[0]
        return norm.logpdf(y, dynamics.theta["rho"] * carry, self.scale)


def drop_carried(needed: jax.Array, ratio: jax.Array, log_weights: jax.Array) -> jax.Array:
    """Forget the weights of a cloud that is not resampled."""
    return CARRIED(needed, ratio, uniform(len(log_weights)))


def renormalise_carried(needed: jax.Array, ratio: jax.Array, log_weights: jax.Array) -> jax.Array:
    """Normalise what resampling leaves to carry."""
    carried = CARRIED(needed, ratio, log_weights)
    return carried - logsumexp(carried)


def same_key_twice(key: jax.Array, count: jax.Array | int) -> jax.Array:
    """Give steps 2 and 3 the same keys, 4 and 5, and so on."""
    return STEP_KEYS(key, jnp.asarray(count) // 2 * 2)


CARRIED, STEP_KEYS = filter_step._carried, filter_step.step_keys


@contextlib.contextmanager
def mistake(module: Any, name: str, replacement: Callable) -> Iterator[None]:
    """Replace a function of a module, in code that is compiled meanwhile."""
    jax.clear_caches()
    with mock.patch.object(module, name, replacement):
        yield
    jax.clear_caches()


def broken(known: Any, replicates: int) -> Iterator[tuple[str, Ratio, Ratio]]:
    """Run each mistake, and the same settings without it; known holds a handmade AR(1)."""
    ssm, theta, truth = known
    half = ParticleFilter(16, threshold=0.5, summaries=())
    ahead = ParticleFilter(16, threshold=1, summaries=(), proposal=Auxiliary(1.2))

    def estimate(settings: ParticleFilter, data: Any = ssm) -> Ratio:
        return ratio(log_likelihoods(data, theta, settings, 0, replicates), truth)

    right = {settings: estimate(settings) for settings in (half, ahead)}
    late = replace(ssm, y=jnp.concatenate([ssm.y[:1], ssm.y[:-1]]))
    yield "observation of the step before", right[half], estimate(half, late)
    for name, settings, patch in (
        ("carried weights dropped", half, ("_carried", drop_carried)),
        ("one key used at two steps", half, ("step_keys", same_key_twice)),
        ("auxiliary, carried weights renormalised", ahead, ("_carried", renormalise_carried)),
    ):
        with mistake(filter_step, *patch):
            yield name, right[settings], estimate(settings)


def handmade_autoregression() -> tuple[Any, Mapping[str, float], float]:
    """The small model without NumPyro, with Kalman's answer."""
    from tests.particles.handmade import autoregression, exact

    theta = {"rho": 0.5, "sx": 0.5, "sy": 1.6}
    ssm = autoregression(10, theta=theta)
    return ssm, theta, exact(ssm, theta).log_likelihood


def few_steps() -> tuple[Any, Mapping[str, float], float]:
    """Five steps of it; observations tell enough for mistakes to show, and not so much that estimates are uneven."""
    from tests.particles.handmade import autoregression, exact

    theta = {"rho": 0.9, "sx": 0.5, "sy": 1.0}
    ssm = replace(autoregression(5, theta=theta), y=jnp.array([0.8, -0.6, 1.0, 0.3, -0.9]))
    return ssm, theta, exact(ssm, theta).log_likelihood


def report(cells: list[Cell]) -> bool:
    """Run and print one family; whether all of it is unbiased."""
    print(HEADER, flush=True)
    fine, begin = True, time.perf_counter()
    for cell in cells:
        found = cell.run()
        fine &= found.accepted(len(cells)) and found.sd <= LARGEST_SD
        print(cell.row(found, len(cells)), flush=True)
    print(f"{len(cells)} cells, family error 1e-4, {time.perf_counter() - begin:.0f} s: {'PASS' if fine else 'FAIL'}\n")
    return fine


def report_broken(replicates: int = 100_000) -> bool:
    """Run and print the mistakes; whether all are rejected and their counterparts accepted."""
    fine = True
    print(f"{'mistake':42s} {'right: bias %':>14s} {'z':>7s} {'wrong: bias %':>14s} {'z':>8s}  verdict")
    for name, right, wrong in broken(handmade_autoregression(), replicates):
        rejected = right.accepted(8) and not wrong.accepted(8)
        fine &= rejected
        print(
            f"{name:42s} {100 * right.bias:14.3f} {right.z:7.2f} {100 * wrong.bias:14.3f} {wrong.z:8.2f}  "
            f"{'rejected' if rejected else 'NOT REJECTED'}",
            flush=True,
        )
    return fine


def main(parts: list[str]) -> int:
    """Print the parts asked for, all without arguments; nonzero if one fails."""
    from tests.particles import models

    runs: dict[str, Callable[[], bool]] = {
        "small": lambda: report(small(models.small_autoregression(), 100_000)),
        "broken": report_broken,
        "long": lambda: report(long()),
    }
    passed = [runs[part]() for part in parts or list(runs)]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
