"""Draw the rows of sites that stand before a loop inside it, at their steps.

A model whose noise its user has already moved outside draws all innovations at once and then only computes:

    eps ~ Normal(0, 1) of shape (T,),      x_t = f(x_{t-1}, eps_t)      by `scan`, `jax.lax.scan` or `cumsum`.

`MoveRows` stands around such a model and makes it the one in which `eps` is sampled in the transition.  The site is
hidden and a placeholder returned for it.  A `numpyro.contrib.control_flow.scan` gets a transition that draws the row
of its step and computes what the inputs are for it; where the loop is arithmetic, which no handler sees, a scan of our
own runs it (`jaxprs.stepping`), before the first site that needs its results.  Whatever the placeholder has reached
since then, the distributions of later sites and deterministics, is replaced by what follows from the rows that were
drawn.  `staging.rows` decides which sites can be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.contrib.control_flow import scan
from numpyro.primitives import Messenger

from ssmscan.model.handlers.messages import OUTSIDE, clean_name, with_sample_shape
from ssmscan.model.handlers.scans import returning_pairs
from ssmscan.model.handlers.stack import beyond
from ssmscan.model.jaxprs import stepping
from ssmscan.model.jaxprs.axes import constants, is_tracked
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import zeros
from ssmscan.model.jaxprs.tracked_axis import Axis, Tracked, Window
from ssmscan.model.noise.rows import row_of

PyTree = Any


class RowAxis(NamedTuple):
    """Where a site that stands before the loop has its rows.

    Attributes:
        axis: axis of the rows in the value that the user draws.
        first: number of rows before the first step, zero or one: what a start `eps[0]` is made of.
    """

    axis: int
    first: int = 0

    def whole(self, rows: Array, before: Array | None = None) -> Array:
        """Return the value as the user draws it, from its rows with steps in front and the one before the first."""
        rows = jnp.moveaxis(rows, 0, self.axis)
        if before is None:
            return rows
        return jnp.concatenate([jnp.expand_dims(before, self.axis), rows], self.axis)

    def apart(self, value: Array) -> tuple[Array, Array | None]:
        """Return the rows, steps in front, and the one before the first step: the inverse of `whole`."""
        rows = jnp.moveaxis(value, self.axis, 0)
        return rows[self.first :], rows[0] if self.first else None

    def row(self, value: Array, number: Any = 0) -> Array:
        """Return one row of a value."""
        return jax.lax.dynamic_index_in_dim(value, number, self.axis, keepdims=False)


def start_name(name: str) -> str:
    """Return the name of the site for the row before the first step."""
    return f"{name}_start"


class Rows(NamedTuple):
    """What is moved, and what follows from it.

    Attributes:
        axes: the sites that are moved.
        length: number of steps, T.
        main: index of the NumPyro loop whose noise they are; None where the loop is arithmetic.
        staged: outside, ys, last -> "xs" and "start", inputs and start of the main loop; by site outside the loops,
            "fn", the leaves of its distribution, and "value" of a deterministic.
        arrays: what it reads, the data of the model first.
        data: number of arrays that are data.
        reached: by site, the leaves of its distribution that the rows reach.
        computed: deterministics that they reach.
        read_in: indices of the NumPyro loops in which such sites stand.
        loops: numbers of the equations that run over the rows.
    """

    axes: Mapping[str, RowAxis]
    length: int
    main: int | None
    staged: Staged
    arrays: Sequence[Any]
    data: int
    reached: Mapping[str, tuple[int, ...]]
    computed: Collection[str]
    read_in: Collection[int | None]
    loops: tuple[int, ...]

    def step(
        self,
        arrays: Sequence[Any],
        outside: Mapping[str, Any],
        rows: Mapping[str, Array],
        t: Array | None,
        state: stepping.State | None,
    ) -> stepping.Stepped:
        """Evaluate what is staged at one step, or before the first.

        Args:
            arrays: what it reads, data first.
            outside: values of the sites outside loops.
            rows: by site that is moved, its row of the step; before the first step, the row there if there is one.
            t: () integer, the step; None before the first.
            state: see `stepping.step`.
        """
        followed = {}
        for name, (axis, first) in self.axes.items():
            shape = list(outside[name].shape)
            if name in rows:
                value = jnp.expand_dims(rows[name], axis)
            else:
                shape[axis] = 0
                value = jnp.zeros(shape, outside[name].dtype)
            followed[name] = Tracked(value, Axis(axis, self.length + first, first))
        arguments = {"outside": constants(dict(outside)) | followed}
        return stepping.step(self.staged, arrays, arguments, Window(self.length, t), state)


class MoveRows(Messenger):
    """Stands around the model, within what runs it.

    Args:
        rows: what is moved.
        data: the array arguments of the model.
    """

    def __init__(self, rows: Rows, data: Sequence[Any]):
        self.rows, self.arrays = rows, [*data, *rows.arrays[rows.data :]]
        self.known = zeros(rows.staged.argument("outside"))
        self.laws: dict[str, Any] = {}
        self.before: dict[str, Array] = {}
        self.met, self.deferred = 0, list[str]()
        self.first: stepping.Stepped | None = None
        self.after: _After | None = None
        super().__init__()

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> Any:
        if exc_type is None:
            self._emit_deferred()
        return super().__exit__(exc_type, exc_value, traceback)

    def process_message(self, msg: dict) -> None:
        """Hide what is moved, take the loop over, and replace what the placeholders have reached."""
        kind, name = msg["type"], clean_name(str(msg.get("name")))
        if kind == "control_flow" and len(msg["args"]) == 5:
            self.met += 1
            if self.met - 1 == self.rows.main:
                self._take_over(msg)
            elif self.after is None and self.met - 1 in self.rows.read_in:
                self._run_arithmetic()
            return
        if kind not in ("sample", "deterministic"):
            return
        replayed = msg.get("_control_flow_done", False)
        if not replayed:
            self._emit_deferred()
        if name in self.rows.axes and not replayed:
            msg["value"], msg["stop"] = self._hide(name, with_sample_shape(msg)), True
        elif name in self.rows.reached or name in self.rows.computed:
            if self.after is None and self.rows.main is not None:
                self.deferred.append(name)
                msg["stop"] = True
                return
            if self.after is None:
                self._run_arithmetic()
            self._correct(name, msg)

    def postprocess_message(self, msg: dict) -> None:
        """Keep the values of sites, and the results of the loop."""
        if msg["type"] == "control_flow" and "_rows" in msg:
            (length, key, (carry, state)), (sites, (ys, rows, outputs)) = msg["value"]
            self._keep(state, rows, outputs, {"ys": ys, "last": carry})
            msg["value"] = (length, key, carry), (sites, ys)
        elif msg["type"] == "sample" and (name := clean_name(msg["name"])) in self.known.keys() - self.rows.axes.keys():
            self.known[name] = jnp.asarray(msg["value"], self.known[name].dtype)

    def _hide(self, name: str, fn: Any) -> Array:
        """Draw the row before the first step, if there is one, and return a placeholder for the others."""
        axis, first = self.rows.axes[name]
        self.laws[name], placeholder = fn, self.known[name]
        if first:
            with beyond(self):
                self.before[name] = numpyro.sample(start_name(name), row_of(fn, axis, jnp.zeros((), jnp.int32)))
            row = jnp.expand_dims(self.before[name], axis).astype(placeholder.dtype)
            self.known[name] = jax.lax.dynamic_update_slice_in_dim(placeholder, row, 0, axis)
        return placeholder

    # ---- the loop -------------------------------------------------------------------------------

    def _mover(self) -> Callable[[Array, Any], tuple[dict[str, Array], stepping.Stepped]]:
        """Return (step, state before it) -> rows that are drawn there, and what follows from them."""
        known, laws = dict(self.known), dict(self.laws)

        def move(t: Array, state: stepping.State) -> tuple[dict[str, Array], stepping.Stepped]:
            places = self.rows.axes.items()
            rows = {
                n: numpyro.sample(n, row_of(laws[n], axis, t + first), infer={OUTSIDE: True})
                for n, (axis, first) in places
            }
            return rows, self.rows.step(self.arrays, known, rows, t, state)

        return move

    def _take_over(self, msg: dict) -> None:
        f, init, xs, length, reverse = msg["args"]
        f, move, self.first = returning_pairs(f), self._mover(), self._first()

        def transition(carry: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
            (carry, state), (t, x) = carry, x
            rows, moved = move(t, state)
            leaves, tree = jax.tree.flatten(x)
            leaves = [old if new is None else new for new, old in zip(moved.inputs, leaves)]
            carry, y = f(carry, jax.tree.unflatten(tree, leaves))
            return (carry, moved.state), (y, rows, moved.outputs)

        leaves, tree = jax.tree.flatten(init)
        starts = jax.tree.leaves(self.first.result["start"], is_leaf=is_tracked)
        init = jax.tree.unflatten(tree, [b if a.mark is None else a.value for a, b in zip(starts, leaves)])
        msg["args"] = transition, (init, self.first.state), (self._steps(), xs), length, reverse
        msg["_rows"] = True

    def _run_arithmetic(self) -> None:
        move, self.first = self._mover(), self._first()

        def transition(state: stepping.State, t: Array) -> tuple[PyTree, PyTree]:
            rows, moved = move(t, state)
            return moved.state, (rows, moved.outputs)

        with beyond(self):
            state, (rows, outputs) = scan(transition, self.first.state, self._steps())
        self._keep(state, rows, outputs, {})

    def _first(self) -> stepping.Stepped:
        return self.rows.step(self.arrays, self.known, self.before, None, None)

    def _steps(self) -> Array:
        return jnp.arange(self.rows.length, dtype=jnp.int32)

    def _keep(self, state: stepping.State, rows: Mapping[str, Array], outputs: Any, main: dict[str, PyTree]) -> None:
        for name, place in self.rows.axes.items():
            self.known[name] = place.whole(rows[name], self.before.get(name))
        assert self.first is not None
        loops = stepping.results(self.rows.staged, self.rows.loops, state.carries, outputs, self.first.outputs)
        self.after = _After(main, loops)

    # ---- after it -------------------------------------------------------------------------------

    def _found(self, entry: str, name: str) -> Any:
        assert self.after is not None
        arguments = {"outside": self.known, **self.after.main}
        return stepping.after(self.rows.staged, self.arrays, arguments, self.after.loops)[entry][name]

    def _correct(self, name: str, msg: dict) -> None:
        if msg["type"] == "deterministic":
            msg["value"] = self._found("value", name)
            return
        leaves, tree = jax.tree.flatten(msg["fn"])
        found = self._found("fn", name)
        new = [found[k] if k in self.rows.reached[name] else leaf for k, leaf in enumerate(leaves)]
        msg["fn"] = jax.tree.unflatten(tree, new)

    def _emit_deferred(self) -> None:
        if self.after is None:
            return
        names, self.deferred = self.deferred, []
        for name in names:
            with beyond(self):
                numpyro.deterministic(name, self._found("value", name))


class _After(NamedTuple):
    """Results of the loops: of the main one by the names of arguments, of the others by the number of the equation."""

    main: dict[str, PyTree]
    loops: dict[int, list[Array]]
