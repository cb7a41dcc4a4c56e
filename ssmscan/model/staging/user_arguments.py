"""Arguments of `trace` that may be why a model failed, in words.

NumPyro hands arguments to a model as they are, and so does `trace`: a model may turn a list or a pandas Series into an
array itself.  One that does not fails somewhere inside, in NumPyro, JAX or pandas.  What it was given then says more
than where it failed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from numbers import Number
from typing import Any

import jax
import numpy as np

from ssmscan.model.handlers.stack import innermost
from ssmscan.model.handlers.tables import is_table


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


def explain(error: BaseException, args: tuple, kwargs: Mapping[str, Any]) -> str:
    """Name the arguments that may be why a model failed, empty if none is suspect."""
    named = [(f"argument {k}", value) for k, value in enumerate(args)]
    named += [(f"argument '{name}'", value) for name, value in kwargs.items()]
    return "; ".join(clause for path, value in named for clause in _suspects(path, value, str(error)))


def _suspects(path: str, value: Any, error: str) -> Iterator[str]:
    named = any(words in error for words in (f"'{type(value).__name__}' object", f"class '{type(value).__name__}'"))
    if isinstance(value, Mapping):
        if named:
            yield f"{path} is a {type(value).__name__}, where the model may expect an array"
        for key, entry in value.items():
            yield from _suspects(f"{path}[{key!r}]", entry, error)
    elif isinstance(value, list | tuple):
        if value and all(isinstance(entry, Number | np.generic) for entry in value):
            words = f"a {type(value).__name__} of {len(value)} number{'s' * (len(value) != 1)}"
            yield f"{path} is {words}, which JAX takes for as many inputs: pass np.asarray(...) of it"
        else:
            for k, entry in enumerate(value):
                yield from _suspects(f"{path}[{k}]", entry, error)
    elif isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
        yield f"{path} is an array of dtype {value.dtype}, which JAX does not have: pass numbers"
    elif isinstance(value, jax.Array | np.ndarray | np.generic) and np.ndim(value):
        return
    elif is_table(value):
        yield f"{path} is {kind_of(value)}, which JAX does not take: pass its values, np.asarray(...)"
    elif value is None and ("NoneType" in error or "neither inputs nor a length" in error):
        yield f"nothing was given as {path}"
    elif named or (value is not None and "an input of the scan" in error):
        yield f"{path} is {value!r}"


def kind_of(value: Any) -> str:
    """Return the package and the class of a value."""
    package = type(value).__module__.partition(".")[0]
    return f"{'an' if package[0] in 'aeioux' else 'a'} {package} {type(value).__name__}"
