"""Densities and noise of given states, against NumPyro's density of the model as it was written."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density

import ssmscan
from ssmscan.model.statespace.state_values import log_joint, noise_from_states, without_noise


def everything(y, z):
    """A start that is observed, two states, one of several dimensions, a scaled one, a rate that nothing reaches."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.sample("alone", dist.Normal(scale, 1.0), obs=0.3)
    x0 = numpyro.sample("x0", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    numpyro.sample("y0", dist.Normal(x0.sum(), 1.0), obs=0.7)

    def step(x, rows):
        y, z = rows
        x = numpyro.sample("x", dist.MultivariateNormal(0.8 * x, scale * jnp.array([[1.0, 0.3], [0.3, 0.5]])))
        with numpyro.handlers.scale(scale=0.7):
            jump = numpyro.sample("jump", dist.Laplace(0.0, scale))
        numpyro.sample("y", dist.Normal(x[0] + jump, 1.0), obs=y)
        numpyro.sample("z", dist.Poisson(jnp.exp(x[1])), obs=z)
        return x, None

    scan(step, x0, (y, z))


def after_loop(y):
    """Normals in a panel, observed after the loop."""
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))
    with numpyro.plate("series", 3):
        x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, _):
        with numpyro.plate("series", 3):
            x = numpyro.sample("x", dist.Normal(rho * x, 0.5))
        return x, x

    _, xs = scan(step, x0, None, length=4)
    numpyro.sample("y", dist.Normal(xs, 1.0).to_event(2), obs=y)


def regimes(y):
    """Discrete states."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    first = numpyro.sample("first", dist.Bernoulli(0.4))

    def step(s, y):
        s = numpyro.sample("s", dist.Bernoulli(jnp.where(s == 1, 0.8, 0.3)))
        numpyro.sample("y", dist.Normal(mean * s, 1.0), obs=y)
        return s, None

    scan(step, first, y)


MODELS = {
    "everything": (everything, (jnp.array([0.1, -0.4, 1.0]), jnp.array([0, 2, 1]))),
    "after the loop": (after_loop, (jnp.arange(12.0).reshape(4, 3) / 6,)),
    "regimes": (regimes, (jnp.array([0.1, 1.4, -1.0]),)),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """A model, its data, and parameters and states drawn from it."""
    model, data = MODELS[request.param]
    ssm = ssmscan.trace(model, *data)
    theta = ssm.sample_prior(jax.random.key(0))
    drawn = ssm.simulate(jax.random.key(1), theta)
    return model, data, ssm, theta, {site.name: drawn[site.name] for site in (*ssm.initial, *ssm.innovations)}


def test_log_joint_is_the_density_of_numpyro(case):
    model, data, ssm, theta, states = case
    whole, _ = log_density(model, data, {}, {**theta, **states})
    found = jax.jit(log_joint)(ssm, theta, states)
    np.testing.assert_allclose(found + ssm.log_prior(theta), whole, rtol=2e-5)


def test_noise_of_states_makes_the_states(case):
    _, _, ssm, theta, states = case
    if "s" in states:
        with pytest.raises(ssmscan.ModelError, match="'first', 's'"):
            noise_from_states(ssm, theta, states)
        return
    assert not without_noise(ssm)
    again = ssm.states_from_noise(theta, jax.jit(noise_from_states)(ssm, theta, states))
    for name, value in states.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_scaling_is_told_apart_from_the_law_of_draws():
    """A proposal that draws from the law is weighed by the rest."""
    _, data = MODELS["everything"]
    ssm = ssmscan.trace(everything, *data)
    theta = {"scale": jnp.asarray(0.6)}
    dynamics = ssm.at(theta)
    values = {"x": jnp.array([0.2, -0.1]), "jump": jnp.asarray(0.4)}
    x = jax.tree.map(lambda leaf: leaf[0], dynamics.xs)
    found = dynamics.evaluate(jnp.zeros(2), x, values)
    np.testing.assert_allclose(found.log_excess, -0.3 * dist.Laplace(0.0, 0.6).log_prob(0.4), rtol=1e-5)


def test_states_that_are_missing_are_named(case):
    _, _, ssm, theta, states = case
    name = ssm.innovations[0].name
    with pytest.raises(ValueError, match=name):
        log_joint(ssm, theta, {key: value for key, value in states.items() if key != name})
    with pytest.raises(ValueError, match=name):
        log_joint(ssm, theta, {**states, name: states[name][:-1]})
