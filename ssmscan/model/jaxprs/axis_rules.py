"""What each primitive does to a followed axis: where it goes, or that its rows are joined.

A rule is a function `(eqn, args, window) -> results` of tracked variables, at least one of which is
followed and none of which is a sum.  It evaluates its equation on the window alone, having cut the
constants to the rows that they meet.  What is not listed here counts as mixing: in doubt the rows
are said to meet, and never are when they do not.

Semantics of the primitives: the reference of `jax.lax` and the StableHLO specification.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.jaxprs.source_lines import FOREIGN, blame
from ssmscan.model.jaxprs.tracked_axis import Axis, MixesRows, Sum, Tracked, Window, bind

ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex
    conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge
    gt igamma igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to
    max min mul ne neg nextafter not one_minus_square or polygamma population_count pow real reduce_precision
    regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical
    sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
    """.split()
)

Rule = Callable[[Any, list[Tracked], Window], list[Tracked]]


def keeps_sums(eqn: Any) -> bool:
    """Return whether what is linear in real numbers is it here; a division or a conversion to integers cuts off."""
    cuts = eqn.primitive.name in ("div", "convert_element_type")
    return not cuts or bool(jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact))


def common(args: list[Tracked]) -> Axis:
    """Return the one axis that all followed variables share.

    Raises:
        MixesRows: two of them have it elsewhere or with another shift.
    """
    axes = {a.mark for a in args if isinstance(a.mark, Axis)}
    if len(axes) != 1:
        raise MixesRows
    return axes.pop()


def align(args: list[Tracked], window: Window) -> tuple[list, Axis]:
    """Cut constants to the rows of the followed variables they meet; those of one row or none meet all alike."""
    axis = common(args)

    def cut(constant: Array) -> Array:
        alike = axis.axis is None or constant.ndim == 0 or constant.shape[axis.axis] == 1
        return constant if alike else window.rows(constant, axis)

    return [cut(jnp.asarray(a.value)) if a.mark is None else a.value for a in args], axis


