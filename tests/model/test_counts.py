"""Counts by inversion against SciPy's distribution functions: where one value ends and the next begins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from scipy.special import ndtri

from ssmscan.model.noise.counts import binomial, poisson
from ssmscan.model.noise.families import MapKind, particle_map, smooth_map

pytestmark = pytest.mark.slow
MEANS = (1e-10, 1e-6, 1e-3, 0.05, 0.3, 0.9, 1.0, 2.5, 7.3, 12.0, 20.5, 30.0, 64.0, 150.0, 500.0, 3e3, 1e5, 1e6, 1e9)
TRIALS = (1, 2, 3, 7, 24, 30, 60, 200, 1000, 10**5)
PROBABILITIES = (1e-12, 1e-4, 0.03, 0.3, 0.5, 0.7, 0.999)
MAPS = {"float32": 6.6, "float64": 8.0}


def boundaries(law, last, farthest, at_most=60):
    """Some counts j, and Phi^-1 P(X < j) from the nearer tail."""
    mean, sd = law.mean(), law.std()
    # SciPy's upper tail of large means is wrong beyond 4.5 sd.
    farthest = min(farthest, 4.4) if mean >= 1e5 else farthest
    j = np.unique(
        np.linspace(max(1.0, mean - farthest * sd), min(last, mean + 1.5 * farthest * sd + 20), at_most).round()
    )
    below, above = law.cdf(j - 1), law.sf(j - 1)
    with np.errstate(divide="ignore"):
        z = np.where(below < 0.5, ndtri(below), -ndtri(above))
    return j[np.abs(z) < farthest], z[np.abs(z) < farthest]


@pytest.fixture(scope="module", params=MAPS)
def steps(request):
    """For each law: the counts j, and the values just below and above the boundary of j - 1 and j."""
    precision = request.param
    tolerance = 3e-6 if precision == "float32" else 2e-7
    with jax.enable_x64(precision == "float64"):
        rounded = [float(jnp.asarray(m)) for m in MEANS], [float(jnp.asarray(p)) for p in PROBABILITIES]
        laws = [(m, 0.0, st.poisson(m), np.inf) for m in rounded[0]]
        laws += [(float(n), p, st.binom(n, p), n) for n in TRIALS for p in rounded[1]]
        found = [boundaries(law, last, MAPS[precision]) for *_, law, last in laws]
        j, z = (np.concatenate(part) for part in zip(*found))
        first, second = (np.repeat([law[k] for law in laws], [len(j) for j, _ in found]) for k in (0, 1))
        # The mean of a binomial is a rounded product.
        rounding = np.concatenate(
            [np.full(len(z), law.mean() / law.std()) for (*_, law, _), (_, z) in zip(laws, found)]
        )
        margin = tolerance * np.maximum(1.0, np.abs(z)) + jnp.finfo(jnp.result_type(float)).eps * rounding
        both = jax.jit(lambda e, a, p: jnp.where(p == 0.0, poisson(e, a), binomial(e, a, p, 1.0 - p)))
        ends = jnp.asarray(np.stack([z - margin, z + margin]))
        low, high = np.asarray(both(ends, *(jnp.broadcast_to(jnp.asarray(a), ends.shape) for a in (first, second))))
    return first, second, j, low, high


def test_values_change_where_the_distribution_function_says(steps):
    first, second, j, low, high = steps
    assert len(j) > 1000
    wrong = (low > j - 1) | (high < j) | (high > low + 1) & (j < 1e5)
    assert not wrong.any(), np.stack([first, second, j, low, high], 1)[wrong][:10]


def test_certain_and_impossible_parameters():
    """One compilation of each map, its parameters traced."""
    nan, none = np.nan, -1
    cases = {
        dist.Poisson: [
            ((0.0,), 0),
            ((nan,), none),
            ((-1.0,), none),
            ((np.inf,), 2**53 if jax.config.jax_enable_x64 else 2**30),
        ],
        dist.BinomialProbs: [
            *[((p, n), k) for p, n, k in ((0.0, 7.0, 0), (1.0, 7.0, 7), (0.3, 0.0, 0), (1e-30, 7.0, 0))],
            *[((p, n), none) for p, n in ((nan, 7.0), (1.1, 7.0), (-0.1, 7.0), (0.5, -1.0), (0.5, nan))],
        ],
        dist.BinomialLogits: [((200.0, 7.0), 7), ((-200.0, 7.0), 0), ((nan, 7.0), none)],
        dist.GeometricProbs: [((1.0,), 0), ((nan,), nan)],
        dist.GeometricLogits: [((200.0,), 0), ((nan,), nan)],
    }
    for family, rows in cases.items():

        def value(eps, *parameters, family=family):
            fn = family(*parameters, validate_args=False)
            return particle_map(fn).apply(fn, eps)

        parameters = [jnp.array(column)[:, None] for column in zip(*(parameters for parameters, _ in rows))]
        eps = jnp.array([-6.0, 0.0, 6.0])
        found = jax.jit(jax.vmap(jax.vmap(value, (0, *(None,) * len(parameters))), (None, *(0,) * len(parameters))))(
            eps, *(p[:, 0] for p in parameters)
        )
        expected = np.array([[k] * 3 for _, k in rows], float)
        near = np.isclose(found, expected, rtol=0.01, equal_nan=True)
        assert near.all(), (family, found)


def test_geometric_is_its_quantile_function():
    probabilities = (1e-5, 0.2, 0.9)
    found = [boundaries(st.geom(p, loc=-1), np.inf, 5.0) for p in probabilities]
    j, z = (np.concatenate(part) for part in zip(*found))
    p = jnp.asarray(np.repeat(probabilities, [len(j) for j, _ in found]))
    margin = 3e-5 * np.maximum(1.0, np.abs(z))

    def values(eps, p):
        laws = dist.Geometric(p), dist.Geometric(logits=jnp.log(p) - jnp.log1p(-p))
        return [particle_map(fn).apply(fn, eps) for fn in laws]

    values = jax.jit(values)
    for low, high in zip(values(jnp.asarray(z - margin), p), values(jnp.asarray(z + margin), p)):
        assert (low <= j - 1).all() and (high >= j).all()


def test_same_values_under_vmap_and_of_the_type_numpyro_gives():
    laws = (
        dist.Poisson(jnp.array([0.3, 2e4])),
        dist.Binomial(jnp.array([5, 2000]), 0.3),
        dist.Binomial(jnp.array([5, 2000]), logits=jnp.array([-1.0, 3.0])),
        dist.Geometric(jnp.array([0.3, 1e-3])),
    )
    eps = jax.random.normal(jax.random.key(0), (50, 2))
    maps = [particle_map(fn) for fn in laws]

    def both(eps):
        one_by_one = [jax.vmap(lambda e, fn=fn, m=m: m.apply(fn, e))(eps) for fn, m in zip(laws, maps)]
        return one_by_one, [m.apply(fn.expand([50, 2]), eps) for fn, m in zip(laws, maps)]

    for fn, noise_map, apart, together in zip(laws, maps, *jax.jit(both)(eps)):
        assert noise_map.kind is MapKind.INVERSE_CDF and noise_map.spec == ((2,), False) and smooth_map(fn) is None
        np.testing.assert_array_equal(apart, together)
        assert together.dtype == jax.eval_shape(fn.sample, jax.random.key(0)).dtype


def test_no_gradient_goes_through_a_count():
    def count(rate):
        return particle_map(dist.Poisson(rate)).apply(dist.Poisson(rate), 0.3).astype(float)

    assert jax.jit(jax.grad(count))(4.0) == 0.0
