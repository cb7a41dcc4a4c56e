"""Contractions, look-ups and solves with a followed axis; the rest of `axis_rules`.

A contraction over the followed axis is a sum over it, one over other axes leaves it alone.  A look-up
passes where the *indices* have the axis (`mu[s]`, s the path) or where every row is looked up alike.
A linear solve passes where each row is its own right-hand side or its own system.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ssmscan.model.jaxprs.axis_rules import align, common, summed
from ssmscan.model.jaxprs.tracked_axis import Axis, MixesRows, Tracked, Window


def dot(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Contract other axes, or this one into a sum."""
    (contract, batch), ndims = eqn.params["dimension_numbers"], [v.aval.ndim for v in eqn.invars]
    values = [jnp.asarray(a.value) for a in args]
    side = next(i for i, a in enumerate(args) if a.mark is not None)
    axis, other = common(args[side : side + 1]), 1 - side
    k = axis.axis
    for kind, dims in (("batch", batch), ("contract", contract)):
        if k not in dims[side]:
            continue
        position = dims[side].index(k)
        partner = axis._replace(axis=dims[other][position])
        if args[other].mark is None:
            values[other] = window.rows(values[other], partner)
        elif args[other].mark != partner:
            raise MixesRows
        if kind == "contract":
            values[side] = window.counted(values[side], axis)
            values[other] = window.counted(values[other], partner)
            return summed(eqn, values)
        return window.bind(eqn, values, axis._replace(axis=position))
    if args[other].mark not in ((None, axis) if k is None else (None,)):
        raise MixesRows
    if k is None:
        return window.bind(eqn, values, axis)
    free = [[d for d in range(n) if d not in contract[i] and d not in batch[i]] for i, n in enumerate(ndims)]
    place = len(batch[0]) + (len(free[0]) if side else 0) + free[side].index(k)
    return window.bind(eqn, values, axis._replace(axis=place))


def gather(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Look up rows: the indices have the axis, or every row is looked up alike."""
    operand, indices = args
    numbers, sizes = eqn.params["dimension_numbers"], list(eqn.params["slice_sizes"])
    values = [jnp.asarray(operand.value), jnp.asarray(indices.value)]
    out = range(eqn.outvars[0].aval.ndim)
    pairs = list(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims))
    batch = [d for d in out if d not in numbers.offset_dims]
    axis = indices.mark if isinstance(indices.mark, Axis) else common(args)
    if axis.axis is None:
        if operand.mark not in (None, axis):
            raise MixesRows
        return window.bind(eqn, values, axis)
    if not isinstance(indices.mark, Axis):
        k = axis.axis
        if k in numbers.operand_batching_dims:
            place = dict(pairs)[k]
            values[1] = window.rows(values[1], axis._replace(axis=place))
            return window.bind(eqn, values, axis._replace(axis=batch[place]))
        whole = sizes[k] == axis.length * axis.block and k not in numbers.start_index_map
        if not whole or k in numbers.collapsed_slice_dims:
            raise MixesRows
        kept = [
            d for d in range(values[0].ndim) if d not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        ]
        moved = axis._replace(axis=numbers.offset_dims[kept.index(k)])
        return window.bind(eqn, values, moved, slice_sizes=window.shape(tuple(sizes), axis))
    if axis.axis == values[1].ndim - 1:
        raise MixesRows
    partner = {i: d for d, i in pairs}.get(axis.axis)
    if partner is not None and operand.mark is None:
        values[0] = window.rows(values[0], axis._replace(axis=partner))
    elif operand.mark is not None and operand.mark != axis._replace(axis=partner):
        raise MixesRows
    return window.bind(eqn, values, axis._replace(axis=batch[axis.axis]))


def matrices(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Work on the last two dimensions, the axis before them."""
    values, axis = align(args, window)
    if axis.axis is not None and axis.axis >= eqn.invars[0].aval.ndim - 2:
        raise MixesRows
    return window.bind(eqn, values, axis)


def triangular_solve(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Solve one system for each row: as a batch, or as right-hand sides of one matrix."""
    axis, ndim = common(args), eqn.invars[1].aval.ndim
    free = ndim - 1 if eqn.params["left_side"] else ndim - 2
    if args[0].mark is None and axis.axis == free:
        return window.bind(eqn, [a.value for a in args], axis)
    return matrices(eqn, args, window)
