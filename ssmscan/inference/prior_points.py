"""Points of the prior in the unconstrained space, where engines look for starts and units, and their shapes."""

from __future__ import annotations

import jax

from ssmscan.model.protocols import Model, Theta


def prior_point(ssm: Model, key: jax.Array) -> Theta:
    """Draw one point."""
    return ssm.unconstrain(ssm.sample_start(key))


def shapes_of_point(ssm: Model) -> Theta:
    """Return shapes and types of a point, for which nothing is compiled."""
    return jax.eval_shape(lambda: prior_point(ssm, jax.random.key(0)))


@jax.jit
def prior_points(keys: jax.Array, ssm: Model) -> Theta:
    """Draw a point for each of an array of typed keys, whose shape is in front of each leaf.

    One after the other, which is compiled in little more than half the time of all at once.
    """
    points = jax.lax.map(lambda key: prior_point(ssm, key), keys.reshape(-1))
    return jax.tree.map(lambda leaf: leaf.reshape(*keys.shape, *leaf.shape[1:]), points)
