"""Leaves of the arguments of a model: which are data, how they are printed, and whether two mean the same program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np

from ssmscan.dates import is_dates
from ssmscan.model.handlers.tables import as_jax, is_like, is_table
from ssmscan.model.staging.user_arguments import kind_of

_MOST_SHOWN = 12
"""Of more columns some are left out."""


def flatten(args: tuple, kwargs: dict) -> tuple[list, jax.tree_util.PyTreeDef, list[str]]:
    """Return the leaves of the arguments with arrays canonical, their structure, and a printed path for each."""
    pairs, tree = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=lambda a: a is None)
    paths = [_path(path) for path, _ in pairs]
    with jax.ensure_compile_time_eval():
        leaves = [as_jax(leaf, path) if is_array(leaf) else leaf for (_, leaf), path in zip(pairs, paths)]
    return leaves, tree, paths


def names_of_leaves(model: Callable, args: tuple, kwargs: dict) -> list[str]:
    """Return a name for each leaf of (args, kwargs): that of its argument, and where it is in it, dots between."""
    try:
        parameters = list(inspect.signature(model).parameters.values())
    except (TypeError, ValueError):  # a function that does not say
        parameters = []
    single = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    found = []
    for (kind, first, *rest), _ in jax.tree_util.tree_flatten_with_path((args, kwargs))[0]:
        if kind.idx == 1:
            head = str(first.key)
        else:
            head = single[first.idx] if first.idx < len(single) else f"args.{first.idx}"
        found.append(".".join([head, *(jax.tree_util.keystr((key,), simple=True) for key in rest)]))
    return found


def is_array(leaf: Any) -> bool:
    """Return whether a leaf is data."""
    return isinstance(leaf, jax.Array | np.ndarray) and not _is_object(leaf)


def _is_object(leaf) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biufc"


def changed_tables(
    leaves: Sequence, data: Collection[int], change: Callable[[Any], Any]
) -> tuple[tuple, tuple[int, ...]]:
    """Return leaves with something in the place of each table, and the positions of those that are data then.

    Args:
        leaves, data: the leaves, and the positions of those that are data.
        change: what makes an array of a table, or another one.
    """
    tables = {i for i, leaf in enumerate(leaves) if is_table(leaf)}
    new = tuple(change(leaf) if i in tables else leaf for i, leaf in enumerate(leaves))
    return new, tuple(i for i, leaf in enumerate(new) if i in data or (i in tables and is_array(leaf)))


def describe(leaf: Any) -> str:
    """Describe a leaf in words."""
    if is_table(leaf):
        return f"{kind_of(leaf)}{_size(leaf)}"
    if is_dates(leaf):
        return f"an array of dates of shape {leaf.shape} and dtype {leaf.dtype}"
    return f"{leaf.dtype}{list(leaf.shape)}" if is_array(leaf) else repr(leaf)


def _size(table: Any) -> str:
    """Return the shape of a table, and what its columns are called and hold."""
    shape = getattr(table, "shape", None)
    if shape is None:
        return ""
    dtypes = getattr(table, "dtypes", getattr(table, "dtype", ""))
    columns = getattr(table, "columns", None)
    if columns is None:
        return f" of shape {tuple(shape)} and dtype {dtypes}"
    named = [f"{name} ({dtype})" for name, dtype in zip(columns, dtypes)]
    shown = named if len(named) <= _MOST_SHOWN else [*named[: _MOST_SHOWN - 1], "...", named[-1]]
    return f" of shape {tuple(shape)} with the columns {', '.join(shown)}"


def same(a: Any, b: Any) -> bool:
    """Return whether two static leaves mean the same program; leaves that cannot be compared do not."""
    if a is b:
        return True
    if is_table(a) and hasattr(a, "equals"):
        return is_like(b, a) and bool(a.equals(b))
    arrays = [isinstance(leaf, np.ndarray | jax.Array) for leaf in (a, b)]
    if any(arrays):
        return all(arrays) and a.dtype == b.dtype and bool(np.array_equal(a, b))
    try:
        return bool(a == b) or bool(a != a and b != b)
    except (ValueError, TypeError):
        return False


def _path(path: tuple) -> str:
    kind, *rest = path
    if kind.idx == 0:
        return f"argument {rest[0].idx}" + jax.tree_util.keystr(tuple(rest[1:]))
    return f"argument '{rest[0].key}'" + jax.tree_util.keystr(tuple(rest[1:]))
