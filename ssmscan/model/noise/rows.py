"""One row of a distribution whose batch holds many independent ones.

`Normal(0, 1).expand([T])` draws T numbers at once; its row t is `Normal(0, 1)`.  NumPyro's distributions are trees of
arrays and other distributions, each with the batch in front of its own event dimensions, so that a row is taken by
indexing every array where it has the axis.  An axis inside an event is one of rows only where `Independent` has put it
there; the entries of a multivariate normal or of a random walk depend on each other.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from numpyro import distributions as dist
from numpyro.distributions.transforms import Transform


class DependentRows(Exception):
    """The entries along an axis of a distribution depend on each other, or it is not known how to take one."""


def row_of(fn: dist.Distribution, axis: int, t: Array) -> dist.Distribution:
    """Return the distribution of one row.

    Args:
        fn: the distribution of all rows.
        axis: axis of the rows in its values, counted from the left.
        t: () integer, the row.

    Raises:
        DependentRows: the rows are not independent, or cannot be told apart.
    """
    place = axis - len(fn.batch_shape)  # from the right end of the batch; not negative within an event
    if isinstance(fn, dist.Independent):
        base = row_of(fn.base_dist, axis, t)
        return base.to_event(fn.reinterpreted_batch_ndims - (place >= 0))
    if place >= 0:
        raise DependentRows
    batch = (*fn.batch_shape[:axis], *fn.batch_shape[axis + 1 :])
    if isinstance(fn, dist.MaskedDistribution):
        return row_of(fn.base_dist, axis, t).mask(_entry(fn._mask, place, 0, t))
    if isinstance(fn, dist.ExpandedDistribution):
        return _part(fn.base_dist, place, t).expand(batch)
    fields, constraints = type(fn).gather_pytree_data_fields(), fn.arg_constraints
    values, aux = fn.tree_flatten()
    parts = [
        _part(value, place, t, getattr(constraints.get(name), "event_dim", None)) for name, value in zip(fields, values)
    ]
    facts = [batch if name == "_batch_shape" else fact for name, fact in zip(type(fn).gather_pytree_aux_fields(), aux)]
    row = type(fn).tree_unflatten(tuple(facts), tuple(parts))
    _refuse_other_shape(row, batch, fn)
    return row


def _part(value: Any, place: int, t: Array, event_dim: int | None = None) -> Any:
    """Return the row of what a distribution is made of.

    Args:
        value: a distribution, a transform, a constraint, an array or a number.
        place: place of the axis, from the right end of the batch.
        t: the row.
        event_dim: number of axes of an array behind its batch, None where that is not known.
    """
    if isinstance(value, dist.Distribution):
        axis = len(value.batch_shape) + place
        if axis < 0:
            return value
        return row_of(value, axis, t if value.batch_shape[axis] > 1 else jnp.zeros_like(t))
    if event_dim is not None:
        return _entry(value, place, event_dim, t)
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, Transform) and (part.domain.event_dim or part.codomain.event_dim) and jax.tree.leaves(part):
            raise DependentRows
    return jax.tree.map(lambda leaf: _entry(leaf, place, 0, t), value)


def _entry(leaf: Any, place: int, event_dim: int, t: Array) -> Any:
    """Return the row of an array; all rows have it where the axis is missing or of size one."""
    axis = jnp.ndim(leaf) - event_dim + place
    if axis < 0:
        return leaf
    leaf = jnp.asarray(leaf)
    return lax.dynamic_index_in_dim(leaf, t if leaf.shape[axis] > 1 else 0, axis, keepdims=False)


def _refuse_other_shape(row: dist.Distribution, batch: tuple[int, ...], fn: dist.Distribution) -> None:
    """Raise where the row has another shape than a row of the values."""

    def densities() -> tuple[Array, Array]:
        value = row.sample(jax.random.key(0))
        return value, row.log_prob(value)

    try:
        value, log_prob = jax.eval_shape(densities)
    except (NotImplementedError, TypeError, ValueError, AttributeError, IndexError):
        raise DependentRows from None
    if (value.shape, log_prob.shape) != ((*batch, *fn.event_shape), batch):
        raise DependentRows
