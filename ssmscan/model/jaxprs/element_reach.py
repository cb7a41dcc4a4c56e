"""What reaches each element of an array, and which elements are known numbers.

`Staged.reaches` asks whether an argument reaches a result at all.  Of a window that a step moves on,

    w' = concatenate([z[None], w[:-1]]),

it says that w' depends on w, for ever; element by element, w'[i] depends on w[i - 1] alone and w'[0] on z.  Here the
equations of a staged function are followed with, for each element, the set of *atoms* that reach it, any numbering of
what the caller wants told apart.  Elementwise operations join the sets of the elements they combine; what moves
elements about (slices, concatenations, rolls, updates at known places) moves the sets; of anything else every result
depends on all it is given.  What no atom reaches is a number, and computed: the index of an update, say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from ssmscan.model.jaxprs.axis_rules import ELEMENTWISE
from ssmscan.model.jaxprs.dataflow import Staged

_CALLS = set("jit pjit closed_call core_call remat_call checkpoint remat2 custom_jvp_call custom_vjp_call".split())
_REDUCTIONS = {"reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax", "argmin"}


class Elements(NamedTuple):
    """An array in the analysis.

    Attributes:
        reach: (*shape, number of atoms), which atoms reach each element.
        value: the array, where no atom reaches any element.
    """

    reach: np.ndarray
    value: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.reach.shape[:-1]


def uniform(shape: Sequence[int], mask: np.ndarray) -> Elements:
    """Return an array all of whose elements the same atoms reach."""
    return Elements(np.broadcast_to(mask, (*shape, len(mask))))


def known(value: Any, num_atoms: int) -> Elements:
    """Return an array of numbers."""
    value = np.asarray(value)
    return Elements(np.broadcast_to(np.zeros(num_atoms, bool), (*value.shape, num_atoms)), value)


def element_reach(
    staged: Staged, num_atoms: int, shared: Sequence[Elements], arguments: Mapping[str, Sequence[Elements]]
) -> Any:
    """Follow a staged function.

    Args:
        staged: the function.
        num_atoms: how many atoms there are.
        shared: its shared arrays, in its order.
        arguments: the leaves of each argument.

    Returns:
        Its result, with `Elements` for leaves.
    """
    inputs = [*shared, *(leaf for name in staged.in_trees for leaf in arguments[name])]
    with jax.ensure_compile_time_eval():
        results = _follow(staged.jaxpr, num_atoms, inputs, ())
    return jax.tree.unflatten(staged.out_tree, results)


def _follow(jaxpr: Any, num_atoms: int, inputs: Sequence[Elements], consts: Sequence) -> list[Elements]:
    env = dict(zip(jaxpr.invars, inputs)) | {v: known(c, num_atoms) for v, c in zip(jaxpr.constvars, consts)}

    def read(variable: Any) -> Elements:
        return known(variable.val, num_atoms) if isinstance(variable, jex.Literal) else env[variable]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _evaluate(eqn, num_atoms, [read(v) for v in eqn.invars])))
    return [read(v) for v in jaxpr.outvars]


def _evaluate(eqn: Any, num_atoms: int, args: list[Elements]) -> list[Elements]:
    name = eqn.primitive.name
    if all(a.value is not None for a in args) and _is_numeric(eqn):
        results = eqn.primitive.bind(*(jnp.asarray(a.value) for a in args), **eqn.primitive.get_bind_params(eqn.params))
        return [known(r, num_atoms) for r in (results if eqn.primitive.multiple_results else [results])]
    if name in _CALLS:
        inner = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params)
        jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())
        return _follow(jaxpr, num_atoms, args, consts)
    if name == "select_n" and args[0].value is not None:
        return [_chosen(args[0].value, args[1:])]
    if name in ELEMENTWISE:
        return [Elements(np.broadcast_to(_joined(args), (*eqn.outvars[0].aval.shape, num_atoms)))]
    if name in _REDUCTIONS:
        return [Elements(np.asarray(args[0].reach.any(tuple(eqn.params["axes"]))))]
    moved = _moved(eqn, args)
    if moved is not None:
        return moved
    mask = np.zeros(num_atoms, bool)
    for a in args:
        mask = mask | _anywhere(a)
    return [uniform(v.aval.shape, mask) for v in eqn.outvars]


def _is_numeric(eqn: Any) -> bool:
    """Return whether an equation computes arrays of numbers, and not keys."""
    variables = [v for v in (*eqn.invars, *eqn.outvars) if hasattr(v, "aval")]
    return not any(jax.dtypes.issubdtype(v.aval.dtype, jax.dtypes.extended) for v in variables)


def _anywhere(a: Elements) -> np.ndarray:
    return np.asarray(a.reach.reshape(-1, a.reach.shape[-1]).any(0))


def _joined(args: Sequence[Elements]) -> np.ndarray:
    """Join the sets of elements that are combined; a scalar is combined with all."""
    reach = args[0].reach
    for a in args[1:]:
        reach = reach | a.reach
    return reach


def _chosen(which: np.ndarray, cases: Sequence[Elements]) -> Elements:
    reach = np.zeros_like(cases[0].reach)
    for k, case in enumerate(cases):
        reach = np.where(np.broadcast_to(np.asarray(which == k)[..., None], reach.shape), case.reach, reach)
    return Elements(reach)


def _moved(eqn: Any, args: list[Elements]) -> list[Elements] | None:
    """Follow an equation that takes each element of its results from one of its arguments; None for any other."""
    name = eqn.primitive.name
    if name not in _MOVES and name not in _INDEXED:
        return None
    data = _INDEXED.get(name, range(len(args)))
    if any(a.value is None for k, a in enumerate(args) if k not in data):
        return _same_everywhere(eqn, args[0]) if len(data) == 1 else None
    # Every element of what is moved has a number; a gap that is filled has none.
    ends = np.cumsum([int(np.prod(args[k].shape)) for k in data])
    operands = [a.value for a in args]
    for k, end in zip(data, ends):
        size = int(np.prod(args[k].shape))
        operands[k] = np.arange(end - size, end, dtype=np.int32).reshape(args[k].shape)
    if name in _MOVES:
        origins = _MOVES[name](operands, eqn.params)
    else:
        origins = eqn.primitive.bind(*map(jnp.asarray, operands), **eqn.primitive.get_bind_params(eqn.params))
    rows = np.concatenate([args[k].reach.reshape(-1, args[k].reach.shape[-1]) for k in data])
    results = []
    for origin in map(np.asarray, origins if isinstance(origins, list) else [origins]):
        inside = (origin >= 0) & (origin < len(rows))
        results.append(Elements(rows[np.where(inside, origin, 0)] & inside[..., None]))
    return results


def _same_everywhere(eqn: Any, operand: Elements) -> list[Elements] | None:
    """Take from unknown places of an array of one number: that number."""
    value = operand.value
    if value is None or not value.size or not (value == value.flat[0]).all():
        return None
    return [known(np.full(eqn.outvars[0].aval.shape, value.flat[0]), operand.reach.shape[-1])]


def _broadcast(operands: list, params: dict) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for size, axis in zip(operands[0].shape, params["broadcast_dimensions"]):
        shape[axis] = size
    return np.broadcast_to(operands[0].reshape(shape), params["shape"])


def _cut(operands: list, params: dict) -> np.ndarray:
    strides = params["strides"] or (1,) * operands[0].ndim
    return operands[0][tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


def _split(operands: list, params: dict) -> list[np.ndarray]:
    return np.split(operands[0], np.cumsum(params["sizes"])[:-1], axis=params["axis"])


_MOVES: dict[str, Callable[[list, dict], Any]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda operands, params: np.concatenate(operands, axis=params["dimension"]),
    "reshape": lambda operands, params: operands[0].reshape(params["new_sizes"]),
    "rev": lambda operands, params: np.flip(operands[0], params["dimensions"]),
    "slice": _cut,
    "split": _split,
    "stack": lambda operands, params: np.stack(operands, axis=params["axis"]),
    "squeeze": lambda operands, params: np.squeeze(operands[0], axis=tuple(params["dimensions"])),
    "tile": lambda operands, params: np.tile(operands[0], params["reps"]),
    "transpose": lambda operands, params: np.transpose(operands[0], params["permutation"]),
    "unstack": lambda operands, params: list(np.moveaxis(operands[0], params["axis"], 0)),
}
_INDEXED = {"dynamic_slice": (0,), "dynamic_update_slice": (0, 1), "gather": (0,), "pad": (0, 1), "scatter": (0, 2)}
"""Which arguments are moved; the others say where to."""
