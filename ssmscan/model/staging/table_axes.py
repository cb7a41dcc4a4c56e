"""What tables say of their axes: the dates of their rows, the names of their columns.

A Series or DataFrame of pandas has an index, and the frame columns; a DataArray of xarray has dimensions and
coordinates; a plain array of dates has itself.  A RangeIndex counts, and says nothing.  Nothing is imported:
who gives a table has imported its package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ssmscan.dates import AS_THEY_COME, as_dates, first_out_of_order, index_of, is_dates
from ssmscan.model.handlers.tables import as_arrays


class Axis(NamedTuple):
    """One axis of a table.

    Attributes:
        name: what the table calls it, None for nothing.
        index: its labels as they are, an index of pandas or an array; None where it only counts.
        values: the same as dates, numbers or text.
    """

    name: str | None
    index: Any = None
    values: np.ndarray | None = None


class TableAxes(NamedTuple):
    """The axes of an argument.

    Attributes:
        path: the argument in words.
        data: its values, None where it has none of numbers or is nothing but dates.
        axes: one for each axis of the values; of what has no values, those that could be the time.
    """

    path: str
    data: np.ndarray | None
    axes: tuple[Axis, ...]


def has_axes(leaf: Any) -> bool:
    """Return whether an argument may say something of its axes."""
    kinds = (("pandas", "Series", "DataFrame", "Index"), ("xarray", "DataArray", "Dataset"))
    return is_dates(leaf) or any(_is_of(leaf, *kind) for kind in kinds)


def axes_of(path: str, leaf: Any) -> TableAxes:
    """Return what an argument says of its axes, `has_axes` provided."""
    if is_dates(leaf):
        return TableAxes(path, None, (_axis(None, leaf),) if leaf.ndim == 1 else ())
    if _is_of(leaf, "xarray", "DataArray", "Dataset"):
        axes = tuple(_axis(str(dim), leaf.indexes.get(dim)) for dim in leaf.dims)
        return TableAxes(path, _data(leaf) if _is_of(leaf, "xarray", "DataArray") else None, axes)
    if _is_of(leaf, "pandas", "Index"):
        return TableAxes(path, None, (_axis(leaf.name, leaf),))
    data, rows = _data(leaf), _axis(leaf.index.name, leaf.index)
    if _is_of(leaf, "pandas", "DataFrame"):
        return TableAxes(path, data, (rows,) if data is None else (rows, _axis(leaf.columns.name, leaf.columns)))
    if data is None and rows.values is None:  # a Series of dates
        rows = _axis(None, index_of(leaf))
    return TableAxes(path, data, (rows,))


def require_dates_in_order(path: str, leaf: Any) -> None:
    """Raise if the dates of a table go back somewhere; the same date several times is none of this.

    Args:
        path: the argument in words.
        leaf: the argument, which need not be a table.

    Raises:
        ValueError: they do; the message names the first, and the remedy.
    """
    if _is_of(leaf, "pandas", "Series", "DataFrame"):
        named = [("row", leaf.index, "sort_index()")]
        if _is_of(leaf, "pandas", "DataFrame"):
            named.append(("column", leaf.columns, "sort_index(axis=1)"))
    elif _is_of(leaf, "xarray", "DataArray"):
        named = [(f"{dim!r}", leaf.indexes[dim], f"sortby({dim!r})") for dim in leaf.dims if dim in leaf.indexes]
    else:
        return
    for axis, index, remedy in named:
        if (place := first_out_of_order(index)) is not None:
            raise ValueError(
                f"{path}: its dates are not in order, first at {axis} {place} (counted from 0), {index[place]} after "
                f"{index[place - 1]}: {AS_THEY_COME}. Pass it sorted, y.{remedy}."
            )


def labels_beside_time(old: Any, new: Any) -> Iterator[tuple[str, list, list]]:
    """Yield what stands along the axes of two tables of a kind, but not along that of the time.

    The time is the index of what pandas has; of a DataArray it is the dimension with dates, else the first.

    Yields:
        What the axis is called, and its labels in the one and in the other.
    """
    if all(_is_of(table, "pandas", "DataFrame") for table in (old, new)):
        yield "columns", _listed(old.columns), _listed(new.columns)
    elif all(_is_of(table, "xarray", "DataArray") for table in (old, new)):
        yield "dimensions", _listed(old.dims), _listed(new.dims)
        dated = [dim for dim in old.dims if dim in old.indexes and as_dates(old.indexes[dim]) is not None]
        for dim in old.dims:
            if dim != (*dated, *old.dims)[0] and dim in old.indexes and dim in new.indexes:
                yield str(dim), _listed(old.indexes[dim]), _listed(new.indexes[dim])


def _listed(labels: Any) -> list:
    return labels.tolist() if hasattr(labels, "tolist") else list(labels)


def _is_of(leaf: Any, package: str, *names: str) -> bool:
    """Return whether a value is of some classes of a package, if that has been imported."""
    module = sys.modules.get(package)
    return module is not None and any(isinstance(leaf, getattr(module, name)) for name in names)


def _axis(name: Any, index: Any) -> Axis:
    name = name if isinstance(name, str) else None
    if index is None or _is_of(index, "pandas", "RangeIndex"):
        return Axis(name)
    values = next(_candidates(index), None)
    if values is None or len(np.unique(values)) < len(values):
        return Axis(name)
    return Axis(name, index, values)


def _candidates(index: Any) -> Iterator[np.ndarray]:
    """Yield the labels of an index as dates, as numbers, or as text where they are."""
    if (dates := as_dates(index)) is not None:
        yield dates
    found = np.asarray(index)
    if found.dtype.kind in "biufU":
        yield found
    elif found.dtype == object:
        texts = [", ".join(map(str, label)) if isinstance(label, tuple) else label for label in found]
        if all(isinstance(text, str) for text in texts):
            yield np.array(texts)


def _data(leaf: Any) -> np.ndarray | None:
    found = as_arrays(leaf)
    return None if found is leaf else np.asarray(found)
