"""A window on one axis of an array: some of its rows, and what the whole is to be made of.

Code after the loop works on arrays in which one axis is time.  To evaluate it for one step we
replace each such array by a window of its rows.  Row r of an array with shift s belongs to step

    t = r - s,      0 <= t < T,

so an output of the loop has s = 0, and `concatenate([x0[None], path])` has s = 1.  Three windows
tile every array, whatever its length L and shift:

    head    rows 0 .. s-1, which belong to no step: the start
    step    row t + s, one window for each step
    end     rows s+T .. L-1, which come after the last step

What a sum over the axis gives in the windows adds up to what it gives in the whole array; a step
without a row (`path[:n]` at t >= n) adds zero.  Constants are values that no window differs in;
added to a sum they are counted in the head.

The axis need not be time.  With the elements of a panel there are T of them and no head or end;
constants are counted with the first element.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.jaxprs.placeholders import zeros
from ssmscan.model.jaxprs.source_lines import Mixing


class Axis(NamedTuple):
    """Where a variable has the followed axis.

    Attributes:
        axis: its position, None where one row was taken out of the array (`path[-1]`) and the axis is gone.
        length: L, its number of rows.
        shift: s, row r belongs to step r - s.
        block: neighbouring entries that make one row, more than one where a reshape has merged the axis with the
            axes after it.
        own: steps (first, last + 1) of the rows that count, those before and after the loop having negative numbers
            and numbers from T; None for all. The other rows are outputs of other loops, with zeros in their place.
    """

    axis: int | None
    length: int
    shift: int = 0
    block: int = 1
    own: tuple[int, int] | None = None


class Sum(NamedTuple):
    """A sum over the followed axis; `origin` is where it was taken."""

    origin: Mixing


Mark = Axis | Sum | Mixing | None
"""What a variable is: followed, a sum over the axis, out of reach, or constant."""


class Tracked(NamedTuple):
    """A variable in one window; the value is None where the mark is `Mixing`."""

    value: Any
    mark: Mark = None


class MixesRows(Exception):
    """Raised by a rule when rows meet; an origin is given if an earlier equation is to blame."""

    def __init__(self, origin: Mixing | None = None):
        self.origin = origin


class Window(NamedTuple):
    """Which rows are evaluated.

    Attributes:
        steps: T, the number of steps.
        step: () integer, the step whose rows are evaluated; None for those that belong to no step.
        end: whether these are the rows after the last step.
        headless: whether constants count in the first step, there being no head.
        constants: whether they count at all.
    """

    steps: int
    step: Array | None = None
    end: bool = False
    headless: bool = False
    constants: bool = True

    def start(self, axis: Axis) -> Any:
        """Return the first row of the window."""
        if self.step is not None:
            return self.step + axis.shift
        return _clip(axis.shift + self.steps, axis.length) if self.end else 0

    def size(self, axis: Axis) -> int:
        """Return the number of rows in the window."""
        if self.step is not None:
            return min(axis.length, 1)
        after = axis.length - _clip(axis.shift + self.steps, axis.length)
        return after if self.end else _clip(axis.shift, axis.length)

    def shape(self, shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
        """Return the shape of a variable in the window, from its shape in the whole."""
        if axis.axis is None:
            return tuple(shape)
        return (*shape[: axis.axis], self.size(axis) * axis.block, *shape[axis.axis + 1 :])

    def rows(self, constant: Array, axis: Axis) -> Array:
        """Take the rows of the window from a constant; for a row that does not exist, another is taken."""
        if axis.axis is None:
            return constant
        size = self.size(axis) * axis.block
        if self.step is None:
            first = self.start(axis) * axis.block
            return lax.slice_in_dim(constant, first, first + size, axis=axis.axis)
        return lax.dynamic_slice_in_dim(constant, self.start(axis) * axis.block, size, axis.axis)

    def present(self, constant: Array, axis: Axis) -> Array:
        """Take the rows of the window from a constant, NaN for those that do not exist."""
        rows = jnp.asarray(self.rows(constant, axis))
        all_there = jnp.ones_like(rows, bool)
        there = self.counted(all_there, axis)
        return rows if there is all_there else jnp.where(there, rows.astype(jnp.result_type(float, rows)), jnp.nan)

    def within(self, axis: Axis, first: int, length: int) -> Array | bool:
        """Return whether the step's row is one of `length` rows from `first`; the constant True if at every step."""
        if self.step is None or (first <= axis.shift and axis.shift + self.steps <= first + length):
            return True
        row = self.start(axis)
        return (row >= first) & (row < first + length)

    def counted(self, value: Array, axis: Axis) -> Array:
        """Set to zero what belongs to no row of the array, before it enters a sum."""
        if axis.axis is None and self.size(axis) == 0:
            return jnp.zeros_like(value)
        there = self.within(axis, 0, axis.length)
        value = value if there is True else jnp.where(there, value, jnp.zeros_like(value))
        if axis.own is None:
            return value
        step = jnp.arange(self.size(axis)) + self.start(axis) - axis.shift
        own = jnp.repeat((step >= axis.own[0]) & (step < axis.own[1]), axis.block)
        shape = [1] * value.ndim
        if axis.axis is not None:
            shape[axis.axis] = len(own)
        return jnp.where(own.reshape(shape), value, jnp.zeros_like(value))

    def contribution(self, tracked: Tracked) -> Array:
        """Return what a variable that is added to a sum contributes in this window.

        Raises:
            MixesRows: the variable still has the axis.
        """
        if isinstance(tracked.mark, Sum):
            return tracked.value
        if isinstance(tracked.mark, Axis) and tracked.mark.axis is None:
            return self.counted(tracked.value, tracked.mark)
        if tracked.mark is None:
            nothing = jnp.zeros_like(tracked.value)
            if not self.constants:
                return nothing
            if self.step is not None and self.headless:
                return jnp.where(self.step == 0, tracked.value, nothing)
            return tracked.value if self.step is None and not self.end else nothing
        raise MixesRows(tracked.mark if isinstance(tracked.mark, Mixing) else None)

    def bind(self, eqn: Any, values: list, axis: Axis | list[Axis], **params: Any) -> list[Tracked]:
        """Evaluate an equation on windows.

        Args:
            eqn: the equation, as staged for whole arrays.
            values: its operands in the window.
            axis: where the results have the axis, one for all or one each.
            params: parameters that differ from those of the whole.
        """
        axes = axis if isinstance(axis, list) else [axis] * len(eqn.outvars)
        if not any(self.size(a) for a in axes):
            # Not every primitive takes arrays without elements.
            shapes = [self.shape(v.aval.shape, a) for v, a in zip(eqn.outvars, axes)]
            empty = [zeros(jax.ShapeDtypeStruct(s, v.aval.dtype)) for s, v in zip(shapes, eqn.outvars)]
            return [Tracked(value, a) for value, a in zip(empty, axes)]
        return [Tracked(value, a) for value, a in zip(bind(eqn, values, **params), axes)]


def bind(eqn: Any, values: list, **params: Any) -> list:
    """Evaluate an equation, some of its parameters replaced; results as a list."""
    results = eqn.primitive.bind(*values, **{**eqn.primitive.get_bind_params(eqn.params), **params})
    return list(results) if eqn.primitive.multiple_results else [results]


def _clip(row: int, length: int) -> int:
    return min(max(row, 0), length)
