"""Keys of other generators: each replicate hangs on its own key, under vmap as in a loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.model.keys import one_key
from ssmscan.particles.draws import as_key

GENERATORS = ["threefry2x32", "rbg", "unsafe_rbg"]
THETA = {"q": 0.7}


def level(y):
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, 0.0, y)


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(level, jnp.array([0.3, -0.2]))


def in_a_loop(function, keys):
    return jax.tree.map(lambda *found: jnp.stack(found), *[function(key) for key in keys])


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("convert", [as_key, one_key])
def test_a_key_becomes_a_function_of_its_own_words(generator, convert):
    keys = jax.random.split(jax.random.key(0, impl=generator), 4)

    def words(key):
        return jax.random.key_data(convert(key))

    alone = np.stack([words(key) for key in keys])
    assert alone.shape == (4, 2) and len(np.unique(alone)) == 8
    for together in (jax.vmap(words), jax.jit(jax.vmap(words)), lambda keys: jax.lax.map(words, keys)):
        np.testing.assert_array_equal(together(keys), alone)
    # Another first key changes the first replicate and no other.
    changed = keys.at[0].set(jax.random.key(1, impl=generator))
    np.testing.assert_array_equal((jax.vmap(words)(changed) == alone).all(1), [False, True, True, True])


def test_each_word_of_a_key_counts():
    words = jnp.array([1, 2, 3, 4], jnp.uint32)
    changed = [words, *(words.at[i].add(1) for i in range(4))]
    assert len(np.unique([jax.random.key_data(as_key(w)) for w in changed], axis=0)) == 5


def test_keys_of_threefry_are_taken_as_they_are():
    key = jax.random.key(7)
    np.testing.assert_array_equal(jax.random.key_data(as_key(key)), jax.random.key_data(key))


def draws_of(ssm):
    """What of the package takes one key, by name."""
    known = {"x": jnp.zeros(1)}
    history = ssmscan.ParticleFilter(8, summaries=(), store=ssmscan.FullHistory())

    def paths(key):
        result = history.run(key, ssm, THETA)
        return ssmscan.trace_ancestry(key, result, num_paths=1), ssmscan.backward_sample(
            key, ssm, THETA, result, num_paths=1
        )

    return {
        "likelihood": lambda key: ssmscan.log_likelihood(key, ssm, THETA, num_particles=8),
        "online": lambda key: history.start(key, ssm, THETA).state.log_weights,
        "paths": paths,
        "prior": ssm.sample_prior,
        "simulate": lambda key: ssm.simulate(key, THETA),
        "predict": lambda key: ssm.predict(key, THETA, known),
    }


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_nothing_is_drawn_with_another_generator(ssm, generator):
    key = jax.random.key(0, impl=generator)

    def users(jaxpr):
        """Primitives that read a key of another generator, those of inner jaxprs included."""
        for eqn in jaxpr.eqns:
            inner = [j for value in eqn.params.values() for j in jax.tree.leaves(value) if hasattr(j, "eqns")]
            inner += [j.jaxpr for value in eqn.params.values() for j in jax.tree.leaves(value) if hasattr(j, "jaxpr")]
            if not inner and any(getattr(v.aval, "dtype", None) == key.dtype for v in eqn.invars):
                yield eqn.primitive.name
            for jaxpr in inner:
                yield from users(jaxpr)

    for name, draw in draws_of(ssm).items():
        assert set(users(jax.make_jaxpr(draw)(key).jaxpr)) == {"random_unwrap"}, name


@pytest.mark.slow
def test_each_replicate_hangs_on_its_own_key(ssm):
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 3)
    for draw in draws_of(ssm).values():
        alone, together = in_a_loop(draw, keys), jax.vmap(draw)(keys)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), alone, together)


def test_raw_keys_of_rbg_and_a_default_generator_of_rbg(ssm):
    expected = ssm.sample_prior(jax.random.key(3, impl="rbg"))["q"]
    with jax.default_prng_impl("rbg"):
        assert ssm.sample_prior(jax.random.PRNGKey(3))["q"] == expected
        assert ssm.sample_prior(jax.random.key_data(jax.random.key(3, impl="threefry2x32")))["q"] != expected
        assert jax.random.key_impl(one_key(jax.random.key(3))) == "threefry2x32"
