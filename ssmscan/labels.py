"""Names of axes and of what stands along them: dates, series, coefficients.

A result has arrays; who reads it wants to know that its 90th row is May 2024 and its third column is Portugal.
`Labels` says so for a whole model: `coords` holds the values along each dimension, and `dims` the names of the
dimensions of each site, as xarray and ArviZ use the two words.  The axes of chains, draws and time are known by where
they stand, and `dims` does not repeat them.

    Labels({"time": dates, "country": ["ES", "PT"]}, {"x": ("country",), "beta": ("country",)})

Loops of one model may have several lengths, so that time dimensions are told apart by theirs: "time", and "time_1",
"time_2" for loops of other lengths.  Labels are read on the host alone.  No compiled program knows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssmscan.dates import as_dates

_TIME = re.compile(r"time(_[1-9][0-9]*)?")


RESERVED = ("chain", "draw")
"""Dimensions of every result, which no axis of a site can be called, nor a time."""


MOST_SHOWN = 6
"""Of more values the first and the last are shown."""


def default_axis(site: str, axis: int) -> str:
    """Return the name of an axis that nobody named, as ArviZ makes it."""
    return f"{site.replace('/', '.')}_dim_{axis}"


def is_time(dim: str) -> bool:
    """Return whether this is the name of a time dimension: "time", or "time_1", "time_2" of other loops."""
    return _TIME.fullmatch(dim) is not None


@dataclass(frozen=True, eq=False)
class Labels:
    """What the axes of a model's sites are called, and what stands along them; empty where nothing is known.

    Attributes:
        coords: dimension -> its values, one an index: datetime64, numbers or text. That of a time dimension has the
            length of its loop.
        dims: site -> names of its axes after those of chains, draws and time.
    """

    coords: Mapping[str, np.ndarray] = field(default_factory=dict)
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the values NumPy's, and the names tuples."""
        object.__setattr__(self, "coords", {name: as_values(name, x) for name, x in self.coords.items()})
        object.__setattr__(self, "dims", {site: tuple(names) for site, names in self.dims.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Labels):
            return NotImplemented
        same = self.coords.keys() == other.coords.keys() and self.dims == other.dims
        return same and all(np.array_equal(x, other.coords[name]) for name, x in self.coords.items())

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self.coords or self.dims)

    def __str__(self) -> str:
        """Return a line for each coordinate: its name, and its values or the first and the last."""
        lines = []
        for name, values in self.coords.items():
            few = [shown(x) for x in (values if len(values) <= MOST_SHOWN and not is_time(name) else values[[0, -1]])]
            lines.append(f"{name}: {', '.join(few) if len(few) == len(values) else ' to '.join(few)}")
        return "\n".join(lines)

    def times(self, num_steps: int) -> np.ndarray | None:
        """Return the time coordinate of the loops of so many steps, None where there is none."""
        found = [x for name, x in self.coords.items() if is_time(name) and len(x) == num_steps]
        return found[0] if found else None

    def time_names(self, lengths: Iterable[int]) -> dict[int, str]:
        """Name the time dimension of the loops of each length; loops with a coordinate have its name."""
        known = {len(x): name for name, x in self.coords.items() if is_time(name)}
        wanted = list(dict.fromkeys(lengths))
        names = ("time" if k == 0 else f"time_{k}" for k in range(len(known) + len(wanted)))
        free = (name for name in names if name not in known.values())
        return {length: known.get(length) or next(free) for length in wanted}

    def index(self, site: str, element: Any) -> Any:
        """Return the index of an element of a site, of which text stands for what is labelled so; else as it is.

        Raises:
            ValueError: nothing along that axis is labelled so.
        """
        asked = (element,) if isinstance(element, str) else element
        if not isinstance(asked, tuple) or not isinstance(site, str):
            return element
        along = [self.coords.get(name, np.zeros(0)) for name in self.dims.get(site, ())]
        found: list[Any] = []
        for axis, one in enumerate(asked):
            known = [shown(x) for x in along[axis]] if axis < len(along) else []
            if isinstance(one, str) and one not in known:
                there = f"it has {', '.join(known)}" if known else "it has no labels"
                raise ValueError(f"element: axis {axis} of {site} has no {one!r}; {there}")
            found.append(known.index(one) if isinstance(one, str) else one)
        return tuple(found)

    def element(self, site: str, index: tuple[int, ...]) -> str:
        """Return the name of a scalar: the site, and what is labelled at its index, the index where nothing is."""
        along = [self.coords.get(name) for name in self.dims.get(site, ())] + [None] * len(index)
        said = [str(i) if x is None else shown(x[i]) for i, x in zip(index, along)]
        return f"{site}[{','.join(said)}]" if index else site

    def elements(self, site: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
        """Return name and index of every scalar of a site, row by row; its index for a name where two are alike."""
        indices = list(np.ndindex(shape))
        names = [self.element(site, index) for index in indices]
        if len(set(names)) < len(names):
            names = [Labels().element(site, index) for index in indices]
        return list(zip(names, indices))

    def axes(self, site: str, variable: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return a name for each axis of a site after those of chains, draws and time.

        Args:
            site: its name.
            variable: what its variable is called where it has a name of its own, the head of names that nobody gave.
            shape: of those axes; behind those of the site there may be others.
        """
        named = self.dims.get(site, ())
        known = named if len(named) <= len(shape) else ()
        return (*known, *(f"{variable}_dim_{i}" for i in range(len(known), len(shape))))


def shown(value: np.generic) -> str:
    """Print one value of a coordinate; of a date as much as there is, the day at least."""
    if value.dtype.kind != "M":
        return str(value)
    day = value.astype("datetime64[D]")
    return str(day) if day == value else str(value.astype("datetime64[s]"))


def labels_of(ssm: object) -> Labels:
    """Return the labels of a model; none of one that was made by hand, or inside jit."""
    found = getattr(ssm, "labels", None)
    return found if isinstance(found, Labels) else Labels()


def require_same_elements(model: Labels, result: Labels) -> None:
    """Raise if other elements stand along an axis of a site in a model than in a result that it is used with.

    Where one of the two does not say what stands there nothing is compared.

    Raises:
        ValueError: they differ, or are in another order.
    """
    for site, names in model.dims.items():
        for own, theirs in zip(names, result.dims.get(site, ())):
            here, there = model.coords.get(own), result.coords.get(theirs)
            if here is not None and there is not None and not np.array_equal(here, there):
                raise ValueError(
                    f"ssm: along the axis {own!r} of '{site}' it has {listed(here)}, and the result {listed(there)}. "
                    + (
                        f"Trace the model with the same columns in the order of the result, as y[{there.tolist()}] has "
                        "them."
                        if sorted(map(str, here)) == sorted(map(str, there))
                        else "Give the model that the result was made with; if only the names are others, declare "
                        f"those of the result by ssm.with_labels(coords={{{own!r}: ...}})."
                    )
                )


def listed(values: np.ndarray) -> str:
    """Print the values of a coordinate in their order."""
    return f"[{', '.join(map(shown, values))}]"


def as_values(name: str, values: Any) -> np.ndarray:
    """Return the values along a dimension as an array of dates, numbers or text, read-only.

    Raises:
        TypeError: if they are something else.
        ValueError: if they are not a list.
    """
    found = np.asarray(values)
    if found.ndim != 1:
        raise ValueError(f"coords[{name!r}] must be a list of values, one an index, got shape {found.shape}")
    if (dates := as_dates(values)) is not None:
        found = dates
    elif found.dtype == object and all(isinstance(value, str) for value in found):
        found = found.astype(str)
    if found.dtype.kind not in "MbiufU":
        raise TypeError(f"coords[{name!r}] must be dates, numbers or text, got {found.dtype}")
    found = found.view()
    found.flags.writeable = False
    return found
