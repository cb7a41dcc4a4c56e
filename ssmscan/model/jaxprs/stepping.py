"""Evaluate arithmetic over an axis of time one step at a time.

Let some inputs have a row for each step.  Code that works on all rows at once, and whose loops run forward over them,

    c_t, y_t = f(c_{t-1}, x_t)       `jax.lax.scan` over x, of which rows are made
    c_t = c_{t-1} + x_t              `cumsum`, and `cumprod` likewise

needs at step t only the rows of t and the carries c of its loops.  `step` evaluates it so, following the axis from the
inputs to the loops and from one loop to the next; `after` evaluates the whole code again with the results of the
loops given.  A loop over rows of earlier steps, `concatenate([first, x[:-1]])`, keeps them until their turn comes.
What is made of rows before the first step may start a loop.  Loops that the rows do not reach are ordinary
computation, and what joins rows in another way (reverse, sorted) is out of reach for a step and ordinary after the
loops.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core as jex

from ssmscan.model.jaxprs.axes import follow_equation, is_tracked, tracked_inputs
from ssmscan.model.jaxprs.axis_rules import ELEMENTWISE
from ssmscan.model.jaxprs.dataflow import Staged, evaluate
from ssmscan.model.jaxprs.flat import held_and_carried
from ssmscan.model.jaxprs.source_lines import Mixing
from ssmscan.model.jaxprs.tracked_axis import Axis, Mark, Tracked, Window

_CUMULATIVE = {"cumsum": (lax.add, 0), "cumprod": (lax.mul, 1)}
_LAST = Mixing("the last carry of a loop")
_LONGEST_DELAY = 8


class State(NamedTuple):
    """What is kept from one step to the next.

    Attributes:
        carries: for each loop, the leaves of its carry.
        lines: for each place where rows meet that are not of the same step, the rows that wait for their turn, of
            each operand; None where none do.
    """

    carries: list[list[Array]]
    lines: list[list[Array | None]]


class Stepped(NamedTuple):
    """What one step gives.

    Attributes:
        result: the result of the code, tracked.
        inputs: for each leaf of the entry "xs" of the result, its row of the step; None where it has none.
        state: the state after the step.
        outputs: for each loop, its outputs at the step, with an axis of one row; before the first step, of those there.
        loops: for each loop, the number of its equation.
    """

    result: Any
    inputs: list[Array | None]
    state: State
    outputs: list[list[Array]]
    loops: tuple[int, ...]


def step(
    staged: Staged,
    arrays: Sequence[Any],
    arguments: Mapping[str, Any],
    window: Window,
    state: State | None = None,
) -> Stepped:
    """Evaluate one step, or what comes before the first.

    Args:
        staged: the code, as a function of whole arrays.
        arrays: its shared arrays, whole.
        arguments: trees of `Tracked` by name, as in `axes.follow_staged`.
        window: the rows of the step; before the first, the head.
        state: the state before the step, None before the first.
    """
    env = dict(zip(staged.jaxpr.invars, tracked_inputs(staged, arrays, arguments)))
    carries: list[list[Array]] = []
    outputs: list[list[Array]] = []
    loops: list[int] = []
    lines = _Lines(window, None if state is None else state.lines)

    def read(variable: Any) -> Tracked:
        return Tracked(variable.val) if isinstance(variable, jex.Literal) else env[variable]

    for number, eqn in enumerate(staged.jaxpr.eqns):
        args = [read(v) for v in eqn.invars]
        if eqn.primitive.name in ELEMENTWISE and (rows := _earliest(args)) is not None:
            args = lines.in_turn(args, rows)
        loop = _loop(eqn, args, window)
        if loop is None:
            env.update(zip(eqn.outvars, follow_equation(eqn, args, window)))
            continue
        x = lines.in_turn(loop.inputs, loop.rows)
        carry, found = (loop.first if state is None else state.carries[len(loops)]), []
        for row in range(loop.rows.shift if state is None else 1):
            carry, ys = loop.move(carry, [_row(a, loop.rows, window, row) for a in x])
            found.append(ys)
        stacked = [jnp.stack(ys, loop.rows.axis or 0) for ys in zip(*found)] or _no_rows(loop)
        carries.append(carry)
        outputs.append(stacked)
        loops.append(number)
        last = [Tracked(None, _LAST)] * (len(eqn.outvars) - len(stacked))
        env.update(zip(eqn.outvars, (*last, *(Tracked(rows, loop.rows) for rows in stacked))))
    result = jax.tree.unflatten(staged.out_tree, [read(v) for v in staged.jaxpr.outvars])
    steps = Axis(0, window.steps)
    xs = [leaf if in_order(leaf.mark, steps) else Tracked(None) for leaf in _leaves(result.get("xs", ()))]
    in_turn = lines.in_turn(xs, steps)
    inputs = [None if a.mark is None or state is None else jnp.squeeze(a.value, 0) for a in in_turn]
    return Stepped(result, inputs, State(carries, lines.after), outputs, tuple(loops))


def after(
    staged: Staged, arrays: Sequence[Any], arguments: Mapping[str, Any], results: Mapping[int, Sequence[Array]]
) -> Any:
    """Evaluate the code with the results of its loops given.

    Args:
        staged, arrays: as in `step`.
        arguments: whole values by name.
        results: for the numbers of some equations, what they return.
    """
    flat = [leaf for name in staged.in_trees for leaf in jax.tree.leaves(arguments[name])]
    env = dict(zip(staged.jaxpr.invars, [*(arrays[i] for i in staged.shared), *flat]))
    given = {id(staged.jaxpr.eqns[number]): list(values) for number, values in results.items()}

    def known(eqn: Any, _: Any) -> Any:
        values = given.get(id(eqn))
        return values if values is None or eqn.primitive.multiple_results else values[0]

    evaluate(staged.jaxpr.eqns, env, rewrite=known)
    leaves = [v.val if isinstance(v, jex.Literal) else env[v] for v in staged.jaxpr.outvars]
    return jax.tree.unflatten(staged.out_tree, leaves)


def results(
    staged: Staged,
    loops: Sequence[int],
    carries: Sequence[Sequence[Array]],
    outputs: Sequence[Sequence[Array]],
    first: Sequence[Sequence[Array]],
) -> dict[int, list[Array]]:
    """Return what the equations of some loops return.

    Args:
        staged: the code.
        loops: numbers of the equations.
        carries: for each, the leaves of its carry after the last step.
        outputs: for each, its outputs, steps in front of the axis of one row.
        first: for each, its outputs before the first step.
    """
    found = {}
    for number, carry, ys, before in zip(loops, carries, outputs, first):
        eqn = staged.jaxpr.eqns[number]
        cumulative = eqn.primitive.name in _CUMULATIVE
        axis = eqn.params["axis"] if cumulative else 0
        rows = [jnp.moveaxis(jnp.squeeze(y, axis + 1), 0, axis) for y in ys]
        whole = [jnp.concatenate([head, row], axis) if head.shape[axis] else row for head, row in zip(before, rows)]
        found[number] = whole if cumulative else [*carry, *whole]
    return found


def lengths(staged: Staged, kinds: Collection[str] = ("scan", *_CUMULATIVE)) -> list[int]:
    """Return the lengths of the loops of the code in order, each once."""
    return list(dict.fromkeys(_length(eqn) for eqn in staged.jaxpr.eqns if eqn.primitive.name in kinds))


def _length(eqn: Any) -> int:
    return eqn.params["length"] if eqn.primitive.name == "scan" else eqn.outvars[0].aval.shape[eqn.params["axis"]]


def in_order(mark: Mark, rows: Axis) -> bool:
    """Return whether a loop can take a followed variable row by row: with each of its rows that one, or an earlier."""
    if not isinstance(mark, Axis) or mark != rows._replace(shift=mark.shift):
        return False
    return rows.shift <= mark.shift <= rows.shift + _LONGEST_DELAY


def is_before(mark: Mark) -> bool:
    """Return whether a variable is known before the first step: constant, or made of rows before it."""
    return mark is None or (isinstance(mark, Axis) and mark.length <= mark.shift and mark.own is None)


class _Loop(NamedTuple):
    """A loop over the rows.

    Attributes:
        first: its carry before the first step.
        inputs: its inputs, whole where they are constant.
        move: carry, inputs of the step -> carry after it, outputs of the step.
        rows: the mark of its inputs and outputs, one row a step.
        ys: the variables of its outputs.
    """

    first: list[Array]
    inputs: list[Tracked]
    move: Callable[[list[Array], list[Array]], tuple[list[Array], list[Array]]]
    rows: Axis
    ys: list[Any]


def _loop(eqn: Any, args: list[Tracked], window: Window) -> _Loop | None:
    """Read an equation as a loop over the followed rows; None if it is none."""
    name, params = eqn.primitive.name, eqn.params
    if name in _CUMULATIVE:
        axis = params["axis"]
        rows = _rows(eqn, axis, window)
        if rows is None or params["reverse"] or not in_order(args[0].mark, rows):
            return None
        combine, neutral = _CUMULATIVE[name]
        shape = list(eqn.invars[0].aval.shape)
        del shape[axis]

        def total(carry: list[Array], x: list[Array]) -> tuple[list[Array], list[Array]]:
            new = [combine(carry[0], x[0])]
            return new, new

        first = [jnp.full(shape, neutral, eqn.invars[0].aval.dtype)]
        return _Loop(first, args, total, rows, eqn.outvars)
    if name != "scan" or params["reverse"] or (rows := _rows(eqn, 0, window)) is None:
        return None
    held, count = held_and_carried(eqn)
    consts, init, inputs = args[:held], args[held : held + count], args[held + count :]
    followed = [a for a in inputs if a.mark is not None]
    if not followed or not all(in_order(a.mark, rows) for a in followed):
        return None
    if any(a.mark is not None for a in consts) or not all(is_before(a.mark) for a in init):
        return None
    run = jex.jaxpr_as_fun(params["jaxpr"])

    def move(carry: list[Array], x: list[Array]) -> tuple[list[Array], list[Array]]:
        out = run(*(a.value for a in consts), *carry, *x)
        return out[:count], out[count:]

    variables = eqn.invars[held : held + count]
    first = [jnp.asarray(a.value, v.aval.dtype) for a, v in zip(init, variables)]
    return _Loop(first, inputs, move, rows, eqn.outvars[count:])


def _rows(eqn: Any, axis: int, window: Window) -> Axis | None:
    """Return the mark of the rows of a loop that has run a few times before the first step; None if it cannot have."""
    before = _length(eqn) - window.steps
    return Axis(axis, _length(eqn), before) if 0 <= before <= _LONGEST_DELAY else None


def _earliest(operands: Sequence[Tracked]) -> Axis | None:
    """Return the mark of the earliest rows of operands that have those of different steps; None if they have not."""
    marks = {a.mark for a in operands if a.mark is not None}
    if len(marks) < 2 or not all(isinstance(mark, Axis) and mark.axis is not None for mark in marks):
        return None
    first = min((mark for mark in marks if isinstance(mark, Axis)), key=lambda mark: mark.shift)
    return first if all(in_order(mark, first) for mark in marks) else None


class _Lines:
    """Rows that wait for their turn, place by place in the order of the code.

    Attributes:
        after: for each place met, the rows that wait after the step.
    """

    def __init__(self, window: Window, before: Sequence[Sequence[Array | None]] | None):
        self.window, self.before = window, before
        self.after: list[list[Array | None]] = []

    def in_turn(self, operands: Sequence[Tracked], rows: Axis) -> list[Tracked]:
        """Return operands with the rows that are wanted, where they had those of a later step."""
        before = [None] * len(operands) if self.before is None else self.before[len(self.after)]
        found, waiting = zip(*(self._one(a, b, rows) for a, b in zip(operands, before))) if operands else ((), ())
        self.after.append(list(waiting))
        return list(found)

    def _one(self, tracked: Tracked, before: Array | None, rows: Axis) -> tuple[Tracked, Array | None]:
        mark = tracked.mark
        if not isinstance(mark, Axis) or mark == rows or rows.axis is None:
            return tracked, None
        if before is None:
            now, waiting = _cut(tracked.value, rows.shift, rows.axis)
        else:
            now, waiting = _cut(jnp.concatenate([before, tracked.value], rows.axis), 1, rows.axis)
        return Tracked(now, rows), waiting


def _cut(value: Array, at: int, axis: int) -> tuple[Array, Array]:
    return lax.slice_in_dim(value, 0, at, axis=axis), lax.slice_in_dim(value, at, None, axis=axis)


def _row(tracked: Tracked, rows: Axis, window: Window, number: int) -> Array:
    """Return one of the rows in the window, its axis gone."""
    value = window.rows(jnp.asarray(tracked.value), rows) if tracked.mark is None else tracked.value
    return lax.index_in_dim(value, number, rows.axis or 0, keepdims=False)


def _no_rows(loop: _Loop) -> list[Array]:
    """Return outputs of a loop that has not run."""
    shapes = [(v.aval.shape, v.aval.dtype) for v in loop.ys]
    return [jnp.zeros([0 if k == loop.rows.axis else n for k, n in enumerate(s)], dtype) for s, dtype in shapes]


def _leaves(tree: Any) -> list[Tracked]:
    return jax.tree.leaves(tree, is_leaf=is_tracked)
