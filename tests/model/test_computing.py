"""Scans that only compute, under `vmap`, outside the loop and in it; parameters of `numpyro.param` in the loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam

import ssmscan

Y = np.random.default_rng(7).normal(size=5)
DECAYS = jnp.array([0.2, 0.5, 0.9])


def adstock(decay, spend, run):
    return run(lambda stock, s: (decay * stock + s,) * 2, 0.0, spend)


def outside(y, run):
    total = jax.vmap(lambda decay: adstock(decay, y, run)[1])(DECAYS).sum(0)
    inside(y - total, None)


def inside(y, run):
    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        shift = 0.0
        if run is not None:
            shift = jax.vmap(lambda decay: adstock(decay, x * jnp.ones(3), run)[0])(DECAYS).sum()
        numpyro.sample("y", dist.Normal(x + shift, 1.0), obs=yt)
        return x, None

    scan(step, 0.0, y)


def alone(y, run):
    decay = numpyro.sample("decay", dist.Beta(2.0, 2.0).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(jax.vmap(lambda d: adstock(d, y, run)[1])(decay).sum(0), 1.0), obs=y)


@pytest.mark.parametrize("model", [inside, *(pytest.param(m, marks=pytest.mark.slow) for m in (outside, alone))])
def test_a_scan_without_sites_under_vmap_computes_as_that_of_jax(model):
    ours, jaxs = (ssmscan.trace(model, Y, run) for run in (scan, jax.lax.scan))
    theta = jaxs.sample_prior(jax.random.key(0))
    noise = {name: jax.random.normal(jax.random.key(1), spec.shape) for name, spec in jaxs.smooth_noise.items()}
    got, expected = (ssm.log_likelihood_given_noise(theta, noise) + ssm.log_static(theta) for ssm in (ours, jaxs))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def reparameterised(centered):
    def model(y):
        def step(x, yt):
            with handlers.reparam(config={"x": LocScaleReparam(centered)}):
                x = numpyro.sample("x", dist.Normal(x, 0.7))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    return model


def test_the_default_of_a_reparam_in_the_loop_is_half_centered():
    half, default = (ssmscan.trace(reparameterised(centered), Y) for centered in (0.5, None))
    noise = {"x_decentered": jax.random.normal(jax.random.key(0), Y.shape)}
    got, expected = (ssm.log_likelihood_given_noise({}, noise) for ssm in (default, half))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_lift_around_the_loop_makes_a_parameter_outside_it_a_site():
    def model(y):
        b = numpyro.sample("b", dist.Normal(1.0, 2.0))
        inside(y + b, None)

    config, prior = {"b": LocScaleReparam()}, {"b_centered": dist.Uniform(0.0, 1.0)}
    ssm = ssmscan.trace(handlers.lift(handlers.reparam(model, config=config), prior=prior), Y)
    assert [site.name for site in ssm.parameters] == ["b_centered", "b_decentered"]
    assert ssm.check(jax.random.key(0)).passed


def test_a_parameter_of_the_loop_that_is_drawn_is_refused():
    def model(y):
        def step(x, yt):
            rho = numpyro.param("rho", lambda key: jax.random.uniform(key))
            x = numpyro.sample("x", dist.Normal(rho * x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    with pytest.raises(ssmscan.ModelError, match="'rho' stands inside the loop, where its initial value is drawn"):
        ssmscan.trace(model, Y)
