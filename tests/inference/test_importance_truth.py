"""The importance sampler against deterministic integrals, and the coverage of its errors; minutes, `-m heavy`."""

import jax
import numpy as np
import pytest
from scipy import stats

from ssmscan.results.summary import STATISTICS
from tests.inference.importance_truth import (
    CASES,
    HARD,
    RIGHT,
    WRONG,
    autoregression_truth,
    checks,
    coverage,
    estimated_twice,
    funnel_truth,
    tail_of,
    with_likelihoods,
)
from tests.inference.models import Y, linear_posterior
from tests.truth import ERROR_RATE, z_threshold


@pytest.mark.slow
def test_the_sum_over_the_grid_is_that_of_dense_linear_algebra():
    found, exact = autoregression_truth(), linear_posterior(Y)
    assert found.log_evidence == pytest.approx(exact.log_evidence, abs=1e-3)
    assert found.statistics["rho"]["mean"] == pytest.approx(exact.rho, abs=1e-3)
    assert found.statistics["q"]["mean"] == pytest.approx(exact.q, abs=1e-3)


@pytest.fixture(scope="module")
def twice():
    return estimated_twice(0)


@pytest.fixture(scope="module")
def truth():
    return autoregression_truth()


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_unbiased_estimates_agree_with_the_integral(name, twice, truth):
    for found in checks(with_likelihoods(*twice, name), truth):
        assert abs(found.z) < 4, found


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_likelihoods_that_are_chosen_or_estimated_again_are_rejected(name, twice, truth):
    assert max(abs(found.z) for found in checks(with_likelihoods(*twice, name), truth)) > 5


@pytest.mark.heavy
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_importance_sampler_agrees_with_the_integral(name, seed):
    make, sampler, find = CASES[name]
    result = sampler.run(jax.random.key(seed), make())
    for found in checks(result, find()):
        assert abs(found.z) < 4, found
    assert result.log_evidence_error < 0.05


@pytest.mark.heavy
def test_errors_cover_and_the_evidence_is_unbiased():
    found = coverage()
    low, high = stats.binom.ppf([ERROR_RATE / 22, 1 - ERROR_RATE / 22], len(found.z), 0.95) / len(found.z)
    assert np.all((found.covered >= low) & (found.covered <= high)), found.covered
    error = found.evidence.std(ddof=1) / np.sqrt(len(found.evidence))
    assert abs(found.evidence.mean() - 1) < z_threshold() * error


@pytest.mark.heavy
@pytest.mark.parametrize("name", HARD)
def test_the_tail_index_warns(name):
    for seed in (0, 1, 2):
        result = tail_of(name, seed)
        assert any("k-hat" in sentence for sentence in result.concerns()), result.concerns()


@pytest.mark.heavy
def test_where_the_tail_index_warns_of_moments_alone_median_and_quantiles_hold():
    truth = funnel_truth()
    for seed in (0, 1, 2):
        result = tail_of("a funnel", seed)
        assert result.tail_index < 0.7 and "squared deviations" in result.concerns()[0]
        for name, known in truth.items():
            for statistic, exact in known.items():
                estimate = result.summaries[name].statistics[STATISTICS.index(statistic)]
                p_value = 2 * stats.t.sf(abs(estimate.value - exact) / estimate.error, estimate.df)
                assert p_value > ERROR_RATE / 81, (name, statistic, exact, estimate)
