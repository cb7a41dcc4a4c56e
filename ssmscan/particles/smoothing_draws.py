r"""Indices of particles, drawn by weight: one from weights of its own, or many from the weights of one cloud.

`draw_index` is for weights that differ from draw to draw, as those of backward sampling do.  It is an inverse CDF in
two stages, each with a uniform of its own: the row, of about :math:`\sqrt N` particles, by the rows' weights, then the
particle in it.  Nothing is cumulated over all particles, and one exponential for each is most of the work.

A *table* is for many draws of one cloud, O(N) to make once and O(log N) a draw.  It has cumulative weights inside rows
of 32 particles, then inside rows of 32 such rows, and so on up to one row,

    [ level 0: (ceil(N / 32), 32) | level 1: (ceil(N / 32^2), 32) | ... ],

and a draw goes from the top down: at each level, with a uniform of its own, to the first entry whose cumulative weight
exceeds that fraction of the row's.  No sum is longer than a row, so that float32 serves any number of particles.

Neither ever returns a particle without weight, unless none has any.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.particles.offspring import cumulate_rows
from ssmscan.particles.weights import without_faults

ROW = 32
"""Entries of a row of a table."""

Table = tuple[Array, ...]


def draw_index(uniforms: Array, log_weights: Array, otherwise: Array | int = 0) -> Array:
    """Draw one index with the given weights, which need not be normalised.

    Args:
        uniforms: (2,) one for the row, one for the place in it.
        log_weights: (N,); what is not below +inf counts as no weight.
        otherwise: index to give where nothing has weight.

    Returns:
        () int32, never an index without weight.
    """
    width = row_width(len(log_weights))
    clean = without_faults(log_weights)
    clean = jnp.pad(clean, (0, -len(clean) % width), constant_values=-jnp.inf).reshape(-1, width)
    shift = jnp.max(clean)
    alive = shift > -jnp.inf
    shift = jnp.where(alive, shift, 0)
    totals = jnp.dot(jnp.exp(clean - shift), jnp.ones(width, clean.dtype), precision=lax.Precision.HIGHEST)
    row = _first_beyond(uniforms[0], totals)
    index = row * width + _first_beyond(uniforms[1], jnp.exp(clean[row] - shift))
    return jnp.where(alive, index, otherwise).astype(np.int32)


def row_width(n: int) -> int:
    """Return the number of particles in a row of `draw_index`: a power of two near the root of their number."""
    return 1 << math.ceil(math.log2(n) / 2)


def _first_beyond(uniform: Array, weights: Array) -> Array:
    """Return the first entry with weight whose cumulative weight exceeds the fraction of the total, () int32."""
    reached = cumulate_rows(weights, len(weights))[0]
    index = lax.iota(np.int32, len(weights))
    # Rounding may leave none beyond: then it is the last with weight.
    last = jnp.max(jnp.where(weights > 0, index, 0))
    return jnp.min(jnp.where((weights > 0) & (reached > uniform * reached[-1]), index, last))


def num_levels(n: int) -> int:
    """Return the number of levels of a table of n particles."""
    levels = 1
    while n > ROW:
        n, levels = -(-n // ROW), levels + 1
    return levels


def table(log_weights: Array) -> Table:
    """Make the table of a cloud: cumulative weights inside the rows of each level, the particles first.

    Args:
        log_weights: (N,) up to a constant; what is not below +inf counts as no weight.
    """
    clean = without_faults(log_weights)
    shift = jnp.max(clean)
    weights, levels = jnp.exp(clean - jnp.where(shift > -jnp.inf, shift, 0)), []
    for _ in range(num_levels(len(log_weights))):
        levels.append(cumulate_rows(weights, min(ROW, len(weights))))
        weights = levels[-1][:, -1]
    return tuple(levels)


def draw_many(key: Array, weights: Table, shape: tuple[int, ...]) -> Array:
    """Draw independent indices from a table, int32 of a shape."""
    uniforms = jax.random.uniform(key, (len(weights), *shape), weights[0].dtype)
    index = jnp.zeros(shape, np.int32)
    for uniform, cumulative in zip(uniforms, reversed(weights)):
        rows = cumulative[index]
        reached = rows <= (uniform * rows[..., -1])[..., None]
        # Rounding may leave none beyond: then it is the first that has all of the row's weight, the last with any.
        last = rows < rows[..., -1:]
        index = index * np.int32(rows.shape[-1]) + jnp.sum(reached & last, axis=-1, dtype=np.int32)
    return index
