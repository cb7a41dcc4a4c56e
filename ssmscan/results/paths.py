"""What a figure of states shows, as numbers: a centre and ribbons, or the probabilities of the values of a category.

A state of a few whole values is a category: its codes have no order worth a median, so that what is shown is the
probability of each value at each time.  From a `Result` these are the probabilities that the engine computed where it
summed the state out, else frequencies in the paths; from a filter, which kept no more than the mean of the codes, they
are known where there are two values, 0 and 1, and the mean is shown where there are more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from ssmscan.results.result import Result

BANDS = (0.9, 0.5)

MOST_VALUES = 8
"""A state of whole numbers with more values than this is a count, and has quantiles."""


class Path(NamedTuple):
    """Centre (T,) of a scalar state, and ribbons from the widest: probability, low (T,), high (T,)."""

    centre: np.ndarray
    kind_of_centre: str
    ribbons: list[tuple[float, np.ndarray, np.ndarray]]


class Categories(NamedTuple):
    """Probabilities (T, K) of the K values of a scalar state, and the values in words."""

    probabilities: np.ndarray
    values: tuple[str, ...]


def smoothed(source: Result, site: str, element: tuple[int, ...]) -> Path | Categories:
    """Return what a result says of a state given all data.

    Raises:
        KeyError: if it has no such state with a time axis.
        ValueError: if the element is not a scalar, or there are no paths.
    """
    timed = [name for name in source.states if name not in source.initial]
    if site not in timed:
        raise KeyError(f"the result has no state {site!r} with a time axis; it has {timed}")
    values = source.states[site]
    paths = scalar(values, site, element, leading=3)
    paths = paths.reshape(-1, paths.shape[-1])
    known = source.state_probabilities.get(site)
    if known is not None:
        index: tuple[Any, ...] = (slice(None), *element)
        return Categories(known[index], _names(np.unique(paths), known.shape[-1]))
    if not len(paths):
        raise ValueError(f"the result has no path of {site!r}: run the engine with num_paths of 1 or more")
    if values.dtype.kind in "biu" and len(found := np.unique(paths)) <= MOST_VALUES:
        return Categories(np.stack([(paths == x).mean(0) for x in found], -1), tuple(f"{x:g}" for x in found))
    ribbons = [(band, *np.quantile(paths, [0.5 - band / 2, 0.5 + band / 2], axis=0)) for band in BANDS]
    return Path(np.median(paths, axis=0), "median", ribbons)


def filtered(source: Any, site: str, element: tuple[int, ...], probs: tuple[float, ...]) -> Path | Categories:
    """Return what the result of a filter says of a state given the data up to each step.

    Raises:
        KeyError: if the filter kept nothing to draw, or has no such state.
        ValueError: if the element is not a scalar, or the quantiles are not at these levels.
    """
    kept: Mapping[str, Mapping[str, Any]] = source.summaries
    if "quantiles" not in kept and not {"mean", "sd"} <= kept.keys():
        raise KeyError(f"the filter kept {sorted(kept)}; run it with summaries=(Mean(), SD()) or (Quantiles(),)")
    sites = kept["quantiles" if "quantiles" in kept else "mean"]
    if site not in sites:
        raise KeyError(f"the filter has no state {site!r}; it has {list(sites)}")
    if "quantiles" in kept:
        levels = scalar(sites[site], site, element, leading=2)
        if levels.shape[1] != len(probs) or 0.5 not in probs:
            raise ValueError(f"probabilities must be the filter's {levels.shape[1]}, 0.5 among them, got {probs}")
        ribbons = [(probs[-1 - k] - probs[k], levels[:, k], levels[:, -1 - k]) for k in range(len(probs) // 2)]
        return Path(levels[:, probs.index(0.5)], "median", ribbons)
    mean, sd = (scalar(kept[name][site], site, element, leading=1) for name in ("mean", "sd"))
    if _is_binary(source, site, mean, sd):
        return Categories(np.stack([1.0 - mean, mean], -1), ("0", "1"))
    widths = [(band, special.ndtri(0.5 + band / 2) * sd) for band in BANDS]
    return Path(mean, "mean", [(band, mean - width, mean + width) for band, width in widths])


def scalar(values: Any, site: str, element: Any, *, leading: int) -> np.ndarray:
    """Return the scalar element of a site's values, after so many leading axes.

    Raises:
        ValueError: if the element is not the index of a scalar.
    """
    values = np.asarray(values, np.float64)
    shape = values.shape[leading:]
    whole = isinstance(element, tuple) and all(isinstance(i, (int, np.integer)) for i in element)
    if not whole or len(element) != len(shape) or not all(-n <= i < n for i, n in zip(element, shape)):
        raise ValueError(
            f"{site} has shape {shape}: choose a scalar with element=, a tuple of indices, got {element!r}"
        )
    return values[(..., *element)]


def _names(found: np.ndarray, number: int) -> tuple[str, ...]:
    """Return the values of a category in words, from those that paths have; all that are not seen count from zero."""
    if len(found) == number:
        return tuple(f"{x:g}" for x in found)
    if all(x in range(number) for x in found):
        return tuple(map(str, range(number)))
    return tuple(f"value {k + 1} of {number}" for k in range(number))


def _is_binary(source: Any, site: str, mean: np.ndarray, sd: np.ndarray) -> bool:
    """Return whether a filter's state of whole numbers was 0 or 1 at every step: then its mean gives its variance."""
    values = getattr(getattr(source, "final", None), "values", {})
    whole = site in values and np.asarray(values[site]).dtype.kind in "biu"
    return whole and bool(np.allclose(sd**2, mean * (1.0 - mean), rtol=0.0, atol=1e-3))
