"""At which places of its operands each primitive reads; see `pieces`.

A rule is a function `(evaluation, equation, place, sure, number of the result) -> value` at the place.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.jaxprs.axis_rules import ELEMENTWISE
from ssmscan.model.jaxprs.labels import constant
from ssmscan.model.jaxprs.piece_lookups import dynamic_slice, gather
from ssmscan.model.jaxprs.pieces import Evaluation, Index, Place, cut, size_at
from ssmscan.model.jaxprs.tracked_axis import bind

Rule = Callable[[Evaluation, Any, Place, bool, int], Array]


def _elementwise(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    alone = sure and sum(found.found.followed(v) for v in eqn.invars) == 1
    return bind(eqn, [found.at(v, place if v.aval.ndim else (), alone) for v in eqn.invars])[number]


def _broadcast(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    operand, dims = eqn.invars[0], eqn.params["broadcast_dimensions"]
    inner = tuple(place[k] if n > 1 else None for n, k in zip(operand.aval.shape, dims))
    return bind(eqn, [found.at(operand, inner, sure)], shape=size_at(eqn.params["shape"], place))[0]


def _reshape(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    """Match runs of axes of equal size; where an index meets a run of several, all axes of the run have one."""
    old, new = eqn.invars[0].aval.shape, eqn.params["new_sizes"]
    inner: list[Index | None] = [None] * len(old)
    for before, after in _runs(old, new):
        indexed = [place[k] is not None for k in after]
        if not any(indexed):
            continue
        if not all(flag or new[k] == 1 for k, flag in zip(after, indexed)):
            axes = [k for k in after if new[k] > 1]
            return found.along(eqn.outvars[0], place, axes, sure)
        flat = Index(jnp.zeros((), jnp.int32), np.asarray(0))
        for k in after:
            index = place[k]
            flat = flat if index is None else flat.scaled(0, new[k]).plus(index)
        for k in reversed(before):
            flat, inner[k] = flat.divided(old[k])
    return bind(eqn, [found.at(eqn.invars[0], tuple(inner), sure)], new_sizes=size_at(new, place))[0]


def _runs(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes of the same size into the shortest runs of axes that have the same size."""
    if 0 in old:
        return [(list(range(len(old))), list(range(len(new))))]
    runs, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        before: list[int] = []
        after: list[int] = []
        while not before or not after or prod(old[k] for k in before) != prod(new[k] for k in after):
            behind = prod(old[k] for k in before) <= prod(new[k] for k in after)
            if (behind and i < len(old)) or j == len(new):
                if i == len(old):
                    break
                before.append(i)
                i += 1
            else:
                after.append(j)
                j += 1
        runs.append((before, after))
    return runs


