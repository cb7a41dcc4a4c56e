r"""A sum over the steps of a loop, taken apart.

If the labels of `labels` say that a scalar is a sum of terms that depend on one step each,

.. math::  f(y_{1:T}) = h + \sum_t g_t(y_t),

then g_t is made of the elements with label t alone: of what is added up, those elements are evaluated (`pieces`), the
others count as zero, and what is done to sums from there is linear, so that it is done to g_t.  h is made of the
elements that depend on no step.  A step is given as many places as the largest number of elements that one has, and
costs that; rows that data choose are all evaluated, and those of other steps dropped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.flat import flat
from ssmscan.model.jaxprs.label_rules import KINDS, LINEAR_IN, LINEAR_IN_ALL, product
from ssmscan.model.jaxprs.label_rules import RULES as LABEL_RULES
from ssmscan.model.jaxprs.labels import CONSTANT, FACTORS, SUM, Labelled, Labels, constant, minimal
from ssmscan.model.jaxprs.piece_rules import RULES, dot_places
from ssmscan.model.jaxprs.pieces import Evaluation, Index, Place, beginning
from ssmscan.model.jaxprs.source_lines import Mixing
from ssmscan.model.jaxprs.tracked_axis import bind

PyTree = Any
ROWS, WHOLE = "rows", "whole"
"""Marks of an input: the steps are its first axis, or it is a constant."""


class Separated:
    """A staged function whose results, scalars, are sums over the steps.

    Attributes:
        mixing: for each result that is no such sum, its number and what is to blame.
        stepwise: numbers of the results that depend on any step.
    """

    def __init__(self, staged: Staged, known: Sequence[np.ndarray | None], steps: int, marks: Mapping[str, PyTree]):
        """Take the function apart.

        Args:
            staged: the function.
            known: the value of each of its shared arrays, None for those that may change.
            steps: T.
            marks: by argument a tree like it, of `ROWS`, `WHOLE`, or what is to blame if a result depends on it.
        """
        leaves: list[Any] = [WHOLE] * len(staged.shared)
        for name in staged.in_trees:
            leaves += jax.tree.leaves(marks[name], is_leaf=lambda leaf: isinstance(leaf, Mixing))
        closed = flat(staged.jaxpr, [leaf != WHOLE for leaf in leaves])
        self._staged, self._consts, jaxpr = staged, closed.consts, closed.jaxpr
        inputs = list(zip(jaxpr.invars, leaves))
        self._rows = [v for v, leaf in inputs if leaf == ROWS]
        self._constants = [v for v, leaf in inputs if leaf == WHOLE]
        values = {v: value for v, value in zip(jaxpr.invars, known) if value is not None}
        values |= {v: np.asarray(c) for v, c in zip(jaxpr.constvars, closed.consts) if not _traced(c)}
        labels = {v: _by_row(v, steps) for v in self._rows}
        blamed = {v: leaf for v, leaf in inputs if isinstance(leaf, Mixing)}
        self._found = found = Labelled(jaxpr, steps, labels, values, LABEL_RULES, KINDS, blamed)
        self.mixing = {
            k: found.blamed(v) for k, v in enumerate(jaxpr.outvars) if found.followed(v) and (found.of(v) < SUM).any()
        }
        self.stepwise = {k for k, v in enumerate(jaxpr.outvars) if found.followed(v) and not constant(found.of(v))}

    def terms(self, arrays: Sequence[Any], arguments: Mapping[str, PyTree], step: Array | None) -> PyTree:
        """Evaluate what belongs to a step, or what belongs to none.

        Args:
            arrays: what the staged function reads, whole.
            arguments: constants whole, and of rows the one of the step; others need not be given.
            step: () integer, or None for what belongs to no step.

        Returns:
            The result of the function, with zeros where `mixing` has an entry.
        """
        flat_arguments: list[Any] = [arrays[i] for i in self._staged.shared]
        for name, tree in self._staged.in_trees.items():
            flat_arguments += jax.tree.leaves(arguments[name]) if name in arguments else [None] * tree.num_leaves
        jaxpr = self._found.jaxpr
        given = dict(zip(jaxpr.invars, flat_arguments))
        constants = {v: given[v] for v in self._constants} | dict(zip(jaxpr.constvars, self._consts))
        rows = {v: jnp.zeros(v.aval.shape[1:], v.aval.dtype) if step is None else given[v] for v in self._rows}
        with _depth(len(jaxpr.eqns)):
            parts = _Parts(Evaluation(self._found, constants, rows, RULES), step)
            results = [
                jnp.zeros(v.aval.shape, v.aval.dtype) if k in self.mixing else parts.of(v)
                for k, v in enumerate(jaxpr.outvars)
            ]
        return jax.tree.unflatten(self._staged.out_tree, results)


@contextmanager
def _depth(equations: int) -> Iterator[None]:
    """Let Python go as deep as a chain of so many equations is, each of which is asked for by the one after it."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + 16 * equations)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer) or jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def _by_row(variable: Any, steps: int) -> Labels:
    return np.arange(steps, dtype=np.int32).reshape(steps, *(1,) * (variable.aval.ndim - 1))


