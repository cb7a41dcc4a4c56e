"""Errors against the exact errors of an autoregression, and against the spread between runs."""

import arviz
import numpy as np
import pytest
from scipy import integrate, stats

from ssmscan import containers
from ssmscan.labels import Labels
from ssmscan.results.summary import PROBABILITIES, scalars, summarise
from tests.results.samples import autoregression
from tests.truth import z_threshold

TIME = 10.0
RHO = (TIME - 1.0) / (TIME + 1.0)


def exact_error(statistic: int, num_draws: int) -> float:
    """Return the asymptotic standard error of mean, sd and quantiles of an AR(1) with N(0, 1) margin."""
    if statistic == 0:
        return np.sqrt(TIME / num_draws)
    if statistic == 1:
        return np.sqrt((1 + RHO**2) / (1 - RHO**2) / (2 * num_draws))
    p = PROBABILITIES[statistic - 2]
    z = stats.norm.ppf(p)

    def bivariate(r):
        return np.exp(-(z**2) / (1 + r)) / (2 * np.pi * np.sqrt(1 - r**2))

    covariances = [integrate.quad(bivariate, 0, RHO**k)[0] for k in range(1, 150)]
    return np.sqrt((p * (1 - p) + 2 * sum(covariances)) / num_draws) / stats.norm.pdf(z)


def test_errors_of_chains_are_those_of_the_autoregression():
    rng = np.random.default_rng(0)
    truth = np.array([0.0, 1.0, *stats.norm.ppf(PROBABILITIES)])
    summaries = [summarise(autoregression(rng, (4, 2500), TIME)) for _ in range(30)]
    errors = np.array([[e.error for e in s.statistics] for s in summaries])
    values = np.array([[e.value for e in s.statistics] for s in summaries])
    exact = np.array([exact_error(i, 10_000) for i in range(5)])
    # the estimators are biased by a few per cent; forgetting the autocorrelation is off by 50 to 70
    np.testing.assert_allclose(errors.mean(axis=0) / exact, 1.0, atol=0.1)
    z = (values.mean(axis=0) - truth) / (exact / np.sqrt(len(values)))
    assert np.all(np.abs(z) < z_threshold(5))


def test_degrees_of_freedom_do_not_claim_more_than_the_errors_keep():
    # a chi-square with nu degrees has relative variance 2 / nu, its root half of that
    rng = np.random.default_rng(1)
    summaries = [summarise(autoregression(rng, (4, 1000), TIME)) for _ in range(60)]
    errors = np.array([[e.error for e in s.statistics] for s in summaries])
    claimed = np.array([[e.df for e in s.statistics] for s in summaries]).mean(axis=0)
    found = 1.0 / (2.0 * (errors.std(axis=0) / errors.mean(axis=0)) ** 2)
    # the factor covers the noise of a variance from 60 values at the suite's error rate
    assert np.all(claimed < found * stats.chi2.isf(1e-4 / 5, 59) / 59)


def test_errors_of_mean_and_sd_equal_those_of_arviz():
    draws = autoregression(np.random.default_rng(2), (4, 500), TIME)
    summary = summarise(draws)
    ddof = np.sqrt((draws.size - 1) / draws.size)
    np.testing.assert_allclose(summary.mean.error, arviz.mcse(draws, method="mean") * ddof, rtol=1e-3)
    np.testing.assert_allclose(summary.sd.error, arviz.mcse(draws, method="sd"), rtol=1e-3)
    np.testing.assert_allclose(summary.ess_tail, arviz.ess(draws, method="tail", prob=(0.05, 0.95)), rtol=1e-6)


def test_errors_of_runs_are_the_spread_between_them():
    rng = np.random.default_rng(3)
    num_runs, length, luck = 300, 100, 0.3
    draws = rng.standard_normal((num_runs, length)) + luck * rng.standard_normal((num_runs, 1))
    summary = summarise(draws, independent_runs=True)
    exact = np.sqrt((luck**2 + 1 / length) / num_runs)
    noise = z_threshold(2) / np.sqrt(2 * num_runs)
    assert abs(summary.mean.error / exact - 1) < noise
    assert abs(summary.ess_bulk / ((1 + luck**2) / exact**2) - 1) < 2 * noise
    assert summary.mean.df == num_runs - 1
    # the spread of run means is 0.3 of the spread inside: far from one law
    assert summary.rhat == pytest.approx(np.sqrt(1 + luck**2), abs=0.02)


def test_the_order_of_draws_in_a_run_means_nothing():
    rng = np.random.default_rng(4)
    draws = rng.standard_normal((5, 200))
    shuffled = rng.permuted(draws, axis=1)
    one, other = (summarise(x, independent_runs=True) for x in (draws, shuffled))
    np.testing.assert_allclose(np.array(one.statistics), np.array(other.statistics), rtol=1e-12)
    np.testing.assert_allclose(one.ess_bulk, other.ess_bulk)


def test_draws_count_at_most_once():
    # run means that agree by construction would otherwise count for infinitely many draws
    draws = np.tile(np.linspace(-1, 1, 50), (4, 1))
    assert summarise(draws, independent_runs=True).ess_bulk == draws.size


@pytest.mark.parametrize(
    ("draws", "independent_runs"),
    [
        (np.full((4, 100), 2.0), False),
        (np.zeros((4, 3)) + np.arange(3), False),
        (np.where(np.arange(400).reshape(4, 100) == 7, np.nan, 1.0), False),
        (np.arange(100.0)[None], True),
    ],
    ids=["constant", "three draws", "nan", "one run"],
)
def test_what_has_no_error_says_so(draws, independent_runs):
    summary = summarise(draws, independent_runs=independent_runs)
    assert np.isnan([summary.mean.error, summary.ess_bulk, summary.ess_tail, summary.rhat]).all()
    np.testing.assert_equal(summary.mean.value, draws.mean())


def test_no_draws_is_an_error():
    with pytest.raises(ValueError, match=r"at least one draw, got shape \(4, 0\)"):
        summarise(np.zeros((4, 0)))


def test_rhat_sees_a_single_chain_that_drifts():
    still = np.random.default_rng(5).standard_normal(1000)
    assert containers.rhat(still[None]) < 1.01
    assert containers.rhat((still + np.linspace(0, 3, 1000))[None]) > 1.1


def test_chains_that_stand_still_have_an_infinite_rhat():
    still = np.repeat([[0.1], [0.2], [0.3]], 50, axis=1)
    assert containers.rhat(still) == np.inf
    assert summarise(still, independent_runs=False).rhat == np.inf


def test_elements_have_their_index_in_the_label():
    draws = {"phi": np.zeros((2, 3)), "beta": np.arange(24.0).reshape(2, 3, 2, 2)}
    labelled = dict(scalars(draws, Labels()))
    assert list(labelled) == ["phi", "beta[0,0]", "beta[0,1]", "beta[1,0]", "beta[1,1]"]
    np.testing.assert_array_equal(labelled["beta[1,0]"], draws["beta"][..., 1, 0])
