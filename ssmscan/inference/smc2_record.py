"""What runs of SMC2 said at each step, and why they should not be trusted, in sentences with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.health import Reason, Section
from ssmscan.inference.common_doubts import few_runs, not_numbers
from ssmscan.inference.importance_weights import combine
from ssmscan.inference.smc2_cloud import NUMBERS, Arrays, Cloud
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.filter_step import FAULTY
from ssmscan.results.result import Result
from ssmscan.results.table import significant

FEW_RUNS = 4
"""Fewer runs than these do not say how far they spread."""

COLLAPSED = 0.05
"""A share of effective points below which the cloud was carried on by a few."""

MISSED = 1.5
"""Noise of more than so many times its target has missed it."""


@dataclass(frozen=True, eq=False)
class RunningPosterior:
    """The posterior given the observations by each step t = 0 .. T, t = 0 being before the first of the loop.

    Attributes:
        log_evidence: (T + 1,) log p(y_1:t), averaged over the runs.
        log_evidence_error: (T + 1,) its standard error, see `evidence_of`.
        mean: parameter -> (T + 1, *shape), averaged over the runs.
        sd: parameter -> (T + 1, *shape), within the runs.
        ess: (runs, T + 1) effective points, before the cloud was renewed where it was.
        num_particles: (runs, T + 1) particles of each filter, after that.
        num_moves: (runs, T + 1) how often the cloud was moved, 0 where it was not renewed.
        moved: (runs, T + 1) the share of points that moved there, NaN elsewhere.
        noise: (runs, T + 1) standard deviation of repeated log likelihood estimates there, NaN where not measured.
    """

    log_evidence: np.ndarray
    log_evidence_error: np.ndarray
    mean: Arrays
    sd: Arrays
    ess: np.ndarray
    num_particles: np.ndarray
    num_moves: np.ndarray
    moved: np.ndarray
    noise: np.ndarray


def table_name(number: int) -> str:
    """Return the name of the table of a run in `Result.continuation`."""
    return f"run_{number}_table"


def running_posterior(result: Result) -> RunningPosterior:
    """Return what the runs of a result said at each step that all of them have taken.

    Raises:
        ValueError: the result is not of SMC2, or was stopped before there was any.
    """
    names = map(table_name, range(len(result.continuation)))
    tables = [result.continuation[name] for name in names if name in result.continuation]
    if result.engine != "SMC2" or not tables:
        raise ValueError(f"the running posterior is of results of SMC2 that have begun; this is of {result.engine}")
    steps = min(map(len, tables))
    joined = np.stack([table[:steps] for table in tables])
    numbers = {name: joined[..., i] for i, name in enumerate(NUMBERS)}
    evidence = np.array([evidence_of(*columns) for columns in zip(numbers["log_evidence"].T, numbers["variance"].T)])
    mean, sd = np.split(joined[..., len(NUMBERS) :], 2, axis=-1)
    shapes = {name: result.draws[name].shape[2:] for name in sorted(result.draws)}
    return RunningPosterior(
        log_evidence=evidence[:, 0],
        log_evidence_error=evidence[:, 1],
        mean=_by_site(mean.mean(0), shapes),
        sd=_by_site(np.sqrt((sd**2).mean(0)), shapes),
        **{name: numbers[name] for name in ("ess", "num_particles", "num_moves", "moved", "noise")},
    )


def evidence_of(logs: np.ndarray, variances: np.ndarray) -> tuple[float, float]:
    """Return the logarithm of the mean evidence of runs, and its standard error.

    That is the larger of two: from the spread of a few runs, which may happen to be near to each other, and from the
    relative variances of their weights, which know nothing of points that did not move.
    """
    total, between = combine(logs)
    return total, float(np.fmax(between, np.sqrt(np.mean(variances) / len(logs))))


def _by_site(flat: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    sizes = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(flat, sizes[:-1], axis=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts)}


def notes(clouds: Sequence[Cloud]) -> tuple[str, ...]:
    """Return what the runs chose."""
    if not clouds:
        return ()
    renewed = [int((_column(cloud, "num_moves") > 0).sum()) for cloud in clouds]
    moves = sum(_column(cloud, "num_moves").sum() for cloud in clouds) / max(sum(renewed), 1)
    sizes = sorted({int(n) for cloud in clouds for n in _column(cloud, "num_particles")})
    particles = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    between = f"{min(renewed)}" if min(renewed) == max(renewed) else f"{min(renewed)} to {max(renewed)}"
    return (f"{particles} particles; clouds renewed {between} times a run, by {moves:.1f} moves each time",)


def doubts(clouds: Sequence[Cloud], target_sd: float, moved: float) -> tuple[Reason, ...]:
    """Return what speaks against the runs.

    Args:
        clouds: the last of each run.
        target_sd: noise of the filters that was wanted.
        moved: share of the points that should move.
    """
    found = [few_runs(len(clouds), FEW_RUNS)] if clouds and len(clouds) < FEW_RUNS else []
    for number, cloud in enumerate(clouds):
        ess = _column(cloud, "ess")
        if ess.min() < COLLAPSED * cloud.size:
            sentence = (
                f"The cloud of run {number} collapsed at step {int(ess.argmin())}: {significant(float(ess.min()))} of "
                f"{cloud.size:,} points had all the weight, and all later ones descend from these."
            )
            remedy = "Use more num_points, a prior that says more, or more num_particles from the start."
            found.append(Reason(sentence, remedy, Section.COLLAPSE))
        shares = _column(cloud, "moved")
        if np.nanmin(shares, initial=1.0) < moved:
            step = int(np.nanargmin(shares))
            sentence = (
                f"Of the points of run {number} only {significant(100 * float(shares[step]))} % had moved at step "
                f"{step} after {int(_column(cloud, 'num_moves')[step])} moves: what is left are copies of a few."
            )
            remedy = "Use more num_particles (a smaller target_sd), a larger max_moves, or more num_points."
            found.append(Reason(sentence, remedy, Section.COLLAPSE))
        noise = _column(cloud, "noise")
        measured = np.flatnonzero(np.isfinite(noise) | np.isposinf(noise))
        if len(measured) and noise[measured[-1]] > MISSED * target_sd and _grew_no_more(cloud, measured[-1]):
            sentence = (
                f"The log likelihood estimates of run {number} vary by {significant(float(noise[measured[-1]]))} at "
                f"fixed parameters with {cloud.num_particles:,} particles, and max_particles or memory allows no more."
            )
            remedy = "Use a proposal that sees the observation, such as ssmscan.Guided, or a larger max_particles."
            found.append(Reason(sentence, remedy, Section.NOISE))
    return tuple(found)


def _grew_no_more(cloud: Cloud, step: int) -> bool:
    sizes = _column(cloud, "num_particles")
    return bool(step == 0 or sizes[step] < 2 * sizes[step - 1])


def fault_doubts(clouds: Sequence[Cloud], ssm: StateSpaceModel, estimator: ParticleFilter) -> tuple[Reason, ...]:
    """Return what to say of filters that met log weights that are not numbers, with where for one of them."""
    for number, cloud in enumerate(clouds):
        faulty = np.flatnonzero((np.asarray(cloud.points.status) == FAULTY) & np.isfinite(cloud.log_weights))
        if len(faulty):
            theta = {name: jnp.asarray(x[faulty[0]]) for name, x in cloud.theta.items()}
            key: jax.Array = as_key(cloud.points.filter_key[faulty[0]])
            said = estimator.with_num_particles(cloud.num_particles).describe(key, ssm, theta)
            which = f"{len(faulty):,} of {cloud.size:,} points of run {number} have"
            return (not_numbers(which, f"One of them: {said}"),)
    return ()


def _column(cloud: Cloud, name: str) -> np.ndarray:
    return cloud.table[:, NUMBERS.index(name)]
