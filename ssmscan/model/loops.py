"""One scan as the model made it, and what handlers around it say of its sites.

`condition` and `substitute` handlers reach into NumPyro's loop by a stack of mappings, not by messages.  A
value with one axis more than the site has time in front; one with as many axes is the same at every step.
Time that is shorter than the loop gives the first steps: the rest is missing, as in a forecast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from ssmscan.model.constants import Constants
from ssmscan.model.missing import Gaps
from ssmscan.model.records import with_sample_shape

PyTree = Any


class ModelError(ValueError):
    """The model cannot be taken apart; the message names the site and the way out."""


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
        history: NumPyro's `history`.
        substitutions: pairs (kind, mapping) of `condition` and `substitute` handlers around it.
        default: `key=None` runs it as NumPyro does and returns NumPyro's result.
        reparam: names that a `reparam` handler around it would change.
        constants: what answers for parameters and keys.
        hidden: of the `block` handlers around it, the functions that say which sites they hide.
        draw_observed: `fn -> value` to simulate data at observed sites, None to keep them.
        gaps: which observed sites have missing elements.
    """

    f: Callable
    init: PyTree
    xs: PyTree
    length: int
    reverse: bool
    history: int
    substitutions: list
    default: Callable
    reparam: frozenset[str]
    constants: Constants
    hidden: tuple[Callable, ...] = ()
    draw_observed: Callable | None = None
    gaps: Gaps = Gaps()


class Simulated(NamedTuple):
    """NumPyro's result of a loop that is drawn and takes no part in inference, such as a horizon."""

    result: Any


def given_value(loop: Loop, msg: dict, t) -> tuple[Any, Any]:
    """The value that `condition` or `substitute` around the loop gives to a site at step t.

    Returns:
        The value, None where none is given; and whether it is there, None if it always is.  A value shorter than
        the loop is there in the first steps.
    """
    value = None
    for _, mapping in loop.substitutions:
        found = mapping.get(msg["name"]) if isinstance(mapping, dict) else mapping(msg)
        value = value if found is None else jnp.asarray(found)
    if value is None:
        return None, None
    # Other shapes NumPyro has refused, which runs the loop first.
    if value.ndim == len(with_sample_shape(msg).shape()):
        return value, None
    present = t < value.shape[0] if value.shape[0] < loop.length else None
    return lax.dynamic_index_in_dim(value, t, keepdims=False), present
