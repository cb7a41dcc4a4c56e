"""Densities of observations with gaps and of noise that a transport carries over, against SciPy; the fast ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from ssmscan.model.handlers import missing
from ssmscan.model.noise.families import smooth_map


def test_only_elements_that_are_present_have_a_density():
    present = np.array([True, False, True])
    filled = jnp.where(present, jnp.array([0.3, jnp.nan, -1.2]), 0.7)
    covariance = np.array([[2.0, 0.5, 0.3], [0.5, 1.0, 0.2], [0.3, 0.2, 1.5]])

    @jax.jit
    def log_prob(value):
        laws = dist.Normal(jnp.ones(3), 2.0), dist.MultivariateNormal(jnp.ones(3), jnp.asarray(covariance))
        return [missing.log_prob(law, value, jnp.asarray(present)) for law in laws]

    each, joint = log_prob(filled)
    np.testing.assert_allclose(each, np.where(present, stats.norm.logpdf(filled, 1.0, 2.0), 0.0), rtol=1e-5)
    marginal = stats.multivariate_normal(np.ones(2), covariance[np.ix_(present, present)])
    np.testing.assert_allclose(joint, marginal.logpdf(np.asarray(filled)[present]), rtol=1e-5)


@pytest.mark.parametrize(
    ("fn", "law"),
    [(dist.Gamma(1.7, 2.0), stats.gamma(1.7, scale=0.5)), (dist.Beta(2.0, 3.5), stats.beta(2.0, 3.5))],
    ids=["gamma", "beta"],
)
def test_noise_with_its_correction_has_the_law_of_the_family(fn, law):
    """The integral of N(eps) exp(correction) over values up to x is the distribution function at x."""
    eps = jnp.linspace(-8.0, 8.0, 8001)
    noise_map = smooth_map(fn)
    values, correction = jax.jit(jax.vmap(lambda e: (noise_map.apply(fn, e), noise_map.log_correction(fn, e))))(eps)
    mass = np.cumsum(stats.norm.pdf(eps) * np.exp(np.asarray(correction, float))) * float(eps[1] - eps[0])
    assert np.ptp(correction) > 0.1
    for probability in (0.05, 0.5, 0.95):
        x = law.ppf(probability)
        np.testing.assert_allclose(np.interp(x, np.asarray(values, float), mass), probability, atol=2e-3)
