"""Shapes, and arrays that stand where the wanted results do not depend on the value."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
Shape = jax.ShapeDtypeStruct


def like(tree: PyTree, shapes: PyTree) -> PyTree:
    """Cast the leaves of a tree, a carry for example, to given shapes and dtypes."""

    def leaf(value, shape):
        if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return value
        return jnp.broadcast_to(jnp.asarray(value, shape.dtype), shape.shape)

    return jax.tree.map(leaf, tree, shapes)


def zeros(shapes: PyTree) -> PyTree:
    """Return placeholders for values that the wanted results do not depend on."""

    def leaf(shape):
        if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), shape.shape)
        return jnp.zeros(shape.shape, shape.dtype)

    return jax.tree.map(leaf, shapes)


def sum_of(terms) -> jax.Array:
    """Sum of scalars, a strongly typed zero when there are none."""
    return sum(terms, jnp.zeros((), jnp.result_type(float)))
