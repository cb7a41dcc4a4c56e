"""Arrays whose values a model needs in Python, as `np.array(counts)`, `int(regime.max())` or a shape do.

They are made static: the fewest of them, found by attempts.  First one alone; then all, of which as many as possible
are freed.  A static array has NumPy's form, whose every operation is known while the model is traced, or else JAX's,
which can be indexed by the time of the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from ssmscan.errors import ModelError
from ssmscan.model.handlers.tables import as_arrays
from ssmscan.model.staging.leaves import changed_tables

R = TypeVar("R")

_NEEDS_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
_FORMS: tuple[Callable, ...] = (np.asarray, lambda leaf: leaf)


def fewest_fixed(leaves: tuple, data: tuple[int, ...], attempt: Callable[[tuple, tuple[int, ...]], R]) -> R:
    """Return what the attempt with the fewest static arrays returns.

    Args:
        leaves: leaves of the arguments.
        data: positions of the arrays among them.
        attempt: (leaves, positions that are data) -> result; raises if the model needs the value of one of these.

    Raises:
        Exception: what the attempts raise, if the model fails whichever arrays are static.
    """

    def with_static(static: tuple[int, ...], form: Callable) -> R | Exception:
        try:
            formed = tuple(form(leaf) if i in static else leaf for i, leaf in enumerate(leaves))
            return attempt(formed, tuple(i for i in data if i not in static))
        except ModelError:
            raise
        except Exception as error:
            return error

    def first_form(static: tuple[int, ...]) -> tuple[Callable, R | Exception]:
        for form in _FORMS:
            found = with_static(static, form)
            if not isinstance(found, Exception):
                break
        return form, found

    found = with_static((), np.asarray)
    if not isinstance(found, Exception):
        return found
    if not isinstance(found, _NEEDS_VALUE):
        # Where values in the place of tracers do not help, it is a fault of the model.
        _, whole = first_form(data)
        if isinstance(whole, Exception) and not isinstance(whole, _NEEDS_VALUE):
            raise whole
    for position in data:
        _, found = first_form((position,))
        if not isinstance(found, Exception):
            return found
    (form, found), static = first_form(data), data
    if isinstance(found, Exception):
        raise found
    for position in data:
        fewer = tuple(i for i in static if i != position)
        freed = with_static(fewer, form)
        if not isinstance(freed, Exception):
            static, found = fewer, freed
    return found


def takes_arrays(leaves: tuple, data: tuple[int, ...], run: Callable[[tuple, tuple[int, ...]], object]) -> bool:
    """Return whether a model that failed on tables takes their values: whether it then runs, or is refused in words.

    Args:
        leaves, data: as of `fewest_fixed`.
        run: (leaves, positions that are data) -> anything; raises if the model fails.
    """
    try:
        values, positions = changed_tables(leaves, data, as_arrays)
        if positions == data:
            return False
        fewest_fixed(values, positions, run)
    except ModelError:
        return True
    except Exception:
        # Whatever it raises, the tables are not the only reason.
        return False
    return True
