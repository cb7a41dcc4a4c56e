r"""Which particles may be the parents of a state, and with what weight: where paths get another past.

Particle i before a step leads to innovations v and the carry c after it with the weight

.. math::  W^i \; p(v | c^i) \; p(y | c^i, v) \; 1[h(c^i, v) = c],

h the model's step, for *any* carry.  Equality is bitwise on every leaf, among carries computed side by side by the same
code: that of the particle that v has come from is the one to match.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.model.protocols import Dynamics, Values
from ssmscan.particles.weights import without_faults


class Parents(NamedTuple):
    """Log weights (N,) of all particles as parents of one, and its deterministics under each."""

    log_weights: Array
    deterministics: Values


def log_parents(dynamics: Dynamics, carry: Any, log_weights: Array, x: Any, values: Values, own: Array) -> Parents:
    """Weigh the particles before a step as parents of given innovations.

    Args:
        dynamics: the model at theta.
        carry, log_weights: the cloud before the step.
        x: inputs of the step.
        values: the innovations.
        own: the particle that they have come from, whose carry after the step all others must reach.
    """
    step = jax.vmap(lambda c: dynamics.evaluate(c, x, values))(carry)
    log_weights = without_faults(log_weights + step.log_transition + step.log_observation)
    for leaf in jax.tree.leaves(step.carry):
        log_weights = jnp.where(equal_bits(leaf, own), log_weights, -jnp.inf)
    return Parents(log_weights, step.deterministics)


def equal_bits(leaf: Array, index: Array | np.int32) -> Array:
    """Return which entries (N, ...) equal one of them in every bit, (N,) bool; NaN equals itself."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        leaf = leaf.view(f"uint{8 * leaf.dtype.itemsize}")
    return jnp.all((leaf == leaf[index][None]).reshape(len(leaf), -1), axis=1)
