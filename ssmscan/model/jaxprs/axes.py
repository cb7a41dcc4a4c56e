"""Follow one axis through a jaxpr and evaluate a window of its rows.

Observations after the loop are written on whole arrays, `Normal(path, r)` with data `y`, but weigh
particles step by step.  This interpreter evaluates such code for the rows of one step at a cost that
does not depend on T.  Each variable is one of

    constant    no followed variable reaches it; evaluated whole, cut where rows meet it
    followed    it has the axis, and its row r depends on row r of what it was made from
    a sum       over the axis: its windows add up to the whole, and it is used linearly from there
    mixing      different rows have met, or might have; nothing can be made of it

The log-density of an observation that is pointwise in time is a sum, and its windows are the
increments of the steps.  With the elements of a panel as the axis, the same evaluation gives the
model of one element.  An unknown primitive mixes.

The scheme is abstract interpretation with one bit per axis (Cousot & Cousot 1977), run together
with the evaluation; `tracked_axis` has the rows, `axis_rules` and `axis_algebra` the primitives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jax.extend import source_info_util

from ssmscan.model.jaxprs import axis_algebra, axis_rules
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.flat import CALLS, called, carries, held_and_carried, reached
from ssmscan.model.jaxprs.source_lines import FOREIGN, Mixing, blame
from ssmscan.model.jaxprs.tracked_axis import Axis, MixesRows, Sum, Tracked, Window, bind

_RULES = {
    **axis_rules.RULES,
    "dot_general": axis_algebra.dot,
    "gather": axis_algebra.gather,
    "cholesky": axis_algebra.matrices,
    "triangular_solve": axis_algebra.triangular_solve,
}
_LINEAR = frozenset(
    "neg convert_element_type copy copy_p reshape broadcast_in_dim squeeze transpose reduce_sum slice".split()
)


def follow(jaxpr: Any, args: Sequence[Tracked], window: Window, consts: Sequence[Any] = ()) -> list[Tracked]:
    """Evaluate a jaxpr in a window.

    Args:
        jaxpr: an open jaxpr, staged for whole arrays.
        args: its inputs: constants whole, followed variables in the window.
        window: the rows.
        consts: values of its constant variables.

    Returns:
        Its outputs; those with the mark `Mixing` say which equation is to blame.
    """
    env = dict(zip(jaxpr.constvars, map(Tracked, consts))) | dict(zip(jaxpr.invars, args))

    def read(variable: Any) -> Tracked:
        return Tracked(variable.val) if isinstance(variable, jex.Literal) else env[variable]

    for eqn in jaxpr.eqns:
        with source_info_util.user_context(eqn.source_info.traceback):
            env.update(zip(eqn.outvars, follow_equation(eqn, [read(v) for v in eqn.invars], window)))
    return [read(v) for v in jaxpr.outvars]


def follow_staged(staged: Staged, arrays: Sequence[Any], arguments: Mapping[str, Any], window: Window) -> Any:
    """Evaluate a staged function in a window.

    Args:
        staged: the function, staged for whole arrays.
        arrays: its shared arrays, whole.
        arguments: trees of `Tracked` by name; one that the results do not depend on need not be given.
        window: the rows.

    Returns:
        Its result, with `Tracked` leaves.
    """
    inputs = tracked_inputs(staged, arrays, arguments)
    return jax.tree.unflatten(staged.out_tree, follow(staged.jaxpr, inputs, window))


def tracked_inputs(staged: Staged, arrays: Sequence[Any], arguments: Mapping[str, Any]) -> list[Tracked]:
    """Return the inputs of the jaxpr of a staged function; arguments as in `follow_staged`."""
    tracked = [Tracked(arrays[i]) for i in staged.shared]
    for name, tree in staged.in_trees.items():
        absent = [Tracked(None, Mixing("what is not given"))] * tree.num_leaves
        tracked += jax.tree.leaves(arguments[name], is_leaf=is_tracked) if name in arguments else absent
    return tracked


def is_tracked(leaf: Any) -> bool:
    """Return whether this is a tracked variable, and not a tree of them."""
    return isinstance(leaf, Tracked)


def constants(tree: Any) -> Any:
    """Mark every leaf of a tree as constant."""
    return jax.tree.map(Tracked, tree)


def follow_equation(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Evaluate one equation in a window."""
    if all(a.mark is None for a in args):
        return [Tracked(value) for value in bind(eqn, [a.value for a in args])]
    name = eqn.primitive.name
    if name in CALLS:
        return _call(eqn, args, window)
    mixed = [a.mark for a in args if isinstance(a.mark, Mixing) and a.mark != FOREIGN]
    if mixed:
        return [Tracked(None, mixed[0])] * len(eqn.outvars)
    if any(a.mark == FOREIGN for a in args):
        if all(a.mark in (None, FOREIGN) for a in args):
            return [Tracked(None, FOREIGN)] * len(eqn.outvars)
        if name != "concatenate":
            return [Tracked(None, blame(eqn))] * len(eqn.outvars)
    try:
        if any(isinstance(a.mark, Sum) for a in args):
            return _linear(eqn, args, window)
        if name == "scan":
            return _later_loop(eqn, args, window)
        if name not in _RULES:
            raise MixesRows
        return _RULES[name](eqn, args, window)
    except MixesRows as found:
        return [Tracked(None, found.origin or blame(eqn))] * len(eqn.outvars)


