"""What each primitive does to the labels of elements; see `labels`.

A rule is a function `(eqn, labels of the operands, what is labelled) -> labels of the results`.  What a primitive
without a rule gives is any function of its operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ssmscan.model.jaxprs.axis_rules import ELEMENTWISE, keeps_sums
from ssmscan.model.jaxprs.label_lookups import dynamic_slice, gather, scatter
from ssmscan.model.jaxprs.labels import (
    FACTORS,
    MIXED,
    SUM,
    Labelled,
    Labels,
    add,
    constant,
    fiber,
    join,
    multiply,
    nonlinear,
)

Rule = Callable[[Any, list[Labels], Labelled], list[Labels]]
LINEAR_ELEMENTWISE = frozenset("neg convert_element_type copy copy_p real imag conj reduce_precision".split())


def _joined(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [join(*(_expanded(own, eqn.outvars[0].aval.ndim) for own in labels))]


def _expanded(labels: Labels, ndim: int) -> Labels:
    """Give a scalar among arrays as many axes as they have."""
    return labels.reshape((1,) * ndim) if labels.ndim == 0 else labels


def _kept(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [labels[0] if keeps_sums(eqn) else nonlinear(labels[0])]


def _added(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [add(*(_expanded(own, eqn.outvars[0].aval.ndim) for own in labels))]


def _multiplied(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    """Multiply: a sum times constants is a sum, and what is of different steps has factors."""
    left, right = labels
    if constant(right) and (left == SUM).any() and keeps_sums(eqn):
        return [_broadcast_with(left, right, eqn)]
    if constant(left) and (right == SUM).any() and eqn.primitive.name != "div":
        return [_broadcast_with(right, left, eqn)]
    if eqn.primitive.name == "div":
        return _joined(eqn, labels, found)
    return [multiply(*(_expanded(own, eqn.outvars[0].aval.ndim) for own in labels))]


def _exponential(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [np.where(labels[0] == SUM, np.int32(FACTORS), nonlinear(labels[0]))]


def _logarithm(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [np.where(labels[0] == FACTORS, np.int32(SUM), nonlinear(labels[0]))]


def _broadcast_with(labels: Labels, other: Labels, eqn: Any) -> Labels:
    return np.broadcast_arrays(_expanded(labels, eqn.outvars[0].aval.ndim), _expanded(other, eqn.outvars[0].aval.ndim))[
        0
    ]


def _select(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    """Choose: by known constants exactly, by other constants one or the other, which is a sum."""
    which, *cases = labels
    if not constant(which):
        return _joined(eqn, labels, found)
    known, ndim = found.known(eqn.invars[0]), eqn.outvars[0].aval.ndim
    if known is None:
        return [add(*cases)]
    full = np.broadcast_arrays(known.reshape((1,) * ndim) if known.ndim == 0 else known, *cases)
    return [np.choose(full[0].astype(np.int32), full[1:])]


# ---- moving elements ------------------------------------------------------------------------------


def _broadcast(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    shape = [1] * len(eqn.params["shape"])
    for j, k in enumerate(eqn.params["broadcast_dimensions"]):
        shape[k] = labels[0].shape[j]
    return [labels[0].reshape(shape)]


def _reshape(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [np.broadcast_to(labels[0], eqn.invars[0].aval.shape).reshape(eqn.params["new_sizes"])]


def _squeeze(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [labels[0].reshape([n for k, n in enumerate(labels[0].shape) if k not in eqn.params["dimensions"]])]


def _transpose(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [labels[0].transpose(eqn.params["permutation"])]


def _slice(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    p, cut = eqn.params, labels[0]
    strides = p["strides"] or (1,) * cut.ndim
    places = zip(p["start_indices"], p["limit_indices"], strides)
    return [cut[tuple(slice(*place) if n > 1 else slice(None) for n, place in zip(cut.shape, places))]]


def _rev(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [np.flip(labels[0], eqn.params["dimensions"])]


def _pad(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    padded = labels[0]
    for axis, (low, high, interior) in enumerate(eqn.params["padding_config"]):
        if low or high or interior:
            n, size = eqn.invars[0].aval.shape[axis], eqn.outvars[0].aval.shape[axis]
            shape = list(padded.shape)
            shape[axis] = n
            whole = np.broadcast_to(padded, shape)
            places = low + np.arange(n) * (interior + 1)
            inside = (places >= 0) & (places < size)
            shape[axis] = size
            padded = np.full(shape, labels[1], np.int32)
            padded[(slice(None),) * axis + (places[inside],)] = whole.compress(inside, axis)
    return [padded]


def _concatenate(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    along = eqn.params["dimension"]
    shape = list(np.broadcast_shapes(*(_without(own, along).shape for own in labels)))
    parts = []
    for own, v in zip(labels, eqn.invars):
        shape[along] = v.aval.shape[along]
        parts.append(np.broadcast_to(own, shape))
    return [np.concatenate(parts, along)]


def _stack(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [np.stack(np.broadcast_arrays(*labels), eqn.params["axis"])]


def _unstack(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    axis = eqn.params["axis"]
    return [labels[0].take(k if labels[0].shape[axis] > 1 else 0, axis) for k in range(len(eqn.outvars))]


def _without(labels: Labels, axis: int) -> Labels:
    return labels.take([0], axis) if labels.shape[axis] else labels


def _split(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    along, whole = eqn.params["axis"], labels[0]
    if whole.shape[along] == 1:
        return [whole] * len(eqn.outvars)
    return np.split(whole, np.cumsum(eqn.params["sizes"])[:-1], along)


def _tile(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    return [np.tile(labels[0], [r if n > 1 else 1 for n, r in zip(labels[0].shape, eqn.params["reps"])])]


# ---- joining elements -----------------------------------------------------------------------------


def _reduce(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    axes = eqn.params["axes"]
    return [fiber(labels[0], axes, _SEVERAL.get(eqn.primitive.name, MIXED)).squeeze(axes)]


_SEVERAL = {"reduce_sum": SUM, "cumsum": SUM, "reduce_prod": FACTORS, "cumprod": FACTORS}


def _along(name: str) -> Rule:
    """Make the rule of a primitive that works along the dimension in one of its parameters, on all operands at once."""

    def rule(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
        joined = labels[0] if len(labels) == 1 else join(*labels)
        several = _SEVERAL.get(eqn.primitive.name, MIXED)
        return [fiber(joined, (eqn.params[name],), several)] * len(eqn.outvars)

    return rule


def product(eqn: Any, labels: list[Labels]) -> Labels:
    """Return the labels of the products that a contraction adds up: batch, free axes of both, contracted axes."""
    (contract, batch), (left, right) = eqn.params["dimension_numbers"], labels
    free = [[d for d in range(own.ndim) if d not in (*c, *b)] for own, c, b in zip(labels, contract, batch)]
    left = left.transpose(*batch[0], *free[0], *contract[0])
    right = right.transpose(*batch[1], *free[1], *contract[1])
    b, f, g = len(batch[0]), len(free[0]), len(free[1])
    left = left.reshape(*left.shape[: b + f], *(1,) * g, *left.shape[b + f :])
    right = right.reshape(*right.shape[:b], *(1,) * f, *right.shape[b:])
    if constant(left) or constant(right):
        return add(left, right)
    return join(left, right)


def _dot(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    ndim, whole = eqn.outvars[0].aval.ndim, product(eqn, labels)
    axes = tuple(range(ndim, whole.ndim))
    return [fiber(whole, axes, SUM).squeeze(axes)]


def _matrices(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    """Work on the last two dimensions."""
    return [fiber(labels[0], (labels[0].ndim - 2, labels[0].ndim - 1))]


def _triangular_solve(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    matrix, right = labels
    ndim = right.ndim
    axis = ndim - 2 if eqn.params["left_side"] else ndim - 1
    solved = fiber(right, (axis,), SUM if constant(matrix) else MIXED)
    return [solved if constant(matrix) else join(fiber(matrix, (ndim - 2, ndim - 1)), solved)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _joined),
    **dict.fromkeys(LINEAR_ELEMENTWISE, _kept),
    **dict.fromkeys(("add", "sub", "add_any"), _added),
    **dict.fromkeys(("mul", "div"), _multiplied),
    **{f"reduce_{kind}": _reduce for kind in ("sum", "max", "min", "prod", "and", "or", "xor")},
    **dict.fromkeys(("argmax", "argmin"), _reduce),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _along("axis")),
    "exp": _exponential,
    "log": _logarithm,
    "sort": _along("dimension"),
    "select_n": _select,
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
    "tile": _tile,
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "scatter": scatter,
    "dot_general": _dot,
    "cholesky": _matrices,
    "triangular_solve": _triangular_solve,
}

_MOVING = frozenset(
    "reshape broadcast_in_dim squeeze transpose slice split unstack rev tile gather dynamic_slice".split()
)
LINEAR_IN = {
    **dict.fromkeys((*LINEAR_ELEMENTWISE, *_MOVING, "reduce_sum", "cumsum"), (0,)),
    "triangular_solve": (1,),
    "scatter": (0, 2),
}
"""Operands in which a primitive is linear, the others being constants."""

LINEAR_IN_ALL = frozenset(("add", "sub", "add_any", "concatenate", "pad", "select_n", "stack"))
"""Primitives that are linear in all operands, but for the choice of `select_n`."""

MULTIPLICATIVE = _MOVING | {"concatenate", "stack", "convert_element_type", "copy", "copy_p"}
"""Primitives of which the logarithm of the result is that of the operands, moved."""

KINDS = {
    SUM: LINEAR_IN.keys() | LINEAR_IN_ALL | {"mul", "div", "dot_general", "log"},
    FACTORS: MULTIPLICATIVE | {"mul", "exp", "reduce_prod", "cumprod"},
}
"""Primitives whose results `separate` takes apart."""
