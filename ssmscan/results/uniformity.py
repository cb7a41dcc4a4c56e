r"""Are numbers independent and uniform on (0, 1): a band that the whole distribution function stays in.

PIT values of forecasts and ranks of simulation-based calibration are uniform if all is right.  With F_N the empirical
distribution function of N values and points z_1 < ... < z_m, N F_N(z_i) is Binomial(N, z_i) at each point, and each has
a central interval of the same level 1 - gamma.  The band is made of these intervals, with gamma the largest at which
all of them hold together with the probability asked for (Säilynoja, Bürkner & Vehtari 2022, "Graphical test for
discrete uniformity and its applications in goodness-of-fit evaluation and multiple sample comparison", Statistics and
Computing 32, article 32, section 2).

That probability is computed, not simulated.  The counts of uniform values are a Markov chain,

.. math:: N F_N(z_{i+1}) - n \mid N F_N(z_i) = n \;\sim\; \mathrm{Binomial}\Big(N - n,\;
          \frac{z_{i+1} - z_i}{1 - z_i}\Big),

whose probability of staying between the bounds at all points is a forward recursion.  Counts are whole, so that it is
the level asked for or a little more.

The points are z_i = i / cells, the last of them 1, where every value must be: one that is no number leaves the band
there.  For ranks 0 .. L among L draws take (rank + 1) / (L + 1) as the values, and cells that
divide L + 1: at these points their distribution function is that of the uniform law.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special

from ssmscan.arguments import refusal, require_integer, require_number

MOST_CELLS = 100
"""Points of a band, unless another number is asked for; no more than there are values."""

MANY = 1000
"""The level of the single intervals of more values than these is that of so many: it hardly depends on them by then."""

_HALVINGS = 12


class Band(NamedTuple):
    """Bounds of F_N(z) - z for uniform values.

    Attributes:
        points: (m,) where they hold, increasing to 1.
        lower: (m,) the least difference at each point.
        upper: (m,) the largest.
        gamma: probability of being outside of the bounds at one point alone, or less.
    """

    points: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    gamma: float


def simultaneous_band(number: int, *, level: float = 0.95, cells: int | None = None) -> Band:
    """Return bounds between which the distribution function of uniform values less the uniform one stays everywhere.

    Args:
        number: N, how many values there are.
        level: probability that it stays there, in (0, 1).
        cells: m, intervals of equal length that end at the points; the smaller of 100 and N, at least 2, by default.

    Raises:
        TypeError: if a number is of another type.
        ValueError: if there is no value, the level is not between 0 and 1, or there are fewer than 2 cells.
    """
    number = require_integer("number", number, at_least=1)
    level = require_number("level", level, 0, 1)
    cells = max(min(number, MOST_CELLS), 2) if cells is None else require_integer("cells", cells, at_least=2)
    points = np.arange(1, cells + 1) / cells
    gamma = _level_of_one(min(number, MANY), level, cells)
    low, high = _bounds(number, points, gamma)
    return Band(points, low / number - points, high / number - points, gamma)


def uniform_values(argument: str, values: object) -> np.ndarray:
    """Return those of some values that are not missing, (n,) float64.

    Args:
        argument: their name in messages.
        values: (n,) numbers in [0, 1]; NaN is missing.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if they are not in one row, some are outside [0, 1], or none is left.
    """
    expected = "a row of numbers in [0, 1], such as PIT values"
    given = values if isinstance(values, (list, tuple)) or hasattr(values, "__array__") else None
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        found = np.full((), np.nan)
    if given is None or found.ndim == 0:
        raise TypeError(refusal(argument, expected, values))
    if found.ndim > 1:
        raise ValueError(f"{argument}: expected {expected}, got shape {found.shape}: choose an element, values[:, i].")
    found = found[~np.isnan(found)]
    if not len(found):
        raise ValueError(f"{argument}: expected {expected}, got none that is not missing.")
    if (found < 0.0).any() or (found > 1.0).any():
        worst = found[np.argmax(np.abs(found - 0.5))]
        raise ValueError(f"{argument}: expected {expected}, got {worst:g} among them.")
    return found


def difference(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return F_N(z) - z of values (n,) at points (m,).

    A value that is a point but for rounding counts as not above it, and one that is no number as above all.
    """
    return np.searchsorted(np.sort(values), points + 1e-9, side="right") / len(values) - points


def rarest(differences: np.ndarray, number: int) -> float:
    """Return the pointwise level of the point that is furthest off: outside of a band if it is below its gamma.

    Args:
        differences: (..., m) of `difference`, at i / m.
        number: N, the number of values.
    """
    points = np.arange(1, differences.shape[-1] + 1) / differences.shape[-1]
    counts = np.round((differences + points) * number)
    tails = np.minimum(special.bdtr(counts, number, points), special.bdtrc(counts - 1, number, points))
    return float(2 * tails.min())


@lru_cache(maxsize=64)
def _level_of_one(number: int, level: float, cells: int) -> float:
    """Return the largest gamma at which the intervals hold together with this probability."""
    points = np.arange(1, cells) / cells
    # That of Bonferroni is small enough, that of a single point too large.
    small, large = (1.0 - level) / (cells - 1), 1.0 - level
    if cells == 2 or _coverage(number, points, large) >= level:
        return large
    for _ in range(_HALVINGS):
        middle = np.sqrt(small * large)
        small, large = (middle, large) if _coverage(number, points, middle) >= level else (small, middle)
    return float(small)


def _bounds(number: int, points: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the counts at each point that hold with probability 1 - gamma at each alone."""
    # Takes as long to import as JAX does.
    from scipy.stats import binom

    return binom.ppf(gamma / 2, number, points), binom.isf(gamma / 2, number, points)


def _coverage(number: int, points: np.ndarray, gamma: float) -> float:
    """Return the probability that all counts stay between their bounds."""
    lows, highs = (bound.astype(int) for bound in _bounds(number, points, gamma))
    log_factorial = special.gammaln(np.arange(number + 1) + 1.0)
    counts, probabilities, before = np.zeros(1, int), np.ones(1), 0.0
    for point, low, high in zip(points, lows, highs):
        new = np.arange(low, high + 1)
        step = _binomial(new[:, None] - counts, number - counts, (point - before) / (1.0 - before), log_factorial)
        counts, probabilities, before = new, step @ probabilities, point
    return float(probabilities.sum())


def _binomial(k: np.ndarray, n: np.ndarray, p: float, log_factorial: np.ndarray) -> np.ndarray:
    """Return the probability of k of n, 0 where k is negative or more than n."""
    inside = (k >= 0) & (k <= n)
    k = np.where(inside, k, 0)
    log_choices = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    return np.where(inside, np.exp(log_choices + k * np.log(p) + (n - k) * np.log1p(-p)), 0.0)
