"""Loops that read an array at the number of their step, made to read it as an input.

People write both of

    scan(lambda x, e: f(x, e), x0, eps)          scan(lambda x, t: f(x, eps[t]), x0, arange(T))

In the second, `eps` is a constant of the loop that every step may read.  Where all that the body does with it is to
take one row, and the number of that row is known to be t + c, from constants alone, the rows are inputs.  The numbers
may come from inputs or from a counter in the carry, whose values are computed here, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex
from jax.interpreters import partial_eval as pe

from ssmscan.model.jaxprs.dataflow import Staged, evaluate, with_outputs
from ssmscan.model.jaxprs.flat import held_and_carried
from ssmscan.model.jaxprs.placeholders import zeros

Reads = dict[int, list[tuple[int, int, int]]]
"""By constant of a loop, its reads: number of the equation in the body, axis, and first row."""


def in_turn(staged: Staged, table: list, data: int) -> Staged:
    """Return the same function, its loops reading rows as inputs where they can.

    Args:
        staged: the function.
        table: its shared arrays, of which the first may change; constants are appended.
        data: how many of them do.
    """
    known = {v: np.asarray(table[i]) for v, i in zip(staged.jaxpr.invars, staged.shared) if i >= data and _small(v)}
    found: dict[int, Reads] = {}
    for eqn in staged.jaxpr.eqns:
        if eqn.primitive.name == "scan":
            if reads := _reads(eqn, known):
                found[id(eqn)] = reads
        elif all(isinstance(v, jex.Literal) or v in known for v in eqn.invars) and all(map(_small, eqn.outvars)):
            with jax.ensure_compile_time_eval():
                values = {v: known[v] for v in eqn.invars if not isinstance(v, jex.Literal)}
                evaluate([eqn], values)
                known |= {v: np.asarray(values[v]) for v in eqn.outvars}
    if not found:
        return staged

    def rewrite(eqn: Any, read: Any) -> Any:
        return _with_inputs(eqn, [read(v) for v in eqn.invars], found[id(eqn)]) if id(eqn) in found else None

    def run(*inputs: Any) -> list[Any]:
        env = dict(zip(staged.jaxpr.invars, inputs))
        evaluate(staged.jaxpr.eqns, env, rewrite=rewrite)
        return [v.val if isinstance(v, jex.Literal) else env[v] for v in staged.jaxpr.outvars]

    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in staged.jaxpr.invars]
    closed = jax.make_jaxpr(run)(*shapes)
    jaxpr = closed.jaxpr.replace(constvars=[], invars=[*closed.jaxpr.constvars, *closed.jaxpr.invars])
    table += closed.consts
    lifted = range(len(table) - len(closed.consts), len(table))
    return Staged(jaxpr, (*lifted, *staged.shared), staged.in_trees, staged.out_tree, staged.late)


def _small(variable: Any) -> bool:
    """Return whether the values of a variable are worth knowing: integers or truth values, not too many."""
    aval = variable.aval
    whole = jnp.issubdtype(aval.dtype, jnp.integer) or aval.dtype == jnp.bool_
    return whole and not isinstance(variable, jex.Literal) and aval.size <= 1_000_000


def _reads(eqn: Any, known: Mapping[Any, np.ndarray]) -> Reads:
    """Find the constants of a loop of which each step reads one row in turn."""
    body, (held, _) = eqn.params["jaxpr"].jaxpr, held_and_carried(eqn)
    reads: Reads = {}
    for k, variable in enumerate(body.invars[:held]):
        uses = [(n, e) for n, e in enumerate(body.eqns) if any(v is variable for v in e.invars)]
        if not uses or variable in body.outvars or eqn.params["reverse"]:
            continue
        places = [_row(e, variable) for _, e in uses]
        rows = []
        for (n, e), axis in zip(uses, places):
            numbers = None if axis is None else _numbers(eqn, e.invars[1 + axis], known)
            if axis is None or numbers is None or not np.array_equal(numbers, numbers[0] + np.arange(len(numbers))):
                break
            if not 0 <= numbers[0] <= variable.aval.shape[axis] - len(numbers):
                break
            rows.append((n, axis, int(numbers[0])))
        else:
            reads[k] = rows
    return reads


def _row(eqn: Any, variable: Any) -> int | None:
    """Return the axis along which an equation takes one row of a variable, all of it along others; None for others."""
    if eqn.primitive.name != "dynamic_slice" or eqn.invars[0] is not variable:
        return None
    sizes, shape = eqn.params["slice_sizes"], variable.aval.shape
    cut = [k for k, (size, n) in enumerate(zip(sizes, shape)) if size != n]
    return cut[0] if len(cut) == 1 and sizes[cut[0]] == 1 else None


def _numbers(eqn: Any, variable: Any, known: Mapping[Any, np.ndarray]) -> np.ndarray | None:
    """Return what an integer variable of the body of a loop is at each step, None where that is not known."""
    body, (held, count) = eqn.params["jaxpr"], held_and_carried(eqn)
    jaxpr = body.jaxpr
    if isinstance(variable, jex.Literal) or variable in jaxpr.invars[:held]:
        return None

    def needed(wanted: list[Any]) -> set[int]:
        used = pe.dce_jaxpr(with_outputs(jaxpr, wanted), [True] * len(wanted), instantiate=False)[1]
        return {i for i, flag in enumerate(used) if flag}

    def values(v: Any) -> np.ndarray | None:
        return np.asarray(v.val) if isinstance(v, jex.Literal) else known.get(v)

    inputs = needed([variable])
    while grown := needed([jaxpr.outvars[i - held] for i in inputs if held <= i < held + count]) - inputs:
        inputs |= grown
    arguments = [values(v) if i in inputs else zeros(v.aval) for i, v in enumerate(eqn.invars)]
    if any(a is None for a in arguments):
        return None
    run = jex.jaxpr_as_fun(jex.ClosedJaxpr(with_outputs(jaxpr, [*jaxpr.outvars[:count], variable]), body.consts))

    def step(carry: list, x: list) -> tuple[list, Any]:
        out = run(*arguments[:held], *carry, *x)
        return out[:count], out[count]

    with jax.ensure_compile_time_eval():
        init = [jnp.asarray(a) for a in arguments[held : held + count]]
        xs = [jnp.asarray(a) for a in arguments[held + count :]]
        return np.asarray(lax.scan(step, init, xs, eqn.params["length"])[1])


def _with_inputs(eqn: Any, values: list[Any], reads: Reads) -> list[Any]:
    """Evaluate a loop with rows of some constants as inputs."""
    closed, (held, count) = eqn.params["jaxpr"], held_and_carried(eqn)
    jaxpr, length = closed.jaxpr, eqn.params["length"]
    places = [(k, *read) for k, rows in reads.items() for read in rows]
    rows = [
        jnp.moveaxis(lax.slice_in_dim(values[k], first, first + length, axis=axis), axis, 0)
        for k, _, axis, first in places
    ]
    numbers = {id(jaxpr.eqns[n]): (j, axis) for j, (_, n, axis, _) in enumerate(places)}

    def step(carry: list, x: tuple[list, list]) -> tuple[list, list]:
        xs, here = x
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *values[:held], *carry, *xs]))

        def row(inner: Any, _: Any) -> Any:
            found = numbers.get(id(inner))
            return None if found is None else jnp.expand_dims(here[found[0]], found[1])

        evaluate(jaxpr.eqns, env, rewrite=row)
        out = [v.val if isinstance(v, jex.Literal) else env[v] for v in jaxpr.outvars]
        return out[:count], out[count:]

    inputs = values[held + count :], rows
    last, ys = lax.scan(step, values[held : held + count], inputs, length)
    return [*last, *ys]
