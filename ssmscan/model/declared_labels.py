"""Names for the axes of a model as a user declares them, checked, and joined with those that were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssmscan.arguments import require_mapping, require_texts
from ssmscan.dates import extended
from ssmscan.labels import RESERVED, Labels, as_values, is_time, shown
from ssmscan.model.statespace.core import Core, element_shape


def declare(cores: Sequence[Core], found: Labels, before: Labels, time: Any, dims: Any, coords: Any) -> Labels:
    """Return labels that a user declares, checked, with those declared before; see `StateSpaceModel.with_labels`.

    Raises:
        TypeError: names are not text, or values neither dates nor numbers nor text.
        ValueError: a site or dimension is unknown, a length differs, or values are there twice.
    """
    sites = {site.name: element_shape(site, core) for core in cores for site in core.program.sites}
    names = Labels(merged(found, before).coords).time_names(core.num_steps for core in cores)
    own_dims = {**before.dims}
    for site, given in require_mapping("dims", {} if dims is None else dims, "names of axes by site").items():
        own_dims[site] = _require_dims(site, given, sites)
    own = {**before.coords}
    if time is not None:
        length, values = _whole_time(time, list(names))
        own[names[length]] = values
    known = merged(found, Labels({}, own_dims)).dims
    sizes = {name: length for length, name in names.items()}
    for site, axes in known.items():
        for name, size in zip(axes, sites[site]):
            if sizes.setdefault(name, size) != size:
                others = [other for other, theirs in known.items() if name in theirs and other != site]
                raise ValueError(f"dims: {name!r} has {size} entries in '{site}' and {sizes[name]} in {others}.")
    for name, given in require_mapping("coords", {} if coords is None else coords, "values by dimension").items():
        if name not in sizes:
            raise ValueError(f"coords: no site has a dimension {name!r}; there are {list(sizes)}. Name it by dims=.")
        own[name] = _require_values(f"coords[{name!r}]", as_values(name, given), sizes[name])
    return Labels(own, own_dims)


def merged(found: Labels, declared: Labels) -> Labels:
    """Return labels as declared where they are; what stands along an axis stays when it gets another name."""
    dims = {**found.dims, **declared.dims}
    coords = {**found.coords}
    for site, names in declared.dims.items():
        for old, new in zip(found.dims.get(site, ()), names):
            if old in found.coords:
                coords.setdefault(new, found.coords[old])
    used = {name for names in dims.values() for name in names}
    kept = {name: values for name, values in {**coords, **declared.coords}.items() if is_time(name) or name in used}
    return Labels(kept, dims)


def still_declared(declared: Labels, before: Labels, after: Labels) -> Labels:
    """Return what a user declared without the times in whose place other data brought their own."""
    new = {
        name
        for name, values in after.coords.items()
        if is_time(name) and not (name in before.coords and np.array_equal(values, before.coords[name]))
    }
    return Labels({name: x for name, x in declared.coords.items() if name not in new}, declared.dims)


def _require_dims(site: str, given: Any, sites: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    if site not in sites:
        raise ValueError(f"dims: the model has no site {site!r}; it has {sorted(sites)}.")
    argument = f"dims[{site!r}]"
    names = require_texts(argument, (given,) if isinstance(given, str) else given, "names of axes, as a tuple")
    if len(names) != len(sites[site]):
        raise ValueError(
            f"{argument} has {len(names)} names, and a value of the site has shape {sites[site]}: name each of its "
            "axes, without those of chains, draws and time."
        )
    for name in names:
        if name in RESERVED or is_time(name) or name in sites or not name.strip() or "/" in name:
            why = "the name of a site" if name in sites else "no name that an axis of a site can have"
            raise ValueError(f"{argument}: {name!r} is {why}. Choose another.")
    return names


def _whole_time(time: Any, lengths: Sequence[int]) -> tuple[int, np.ndarray]:
    """Return the length of a loop and its times, continued where fewer are given."""
    values, number = as_values("time", time), len(time)
    longer = [length for length in lengths if length >= number]
    fits = [length for length in longer if length == number] or longer[:1]
    steps = " or ".join(map(str, lengths))
    if not fits or (number not in fits and len(longer) > 1):
        raise ValueError(f"time has {number} entries, and the loop of the model {steps} steps: give one a step.")
    whole = values if fits[0] == number else extended(time if hasattr(time, "freq") else values, fits[0])
    if whole is None:
        raise ValueError(
            f"time has {number} entries for {steps} steps, and follows no rule that tells the others: give one a step."
        )
    return fits[0], _require_values("time", as_values("time", whole), fits[0])


def _require_values(argument: str, values: np.ndarray, size: int) -> np.ndarray:
    if len(values) != size:
        raise ValueError(f"{argument} has {len(values)} entries, and the dimension {size}.")
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) < len(values):
        raise ValueError(f"{argument} has {shown(unique[np.argmax(counts)])} more than once: give each its own.")
    return values
