"""The band holds uniform values with the probability that it states, by enumeration and by simulation."""

import itertools
from math import factorial

import numpy as np
import pytest
from scipy import stats

from ssmscan.results.uniformity import difference, rarest, simultaneous_band, uniform_values
from tests.truth import z_threshold


def inside(values, band):
    """Return whether the distribution function of each row of values stays within the band, (m,)."""
    found = (values[:, None, :] <= band.points[:, None]).mean(-1) - band.points
    return ((found >= band.lower - 1e-9) & (found <= band.upper + 1e-9)).all(-1)


@pytest.mark.parametrize(("number", "cells"), [(1, 2), (4, 3), (6, 4)])
def test_the_level_by_enumeration_of_all_counts(number, cells):
    band = simultaneous_band(number, level=0.8, cells=cells)
    total = 0.0
    for counts in itertools.product(range(number + 1), repeat=cells):
        if sum(counts) == number:
            below = np.cumsum(counts) / number - band.points
            ways = factorial(number) / np.prod([factorial(n) for n in counts])
            total += ways / cells**number * ((below >= band.lower - 1e-9) & (below <= band.upper + 1e-9)).all()
    assert total >= 0.8


@pytest.mark.parametrize(("number", "level"), [(30, 0.9), (100, 0.95), (1500, 0.95)])
def test_the_level_by_simulation(number, level):
    # with 4,000 rows an error of .015 in the level is seen; counts are whole, which makes it larger by up to .01
    rows, threshold = 4000, z_threshold(2 * 3)
    values = np.random.default_rng(0).random((rows, number), np.float32)
    band = simultaneous_band(number, level=level, cells=20)
    error = np.sqrt(level * (1.0 - level) / rows)
    share = inside(values, band).mean()
    assert level - threshold * error < share < level + 0.01 + threshold * error
    # single intervals of that level do not hold together
    quantiles = (stats.binom.ppf(p, number, band.points) / number for p in ((1 - level) / 2, (1 + level) / 2))
    lower, upper = (quantile - band.points for quantile in quantiles)
    assert inside(values, band._replace(lower=lower, upper=upper)).mean() < level - threshold * error


def test_ranks_are_compared_where_their_distribution_function_is_uniform():
    ranks = np.tile(np.arange(20), 5)
    points = simultaneous_band(len(ranks), cells=20).points
    np.testing.assert_allclose(difference((ranks + 1) / 20, points), 0.0, atol=1e-12)


@pytest.mark.parametrize("shape", ["location", "spread"])
def test_values_that_are_not_uniform_leave_the_band(shape):
    rng = np.random.default_rng(0)
    values = rng.random((200, 500)) ** 1.4 if shape == "location" else rng.beta(1.7, 1.7, (200, 500))
    assert inside(values, simultaneous_band(500, level=1 - 1e-5)).mean() < 0.1


def test_the_rarest_point_is_outside_of_the_band_where_the_values_are():
    band, rng = simultaneous_band(80, level=0.9, cells=20), np.random.default_rng(3)
    outside = 0
    for _ in range(300):
        found = difference(rng.random(80) ** 1.2, band.points)
        left = bool(((found < band.lower) | (found > band.upper)).any())
        assert (rarest(found, 80) < band.gamma) == left
        outside += left
    assert 30 < outside < 270


def test_a_value_that_is_no_number_leaves_the_band():
    band = simultaneous_band(100, level=0.99, cells=20)
    values = np.append((np.arange(99) + 0.5) / 99, np.nan)
    assert (difference(values, band.points) < band.lower).any()


def test_what_is_not_a_row_of_probabilities_is_refused():
    np.testing.assert_array_equal(uniform_values("values", [0.25, np.nan, 1.0]), [0.25, 1.0])
    for values, error, message in [
        (None, TypeError, "values: expected a row of numbers in .0, 1., such as PIT values, got None"),
        (0.5, TypeError, "got 0.5"),
        (["a"], TypeError, "got a list of 1"),
        (np.ones((3, 2)), ValueError, r"got shape \(3, 2\): choose an element, values\[:, i\]"),
        ([np.nan], ValueError, "got none that is not missing"),
        ([0.5, 1.5], ValueError, "got 1.5 among them"),
    ]:
        with pytest.raises(error, match=message):
            uniform_values("values", values)
    with pytest.raises(ValueError, match="level: expected a number strictly between 0 and 1, got 1.0"):
        simultaneous_band(9, level=1.0)
    with pytest.raises(ValueError, match="cells: expected an integer of at least 2, got 1"):
        simultaneous_band(9, cells=1)
