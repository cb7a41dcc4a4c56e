"""Samplers of parameters see a panel as they see any model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmscan
from ssmscan.inference import pmmh_chain
from tests.particles.test_panel import KEY, THETA, M, T, Y, panel

pytestmark = pytest.mark.slow


def test_a_run_is_made_again_from_its_key_with_a_path_of_every_element():
    ssm = ssmscan.trace(panel, Y)
    settings = ssmscan.ParticleFilter(40, summaries=())
    assert settings.particle_steps(ssm) == 40 * T * M
    state = pmmh_chain.evaluate(KEY, ssm, ssm.unconstrain(ssm.canonical(THETA)), settings)
    log_likelihood, path = jax.jit(lambda key: settings.sample_path(key, ssm, ssm.canonical(THETA)))(KEY)
    np.testing.assert_allclose(log_likelihood, state.log_likelihood, rtol=1e-5)
    assert (path["x"].shape, path["x0"].shape) == ((T, M), (M,))


def test_chains_run_side_by_side():
    ssm = ssmscan.trace(panel, Y)
    settings = ssmscan.ParticleFilter(40, summaries=())

    def step(key):
        start = pmmh_chain.evaluate(key, ssm, {"s": jnp.asarray(-0.5)}, settings)
        return pmmh_chain.pmmh_step(key, start, jnp.eye(1), ssm, settings)[1].log_likelihood

    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(step))(keys)
    np.testing.assert_allclose(together[1], jax.jit(step)(keys[1]), rtol=1e-5)
