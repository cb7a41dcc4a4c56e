"""Gradient engines on models with discrete states, against sums over a grid of exact likelihoods."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import pytest
from numpyro import handlers
from scipy import stats
from scipy.special import logsumexp

import ssmscan
from ssmscan.results.summary import summarise
from tests.inference.models import Y, switching
from tests.truth import ERROR_RATE, hmm_forward_backward, z_threshold

pytestmark = pytest.mark.slow

NUTS = ssmscan.NUTS(num_warmup=300, num_samples=1000, num_chains=4, num_paths=1000)


class SwitchingPosterior(NamedTuple):
    """Log evidence, posterior mean of p, and probability of the upper regime at each step."""

    log_evidence: float
    p: float
    upper: np.ndarray


@pytest.fixture(scope="module")
def exact():
    """Integrate over p by sums; each likelihood is exact."""
    grid = (np.arange(400) + 0.5) / 400
    truths = []
    for p in grid:
        transition = np.array([[p, 1 - p], [1 - p, p]])
        # The regime before the first step is 0, from which one moves to 1 with probability 1 - p.
        truths.append(hmm_forward_backward(transition[0], transition, stats.norm.logpdf(Y[:, None], [0.0, 2.0])))
    logs = np.array([truth.log_likelihood for truth in truths]) + stats.beta.logpdf(grid, 2, 2)
    weights = np.exp(logs - logsumexp(logs))
    upper = weights @ np.array([truth.smoothed[:, 1] for truth in truths])
    return SwitchingPosterior(float(logsumexp(logs) - np.log(len(grid))), float(weights @ grid), upper)


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(switching, Y)


@pytest.fixture(scope="module")
def result(ssm):
    return NUTS.run(jax.random.key(0), ssm)


def test_parameters_probabilities_and_paths_agree_with_the_grid(result, exact):
    p = summarise(result.draws["p"], independent_runs=False).statistics[0]
    assert abs(p.value - exact.p) < z_threshold(1 + len(Y)) * p.error
    assert result.states["s"].shape == (4, 1000, len(Y))
    assert np.issubdtype(result.states["s"].dtype, np.integer)
    for t, upper in enumerate(exact.upper):
        drawn = summarise(result.states["s"][:, :, t].astype(float), independent_runs=False).statistics[0]
        assert abs(drawn.value - upper) < z_threshold(1 + len(Y)) * drawn.error, t


def test_averaged_smoothing_probabilities_are_closer_than_frequencies_of_paths(result, exact):
    probabilities = result.state_probabilities["s"]
    assert probabilities.shape == (len(Y), 2)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(probabilities[:, 1], exact.upper, atol=0.02)


def test_the_same_key_gives_the_same_states(result, ssm):
    again = NUTS.run(jax.random.key(0), ssm)
    np.testing.assert_array_equal(again.states["s"], result.states["s"])


def test_probabilities_survive_a_file_and_replicates_are_drawn(result, ssm, tmp_path):
    loaded = ssmscan.load(result.save(tmp_path / "switching.nc"))
    np.testing.assert_array_equal(loaded.state_probabilities["s"], result.state_probabilities["s"])
    assert result.to_arviz() is not None
    replicates = ssmscan.predict(jax.random.key(1), ssm, result, num_draws=50)
    assert replicates["y"].shape == (4, 50, len(Y))


@pytest.mark.heavy
def test_tempered_evidence_agrees_with_the_grid(ssm, exact):
    engine = ssmscan.TemperedSMC(num_particles=400, num_runs=6, chain_length=10, num_leapfrog=6, num_paths=400)
    result = engine.run(jax.random.key(2), ssm)
    threshold = stats.t.isf(ERROR_RATE / 2, df=engine.num_runs - 1)
    assert abs(result.log_evidence - exact.log_evidence) < threshold * result.log_evidence_error
    assert result.states["s"].shape == (6, 400, len(Y))
    np.testing.assert_allclose(result.state_probabilities["s"][:, 1], exact.upper, atol=0.03)


def test_a_model_of_which_nothing_is_left_to_sample_has_its_exact_evidence_and_exact_draws():
    fixed = ssmscan.trace(handlers.condition(switching, data={"p": 0.7}), Y)
    transition = np.array([[0.7, 0.3], [0.3, 0.7]])
    truth = hmm_forward_backward(transition[0], transition, stats.norm.logpdf(Y[:, None], [0.0, 2.0]))
    engine = ssmscan.TemperedSMC(num_particles=1000, num_runs=4, chain_length=10, num_paths=1000, progress=False)
    result = engine.run(jax.random.key(0), fixed)
    assert result.log_evidence == pytest.approx(truth.log_likelihood + stats.beta.logpdf(0.7, 2, 2), rel=1e-5)
    assert result.log_evidence_error == 0.0
    np.testing.assert_allclose(result.state_probabilities["s"], truth.smoothed, atol=1e-5)
    drawn, upper = result.states["s"], truth.smoothed[:, 1]
    assert drawn.shape == (4, 1000, len(Y))
    errors = (drawn.mean((0, 1)) - upper) / np.sqrt(upper * (1 - upper) / 4000)
    assert np.abs(errors).max() < z_threshold(len(Y))