def elementwise(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Combine row by row."""
    values, axis = align(args, window)
    if axis.axis is not None and eqn.outvars[0].aval.shape[axis.axis] != axis.length * axis.block:
        raise MixesRows
    return window.bind(eqn, values, axis)


def _along(name: str) -> Rule:
    """Make the rule of a primitive that works along the dimensions in one of its parameters."""

    def rule(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
        values, axis = align(args, window)
        dimensions = eqn.params[name]
        if axis.axis in (dimensions if isinstance(dimensions, tuple) else (dimensions,)):
            raise MixesRows
        return window.bind(eqn, values, axis)

    return rule


def _along_last(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Work along the last dimension, `top_k`."""
    axis = common(args)
    if axis.axis == eqn.invars[0].aval.ndim - 1 or eqn.params.get("axis", -1) not in (-1, eqn.invars[0].aval.ndim - 1):
        raise MixesRows
    return window.bind(eqn, [args[0].value], axis)


def _reduce(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Reduce over other axes; a sum over this one is kept as its part in the window."""
    axis, axes = common(args), eqn.params["axes"]
    if axis.axis not in axes:
        return window.bind(eqn, [args[0].value], _without(axis, axes))
    if eqn.primitive.name != "reduce_sum":
        raise MixesRows
    return summed(eqn, [window.counted(args[0].value, axis)])


def summed(eqn: Any, values: list) -> list[Tracked]:
    """Evaluate an equation that adds the rows up."""
    return [Tracked(value, Sum(blame(eqn))) for value in bind(eqn, values)]


def _without(axis: Axis, gone: tuple[int, ...]) -> Axis:
    """Return the axis after other dimensions are gone."""
    return axis if axis.axis is None else axis._replace(axis=axis.axis - sum(d < axis.axis for d in gone))


def _squeeze(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    axis, gone = common(args), eqn.params["dimensions"]
    return window.bind(eqn, [args[0].value], axis._replace(axis=None) if axis.axis in gone else _without(axis, gone))


def _broadcast(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    axis, shape = common(args), eqn.params["shape"]
    if axis.axis is None:
        return window.bind(eqn, [args[0].value], axis)
    moved = axis._replace(axis=eqn.params["broadcast_dimensions"][axis.axis])
    if shape[moved.axis] != axis.length * axis.block:
        raise MixesRows
    return window.bind(eqn, [args[0].value], moved, shape=window.shape(shape, moved))


def _reshape(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Keep the axis, possibly merged with those after it; merged with one before it, rows are scattered."""
    axis, new = common(args), eqn.params["new_sizes"]
    if axis.axis is None:
        return window.bind(eqn, [args[0].value], axis)
    before = prod(eqn.invars[0].aval.shape[: axis.axis])
    for k, size in enumerate(new):
        if prod(new[:k]) == before and size % axis.length == 0 and size >= axis.length:
            moved = axis._replace(axis=k, block=size // axis.length)
            return window.bind(eqn, [args[0].value], moved, new_sizes=window.shape(new, moved))
    raise MixesRows


def _transpose(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    axis = common(args)
    moved = axis if axis.axis is None else axis._replace(axis=eqn.params["permutation"].index(axis.axis))
    return window.bind(eqn, [args[0].value], moved)


def _slice(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Cut: along the axis only the count of rows changes, and with it the shift."""
    axis, p = common(args), eqn.params
    first, last = list(p["start_indices"]), list(p["limit_indices"])
    k = axis.axis
    if k is None:
        return window.bind(eqn, [args[0].value], axis)
    if (p["strides"] is not None and p["strides"][k] != 1) or first[k] % axis.block or last[k] % axis.block:
        raise MixesRows
    cut = _sliced(axis, first[k] // axis.block, last[k] // axis.block)
    begin = _offset(axis, cut, window)
    first[k], last[k] = begin, begin + window.size(cut) * axis.block
    return window.bind(eqn, [args[0].value], cut, start_indices=tuple(first), limit_indices=tuple(last))


def _sliced(axis: Axis, first: int, last: int) -> Axis:
    return axis._replace(length=last - first, shift=axis.shift - first)


def _offset(axis: Axis, cut: Axis, window: Window) -> int:
    """Return the offset of a slice's window inside the window of its operand; in a step it is the one row."""
    if window.step is not None or not window.size(cut):
        return 0
    return (axis.shift - cut.shift + window.start(cut) - window.start(axis)) * axis.block


def _dynamic_slice(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Cut at computed places, all rows kept."""
    axis, sizes = common(args), eqn.params["slice_sizes"]
    values = [a.value for a in args]
    if axis.axis is None:
        return window.bind(eqn, values, axis)
    if sizes[axis.axis] != axis.length * axis.block:
        raise MixesRows
    return window.bind(eqn, values, axis, slice_sizes=window.shape(sizes, axis))


def _split(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Cut into parts along an axis."""
    axis, along = common(args), eqn.params["axis"]
    if axis.axis != along:
        return window.bind(eqn, [args[0].value], axis)
    results, first = [], 0
    for size in eqn.params["sizes"]:
        if first % axis.block or size % axis.block:
            raise MixesRows
        cut = _sliced(axis, first // axis.block, (first + size) // axis.block)
        begin = _offset(axis, cut, window)
        results.append(
            Tracked(lax.slice_in_dim(args[0].value, begin, begin + window.size(cut) * axis.block, axis=along), cut)
        )
        first += size
    return results


def _concatenate(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    axis, along = common_block(args), eqn.params["dimension"]
    foreign = any(a.mark == FOREIGN for a in args)
    if axis.axis != along and not foreign:
        return elementwise(eqn, args, window)
    sizes = [v.aval.shape[along] for v in eqn.invars]
    if axis.axis != along or any(size % axis.block for size in sizes):
        raise MixesRows
    counts = [size // axis.block for size in sizes]
    if not foreign:
        return [_join(list(zip(args, counts)), axis, along, window)]
    own = _own_parts(args)
    kept = [a if mine else Tracked(jnp.zeros(v.aval.shape, v.aval.dtype)) for a, mine, v in zip(args, own, eqn.invars)]
    joined = _join(list(zip(kept, counts)), axis, along, window)
    assert isinstance(joined.mark, Axis)
    first = sum(counts[: own.index(True)]) - joined.mark.shift
    last = first + sum(count for count, mine in zip(counts, own) if mine)
    if axis.own is not None:
        first, last = max(first, axis.own[0]), min(last, axis.own[1])
    return [joined._replace(mark=joined.mark._replace(own=(first, last)))]


def _own_parts(args: list[Tracked]) -> list[bool]:
    """Return which parts belong to this loop and not to another; constant rows go with the part that follows.

    Raises:
        MixesRows: the parts of this loop are not neighbours.
    """
    loops = [j for j, a in enumerate(args) if a.mark is not None]
    after = [next((k for k in loops if k >= j), loops[-1]) for j in range(len(args))]
    own = [args[k].mark != FOREIGN for k in after]
    runs = [j for j in range(len(own)) if own[j] and not (j and own[j - 1])]
    if len(runs) != 1:
        raise MixesRows
    return own


def _stack(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Join along a new axis."""
    values, axis = align(args, window)
    return window.bind(eqn, values, _with_new(axis, eqn.params["axis"]))


def _with_new(axis: Axis, new: int) -> Axis:
    return axis if axis.axis is None or axis.axis < new else axis._replace(axis=axis.axis + 1)


def _unstack(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    axis, gone = common(args), eqn.params["axis"]
    if axis.axis == gone:
        raise MixesRows
    return window.bind(eqn, [args[0].value], _without(axis, (gone,)))


def _tile(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    axis = common(args)
    if axis.axis is not None and eqn.params["reps"][axis.axis] != 1:
        raise MixesRows
    return window.bind(eqn, [args[0].value], axis)


def common_block(args: list[Tracked]) -> Axis:
    """Return an axis with the place and block that all followed variables share, the length and shift of the first."""
    axes = [a.mark for a in args if isinstance(a.mark, Axis)]
    if len({(a.axis, a.block) for a in axes}) != 1:
        raise MixesRows
    return axes[0]


def _join(parts: list[tuple[Tracked, int]], like: Axis, along: int, window: Window) -> Tracked:
    """Concatenate rows: a step reads one part, the head and the end concatenate what they have of each."""
    offsets = [sum(count for _, count in parts[:j]) for j in range(len(parts))]
    shifts = {p.mark.shift + at for (p, _), at in zip(parts, offsets) if isinstance(p.mark, Axis)}
    if len(shifts) != 1:
        raise MixesRows
    joined = like._replace(length=sum(count for _, count in parts), shift=shifts.pop())
    own = [joined._replace(length=count, shift=joined.shift - at) for (_, count), at in zip(parts, offsets)]

    def rows(j: int) -> Array:
        part = parts[j][0]
        return window.rows(jnp.asarray(part.value), own[j]) if part.mark is None else part.value

    if window.step is None:
        return Tracked(lax.concatenate([rows(j) for j in range(len(parts))], along), joined)
    inside = [window.within(joined, at, count) for at, (_, count) in zip(offsets, parts)]
    possible = [j for j, (_, count) in enumerate(parts) if count and _meets(joined, offsets[j], count, window.steps)]
    sure = [j for j in possible if inside[j] is True]
    chosen = sure or possible or [0]
    value = rows(chosen[-1])
    for j in reversed(chosen[:-1]):
        value = jnp.where(inside[j], rows(j), value)
    return Tracked(value, joined)


def _meets(axis: Axis, first: int, count: int, steps: int) -> bool:
    """Return whether some step has its row among the `count` rows from `first`."""
    return first < axis.shift + steps and axis.shift < first + count


def _pad(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Pad: along the axis, rows of one constant value are put before and after."""
    (operand, padding), axis = args, common(args)
    if padding.mark is not None:
        raise MixesRows
    config, k = list(eqn.params["padding_config"]), axis.axis
    if k is None:
        return window.bind(eqn, [operand.value, padding.value], axis)
    low, high, interior = config[k]
    if interior or low < 0 or high < 0 or low % axis.block or high % axis.block:
        raise MixesRows
    config[k] = (0, 0, 0)
    value = lax.pad(operand.value, padding.value, config)
    shape = list(eqn.outvars[0].aval.shape)

    def constant(count: int) -> tuple[Tracked, int]:
        shape[k] = count
        return Tracked(jnp.broadcast_to(padding.value, shape)), count // axis.block

    return [_join([constant(low), (Tracked(value, axis), axis.length), constant(high)], axis, k, window)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _along("axis")),
    **dict.fromkeys(("argmax", "argmin"), _reduce),
    **{f"reduce_{kind}": _reduce for kind in ("sum", "max", "min", "prod", "and", "or", "xor")},
    "sort": _along("dimension"),
    "rev": _along("dimensions"),
    "top_k": _along_last,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "concatenate": _concatenate,
    "pad": _pad,
}
