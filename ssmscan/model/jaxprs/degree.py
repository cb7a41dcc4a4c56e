"""The degree of what a jaxpr computes, as a polynomial in some of its inputs.

For each variable, all its elements together, one of

    0        no followed input reaches it
    1        affine in them
    2        quadratic
    3        more: another function, or one about which nothing is known

The rules are those of polynomials: a sum has the largest degree of its terms, a product the sum of those of its
factors, a quotient that of its numerator where the denominator has degree 0.  Any other primitive keeps 0 at 0 and
makes 3 of the rest; so does what has another derivative than its value (`stop_gradient`, `custom_jvp`), for the
expansions of a Gaussian approximation see derivatives.  The degree is an upper bound: cancellation and factors of zero
are not seen.  Comparisons that hold for every finite number, by which log-densities guard themselves, have degree 0.

This is abstract interpretation over a chain of four values (Cousot & Cousot 1977); loops are followed to the fixpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex

from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.flat import called, held_and_carried
from ssmscan.model.jaxprs.source_lines import Mixing, blame

PyTree = Any
MORE = 3
_UNKNOWN = 99
_CALLS = frozenset("jit pjit closed_call core_call remat_call checkpoint remat2".split())
_SUMS = frozenset(
    "add add_any sub neg copy copy_p broadcast_in_dim reshape squeeze expand_dims transpose rev slice concatenate pad "
    "reduce_sum reduce_window_sum cumsum split stack unstack tile device_put".split()
)
"""Linear in all their operands together."""
_PRODUCTS = frozenset(("mul", "dot_general", "conv_general_dilated"))
_INDEXED = {
    "dynamic_slice": (0,),
    "dynamic_update_slice": (0, 1),
    "gather": (0,),
    **dict.fromkeys("scatter scatter-add scatter_add scatter-sub scatter_sub".split(), (0, 2)),
}
"""Linear in these operands; the others say where."""


class Degree(NamedTuple):
    """The degree of a variable.

    Attributes:
        order: 0, 1, 2, or 3 for more.
        blamed: the first equation that made it more than affine, and the calls that it stands in, innermost first;
            empty where it is affine.
    """

    order: int
    blamed: tuple = ()

    @property
    def origin(self) -> Mixing:
        """The primitive to blame, and the user's line where one is known."""
        first, *calls = map(blame, self.blamed)
        return first._replace(line=next((found.line for found in (first, *calls) if found.line), ""))


CONSTANT, AFFINE = Degree(0), Degree(1)


def degrees(jaxpr: Any, inputs: Sequence[Degree]) -> list[Degree]:
    """Return the degrees of the outputs of an open jaxpr at those of its inputs."""
    known = dict(zip(jaxpr.invars, inputs))

    def read(variable: Any) -> Degree:
        return CONSTANT if isinstance(variable, jex.Literal) else known.get(variable, CONSTANT)

    for eqn in jaxpr.eqns:
        given = [read(v) for v in eqn.invars]
        if any(degree.order for degree in given):
            known.update(zip(eqn.outvars, _equation(eqn, given)))
    return [read(v) for v in jaxpr.outvars]


def degrees_staged(staged: Staged, **arguments: PyTree) -> PyTree:
    """Return the degrees of the results of a staged function.

    Args:
        staged: the function.
        arguments: degrees of the leaves of arguments, by name; the others and the shared arrays have degree 0.

    Returns:
        Its result, with a `Degree` for every leaf.
    """
    inputs = [CONSTANT] * len(staged.shared)
    for name, tree in staged.in_trees.items():
        inputs += degree_leaves(arguments[name]) if name in arguments else [CONSTANT] * tree.num_leaves
    return jax.tree.unflatten(staged.out_tree, degrees(staged.jaxpr, inputs))


def degree_leaves(tree: PyTree) -> list[Degree]:
    """Return the degrees in a tree of them."""
    return jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Degree))


def largest(given: Sequence[Degree]) -> Degree:
    """Return the degree of a sum: the largest, the first of those."""
    return max(given, key=lambda degree: degree.order, default=CONSTANT)


def _equation(eqn: Any, given: list[Degree]) -> list[Degree]:
    """Return the degrees of the results of one equation, some operand of which is followed."""
    name, count = eqn.primitive.name, len(eqn.outvars)
    if name in _CALLS:
        known = {degree.blamed for degree in given}
        inner = degrees(called(eqn)[0], given)
        return [d if d.blamed in known or d.order < 2 else d._replace(blamed=(*d.blamed, eqn)) for d in inner]
    if (rule := _STRUCTURED.get(name)) is not None and (found := rule(eqn, given)) is not None:
        return found
    order = _order(eqn, [degree.order for degree in given])
    # What makes a polynomial of one is not to blame.
    least = MORE if order == _UNKNOWN else 2
    found = next((degree.blamed for degree in given if degree.order >= least), (eqn,)) if order > 1 else ()
    return [Degree(min(order, MORE), found)] * count


