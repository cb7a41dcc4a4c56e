"""Offspring are unbiased, in order, exact at a million particles, and never of a particle without weight."""

import collections
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmscan.particles.draws import as_key
from ssmscan.particles.resampling import killing, multinomial, stratified, systematic
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


# ---- a particle that is pinned ---------------------------------------------------------------------------

WEIGHTS = np.array([0.15, 0.52, 0.0, 0.33])
SLOTS = {systematic: 3, stratified: 3, multinomial: 3, killing: len(WEIGHTS)}
"""Number of ancestors; `killing` has one for each particle."""


def law(scheme) -> dict[tuple[int, ...], float]:
    """The probability of each vector of ancestors, in order of slots, by enumeration."""
    slots = SLOTS[scheme]
    if scheme is systematic:
        cuts = np.unique([0.0, 1.0, *(slots * np.cumsum(WEIGHTS) % 1)])
        found: dict[tuple[int, ...], float] = {}
        for low, high in itertools.pairwise(cuts):
            ancestors = tuple(reference(WEIGHTS, slots, (low + high) / 2).tolist())
            found[ancestors] = found.get(ancestors, 0) + high - low
        return found
    ends, survival = np.cumsum(WEIGHTS) * slots, WEIGHTS / WEIGHTS.max()
    chances = {
        stratified: [np.diff(np.clip(ends - k, 0, 1), prepend=0) for k in range(slots)],
        multinomial: [WEIGHTS] * slots,
        killing: [survival[k] * unit + (1 - survival[k]) * WEIGHTS for k, unit in enumerate(np.eye(len(WEIGHTS)))],
    }[scheme]
    everything = itertools.product(range(len(WEIGHTS)), repeat=slots)
    return {which: float(np.prod([p[a] for p, a in zip(chances, which)])) for which in everything}


def law_of_the_rest(scheme, pinned: int) -> dict[tuple[int, ...], float]:
    """The law of the other ancestors, sorted, when a slot chosen at random has got `pinned`."""
    found: dict[tuple[int, ...], float] = {}
    for which, chance in law(scheme).items():
        for k in range(len(which)):
            if which[k] == pinned:
                rest = tuple(sorted(which[:k] + which[k + 1 :]))
                found[rest] = found.get(rest, 0) + chance / (len(which) * WEIGHTS[pinned])
    return {rest: chance for rest, chance in found.items() if chance > 1e-9}


def overwritten(scheme):
    """The mistake: ordinary ancestors, one of which becomes the pinned particle."""
    return lambda key, weights, n, pinned: (scheme(key, weights, n).at[0].set(pinned), jnp.int32(0))


def worst(form, scheme, replicates: int = 20_000) -> tuple[float, int]:
    """The largest z of the frequencies of what the other slots get, and how many are compared."""
    keys, weights = jax.random.split(as_key(jax.random.key(0)), replicates), jnp.asarray(WEIGHTS, float)
    slots = SLOTS[scheme]
    draw_all = jax.jit(jax.vmap(lambda key, pinned: form(key, weights, slots, pinned), in_axes=(0, None)))
    z = []
    for pinned in np.flatnonzero(WEIGHTS):
        rows, places = map(np.asarray, draw_all(keys, jnp.int32(pinned)))
        assert rows.shape == (replicates, slots) and rows.dtype == places.dtype == np.int32
        own = np.arange(slots) == places[:, None]
        assert (rows[own] == pinned).all() and len(rows[own]) == replicates
        seen = collections.Counter(map(tuple, np.sort(rows[~own].reshape(-1, slots - 1), axis=1).tolist()))
        expected = law_of_the_rest(scheme, pinned)
        assert abs(sum(expected.values()) - 1) < 1e-9
        z += [np.inf] * len(set(seen) - set(expected))
        z += [(seen[k] - replicates * p) / max(replicates * p * (1 - p), 1.0) ** 0.5 for k, p in expected.items()]
    return float(np.abs(z).max()), len(z)


@pytest.mark.parametrize("scheme", SLOTS, ids=lambda scheme: scheme.__name__)
def test_a_pinned_particle_has_the_law_of_the_scheme_given_its_slot(scheme):
    found, count = worst(scheme.conditional, scheme)
    assert found < z_threshold(count)


@pytest.mark.slow
@schemes
def test_to_overwrite_an_ancestor_is_rejected(scheme):
    """Even of independent ones: they come sorted, and the first has the law of a least."""
    found, count = worst(overwritten(scheme), scheme)
    assert found > 3 * z_threshold(count)


@pytest.mark.slow
@schemes
def test_a_pinned_particle_is_found_among_a_million_and_others_are_as_ever(scheme):
    n = 1_000_000
    weights = normalise(jnp.asarray(np.random.default_rng(0).normal(0, 2, n), float)).weights
    draw_pinned = jax.jit(scheme.conditional, static_argnums=2)
    for pinned in (0, 15, 16, 700_001, n - 1):
        ancestors, slot = map(np.asarray, draw_pinned(as_key(jax.random.key(0)), weights, n, jnp.int32(pinned)))
        assert ancestors[slot] == pinned and (np.diff(np.delete(ancestors, slot)) >= 0).all()
        if scheme is systematic:
            counts = np.bincount(ancestors, minlength=n)
            assert np.abs(counts - n * np.asarray(weights, float)).max() < 1.1
