r"""Which step each element of an array depends on.

Code after the loop makes arrays of the outputs y_1, ..., y_T of the steps.  Every element of such an array has a label:

    t >= 0     it depends on the output of step t, and of no other
    CONSTANT   it depends on none
    SUM        it is a sum of terms that each have one of the labels above
    FACTORS    it is a product of such terms, the logarithm of which is a SUM
    MIXED      outputs of different steps have met in another way, or might have

Moving elements moves their labels, joining them joins labels, and a sum of elements is a SUM: abstract interpretation
(Cousot & Cousot 1977) with one label an element.  The axes along which labels do not differ have size one, so that what
is stored grows with the number of steps and not of elements.

Rows that are looked up by an index that only data know, `path[idx]`, have labels T, T + 1, ... of their own, one for
each place in the index.  A `Lookup` gives the steps that they stand for when data are there.  The same index used twice
has the same labels; of two indices nothing is known, and their rows mix.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core as jex

from ssmscan.model.jaxprs.source_lines import Mixing, blame

CONSTANT, SUM, FACTORS, MIXED = -1, -2, -3, -4

Labels = np.ndarray
"""Integers with as many axes as the variable, of its size or of size one."""


class Lookup(NamedTuple):
    """Labels of rows that data choose.

    Attributes:
        first: the first of the labels.
        size: their number.
        steps: (value of a constant variable, steps of labels) -> (size,) steps, CONSTANT for none.
    """

    first: int
    size: int
    steps: Callable[[Callable, Callable], Array]


class Labelled:
    """A flat jaxpr and the labels of all its variables that are not constant.

    Attributes:
        jaxpr: the jaxpr.
        steps: T, the number of steps.
        labels: by variable; those of a constant are not kept.
        lookups: rows that data choose.
        producers: the equation that writes a variable.
    """

    def __init__(
        self,
        jaxpr: Any,
        steps: int,
        followed: Mapping[Any, Labels],
        known: Mapping[Any, np.ndarray],
        rules: Mapping,
        kinds: Mapping[int, Collection[str]],
        mixed: Mapping[Any, Mixing],
    ):
        """Label a jaxpr.

        Args:
            jaxpr: without calls, see `flat`.
            steps: T.
            followed: labels of the inputs that are not constant.
            known: values of the constants that data and parameters do not decide.
            rules: see `label_rules`.
            kinds: the primitives whose results may be SUM, or FACTORS.
            mixed: inputs to which no step can be given, and what to say of them.
        """
        self.jaxpr, self.steps = jaxpr, steps
        unknown = {v: np.full((1,) * v.aval.ndim, MIXED, np.int32) for v in mixed}
        self.labels: dict[Any, Labels] = {**followed, **unknown}
        self.lookups: list[Lookup] = []
        self.producers = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
        self._inputs = {v: k for k, v in enumerate([*jaxpr.invars, *jaxpr.constvars])}
        self._known: dict[Any, np.ndarray | None] = dict(known)
        self._numbers: dict[Any, int] = {}
        self._expressions: dict[tuple, int] = {}
        self._lookups: dict[tuple, Lookup] = {}
        self._blamed: dict[Any, Mixing] = dict(mixed)
        for eqn in jaxpr.eqns:
            if any(self.followed(v) for v in eqn.invars):
                found = rules.get(eqn.primitive.name, _unknown)(eqn, [self.of(v) for v in eqn.invars], self)
                for variable, labels in zip(eqn.outvars, found):
                    for kind, names in kinds.items():
                        labels = labels if eqn.primitive.name in names else np.where(labels == kind, MIXED, labels)
                    self.labels[variable] = labels = minimal(labels)
                    if (labels <= SUM).any():
                        self._blamed[variable] = self._origin(eqn)

    def followed(self, variable: Any) -> bool:
        """Return whether a followed variable reaches this one."""
        return not isinstance(variable, jex.Literal) and variable in self.labels

    def of(self, variable: Any) -> Labels:
        """Return the labels of a variable."""
        if self.followed(variable):
            return self.labels[variable]
        return np.full((1,) * variable.aval.ndim, CONSTANT, np.int32)

    def blamed(self, variable: Any) -> Mixing:
        """Return what made a SUM or a mixture of a variable."""
        return self._blamed[variable]

    def _origin(self, eqn: Any) -> Mixing:
        earlier = [v for v in eqn.invars if not isinstance(v, jex.Literal) and v in self._blamed]
        worst = [v for v in earlier if (self.labels[v] == MIXED).any()]
        return self._blamed[(worst or earlier)[0]] if earlier else blame(eqn)

    # ---- constants --------------------------------------------------------------------------------

    def known(self, variable: Any) -> np.ndarray | None:
        """Return the value of a constant that data and parameters do not decide, None if they do."""
        if isinstance(variable, jex.Literal):
            return _literal(variable)
        if variable not in self._known:
            self._known[variable] = self._compute(variable)
        return self._known[variable]

    def _compute(self, variable: Any) -> np.ndarray | None:
        eqn = self.producers.get(variable)
        if eqn is None or self.followed(variable) or eqn.effects or any(True for _ in jex.jaxprs_in_params(eqn.params)):
            return None
        if any(v.aval.dtype.kind not in "biuf" for v in eqn.outvars):
            return None
        values = [self.known(v) for v in eqn.invars]
        if any(value is None for value in values):
            return None
        with jax.ensure_compile_time_eval():
            results = eqn.primitive.bind(*map(jnp.asarray, values), **eqn.primitive.get_bind_params(eqn.params))
        results = results if eqn.primitive.multiple_results else [results]
        return np.asarray(results[eqn.outvars.index(variable)])

    def number(self, variable: Any) -> int:
        """Return a number that variables share which are computed alike."""
        if isinstance(variable, jex.Literal):
            value = _literal(variable)
            return self._expression("literal", value.dtype.str, value.tobytes())
        if variable not in self._numbers:
            eqn = self.producers.get(variable)
            if eqn is None:
                made = self._expression("input", self._inputs[variable])
            else:
                inputs = tuple(map(self.number, eqn.invars))
                made = self._expression(eqn.primitive.name, str(eqn.params), inputs, eqn.outvars.index(variable))
            self._numbers[variable] = made
        return self._numbers[variable]

    def _expression(self, *key: Any) -> int:
        return self._expressions.setdefault(key, len(self._expressions))

    # ---- rows that data choose --------------------------------------------------------------------

    def lookup(self, key: tuple, size: int, steps: Callable[[Callable, Callable], Array]) -> np.ndarray:
        """Return the labels of rows that data choose, the same for the same key."""
        if key not in self._lookups:
            first = self.lookups[-1].first + self.lookups[-1].size if self.lookups else self.steps
            self._lookups[key] = Lookup(first, size, steps)
            self.lookups.append(self._lookups[key])
        first = self._lookups[key].first
        return np.arange(first, first + size, dtype=np.int32)


def _literal(variable: Any) -> np.ndarray:
    """Return the value of a literal in the dtype that it has in the jaxpr; JAX 0.12 keeps Python's numbers."""
    return np.asarray(variable.val, variable.aval.dtype)


