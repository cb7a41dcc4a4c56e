"""What satisfies the contract between models and engines: traced models, elements of panels, and those by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmscan
from ssmscan.model.protocols import Dynamics, Evaluated, EvaluatedStart, Model, NoiseDynamics, Start, Step
from tests.model.test_observed import GAPS, PANELS
from tests.particles.handmade import autoregression

KEY = jax.random.key(0)


def members(protocol):
    return [name for name in vars(protocol) if not name.startswith("_")]


@pytest.fixture(scope="module")
def models():
    return {"traced": ssmscan.trace(PANELS["inside"][0], jnp.asarray(GAPS)), "by hand": autoregression()}


@pytest.mark.parametrize("name", ["traced", "by hand"])
def test_a_model_has_every_member_and_theta_makes_the_round_trip(models, name):
    ssm = models[name]
    for member in members(Model):
        getattr(ssm, member)
    theta = ssm.sample_prior(KEY)
    z = ssm.unconstrain(theta)
    again, log_density = ssm.log_prior_unconstrained(z)
    assert set(theta) == {site.name for site in ssm.parameters} and np.shape(log_density) == ()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), theta, again)
    assert ssm.loops == (ssm,) and np.shape(ssm.log_prior(theta)) == np.shape(ssm.log_static(theta)) == ()


@pytest.mark.parametrize("name", ["traced", "element", "by hand"])
def test_dynamics_have_every_member_and_a_step_by_noise_is_the_step_at_its_values(models, name):
    ssm = models["by hand" if name == "by hand" else "traced"]
    theta = ssm.canonical({"rho": 0.5, "sx": 1.0, "sy": 0.5} if name == "by hand" else {"s": 0.5})
    dynamics = ssm.elements_at(theta)(jnp.int32(2)) if name == "element" else ssm.at(theta)
    for member in (*members(Dynamics), *members(NoiseDynamics)):
        getattr(dynamics, member)
    for under in (dynamics.guided, dynamics.surrogate):
        for member in members(NoiseDynamics):
            getattr(under, member)
    assert set(dynamics.moved) <= {site.name for site in (*dynamics.initial, *dynamics.innovations)}
    start_noise, step_noise = (
        {n: jax.random.normal(KEY, spec.shape) for n, spec in specs.items()}
        for specs in (dynamics.initial_noise, dynamics.step_noise)
    )
    start, x = dynamics.init(start_noise), jax.tree.map(lambda a: a[1], dynamics.xs)
    again = dynamics.evaluate_start(start.values)
    step = dynamics.step(start.carry, x, step_noise)
    values = {site.name: step.values[site.name] for site in dynamics.innovations}
    seen = dynamics.evaluate(again.carry, x, values)
    assert [type(record) for record in (start, again, step, seen)] == [Start, EvaluatedStart, Step, Evaluated]
    assert {site.name for site in dynamics.initial} == set(start.values)
    pairs = (
        (start.carry, again.carry),
        (start.log_weight, again.log_observation),
        (step.carry, seen.carry),
        (step.log_weight, seen.log_observation),
        (step.cdf, seen.cdf),
    )
    found = {**dynamics.start_noise_of(start.values), **dynamics.noise_of(start.carry, x, values)}
    assert set(found) == set(dynamics.invertible) <= set(dynamics.moved)
    pairs += (({name: {**start_noise, **step_noise}[name] for name in found}, found),)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *zip(*pairs))
    assert set(dynamics.observed(x)) == set(step.cdf) and len(jax.tree.leaves(dynamics.xs)[0]) == dynamics.num_steps
