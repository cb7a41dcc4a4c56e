"""Settings and arguments of filters, checked where they are given: before anything is compiled.

Strategies are objects: `FullHistory()` and not the class `FullHistory`, which would be called with the wrong arguments
deep inside a traced loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def integer(argument: str, value: Any, *, at_least: int) -> int:
    """Return an integer setting.

    Raises:
        TypeError: it is of another type.
        ValueError: it is too small.
    """
    text = f"{argument}: expected an integer of at least {at_least}, got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(text)
    if value < at_least:
        raise ValueError(text)
    return int(value)


def number(argument: str, value: Any, expected: str) -> float:
    """Return a setting that is a number on the host.

    Raises:
        TypeError: it is of another type, a bool or an array included.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument}: expected {expected}, got {value!r}.")
    return float(value)


def strategy(argument: str, value: Any, methods: tuple[str, ...], example: str) -> None:
    """Check an object of settings that the compiled program is made of.

    Args:
        argument: its name.
        value: what was given.
        methods: what it must have.
        example: how one is made, in code.

    Raises:
        TypeError: it is a class, lacks a method, or cannot be hashed.
    """
    if isinstance(value, type):
        raise TypeError(f"{argument}: expected an object such as {example}, got the class {value.__name__}; call it.")
    lacking = [name for name in methods if not hasattr(value, name)]
    if lacking or not callable(value) and "__call__" in methods:
        raise TypeError(f"{argument}: expected an object such as {example}, got {value!r}.")
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(
            f"{argument}: {value!r} cannot be hashed, and so cannot be a part of a compiled program: make its class a "
            "dataclass(frozen=True) with fields that can be hashed (a tuple, not a list or an array)."
        ) from error


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