# ---- joining labels -------------------------------------------------------------------------------


def minimal(labels: Labels) -> Labels:
    """Reduce the axes along which labels do not differ to size one."""
    if not labels.size:
        return np.full((1,) * labels.ndim, CONSTANT, np.int32)
    for axis, size in enumerate(labels.shape):
        if size > 1:
            first = labels.take([0], axis)
            labels = first if (labels == first).all() else labels
    return labels


def constant(labels: Labels) -> bool:
    """Return whether no element depends on a step."""
    return bool((labels == CONSTANT).all())


def join(*labels: Labels) -> Labels:
    """Join elements by any function of them: a SUM is MIXED from there."""
    return _meet([nonlinear(own) for own in labels], MIXED)


def nonlinear(labels: Labels) -> Labels:
    """Return the labels of a function of each element."""
    return np.where(labels <= SUM, np.int32(MIXED), labels)


def add(*labels: Labels) -> Labels:
    """Join elements by addition."""
    return _meet([np.where(own < SUM, np.int32(MIXED), own) for own in labels], SUM)


def multiply(*labels: Labels) -> Labels:
    """Join elements by multiplication."""
    return _meet([np.where(own == SUM, np.int32(MIXED), own) for own in labels], FACTORS)


def _meet(labels: list[Labels], several: int) -> Labels:
    """Join elements; those of different steps are one of `several`."""
    joined = labels[0]
    for other in labels[1:]:
        apart = np.where((joined == MIXED) | (other == MIXED), np.int32(MIXED), np.int32(several))
        same = np.where(joined == other, joined, apart)
        joined = np.where(joined == CONSTANT, other, np.where(other == CONSTANT, joined, same))
    return joined


def fiber(labels: Labels, axes: tuple[int, ...], several: int = MIXED) -> Labels:
    """Join the elements along some axes, which are kept at size one; those of different steps are one of `several`."""
    labels = np.where((labels <= SUM) & (labels != several), np.int32(MIXED), labels)
    if not axes:
        return labels
    least = np.where(labels == CONSTANT, np.iinfo(np.int32).max, labels).min(axes, keepdims=True)
    most, worst = labels.max(axes, keepdims=True), labels.min(axes, keepdims=True)
    joined = np.where(worst == MIXED, np.int32(MIXED), np.int32(several))
    none, one = (most == CONSTANT) & (worst == CONSTANT), (least == most) & (least >= 0)
    return np.where(none, np.int32(CONSTANT), np.where(one, most, joined)).astype(np.int32)


def only(*labels: Labels) -> int | None:
    """Return the one label that all elements have beside constants; None if there are several, or sums."""
    found = {int(value) for own in labels for value in np.unique(own)} - {CONSTANT}
    if len(found) > 1 or (found and min(found) < 0):
        return None
    return found.pop() if found else CONSTANT


def _unknown(eqn: Any, labels: list[Labels], found: Labelled) -> list[Labels]:
    """Label the results of a primitive of which nothing is known but that it is a function of its operands."""
    label = only(*labels)
    made = MIXED if label is None else label
    return [np.full((1,) * v.aval.ndim, made, np.int32) for v in eqn.outvars]