def _squeeze(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    left = iter(place)
    inner = tuple(None if d in eqn.params["dimensions"] else next(left) for d in range(eqn.invars[0].aval.ndim))
    return bind(eqn, [found.at(eqn.invars[0], inner, sure)])[0]


def _transpose(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    order = eqn.params["permutation"]
    inner = tuple(place[order.index(d)] for d in range(len(order)))
    return bind(eqn, [found.at(eqn.invars[0], inner, sure)])[0]


def _slice(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    p, ndim = eqn.params, eqn.invars[0].aval.ndim
    first, last, stride = list(p["start_indices"]), list(p["limit_indices"]), list(p["strides"] or (1,) * ndim)
    inner = tuple(None if index is None else index.scaled(first[d], stride[d]) for d, index in enumerate(place))
    for d, index in enumerate(place):
        if index is not None:
            first[d], last[d], stride[d] = 0, 1, 1
    return lax.slice(found.at(eqn.invars[0], inner, sure), first, last, stride)


def _rev(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    shape = eqn.invars[0].aval.shape
    inner = tuple(
        index if index is None or d not in eqn.params["dimensions"] else index.scaled(shape[d] - 1, -1)
        for d, index in enumerate(place)
    )
    return bind(eqn, [found.at(eqn.invars[0], inner, sure)])[0]


def _pad(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    (operand, padding), config = eqn.invars, list(eqn.params["padding_config"])
    inner, there = list(place), jnp.ones((), bool)
    for d, index in enumerate(place):
        if index is None:
            continue
        low, _, interior = config[d]
        n, step = operand.aval.shape[d], interior + 1
        if n == 0:
            return jnp.broadcast_to(found.at(padding, ()), size_at(eqn.outvars[0].aval.shape, place))
        moved = index.scaled(-low)
        quotient, remainder = moved.divided(step)
        there = there & (remainder.value == 0) & (moved.value >= 0) & (moved.value < n * step)
        inner[d] = quotient.clip(n - 1)
        config[d] = (0, 0, 0)
    value = lax.pad(found.at(operand, tuple(inner), sure), found.at(padding, ()), config)
    # The padding depends on no step, unless it is followed itself.
    return value if sure and not found.found.followed(padding) else jnp.where(there, value, found.at(padding, ()))


def _concatenate(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    """Read the part where the index is; parts where it cannot be are not evaluated."""
    along, parts, first = eqn.params["dimension"], [], 0
    index = place[along]
    if index is None:
        return lax.concatenate([found.at(v, place) for v in eqn.invars], along)
    for v in eqn.invars:
        size = v.aval.shape[along]
        constant_part = constant(found.found.of(v))
        if size and index.may_be(first, size) and not (sure and constant_part):
            moved = index.scaled(-first).clip(size - 1)
            parts.append((index.within(first, size), v, (*place[:along], moved, *place[along + 1 :])))
        first += size
    certain = [part for part in parts if part[0] is True]
    parts = certain or parts
    value = found.at(parts[-1][1], parts[-1][2], sure)
    for inside, v, inner in reversed(parts[:-1]):
        value = jnp.where(inside, found.at(v, inner, sure), value)
    return value


def _stack(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    along = eqn.params["axis"]
    index, inner = place[along], (*place[:along], *place[along + 1 :])
    if index is None:
        return bind(eqn, [found.at(v, inner) for v in eqn.invars])[0]
    parts = [
        (index.within(k, 1), v)
        for k, v in enumerate(eqn.invars)
        if index.may_be(k, 1) and not (sure and constant(found.found.of(v)))
    ]
    value = found.at(parts[-1][1], inner, sure)
    for inside, v in reversed(parts[:-1]):
        value = jnp.where(inside, found.at(v, inner, sure), value)
    return jnp.expand_dims(value, along)


def _unstack(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    along = eqn.params["axis"]
    inner = (*place[:along], Index(number, np.asarray(number)), *place[along:])
    return jnp.squeeze(found.at(eqn.invars[0], inner, sure), along)


def _split(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    along, sizes = eqn.params["axis"], eqn.params["sizes"]
    first = int(sum(sizes[:number]))
    index = place[along]
    if index is None:
        whole_axis = found.at(eqn.invars[0], place)
        return lax.slice_in_dim(whole_axis, first, first + sizes[number], axis=along)
    moved = index.scaled(first)
    return found.at(eqn.invars[0], (*place[:along], moved, *place[along + 1 :]), sure)


def _reduce(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    left, axes = iter(place), eqn.params["axes"]
    inner = tuple(None if d in axes else next(left) for d in range(eqn.invars[0].aval.ndim))
    return bind(eqn, [found.at(eqn.invars[0], inner)])[number]


def _along(*names: str) -> Rule:
    """Make the rule of a primitive that works along the axes in its parameters."""

    def rule(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
        axes = [eqn.params[name] for name in names]
        return _over(found, eqn, place, axes, number)

    return rule


def _over(found: Evaluation, eqn: Any, place: Place, axes: list[int], number: int) -> Array:
    """Evaluate what works along some axes, all operands alike, and cut there."""
    inner = tuple(None if d in axes else index for d, index in enumerate(place))
    value = bind(eqn, [found.at(v, inner) for v in eqn.invars])[number]
    return cut(value, tuple(index if d in axes else None for d, index in enumerate(place)))


def _matrices(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    return _over(found, eqn, place, [len(place) - 2, len(place) - 1], number)


def _triangular_solve(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    matrix, right = eqn.invars
    axis = len(place) - (2 if eqn.params["left_side"] else 1)
    inner = tuple(None if d == axis else index for d, index in enumerate(place))
    value = bind(eqn, [found.at(matrix, (*place[:-2], None, None)), found.at(right, inner)])[0]
    return cut(value, tuple(index if d == axis else None for d, index in enumerate(place)))


def dot_places(eqn: Any, place: Place) -> tuple[Place, Place]:
    """Return where a contraction reads: place has batch, free axes of both, and, if it goes on, contracted axes."""
    contract, batch = eqn.params["dimension_numbers"]
    ndims = [v.aval.ndim for v in eqn.invars]
    free = [[d for d in range(n) if d not in (*c, *b)] for n, c, b in zip(ndims, contract, batch)]
    inner: list[list[Index | None]] = [[None] * n for n in ndims]
    shared, rest = place[: len(batch[0])], place[len(batch[0]) :]
    ends = rest[len(free[0]) + len(free[1]) :] or (None,) * len(contract[0])
    own = rest[: len(free[0])], rest[len(free[0]) : len(free[0]) + len(free[1])]
    for side in (0, 1):
        for axes, places in ((batch[side], shared), (free[side], own[side]), (contract[side], ends)):
            for d, index in zip(axes, places):
                inner[side][d] = index
    return tuple(inner[0]), tuple(inner[1])


def _dot(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    return bind(eqn, [found.at(v, inner) for v, inner in zip(eqn.invars, dot_places(eqn, place))])[0]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **{f"reduce_{kind}": _reduce for kind in ("sum", "max", "min", "prod", "and", "or", "xor")},
    **dict.fromkeys(("argmax", "argmin"), _reduce),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _along("axis")),
    "sort": _along("dimension"),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "slice": _slice,
    "rev": _rev,
    "pad": _pad,
    "concatenate": _concatenate,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "dot_general": _dot,
    "cholesky": _matrices,
    "triangular_solve": _triangular_solve,
}
