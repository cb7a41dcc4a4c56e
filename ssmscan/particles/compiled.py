"""Functions compiled with the settings of a filter: what is static in them, and what is an argument.

Settings are constants of a compiled program, but for the arrays of a proposal that is a pytree, which may be other
ones at each call, or traced.  `compiled` is the one place where the two part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from ssmscan.particles.proposals import Bootstrap


class Static(NamedTuple):
    """What of some settings is part of a program.

    Attributes:
        settings: the settings, without a proposal that has arrays.
        tree: the structure of that proposal; None where it has none.
        leaves: its leaves with their types, None in the place of an array.
    """

    settings: Hashable
    tree: Any
    leaves: tuple


def split(settings: Any) -> tuple[Static, list]:
    """Part the arrays of the proposal from the rest."""
    leaves, tree = jax.tree.flatten(settings.proposal)
    moving = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    if not any(moving):
        return Static(settings, None, ()), []
    rest = tuple(None if is_array else (type(leaf), leaf) for leaf, is_array in zip(leaves, moving))
    return Static(replace(settings, proposal=Bootstrap()), tree, rest), [x for x, m in zip(leaves, moving) if m]


def join(static: Static, arrays: list) -> Any:
    """Return the settings with the arrays of the proposal in their places."""
    if static.tree is None:
        return static.settings
    remaining = iter(arrays)
    leaves = [next(remaining) if leaf is None else leaf[1] for leaf in static.leaves]
    return replace(static.settings, proposal=jax.tree.unflatten(static.tree, leaves))  # type: ignore[type-var]


def compiled(function: Callable, static: tuple[str, ...] = ()) -> Callable:
    """Compile a function with a keyword `settings`; `.lower` as of `jax.jit`.

    Args:
        function: takes arguments by position, `settings` by keyword, and others by keyword that are static.
        static: names of these others.
    """

    def whole(arrays: list, *arguments: Any, part: Static, **rest: Any) -> Any:
        return function(*arguments, settings=join(part, arrays), **rest)

    whole.__name__ = function.__name__  # of the compiled program, as logs and profiles show it
    program = jax.jit(whole, static_argnames=("part", *static))

    def placed(*arguments: Any, settings: Any, **rest: Any) -> tuple[tuple, dict]:
        part, arrays = split(settings)
        return (arrays, *arguments), {"part": part, **rest}

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        arguments, keywords = placed(*arguments, **keywords)
        return program(*arguments, **keywords)

    def lower(*arguments: Any, **keywords: Any) -> Any:
        arguments, keywords = placed(*arguments, **keywords)
        return program.lower(*arguments, **keywords)

    call.lower, call._cache_size = lower, program._cache_size  # type: ignore[attr-defined]
    return call
