r"""How many particles?  The next number to try, from the noise measured with those tried so far.

The standard deviation of the log likelihood estimate falls about as :math:`\sigma \propto N^{-1/2}`, so a measured one
proposes :math:`N \sigma^2 / \sigma_*^2`.  The rule fails where :math:`\sigma` is infinite with few particles and tiny
with more, and two proposals then contradict each other for ever; so each number is tried once, and only between the
largest known to be too small and the smallest known to be enough.  Numbers are powers of two, because each compiles
a program of its own, and another key should find the programs of the last: a factor of :math:`\sqrt 2` in N changes
:math:`\sigma` by less than its efficient range is wide.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FEWEST = 16
"""Smallest number of particles chosen."""

TOLERANCE = 1.8
"""A number of particles is kept if the proposed one is within this factor of it."""

LONGEST_STRIDE = 8
"""Largest factor between two numbers tried one after the other."""

MISSED = 1.5
"""A standard deviation of more than this many times the target has missed it."""


def next_size(measured: Mapping[int, float], size: int, target_sd: float, most: int) -> int | None:
    """Return the next number of particles to try, or None if the search is over.

    Args:
        measured: standard deviation by number of particles, inf where an estimate was zero.
        size: the number tried last.
        target_sd: the standard deviation wanted.
        most: the largest number allowed.
    """
    ratio = float(np.clip((measured[size] / target_sd) ** 2, 1 / LONGEST_STRIDE, LONGEST_STRIDE))
    if 1 / TOLERANCE < ratio < TOLERANCE:
        return None
    too_few = max((n for n, sd in measured.items() if sd > target_sd), default=0)
    enough = min((n for n, sd in measured.items() if sd <= target_sd), default=np.inf)
    proposed = power_of_two(size * ratio, most)
    if not too_few < proposed < enough and np.isfinite(enough):
        proposed = power_of_two(np.sqrt(max(too_few, FEWEST) * enough), most)
    return proposed if too_few < proposed < enough else None


def best_size(measured: Mapping[int, float], target_sd: float) -> int:
    """Return the smallest number of particles near the target, else the one with the smallest deviation."""
    near = [n for n, sd in measured.items() if sd < target_sd * np.sqrt(TOLERANCE)]
    return min(near) if near else min(measured, key=lambda n: (measured[n], -n))


def power_of_two(size: float, most: int) -> int:
    """Return the power of two nearest to size on the log scale, from `FEWEST` to the largest below `most`."""
    top = max(int(np.floor(np.log2(most))), int(np.log2(FEWEST)))
    return int(2 ** np.clip(np.round(np.log2(size)), np.log2(FEWEST), top))
