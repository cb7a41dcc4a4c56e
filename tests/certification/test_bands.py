"""Simultaneous bands against simulated samples, and what leaves them."""

import numpy as np
import pytest
from scipy.stats import binom

from ssmscan.certification.bands import coverage, difference, rarest, simultaneous_bands


def share_inside(bands, size, points, draw, replicates=2000):
    rng = np.random.default_rng(0)
    found = np.array([difference(draw(rng, size), points) for _ in range(replicates)])
    return ((found >= bands.lower) & (found <= bands.upper)).all(axis=1).mean()


@pytest.mark.parametrize(("size", "points", "level"), [(60, 20, 0.9), (200, 50, 0.95)])
def test_a_uniform_sample_stays_inside_with_the_probability_that_is_asked_for(size, points, level):
    bands = simultaneous_bands(size, points, level)
    share = share_inside(bands, size, points, lambda rng, n: rng.random(n))
    computed = coverage(size, points, bands.gamma)
    # Steps of counts make the level a little more than was asked for.
    assert level <= computed < level + 0.02
    assert abs(share - computed) < 4 * np.sqrt(level * (1 - level) / 2000)


def test_bands_of_single_points_hold_all_at_once_too_rarely():
    bands = simultaneous_bands(200, 50, 0.95)
    points = np.arange(1, 51) / 50
    alone = bands._replace(
        lower=binom.ppf(0.025, 200, points) / 200 - points, upper=binom.isf(0.025, 200, points) / 200 - points
    )
    assert share_inside(alone, 200, 50, lambda rng, n: rng.random(n)) < 0.8


@pytest.mark.parametrize("shift", ["location", "spread"])
def test_a_sample_that_is_not_uniform_leaves_them(shift):
    bands = simultaneous_bands(500, 100, 1 - 1e-5)
    draw = {"location": lambda rng, n: rng.random(n) ** 1.4, "spread": lambda rng, n: rng.beta(1.7, 1.7, n)}[shift]
    assert share_inside(bands, 500, 100, draw, 200) < 0.1


def test_the_rarest_point_is_outside_of_the_band_where_the_sample_is():
    bands, rng = simultaneous_bands(80, 20, 0.9), np.random.default_rng(3)
    outside = 0
    for _ in range(300):
        found = difference(rng.random(80) ** 1.2, 20)
        left = bool(((found < bands.lower) | (found > bands.upper)).any())
        assert (rarest(found, 80) < bands.gamma) == left
        outside += left
    assert 30 < outside < 270


def test_a_value_that_is_no_number_leaves_them():
    bands = simultaneous_bands(100, 20, 0.99)
    values = np.append((np.arange(99) + 0.5) / 99, np.nan)
    found = difference(values, 20)
    assert (found < bands.lower).any()
