"""Runs of a model in which some sites have placeholders: NumPyro does not judge parameters computed from them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from tests.model.zoo import Y, local_level


def scaled_start(y):
    s0 = numpyro.sample("s0", dist.HalfNormal(1.0))
    numpyro.sample("y0", dist.Normal(0.0, s0), obs=0.3)

    def step(s, yt):
        s = numpyro.sample("s", dist.LogNormal(0.9 * jnp.log(s), 0.1))
        numpyro.sample("y", dist.Normal(0.0, s), obs=yt)
        return s, None

    scan(step, s0, y)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_noise_outside_of_a_scale_that_starts_the_loop(jit):
    moved = ssmscan.noise_outside(scaled_start)

    def draw(key):
        sites = handlers.trace(handlers.seed(moved, key)).get_trace(Y[:5])
        return {name: site["value"] for name, site in sites.items()}

    with numpyro.validation_enabled():
        assert {"s0_noise", "s_noise"} <= set((jax.jit(draw) if jit else draw)(jax.random.key(0)))


def test_parameters_that_no_law_has_are_still_refused_where_numpyro_checks():
    def model(y):
        numpyro.sample("s", dist.Normal(0.0, -1.0))
        local_level(y)

    with numpyro.validation_enabled(), pytest.raises(ValueError, match="Normal distribution got invalid scale"):
        ssmscan.trace(model, Y)


@pytest.mark.slow
def test_numpyros_own_engines_take_the_moved_model():
    moved = ssmscan.noise_outside(scaled_start)
    mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(moved), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(jax.random.key(0), Y)
    assert mcmc.get_samples()["s0_noise"].shape == (5,)
    drawn = numpyro.infer.Predictive(moved, num_samples=3)(jax.random.key(0), Y)
    assert drawn["s"].shape == (3, 12)
