r"""Parameters whose posterior has no mean or standard deviation to compare.

A posterior that goes over into a prior with heavy tails, a Cauchy for one, has draws whose squares have no mean, or no
variance: an estimate of the sd then has no error that anybody knows, however many draws there are.  The tail index k of
:math:`|x - m|^p`, m the median (`ssmscan.tail_index`), says so: averages of what has k above 0.7 are not to be relied
on.  Where the draws of *all* engines have such tails, it is the posterior that has them and no engine that fails; its
sd (p = 2), and its mean (p = 1), are then not compared, and differences are measured in distances of its 5 and 95 %
quantiles, which are those of a normal law of sd one :math:`2 \cdot 1.645` apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ssmscan.results.data import ResultData
from ssmscan.results.summary import ScalarSummary, scalars
from ssmscan.tail_index import tail_index

LIMIT = 0.7
"""k-hat above which averages are not to be relied on (Vehtari et al. 2024, section 3)."""

NORMAL_RANGE = 2 * 1.6448536269514722
"""Distance of the 5 and 95 % quantiles of the standard normal law."""

POWERS = {"sd": 2, "mean": 1}
"""Statistic -> power of the deviations that it is an average of."""


def without_moments(results: Mapping[str, ResultData]) -> dict[str, tuple[str, ...]]:
    """Return the parameters whose sd, or mean too, no engine can estimate: label -> statistics."""
    log_deviations = [
        {label: _log_deviations(draws) for label, draws in scalars(result.draws)} for result in results.values()
    ]
    found = {}
    for label in log_deviations[0]:
        gone = tuple(
            statistic
            for statistic, power in POWERS.items()
            if all(tail_index(power * one[label]) > LIMIT for one in log_deviations)
        )
        if gone:
            found[label] = gone
    return found


def sentences(found: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Say what is not compared, and why."""
    return tuple(
        f"{' and '.join(reversed(gone))} of {label} not compared: in the draws of every engine its tails are so heavy "
        "that there may be none; its differences are in units of its 5 to 95 % range over 3.29."
        for label, gone in found.items()
    )


def quantile_sd(summary: ScalarSummary) -> float:
    """Return the sd of the normal law with the 5 and 95 % quantiles of a parameter."""
    low, _, high = summary.statistics[2:]
    return (high.value - low.value) / NORMAL_RANGE


def _log_deviations(draws: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.abs(draws - np.median(draws))).ravel()
