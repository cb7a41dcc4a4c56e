"""Arguments of `trace` that may be why a model failed, in words.

NumPyro hands arguments to a model as they are, and so does `trace`: a model may turn a list or a pandas Series into an
array itself.  One that does not fails somewhere inside, in NumPyro, JAX or pandas.  What it was given then says more
than where it failed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from numbers import Number
from typing import Any

import jax
import numpy as np

from ssmscan.errors import ModelError
from ssmscan.model.handlers.stack import innermost
from ssmscan.model.handlers.tables import A_TABLE, as_arrays, is_table
from ssmscan.model.jaxprs.source_lines import raised_at


def refuse_call(model: Callable, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Raise if the model does not take these arguments.

    Raises:
        TypeError: one is missing, or one too many; the message shows what the model takes.
    """
    model = innermost(model)
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(model, "__name__", type(model).__name__)
        raise TypeError(
            f"ssmscan.trace hands what follows the model on to it, and {name}{signature} does not take that: {error}. "
            f"Call ssmscan.trace({name}, ...) with all arguments of the model."
        ) from None


def raise_explained(error: Exception, args: tuple, kwargs: Mapping[str, Any], *, tables: bool) -> None:
    """Raise what says more than an error of the model on some arguments, or add the user's line to it.

    Args:
        error, args, kwargs, tables: as of `explain`.

    Raises:
        TypeError: it failed on one of the arguments, which is named.
        ModelError: it decides by a value that is not known while it is traced.
    """
    where = raised_at(error)
    if suspects := explain(error, args, kwargs, tables=tables):
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise TypeError(f"the model fails on what it was given: {suspects}. It raised {reason}") from error
    if isinstance(error, jax.errors.TracerBoolConversionError):
        raise ModelError(
            f"the model decides in Python{where and f' ({where})'}, by if, while, and, or or not, on a value that is "
            "known only when it runs, such as a draw. Write jnp.where(condition, a, b) or jax.lax.cond, and & | ~ for "
            "and, or, not; what the user decides can be an argument that is True, False or a number of Python."
        ) from None
    if where:
        error.add_note(f"The model raised this at {where}.")


def explain(error: BaseException, args: tuple, kwargs: Mapping[str, Any], *, tables: bool = True) -> str:
    """Name the arguments that may be why a model failed, empty if none is suspect.

    Args:
        error: what it raised.
        args, kwargs: what it was given.
        tables: whether a table may be why, also where the error does not speak of it.
    """
    named = [(f"argument {k}", value) for k, value in enumerate(args)]
    named += [(f"argument '{name}'", value) for name, value in kwargs.items()]
    return "; ".join(clause for path, value in named for clause in _suspects(path, value, str(error), tables))


def _suspects(path: str, value: Any, error: str, tables: bool) -> Iterator[str]:
    named = any(words in error for words in (f"'{type(value).__name__}' object", f"class '{type(value).__name__}'"))
    if isinstance(value, Mapping):
        if named:
            yield f"{path} is a {type(value).__name__}, where the model may expect an array"
        for key, entry in value.items():
            yield from _suspects(f"{path}[{key!r}]", entry, error, tables)
    elif isinstance(value, list | tuple):
        if value and all(isinstance(entry, Number | np.generic) for entry in value):
            words = f"a {type(value).__name__} of {len(value)} number{'s' * (len(value) != 1)}"
            yield f"{path} is {words}, which JAX takes for as many inputs: pass np.asarray(...) of it"
        else:
            for k, entry in enumerate(value):
                yield from _suspects(f"{path}[{k}]", entry, error, tables)
    elif isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
        yield f"{path} is an array of dtype {value.dtype}, which JAX does not have: pass numbers"
    elif isinstance(value, jax.Array | np.ndarray | np.generic) and np.ndim(value):
        return
    elif is_table(value):
        words = rf"\b{type(value).__name__}\b|{A_TABLE}" + ("|dtype|object" if is_table(_values(value)) else "")
        if tables or re.search(words, error):
            yield f"{path} is {kind_of(value)}, which JAX does not take{_remedy(value)}"
    elif value is None and ("NoneType" in error or "neither inputs nor a length" in error):
        yield f"nothing was given as {path}"
    elif named or (value is not None and "an input of the scan" in error):
        yield f"{path} is {value!r}"


def _remedy(table: Any) -> str:
    """Return what to pass in the place of a table."""
    columns = table if hasattr(table, "columns") else {}
    without = [str(name) for name in columns if is_table(_values(table[name]))]
    if without and len(without) < len(table.columns):
        return f", for there are no numbers in its columns {without}: leave them out, or make numbers of them"
    if is_table(_values(table)):
        return ", for it holds no numbers: make numbers of them"
    return ": pass its values, np.asarray(...)"


def _values(table: Any) -> Any:
    try:
        return as_arrays(table)
    except ValueError:  # numbers that JAX does not hold, of which it has told
        return None


def kind_of(value: Any) -> str:
    """Return the package and the class of a value."""
    package = type(value).__module__.partition(".")[0]
    return f"{'an' if package[0] in 'aeioux' else 'a'} {package} {type(value).__name__}"