def _order(eqn: Any, orders: list[int]) -> int:
    """Return the degree of the results of a primitive without a jaxpr of its own."""
    name = eqn.primitive.name
    if name in _SUMS:
        return max(orders)
    if name in _PRODUCTS:
        return sum(orders)
    if name in _INDEXED:
        linear = _INDEXED[name]
        return max(orders[i] for i in linear) if not _some(orders, but=linear) else _UNKNOWN
    if name == "div":
        return _UNKNOWN if orders[1] else orders[0]
    if name == "square":
        return 2 * orders[0]
    if name == "integer_pow":
        return eqn.params["y"] * orders[0] if eqn.params["y"] >= 0 else _UNKNOWN
    if name == "pow":
        power = eqn.invars[1].val if isinstance(eqn.invars[1], jex.Literal) else None
        return int(power) * orders[0] if power in (0.0, 1.0, 2.0) else _UNKNOWN
    if name == "select_n":
        return _UNKNOWN if orders[0] else max(orders[1:])
    if name == "polynomial":
        return _UNKNOWN if orders[0] else max(orders[1:])
    if name == "triangular_solve":
        return _UNKNOWN if orders[0] else orders[1]
    if name == "convert_element_type":
        return orders[0] if _is_real(eqn.invars[0].aval.dtype) and _is_real(eqn.params["new_dtype"]) else _UNKNOWN
    # A logarithm may be no number, so that such a comparison is one of its argument.
    return 0 if max(orders) < MORE and _holds_for_numbers(eqn) else _UNKNOWN


def _some(orders: Sequence[int], *, but: Sequence[int]) -> bool:
    return any(order for i, order in enumerate(orders) if i not in but)


def _is_real(dtype: Any) -> bool:
    """Return whether a conversion keeps the value but for rounding that the caller counts with."""
    return np.dtype(dtype) in (np.float32, np.float64)


def _holds_for_numbers(eqn: Any) -> bool:
    """Return whether a comparison has one answer for all finite numbers: x == x, x != inf."""
    name, operands = eqn.primitive.name, eqn.invars
    if name == "is_finite":
        return True
    if name == "eq":
        return operands[0] is operands[1]
    return name == "ne" and any(isinstance(v, jex.Literal) and np.all(np.isinf(v.val)) for v in operands)


def _cond(eqn: Any, given: list[Degree]) -> list[Degree] | None:
    """Join the branches, if the choice is not followed."""
    if given[0].order:
        return None
    branches = [degrees(branch.jaxpr, given[1:]) for branch in eqn.params["branches"]]
    return [largest(each) for each in zip(*branches)]


def _scan(eqn: Any, given: list[Degree]) -> list[Degree]:
    held, count = held_and_carried(eqn)
    consts, carry, xs = given[:held], given[held : held + count], given[held + count :]
    body = eqn.params["jaxpr"].jaxpr

    def step(carry: list[Degree]) -> list[Degree]:
        return degrees(body, [*consts, *carry, *xs])

    carry = fixpoint(lambda carry: step(carry)[:count], carry)
    return carry + step(carry)[count:]


def _while(eqn: Any, given: list[Degree]) -> list[Degree] | None:
    """Follow the body, if how often it runs is not followed."""
    first, second = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    body = eqn.params["body_jaxpr"].jaxpr
    carry = fixpoint(lambda carry: degrees(body, [*given[first:second], *carry]), given[second:])
    ends = degrees(eqn.params["cond_jaxpr"].jaxpr, [*given[:first], *carry])
    return None if ends[0].order else carry


def fixpoint(step: Callable[[list[Degree]], list[Degree]], carry: list[Degree]) -> list[Degree]:
    """Return the least degrees of a carry that a step does not raise, at least those given."""
    while True:
        raised = [largest(pair) for pair in zip(carry, step(carry))]
        if [degree.order for degree in raised] == [degree.order for degree in carry]:
            return carry
        carry = raised


def _solve(eqn: Any, given: list[Degree]) -> list[Degree] | None:
    """Solve with a matrix that is not followed: linear in the right-hand sides."""
    held = sum(eqn.params["const_lengths"])
    return None if _some([d.order for d in given[:held]], but=()) else given[held:]


_STRUCTURED: dict[str, Callable[[Any, list[Degree]], list[Degree] | None]] = {
    "cond": _cond,
    "scan": _scan,
    "while": _while,
    "custom_linear_solve": _solve,
}