class _Parts:
    """What of each variable belongs to a step, or to none: of the shape of the variable, zero elsewhere."""

    def __init__(self, evaluation: Evaluation, step: Array | None):
        self._evaluation, self._step = evaluation, step
        self._memo: dict[Any, Array] = {}

    def of(self, variable: Any) -> Array:
        """Return the part of a variable."""
        found = self._evaluation.found
        if not found.followed(variable):
            value = self._evaluation.constant(variable)
            return value if self._step is None else jnp.zeros_like(value)
        if variable not in self._memo:
            if (found.of(variable) == SUM).any():
                self._memo[variable] = self._of_sum(found.producers[variable], variable)
            else:
                self._memo[variable] = self._placed(
                    found.of(variable),
                    variable.aval,
                    lambda inner, place, sure: (inner.at(variable, place, sure), place),
                )
        return self._memo[variable]

    def _of_sum(self, eqn: Any, variable: Any) -> Array:
        """Return the part of what a linear equation gives."""
        found, name = self._evaluation.found, eqn.primitive.name
        labels = [found.of(v) for v in eqn.invars]
        sums = [(own == SUM).any() for own in labels]
        if name == "reduce_sum" and not any(sums):
            return self._placed(labels[0], variable.aval, lambda *args: _reduced(eqn, *args))
        if name == "dot_general" and not any(sums):
            return self._placed(minimal(product(eqn, labels)), variable.aval, lambda *args: _contracted(eqn, *args))
        if name == "log":
            return self.log_of(eqn.invars[0])
        if name in LINEAR_IN_ALL:
            linear = [k > 0 or name != "select_n" for k in range(len(sums))]
        elif name in LINEAR_IN:
            linear = [k in LINEAR_IN[name] for k in range(len(sums))]
        else:
            linear = [bool(flag) for flag in sums]
        values = [self.of(v) if flag else self._evaluation.all_of(v) for v, flag in zip(eqn.invars, linear)]
        return bind(eqn, values)[eqn.outvars.index(variable)]

    def log_of(self, variable: Any) -> Array:
        """Return the part of the logarithm of a variable's absolute value."""
        found = self._evaluation.found
        if not found.followed(variable):
            value = jnp.log(jnp.abs(self._evaluation.constant(variable)))
            return value if self._step is None else jnp.zeros_like(value)
        if not (found.of(variable) == FACTORS).any():

            def element(inner: Evaluation, place: Place, sure: bool) -> tuple[Array, Place]:
                return jnp.log(jnp.abs(inner.at(variable, place, sure))), place

            return self._placed(found.of(variable), variable.aval, element)
        eqn = found.producers[variable]
        name = eqn.primitive.name
        if name == "exp":
            return self.of(eqn.invars[0])
        if name == "mul":
            return self.log_of(eqn.invars[0]) + self.log_of(eqn.invars[1])
        if name == "cumprod":
            return lax.cumsum(self.log_of(eqn.invars[0]), eqn.params["axis"], eqn.params["reverse"])
        if name == "reduce_prod":
            return jnp.sum(self.log_of(eqn.invars[0]), eqn.params["axes"])
        moved = eqn.invars if name in ("concatenate", "stack") else eqn.invars[:1]
        values = [self.log_of(v) for v in moved] + [self._evaluation.all_of(v) for v in eqn.invars[len(moved) :]]
        return bind(eqn, values)[eqn.outvars.index(variable)]

    def _placed(self, labels: Labels, aval: Any, fn: Callable) -> Array:
        """Add up the terms of the step, each put where it belongs.

        Args:
            labels: of the terms.
            aval: of what they are part of.
            fn: (evaluation, place, sure) -> value at the place, and where it belongs.
        """
        total = jnp.zeros(aval.shape, aval.dtype)
        for terms in _terms(labels, self._evaluation, self._step):

            def one(inner: Evaluation, k: Array, terms: _Terms = terms) -> Array:
                value, place = fn(inner, terms.place(k), self._step is not None)
                counts = terms.counts(k)
                value = value if counts is True else jnp.where(counts, value, jnp.zeros_like(value))
                if all(index is None for index in place):
                    return value
                return lax.dynamic_update_slice(jnp.zeros(aval.shape, aval.dtype), value, beginning(place))

            found = self._evaluation.each(terms.size, one)
            total = total | found.any(0) if aval.dtype == bool else total + found.sum(0, dtype=aval.dtype)
        return total


