"""What a saved filter belongs to: its model, its parameters, the data it has seen, its settings.

A filter that is read again goes on with what the caller gives, and nothing in its arrays shows whether that is what it
was made with.  So its file has a record of it, made when it is saved, and `resume` compares:

========  ==================================================================================================
settings  each, as it prints
model     the table of sites, less what is drawn for missing values; and a hash of the staged program with the
          constants it reads, where versions and the sites with missing values are the same (else the same code
          is another program).  For a series of another length, of what one particle runs, unless that depends
          on the length
theta     every value
data      each array among the arguments of the model, the rows that the steps taken have seen, by a checksum each
========  ==================================================================================================

The rows of an array are those of its first axis that is as long as the series or longer, and the first t have been seen
after t steps.  What comes later is left out, for a series is filled as its data arrive.  An array without such an axis
is compared whole.  What a model computes from data is not compared: another machine may round it otherwise.
"""

from __future__ import annotations

import dataclasses
import zlib
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.model.jaxprs.digest import printed
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.filter_run import FilterSettings

_COMPARED = ("jax", "numpyro", "ssmscan")


class Origin(NamedTuple):
    """What a filter was made with: the model, the parameters and the settings of its last step."""

    ssm: StateSpaceModel
    theta: dict[str, jax.Array]
    settings: FilterSettings


class Record(NamedTuple):
    """An origin as a file holds it.

    Attributes:
        facts: what JSON can hold: settings, sites, program, theta, and each argument's name, form and axis of time.
        rows: for each argument the checksums of the rows that were seen, uint32.
    """

    facts: dict[str, Any]
    rows: tuple[np.ndarray, ...]


def record(origin: Origin, step: int, like: Record | None = None) -> Record:
    """Build the record of a filter.

    Args:
        origin: what it was made with.
        step: number of steps it has taken.
        like: a record whose choice of axes of time holds.
    """
    ssm, theta, settings = origin
    plan, names = ssm.program.plan, [] if ssm.source is None else ssm.source.data_paths()
    arrays = [np.asarray(jax.device_get(plain(array))) for array in ssm.core.arrays]
    axes = [_time_axis(array.shape, ssm.num_steps) for array in arrays]
    constants = [
        f"{_form(array, axis)} {_checksums(array, axis, step).tolist()}"
        for array, axis in zip(arrays[len(names) :], axes[len(names) :])
    ]
    if like is not None:
        axes = [entry["axis"] for entry in like.facts["data"]] + axes[len(like.rows) :]
    data = list(zip(names, arrays, axes))
    facts = {
        "step": step,
        "num_steps": ssm.num_steps,
        "versions": {name: _version(name) for name in _COMPARED},
        "gaps": sorted(site.name for site in (*plan.inside, *plan.outside) if site.gaps),
        "settings": {
            **{field.name: printed(getattr(settings, field.name)) for field in dataclasses.fields(settings)},
            "float64": str(jnp.zeros(()).dtype == np.float64),
        },
        "sites": [
            [site.name, site.role.name, site.family, list(site.shape), str(site.dtype), printed(site.support)]
            for site in ssm.sites
            if site.name not in ssm.missing_sites
        ],
        "any_length": ssm.program.digests_without_length(),
        "program": ssm.program.digest([*(f"argument {k}" for k in range(len(names))), *constants]),
        "theta": {name: np.asarray(value).tolist() for name, value in theta.items()},
        "data": [{"name": name, "form": _form(array, axis), "axis": axis} for name, array, axis in data],
    }
    return Record(facts, tuple(_checksums(array, axis, step) for _, array, axis in data))


def differences(saved: Record, given: Record) -> list[str]:
    """Return in what two records of the same number of steps differ, a clause each."""
    a, b = saved.facts, given.facts
    found = [f"{name} was {was} and is {now}" for name, was, now in _changed(a["settings"], b["settings"])]
    sites, others = ({site[0]: site[1:] for site in facts["sites"]} for facts in (a, b))
    if other := [repr(name) for name, _, _ in _changed(sites, others)]:
        found.append(f"the model is another: site {', '.join(other)} has changed, come or gone")
    elif _computes_something_else(a, b):
        found.append(
            "the model is another: it has the same sites, but computes something else or reads other constants"
        )
    found += [f"theta['{name}'] was {was} and is {now}" for name, was, now in _changed(a["theta"], b["theta"])]
    if len(saved.rows) != len(given.rows):
        found.append(f"the model takes {len(given.rows)} arrays where it took {len(saved.rows)}")
    else:
        found += [clause for k in range(len(saved.rows)) if (clause := _data_difference(saved, given, k))]
    return found


def _data_difference(saved: Record, given: Record, k: int) -> str:
    was, now = saved.facts["data"][k], given.facts["data"][k]
    if was["form"] != now["form"]:
        return f"{now['name']} was {was['form']} and is {now['form']}"
    if len(saved.rows[k]) != len(given.rows[k]):
        return f"{now['name']} has {len(given.rows[k])} of the {len(saved.rows[k])} rows that were seen"
    other = np.flatnonzero(saved.rows[k] != given.rows[k])
    if not other.size:
        return ""
    if was["axis"] is None:
        return f"{now['name']} has other values"
    return (
        f"{now['name']} has other values in {other.size} of the {len(given.rows[k])} rows seen, first in row {other[0]}"
    )


def _computes_something_else(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return whether programs differ, those of other lengths as far as they do not depend on the length."""
    if any(a[name] != b[name] for name in ("versions", "gaps")):
        return False
    if a["num_steps"] == b["num_steps"]:
        return a["program"] != b["program"]
    return any(was and now and was != now for was, now in zip(a["any_length"], b["any_length"]))


def _changed(was: dict, now: dict) -> list[tuple[str, Any, Any]]:
    names = sorted(was.keys() | now.keys())
    return [(name, was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)]


def _time_axis(shape: tuple[int, ...], num_steps: int) -> int | None:
    return next((axis for axis, size in enumerate(shape) if size >= num_steps), None)


def _form(array: np.ndarray, axis: int | None) -> str:
    """Return dtype and shape, the length of an axis of time left open."""
    sizes = ["T" if k == axis else str(size) for k, size in enumerate(array.shape)]
    return f"{array.dtype}[{', '.join(sizes)}]"


def _checksums(array: np.ndarray, axis: int | None, step: int) -> np.ndarray:
    """Return a checksum of each row that was seen, or of the whole, uint32; every NaN is the same."""
    if np.issubdtype(array.dtype, np.inexact):
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    rows = array[None] if axis is None or axis >= array.ndim else np.moveaxis(array, axis, 0)[:step]
    return np.array([zlib.crc32(np.ascontiguousarray(row)) for row in rows], np.uint32)


def plain(array: Any) -> Any:
    """Return the words of a typed key, any other array as it is."""
    is_key = jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(array) if is_key else array


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
