"""What a filter found in a file, and as groups of named arrays for ArviZ.

The groups that others read are `filter`, with what there is of each step (log predictive densities, effective sample
size, whether the cloud was resampled), and one for each summary, such as `filtered_mean`; of several independent loops
each has its own, with the number of the loop behind the name.  In a file all arrays stand in a group `arrays` beside
them, the last cloud and what the store kept included, and what they are is in the header.

A carry made of dictionaries, lists and tuples comes back as it was; containers of other classes come back as tuples of
their leaves.  For a filter that goes on with new data see `Online.save`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan import storage
from ssmscan.containers import Variable
from ssmscan.files import other_format
from ssmscan.labels import Labels
from ssmscan.model.protocols import Panel
from ssmscan.particles.clouds import Cloud, History, Kept, Origins, Tree
from ssmscan.particles.draws import unrolled_threefry
from ssmscan.particles.filter_record import FilterRecord

KIND = "filter"
"""What the header of such a file says that it is of."""

_FORMAT = 1
_RECORDS: dict[str, Any] = {one.__name__: one for one in (Cloud, Kept, History, Origins, Tree)}
_STATIC = [f.name for f in fields(FilterRecord) if f.metadata]
_ARRAYS = [f.name for f in fields(FilterRecord) if not f.metadata and f.name != "labels"]


def save(path: str | os.PathLike[str], loops: Sequence[FilterRecord], attributes: Mapping[str, Any]) -> Path:
    """Write what the filters of one or several loops found to a netCDF file; errors as of `ssmscan.storage.write`."""
    arrays: list[np.ndarray] = []
    labels = loops[0].labels
    forms = [
        {name: getattr(loop, name) for name in _STATIC}
        | {"panel": None if loop.panel is None else list(loop.panel)}
        | {"arrays": {name: _taken(getattr(loop, name), arrays) for name in _ARRAYS}}
        for loop in loops
    ]
    kept = {"coords": {n: _taken(x, arrays) for n, x in labels.coords.items()}, "dims": dict(labels.dims)}
    own = {f"array_{i}": _numbered(i, x) for i, x in enumerate(arrays)}
    header = {"kind": KIND, "format": _FORMAT, "loops": forms, "labels": kept}
    return storage.write(path, {**groups(loops), "arrays": own}, header, attributes)


def restored(
    path: str | os.PathLike[str], stored: Mapping[str, Mapping[str, Any]], header: dict
) -> tuple[list[dict[str, Any]], Labels]:
    """Return the fields of each loop in the file of a filter, and the labels.

    Raises:
        ValueError: if it is damaged, or has another format.
    """
    if (number := header.get("format")) != _FORMAT:
        raise other_format(path, int(number or 0), _FORMAT, again="run the filter again")
    try:
        arrays = stored["arrays"]
        coords = {name: _given(form, arrays, host=True) for name, form in header["labels"]["coords"].items()}
        labels = Labels(coords, header["labels"]["dims"])
        return [_loop(one, arrays) for one in header["loops"]], labels
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise storage.damaged(path, f"{type(error).__name__}: {error}") from error


def groups(loops: Sequence[FilterRecord]) -> dict[str, dict[str, Variable]]:
    """Return what there is of each step, and the summaries, as groups of variables."""
    several, result = len(loops) > 1, {}
    times = loops[0].labels.time_names([loop.increments.shape[-1] - loop.start_observed for loop in loops])
    for number, loop in enumerate(loops):
        end = f"_{number}" if several else ""
        series = {"log_predictive_density": loop.increments, "ess": loop.ess, "resampled": loop.resampled}
        result[f"filter{end}"] = _group(loop, series, times)
        for name, by_site in loop.summaries.items():
            result[f"filtered_{name}{end}"] = _group(loop, by_site, times)
    return result


def _group(loop: FilterRecord, by_name: Mapping[str, Any], times: dict[int, str]) -> dict[str, Variable]:
    """Return series as variables; those with the start in front count from step -1 where there are no dates."""
    steps, made, labels = loop.increments.shape[-1] - loop.start_observed, {}, loop.labels
    for site, values in by_name.items():
        values, name = np.asarray(values), site.replace("/", ".")
        first = times[steps] if len(values) == steps else "step"
        made[name] = Variable((first, *labels.axes(site, name, values.shape[1:])), values)
        if first == "step":
            made["step"] = Variable(("step",), np.arange(len(values)) - 1)
    dims = {dim: size for one in made.values() for dim, size in zip(one.dims, one.values.shape)}
    for dim, size in dims.items():
        if len(values := labels.coords.get(dim, ())) == size:
            made[dim] = Variable((dim,), np.asarray(values))
    return made


def _numbered(number: int, values: np.ndarray) -> Variable:
    return Variable(tuple(f"array_{number}_dim_{axis}" for axis in range(values.ndim)), values)


def _taken(value: Any, arrays: list[np.ndarray]) -> Any:
    """Append the arrays of a value, and return its form as JSON can hold it."""
    kind = type(value).__name__
    if value is None:
        return None
    if isinstance(value, dict):
        return {"dict": [[name, _taken(one, arrays)] for name, one in value.items()]}
    if kind in _RECORDS and isinstance(value, _RECORDS[kind]):
        names = getattr(value, "_fields", None) or [f.name for f in fields(value)]
        parts = {name: getattr(value, name) for name in names}
        return {kind: {name: _taken(one, arrays) for name, one in parts.items()}}
    if type(value) in (list, tuple):
        return {kind: [_taken(one, arrays) for one in value]}
    if isinstance(value, int):
        return {"int": value}
    if not jax.tree_util.all_leaves([value]):
        return {"tuple": [_taken(one, arrays) for one in jax.tree.leaves(value)]}
    is_key = isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    arrays.append(np.asarray(jax.random.key_data(value) if is_key else value))
    return {"key" if is_key else "array": len(arrays) - 1}


def _given(form: Any, arrays: Mapping[str, Any], *, host: bool = False) -> Any:
    """Return the value that has a form."""
    if form is None:
        return None
    ((kind, content),) = form.items()
    match kind:
        case "int":
            return content
        case "array":
            values = arrays[f"array_{content}"]
            return values if host else jnp.asarray(values)
        case "key":
            return jax.random.wrap_key_data(jnp.asarray(arrays[f"array_{content}"]), impl=unrolled_threefry)
        case "dict":
            return {name: _given(one, arrays) for name, one in content}
        case "list" | "tuple":
            return {"list": list, "tuple": tuple}[kind](_given(one, arrays) for one in content)
    return _RECORDS[kind](**{name: _given(one, arrays) for name, one in content.items()})


def _loop(header: dict, arrays: Mapping[str, Any]) -> dict[str, Any]:
    static = {name: header[name] for name in _STATIC} | {"observations": tuple(header["observations"])}
    if header["panel"] is not None:
        size, name, noise, values, carry = header["panel"]
        static["panel"] = Panel(size, name, _pairs(noise), _pairs(values), tuple(carry))
    return static | {name: _given(header["arrays"][name], arrays) for name in _ARRAYS}


def _pairs(listed: list) -> tuple[tuple[str, int], ...]:
    return tuple((name, axis) for name, axis in listed)
