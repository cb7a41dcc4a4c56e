"""A value outside the support of its site is impossible, whether or not NumPyro validates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan


def bounded(y):
    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("y", dist.Uniform(-10.0, jnp.exp(x)), obs=y)
        numpyro.sample("two", dist.Uniform(-10.0, jnp.exp(x)).expand([2]).to_event(1), obs=jnp.stack([0.0, y]))
        return x, None

    scan(step, 0.0, y)


@pytest.mark.parametrize("validated", [True, False])
def test_an_observation_beyond_a_bound_that_moves_with_the_state_is_impossible(validated):
    with numpyro.validation_enabled(validated):
        bound = ssmscan.trace(bounded, np.array([2.0, 2.0])).at({})
    x = jax.tree.map(lambda leaf: leaf[0], bound.xs)
    densities = [bound.evaluate(jnp.zeros(()), x, {"x": jnp.asarray(v)}).log_observation for v in (0.0, 1.0)]
    np.testing.assert_allclose(densities, [-np.inf, -3 * np.log(10 + np.e)], rtol=1e-6)
