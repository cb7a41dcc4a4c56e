"""Scoring rules and the errors of their sums against closed forms and repeated draws, in NumPy alone."""

import numpy as np
import pytest
from scipy.stats import kstest, norm

from ssmscan.results.scores import ForecastScores, Reweighting
from ssmscan.results.scoring_rules import crps, ranks_of, standard_error
from tests.truth import z_threshold


def mean_distance(mean, sd):
    return 2 * sd * norm.pdf(mean / sd) + mean * (2 * norm.cdf(mean / sd) - 1)


def repeated(count, repeats, y, rng, times=4000):
    """CRPS of few draws of a mixture, theta ~ N(0, 1) and y ~ N(theta, 1), again and again: (times,)."""
    theta = rng.standard_normal((count, 1, times))
    draws = theta + rng.standard_normal((count, repeats, times))
    return crps(np.full(times, y), draws, np.full(count, 1 / count)), draws


def test_crps_of_few_draws_is_unbiased_and_that_of_all_pairs_is_not():
    """With 5 draws of the parameters and 3 forecasts of each; sees a bias of 0.05, all pairs have 0.12."""
    rng, y, sd = np.random.default_rng(0), 0.7, np.sqrt(2.0)
    exact = mean_distance(y, sd) - 0.5 * mean_distance(0.0, np.sqrt(2.0) * sd)
    found, draws = repeated(5, 3, y, rng)
    limit = z_threshold(2) * found.std() / np.sqrt(len(found))
    assert abs(found.mean() - exact) < limit < 0.05
    flat = draws.reshape(15, -1)
    pairs = np.abs(flat[:, None] - flat).mean((0, 1))
    all_pairs = np.abs(flat - y).mean(0) - 0.5 * pairs
    assert abs(all_pairs.mean() - exact) > 2 * limit
    # Fair over the 15 as if they were independent is wrong too: those of one draw lie near to each other.
    as_independent = np.abs(flat - y).mean(0) - 0.5 * pairs * 15 / 14
    assert abs(as_independent.mean() - exact) > limit


def test_crps_by_hand():
    """Unequal weights over three draws of two forecasts each, by two loops; several elements; one draw alone."""
    rng = np.random.default_rng(1)
    draws, y, w = rng.standard_normal((3, 2, 4)), rng.standard_normal(4), np.array([0.5, 0.2, 0.3])
    pairs = sum(
        w[j] * w[k] * np.abs(draws[j, r] - draws[k, s]) / 4
        for j in range(3)
        for k in range(3)
        for r in range(2)
        for s in range(2)
        if j != k
    )
    expected = np.tensordot(w, np.abs(draws - y).mean(1), 1) - 0.5 * pairs / (1 - np.sum(w**2))
    np.testing.assert_allclose(crps(y, draws, w), expected, rtol=1e-12)
    y[1] = np.nan
    np.testing.assert_allclose(crps(y, draws, w), np.where(np.arange(4) == 1, np.nan, expected), rtol=1e-12)
    one = draws[:1, :, 0]
    assert crps(np.array(0.0), one, np.ones(1)) == pytest.approx(np.abs(one).mean() - 0.5 * np.ptp(one))
    assert np.isnan(crps(np.array(0.0), draws[..., 0], np.array([1.0, 0.0, 0.0])))


@pytest.mark.parametrize("rate", [0.7, None])
def test_ranks_are_uniform_under_the_true_forecast_of_counts_too(rate):
    rng, times = np.random.default_rng(2), 4000
    draw = (lambda *shape: rng.poisson(rate, shape)) if rate else (lambda *shape: rng.standard_normal(shape))
    at, below = ranks_of(draw(times), draw(7, 2, times), np.full(7, 1 / 7))
    assert kstest(below + rng.uniform(size=times) * (at - below), "uniform").pvalue > 1e-4
    narrow = ranks_of(3 * draw(times), draw(7, 2, times), np.full(7, 1 / 7))
    assert kstest(narrow[1] + rng.uniform(size=times) * (narrow[0] - narrow[1]), "uniform").pvalue < 1e-4


def test_errors_of_sums_account_for_autocorrelation():
    """Scores four steps ahead are sums of four innovations; what takes them for independent is half of the truth."""
    rng, n, h = np.random.default_rng(3), 400, 4
    noise = rng.standard_normal((1000, n + h - 1))
    scores = sum(noise[:, k : k + n] for k in range(h))
    truth = scores.sum(1).std()
    found = np.mean([standard_error(row, h) for row in scores[:200]])
    assert 0.85 < found / truth < 1.05
    assert np.mean([row.std() * np.sqrt(n) for row in scores]) / truth < 0.6
    independent = rng.standard_normal((200, n))
    assert 0.9 < np.mean([standard_error(row) for row in independent]) / np.sqrt(n) < 1.05
    assert np.isnan(standard_error(np.array([1.0, np.nan])))


def scores_of(log_scores, **weights):
    n = len(log_scores)
    fields = {"tail_index": np.full(n, 0.1), "limit": 0.7, "effective_draws": np.full(n, 99.0), "noise": np.zeros(n)}
    columns = np.asarray(log_scores, float)[:, None]
    return ForecastScores(
        engine="NUTS",
        origins=np.arange(5, 5 + n),
        horizons=np.array([1]),
        log_scores=columns,
        site_log_scores={},
        crps={"y": columns},
        pit={},
        monte_carlo_error=np.zeros(1),
        weights=Reweighting(**(fields | weights), num_draws=100),
    )


def test_concerns_name_the_origins_and_the_remedy():
    index = np.array([0.1, 0.9, 0.2, 0.8, 1.2])
    (sentence,) = scores_of(np.zeros(5), tail_index=index).concerns()
    assert "At 3 of 5 origins, 6, 8 to 9, k-hat is above 0.70 (up to 1.2)" in sentence and "refit=" in sentence
    (sentence,) = scores_of(np.zeros(5), noise=np.full(5, 2.5)).concerns()
    assert "up to 2.5" in sentence and "num_particles" in sentence
    assert not scores_of(np.zeros(5)).concerns()
    assert "k-hat" in str(scores_of(np.zeros(5), tail_index=index))


def test_what_is_missing_counts_nowhere():
    found = scores_of([-1.0, np.nan, -3.0])
    assert found.log_score[0] == -4.0 and found.mean_crps()["y"][0] == -2.0
    assert "2" in found.table().rows[0]
