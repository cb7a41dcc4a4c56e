"""The evidence from draws: against dense linear algebra, a grid and quadrature, from draws good and bad."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import ssmscan
from ssmscan.results.data import Costs
from ssmscan.results.result import Result
from tests.inference.importance_truth import CASES
from tests.truth import z_threshold

ENGINES = {
    "NUTS": ssmscan.NUTS(progress=False),
    "PMMH": ssmscan.PMMH(num_samples=4000, progress=False),
    "ParticleGibbs": ssmscan.ParticleGibbs(progress=False),
}
OPTIONS = {"estimator": ssmscan.ParticleFilter(32, threshold=1, summaries=()), "progress": False}


def result_of(draws):
    """Draws as an engine would have made them, (draws,) each, as four chains."""
    draws = {name: np.asarray(x, np.float32).reshape(4, -1) for name, x in draws.items()}
    stats = {"accepted": np.ones((4, len(draws["q"][0])), bool)}
    return Result(
        engine="Drawn", draws=draws, states={}, state_draws=np.zeros(0, int), sample_stats=stats,
        costs=Costs(0, 0, 0), settings={}, versions={}, observed={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def posterior():
    """2,000 draws of about the posterior of the linear model: of which law, is of no consequence but for the error."""
    rng = np.random.default_rng(0)
    return {"rho": rng.beta(3.0, 2.0, 2000), "q": np.exp(rng.normal(-0.5, 0.4, 2000))}


def misses(found, exact):
    """Return by how many standard errors an estimate misses the exact evidence."""
    return abs(np.expm1(found.log_evidence - exact)) / found.error


def test_the_evidence_of_a_linear_model_is_found_from_draws(linear, exact, posterior):
    """A thousand points."""
    found = ssmscan.evidence(jax.random.key(0), linear, result_of(posterior), num_points=1000, **OPTIONS)
    assert misses(found, exact.log_evidence) < z_threshold()
    assert found.error < 0.06 and not found.concerns()


@pytest.mark.slow
def test_draws_of_another_law_make_a_larger_error_and_no_other_evidence(linear, exact, posterior):
    shifted = {"rho": 0.9 * posterior["rho"] + 0.1, "q": 3 * posterior["q"]}
    right, wrong = (
        ssmscan.evidence(jax.random.key(1), linear, result_of(draws), num_points=1000, **OPTIONS)
        for draws in (posterior, shifted)
    )
    assert misses(wrong, exact.log_evidence) < z_threshold()
    assert wrong.error > 1.5 * right.error


def test_draws_of_other_parameters_and_priors_without_a_law_are_refused(linear, posterior):
    with pytest.raises(ValueError, match="expected draws of the parameters"):
        ssmscan.evidence(jax.random.key(0), linear, result_of({"q": posterior["q"]}))
    with pytest.raises(TypeError, match="result: expected a Result"):
        ssmscan.evidence(jax.random.key(0), linear, posterior)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_evidence_is_right_with_every_key(linear, exact, posterior, seed):
    found = ssmscan.evidence(jax.random.key(seed), linear, result_of(posterior), num_points=8000, **OPTIONS)
    assert misses(found, exact.log_evidence) < z_threshold(3)
    assert found.error < 0.025


@pytest.mark.heavy
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("model", ["log_sp500_small", "Nile"])
def test_the_evidence_of_known_models_is_found_from_chains(model, engine, seed):
    """Errors are below .1; about a minute each."""
    traced, _, exact = CASES[model]
    ssm, truth = traced(), exact().log_evidence
    result = ENGINES[engine].run(jax.random.key(seed), ssm)
    found = ssmscan.evidence(jax.random.key(seed + 10), ssm, result, progress=False)
    print(f"\n{model} from {engine}, key {seed}: exact {truth:.4f}\n{found}")
    assert misses(found, truth) < z_threshold(2 * 3 * len(ENGINES))
    assert found.error < 0.1
