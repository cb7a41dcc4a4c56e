"""Gamma variables by rejection, and what is made of them, against SciPy's laws."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from ssmscan.model.noise.families import MapKind, gammas, particle_map, smooth_map
from ssmscan.model.noise.gammas import standard_gamma
from ssmscan.model.threefry import normal_and_exponential
from tests.truth import ERROR_RATE, z_threshold

pytestmark = pytest.mark.heavy

N = 100_000
SHAPES = (0.02, 0.3, 1.0, 1.99, 2.0, 5.0, 300.0, 1e6)
CONTINUOUS = {
    "Gamma": (lambda: dist.Gamma(0.4, 2.5), st.gamma(0.4, scale=0.4)),
    "Chi2": (lambda: dist.Chi2(3.0), st.chi2(3.0)),
    "InverseGamma": (lambda: dist.InverseGamma(3.0, 2.0), st.invgamma(3.0, scale=2.0)),
    "Beta": (lambda: dist.Beta(0.7, 2.0), st.beta(0.7, 2.0)),
    "BetaProportion": (lambda: dist.BetaProportion(0.3, 10.0), st.beta(3.0, 7.0)),
    "Dirichlet": (lambda: dist.Dirichlet(jnp.array([0.4, 2.0, 5.0])), st.beta(2.0, 5.4)),
}
COUNTS = {
    "GammaPoisson": (lambda: dist.GammaPoisson(0.6, 0.1), st.nbinom(0.6, 1 / 11)),
    "NegativeBinomial2": (lambda: dist.NegativeBinomial2(30.0, 4.0), st.nbinom(4.0, 4 / 34)),
    "NegativeBinomialProbs": (lambda: dist.NegativeBinomial(3.0, probs=0.4), st.nbinom(3.0, 0.6)),
    "NegativeBinomialLogits": (lambda: dist.NegativeBinomial(3.0, logits=-1.0), st.nbinom(3.0, 1 - 1 / (1 + np.e))),
    "BetaBinomial": (lambda: dist.BetaBinomial(0.7, 2.0, 20), st.betabinom(20, 0.7, 2.0)),
}


@pytest.fixture(scope="module", params=["float32", "float64"])
def drawn(request):
    """N values of every family, drawn as particles are; and log Gamma variables of every shape."""

    def everything(key):
        values = {}
        for i, (name, (family, _)) in enumerate({**CONTINUOUS, **COUNTS}.items()):
            fn = family()
            noise = jax.random.normal(jax.random.fold_in(key, i), (N, *particle_map(fn).spec.shape))
            values[name] = jax.vmap(lambda e, fn=fn: particle_map(fn).apply(fn, e))(noise)
        noise = jax.random.normal(key, (gammas.NORMALS, N, len(SHAPES)))
        factor, log_factor = standard_gamma(noise, jnp.broadcast_to(jnp.array(SHAPES), (N, len(SHAPES))))
        return values, jnp.log(factor) + log_factor

    with jax.enable_x64(request.param == "float64"):
        return request.param, jax.jit(everything)(jax.random.key(0))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_values_have_the_law_of_the_family(name, drawn):
    precision, values = drawn
    value, (family, law) = np.asarray(values[0][name], float), CONTINUOUS[name]
    assert particle_map(family()).kind is MapKind.REJECTION
    assert values[0][name].dtype == precision and np.isfinite(value).all() and (value > 0).all()
    value = value[:, 1] if name == "Dirichlet" else value
    assert st.kstest(value, law.cdf).pvalue > ERROR_RATE / len(CONTINUOUS)


@pytest.mark.parametrize("k", SHAPES)
def test_gamma_of_any_shape(k, drawn):
    log_value = np.asarray(drawn[1][1][:, SHAPES.index(k)], float)
    law = st.loggamma(k)
    assert st.kstest(log_value, law.cdf).pvalue > ERROR_RATE / len(SHAPES)


@pytest.mark.parametrize("name", COUNTS)
def test_mixed_counts_have_the_probabilities_of_the_family(name, drawn):
    value, (family, law) = np.asarray(drawn[1][0][name]), COUNTS[name]
    assert particle_map(family()).kind is MapKind.REJECTION and smooth_map(family()) is None
    assert value.dtype == (np.int32 if drawn[0] == "float32" else np.int64)
    last = int(min(law.isf(20 / N), law.support()[1] - 1))
    expected = N * np.append(law.pmf(np.arange(last + 1)), law.sf(last))
    seen = np.bincount(np.minimum(value, last + 1), minlength=last + 2)
    assert expected.min() > 1
    assert st.chi2.sf(np.sum((seen - expected) ** 2 / expected), last + 1) > ERROR_RATE / len(COUNTS)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_candidates_after_the_first_are_normal_exponential_and_independent(precision):
    """The noise of one particle gives unrelated numbers in every round, and so do neighbours."""
    with jax.enable_x64(precision == "float64"):
        noise = jax.random.normal(jax.random.key(1), (3, N))

        def rounds(noise):
            first, second, third = gammas._words(noise)
            return [normal_and_exponential((first, second), third, np.uint32(r), noise.dtype) for r in range(2)]

        numbers = [np.asarray(a, float) for pair in jax.jit(rounds)(noise) for a in pair]
    for k, law in enumerate((st.norm, st.expon) * 2):
        assert st.kstest(numbers[k], law.cdf).pvalue > ERROR_RATE / 4
    every = [*numbers, *np.asarray(noise, float)]
    pairs = [(x**p, y**p) for x, y in itertools.combinations(every, 2) for p in (1, 2)]
    assert max(abs(np.corrcoef(x, y)[0, 1]) for x, y in pairs) < z_threshold(len(pairs)) / N**0.5


def test_parameters_at_and_beyond_the_edge():
    eps = jnp.asarray(np.random.RandomState(0).standard_normal((200, gammas.NORMALS)), jnp.float32)
    k = jnp.array([np.nan, -0.5, -2.0, 0.0, 1e-30, np.inf])
    factor, log_factor = jax.jit(jax.vmap(jax.vmap(standard_gamma, (0, None)), (None, 0)))(eps, k)
    value = np.asarray(factor * jnp.exp(log_factor))
    assert np.isnan(value[:3]).all() and (value[3:5] == 0).all() and np.isposinf(value[5]).all()


def test_value_is_a_function_of_the_noise_and_of_nothing_beside():
    """Neighbours that need more rounds, vmap and the shape of the site change nothing."""
    noise = jax.random.normal(jax.random.key(2), (500, gammas.NORMALS, 3))
    k = jnp.array([0.1, 1.0, 50.0])

    def one(noise, k):
        factor, log_factor = standard_gamma(noise, k)
        return jnp.log(factor) + log_factor

    of_three = jax.jit(jax.vmap(one, (0, None)))(noise, k)
    of_one = jax.jit(jax.vmap(jax.vmap(one, (1, 0)), (0, None)))(noise, k)
    np.testing.assert_allclose(of_three, of_one, rtol=1e-5)
    np.testing.assert_allclose(of_three[:1], jax.jit(one)(noise[0], k)[None], rtol=1e-5)


def test_no_gradient_goes_through_a_rejection():
    fn = dist.Gamma
    slope = jax.jit(jax.grad(lambda k: particle_map(fn(k)).apply(fn(k), jnp.array([0.3, 1.0, -0.5]))))(1.5)
    assert slope == 0.0
