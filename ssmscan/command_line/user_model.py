"""The model in a user's file, and the arguments it is called with.

A file has a function `model`, and where the command is given no data `model_args` and `model_kwargs` to call it with.
Columns of a table go to the arguments of the same name; a model with one argument that nothing else fills takes the
one column there is, or those that are named.  `model_kwargs` of the file fill what is left.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import ssmscan
from ssmscan.command_line.columns import Columns, UsageError


class Called(NamedTuple):
    """A model and what it is called with.

    Attributes:
        model: the function.
        args, kwargs: its arguments.
        used: argument -> names of the columns that it was given.
        time: (T,) dates of the steps, None where there are none.
    """

    model: Callable
    args: tuple
    kwargs: dict[str, Any]
    used: dict[str, tuple[str, ...]]
    time: np.ndarray | None


class UserError(Exception):
    """An exception of the user's own code, with where it was raised, in the message."""


def load(path: Path) -> ModuleType:
    """Import a file.

    Raises:
        UsageError: if there is no such file, or it is not of Python.
        UserError: if running it raises an exception.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file; give the file that has the model, such as model.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: expected a file of Python, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        with users_code(path, "importing it"):
            spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


@contextmanager
def users_code(path: Path, doing: str) -> Iterator[None]:
    """Run code of the user; what it raises is shown with the lines of the user's file alone.

    Raises:
        UserError: for any exception but those of this package.
    """
    try:
        yield
    except (ssmscan.ModelError, UsageError, UserError):
        raise
    except Exception as error:
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == path.resolve()
        ]
        where = "".join(traceback.format_list(own))
        said = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: {doing} raised an exception.\n\n{where}{said}") from error


def called(module: ModuleType, path: Path, name: str, data: Columns | None, columns: Sequence[str]) -> Called:
    """Return the model of a file with its arguments.

    Args:
        module: the file, imported.
        path: where it is.
        name: of the function.
        data: a table, None for `model_args` and `model_kwargs` of the file.
        columns: columns for the one argument of the model, none to go by names.

    Raises:
        UsageError: if there is no such function, or its arguments are not to be had; the message says what is there.
    """
    model = getattr(module, name, None)
    if not callable(model):
        functions = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        has = f"; it has {', '.join(functions)}: choose one with --name" if functions else ""
        raise UsageError(f"{path}: expected a function {name!r}, the NumPyro model, and found none{has}")
    kwargs = dict(getattr(module, "model_kwargs", {}))
    signature = inspect.signature(model)
    if data is None:
        args = tuple(getattr(module, "model_args", ()))
        _require_arguments(signature, args, kwargs, path, name)
        return Called(model, args, kwargs, {}, None)
    given, used = _by_name(signature, path, name, data, columns, kwargs)
    bound = signature.bind(**given)
    return Called(model, bound.args, bound.kwargs, used, data.time)


def _require_arguments(
    signature: inspect.Signature, args: tuple, kwargs: dict[str, Any], path: Path, name: str
) -> None:
    """Raise UsageError unless a model takes the arguments of its file."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(
            f"{path}: {name}{signature} cannot be called with model_args and model_kwargs of the file, {error}; write "
            "them into the file, or give a table with --data"
        ) from None


def _by_name(
    signature: inspect.Signature, path: Path, name: str, data: Columns, columns: Sequence[str], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """Return the arguments by name, and the columns that each was given."""
    parameters = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if positional := [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]:
        raise UsageError(f"{path}: {name} takes {positional[0]} by position alone; give it a name, as columns have")
    for column in columns:
        if column not in data.names:
            raise UsageError(f"--columns: {data.path} has no column {column!r}; it has {', '.join(data.names)}")
    used: dict[str, tuple[str, ...]] = {p.name: (p.name,) for p in parameters if p.name in data.names and not columns}
    unfilled = [p.name for p in parameters if p.default is p.empty and p.name not in used and p.name not in kwargs]
    chosen = tuple(columns) or (tuple(data.names) if len(data.names) == 1 and not used else ())
    if len(unfilled) == 1 and chosen:
        used[unfilled[0]] = chosen
        unfilled = []
    if unfilled or not used:
        raise UsageError(_unfilled(path, name, [p.name for p in parameters], unfilled, data))
    given = {argument: _array(data, names) for argument, names in used.items()}
    return {**kwargs, **given}, used


def _array(data: Columns, names: tuple[str, ...]) -> np.ndarray:
    """Return one column (T,), or several as (T, n)."""
    found = [data.numbers(name) for name in names]
    return found[0] if len(found) == 1 else np.stack(found, axis=1)


def _unfilled(path: Path, name: str, arguments: list[str], unfilled: list[str], data: Columns) -> str:
    """Return what to do where columns and arguments do not meet."""
    takes = f"{name}({', '.join(arguments)}) of {path}"
    has = f"{data.path} has the column{'s' * (len(data.names) != 1)} {', '.join(data.names) or 'of dates alone'}"
    if len(unfilled) == 1:
        what = f"for the argument {unfilled[0]!r} of {takes} there is no column of that name; {has}"
        return f"{what}: name the column of the file after it, or choose with --columns NAME, or NAME,NAME for an array"
    if unfilled:
        listed = ", ".join(map(repr, unfilled))
        return (
            f"for the arguments {listed} of {takes} there are no columns of these names; {has}: name the columns "
            "after them, or write what is no data into model_kwargs of the file"
        )
    return f"{takes} takes no argument that is called as a column; {has}: give the model its data as arguments"
