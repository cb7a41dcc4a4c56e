"""At which places of their operands look-ups read; the rest of `piece_rules`."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.jaxprs.label_lookups import chosen_axes, fills
from ssmscan.model.jaxprs.pieces import Evaluation, Index, Place, beginning, cut, size_at
from ssmscan.model.jaxprs.tracked_axis import bind


def dynamic_slice(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    """Cut at computed places."""
    operand, *starts = eqn.invars
    sizes, shape, inner = eqn.params["slice_sizes"], operand.aval.shape, list(place)
    left: list[Index | None] = [None] * len(sizes)
    for d, (start, index) in enumerate(zip(starts, place)):
        if sizes[d] == shape[d]:
            continue
        first = _start(found, start, shape[d] - sizes[d])
        if index is not None or sizes[d] == 1:
            inner[d] = first if index is None else first.plus(index)
        else:
            left[d] = first
    value = found.at(operand, tuple(inner), sure)
    return lax.dynamic_slice(value, beginning(left), size_at(sizes, place))


def _start(found: Evaluation, variable: Any, last: int) -> Index:
    known = None if found.found.followed(variable) else found.found.known(variable)
    if known is not None:
        first = int(np.clip(known, 0, last))
        return Index(first, np.asarray(first))
    return Index(jnp.clip(found.at(variable, ()), 0, last), None)


def gather(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    """Look up: where rows are chosen, one place at a time; else as a gather of what is there."""
    (operand, indices), numbers = eqn.invars, eqn.params["dimension_numbers"]
    sizes, ndim = eqn.params["slice_sizes"], len(place)
    batch = [d for d in range(ndim) if d not in numbers.offset_dims]
    labels, chosen = found.found.of(operand), chosen_axes(eqn)
    varying = [d for d in chosen if labels.shape[d] > 1]
    one_by_one = varying and not found.found.followed(indices) and all(sizes[d] == 1 for d in varying)
    if one_by_one:
        if any(place[d] is None and eqn.outvars[0].aval.shape[d] > 1 for d in batch):
            return found.along(eqn.outvars[0], place, [d for d in batch if eqn.outvars[0].aval.shape[d] > 1], sure)
        return _chosen(found, eqn, place, sure, batch)
    kept = [d for d in range(labels.ndim) if d not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)]
    places, inner = dict(zip(kept, numbers.offset_dims)), [None] * labels.ndim
    after, sizes = list(place), list(sizes)
    for d, k in places.items():
        if d not in chosen and sizes[d] == operand.aval.shape[d] and place[k] is not None:
            inner[d], after[k], sizes[d] = place[k], None, 1
    beginnings = [place[d] for d in batch]
    for d, i in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims):
        inner[d] = beginnings[i]
    for d in batch:
        after[d] = None
    values = [found.at(operand, tuple(inner)), found.at(indices, (*beginnings, None))]
    return cut(bind(eqn, values, slice_sizes=tuple(sizes))[0], tuple(after))


def _chosen(found: Evaluation, eqn: Any, place: Place, sure: bool, batch: list[int]) -> Array:
    """Look up one row, wherever data or a known index say."""
    (operand, indices), numbers = eqn.invars, eqn.params["dimension_numbers"]
    sizes, shape = eqn.params["slice_sizes"], operand.aval.shape
    beginnings = tuple(place[d] for d in batch)
    start = found.at(indices, (*beginnings, None)).reshape(-1)
    known = found.found.known(indices)
    tables = [np.asarray(0) if i is None else i.possible for i in beginnings]
    table = None if known is None or any(t is None for t in tables) else known[tuple(tables)]
    inner: list[Index | None] = [None] * len(shape)
    left: list[Index | None] = [None] * len(shape)
    there = jnp.ones((), bool)
    for c, d in enumerate(numbers.start_index_map):
        first = Index(start[c], None if table is None else table[..., c])
        there = there & (first.value >= 0) & (first.value <= shape[d] - sizes[d])
        first = first.clip(shape[d] - sizes[d])
        if sizes[d] == 1:
            inner[d] = first
        else:
            left[d] = first
    for d, i in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims):
        inner[d] = beginnings[i]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    for d, k in zip([d for d in range(len(shape)) if d not in gone], numbers.offset_dims):
        index, first = place[k], left[d]
        if index is not None and sizes[d] != 1:
            inner[d], left[d] = index if first is None else first.plus(index), None
    ends = [1 if inner[d] is not None else n for d, n in enumerate(sizes)]
    value = lax.dynamic_slice(found.at(operand, tuple(inner), sure), beginning(left), ends)
    # One row: its axes of size one are where the batch has them.
    value = value.reshape(size_at(eqn.outvars[0].aval.shape, place))
    if not fills(eqn) or not jnp.issubdtype(value.dtype, jnp.inexact):
        return value
    return jnp.where(there, value, jnp.nan)
