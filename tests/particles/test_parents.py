"""The law of parents: prior weight, density of what was drawn, density of what was seen, and only to the same carry."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

import ssmscan
from ssmscan.particles.parents import log_parents

CARRY = np.array([0.2, -1.0, 0.7, 0.2])
LOG_WEIGHTS = np.log([0.1, 0.2, 0.3, 0.4])


def remembering(y, *, accumulates):
    """What is observed depends on the state before the step as well; the carry is the value, or their sum."""

    def step(before, y):
        value = numpyro.sample("x", dist.Normal(0.5 * before, 1.3))
        numpyro.sample("y", dist.Normal(value - before, 0.7), obs=y)
        return (before + value if accumulates else value), None

    scan(step, 0.0, y)


@pytest.mark.parametrize("accumulates", [False, True])
def test_parents_have_the_weights_of_the_formula(accumulates):
    ssm = ssmscan.trace(remembering, jnp.array([0.3, 0.9]), accumulates=accumulates)
    dynamics, value, own = ssm.at({}), 0.4, 3
    x = jax.tree.map(lambda leaf: leaf[1], dynamics.xs)
    found = log_parents(
        dynamics, jnp.asarray(CARRY, float), jnp.asarray(LOG_WEIGHTS, float), x, {"x": jnp.asarray(value)}, own
    )
    expected = LOG_WEIGHTS + stats.norm.logpdf(value, 0.5 * CARRY, 1.3) + stats.norm.logpdf(0.9, value - CARRY, 0.7)
    if accumulates:
        expected = np.where(CARRY == CARRY[own], expected, -np.inf)
    np.testing.assert_allclose(found.log_weights, expected, rtol=1e-5)
