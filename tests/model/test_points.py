"""`dist.Delta`: a deterministic with, at most, a factor; in the loop, before and after it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density

import ssmscan
from ssmscan import Role
from tests.model.zoo import Y

KEY = jax.random.key(0)
DATA = Y[:5]


def model_of(point, factor):
    """The model with its points, and with deterministics and factors in their place."""

    def model(y):
        q = numpyro.sample("q", dist.HalfNormal(1.0))
        sd = point("sd", 2.0 * q, 0.0)

        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, sd))
            twice = point("twice", jnp.stack([x, 2.0 * x]), 0.0)
            z = point("z", twice[1], factor(x))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=yt)
            return x, x

        _, path = scan(step, 0.0, y)
        point("end", path[-1], 0.0)

    return model


def as_delta(name, value, log_density):
    return numpyro.sample(name, dist.Delta(value, log_density).to_event(jnp.ndim(value)))


def as_deterministic(name, value, log_density):
    numpyro.factor(f"{name}_factor", log_density)
    return numpyro.deterministic(name, value)


def pull(x):
    return -0.5 * x**2


@pytest.mark.parametrize("factor", [pytest.param(lambda x: 0.0, marks=pytest.mark.slow), pull], ids=["alone", "factor"])
def test_a_point_is_a_deterministic_whose_density_counts(factor):
    ssm = ssmscan.trace(model_of(as_delta, factor), DATA)
    roles = {site.name: site.role for site in ssm.sites}
    assert [site.name for site in ssm.parameters] == ["q"] and [site.name for site in ssm.innovations] == ["x"]
    assert {roles[name] for name in ("sd", "twice", "z", "end")} == {Role.DETERMINISTIC}
    assert ("z_log_density" in roles) == (factor is pull)
    theta, noise = {"q": jnp.asarray(0.4)}, {"x": jax.random.normal(KEY, (5,))}
    plain = ssmscan.trace(model_of(as_deterministic, factor), DATA)
    np.testing.assert_allclose(
        ssm.log_likelihood_given_noise(theta, noise), plain.log_likelihood_given_noise(theta, noise), rtol=1e-6
    )
    np.testing.assert_allclose(ssm.states_from_noise(theta, noise)["z"], 2 * plain.states_from_noise(theta, noise)["x"])
    assert ssm.check(KEY).passed


@pytest.mark.slow
def test_masks_and_scales_act_on_the_density_of_a_point():
    def model(y):
        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            with handlers.scale(scale=0.5):
                numpyro.sample("a", dist.Delta(x, -x))
            with handlers.mask(mask=False):
                numpyro.sample("b", dist.Delta(x, -10 * x))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    ssm = ssmscan.trace(model, DATA)
    x = jnp.arange(5.0)
    eps = jnp.diff(x, prepend=0.0)
    expected = jnp.sum(dist.Normal(x, 1.0).log_prob(DATA) - 0.5 * x)
    np.testing.assert_allclose(ssm.log_likelihood_given_noise({}, {"x": eps}), expected, rtol=1e-5)


def test_a_point_that_is_observed_stays_an_observation():
    def model(y):
        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Delta(jnp.round(x)), obs=yt)
            return x, None

        scan(step, 0.0, y)

    ssm = ssmscan.trace(model, jnp.round(DATA))
    assert [site.name for site in ssm.observations] == ["y"]


@pytest.mark.slow
def test_the_density_of_a_point_is_that_of_the_original_with_noise_outside():
    moved = ssmscan.noise_outside(model_of(as_delta, pull), initial=())
    values = {"q": 0.4, "x_noise": jax.random.normal(KEY, (5,)), "sd": 0.8}
    plain = ssmscan.noise_outside(model_of(as_deterministic, pull), initial=())
    values = {name: value for name, value in values.items() if name != "sd"}
    one, two = (log_density(handlers.seed(m, 0), (DATA,), {}, values)[0] for m in (moved, plain))
    np.testing.assert_allclose(one, two, rtol=1e-6)


@pytest.mark.slow
def test_nuts_runs_and_reports_the_point():
    result = ssmscan.NUTS(num_warmup=50, num_samples=50, num_chains=2, progress=False).run(
        KEY, ssmscan.trace(model_of(as_delta, pull), DATA)
    )
    np.testing.assert_allclose(result.states["z"], 2 * result.states["x"], rtol=1e-5)
