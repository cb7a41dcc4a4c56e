r"""How often two runs may be compared while they grow, and how much each should grow before the next look.

A comparison that is made again whenever there are more draws is a test made again: each look may be wrong.  At most
`MOST_LOOKS` are made, and each is given the same share of the errors that the verdict as a whole may make,

.. math:: \alpha_k = \alpha / 6, \qquad P(\text{some look is wrong}) \le \sum_k \alpha_k = \alpha .

The draws of a look contain those of the looks before it; the union bound holds however they depend on each other,
and whatever made the looking stop.  Equal shares cost little: with fifteen differences the intervals are 1.14 times
as wide as those of a single look, at any of the six (spending of the level: Lan & DeMets 1983, *Biometrika* 70, p. 659;
with nothing assumed of the dependence, since the draws of a Markov chain are no Brownian motion).

**How much.**  The variance of a difference is :math:`v_a/g_a + v_b/g_b` once the two runs are :math:`g_a` and
:math:`g_b` times as long, and the time that takes is :math:`c_a (g_a - 1) + c_b (g_b - 1)`.  It is shortest where
:math:`g \propto \sqrt{v/c}`: the engine that limits grows, and one whose draws are already good enough does not.
`growth` goes there in small steps, each to the engine that buys most for its time.  One look takes the runs to twice
the draws, or further where the looks that are left would not reach a verdict otherwise, or less far where less is
enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ssmscan.results.agreement import Comparison, PairReport
from ssmscan.results.criteria import Tolerances
from ssmscan.results.summary import STATISTICS
from ssmscan.results.verdicts import Verdict

MOST_LOOKS = 6
"""Looks of one cross-check, those of the runs it goes on from included."""

DOUBLING = 2.0
"""Draws of a look over those of the look before it, where so many are needed."""

LEAST_GROWTH = 1.25
"""A look after less growth than this is not worth its share of the errors."""

STEP = 1.02
"""Ratio of two growths that are told apart."""


class Pace(NamedTuple):
    """What it takes one engine to go on.

    Attributes:
        overhead: seconds that a call takes besides drawing.
        drawing: seconds in which it made all the draws it has.
    """

    overhead: float
    drawing: float

    def seconds(self, growth: float) -> float:
        """Return the seconds of a call after which there are `growth` times as many draws."""
        return self.overhead + self.drawing * (growth - 1.0) if growth > 1.0 else 0.0


def share(error: float) -> float:
    """Return what one look may spend of an error rate."""
    return error / MOST_LOOKS


def growth(comparison: Comparison, paces: Mapping[str, Pace], tolerances: Tolerances) -> dict[str, float]:
    """Return by what factor to lengthen the run of each engine so that a verdict is likely, in the least time."""
    grown = {report.name: 1.0 for report in comparison.engines}
    cost = {name: max(pace.drawing, 1e-9) for name, pace in paces.items()}
    for report in comparison.engines:
        if report.fault is not None:
            factor = report.fault.more_draws
            grown[report.name] = max(factor, LEAST_GROWTH) if np.isfinite(factor) else DOUBLING
    for pair in comparison.pairs:
        factor = pair.judgement.more_draws
        if pair.verdict is not Verdict.CANNOT_TELL or not np.isfinite(factor):
            continue
        first, second = _variances(comparison, pair, tolerances)
        target = (first + second).max() / max(factor, LEAST_GROWTH)
        while (found := first / grown[pair.first] + second / grown[pair.second]).max() > target:
            worst = found.argmax()
            gains = {
                name: variance[worst] / (grown[name] ** 2 * cost[name])
                for name, variance in ((pair.first, first), (pair.second, second))
            }
            grown[max(gains, key=gains.__getitem__)] *= STEP
    return grown


def next_growth(wanted: Mapping[str, float], looks_left: int) -> dict[str, float]:
    """Return the part of the growth that is wanted to which the next look goes."""
    furthest = max(wanted.values())
    limit = max(DOUBLING, furthest ** (1.0 / max(looks_left, 1)))
    return {name: min(factor, limit) for name, factor in wanted.items()}


def within(grown: Mapping[str, float], paces: Mapping[str, Pace], seconds: float) -> dict[str, float] | None:
    """Return as much of a growth as there is time for; None where there is not enough for another look."""
    grown = {name: factor if factor >= STEP else 1.0 for name, factor in grown.items()}
    overhead = sum(paces[name].overhead for name, factor in grown.items() if factor > 1.0)
    drawing = sum(paces[name].drawing * (factor - 1.0) for name, factor in grown.items())
    part = 1.0 if overhead + drawing <= seconds else (seconds - overhead) / max(drawing, 1e-9)
    fitting = {name: 1.0 + part * (factor - 1.0) for name, factor in grown.items()}
    return fitting if max(fitting.values()) >= LEAST_GROWTH else None


def _variances(comparison: Comparison, pair: PairReport, tolerances: Tolerances) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance that each engine gives to each difference of a pair, in squared tolerances."""
    summaries = {report.name: report.summaries for report in comparison.engines}

    def squared_errors(name: str) -> np.ndarray:
        found = [summaries[name][d.parameter].statistics[STATISTICS.index(d.statistic)] for d in pair.differences]
        return np.array([estimate.error**2 for estimate in found])

    first, second = squared_errors(pair.first), squared_errors(pair.second)
    both = np.array([(d.estimate.error / tolerances.of(d.statistic)) ** 2 for d in pair.differences])
    share = first / np.where(first + second > 0.0, first + second, 1.0)
    return both * share, both * (1.0 - share)
