"""What engines are given: a traced model with data, and no observation that was forgotten."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from tests.model.zoo import Y, local_level

KEY = jax.random.key(0)
FILTER = ssmscan.ParticleFilter(10)
THETA = {"q": 1.0}


def two_series(y, other=None, use=None):
    """A random walk seen twice; the second time perhaps without data."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def transition(carry, inputs):
        y, other = inputs
        x = numpyro.sample("x", dist.Normal(carry[0], q))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        other = numpyro.sample("other", dist.Normal(x, 1.0), obs=other)
        if use == "deterministic":
            numpyro.deterministic("twice", 2 * other)
        if use == "density":
            numpyro.sample("copy", dist.Normal(other, 1.0), obs=y)
        return (x, other if use == "carry" else 0.0), other

    _, path = scan(transition, (0.0, 0.0), (y, other), length=12)
    if use == "outputs":
        numpyro.sample("sum", dist.Normal(path.sum(), 1.0), obs=0.0)
    return path


def reason(ssm, name):
    return next(site.reason for site in ssm.sites if site.name == name)


def test_a_forgotten_observation_is_said_at_trace_and_in_the_table():
    with pytest.warns(UserWarning, match="site 'other' is drawn at every step, and nothing observes or reads it"):
        ssm = ssmscan.trace(two_series, jnp.asarray(Y))
    assert "obs= forgotten?" in reason(ssm, "other") and "forgotten" not in reason(ssm, "x")
    assert "obs= forgotten?" in repr(ssm)


@pytest.mark.parametrize("use", ["carry", "density", "deterministic", "outputs"])
def test_a_draw_that_something_reads_is_a_state(use):
    """No warning: the suite makes them errors."""
    ssm = ssmscan.trace(two_series, jnp.asarray(Y), use=use)
    assert reason(ssm, "other") == "drawn at every step"


@pytest.fixture(scope="module")
def without_data():
    """A model with `y=None`, traced to draw from it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ssmscan.trace(two_series, None)


def test_a_model_without_data_is_simulated(without_data):
    drawn = without_data.simulate(KEY, THETA)
    assert {name: value.shape for name, value in drawn.items()} == dict.fromkeys(("x", "y", "other"), (12,))


ENGINES = {
    "ParticleFilter": lambda ssm: FILTER.run(KEY, ssm, THETA),
    "start": lambda ssm: FILTER.start(KEY, ssm, THETA),
    "log_likelihood": lambda ssm: ssmscan.log_likelihood(KEY, ssm, THETA, num_particles=10),
    "long_run": lambda ssm: ssmscan.long_run(KEY, ssm, THETA, particle_filter=FILTER),
    "NUTS": lambda ssm: ssmscan.NUTS().run(KEY, ssm),
    "PMMH": lambda ssm: ssmscan.PMMH().run(KEY, ssm),
    "TemperedSMC": lambda ssm: ssmscan.TemperedSMC().run(KEY, ssm),
    "MaximumLikelihood": lambda ssm: ssmscan.MaximumLikelihood().run(KEY, ssm),
}
OTHERS = {
    "update": lambda ssm: FILTER.update(None, ssm, THETA),
    "resume": lambda ssm: ssmscan.resume("nowhere.npz", ssm, THETA, particle_filter=FILTER),
    "backward_sample": lambda ssm: ssmscan.backward_sample(KEY, ssm, THETA, None, num_paths=1),
    "predict": lambda ssm: ssmscan.predict(KEY, ssm, None),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_refuse_a_model_without_data(without_data, engine):
    """They would return the prior, and a log likelihood of zero."""
    with pytest.raises(ssmscan.ModelError, match="no site of the model is observed.* Site 'y' is drawn"):
        ENGINES[engine](without_data)


@pytest.mark.parametrize("name", ENGINES | OTHERS)
def test_an_untraced_model_is_named_with_what_to_write(name):
    call = (ENGINES | OTHERS)[name]
    for model in (local_level, handlers.condition(local_level, data={"y": Y})):
        with pytest.raises(TypeError, match=r"got the function 'local_level'.*= ssmscan.trace\(local_level, ...\)"):
            call(model)
    with pytest.raises(TypeError, match="expected a traced model, got a value of type NoneType"):
        call(None)


def test_a_traced_model_is_no_function_to_trace(without_data):
    for take in (ssmscan.trace, ssmscan.noise_outside):
        with pytest.raises(TypeError, match=r"model.* a NumPyro model \(a function.*got a StateSpaceModel"):
            take(without_data)


def test_a_model_whose_noise_was_moved_is_not_traced():
    with pytest.raises(TypeError, match="^model: expected the model as it was written.*Trace the model itself"):
        ssmscan.trace(ssmscan.noise_outside(local_level), Y)
