"""What look-ups do to the labels of elements; the rest of `label_rules`.

By an index that is known the labels are looked up.  By one that data decide they are labels of their own, see `labels`;
by one that is followed itself, an element may be any of those that it could be.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.lax import GatherScatterMode

from ssmscan.model.jaxprs.labels import CONSTANT, MIXED, Labelled, Labels, constant, fiber, join


def gather(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    """Look up: by a known index exactly, by constants a row that data choose, by a followed index any of the rows."""
    (operand, indices), numbers = labels, eqn.params["dimension_numbers"]
    out_ndim, chosen = eqn.outvars[0].aval.ndim, chosen_axes(eqn)
    batch = [d for d in range(out_ndim) if d not in numbers.offset_dims]
    varying = [d for d in chosen if operand.shape[d] > 1]
    if varying and constant(indices):
        known = found.known(eqn.invars[1])
        if known is not None:
            return [_gathered(eqn, operand, known)]
        one_by_one = all(eqn.params["slice_sizes"][d] == 1 for d in varying)
        if not one_by_one or (operand < CONSTANT).any():
            return [np.full((1,) * out_ndim, MIXED, np.int32)]
        return [_chosen_rows(eqn, varying, operand, batch, found)]
    operand = fiber(operand, tuple(varying)) if varying else operand
    kept = [d for d in range(operand.ndim) if d not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)]
    places = dict(zip(kept, numbers.offset_dims))
    places |= {d: batch[i] for d, i in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims)}
    sizes = eqn.params["slice_sizes"]
    for d in kept:
        if operand.shape[d] > 1 and sizes[d] < operand.shape[d]:
            operand = operand.take(range(sizes[d]), d)
    order = sorted(places, key=places.__getitem__)
    shape = [1] * out_ndim
    for d in order:
        shape[places[d]] = operand.shape[d]
    moved = operand.transpose(order + [d for d in range(operand.ndim) if d not in order]).reshape(shape)
    if constant(indices):
        return [moved]
    index, shape = fiber(indices, (indices.ndim - 1,)), [1] * out_ndim
    for d, n in zip(batch, index.shape):
        shape[d] = n
    return [join(moved, index.reshape(shape))]


def chosen_axes(eqn: Any) -> list[int]:
    """Return the axes along which a gather chooses where it reads; a slice of everything is where it is."""
    shape, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    return [d for d in eqn.params["dimension_numbers"].start_index_map if sizes[d] < shape[d] or sizes[d] == 1]


def fills(eqn: Any) -> bool:
    """Return whether what is out of bounds is NaN, which it is too where none is promised, and not the nearest."""
    return GatherScatterMode.from_any(eqn.params["mode"]) != GatherScatterMode.CLIP


def _gathered(eqn: Any, operand: Labels, index: np.ndarray) -> Labels:
    full = np.broadcast_to(operand, eqn.invars[0].aval.shape).astype(np.int32)
    with jax.ensure_compile_time_eval():
        params = {**eqn.primitive.get_bind_params(eqn.params), "fill_value": CONSTANT}
        return np.asarray(eqn.primitive.bind(jnp.asarray(full), jnp.asarray(index), **params))


def _chosen_rows(eqn: Any, axes: list[int], rows: Labels, batch: list[int], found: Labelled) -> Labels:
    """Label elements of which data choose the places along some axes."""
    indices, numbers = eqn.invars[1], eqn.params["dimension_numbers"]
    columns = [numbers.start_index_map.index(d) for d in axes]
    ends, filled = indices.aval.shape[:-1], fills(eqn)
    cores = [_column(indices, column, found) for column in columns]
    pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims)
    beside = {d: i for d, i in pairs if rows.shape[d] > 1}
    varies = sorted({k for *_, own in cores for k in own} | set(beside.values()))
    shape = tuple(n if k in varies else 1 for k, n in enumerate(ends))
    at = tuple(slice(None) if k in varies else slice(1) for k in range(len(ends)))
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [d for d in range(rows.ndim) if d not in gone]
    others = [d for d in range(rows.ndim) if d not in axes and d not in beside]
    for d in others:
        rows = rows.take(range(min(rows.shape[d], eqn.params["slice_sizes"][d])), d)
    table = rows.transpose(*axes, *beside, *others)

    def steps(value: Callable, resolved: Callable) -> Array:
        places = [value(indices)[(*at, column)].ravel() for column in columns]
        places += [jnp.asarray(np.indices(shape)[i].ravel()) for i in beside.values()]
        chosen = resolved(table)[tuple(jnp.clip(i, 0, n - 1) for i, n in zip(places, table.shape))]
        inside = jnp.stack([(i >= 0) & (i < n) for i, n in zip(places, table.shape)]).all(0)
        inside = inside.reshape(-1, *(1,) * len(others))
        return (jnp.where(inside, chosen, CONSTANT) if filled else chosen).ravel()

    of_each = tuple((found.number(core), left, *map(varies.index, own)) for core, left, own in cores)
    along = tuple(map(varies.index, beside.values()))
    extents = tuple(n for n in table.shape if n > 1), tuple(ends[k] for k in varies)
    key = of_each, along, extents, table.tobytes(), filled
    full, sizes = [1] * eqn.outvars[0].aval.ndim, [rows.shape[d] for d in others]
    labels = found.lookup(key, prod(shape) * prod(sizes), steps).reshape(*shape, *sizes)
    for d, n in zip(batch, shape):
        full[d] = n
    for d, k in zip(kept, numbers.offset_dims):
        if d in others:
            full[k] = rows.shape[d]
    # Of the axes of the operand that are not chosen, those that differ are among the offsets.
    order = [*batch, *(k for d, k in zip(kept, numbers.offset_dims) if d in others)]
    back = labels.reshape(*shape, *(n for d, n in zip(others, sizes) if d in kept))
    return back.transpose([order.index(k) for k in sorted(order)]).reshape(full)


def _column(indices: Any, column: int, found: Labelled) -> tuple[Any, int, list[int]]:
    """Find what a column of indices was made of: a variable, its column, and the axes along which it may differ."""
    variable, axes = indices, list(range(indices.aval.ndim - 1))
    places: list[int | None] = [*axes, None]
    while eqn := found.producers.get(variable):
        name, shape = eqn.primitive.name, variable.aval.shape
        if name == "concatenate" and places[eqn.params["dimension"]] is None:
            first = 0
            for part in eqn.invars:
                size = part.aval.shape[eqn.params["dimension"]]
                if first <= column < first + size:
                    break
                first += size
            if size != 1:
                break
            variable, column = part, 0
        elif name == "broadcast_in_dim":
            dims = eqn.params["broadcast_dimensions"]
            if None in places and shape[places.index(None)] != 1 and places.index(None) not in dims:
                break
            places = [places[k] for k in dims]
            variable = eqn.invars[0]
        elif name == "reshape" and [n for n in shape if n > 1] == [n for n in eqn.invars[0].aval.shape if n > 1]:
            left = iter([p for p, n in zip(places, shape) if n > 1])
            places = [next(left) if n > 1 else None for n in eqn.invars[0].aval.shape]
            variable = eqn.invars[0]
        else:
            break
    sizes = list(zip(places, variable.aval.shape))
    left = column if any(k is None and n > 1 for k, n in sizes) else 0
    return variable, left, [k for k, n in sizes if k is not None and n > 1]


def dynamic_slice(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    """Cut at computed places."""
    operand, sizes, shape = labels[0], eqn.params["slice_sizes"], eqn.invars[0].aval.shape
    varying = [d for d in range(operand.ndim) if operand.shape[d] > 1 and sizes[d] < shape[d]]
    if not all(map(constant, labels[1:])):
        starts = join(*(own.reshape((1,) * operand.ndim) for own in labels[1:]))
        return [join(fiber(operand, tuple(varying)), starts)]
    unknown = []
    for d in varying:
        known = found.known(eqn.invars[1 + d])
        if known is None:
            unknown.append(d)
        else:
            first = int(np.clip(known, 0, shape[d] - sizes[d]))
            operand = operand.take(range(first, first + sizes[d]), d)
    if not unknown:
        return [operand]
    if (operand < CONSTANT).any():
        return [np.full((1,) * operand.ndim, MIXED, np.int32)]
    rows, cut = operand, [sizes[d] if d in unknown else n for d, n in enumerate(operand.shape)]

    def steps(value: Callable, resolved: Callable) -> Array:
        starts = [value(eqn.invars[1 + d]) if d in unknown else 0 for d in range(rows.ndim)]
        return lax.dynamic_slice(resolved(rows), [jnp.asarray(i, jnp.int32) for i in starts], cut).ravel()

    starts = tuple((d, found.number(eqn.invars[1 + d])) for d in unknown)
    key = "slice", starts, rows.shape, rows.tobytes(), tuple(cut)
    return [found.lookup(key, prod(cut), steps).reshape(cut)]


def scatter(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    """Put elements into an array at places that are known."""
    operand, _, updates = labels
    known, ndim = found.known(eqn.invars[1]), operand.ndim
    if known is None:
        return [np.full((1,) * ndim, MIXED, np.int32)]
    full = np.broadcast_to(updates, eqn.invars[2].aval.shape).astype(np.int32)
    with jax.ensure_compile_time_eval():
        untouched = jnp.full(eqn.invars[0].aval.shape, _UNTOUCHED, jnp.int32)
        p = eqn.params
        put = np.asarray(
            lax.scatter(untouched, jnp.asarray(known), jnp.asarray(full), p["dimension_numbers"], mode=p["mode"])
        )
    return [np.where(put == _UNTOUCHED, operand, put)]


_UNTOUCHED = np.iinfo(np.int32).max
