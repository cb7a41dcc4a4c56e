"""One-step-ahead predictive densities at draws: against dense algebra, enumeration, and the total likelihood."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp

import ssmscan
from ssmscan.model.gaussian.linear import fit_linear
from ssmscan.model.gaussian.vectors import in_vectors
from ssmscan.results.data import Costs
from ssmscan.results.result import Result
from tests.inference.models import NOISE, Y, structural, switching
from tests.truth import LinearGaussian, z_threshold
from tests.truth import linear_gaussian as solve

KEY = jax.random.key(0)


def drawn(**draws):
    """Return a result that has these draws, (chains, draws)."""
    made = {name: np.asarray(values, np.float32) for name, values in draws.items()}
    return Result(
        engine="by hand",
        draws=made,
        states={},
        state_draws=[],
        sample_stats={},
        costs=Costs(0.0, 0.0, 0.0),
        settings={},
        versions={},
        observed={},
    )


LINEAR = drawn(
    rho=[[0.3, 0.5, 0.9, 0.7, 0.2], [0.6, 0.8, 0.1, 0.4, 0.95]], q=[[0.5, 1, 0.3, 0.8, 2], [0.4, 0.9, 1.2, 0.2, 1]]
)


def truth_of(rho, q):
    return solve(LinearGaussian.scalar(0.0, rho**2 + q**2, rho, q**2, 1.0, NOISE**2), Y[:, None]).increments


@pytest.fixture(scope="module")
def exact(linear):
    return ssmscan.predictive_densities(KEY, linear, LINEAR, num_draws=3, progress=False)


def test_a_linear_gaussian_model_gets_the_kalman_filter(exact):
    assert exact.exact and isinstance(exact.estimator, ssmscan.ExactLikelihood)
    assert exact.draws.tolist() == [0, 2, 4] and exact.increments.shape == (2, 3, len(Y))
    for chain in range(2):
        for place, draw in enumerate(exact.draws):
            truth = truth_of(LINEAR.draws["rho"][chain, draw], LINEAR.draws["q"][chain, draw])
            np.testing.assert_allclose(exact.increments[chain, place], truth, atol=2e-5)


def test_parts_of_the_backward_pass_are_no_predictive_densities(linear, exact):
    """What `fit_linear` calls increments has what is ahead in it: the test above rejects it."""
    theta = linear.canonical({name: values[0, 0] for name, values in LINEAR.draws.items()})
    found = jax.jit(lambda ssm, theta: fit_linear(in_vectors(ssm.at(theta))).increments)(linear, theta)
    assert np.isclose(found.sum(), exact.increments[0, 0].sum(), atol=1e-4)
    assert np.abs(np.asarray(found[1:]) - exact.increments[0, 0]).max() > 0.05


def test_a_particle_filter_estimates_the_same(linear, exact):
    """A mean of 2 x 3 x 12 increments of 4,000 particles each; sees 0.006 in their mean."""
    found = ssmscan.predictive_densities(
        KEY, linear, LINEAR, num_draws=3, estimator=ssmscan.ParticleFilter(4000), progress=False
    )
    gaps = (found.increments - exact.increments).ravel()
    assert np.abs(gaps.mean()) < z_threshold() * gaps.std() / np.sqrt(gaps.size) and gaps.std() < 0.1
    assert not found.exact and (found.ess > 1).all() and not found.status.any()


def test_states_of_few_values_are_tried_one_by_one():
    ssm, draws = ssmscan.trace(switching, Y), drawn(p=[[0.3, 0.8]])
    found = ssmscan.predictive_densities(KEY, ssm, draws, progress=False)
    assert found.exact and isinstance(found.estimator, ssmscan.DiscreteFilter)
    for place, p in enumerate(draws.draws["p"][0].astype(float)):
        alpha, truth = np.array([0.0, -np.inf]), []
        law = np.log(np.array([[p, 1 - p], [1 - p, p]]))
        for y in Y:
            ahead = logsumexp(alpha[:, None] + law, axis=0)
            joint = ahead - 0.5 * (y - 2.0 * np.arange(2)) ** 2 - 0.5 * np.log(2 * np.pi)
            truth.append(logsumexp(joint))
            alpha = joint - truth[-1]
        np.testing.assert_allclose(found.increments[0, place], truth, atol=1e-5)


@pytest.mark.slow
def test_a_wide_start_keeps_its_digits():
    """Eleven unknown seasonal starts of sd 100, in float32, against the backward pass in another order."""
    ssm, theta = ssmscan.trace(structural, Y), {"noise": 0.5, "q_level": 0.3, "q_season": 0.1}
    exact = ssmscan.ExactLikelihood()
    found = exact.one_step_ahead(KEY, ssm, theta)
    assert np.isclose(found.increments.sum(), exact.estimate(KEY, ssm, theta).log_likelihood, atol=1e-3)
    assert not int(found.status)


def panel(y):
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))
    q = numpyro.sample("q", dist.LogNormal(-0.5, 0.5))

    def transition(x, y):
        with numpyro.plate("series", 2):
            x = numpyro.sample("x", dist.Normal(rho * x, q))
            numpyro.sample("y", dist.Normal(x, NOISE), obs=y)
        return x, None

    scan(transition, np.zeros(2, np.float32), y)


def test_elements_of_a_panel_add_up():
    both = ssmscan.trace(panel, np.stack([Y, -2.0 * Y], 1))
    found = ssmscan.predictive_densities(KEY, both, LINEAR, num_draws=1, progress=False)
    rho, q = LINEAR.draws["rho"][0, 0], LINEAR.draws["q"][0, 0]
    model = LinearGaussian.scalar(0.0, q**2, rho, q**2, 1.0, NOISE**2)
    truth = sum(solve(model, y[:, None]).increments for y in (Y, -2.0 * Y))
    assert both.panel is not None and found.exact
    np.testing.assert_allclose(found.increments[0, 0], truth, atol=2e-5)


def test_a_draw_has_the_same_filter_however_many_are_asked_for(linear):
    few, all_ = (
        ssmscan.predictive_densities(
            KEY, linear, LINEAR, num_draws=n, estimator=ssmscan.ParticleFilter(16), progress=False
        )
        for n in (1, 5)
    )
    np.testing.assert_array_equal(few.increments[:, 0], all_.increments[:, 0])


def test_what_cannot_predict_is_refused(linear):
    ahead = ssmscan.ParticleFilter(16, proposal=ssmscan.LookAhead())
    with pytest.raises(ValueError, match="know later data.*Bootstrap"):
        ssmscan.predictive_densities(KEY, linear, LINEAR, estimator=ahead)
    with pytest.raises(ValueError, match="has seen later data"):
        ahead.one_step_ahead(KEY, linear, {"rho": 0.5, "q": 1.0})
    with pytest.raises(TypeError, match="estimator with predictive densities"):
        ssmscan.predictive_densities(KEY, linear, LINEAR, estimator=ssmscan.Replicates(ssmscan.ParticleFilter(16), 2))
    with pytest.raises(ValueError, match="draws of the parameters"):
        ssmscan.predictive_densities(KEY, linear, drawn(p=[[0.5]]))
