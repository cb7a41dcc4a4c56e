r"""The tail index of weights, and weights smoothed by it: whether their mean and variance exist; on the host.

Importance weights have a Pareto tail, :math:`P(w > x) \propto x^{-1/k}`: the variance is infinite from k = 1/2 on, the
mean from k = 1 on.  The largest :math:`\min(n / 5, \, 3 \sqrt n)` of n weights are fitted by a generalised Pareto
distribution of the exceedances,

.. math::  \hat k(b) = \frac1m \sum_i \log(1 - b x_i), \qquad
           \hat b = \int b \, L(b) \, db \Big/ \int L(b) \, db, \qquad
           \log L(b) = m \left( \log(-b / \hat k(b)) - \hat k(b) - 1 \right),

the profile likelihood summed on a grid (Zhang & Stephens 2009, *Technometrics* 51(3), section 4), with the weakly
informative prior of Vehtari, Simpson, Gelman, Yao & Gabry (2024, *JMLR* 25(72), appendix C), ten observations at 1/2.

Its standard error is about :math:`(1 + k) / \sqrt m`: .35 with 64 weights, .13 with a thousand.

**Smoothing.**  The m largest weights, in their order, are replaced by the quantiles (i - 1/2) / m of the fitted
distribution, none larger than the largest there was.  Averages under the smoothed weights are reliable up to
:math:`\hat k = \min(1 - 1 / \log_{10} n, \, 0.7)` (Vehtari et al. 2024, sections 2 and 3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

INFINITE_VARIANCE = 0.5
"""Tail index from which the variance of weights is infinite."""

LEAST_TAIL = 5
"""Exceedances from which a tail is fitted; with fewer above the smallest number there is, all weight is in a few."""


class _Tail(NamedTuple):
    """The largest weights, relative to the largest of all.

    Attributes:
        exceeding: (m,) sorted, how far each is above the largest weight that is not among them.
        least: that weight.
    """

    exceeding: np.ndarray
    least: float


class Smoothed(NamedTuple):
    """Weights of which the largest are smoothed.

    Attributes:
        log_weights: (n,) their logarithms, normalised.
        tail_index: the tail index of the weights given, as `tail_index` returns it.
    """

    log_weights: np.ndarray
    tail_index: float


def tail_index(log_weights: np.ndarray) -> float:
    """Estimate the tail index k of weights.

    Args:
        log_weights: (n,) up to a constant; NaN and -inf are no weight.

    Returns:
        The index; -inf where the largest weights are all the same, or there are not enough to tell, and inf where fewer
        than `LEAST_TAIL` have any weight beside the largest.
    """
    tail = _tail_of(_sorted(log_weights))
    if tail is None:
        return -np.inf
    return _pareto(tail.exceeding)[0] if len(tail.exceeding) >= LEAST_TAIL else np.inf


def smoothed(log_weights: np.ndarray) -> Smoothed:
    """Smooth the largest weights by the distribution fitted to them, and normalise.

    Where no distribution is fitted, see `tail_index`, the weights are only normalised.

    Args:
        log_weights: (n,) up to a constant, some of them finite; NaN and -inf are no weight.
    """
    given = np.asarray(log_weights, np.float64)
    given = np.where(np.isnan(given), -np.inf, given)
    order = np.argsort(given, kind="stable")
    tail, index, result = _tail_of(given[order]), -np.inf, given - given[order[-1]]
    if tail is not None:
        index = np.inf
        size = len(tail.exceeding)
        if size >= LEAST_TAIL:
            index, scale = _pareto(tail.exceeding)
            upper = np.log1p(-(np.arange(size) + 0.5) / size)
            quantiles = -scale * upper if index == 0.0 else scale * np.expm1(-index * upper) / index
            with np.errstate(divide="ignore"):
                result[order[-size:]] = np.minimum(np.log(quantiles + tail.least), 0.0)
    top = result.max()
    return Smoothed(result - (top + np.log(np.sum(np.exp(result - top)))), index)


def reliable_below(number: int) -> float:
    """Return the tail index up to which averages under so many smoothed weights are reliable."""
    return min(1.0 - 1.0 / np.log10(number), 0.7) if number > 10 else 0.0


def tail_size(number: int) -> int:
    """Return how many of the largest of `number` weights are their tail."""
    return int(np.ceil(min(0.2 * number, 3 * np.sqrt(number))))


def _sorted(log_weights: np.ndarray) -> np.ndarray:
    given = np.asarray(log_weights, np.float64)
    return np.sort(np.where(np.isnan(given), -np.inf, given))


def _tail_of(ordered: np.ndarray) -> _Tail | None:
    """Return the tail of sorted log weights; None where it has no shape or there are too few of them."""
    size = tail_size(len(ordered))
    if size < LEAST_TAIL or ordered[-1] == ordered[-size - 1]:
        return None
    shifted = ordered[-size - 1 :] - ordered[-1]
    least = max(shifted[0], np.log(np.finfo(np.float64).tiny))
    exceeding = np.exp(shifted[shifted > least]) - np.exp(least)
    return _Tail(exceeding[exceeding > 0], float(np.exp(least)))


def _pareto(x: np.ndarray) -> tuple[float, float]:
    """Return shape and scale of a generalised Pareto distribution that fits sorted exceedances x > 0."""
    m, points = len(x), 30 + int(np.sqrt(len(x)))
    grid = 1 - np.sqrt(points / (np.arange(points) + 0.5))
    b = 1 / x[-1] + grid / (3 * x[int(m / 4 + 0.5) - 1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        k = np.log1p(-b[:, None] * x).mean(1)
        log_profile = m * (np.log(-b / k) - k - 1)
    log_profile = np.where(np.isnan(log_profile), -np.inf, log_profile)
    weights = np.exp(log_profile - log_profile.max())
    middle = weights @ b / weights.sum()
    shape = np.log1p(-middle * x).mean()
    return float((m * shape + 10 * 0.5) / (m + 10)), float(-shape / middle)
