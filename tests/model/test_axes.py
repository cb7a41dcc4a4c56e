"""One axis through a jaxpr: the windows of code after the loop add up to the whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ssmscan
from tests.model import tails


def by_steps(ssm, theta, noise):
    """Add up what weighs one particle: at the start, at each step, and outside."""
    bound = ssm.at(theta)
    start = bound.init({"x0": noise["x0"]})

    def step(carry, inputs):
        moved = bound.step(carry, inputs[0], {"x": inputs[1]})
        return moved.carry, moved.log_weight

    _, weights = lax.scan(step, start.carry, (bound.xs, noise["x"]))
    return ssm.log_static(theta) + start.log_weight + weights.sum()


@jax.jit
def both(ssm, theta, noise):
    return by_steps(ssm, theta, noise), ssm.log_likelihood_given_noise(theta, noise)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in tails.SLOW else n for n in tails.POINTWISE]
)
def test_weights_of_the_steps_add_up_to_the_whole(name):
    ssm = ssmscan.trace(tails.model(tails.POINTWISE[name]), tails.Y)
    key = jax.random.key(5)
    noise = {"x0": jax.random.normal(key, (2,)), "x": jax.random.normal(key, (tails.T, 2))}
    theta = {site.name: jnp.asarray(0.7) for site in ssm.parameters}
    steps, whole = jax.device_get(both(ssm, theta, noise))
    assert np.isfinite(whole)
    np.testing.assert_allclose(steps, whole, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("name", tails.JOINED)
def test_what_joins_steps_is_refused_to_particles_by_its_line(name):
    tail, primitive = tails.JOINED[name]
    ssm = ssmscan.trace(tails.model(tail), tails.Y)
    blamed = ssm.program.post_loop.mixing["a"]
    assert blamed.primitive == primitive
    where = "in the log-density" if name == "joint" else "tails.py:"
    with pytest.raises(ssmscan.ModelError, match=f"site 'a': {primitive} \\({where}"):
        ssm.core.refuse_unless_pointwise()


def test_the_whole_message():
    def tail(path, x0, y, last):
        tails.see("a", tails.dist.Normal(jnp.cumsum(path, 0), 1.0), tails.Y2)

    def other(path, x0, y, last):
        tail(path, x0, y, last)
        tails.from_last_carry(path, x0, y, last)

    ssm = ssmscan.trace(tails.model(tail), tails.Y)
    line = tail.__code__.co_firstlineno + 1
    with pytest.raises(ssmscan.ModelError) as error:
        ssmscan.ParticleFilter(10).run(jax.random.key(0), ssm, {"s": 1.0})
    assert str(error.value) == (
        "observations after the loop cannot be taken apart into steps, so particles cannot be weighed: site 'a': "
        f"cumsum (test_axes.py:{line}, in tail) joins different steps. Observe inside the transition (data as xs), "
        "or use NUTS or TemperedSMC, which take the model as it is."
    )
    ssm = ssmscan.trace(tails.model(tails.from_last_carry), tails.Y)
    with pytest.raises(ssmscan.ModelError, match="site 'a': it reads the last carry of the loop"):
        ssm.core.refuse_unless_pointwise()


def test_gradient_engines_take_what_joins_steps():
    ssm = ssmscan.trace(tails.model(tails.JOINED["cumulative"][0]), tails.Y)
    noise = {"x0": jnp.zeros(2), "x": jnp.ones((tails.T, 2))}
    path = np.cumsum(np.full((tails.T, 2), 0.5), 0)
    expected = -0.5 * (np.square(tails.Y2 - np.cumsum(path, 0)) + np.log(2 * np.pi)).sum()
    np.testing.assert_allclose(ssm.log_likelihood_given_noise({"s": jnp.asarray(0.5)}, noise), expected, rtol=1e-5)


def test_the_table_says_how_each_site_is_observed():
    reasons = {
        name: ssmscan.trace(tails.model(tail), tails.Y).sites
        for name, tail in (("plain", tails.POINTWISE["plain"]), ("start", tails.POINTWISE["start in front"]))
    }
    plain, start = ({site.name: site for site in reasons[name]} for name in ("plain", "start"))
    assert plain["a"].reason == "observed after the loop, one row a step"
    assert start["a"].reason == (
        "observed after the loop, one row a step; rows that belong to no step observe the start, 'x0'"
    )
    assert start["x0"].role.value == "initial state"


def test_an_initial_state_that_acts_on_every_row_is_a_parameter():
    ssm = ssmscan.trace(tails.model(tails.single(lambda path, x0, y: path + x0)), tails.Y)
    assert [site.name for site in ssm.parameters] == ["s", "x0"]
