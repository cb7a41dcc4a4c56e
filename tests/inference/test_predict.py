import dataclasses

import jax
import numpy as np
import pytest

import ssmscan
from ssmscan.inference.predict import posterior_predictive
from ssmscan.results.result import Costs, Result
from tests.inference.models import NOISE, Y, switching
from tests.truth import z_threshold

CHAINS, DRAWS, PATHS = 2, 50, 40


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    return Result(
        engine="made by hand",
        draws={"rho": rng.uniform(size=(CHAINS, DRAWS)), "q": rng.uniform(size=(CHAINS, DRAWS))},
        states={"x": rng.normal(size=(CHAINS, PATHS, len(Y))), "x_0": rng.normal(size=(CHAINS, PATHS))},
        state_draws=np.arange(PATHS) + 10,
        sample_stats={},
        independent_runs=False,
        log_evidence=None,
        log_evidence_error=None,
        costs=Costs(0.0, 0.0, 0.0),
        settings={},
        versions={},
        observed={"y": Y},
        initial=("x_0",),
    )


def test_replicates_are_noise_around_the_states(result, linear):
    replicated = posterior_predictive(jax.random.key(0), linear, result)["y"]
    assert replicated.shape == (CHAINS, PATHS, len(Y))
    noise = (replicated - result.states["x"]) / NOISE
    n = noise.size
    assert abs(noise.mean()) * np.sqrt(n) < z_threshold(2)
    assert abs((noise**2).mean() - 1) * np.sqrt(n / 2) < z_threshold(2)


def test_fewer_draws_are_spread_over_the_paths(result, linear):
    replicated = posterior_predictive(jax.random.key(0), linear, result, num_draws=3)["y"]
    noise = replicated - result.states["x"][:, [0, 20, 39]]
    assert replicated.shape == (CHAINS, 3, len(Y))
    assert np.abs(noise).max() < 6 * NOISE


def test_the_key_decides(result, linear):
    draws = [posterior_predictive(jax.random.key(k), linear, result, num_draws=2)["y"] for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def test_more_draws_than_paths_are_refused(result, linear):
    with pytest.raises(ValueError, match="num_paths"):
        posterior_predictive(jax.random.key(0), linear, result, num_draws=PATHS + 1)
    without = dataclasses.replace(result, states={}, state_draws=np.arange(0), initial=())
    with pytest.raises(ValueError, match="num_draws"):
        posterior_predictive(jax.random.key(0), linear, without)


def test_the_result_of_another_model_is_refused(result):
    with pytest.raises(ValueError, match="the model that the result was made with"):
        posterior_predictive(jax.random.key(0), ssmscan.trace(switching, Y), result)
