r"""Parameters whose posterior has no mean or standard deviation to compare.

A posterior that goes over into a prior with heavy tails, a Cauchy for one, has draws whose squares have no mean, or no
variance: an estimate of the sd then has no error that anybody knows, however many draws there are.  The tail index k of
:math:`|x - m|^p`, m the median (`ssmscan.tail_index`), says so: averages of what has k above 0.7 are not to be relied
on.  The sd (p = 2), and the mean (p = 1), are then not compared, and differences are measured in distances of the 5 and
95 % quantiles, which are those of a normal law of sd one :math:`2 \cdot 1.645` apart.  Whose word counts:

* Draws have a heavy tail because the posterior has, or because the engine strays.  It is taken to be the posterior's
  where the draws of *all* engines have it; that of one engine alone is a difference, and is compared.
* Weighted points carry the density of the posterior, and few draws go where they go: one engine is enough whose
  :math:`w |x - m|^p` has such a tail while its weights alone are sound, provided that its proposal is not what is at
  fault.  Of one that is too narrow the weights grow outwards, and the points that lie furthest out (as many as a tail
  is fitted to) have much of the posterior; here they may have a tenth, as much as lies beyond the quantiles that are
  compared.  Median and quantiles are averages of bounded functions, whose errors hold wherever the weights are sound.

What this hides: an engine that is wrong only beyond the 5 and 95 % quantiles, by so little in the mean that it does not
matter.  Its sd may be anything, and beside an importance sampler that found no error of the sd nobody looks at it.  The
comparison says so, with the names of those that saw the tail and of those that did not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ssmscan.results.data import ResultData, samples
from ssmscan.results.summary import Sample, ScalarSummary, scalars
from ssmscan.results.weighted import quantile
from ssmscan.tail_index import tail_index, tail_size

LIMIT = 0.7
"""k-hat above which averages are not to be relied on (Vehtari et al. 2024, section 3)."""

FAR_OUT = 0.1
"""Weight beyond the 5 and 95 % quantiles: the points furthest out have no more under a proposal that covers them."""

NORMAL_RANGE = 2 * 1.6448536269514722
"""Distance of the 5 and 95 % quantiles of the standard normal law."""

POWERS = {"sd": 2, "mean": 1}
"""Statistic -> power of the deviations that it is an average of."""

NotCompared = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Label -> statistic that is not compared -> the engines that say so."""


def without_moments(results: Mapping[str, ResultData]) -> NotCompared:
    """Return the parameters whose sd, or mean too, cannot be estimated, with the engines that say so."""
    evidence = {name: _evidence(result) for name, result in results.items()}
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for label in next(iter(evidence.values())):
        for statistic in POWERS:
            words = {name: own[label][statistic] for name, own in evidence.items()}
            seen_by = tuple(name for name, (in_draws, in_points) in words.items() if in_draws or in_points)
            if len(seen_by) == len(words) or any(in_points for _, in_points in words.values()):
                found.setdefault(label, {})[statistic] = seen_by
    return found


def sentences(found: NotCompared, engines: Collection[str]) -> tuple[str, ...]:
    """Say what is not compared, and who says why."""
    said = []
    for label, gone in found.items():
        for seen_by in dict.fromkeys(gone.values()):
            statistics = " and ".join(name for name in reversed(POWERS) if gone.get(name) == seen_by)
            others = _listed([name for name in engines if name not in seen_by])
            whose, unlike = (_listed(seen_by), f", not so in those of {others}") if others else ("every engine", "")
            said.append(
                f"{statistics} of {label} not compared: in the draws of {whose} its tails are so heavy that there may "
                f"be none{unlike}; its differences are in units of its 5 to 95 % range over 3.29."
            )
    return tuple(said)


def quantile_sd(summary: ScalarSummary) -> float:
    """Return the sd of the normal law with the 5 and 95 % quantiles of a parameter."""
    low, _, high = summary.statistics[2:]
    return (high.value - low.value) / NORMAL_RANGE


def limit_of(number: int) -> float:
    """Return k-hat above which averages of so many points are not to be relied on."""
    return min(1.0 - 1.0 / np.log10(max(number, 2)), LIMIT)


def exceeds(index: float, limit: float) -> bool:
    """Return whether k-hat is above the limit, as both are printed."""
    return round(index, 2) > round(limit, 2)


def weighted_tail(log_weights: np.ndarray, sample: Sample, power: int) -> float:
    """Return k-hat of the weights (points,) times a power of the distances from the median."""
    return tail_index(log_weights + power * _log_deviations(sample))


def _evidence(result: ResultData) -> dict[str, dict[str, tuple[bool, bool]]]:
    """Return label -> statistic -> whether draws of equal weight, and whether sound weighted points, have its tail."""
    log_weights, points = result.log_weights, samples(result) if result.points else {}
    limit = limit_of(len(log_weights))
    sound = bool(points) and not exceeds(tail_index(log_weights), limit)
    found = {}
    for label, draws in scalars(result.draws, result.labels):
        log_deviations = _log_deviations(Sample.of(draws))
        covered = sound and _far_out(points[label]) <= FAR_OUT
        found[label] = {
            statistic: (
                tail_index(power * log_deviations) > LIMIT,
                covered and exceeds(weighted_tail(log_weights, points[label], power), limit),
            )
            for statistic, power in POWERS.items()
        }
    return found


def _far_out(sample: Sample) -> float:
    """Return the weight of the points that lie furthest from the median, as many as a tail is fitted to."""
    furthest = np.argsort(_log_deviations(sample))[len(sample.values) - tail_size(len(sample.values)) :]
    return float(sample.weights[furthest].sum())


def _log_deviations(sample: Sample) -> np.ndarray:
    """Return log |x - m| of each value; -inf where there is no weight."""
    used = sample.weights > 0.0
    found = np.full(len(used), -np.inf)
    if not used.any():
        return found
    x, weights = sample.values[used], sample.weights[used]
    order = np.argsort(x, kind="stable")
    with np.errstate(divide="ignore"):
        found[used] = np.log(np.abs(x - quantile(x[order], weights[order], (0.5,))))
    return found


def _listed(names: Collection[str]) -> str:
    return " and ".join(names)
