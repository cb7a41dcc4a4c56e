r"""Simultaneous bands for the empirical distribution function of a uniform sample.

Of N values u_1, ..., u_N in [0, 1] let F(x) = #{u_i <= x} / N.  If they are independent and uniform, N F(x) is
Binomial(N, x), and the band between its quantiles of levels gamma/2 and 1 - gamma/2 at the points x_k = k/K holds F at
all of them at once with a probability that depends on gamma alone.  It is computed without simulation: counts at
increasing points are a Markov chain,

.. math::  N F(x_{k+1}) - N F(x_k) \;|\; N F(x_k) = n  \;\sim\;
           \mathrm{Binomial}\left(N - n, \frac{x_{k+1} - x_k}{1 - x_k}\right),

so the probability of never having left the band by x_k is carried forward count by count, and gamma is solved for
(Säilynoja, Bürkner & Vehtari 2022, *Statistics and Computing* 32:32, algorithm 1 and section 2.2).  The band is
narrow at both ends, where a sample that is too wide or too narrow shows; that of Kolmogorov and Smirnov is not.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom


class Bands(NamedTuple):
    """A simultaneous band of F(x) - x.

    Attributes:
        lower: (K,) lower ends, at x = 1/K, 2/K, ..., 1.
        upper: (K,) upper ends.
        gamma: pointwise level outside of it.
    """

    lower: np.ndarray
    upper: np.ndarray
    gamma: float


def coverage(size: int, num_points: int, gamma: float) -> float:
    """Compute the probability that a uniform sample of a size stays within the band at all points."""
    points = np.arange(1, num_points + 1) / num_points
    low, high = _counts(size, points, gamma)
    counts = np.zeros(1, int)
    inside, before = np.ones(1), 0.0
    for point, first, last in zip(points, low, high):
        after = np.arange(first, last + 1)
        share = min((point - before) / (1.0 - before), 1.0)
        steps = binom.pmf(after[None] - counts[:, None], size - counts[:, None], share)
        counts, inside, before = after, inside @ steps, point
    return float(inside.sum())


@cache
def simultaneous_bands(size: int, num_points: int, level: float) -> Bands:
    """Compute the narrowest band of its kind that holds a uniform sample with probability `level` at least.

    Args:
        size: N, the number of values.
        num_points: K, of a grid that ends at one.
        level: simultaneous probability, in (0, 1).
    """
    # Between Bonferroni over all points, and a single point.
    smallest, largest = np.log((1.0 - level) / num_points) - 1.0, np.log1p(-level)
    gamma = np.exp(brentq(lambda g: coverage(size, num_points, np.exp(g)) - level, smallest, largest, xtol=1e-3))
    while coverage(size, num_points, gamma) < level:
        gamma *= 0.999
    points = np.arange(1, num_points + 1) / num_points
    low, high = _counts(size, points, gamma)
    return Bands(low / size - points, high / size - points, float(gamma))


def difference(values: np.ndarray, num_points: int) -> np.ndarray:
    """Compute F(x) - x of values in [0, 1] at the points of the grid, (K,)."""
    points = np.arange(1, num_points + 1) / num_points
    return np.searchsorted(np.sort(values), points, side="right") / len(values) - points


def rarest(differences: np.ndarray, size: int) -> float:
    """Return the pointwise level of the point that is furthest off: outside of a band if it is below its gamma.

    Args:
        differences: (..., K) of `difference`.
        size: N, the number of values.
    """
    points = np.arange(1, differences.shape[-1] + 1) / differences.shape[-1]
    counts = np.round((differences + points) * size)
    return float(2 * np.minimum(binom.cdf(counts, size, points), binom.sf(counts - 1, size, points)).min())


def _counts(size: int, points: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest count inside the band at each point."""
    low = binom.ppf(gamma / 2, size, points).astype(int)
    return low, binom.isf(gamma / 2, size, points).astype(int)
