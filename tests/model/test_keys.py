"""Keys and optimisable parameters in the model: harmless ones are kept, hidden randomness is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan

pytestmark = pytest.mark.slow

Y = jnp.asarray(np.random.default_rng(0).normal(size=5))


def step(x, y, key=None):
    x = numpyro.sample("x", dist.Normal(0.9 * x, 1.0), rng_key=key)
    numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
    return x


def plain(y):
    scan(lambda x, yt: (step(x, yt), None), 0.0, y)


def key_of_a_site(y):
    key = numpyro.prng_key()
    numpyro.sample("a", dist.Normal(0, 1), rng_key=key)
    scan(lambda x, yt: (step(x, yt), None), 0.0, y)


def key_of_a_step(y):
    scan(lambda x, yt: (step(x, yt, numpyro.prng_key()), None), 0.0, y)


def key_in_the_carry(y):
    def body(carry, yt):
        x, key = carry
        key, sub = random.split(key)
        return (step(x, yt, sub), key), None

    scan(body, (0.0, numpyro.prng_key()), y)


def keys_as_inputs(y):
    scan(lambda x, row: (step(x, *row), None), 0.0, (y, random.split(numpyro.prng_key(), len(y))))


def drawn_for_the_report(y):
    def body(x, yt):
        x = step(x, yt)
        return x, x + random.normal(numpyro.prng_key())

    _, replicate = scan(body, 0.0, y)
    numpyro.deterministic("replicate", replicate)


@pytest.mark.parametrize(
    "model", [key_of_a_site, key_of_a_step, key_in_the_carry, keys_as_inputs, drawn_for_the_report]
)
def test_a_key_that_reaches_no_density_changes_nothing(model):
    ssm, expected = ssmscan.trace(model, Y), ssmscan.trace(plain, Y)
    assert ssm.check(random.key(0)).passed
    theta = ssm.sample_prior(random.key(1))
    values = [ssmscan.log_likelihood(random.key(2), s, t, num_particles=50) for s, t in ((ssm, theta), (expected, {}))]
    np.testing.assert_allclose(*values, rtol=1e-5)


def drawn_start(y):
    scan(lambda x, yt: (step(x, yt), None), random.normal(numpyro.prng_key()), y)


def drawn_inputs(y):
    scan(lambda x, row: (step(x + row[1], row[0]), None), 0.0, (y, random.normal(numpyro.prng_key(), y.shape)))


def drawn_from_the_carry(y):
    def body(carry, yt):
        x, key = carry
        key, sub = random.split(key)
        return (step(x + random.normal(sub), yt), key), None

    scan(body, (0.0, numpyro.prng_key()), y)


def drawn_integer(y):
    def body(carry, yt):
        x, k, key = carry
        key, sub = random.split(key)
        return (step(x + k, yt), random.randint(sub, (), 0, 3), key), None

    scan(body, (0.0, 0, random.key(0)), y)


def drawn_output(y):
    def body(carry, _):
        x, key = carry
        key, sub = random.split(key)
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        return (x, key), x + random.normal(sub)

    _, noisy = scan(body, (0.0, random.PRNGKey(0)), None, length=len(y))
    numpyro.sample("y", dist.Normal(noisy, 1.0), obs=y)


def drawn_before_the_loop(y):
    numpyro.sample("z", dist.Normal(random.normal(numpyro.prng_key()), 1.0), obs=0.3)
    scan(lambda x, yt: (step(x, yt), None), 0.0, y)


def drawn_at_a_hidden_site(y):
    with handlers.block():
        shift = numpyro.sample("shift", dist.Normal(0, 1))
    scan(lambda x, yt: (step(x + shift, yt), None), 0.0, y)


def drawn_at_a_hidden_site_of_a_step(y):
    def body(x, yt):
        with handlers.block():
            shift = numpyro.sample("shift", dist.Normal(x, 1))
        return step(x + shift, yt), None

    scan(body, 0.0, y)


KEYED, LOOSE = "numpyro.prng_key\\(\\)", "the transition draws random numbers with jax.random"
REACHED = {
    drawn_start: ("x", KEYED),
    drawn_inputs: ("x", KEYED),
    drawn_from_the_carry: ("x", LOOSE),
    drawn_integer: ("x", LOOSE),
    drawn_output: ("y", LOOSE),
    drawn_before_the_loop: ("z", KEYED),
    drawn_at_a_hidden_site: ("x", KEYED),
    drawn_at_a_hidden_site_of_a_step: ("x", KEYED),
}


@pytest.mark.parametrize("model", REACHED, ids=lambda model: model.__name__)
def test_hidden_draws_that_reach_a_density_are_refused_by_the_site_they_reach(model):
    name, words = REACHED[model]
    with pytest.raises(ssmscan.ModelError, match=words) as error:
        ssmscan.trace(model, Y)
    assert f"density of site '{name}'" in str(error.value)


def test_numbers_made_outside_the_loop_from_a_fixed_key_are_constants():
    def model(y):
        features = random.normal(random.key(0), y.shape)
        scan(lambda x, row: (step(x + row[1], row[0]), None), 0.0, (y, features))

    assert ssmscan.trace(model, Y).check(random.key(0)).passed


def test_a_key_in_the_carry_that_only_names_draws_is_harmless():
    def body(carry, yt):
        x, key = carry
        key, sub = random.split(key)
        return (step(x, yt, sub), key), None

    ssm = ssmscan.trace(lambda y: scan(body, (0.0, random.key(0)), y), Y)
    draws = jax.vmap(lambda k: ssm.simulate(k, {})["x"])(random.split(random.key(0), 3))
    assert len(np.unique(draws[:, 0])) == 3


def test_numbers_drawn_under_a_seed_of_the_user_are_constants():
    ssm = ssmscan.trace(handlers.seed(drawn_start, rng_seed=3), Y)
    assert ssm.check(random.key(0)).passed


def decay(y, initial):
    rate = numpyro.param("rate", initial, constraint=dist.constraints.unit_interval)
    scan(lambda x, yt: (step(rate * x, yt), None), 0.0, y)


def test_a_param_outside_the_loop_is_a_constant_at_its_initial_value():
    def constant(y):
        scan(lambda x, yt: (step(0.3 * x, yt), None), 0.0, y)

    expected = ssmscan.log_likelihood(random.key(0), ssmscan.trace(constant, Y), {}, num_particles=50)
    substituted = handlers.substitute(decay, data={"rate": 0.3})
    drawn = lambda key: 0.3 + 0.0 * random.uniform(key)  # noqa: E731
    for model, initial in ((decay, 0.3), (substituted, 0.9), (decay, drawn), (substituted, random.uniform)):
        ssm = ssmscan.trace(model, Y, initial)
        assert not ssm.parameters and ssm.check(random.key(0)).passed
        np.testing.assert_allclose(
            ssmscan.log_likelihood(random.key(0), ssm, {}, num_particles=50), expected, rtol=1e-6
        )


def test_params_drawn_by_their_initial_functions_differ_and_stay():
    def model(y):
        a, b = numpyro.param("a", random.uniform), numpyro.param("b", random.uniform)

        def body(x, yt):
            numpyro.deterministic("both", jnp.stack([a, b]))
            return step((a - b) * x, yt), None

        scan(body, 0.0, y)

    one, two = (ssmscan.trace(model, Y) for _ in range(2))
    assert one.check(random.key(0)).passed
    both = [s.simulate(random.key(k), {})["both"] for k, s in enumerate((one, two))]
    np.testing.assert_array_equal(*both)
    assert both[0][0, 0] != both[0][0, 1]
