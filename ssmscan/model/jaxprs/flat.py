"""A jaxpr without calls, and without loops that only read a followed variable.

A scan whose carry no followed variable reaches computes every step from what is known before it and from rows of the
followed variables, whichever it looks up.  Its carries are then constants, and its body is written once for all steps
at a time (`vmap`), so that what was a look-up by the loop's own time, `path[t]`, is a gather by an array of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend import core as jex
from jax.extend import source_info_util
from jax.interpreters import partial_eval as pe

from ssmscan.model.jaxprs.placeholders import zeros

CALLS = frozenset(
    "jit pjit closed_call core_call remat_call checkpoint remat2 custom_jvp_call custom_vjp_call "
    "custom_vjp_call_jaxpr".split()
)


def flat(jaxpr: Any, followed: Sequence[bool]) -> Any:
    """Write a jaxpr without calls and such loops; its inputs stay.

    Args:
        jaxpr: an open jaxpr without constants.
        followed: for each input, whether it is followed.

    Returns:
        An open jaxpr whose first inputs are constants that were held inside, and those constants.
    """

    def run(*values: Any) -> list:
        return _run(jaxpr, (), values, list(followed), None)[0]

    closed = jax.make_jaxpr(run)(*(v.aval for v in jaxpr.invars))
    kept, used = pe.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    assert all(used)
    return jex.ClosedJaxpr(kept, closed.consts)


def called(eqn: Any) -> tuple[Any, Sequence[Any]]:
    """Return the jaxpr of a call and its constants; rules of differentiation that belong to it are not kept."""
    inner = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params)
    return (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())


def held_and_carried(eqn: Any) -> tuple[int, int]:
    """Count the constants and the carries of a loop; JAX 0.12 keeps them as a tree of the arguments."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].update(list(eqn.invars)).unpack()
    return len(list(consts)), len(list(carry))


def reached(body: Any, held: int, carried: int, marked: Sequence[bool]) -> tuple[set[int], set[int]]:
    """Return the outputs of a body that marked inputs of other steps reach through the carry, and those of any step."""
    depends = []
    for j in range(len(body.outvars)):
        _, used = pe.dce_jaxpr(body, [i == j for i in range(len(body.outvars))], instantiate=False)
        depends.append({i for i, flag in enumerate(used) if flag})
    followed = {j for j, inputs in enumerate(depends) if any(marked[i] for i in inputs)}
    tainted = {j for j in followed if j < carried - held}
    while True:
        grown = tainted | {
            j for j, inputs in enumerate(depends) if any(i - held in tainted for i in inputs if i < carried)
        }
        if grown == tainted:
            return tainted, followed
        tainted = grown


def carries(eqn: Any, run: Callable, consts: list, init: list, xs: list) -> tuple[list, list, list]:
    """Run a loop for its carries: the last, those before every step, and its outputs."""

    def step(carry: list, x: list) -> tuple[list, tuple]:
        out = run(*consts, *carry, *x)
        return out[: len(init)], (carry, out[len(init) :])

    last, (before, ys) = lax.scan(step, init, xs, eqn.params["length"], eqn.params["reverse"])
    return last, before, ys


def _run(jaxpr: Any, consts: Sequence, args: Sequence, flags: list[bool], caller: Any) -> tuple[list, list[bool]]:
    """Evaluate a jaxpr, its calls and loops written out; values and whether they are followed."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args]))
    followed = {v for v, flag in zip(jaxpr.invars, flags) if flag}

    def read(variable: Any) -> tuple[Any, bool]:
        return (variable.val, False) if isinstance(variable, jex.Literal) else (values[variable], variable in followed)

    for eqn in jaxpr.eqns:
        pairs = [read(v) for v in eqn.invars]
        inputs, marks = [value for value, _ in pairs], [flag for _, flag in pairs]
        traceback = caller or eqn.source_info.traceback
        with source_info_util.user_context(traceback):
            if eqn.primitive.name in CALLS:
                results, out = _run(*called(eqn), inputs, marks, traceback)
            elif eqn.primitive.name == "scan" and any(marks):
                results, out = _loop(eqn, inputs, marks, traceback)
            else:
                results = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
                results = results if eqn.primitive.multiple_results else [results]
                out = [any(marks)] * len(results)
        values.update(zip(eqn.outvars, results))
        followed.update(v for v, flag in zip(eqn.outvars, out) if flag)
    pairs = [read(v) for v in jaxpr.outvars]
    return [value for value, _ in pairs], [flag for _, flag in pairs]


def _loop(eqn: Any, inputs: list, marks: list[bool], caller: Any) -> tuple[list, list[bool]]:
    """Write the steps of a loop side by side; what a followed variable reaches through the carry stays a loop."""
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    held, count = held_and_carried(eqn)
    carried = held + count
    tainted, followed = reached(body.jaxpr, held, carried, marks)
    if not length or any(marks[held:carried]):
        tainted = set(range(len(eqn.outvars)))
    whole = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    if len(tainted) == len(eqn.outvars):
        return whole, [True] * len(whole)
    known = [zeros(jax.typeof(a)) if m else a for a, m in zip(inputs, marks)]
    run = jex.jaxpr_as_fun(body)
    last, before, ys = carries(eqn, run, known[:held], known[held:carried], known[carried:])

    def step(carry: list, x: list) -> list:
        args = [*inputs[:held], *carry, *x]
        return _run(body.jaxpr, body.consts, args, marks, caller)[0][count:]

    side = jax.vmap(step, axis_size=length)(before, inputs[carried:])
    results = [
        whole[j] if j in tainted else last[j] if j < count else side[j - count] if j in followed else ys[j - count]
        for j in range(len(whole))
    ]
    return results, [j in tainted or j in followed for j in range(len(whole))]
