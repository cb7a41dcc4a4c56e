"""Summaries of a weighted cloud against NumPy, and the predictive transform against the exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm, t

from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.filter_step import StepInfo
from ssmscan.particles.proposals import Move
from ssmscan.particles.stores import FinalCloud, FullHistory
from ssmscan.particles.summaries import PIT, SD, Mean, Probabilities, Quantiles
from tests.particles.handmade import THETA, autoregression, exact
from tests.truth import ERROR_RATE

pytestmark = pytest.mark.slow


def moment(weights, values, *, carried=None, cdf=None, alive=True) -> StepInfo:
    w = jnp.asarray(weights, float)
    moved = Move(None, jnp.zeros(len(w)), None, {k: jnp.asarray(v) for k, v in values.items()}, cdf or {})
    carried = jnp.log(w) if carried is None else carried
    return StepInfo(
        jnp.zeros(()), jnp.ones(()), jnp.zeros((), bool), jnp.asarray(alive), jnp.arange(len(w)), carried, w, moved
    )


def weighted_quantile(w, x, p):
    order = np.argsort(x)
    return x[order][np.searchsorted(np.cumsum(w[order]), p)]


def test_moments_and_quantiles_are_those_of_the_weighted_sample():
    rng = np.random.default_rng(0)
    w = rng.exponential(size=501)
    w /= w.sum()
    values = {"x": rng.normal(5, 2, 501), "m": rng.normal(size=(501, 2, 3)), "count": rng.poisson(3, 501)}
    cloud = moment(w, values)
    for name, x in values.items():
        flat = x.reshape(501, -1).astype(float)
        mean = w @ flat
        np.testing.assert_allclose(Mean()(cloud)[name].ravel(), mean, atol=1e-5)
        np.testing.assert_allclose(SD()(cloud)[name].ravel(), np.sqrt(w @ (flat - mean) ** 2), rtol=1e-4)
        got = Quantiles((0.1, 0.5, 0.9))(cloud)[name]
        assert got.shape == (3, *x.shape[1:])
        expected = [[weighted_quantile(w, column, p) for column in flat.T] for p in (0.1, 0.5, 0.9)]
        np.testing.assert_allclose(got.reshape(3, -1), expected, rtol=1e-6)


def test_probabilities_are_the_weight_of_each_value_of_discrete_sites_alone():
    values = {"z": [0, 2, 1, 2], "pair": [[0, 1], [1, 1], [5, 0], [0, 0]], "x": [0.0, 1.0, 1.0, 2.0]}
    found = Probabilities(3)(moment([0.1, 0.2, 0.3, 0.4], values))
    assert set(found) == {"z", "pair"}
    np.testing.assert_allclose(found["z"], [0.1, 0.3, 0.6], rtol=1e-6)
    np.testing.assert_allclose(found["pair"], [[0.5, 0.7], [0.2, 0.3], [0.0, 0.0]], rtol=1e-6)


def test_quantiles_of_few_particles_are_particles():
    cloud = moment([0.2, 0.0, 0.5, 0.3], {"x": [1.0, -jnp.inf, 2.0, 7.0]})
    np.testing.assert_array_equal(Quantiles((0.1, 0.3, 0.69, 0.71, 0.999))(cloud)["x"], [1, 2, 2, 7, 7])


def test_particles_without_weight_do_not_count_even_if_infinite():
    cloud = moment([0.5, 0.0, 0.5], {"x": [1.0, jnp.inf, 3.0]})
    assert (Mean()(cloud)["x"], SD()(cloud)["x"]) == (2.0, 1.0)


def test_a_dead_cloud_has_no_summary():
    cloud = moment([0.5, 0.5], {"x": [1.0, 3.0]}, alive=False)
    for summary in (Mean(), SD(), Quantiles()):
        assert np.isnan(summary(cloud)["x"]).all()


def test_transform_of_a_discrete_observation_is_in_the_middle_of_the_jump():
    cdf = {"y": (jnp.array([0.8, 0.4]), jnp.array([0.6, 0.2]))}
    cloud = moment([0.9, 0.1], {}, carried=jnp.log(jnp.array([0.5, 0.5])), cdf=cdf)
    np.testing.assert_allclose(PIT()(cloud)["y"], 0.5, rtol=1e-6)


@pytest.mark.parametrize("threshold", [0, 0.5, 1])
def test_transform_uses_weights_from_before_the_observation(threshold):
    ssm = autoregression(8)
    theta = {**THETA, "sy": 1.0}
    truth = exact(ssm, theta)
    y, rho = np.asarray(ssm.y, float), theta["rho"]
    mean = np.concatenate([[0], rho * truth.filtered_mean[:-1, 0]])
    variance = np.concatenate([[1 / 0.19], rho**2 * truth.filtered_cov[:-1, 0, 0] + 1])
    expected = norm.cdf(y, mean, np.sqrt(variance + 1))
    # never resampled, a tenth of a percent of the particles is left after 8 steps: the error bar comes from replicates
    pf, replicates = ParticleFilter(20_000, threshold=threshold, summaries=(PIT(),)), 64
    runs = jax.jit(jax.vmap(lambda key: pf.run(key, ssm, theta).summaries["pit"]["y"]))
    values = np.asarray(runs(jax.random.split(jax.random.key(0), replicates)), float)
    z = (values.mean(0) - expected) / (values.std(0, ddof=1) / np.sqrt(replicates))
    assert np.abs(z).max() < t.isf(ERROR_RATE / (2 * z.size), replicates - 1), z


def test_summaries_and_stores_are_settings_that_can_be_compared():
    assert Mean() == Mean() and hash(Quantiles([0.5])) == hash(Quantiles((0.5,)))
    assert FinalCloud() != FullHistory()
    with pytest.raises(ValueError, match="probs: .*strictly between 0 and 1"):
        Quantiles((0.5, 1.0))
    assert Quantiles(0.5) == Quantiles((0.5,))
    for probs in (("0.5",), "0.5", None):
        with pytest.raises(TypeError, match="probs: expected (a number|numbers) strictly between 0 and 1, got"):
            Quantiles(probs)
