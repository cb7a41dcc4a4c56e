"""Refuse a model that is not a function of its arguments.

A trace runs the model once for each function that engines need, and each run keeps what it meets as constants.  A
model that draws with `numpy.random`, counts its calls or reads a clock would be another model in each.  After all
else the densities of all sites are therefore traced again, and must be the same program: the same equations, numbers
and arrays.  It is done twice in succession, so that what alternates is seen however many runs lie between.
What no density, value or carry depends on does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.dataflow import Staged, write
from ssmscan.model.jaxprs.source_lines import user_line
from ssmscan.model.staging.functions import by_value
from ssmscan.model.staging.user_model import NOT_REPEATABLE, UserModel


def refuse_changing(user_model: UserModel, value: Staged) -> None:
    """Stage the densities again and compare.

    Args:
        user_model: the model.
        value: `functions.by_value` of it, as it came out before.

    Raises:
        ModelError: they differ; the message names a site, the line, and numbers where they are what differs.
    """
    written, value.written = value.written, None
    again = (by_value(user_model, stage=partial(write, data=user_model.table[: user_model.data])) for _ in range(2))
    if _all_same(written, *again):
        return
    # What differs may reach nothing.  Constants of the second run are not those of the program.
    user_model = user_model._replace(table=list(user_model.table))
    again = next(
        (a for a in (by_value(user_model), by_value(user_model)) if not _same(value, a, user_model.table)), None
    )
    if again is None:
        return
    where = next((what for what, a, b in _leaves(value, again) if not _same(a, b, user_model.table)), "the loop")
    difference = _difference(value, again, user_model.table)
    raise ModelError(
        f"the model is not a function of its arguments: run again, it has {difference}, which reaches "
        f"{where}. {NOT_REPEATABLE}"
    )


def _all_same(first: Any, *others: Any) -> bool:
    """Return whether closed jaxprs are the same."""
    return all(_alike(first.jaxpr, other.jaxpr) and _equal_all(first.consts, other.consts) for other in others)


def _same(one: Staged, two: Staged, table: Sequence[Any]) -> bool:
    """Return whether two staged functions are the same."""
    if not _alike(one.jaxpr, two.jaxpr) or (one.in_trees, one.out_tree) != (two.in_trees, two.out_tree):
        return False
    return _equal_all([table[i] for i in one.shared], [table[i] for i in two.shared])


def _alike(one: Any, two: Any) -> bool:
    """Return whether jaxprs are the same but for the names of their variables.

    JAX keeps the jaxprs of functions under `jit`, so that most inner ones are the same object.
    """
    if one is two:
        return True
    if len(one.eqns) != len(two.eqns) or len(one.outvars) != len(two.outvars):
        return False
    twin: dict[Any, Any] = {}

    def written(a: Sequence[Any], b: Sequence[Any]) -> bool:
        twin.update(zip(a, b))
        return len(a) == len(b) and all(v.aval == w.aval for v, w in zip(a, b))

    def read(a: Sequence[Any], b: Sequence[Any]) -> bool:
        return len(a) == len(b) and all(map(same, a, b))

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, jex.Literal) or isinstance(b, jex.Literal):
            return type(a) is type(b) and a.aval == b.aval and _equal(a.val, b.val)
        return twin[a] is b

    return (
        written([*one.constvars, *one.invars], [*two.constvars, *two.invars])
        and all(
            a.primitive is b.primitive
            and read(a.invars, b.invars)
            and a.params.keys() == b.params.keys()
            and all(_alike_params(value, b.params[name]) for name, value in a.params.items())
            and written(a.outvars, b.outvars)
            for a, b in zip(one.eqns, two.eqns)
        )
        and read(one.outvars, two.outvars)
    )


def _alike_params(a: Any, b: Any) -> bool:
    """Return whether parameters of an equation are the same; functions are if they are printed alike."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if hasattr(a, "eqns"):
        return _alike(a, b)
    if hasattr(a, "jaxpr") and hasattr(a, "consts"):
        return _alike(a.jaxpr, b.jaxpr) and _equal_all(a.consts, b.consts)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_alike_params, a, b))
    if isinstance(a, np.ndarray | jax.Array):
        return _equal(a, b)
    return bool(a == b) or _ADDRESS.sub("", repr(a)) == _ADDRESS.sub("", repr(b))


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def _equal_all(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(_equal, a, b))


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        return False
    if jax.dtypes.issubdtype(jax.dtypes.result_type(a), jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


def _numbers(jaxpr: Any) -> Iterator[Any]:
    """Yield every number and array that stands in a jaxpr, inner ones included."""
    yield from (v.val for v in jaxpr.outvars if isinstance(v, jex.Literal))
    for eqn in jaxpr.eqns:
        yield from (v.val for v in eqn.invars if isinstance(v, jex.Literal))
        for param in eqn.params.values():
            for closed in param if isinstance(param, tuple | list) else (param,):
                if hasattr(closed, "jaxpr") and hasattr(closed, "consts"):
                    yield from closed.consts
        for inner in jex.jaxprs_in_params(eqn.params):
            yield from _numbers(inner)


def _leaves(one: Staged, two: Staged) -> Iterator[tuple[str, Staged, Staged]]:
    """Yield what each density, value or leaf of the carry is, and how each run computes it."""
    words = {"log_prob": "the density of '{}'", "outside_log_prob": "the density of '{}'"}
    words |= {"deterministic": "the value of '{}'", "outside_deterministic": "the value of '{}'"}
    for entry, word in words.items():
        for name in one.names(entry):
            if name in two.names(entry):
                yield word.format(name), one.select(**{entry: [name]}), two.select(**{entry: [name]})
    for entry, word in (("start", "the initial carry"), ("xs", "the inputs"), ("carry", "the carry")):
        yield word, one.select(entry), two.select(entry)


def _difference(one: Staged, two: Staged, table: Sequence[Any]) -> str:
    """Describe the first number that differs and its line, or the line of the first equation that does."""
    for a, b in zip(one.jaxpr.outvars, two.jaxpr.outvars):
        if isinstance(a, jex.Literal) and isinstance(b, jex.Literal) and not _equal(a.val, b.val):
            return f"the number {_shown(b.val)} in the place of {_shown(a.val)}"
    for before, now in zip(one.jaxpr.eqns, two.jaxpr.eqns):
        line = user_line(now.source_info)
        where = f" ({line})" if line else ""
        for a, b in zip(_numbers(_Alone(before)), _numbers(_Alone(now))):
            if not _equal(a, b):
                return f"the number {_shown(b)} in the place of {_shown(a)}{where}"
        if before.primitive.name != now.primitive.name:
            return f"the operation {now.primitive.name} in the place of {before.primitive.name}{where}"
    for i, j in zip(one.shared, two.shared):
        if not _equal(table[i], table[j]):
            return f"other values in a constant array of shape {list(np.shape(table[j]))}"
    return "other operations"


class _Alone:
    """An equation as a jaxpr of its own."""

    def __init__(self, eqn: Any):
        self.eqns, self.outvars = [eqn], ()


def _shown(value: Any) -> str:
    return f"{np.asarray(value):.9g}" if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub" else "an array"
