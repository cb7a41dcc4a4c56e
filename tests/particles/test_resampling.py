"""Offspring are unbiased, in order, exact at a million particles, and never of a particle without weight."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmscan.particles.draws import as_key
from ssmscan.particles.resampling import multinomial, stratified, systematic
from ssmscan.particles.weights import normalise
from tests.truth import z_threshold

SCHEMES = [systematic, stratified, multinomial]
schemes = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.__name__)


@partial(jax.jit, static_argnums=(0, 3))
def draw(scheme, key, log_weights, n):
    return scheme(key, normalise(log_weights).weights, n)


def reference(weights: np.ndarray, n: int, u: np.ndarray | float) -> np.ndarray:
    """Systematic or stratified ancestors in float64, by bisection."""
    cumulative = np.cumsum(weights) / weights.sum()
    cumulative[np.flatnonzero(weights)[-1] :] = 1
    return np.searchsorted(cumulative, (np.arange(n) + u) / n, side="right")


def log_weights(n: int, spread: float = 2.0) -> np.ndarray:
    raw = np.random.default_rng(n).normal(0, spread, n)
    raw[np.random.default_rng(0).random(n) < 0.3] = -np.inf
    raw[0] = 0.0
    return raw


@pytest.mark.slow
@schemes
@pytest.mark.parametrize(("count", "n"), [(40, 40), (7, 100)])
def test_expected_offspring_are_the_weights(scheme, count, n):
    raw, replicates = jnp.asarray(log_weights(count), jnp.zeros(()).dtype), 5_000
    keys = jax.random.split(as_key(jax.random.key(0)), replicates)
    ancestors = jax.jit(jax.vmap(lambda key: draw(scheme, key, raw, n)))(keys)
    counts = np.stack([np.bincount(row, minlength=count) for row in np.asarray(ancestors)])
    weights = np.exp(np.asarray(raw, float))
    expected = n * weights / weights.sum()
    assert (counts[:, expected == 0] == 0).all()
    mean, sd = counts.mean(0)[expected > 0], counts.std(0)[expected > 0]
    error = mean - expected[expected > 0]
    never_varies = sd == 0
    np.testing.assert_allclose(error[never_varies], 0, atol=1e-3)
    z = error[~never_varies] / (sd[~never_varies] / replicates**0.5)
    assert np.abs(z).max() < z_threshold(len(z))
    if scheme is systematic:
        assert np.abs(counts - expected).max() < 1 + 1e-4
    if scheme is multinomial:
        variance = expected * (1 - expected / n)
        np.testing.assert_allclose(counts.var(0), variance, rtol=0.1, atol=0.05)


@pytest.mark.slow
@schemes
@pytest.mark.parametrize("n", [2, 17, 1000])
def test_ancestors_are_sorted_in_range_and_have_weight(scheme, n):
    raw = log_weights(n, 5.0)
    raw[2 * n // 3 :] = -np.inf  # a tail without weight
    ancestors = np.asarray(draw(scheme, as_key(jax.random.key(1)), jnp.asarray(raw, float), n))
    assert ancestors.dtype == np.int32 and ancestors.shape == (n,)
    assert (np.diff(ancestors) >= 0).all()
    assert np.isfinite(raw[ancestors]).all()


@pytest.mark.slow
def test_systematic_and_stratified_are_the_textbook_ones():
    raw = log_weights(3000)
    weights, key = np.exp(raw), as_key(jax.random.key(2))
    for scheme, shape in ((systematic, ()), (stratified, (3000,))):
        ancestors = draw(scheme, key, jnp.asarray(raw, float), 3000)
        expected = reference(weights, 3000, np.asarray(jax.random.uniform(key, shape), float))
        rank = np.cumsum(weights > 0)  # one place off by rounding, where only weight has a place
        assert np.abs(rank[np.asarray(ancestors)] - rank[expected]).max() <= 1
        assert (np.asarray(ancestors) != expected).mean() < 1e-3


def test_a_million_float32_particles_are_placed_as_in_float64():
    n, key = 1_000_000, as_key(jax.random.key(0))
    raw = np.random.default_rng(0).normal(0, 2, n).astype(np.float32)
    with jax.enable_x64(False):
        u = float(jax.random.uniform(key, ()))
        ancestors = np.asarray(draw(systematic, key, jnp.asarray(raw), n))
    expected = reference(np.exp(raw.astype(float)), n, u)
    offspring, right = np.bincount(ancestors, minlength=n), np.bincount(expected, minlength=n)
    assert np.abs(offspring - right).max() <= 1
    assert (ancestors != expected).mean() < 2e-3  # a float32 cumulative sum has 3e-2


@pytest.mark.slow
@schemes
def test_one_particle_with_all_the_weight_has_all_the_offspring(scheme):
    for survivor in (0, 15, 16, 99):
        raw = jnp.full(100, -jnp.inf).at[survivor].set(-1e4)
        np.testing.assert_array_equal(draw(scheme, as_key(jax.random.key(0)), raw, 100), survivor)


@pytest.mark.slow
@schemes
def test_equal_weights_lose_at_most_what_the_scheme_draws(scheme):
    ancestors = np.asarray(draw(scheme, as_key(jax.random.key(0)), jnp.zeros(64), 64))
    distinct = len(np.unique(ancestors))
    assert distinct == 64 if scheme is not multinomial else 30 < distinct < 52


@pytest.mark.slow
@schemes
def test_a_cloud_without_weight_gives_indices_that_exist(scheme):
    ancestors = np.asarray(jax.jit(scheme, static_argnums=2)(as_key(jax.random.key(0)), jnp.zeros(40), 40))
    assert ((ancestors >= 0) & (ancestors < 40)).all()


@pytest.mark.slow
@schemes
def test_log_weights_and_sums_other_than_one_are_refused(scheme):
    for wrong in (jnp.log(jnp.full(4, 0.25)), jnp.ones(4), jnp.array([0.5, jnp.nan])):
        with pytest.raises(ValueError, match="weights: expected none negative and a sum of one"):
            scheme(as_key(jax.random.key(0)), wrong, 4)


@pytest.mark.slow
@schemes
def test_vmap_is_a_loop(scheme):
    keys = jax.random.split(as_key(jax.random.key(3)), 4)
    raw = jnp.asarray(np.random.default_rng(1).normal(size=(4, 50)), float)
    together = jax.jit(jax.vmap(lambda key, x: draw(scheme, key, x, 50)))(keys, raw)
    alone = [draw(scheme, key, x, 50) for key, x in zip(keys, raw)]
    np.testing.assert_array_equal(together, jnp.stack(alone))


@pytest.mark.slow
@schemes
def test_strict_promotion_and_no_gradient(scheme):
    raw = normalise(jnp.asarray(np.random.default_rng(1).normal(size=50), float)).weights
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.jit(scheme, static_argnums=2)(as_key(jax.random.key(0)), raw, 50)
        value = jax.grad(lambda x: jnp.sum(x[scheme(as_key(jax.random.key(0)), x, 50)]))(raw)
    assert float(value.sum()) == 50
