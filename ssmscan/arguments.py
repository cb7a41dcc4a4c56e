"""Checks of what a caller passes: one sentence for each mistake, on the host, before anything is compiled.

Every message names the argument, says what was expected and what was given, and what to do where that is not the same:

    num_steps: expected an integer of at least 1, got 'three' (str).

`TypeError` is for a value of the wrong kind, `ValueError` for one of the right kind that cannot be.  Of a tracer its
shape and dtype are checked, as of any array, so that pure functions stay pure.  This file is at the bottom of the
package and imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from numbers import Integral, Real
from types import ModuleType
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")

LARGEST = 2**31 - 1
"""Nothing here counts further: steps, particles and ancestors are int32."""

_SHORT = 40


def shown(value: Any) -> str:
    """Return a value in words: its type and as much of it as fits; nothing of a user's class is run for it."""
    kind = type(value).__name__
    if value is None or value is ...:
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    if isinstance(value, jax.core.Tracer):
        return f"a traced {value.dtype} of shape {value.shape}, whose value is not known"
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array of {value.dtype} with shape {value.shape}"
    if isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        text = repr(value)
        return f"{text if len(text) <= _SHORT else text[:_SHORT] + '...'} ({kind})"
    if isinstance(value, dict | list | tuple | set | frozenset):
        return f"a {kind} of {len(value)}" if value else f"an empty {kind}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return f"{'an' if kind[:1] in 'AEIOaeio' else 'a'} {kind}"


def refusal(argument: str, expected: str, value: Any, advice: str = "") -> str:
    """Return the sentence of every refusal here: what was expected, what was given, what to do."""
    return f"{argument}: expected {expected}, got {shown(value)}.{' ' * bool(advice)}{advice}"


def require_integer(argument: str, value: Any, *, at_least: int, at_most: int = LARGEST) -> int:
    """Return an integer as Python's.

    Raises:
        TypeError: it is of another type, True and False included.
        ValueError: it is too small or too large.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole:
        raise TypeError(refusal(argument, f"an integer of at least {at_least}", value))
    if value < at_least:
        raise ValueError(refusal(argument, f"an integer of at least {at_least}", value))
    if value > at_most:
        raise ValueError(refusal(argument, f"an integer of at most {at_most}", value))
    return int(value)


def require_number(
    argument: str,
    value: Any,
    low: float,
    high: float,
    *,
    closed: bool = False,
    expected: str | None = None,
    advice: str = "",
) -> float:
    """Return a number between two bounds as Python's float.

    Args:
        argument: its name.
        value: what was given.
        low, high: the bounds.
        closed: whether it may be one of them.
        expected: what it is in words, bounds included.
        advice: what to do.

    Raises:
        TypeError: it is of another type, True, False and arrays included.
        ValueError: it is not between them.
    """
    within = f"in [{low:g}, {high:g}]" if closed else f"strictly between {low:g} and {high:g}"
    sentence = partial(refusal, argument, expected or f"a number {within}", value, advice)
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real:
        raise TypeError(sentence())
    if not (low <= value <= high if closed else low < value < high):
        raise ValueError(sentence())
    return float(value)


def require_flag(argument: str, value: Any) -> bool:
    """Return True or False as Python's.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(refusal(argument, "True or False", value))
    return bool(value)


def require_instance(argument: str, value: Any, kind: type[T] | tuple[type, ...], expected: str, advice: str = "") -> T:
    """Return an object of a class.

    Args:
        argument: its name.
        value: what was given.
        kind: the class, or several.
        expected: the class in words, with an article.
        advice: what to do.

    Raises:
        TypeError: it is something else, the class itself included.
    """
    if not isinstance(value, kind):
        raise TypeError(refusal(argument, expected, value, advice))
    return value  # type: ignore[return-value]


def require_function(argument: str, value: Any, expected: str) -> Callable:
    """Return what can be called and is no class.

    Raises:
        TypeError: it cannot be called, or is a class.
    """
    if isinstance(value, type) or not callable(value):
        raise TypeError(refusal(argument, expected, value))
    return value


def require_texts(argument: str, value: Any, expected: str) -> tuple[str, ...]:
    """Return several names as a tuple, in their order.

    Raises:
        TypeError: it is one name, or holds what is no text.
        ValueError: a name is there twice.
    """
    if isinstance(value, str):
        raise TypeError(refusal(argument, expected, value, f"Give one name as ({value!r},)."))
    if not isinstance(value, Iterable) or np.ndim(value) > 1:  # type: ignore[arg-type]
        raise TypeError(refusal(argument, expected, value))
    names = tuple(value)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: expected {expected}, got {shown(name)} among them.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{argument}: expected {expected}, got {twice[0]!r} twice.")
    return names


def require_mapping(argument: str, value: Any, expected: str) -> Mapping[str, Any]:
    """Return a mapping whose keys are names.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise TypeError(_no_mapping(argument, value, expected))
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: expected {expected}, got {shown(name)} among the names.")
    return value


def _no_mapping(argument: str, value: Any, expected: str) -> str:
    convertible = hasattr(value, "keys") and not isinstance(value, type)
    return refusal(argument, expected, value, f"Give dict({argument})." if convertible else "")


def require_names(
    argument: str, value: Any, names: Collection[str], what: str, *, optional: Collection[str] = (), advice: str = ""
) -> Mapping[str, Any]:
    """Return a mapping that has these names and no others.

    Args:
        argument: its name.
        value: what was given.
        names: what it must have.
        what: the things that are named, in the plural.
        optional: what it may have.
        advice: what to do.

    Raises:
        TypeError: it is not a mapping.
        ValueError: a name is missing or unknown.
    """
    if not isinstance(value, Mapping):
        raise TypeError(_no_mapping(argument, value, f"a mapping from the {what} {sorted(names)} to values"))
    found = set(value)
    missing, unknown = sorted(set(names) - found), sorted(found - set(names) - set(optional), key=str)
    if missing or unknown:
        raise ValueError(
            f"{argument} must have exactly the {what} {sorted(names)}; "
            f"missing: {missing or 'none'}, unknown: {unknown or 'none'}.{' ' * bool(advice)}{advice}"
        )
    return value


def require_numbers(argument: str, value: Any, shape: tuple[int | None, ...] | None = None) -> None:
    """Raise unless a value is a number or an array of them, of a shape; None in the shape stands for any length.

    Raises:
        TypeError: it is not of booleans, integers or real numbers.
        ValueError: it has another shape.
    """
    if not _is_real(value):
        raise TypeError(refusal(argument, "a real number or an array of them", value))
    if shape is None:
        return
    found = np.shape(value)
    if len(found) != len(shape) or any(wanted not in (None, n) for n, wanted in zip(found, shape)):
        wanted = str(shape).replace("None", "any")
        raise ValueError(f"{argument} has shape {found}, expected {wanted}.")


def _is_real(value: Any) -> bool:
    if isinstance(value, float | int):
        return True
    if isinstance(value, type):
        return False
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        try:
            value = np.asarray(value)
        except Exception:  # whatever the __array__ of a stranger raises
            return False
    dtype = value.dtype
    return any(jax.dtypes.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_))
