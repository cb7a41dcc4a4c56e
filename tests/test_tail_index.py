"""The tail index against ArviZ, and against tails that are known."""

import arviz
import numpy as np
import pytest

from ssmscan.tail_index import reliable_below, smoothed, tail_index


@pytest.mark.skipif(not hasattr(arviz, "psislw"), reason="ArviZ 1 has another cut of the tail")
@pytest.mark.parametrize("n", [64, 1000])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 30.0])
def test_arviz_has_the_same(n, scale):
    for seed in range(3):
        log_weights = scale * np.random.default_rng(seed).standard_normal(n)
        weights, expected = arviz.psislw(log_weights)
        np.testing.assert_allclose(tail_index(log_weights), expected, rtol=1e-6)
        found = smoothed(log_weights)
        assert found.tail_index == tail_index(log_weights)
        np.testing.assert_allclose(found.log_weights, weights, rtol=1e-5)


@pytest.mark.parametrize("k", [0.2, 0.5, 1.0])
def test_tails_that_are_known_are_found(k):
    draws = np.random.default_rng(0).pareto(1 / k, (200, 1000))
    found = np.array([tail_index(np.log1p(x)) for x in draws])
    assert abs(found.mean() - k) < 0.07 and found.std() < 1.5 * (1 + k) / np.sqrt(95)


def test_few_weights_are_drawn_towards_a_half():
    """As if ten more had a tail of 1/2: of the twenty largest of a hundred with k = 2, near (20 * 2 + 10 / 2) / 30."""
    quantiles = ((1 - (np.arange(100) + 0.5) / 100) ** -2.0 - 1) / 2
    assert abs(tail_index(np.log1p(quantiles)) - 1.5) < 0.15


def test_what_has_no_tail():
    assert tail_index(np.zeros(100)) == tail_index(np.arange(20.0)) == -np.inf
    one = np.full(1000, -1e4)
    one[3] = 0.0
    assert tail_index(one) == np.inf
    assert tail_index(np.where(np.arange(1000) < 900, np.nan, 0.0)) == -np.inf
    one[:500], one[600] = -np.inf, 0.0
    assert tail_index(one) == np.inf
    np.testing.assert_allclose(smoothed(np.zeros(100)).log_weights, -np.log(100))
    one[3] = np.nan
    found = smoothed(one)
    assert found.tail_index == np.inf and np.argmax(found.log_weights) == 600 and found.log_weights[3] == -np.inf


def test_smoothing_takes_most_of_the_error_of_heavy_weights():
    """Weights p/q of an exponential that is too narrow, k = 1/2: a mean by them has the known value 1."""
    rng, errors = np.random.default_rng(0), []
    for _ in range(400):
        x = 0.5 * rng.standard_exponential(400)
        log_ratio = -x + 2.0 * x - np.log(2.0)
        raw = np.exp(log_ratio - log_ratio.max())
        errors.append((raw @ x / raw.sum() - 1.0, np.exp(smoothed(log_ratio).log_weights) @ x - 1.0))
    raw_error, error = np.sqrt(np.mean(np.square(errors), axis=0))
    assert error < 0.95 * raw_error
    assert reliable_below(100) == 0.5 and reliable_below(10**6) == 0.7
