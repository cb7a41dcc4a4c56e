"""Bits equal to JAX's own, normals that are normal, keys checked."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

import ssmscan
from ssmscan.particles import draws
from ssmscan.particles.draws import as_key, draw_noise, standard_normal
from tests.particles import generator
from tests.truth import ERROR_RATE, z_threshold


class Spec(NamedTuple):
    shape: tuple[int, ...]
    is_key: bool = False


def test_bits_splits_and_folds_are_those_of_jax():
    assert generator.differences_from_jax(3) == []
    with jax.enable_x64(True):
        key = jax.random.key(3)
        bits = [jax.random.bits(k, (1001,), jnp.uint64) for k in (key, as_key(key))]
        np.testing.assert_array_equal(*bits)


@pytest.mark.parametrize("shape", [(100, 2), (100, 3, 2), (1, 5), (100, 1), (0, 3), (100, 0)])
@pytest.mark.parametrize("x64", [False, True])
def test_columns_hold_the_numbers_of_the_flat_array(shape, x64):
    with jax.enable_x64(x64):
        key = as_key(jax.random.key(1))
        flat = standard_normal(key, (math.prod(shape),), 5)
        # Fused into other code, the last bit may round the other way.
        np.testing.assert_allclose(standard_normal(key, shape, 5), flat.reshape(shape), rtol=1e-6)


def test_law_and_independence_of_a_million_draws():
    """`python -m tests.particles.generator` does the same with 2e9."""
    with jax.enable_x64(False):
        assert generator.accepted([*generator.law(0, 4, 2**20), *generator.independence(1, 4, 2**16)])


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("too wide", lambda key, shape, stream=0: 1.005 * standard_normal(key, shape, stream)),
        ("one stream", lambda key, shape, stream=0: standard_normal(key, shape)),
        ("few keys", lambda key, shape, stream=0: standard_normal(as_key(jax.random.key(0)), shape, stream)),
        ("particles in pairs", lambda key, shape, stream=0: jnp.repeat(standard_normal(key, shape, stream)[::2], 2, 0)),
        ("no tail", lambda key, shape, stream=0: jnp.clip(standard_normal(key, shape, stream), -4.0, 4.0)),
    ],
)
def test_the_same_test_rejects_a_broken_generator(name, broken, monkeypatch):
    monkeypatch.setattr(generator, "_draw", jax.jit(broken, static_argnums=(1, 2)))
    with jax.enable_x64(False):
        assert not generator.accepted([*generator.law(0, 4, 2**20), *generator.independence(1, 4, 2**16)])


def test_normals_follow_the_normal_law_between_the_tails():
    n = 2_000_000
    z = np.asarray(jax.jit(standard_normal, static_argnums=1)(as_key(jax.random.key(0)), (n,)), float)
    edges = np.concatenate([[-np.inf], np.linspace(-4.5, 4.5, 91), [np.inf]])
    expected = n * np.diff(stats.norm.cdf(edges))
    chi2 = ((np.histogram(z, edges)[0] - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(chi2, len(expected) - 1) > ERROR_RATE


def test_extreme_bits_give_finite_normals_far_out(monkeypatch):
    """The smallest uniform gives the radius sqrt(64 log 2) = 6.66, the largest gives zero."""
    words = jnp.array([0, 0, 2**32 - 1], jnp.uint32), jnp.array([2**31 - 1, 2**31, 2**31], jnp.uint32)
    monkeypatch.setattr(draws, "threefry", lambda key, high, low: words)
    with jax.enable_x64(False):
        z = standard_normal(as_key(jax.random.key(0)), (3,))
    radius = (64 * np.log(2)) ** 0.5
    np.testing.assert_allclose(z, [radius, -radius, 0], rtol=1e-6)


def test_normals_are_box_muller_of_their_words(monkeypatch):
    rng = np.random.default_rng(20261122)
    a, b = (rng.integers(0, 2**32, 1_000_000, dtype=np.uint32) for _ in range(2))
    a[:300], b[:300] = np.arange(300), 2**32 - 1 - np.arange(300)  # far out, and angles near zero
    a[300:600], b[300:600] = 2**32 - 1 - np.arange(300), np.arange(300)  # near zero
    monkeypatch.setattr(draws, "threefry", lambda key, high, low: (jnp.asarray(a), jnp.asarray(b)))
    with jax.enable_x64(False):
        z = standard_normal(as_key(jax.random.key(0)), a.shape)
    uniform = (a >> 1).astype(np.float32).astype(float) * 2.0**-31 + 2.0**-32
    exact = np.sqrt(-2 * np.log(uniform.astype(np.float32))) * np.sin(np.pi * b.astype(np.int32) / 2**32)
    np.testing.assert_allclose(z, exact, rtol=1e-6)


def test_float64_normals_are_those_of_jax():
    with jax.enable_x64(True):
        key = jax.random.key(5)
        expected = jax.random.normal(key, (1000,), jnp.float64)
        ours = standard_normal(as_key(key), (1000,))
        assert ours.dtype == jnp.float64
        np.testing.assert_array_equal(ours, expected)


def test_noise_has_one_independent_stream_a_site():
    specs = {"x": Spec((2,)), "y": Spec((2,)), "g": Spec((), True)}
    noise = draw_noise(as_key(jax.random.key(0)), specs, 20_000)
    assert noise["x"].shape == (20_000, 2)
    assert abs(np.corrcoef(noise["x"].ravel(), noise["y"].ravel())[0, 1]) < z_threshold() / 40_000**0.5
    counts = np.asarray(jax.vmap(lambda key: jax.random.poisson(key, 3.0))(noise["g"]))
    assert noise["g"].shape == (20_000,)
    assert abs(counts.mean() - 3) < z_threshold() * (3 / 20_000) ** 0.5


def test_raw_typed_and_foreign_keys_are_accepted():
    typed, raw = as_key(jax.random.key(7)), as_key(jax.random.PRNGKey(7))
    np.testing.assert_array_equal(jax.random.key_data(typed), jax.random.key_data(raw))
    np.testing.assert_array_equal(jax.random.key_data(as_key(typed)), jax.random.key_data(typed))
    assert jax.random.key_data(as_key(jax.random.key(7, impl="rbg"))).shape == (2,)


@pytest.mark.parametrize(
    "bad", [0, None, jax.random.split(jax.random.key(0), 3), np.zeros(2), np.zeros((4, 2), np.uint32)]
)
def test_anything_but_one_key_is_refused_by_name(bad):
    with pytest.raises(TypeError, match="my_key: expected one PRNG key"):
        as_key(bad, "my_key")


def arrivals(y):
    """Counts whose rate is a parameter, and in one particle of many beyond its range."""
    rate, harm = numpyro.sample("rate", dist.HalfNormal(1.0)), numpyro.sample("harm", dist.Normal(0.0, 1.0))

    def transition(x, y):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        n = numpyro.sample("n", dist.Poisson(jnp.where(u > harm, jnp.nan, rate)))
        numpyro.sample("y", dist.Normal(n, 1.0), obs=y)
        return n, None

    scan(transition, 0, y)


def test_a_count_without_a_law_takes_the_weight_of_its_particle_and_of_no_other():
    ssm = ssmscan.trace(arrivals, jnp.array([1.0, 0.0, 2.0]))
    rates, harms = jnp.array([0.5, jnp.nan, 0.5, -1.0]), jnp.array([9.0, 9.0, 1.0, 9.0])

    def of(rate, harm):
        result = ssmscan.ParticleFilter(2000).run(jax.random.key(0), ssm, {"rate": rate, "harm": harm})
        return result.log_likelihood, result.status

    log_likelihood, status = jax.jit(jax.vmap(of))(rates, harms)
    assert status.tolist() == [0, 2, 1, 2] and np.isneginf(log_likelihood[jnp.array([1, 3])]).all()
    # A sixth of the particles is lost at each step, and with them their part of the weight.
    lost = 3 * np.log(stats.norm.cdf(1.0))
    assert abs(log_likelihood[2] - log_likelihood[0] - lost) < 0.2
