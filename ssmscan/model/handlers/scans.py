"""One scan as the model made it, and what handlers around it say of its sites.

`condition` and `substitute` handlers reach into NumPyro's loop by a stack of mappings, not by messages.  A
value with one axis more than the site has time in front; one with as many axes is the same at every step.
Time that is shorter than the loop gives the first steps: the rest is missing, as in a forecast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from numpyro.primitives import _PYRO_STACK, Messenger

from ssmscan.errors import ModelError
from ssmscan.model.handlers.messages import with_sample_shape
from ssmscan.model.handlers.missing import Gaps
from ssmscan.model.handlers.names import SiteNames, given_in_loop
from ssmscan.model.handlers.params import Constants
from ssmscan.model.handlers.tables import as_arrays
from ssmscan.model.handlers.totals import DataTotals

PyTree = Any


class NoInputs(ModelError):
    """A scan has no steps that could be counted; what the model was given may explain it."""


class SeveralLoops(Exception):
    """Data depend on the noise of more than one scan, `loops` in order; each is a part of its own, if independent."""

    def __init__(self, loops: tuple[int, ...]):
        self.loops = loops


class Loop(NamedTuple):
    """One scan as it was met.

    Attributes:
        f: the transition.
        init: initial carry.
        xs: per-step inputs.
        length: number of steps.
        reverse: whether it runs backwards.
        substitutions: what `condition` and `substitute` handlers around it give, as `names.given_in_loop` has it.
        default: `key=None` runs it as NumPyro does and returns NumPyro's result.
        reparam: names that a `reparam` handler around it would change.
        constants: what answers for parameters and keys.
        hidden: of the `block` handlers around it, the functions that say which sites they hide.
        draw_observed: `fn -> value` to simulate data at observed sites, None to keep them.
        gaps: which observed sites have missing elements.
        names: names of the sites of this run.
        prefixes: by type of message, what scopes around it put before the names of its sites.
        lifted: names of its parameters to which `lift` handlers around it give a prior, None for all.
    """

    f: Callable
    init: PyTree
    xs: PyTree
    length: int
    reverse: bool
    substitutions: list
    default: Callable
    reparam: frozenset[str]
    constants: Constants
    hidden: tuple[Callable, ...] = ()
    draw_observed: Callable | None = None
    gaps: Gaps = Gaps()
    names: SiteNames = SiteNames()
    prefixes: Mapping[str, str] = MappingProxyType({})
    lifted: frozenset[str] | None = frozenset()


class Simulated(NamedTuple):
    """NumPyro's result of a loop that is drawn and takes no part in inference, such as a horizon."""

    result: Any


def number_of_steps(xs: PyTree, length: int | None) -> int:
    """Return the number of steps of a scan.

    Raises:
        NoInputs: there are neither inputs nor a length, or an input has no axis of time.
    """
    leaves = jax.tree.leaves(xs)
    for leaf in leaves:
        shape = getattr(leaf, "shape", ())
        if not isinstance(shape, tuple) or not shape:
            what = "an array without axes" if hasattr(leaf, "shape") else f"a {type(leaf).__name__}"
            raise NoInputs(f"an input of the scan is {what}; it needs an axis of time in front. Pass arrays as xs.")
    if length is None and not leaves:
        raise NoInputs(
            "the scan has neither inputs nor a length. Pass the data as xs, or the number of steps as length."
        )
    return jnp.shape(leaves[0])[0] if length is None else length


def returning_pairs(f: Callable) -> Callable:
    """Return the transition, whose result is looked at before it is unpacked; its multinomials take data as totals."""

    @functools.wraps(f)
    def transition(carry: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        with DataTotals():
            result = f(carry, x)
        if not isinstance(result, tuple | list) or len(result) != 2:
            what = f"{len(result)} values" if isinstance(result, tuple | list) else _kind(result)
            raise ModelError(
                f"the transition returns {what}, where a scan expects a pair, the carry and what is to be stacked. End "
                "it with `return carry, output`."
            )
        return result[0], result[1]

    return transition


class InLoops(Messenger):
    """Let NumPyro itself take tables, totals of multinomials that are data, and values by the names that scopes make.

    Stands around the model.
    """

    def process_message(self, msg: dict) -> None:
        """Change what the loop is given when it runs, after all handlers have spoken."""
        if msg["type"] == "sample":
            msg["value"] = as_arrays(msg["value"])
        if msg["type"] == "control_flow" and len(msg["args"]) == 5:
            original, stack = msg["fn"], list(_PYRO_STACK)

            def run(f: Callable, init: PyTree, xs: PyTree, *args: Any, substitute_stack: list, **rest: Any) -> Any:
                given = [(kind, in_loop) for kind, in_loop, *_ in given_in_loop(stack, substitute_stack)]
                init, xs = as_arrays((init, xs))
                return original(returning_pairs(f), init, xs, *args, substitute_stack=given, **rest)

            msg["fn"] = run


def _kind(result: Any) -> str:
    if result is None:
        return "nothing"
    return "one array" if hasattr(result, "shape") else f"a {type(result).__name__}"


def given_value(loop: Loop, msg: dict, t) -> tuple[Any, Any]:
    """Find the value that `condition` or `substitute` around the loop gives to a site at step t.

    Returns:
        The value, None where none is given; and whether it is there, None if it always is.  A value shorter than
        the loop is there in the first steps.
    """
    value = None
    for _, mapping, *_ in loop.substitutions:
        found = mapping.get(msg["name"]) if isinstance(mapping, dict) else mapping(msg)
        value = value if found is None else jnp.asarray(found)
    if value is None:
        return None, None
    # Other shapes NumPyro has refused, which runs the loop first.
    if value.ndim == len(with_sample_shape(msg).shape()):
        return value, None
    present = t < value.shape[0] if value.shape[0] < loop.length else None
    return lax.dynamic_index_in_dim(value, t, keepdims=False), present
