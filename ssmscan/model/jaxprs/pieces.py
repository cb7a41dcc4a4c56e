"""Evaluate a part of what a jaxpr computes, without the rest of it.

What an equation gives at some place of its result needs its operands at places that the primitive determines.  Asked
for one row of the result we go backwards, from equation to equation, and compute of each operand only what is needed,
so that code written on whole arrays costs for one step what it would cost had it been written for one.

A `Place` has for each axis an index, of which the value has size one there, or None for all of the axis.  Rows of the
outputs of the loop are all read as the output of the step that is asked for, which is what they are where the labels of
`labels` say so.  A primitive without a rule is evaluated whole and cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core as jex
from jax.extend import source_info_util

from ssmscan.model.jaxprs.labels import Labelled
from ssmscan.model.jaxprs.placeholders import zeros
from ssmscan.model.jaxprs.tracked_axis import bind


class Index(NamedTuple):
    """An index along one axis.

    Attributes:
        value: () integer.
        possible: what it may be, an array that broadcasts with those of the other indices of a place; None if that is
            not known.
    """

    value: Any
    possible: np.ndarray | None

    def scaled(self, first: int, step: int = 1) -> Index:
        """Return first + step times it."""
        return self._map(lambda i: first + step * i)

    def divided(self, size: int) -> tuple[Index, Index]:
        """Return its quotient by a size, and the remainder."""
        return self._map(lambda i: i // size), self._map(lambda i: i % size)

    def plus(self, other: Index) -> Index:
        """Return the sum of two."""
        either = self.possible is None or other.possible is None
        return Index(self.value + other.value, None if either else self.possible + other.possible)  # type: ignore[operator]

    def _map(self, fn: Callable[[Any], Any]) -> Index:
        return Index(fn(self.value), None if self.possible is None else fn(self.possible))

    def clip(self, last: int) -> Index:
        """Return the nearest index from 0 to the last."""
        return Index(jnp.clip(self.value, 0, last), None if self.possible is None else np.clip(self.possible, 0, last))

    def may_be(self, first: int, count: int) -> bool:
        """Return whether it may be one of `count` indices from the first."""
        if self.possible is None or not self.possible.size:
            return True
        return bool(((self.possible >= first) & (self.possible < first + count)).any())

    def within(self, first: int, count: int) -> Array | bool:
        """Return whether it is one of `count` indices from the first; the constant True if it must be."""
        if self.possible is not None and self.possible.size:
            if ((self.possible >= first) & (self.possible < first + count)).all():
                return True
        return (self.value >= first) & (self.value < first + count)


Place = tuple[Index | None, ...]


class Evaluation:
    """Evaluate variables of a labelled jaxpr at places.

    Attributes:
        found: the jaxpr and its labels.
    """

    def __init__(self, found: Labelled, values: Mapping[Any, Array], rows: Mapping[Any, Array], rules: Mapping):
        """Prepare.

        Args:
            found: the jaxpr and its labels.
            values: of the constant inputs.
            rows: of each output of the loop, what stands in all rows.
            rules: see `piece_rules`.
        """
        self.found, self._rows, self._rules = found, rows, rules
        self._values = dict(values)
        self._memo: dict[tuple, tuple] = {}
        for eqn in found.jaxpr.eqns:
            if not any(found.followed(v) for v in eqn.invars):
                inputs = [self.constant(v) for v in eqn.invars]
                with source_info_util.user_context(eqn.source_info.traceback):
                    self._values.update(zip(eqn.outvars, bind(eqn, inputs)))

    def _again(self) -> Evaluation:
        """Return the same without what was computed inside another trace."""
        new = object.__new__(Evaluation)
        new.found, new._rows, new._rules, new._values = self.found, self._rows, self._rules, self._values
        new._memo = {}
        return new

    def each(self, size: int, fn: Callable[[Evaluation, Array], Any]) -> Any:
        """Evaluate for each of some numbers, which results have in front."""
        if size == 1:
            return jax.tree.map(lambda a: a[None], fn(self, jnp.zeros((), jnp.int32)))
        return jax.vmap(lambda k: fn(self._again(), k))(jnp.arange(size, dtype=jnp.int32))

    def constant(self, variable: Any) -> Any:
        """Return the whole of a constant."""
        return jnp.asarray(variable.val) if isinstance(variable, jex.Literal) else self._values[variable]

    def steps_of(self, labels: np.ndarray) -> Array:
        """Return the steps that labels stand for, those that data choose included."""
        steps = jnp.asarray(np.where(labels < self.found.steps, labels, -1))
        for lookup in self.found.lookups:
            here = (labels >= lookup.first) & (labels < lookup.first + lookup.size)
            if here.any():
                chosen = lookup.steps(self.constant, self.steps_of)[np.where(here, labels - lookup.first, 0)]
                steps = jnp.where(here, chosen, steps)
        return steps

    def at(self, variable: Any, place: Place, sure: bool = False) -> Array:
        """Evaluate a variable.

        Args:
            variable: of the jaxpr.
            place: where.
            sure: whether what is there is known to depend on the step.
        """
        if isinstance(variable, jex.Literal) or not self.found.followed(variable):
            return cut(self.constant(variable), place)
        if variable in self._rows:
            return self._row(variable, place)
        if variable not in self.found.producers:
            return zeros(jax.ShapeDtypeStruct(size_at(variable.aval.shape, place), variable.aval.dtype))
        key = (variable, tuple(map(id, place)), sure)
        if key not in self._memo:
            eqn = self.found.producers[variable]
            with source_info_util.user_context(eqn.source_info.traceback):
                rule = self._rules.get(eqn.primitive.name, whole)
                self._memo[key] = rule(self, eqn, place, sure, eqn.outvars.index(variable)), place
        return self._memo[key][0]

    def _row(self, variable: Any, place: Place) -> Array:
        row = self._rows[variable][None]
        if place[0] is None:
            row = jnp.broadcast_to(row, variable.aval.shape)
        return cut(row, (None, *place[1:]))

    def all_of(self, variable: Any) -> Array:
        """Evaluate the whole of a variable."""
        return self.at(variable, (None,) * variable.aval.ndim)

    def along(self, variable: Any, place: Place, axes: Sequence[int], sure: bool) -> Array:
        """Evaluate a variable at every index of some axes, one at a time."""
        open_axes = [d for d in axes if place[d] is None]
        if not open_axes:
            return self.at(variable, place, sure)
        d, size = open_axes[0], variable.aval.shape[open_axes[0]]
        others = [Index(i.value, None if i.possible is None else i.possible[..., None]) if i else None for i in place]

        def one(inner: Evaluation, k: Array) -> Array:
            here = (*others[:d], Index(k, np.arange(size)), *others[d + 1 :])
            return jnp.squeeze(inner.along(variable, here, axes, sure), d)

        return jnp.moveaxis(self.each(size, one), 0, d)


def cut(value: Array, place: Place) -> Array:
    """Cut a whole array."""
    if all(index is None for index in place):
        return value
    sizes = [n if index is None else 1 for n, index in zip(value.shape, place)]
    if 0 in value.shape:
        return jnp.zeros(sizes, value.dtype)
    return lax.dynamic_slice(value, beginning(place), sizes)


def beginning(place: Sequence[Index | None]) -> list[Array]:
    """Return where a place begins, for `lax.dynamic_slice` and its like, which want integers of one type."""
    return [jnp.asarray(0 if index is None else index.value, jnp.int32) for index in place]


def size_at(shape: Sequence[int], place: Place) -> tuple[int, ...]:
    """Return the shape that an array has at a place."""
    return tuple(n if index is None else 1 for n, index in zip(shape, place))


def whole(found: Evaluation, eqn: Any, place: Place, sure: bool, number: int) -> Array:
    """Evaluate a primitive of which nothing is known."""
    return cut(bind(eqn, [found.all_of(v) for v in eqn.invars])[number], place)
