"""What a result can hold: which names and which types, asked before anything is drawn.

A result is also a netCDF file.  Names of sites become names of variables there, a slash as a dot since a slash
separates groups; two sites of one group may not end with the same name.  Values are booleans, integers or real
numbers; the narrow types of accelerators (bfloat16, float8), which no file knows, are held in float32, where each of
their values has a place.

An engine asks `require_holdable` with what it is going to draw, so that no run ends with draws that it cannot hand
over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmscan.arguments import require_mapping

_DIMENSIONS = ("chain", "draw", "time")
_OF_NETCDF = "_nc4_non_coord_"
_NUMBERS = "biuf"
_OTHERS = {"c": "complex numbers", "O": "objects", "U": "text", "S": "bytes", "M": "dates", "m": "time spans"}


def variable_name(site: str) -> str:
    """Return the name of a site's variable: dots for slashes, and never that of a dimension it has."""
    name = site.replace("/", ".")
    return f"{name}_" if name in _DIMENSIONS else name


def as_numbers(field: str, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a field's arrays as NumPy's, those of accelerators' narrow types in float32.

    Raises:
        TypeError: if they are not arrays by name, or not of numbers.
    """
    named = require_mapping(field, arrays, "arrays by name")
    numbers = {name: _array(field, name, values) for name, values in named.items()}
    for name, values in numbers.items():
        if _is_narrow(values.dtype):
            numbers[name] = values.astype(np.float32)
        elif values.dtype.kind not in _NUMBERS:
            raise TypeError(f"{field}[{name!r}] must be an array of numbers, got dtype {values.dtype}")
    return numbers


def as_indices(field: str, values: Any) -> np.ndarray:
    """Return a field's list of whole numbers, int64.

    Raises:
        TypeError: if it is not one.
    """
    found = _array(field, "all", values)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise TypeError(f"{field} must be a list of whole numbers, got {found.dtype} of shape {found.shape}")
    return found.astype(np.int64)


def as_log_weights(field: str, values: Any) -> np.ndarray:
    """Return a field's logarithms of weights, float64; -inf is no weight.

    Raises:
        TypeError: if it is not a list of numbers.
        ValueError: if one of them is neither a number nor -inf.
    """
    found = _array(field, "all", values)
    if found.ndim != 1 or not (found.dtype.kind in _NUMBERS or _is_narrow(found.dtype)):
        raise TypeError(f"{field} must be a list of numbers, got {found.dtype} of shape {found.shape}")
    found = found.astype(np.float64)
    if (wrong := np.isnan(found) | (found == np.inf)).any():
        raise ValueError(f"{field} must be numbers or -inf (no weight), and {_counted(wrong)} neither")
    return found


def as_texts(field: str, values: Any) -> tuple[str, ...]:
    """Return a field's sentences or names as a tuple.

    Raises:
        TypeError: if they are not text, or one text where several are expected.
    """
    if not isinstance(values, (tuple, list)) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{field} of a Result must be text, got {values!r}")
    return tuple(values)


def as_flag(field: str, value: Any) -> bool:
    """Return a field's value as Python's True or False.

    Raises:
        TypeError: if it is neither.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{field} of a Result must be True or False, got {value!r}")
    return bool(value)


def as_number(field: str, value: Any) -> float:
    """Return a field's value as Python's number.

    Raises:
        TypeError: if it is not one number.
    """
    if isinstance(value, bool) or np.ndim(value) or np.asarray(value).dtype.kind not in "iuf":
        raise TypeError(f"{field} of a Result must be a number, got {value!r}")
    return np.asarray(value).item()


def as_json(field: str, value: Any) -> dict[str, Any]:
    """Return what a file gives back of a field.

    Raises:
        TypeError: if JSON cannot hold it, or it is not a mapping.
    """
    try:
        found = json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{field} of a Result must be what JSON can hold: {error}") from None
    if not isinstance(found, dict):
        raise TypeError(f"{field} of a Result must be a dictionary, got {value!r}")
    return found


def require_holdable(
    draws: Mapping[str, Any], states: Mapping[str, Any] | None = None, observed: Mapping[str, Any] | None = None
) -> None:
    """Raise a sentence unless a result can hold these sites.

    Args:
        draws: parameter -> its dtype, or anything that has one.
        states: the same for the states.
        observed: the same for the data.

    Raises:
        ValueError: if it cannot; the message has a clause for each fault.
    """
    drawn, seen = [*draws.items(), *(states or {}).items()], [*(observed or {}).items()]
    faults = [fault for name, values in (*drawn, *seen) for fault in (_of_name(name), _of_type(name, values)) if fault]
    faults += [*_shared([n for n, _ in drawn]), *_shared([n for n, _ in seen])]
    if faults:
        raise ValueError(f"a Result cannot hold these sites: {'; '.join(dict.fromkeys(faults))}")


def _array(field: str, name: Any, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{field}[{name!r}] must be an array of numbers, got {type(values).__name__} ({error})"
        ) from None


def _of_name(name: Any) -> str | None:
    if not isinstance(name, str):
        return f"names of sites must be text, got {name!r}: rename the site"
    no_text = any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in name)
    if no_text or variable_name(name) in ("", ".") or name.startswith(_OF_NETCDF):
        return f"no variable of a netCDF file can be named {name!r}: rename the site"
    return None


def _of_type(name: Any, values: Any) -> str | None:
    found = values if isinstance(values, type) else getattr(values, "dtype", values)
    try:
        dtype = np.dtype(found)
    except TypeError:  # the keys of JAX
        what = "no type of NumPy"
    else:
        if dtype.kind in _NUMBERS or _is_narrow(dtype):
            return None
        what = _OTHERS.get(dtype.kind, "neither booleans, integers nor real numbers")
    return f"site {name!r} has dtype {found} ({what}): give its values as booleans, integers or real numbers"


def _shared(sites: list[Any]) -> list[str]:
    by_name: dict[str, list[str]] = {}
    for site in sites:
        if isinstance(site, str):
            by_name.setdefault(variable_name(site), []).append(site)
    return [
        f"the sites {', '.join(map(repr, sharing))} all become {name!r} in a file, where a slash is a dot: rename "
        f"{'one' if len(sharing) == 2 else 'all but one'} of them"
        for name, sharing in by_name.items()
        if len(sharing) > 1
    ]


def _counted(wrong: np.ndarray) -> str:
    return f"{int(wrong.sum()):,} of {wrong.size:,} {'is' if wrong.sum() == 1 else 'are'}"


def _is_narrow(dtype: np.dtype) -> bool:
    """Return whether this is a type registered with NumPy by another package, as ml_dtypes does."""
    return dtype.isbuiltin == 2
