"""The evidence from draws: against dense linear algebra, a grid and quadrature, from draws good and bad."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import ssmscan
from ssmscan.results.data import Costs
from ssmscan.results.result import Result
from tests.inference.importance_truth import CASES
from tests.inference.models import NOISE, Y
from tests.truth import LinearGaussian, linear_gaussian, z_threshold

ENGINES = {
    "NUTS": ssmscan.NUTS(progress=False),
    "PMMH": ssmscan.PMMH(num_samples=4000, progress=False),
    "ParticleGibbs": ssmscan.ParticleGibbs(progress=False),
}
FILTER = ssmscan.ParticleFilter(32, threshold=1, summaries=())


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
    """2,000 draws from the posterior of the linear model, on a grid, spread inside its cells."""
    rho, log_q = (np.arange(24) + 0.5) / 24, np.linspace(-3.5, 2.5, 25)
    log_joint = np.array(
        [
            [
                linear_gaussian(LinearGaussian.scalar(0, r**2 + q**2, r, q**2, 1, NOISE**2), Y[:, None]).log_likelihood
                for q in np.exp(log_q)
            ]
            for r in rho
        ]
    )
    log_joint -= 0.5 * ((log_q + 0.5) / 0.5) ** 2
    weights = np.exp(log_joint - log_joint.max()).ravel()
    rng = np.random.default_rng(0)
    chosen = rng.choice(weights.size, 2000, p=weights / weights.sum())
    inside = rng.uniform(-0.5, 0.5, (2, 2000))
    return {
        "rho": rho[chosen // 25] + inside[0] / 24,
        "q": np.exp(log_q[chosen % 25] + inside[1] * (log_q[1] - log_q[0])),
    }


def misses(found, exact):
    """Return by how many standard errors an estimate misses the exact evidence."""
    return abs(np.expm1(found.log_evidence - exact)) / found.error


def test_the_evidence_of_a_linear_model_is_found_from_draws_and_their_wrong_fit_is_seen_in_its_error(
    linear, exact, posterior
):
    """A thousand points; draws of another law make a worse proposal and no other evidence."""
    options = {"num_points": 1000, "estimator": FILTER, "progress": False}
    right = ssmscan.evidence(jax.random.key(0), linear, result_of(posterior), **options)
    assert misses(right, exact.log_evidence) < z_threshold(2)
    assert right.error < 0.06 and not right.concerns()
    shifted = {"rho": 0.9 * posterior["rho"] + 0.1, "q": 3 * posterior["q"]}
    wrong = ssmscan.evidence(jax.random.key(1), linear, result_of(shifted), **options)
    assert misses(wrong, exact.log_evidence) < z_threshold(2)
    assert wrong.error > 1.5 * right.error


def test_draws_of_other_parameters_and_priors_without_a_law_are_refused(linear, posterior):
    with pytest.raises(ValueError, match="expected draws of the parameters"):
        ssmscan.evidence(jax.random.key(0), linear, result_of({"q": posterior["q"]}))
    with pytest.raises(TypeError, match="result: expected a Result"):
        ssmscan.evidence(jax.random.key(0), linear, posterior)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_evidence_is_unbiased_for_any_proposal_and_a_density_that_is_forgotten_is_seen(
    linear, exact, posterior, seed
):
    found = ssmscan.evidence(
        jax.random.key(seed), linear, result_of(posterior), num_points=8000, estimator=FILTER, progress=False
    )
    assert misses(found, exact.log_evidence) < z_threshold(3)
    assert found.error < 0.025
    # The Jacobian of the map from unconstrained values left out, or the defence taken for the whole: far away.
    assert abs(found.log_evidence - exact.log_evidence) < 0.1


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