def _reduced(eqn: Any, inner: Evaluation, place: Place, sure: bool) -> tuple[Array, Place]:
    value = bind(eqn, [inner.at(eqn.invars[0], place, sure)])[0]
    return value, tuple(index for d, index in enumerate(place) if d not in eqn.params["axes"])


def _contracted(eqn: Any, inner: Evaluation, place: Place, sure: bool) -> tuple[Array, Place]:
    alone = sure and sum(inner.found.followed(v) for v in eqn.invars) == 1
    values = [inner.at(v, where, alone) for v, where in zip(eqn.invars, dot_places(eqn, place))]
    return bind(eqn, values)[0], place[: eqn.outvars[0].aval.ndim]


class _Terms(NamedTuple):
    """Elements of an array that are evaluated together, one number after another.

    Attributes:
        size: how many.
        place: number -> where.
        counts: number -> whether it counts; the constant True if each does.
    """

    size: int
    place: Callable[[Array], Place]
    counts: Callable[[Array], Array | bool]


def _terms(labels: Labels, evaluation: Evaluation, step: Array | None) -> list[_Terms]:
    """Find the elements of a step, or of none."""
    steps, own = evaluation.found.steps, labels.ravel()
    here = np.flatnonzero((own >= 0) & (own < steps) if step is not None else own == CONSTANT)
    chosen = np.flatnonzero(own >= steps)
    found = []
    if len(here) and step is not None:
        found.append(_of_step(here[np.argsort(own[here], kind="stable")], labels, steps, step))
    elif len(here):
        found.append(_Terms(len(here), lambda k: _place(here, labels.shape, k), lambda k: True))
    if len(chosen):
        belongs = evaluation.steps_of(own[chosen])
        wanted = CONSTANT if step is None else step
        found.append(_Terms(len(chosen), lambda k: _place(chosen, labels.shape, k), lambda k: belongs[k] == wanted))
    return found


def _of_step(positions: np.ndarray, labels: Labels, steps: int, step: Array) -> _Terms:
    """Find the elements of a step among positions that are sorted by their steps."""
    own = labels.ravel()[positions]
    counts = np.bincount(own, minlength=steps)
    first, most = np.cumsum(counts) - counts, int(counts.max())

    def place(k: Array) -> Place:
        number = jnp.minimum(jnp.asarray(first.astype(np.int32))[step] + k, len(positions) - 1)
        return _place(positions, labels.shape, number, (own, step) if most == 1 else None)

    def belongs(k: Array) -> Array | bool:
        return True if (counts == most).all() else k < jnp.asarray(counts.astype(np.int32))[step]

    return _Terms(most, place, belongs)


def _place(positions: np.ndarray, shape: tuple[int, ...], number: Array, of_step: tuple | None = None) -> Place:
    """Return the place of one of some positions in an array, whole along axes of size one.

    Args:
        positions: in the flat array.
        shape: of the array.
        number: () integer.
        of_step: where there is one position a step, the steps of the positions, and the step.
    """
    indices = np.unravel_index(positions, shape) if shape else ()
    return tuple(None if n == 1 else _entry(i.astype(np.int32), number, of_step) for n, i in zip(shape, indices))


def _entry(indices: np.ndarray, number: Array, of_step: tuple | None) -> Index:
    """Return one of some indices, by arithmetic where it is that simple."""
    if (indices == indices[0]).all():
        return Index(int(indices[0]), indices)
    if of_step is not None:
        steps, step = of_step
        slope = (int(indices[1]) - int(indices[0])) // (int(steps[1]) - int(steps[0]))
        if (indices - indices[0] == slope * (steps - steps[0])).all():
            return Index(int(indices[0]) + slope * (step - int(steps[0])), indices)
    return Index(jnp.asarray(indices)[number], indices)
