"""What a filter is put together from, checked where it is given: before anything is compiled.

Strategies are objects: `FullHistory()` and not the class `FullHistory`, which would be called with the wrong arguments
deep inside a traced loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.arguments import refusal, require_function, shown

_SCHEME = "a function (key, weights, n) -> n ancestors, such as systematic"


def scheme(value: Any) -> None:
    """Raise unless this is a resampling scheme, as far as it shows without calling it.

    Raises:
        TypeError: it is not a function, or takes other arguments.
    """
    require_function("resampling", value, _SCHEME)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some functions of C have none
        return
    try:
        signature.bind(None, None, 0)
    except TypeError as error:
        raise TypeError(refusal("resampling", _SCHEME, value, f"It takes {signature}: {error}.")) from None


def ancestors(found: Any, n: int) -> None:
    """Raise unless a resampling scheme returned n ancestors, while the filter is traced.

    Raises:
        TypeError: these are not n integers.
    """
    whole = isinstance(found, Array) and found.shape == (n,) and jnp.issubdtype(found.dtype, jnp.integer)
    if not whole:
        raise TypeError(f"resampling: expected {n} integers as ancestors, got {shown(found)} from the scheme.")


def strategy(argument: str, value: Any, methods: tuple[str, ...], example: str) -> None:
    """Raise unless this is an object of settings that a compiled program can be made of.

    Args:
        argument: its name.
        value: what was given.
        methods: what it must have.
        example: how one is made, in code.

    Raises:
        TypeError: it is a class, lacks a method, or cannot be hashed.
    """
    if isinstance(value, type):
        raise TypeError(f"{argument}: expected an object such as {example}, got {shown(value)}; call it.")
    lacking = [name for name in methods if not hasattr(value, name)]
    if lacking or not callable(value) and "__call__" in methods:
        raise TypeError(refusal(argument, f"an object such as {example}", value))
    try:
        leaves, tree = jax.tree.flatten(value)  # of a proposal that is a pytree, arrays are arguments of the program
        hash((tree, *(leaf for leaf in leaves if not isinstance(leaf, jax.Array | np.ndarray))))
    except TypeError as error:
        raise TypeError(
            f"{argument}: {value!r} cannot be hashed, and so cannot be a part of a compiled program: make its class a "
            "dataclass(frozen=True) with fields that can be hashed (a tuple, not a list or an array)."
        ) from error


def no_predictions(values: Iterable[Any], proposal: Any) -> None:
    """Raise ValueError if a summary predicts an observation that the particles have seen."""
    for summary in values:
        if getattr(summary, "predicts", False):
            raise ValueError(
                f"summaries: {summary!r} is of the law of an observation given those before it, and the particles of "
                f"{proposal!r} are drawn by all of them. Use Bootstrap() or Guided(...) for it."
            )


def summaries(value: Any) -> tuple[Any, ...]:
    """Return the summaries of a filter as a tuple; one alone may be given as it is.

    Raises:
        TypeError: it holds something else.
        ValueError: two have one name, so that the result could hold but one of them.
    """
    several = value if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    found = tuple(several)
    for summary in found:
        strategy("summaries", summary, ("name", "__call__"), "Mean()")
    names = [summary.name for summary in found]
    for name in names:
        same = [summary for summary in found if summary.name == name]
        if len(same) > 1:
            raise ValueError(
                f"summaries: {same[0]!r} and {same[1]!r} are both called {name!r}, and a result can hold but one of "
                "that name. Ask for one, such as Quantiles((0.1, 0.9)) for several quantiles, or give your own class "
                "another name."
            )
    return found
