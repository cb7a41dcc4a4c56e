r"""What speaks against a run of a filter, each reason with what to do; on the host.

A filter reaches its end whatever happens on the way, and its estimate of the likelihood is unbiased at any number of
particles: most estimates of a starved filter are far too low, and a rare one makes up for them.  So a run says what
happened to it.

**Starving.**  The increment of a step is a mean of weights whose relative variance is :math:`1/\mathrm{ESS} - 1/N`.  A
step starves when, after weighing, :math:`\mathrm{ESS} < \min(10, N/10)`.  Below ten the increment is wrong by a third
or more, the cloud has fewer than ten different ancestors to go on from, and the effective sample size itself, estimated
from these few, is too high: a cloud that misses the data does not know what it misses.  Below a tenth of the cloud,
because a filter of few particles, as a pseudo-marginal sampler may want it, does not starve by being small.  Of fewer
than 20 a step starves below two, where one particle has more than half of the weight, and of two particles below 3/2.

A run can survive one such step: the cloud spreads again, and the estimate keeps an error of a third.  It is told when
the starved steps together bring a relative variance of 1/5 or more, :math:`\sum 1/\mathrm{ESS} - 1/N \ge 1/5`: one step
with a handful of five effective particles of many, or two with ten.  The sentence has the worst step and the count.
From a sum of 1 on the standard deviation of log Z-hat is one or more from these steps alone, and the run is of no use
by itself.

**Heavy tails.**  A proposal that looks ahead aims at one mode of the states given all data.  Where there are others, or
the tails of its law are too light, its estimate is silently too low, and the effective sample size, of particles that
have all missed the same, does not show by how much.  What shows is that single steps undo the cloud: where the
approximation is good none leaves less than a quarter of it effective (measured: 29 % at the least, on volatility,
counts, binomial data and a linear model, with 64 and 1,000 particles; with Student-t observations of three degrees of
freedom 2 to 20 of 100 runs do), and where it is not the weights there have infinite variance, a tail index of at least
1/2 (`ssmscan.tail_index`).  A run that has both is not to be trusted.  On data of which the sign of the state
is not known (Kitagawa's benchmark, |x|) every run is told, on a double well and a square with faint observations 6 to 9
of 10.  What no particle of a run has seen it cannot tell: `ssmscan.choose_proposal` compares with the bootstrap filter.

**Weights that are not numbers.**  A particle whose log weight is NaN or +inf counts as impossible, so that the estimate
is unbiased for the model in which such states cannot be.  That is another model than the one that was written.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from ssmscan.health import Condition, Health, Reason, Section
from ssmscan.particles.ancestors import likelihood_variance, unique_ancestors
from ssmscan.particles.clouds import History, Origins, Tree
from ssmscan.particles.filter_record import FilterRecord
from ssmscan.particles.filter_step import FAULTY, NOWHERE, VANISHED
from ssmscan.tail_index import INFINITE_VARIANCE, tail_index

FEW, SHARE, HANDFUL = 10.0, 0.1, 5.0
"""A step starves with fewer effective particles than FEW and than this SHARE of the cloud.  It is told when the starved
steps are together as bad as one of a HANDFUL."""

ONE_LEADS = 2.0
"""Effective particles below which one has more than half of the weight: a step starves there in any cloud of three."""

SPARSE = 0.25
"""Share of effective particles below which a cloud that looks ahead has met what the proposal did not expect."""

MOST_VARIANCE = 0.5
"""Relative variance of the likelihood above which its root is no standard deviation of the logarithm."""

_COUNTED = "Such particles counted as impossible, so the estimate is of a model in which these states cannot be"


def reasons(result: FilterRecord) -> tuple[Reason, ...]:
    """Return what speaks against a run; nothing if all is well."""
    found = (*_against_likelihood(result), _lost_paths(result), _one_past(result))
    return tuple(reason for reason in found if reason)


def health(result: FilterRecord) -> Health:
    """Return whether a run can be used, and what was looked at."""
    return Health.of(reasons(result), _measured(result))


def message(result: FilterRecord) -> str:
    """Return how a run ended: that it is complete, unless something speaks against what it found, and what does."""
    found = health(result).sentences
    complete = not any(_against_likelihood(result))
    return " ".join(("The run is complete.", *found) if complete else found)


def _against_likelihood(result: FilterRecord) -> tuple[Reason | None, ...]:
    return _vanished(result), _not_numbers(result), _not_finite(result), _heavy_tailed(result) or _starved(result)


def _measured(result: FilterRecord) -> list[tuple[str, str]]:
    """Return the numbers that were looked at, in words."""
    found, ess = [], np.asarray(result.ess)
    if ess.size:
        where, step = smallest(result)
        found.append(("effective particles", f"least {ess[where]:.1f} of {result.num_particles} {when(step)}"))
    if result.sparsest is not None:
        index = max(tail_index(cloud) for cloud in np.atleast_2d(np.asarray(result.sparsest)))
        found.append(("tail index of the weights", f"{index:.2f} at the sparsest cloud"))
    if isinstance(result.history, Origins | Tree | History) and not _lost(result.history):
        count = unique_ancestors(result)
        found.append(("unique ancestors", f"{count[0]} of {result.num_particles} {_first_kept(result)}"))
        if result.independent_ancestors and len(count) in (1, len(result.increments) + 1 - result.start_observed):
            found.append(("sd of the log likelihood", _genealogical_sd(count[0], likelihood_variance(result))))
    return found


def _first_kept(result: FilterRecord) -> str:
    first = int(result.history.first) if isinstance(result.history, History) else 0
    return when(first - 1)


def _genealogical_sd(unique: int, variance: float) -> str:
    if unique < FEW or not variance < MOST_VARIANCE:
        return "not known from so few ancestors: ask ssmscan.Replicates(particle_filter, 32).spread"
    return f"about {max(variance, 0.0) ** 0.5:.2g}, by the genealogy of this run"


def warn_of(sentences: Iterable[str], stacklevel: int) -> None:
    """Issue a warning for each sentence; stacklevel 2 is the caller."""
    for sentence in sentences:
        warnings.warn(sentence, stacklevel=stacklevel)


def starving_limit(num_particles: int) -> float:
    """Return the effective sample size below which a step starves, in particles."""
    return max(min(FEW, SHARE * num_particles), min(ONE_LEADS, (1 + num_particles) / 2))


def when(step: Any) -> str:
    """Return the name of a step, -1 the start."""
    return "at the start" if step < 0 else f"at step {int(step)} (counting from 0)"


def smallest(result: FilterRecord) -> tuple[tuple[Any, ...], int]:
    """Return where in `ess` the fewest particles are effective, and the number of that step."""
    ess = np.asarray(result.ess)
    where = np.unravel_index(np.argmin(ess), ess.shape)
    return where, result.first_step + int(where[0]) - result.start_observed


def _sites(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _in_element(result: FilterRecord, number: Any) -> str:
    if result.panel is None:
        return ""
    return f" in element {int(number)}" + (f" of '{result.panel.name}'" if result.panel.name else "")


def _vanished(result: FilterRecord) -> Reason | None:
    if result.status != VANISHED:
        return None
    where = when(result.failed_step) + _in_element(result, result.failed_element)
    return Reason(
        f"Every particle has weight zero {where}: none can produce the observation of {_sites(result.observations)}. "
        "The log likelihood is -inf; results before that step stand.",
        "Check that observation and the parameters, or use more particles, num_particles.",
        Section.VANISHED,
        Condition.UNUSABLE,
    )


def _not_numbers(result: FilterRecord) -> Reason | None:
    if result.faulty_step == NOWHERE:
        return None
    where = when(result.faulty_step)
    if result.status == FAULTY:
        where += _in_element(result, result.failed_element)
    of = f"the density of {_sites(result.observations)}"
    if result.proposal != "Bootstrap":
        of += f", or of what {result.proposal} proposes,"
    return Reason(
        f"Log weights were NaN or +inf, first {where}: {of} is not a number there. {_COUNTED}.",
        "Write the density so that it has a value in every state, such as by a floor under a scale.",
        Section.NOT_NUMBERS,
        Condition.UNUSABLE,
    )


def _not_finite(result: FilterRecord) -> Reason | None:
    if result.status == VANISHED or np.isfinite(result.log_likelihood):
        return None
    return Reason(
        f"The log likelihood is {float(result.log_likelihood)}: the observations and factors that no state reaches "
        "have no finite log-density at these parameters. What the filter itself found stands.",
        "Look at ssm.log_static(theta), which is their log-density.",
        Section.NOT_NUMBERS,
        Condition.UNUSABLE,
    )


def _starved(result: FilterRecord) -> Reason | None:
    """Return the worst step and how many starve; from the step where all weights vanish ESS is 0."""
    n = result.num_particles
    limit = starving_limit(n)
    ess = np.asarray(result.ess)
    starved = (ess > 0) & (ess < limit)
    if (brought := np.sum(1 / ess[starved] - 1 / n)) < 1 / HANDFUL:
        return None
    worst = np.unravel_index(np.argmin(np.where(starved, ess, np.inf)), ess.shape)
    step = result.first_step + int(worst[0]) - result.start_observed
    element = _in_element(result, worst[1]) if ess.ndim > 1 else ""
    steps = starved.reshape(len(ess), -1).any(1)
    often = f"below {limit:g} at {_share(steps)} steps" if steps.sum() > 1 else f"below {limit:g} at that step alone"
    if ess.ndim > 1:
        often += f", in {_share(starved.any(0))} elements"
    return Reason(
        f"The effective sample size fell to {ess[worst]:.1f} of {n} particles {when(step)}{element}, at the "
        f"observation of {_sites(result.observations)}, and {often}. The log likelihood and the states there rest on a "
        "handful of particles and may be far off, the log likelihood mostly too low.",
        "Use more particles, or a proposal that goes where the observations are, proposal=ssmscan.LookAhead() or "
        "ssmscan.Guided; ssmscan.NUTS samples parameters and states without particles.",
        Section.STARVES,
        Condition.UNUSABLE if brought >= 1 else Condition.DOUBTFUL,
    )


def heavy_tail(ess: np.ndarray, num_particles: int, log_weights: np.ndarray) -> float | None:
    """Return the tail index of the sparsest cloud of a filter that looks ahead, None where its run may be trusted.

    Args:
        ess: (T,) effective sample sizes.
        num_particles: N.
        log_weights: (n,) of the sparsest cloud, see `FilterRecord.sparsest`.
    """
    if not 0 < np.min(ess) < SPARSE * num_particles:
        return None
    index = tail_index(log_weights)
    return index if index >= INFINITE_VARIANCE else None


def _heavy_tailed(result: FilterRecord) -> Reason | None:
    """Return the step with the sparsest cloud of a run that looked ahead, if the tail of its weights is heavy."""
    if result.sparsest is None or result.status == VANISHED or not np.size(result.ess):
        return None
    n, every = result.num_particles, np.asarray(result.ess).reshape(len(result.ess), -1)
    clouds = np.asarray(result.sparsest).reshape(every.shape[1], -1)
    found = [
        (least, number) for number, least in enumerate(every.min(0)) if heavy_tail(every[:, number], n, clouds[number])
    ]
    if not found:
        return None
    least, number = min(found)
    index = tail_index(clouds[number])
    step = result.first_step + int(np.argmin(every[:, number])) - result.start_observed
    element = _in_element(result, number)
    beside = f", and in {_share(np.arange(every.shape[1]) < len(found))} elements" if len(found) > 1 else ""
    few = "all weight in a handful of particles" if np.isinf(index) else f"a tail index of {index:.1f}"
    return Reason(
        f"The weights of {result.proposal} are heavy-tailed: {when(step)}{element} {least:.1f} of {n} particles were "
        f"effective, with {few}, where 0.5 is infinite variance{beside}. The states given all data may have several "
        "modes, of which the proposal knows one: the log likelihood cannot be trusted, and is mostly too low.",
        "Use proposal=ssmscan.Bootstrap(); ssmscan.choose_proposal compares the two.",
        Section.HEAVY_TAILS,
        Condition.UNUSABLE,
    )


def _share(which: Any) -> str:
    return f"all {len(which)}" if which.all() else f"{which.sum()} of {len(which)}"


def _lost(history: Any) -> bool:
    return isinstance(history, Tree) and int(np.max(history.lost)) >= 0


def _lost_paths(result: FilterRecord) -> Reason | None:
    if not _lost(result.history):
        return None
    lost = np.asarray(result.history.lost)  # type: ignore[union-attr]
    return Reason(
        f"The ancestral paths are not complete: {when(lost[lost >= 0].min())} the particles had more ancestors than "
        "there was room for. Everything else is right.",
        "Give store=ssmscan.Ancestry(room=...) more room, or use ssmscan.FullHistory().",
        Section.PATHS,
    )


def _one_past(result: FilterRecord) -> Reason | None:
    """Return up to which step all paths of a tree, which has no others than ancestral ones, are one path."""
    if not isinstance(result.history, Tree) or _lost(result.history):
        return None
    count = unique_ancestors(result)
    met = int(np.sum(count == 1))
    if met <= len(count) // 2:
        return None
    return Reason(
        f"All particles of the last cloud have one ancestor {when(met - 2)}: of {len(count) - 1} steps the ancestral "
        f"paths have {met - 1} in common.",
        "For the states of early steps use ssmscan.Smoother(), or more particles, num_particles.",
        Section.PATHS,
        Condition.SOUND,
    )