def _call(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Go into a call; rules of differentiation that belong to it are not kept."""
    jaxpr, consts = called(eqn)
    return follow(jaxpr, args, window, consts)


def _linear(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Use a sum: linearly, constants counted once.

    Raises:
        MixesRows: another use, for which the origin of the sum is to blame.
    """
    name = eqn.primitive.name
    sums = [a.mark for a in args if isinstance(a.mark, Sum)]
    others = [a.mark for a in args if not isinstance(a.mark, Sum)]
    constant = all(mark is None for mark in others)
    if any(isinstance(mark, Axis) and mark.axis is not None for mark in others) or not axis_rules.keeps_sums(eqn):
        raise MixesRows(sums[0].origin)
    if name in ("add", "sub", "add_any", "concatenate"):
        values = [window.contribution(a) for a in args]
    elif name == "select_n" and args[0].mark is None:
        values = [args[0].value, *(window.contribution(a) for a in args[1:])]
    elif constant and (
        (name in ("mul", "dot_general") and len(sums) == 1)
        or (name == "div" and args[1].mark is None)
        or (name in _LINEAR and len(args) == 1)
    ):
        values = [a.value for a in args]
    else:
        raise MixesRows(sums[0].origin)
    return [Tracked(value, sums[0]) for value in bind(eqn, values)]


def _later_loop(eqn: Any, args: list[Tracked], window: Window) -> list[Tracked]:
    """Evaluate one step of a loop over the followed axis that only observes it.

    The carry may not depend on the followed variables; its values before every step are constants.

    Raises:
        MixesRows: a followed variable enters as a constant of the loop or along another axis.
    """
    p, body = eqn.params, eqn.params["jaxpr"]
    held, count = held_and_carried(eqn)
    carried = held + count
    axis, length = axis_rules.common(args), p["length"]
    if any(a.mark is not None for a in args[:carried]) or axis != Axis(0, length, axis.shift):
        raise MixesRows
    tainted, followed = reached(body.jaxpr, held, carried, [a.mark is not None for a in args])
    consts, init = [a.value for a in args[:held]], [a.value for a in args[held:carried]]
    xs = [a.value if a.mark is None else _absent(v.aval) for a, v in zip(args[carried:], eqn.invars[carried:])]
    run = jex.jaxpr_as_fun(body)

    last, before, constant = carries(eqn, run, consts, init, xs)

    def rows(a: Any) -> Any:
        return window.rows(a, axis)

    inputs = [a.value if a.mark is not None else rows(x) for a, x in zip(args[carried:], xs)]
    size, ys = window.size(axis), []
    if size:
        ys = jax.vmap(lambda c, x: run(*consts, *c, *x)[count:], axis_size=size)([rows(c) for c in before], inputs)
    mixing = blame(eqn)
    results = [Tracked(None, mixing) if j in tainted else Tracked(value) for j, value in enumerate(last)]
    for j, value in enumerate(constant, count):
        if j in tainted:
            results.append(Tracked(None, mixing))
        elif j in followed:
            results.append(Tracked(ys[j - count] if size else value[:0], axis))
        else:
            results.append(Tracked(value))
    return results


def _absent(aval: Any) -> Any:
    """Stand in for rows that what is wanted does not depend on."""
    return jnp.zeros(aval.shape, aval.dtype)
