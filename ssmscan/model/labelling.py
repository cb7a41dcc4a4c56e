"""Names for the axes of a model, found in its arguments and plates.

The time coordinate is the index of a table among the arguments (a Series or DataFrame of pandas, a DataArray of xarray)
or an array of dates, where it belongs to a loop: its values are those that the loop observes, or it is as long as the
loop.  Of a table whose first rows are before the loop, as where the first observation starts it, they are left out.  A
loop that is longer than its data has the dates that follow, see `ssmscan.dates`.  Dates go before numbers and text, and
if two arguments have different ones, none is taken.

An element axis has the name of its plate, as NumPyro's own results have, else that of the columns of a frame or of the
dimension of an array whose values the site observes, and these columns as its coordinate.  In a panel without plates,
the states share the axis of what they are observed by.

Everything here is done on the host with the arguments as they are, and no program depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ssmscan.dates import AS_THEY_COME, extended, first_after_gap, first_out_of_order
from ssmscan.labels import RESERVED, Labels, default_axis, is_time, shown
from ssmscan.model.staging.table_axes import Axis, TableAxes, axes_of, has_axes
from ssmscan.model.statespace.core import Core, element_shape, is_timed


class Found(NamedTuple):
    """What was found.

    Attributes:
        labels: the labels.
        notes: what could not be taken, and why, in sentences.
    """

    labels: Labels = Labels()
    notes: tuple[str, ...] = ()


class Match(NamedTuple):
    """Where the values of a table are those that a site observes.

    Attributes:
        site: its name.
        length: steps of its loop.
        first: the row of the table that belongs to the first step.
        axes: axes of the table after time, in the order of the site's.
    """

    site: str
    length: int
    first: int
    axes: tuple[Axis, ...]


class Times(NamedTuple):
    """A time coordinate that an argument has for loops of a length; `values` is None where dates do not go on."""

    path: str
    length: int
    known: np.ndarray
    values: np.ndarray | None


def find(cores: Sequence[Core], leaves: Sequence[Any], paths: Sequence[str], observed: Mapping[str, Any]) -> Found:
    """Return what the arguments and the plates of a model say of its axes.

    Args:
        cores: the loops.
        leaves: leaves of the arguments.
        paths: what each is called.
        observed: observed values by site, empty where they are not known.

    Raises:
        ValueError: the dates of a loop, given beside its data, are not in order.
    """
    tables = [axes_of(path, leaf) for path, leaf in zip(paths, leaves) if has_axes(leaf)]
    arrays = [np.asarray(a) for a in leaves if isinstance(a, np.ndarray | jax.Array) and not _unknown(a)]
    timed = {site.name: core.num_steps for core in cores for site in core.program.sites if is_timed(site, core)}
    series = {name: (np.asarray(x), timed[name]) for name, x in observed.items() if name in timed}
    matches = [(table, list(_matches(table, series))) for table in tables]
    times, notes = _choose([t for table, found in matches for t in _times(table, found, arrays, series, timed)])
    for values in times.values():
        if (place := first_out_of_order(values)) is not None:
            raise ValueError(
                f"the dates of the time are not in order, first at step {place} (counted from 0), "
                f"{shown(values[place])} after {shown(values[place - 1])}: {AS_THEY_COME}. Sort the dates and the data."
            )
        if values.dtype.kind == "M" and (place := first_after_gap(values)) is not None:
            notes += (
                f"dates are left out of the time, first before {shown(values[place])}, which follows "
                f"{shown(values[place - 1])}: {AS_THEY_COME}, and knows nothing of the time between. Where nothing was "
                "observed put rows of NaN, as y.asfreq(...) of pandas does.",
            )
    names = Labels().time_names(core.num_steps for core in cores)
    dims, coords = _elements(cores, [match for _, found in matches for match in found])
    return Found(Labels({names[n]: values for n, values in times.items()} | coords, dims), notes)


def _unknown(array: Any) -> bool:
    return isinstance(array, jax.core.Tracer)


# ---- which site observes a table ----------------------------------------------------------------


def _matches(table: TableAxes, series: Mapping[str, tuple[np.ndarray, int]]) -> Iterator[Match]:
    """Yield the sites that observe the values of a table or of one of its columns, time its first axis or another."""
    if table.data is None:
        return
    for time in range(table.data.ndim):
        data = np.moveaxis(table.data, time, 0)
        axes = (table.axes[time], *table.axes[:time], *table.axes[time + 1 :])
        for site, (values, length) in series.items():
            if values.shape[1:] == data.shape[1:] and (first := first_row(data, values, length)) is not None:
                yield Match(site, length, first, axes)
            elif data.ndim == 2 and values.ndim == 1:
                rows = (first_row(column, values, length) for column in data.T)
                if (found := [row for row in rows if row is not None]) and axes[0].values is not None:
                    yield Match(site, length, found[0], axes[:1])


def first_row(data: np.ndarray, observed: np.ndarray, length: int) -> int | None:
    """Return the row of data with which the observed values of a loop begin, None where they are others.

    Values that the data do not reach have to be missing.
    """
    first = max(len(data) - length, 0)
    data = data[first:].astype(observed.dtype, copy=False) if data.dtype.kind != "O" else data[first:]
    if len(observed) != length or not np.array_equal(data, observed[: len(data)], equal_nan=data.dtype.kind == "f"):
        return None
    rest = observed[len(data) :]
    return first if rest.size == 0 or (rest.dtype.kind == "f" and bool(np.isnan(rest).all())) else None


# ---- the time -----------------------------------------------------------------------------------


def _times(
    table: TableAxes,
    found: Sequence[Match],
    arrays: Sequence[np.ndarray],
    series: Mapping[str, tuple[np.ndarray, int]],
    timed: Mapping[str, int],
) -> Iterator[Times]:
    """Yield what a table says of the time of the loops."""
    for match in found:
        if match.axes[0].values is not None:
            yield _continued(table.path, match.axes[0], match.length, match.first)
    if found:
        return
    for axis in table.axes:
        if axis.values is None:
            continue
        number = len(axis.values)
        if number in timed.values():
            yield _continued(table.path, axis, number, 0)
            return
        for values, length in series.values():
            beside = (first_row(a, values, length) for a in arrays if a.shape == (number, *values.shape[1:]))
            rows = [row for row in beside if row is not None]
            if (rows and table.data is None) or number == _steps_with_data(values):
                yield _continued(table.path, axis, length, rows[0] if rows and table.data is None else 0)
                return


def _steps_with_data(values: np.ndarray) -> int:
    """Count the steps up to the last one that has data."""
    there = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    return int(np.flatnonzero(there.reshape(len(values), -1).any(1)).max(initial=-1)) + 1


def _continued(path: str, axis: Axis, length: int, first: int) -> Times:
    index, values = axis.index[first:], axis.values[first:]  # type: ignore[index]
    return Times(path, length, values, values if len(values) == length else extended(index, length))


def _choose(times: Sequence[Times]) -> tuple[dict[int, np.ndarray], tuple[str, ...]]:
    """Return the time coordinate of the loops of each length, and why others have none."""
    chosen, notes = {}, []
    for length in dict.fromkeys(one.length for one in times):
        found = [one for one in times if one.length == length]
        if dated := [one for one in found if one.known.dtype.kind == "M"]:
            found = dated
        whole = [one for one in found if one.values is not None] or found
        whole = [one for one in whole if len(one.known) == length] or whole
        first = whole[0]
        other = [one for one in found if not _agree(one.known, first.known if first.values is None else first.values)]
        if other:
            notes.append(
                f"{first.path} and {other[0].path} have different {_kind(first)}, so that the time has none: choose "
                "by ssm.with_labels(time=...)"
            )
        elif first.values is None:
            notes.append(
                f"the {_kind(first)} of {first.path} end at {shown(first.known[-1])} and follow no rule that "
                f"tells the {length - len(first.known)} steps after them: give all by ssm.with_labels(time=...)"
            )
        else:
            chosen[length] = first.values
    return chosen, tuple(notes)


def _agree(known: np.ndarray, whole: np.ndarray) -> bool:
    n = min(len(known), len(whole))
    return np.array_equal(known[:n], whole[:n])


def _kind(times: Times) -> str:
    return {"M": "dates", "U": "labels"}.get(times.known.dtype.kind, "numbers")


# ---- elements -----------------------------------------------------------------------------------


def _elements(
    cores: Sequence[Core], matches: Sequence[Match]
) -> tuple[dict[str, tuple[str, ...]], dict[str, np.ndarray]]:
    """Name the element axes of every site, and find what stands along them."""
    sites = {site.name: (site, core) for core in cores for site in core.program.sites}
    names: dict[str, list[Any]] = {
        name: [None] * len(element_shape(site, core)) for name, (site, core) in sites.items()
    }
    taken = {*RESERVED, *sites, *(name.replace("/", ".") for name in sites)}
    for core in cores:
        for traced in core.traced_sites:
            for plate, size, axis in traced.plates:
                own = names.get(traced.name, [])
                usable = plate.replace("/", ".") not in taken and not is_time(plate)
                if usable and -len(own) <= axis < 0 and element_shape(*sites[traced.name])[axis] == size:
                    own[axis] = plate.replace("/", ".")
    coords: dict[str, np.ndarray] = {}
    refused: set[str] = set()
    for match in matches:
        for k, axis in enumerate(match.axes[1:]):
            plain = axis.name is not None and axis.name not in taken and not is_time(axis.name)
            name = names[match.site][k] or (axis.name if plain else default_axis(match.site, k))
            if name not in names[match.site]:
                names[match.site][k] = name
            if axis.values is not None and names[match.site][k] == name:
                if name in coords and not np.array_equal(coords[name], axis.values):
                    refused.add(name)
                coords.setdefault(name, axis.values)
    _share(cores, names)
    sizes: dict[str, set[int]] = {}
    for site, own in names.items():
        for name, size in zip(own, element_shape(*sites[site])):
            if name is not None:
                sizes.setdefault(name, set()).add(size)
    refused |= {name for name, found in sizes.items() if len(found) > 1}
    coords = {name: x for name, x in coords.items() if name not in refused}
    odd = {name for name, found in sizes.items() if len(found) > 1}
    dims = {
        site: tuple(default_axis(site, k) if n is None or n in odd else n for k, n in enumerate(own))
        for site, own in names.items()
        if any(n is not None for n in own)
    }
    return dims, coords


def _share(cores: Sequence[Core], names: dict[str, list[str | None]]) -> None:
    """Give the name of the axis of a panel, where one site has it, to the same axis of the others."""
    for core in cores:
        axes = [] if core.panel is None else [(site, axis) for site, axis in core.panel.values if axis < 0]
        axes = [(site, axis) for site, axis in axes if -len(names.get(site, ())) <= axis]
        if named := [name for site, axis in axes if (name := names[site][axis]) is not None]:
            for site, axis in axes:
                if names[site][axis] is None and named[0] not in names[site]:
                    names[site][axis] = named[0]
