"""What figures show, as numbers, and the checks of what they are asked for.

A state with an order is a centre and ribbons.
A state of a few whole values is a category: its codes have no order worth a median, so that what is shown is the
probability of each value at each time.  From a `Result` these are the probabilities that the engine computed where it
summed the state out, else frequencies in the paths; from a filter those that it kept.  Where it kept no more than the
mean of the codes, they are known if there are two values, 0 and 1, and the mean is shown if there are more.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from ssmscan import containers
from ssmscan.results.data import NO_PATHS
from ssmscan.results.result import Result
from ssmscan.results.summary import scalars

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
    require_name(site)
    timed = [name for name in source.states if name not in source.initial]
    if site not in timed:
        raise KeyError(f"the result has no state {site!r} with a time axis; it has {timed}")
    values = source.states[site]
    known = source.state_probabilities.get(site)
    if known is None and not len(source.state_draws):
        raise ValueError(f"the result has no path of {site!r}: {NO_PATHS}")
    paths = scalar(values, site, element, leading=3)
    paths = paths.reshape(-1, paths.shape[-1])
    if known is not None:
        index: tuple[Any, ...] = (slice(None), *element)
        return Categories(known[index], _names(np.unique(paths), known.shape[-1]))
    return of_paths(paths, whole=values.dtype.kind in "biu")


def smoothed_given_parameters(source: Any, site: str, element: tuple[int, ...]) -> Path | Categories:
    """Return what a smoother says of a state given all data and parameters.

    Quantiles are those of the paths.  Where its mean and sd are exact, or paths are of the last steps alone, the
    ribbons are those of a normal law with that mean and sd.

    Raises:
        KeyError: if there is no such state with a time axis.
        ValueError: if the element is not a scalar.
    """
    require_name(site)
    timed = [name for name, x in source.mean.items() if np.ndim(x)]
    if site not in timed:
        raise KeyError(f"the smoother has no state {site!r} with a time axis; it has {timed}")
    mean, sd = (scalar(moments[site], site, element, leading=1) for moments in (source.mean, source.sd))
    values = np.asarray(source.paths.get(site, np.zeros((0, 0, *np.shape(source.mean[site])[1:]))))
    paths = scalar(values, site, element, leading=2)
    whole = values.dtype.kind in "biu" and paths.size > 0
    if whole and site in source.exact and np.isin(paths, (0, 1)).all():
        return Categories(np.stack([1.0 - mean, mean], -1), ("0", "1"))
    if len(paths) and paths.shape[1] == len(mean) and (whole or site not in source.exact):
        return of_paths(paths, whole=whole)
    return _normal(mean, sd)


def filtered(source: Any, site: str, element: tuple[int, ...], probs: tuple[float, ...]) -> Path | Categories:
    """Return what the result of a filter says of a state given the data up to each step.

    Raises:
        KeyError: if the filter kept nothing to draw, or has no such state.
        ValueError: if the element is not a scalar, or the quantiles are not at these levels.
    """
    require_name(site)
    kept: Mapping[str, Mapping[str, Any]] = source.summaries
    if site in kept.get("probabilities", {}):
        known = scalar(kept["probabilities"][site], site, element, leading=2)
        return Categories(known, tuple(map(str, range(known.shape[-1]))))
    if "quantiles" not in kept and not {"mean", "sd"} <= kept.keys():
        raise KeyError(
            f"the filter kept {sorted(kept)}; run it with summaries=(Mean(), SD()), (Quantiles(),), or for a "
            "regime of K values (Probabilities(K),)"
        )
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
    return _normal(mean, sd)


def of_paths(
    paths: np.ndarray, *, whole: bool, bands: Sequence[float] = BANDS, most_values: int = MOST_VALUES
) -> Path | Categories:
    """Return quantiles of paths (n, T), or the frequencies of their values if these are whole numbers and few."""
    if whole and len(found := np.unique(paths)) <= most_values:
        return Categories(np.stack([(paths == x).mean(0) for x in found], -1), tuple(f"{x:g}" for x in found))
    ribbons = [(band, *np.quantile(paths, [0.5 - band / 2, 0.5 + band / 2], axis=0)) for band in bands]
    return Path(np.median(paths, axis=0), "median", ribbons)


def density(name: str, result: Result, parameter: str) -> tuple[np.ndarray, np.ndarray]:
    """Return grid and density of a scalar of the result called `name`, a parameter or computed; its one value, if one.

    Raises:
        KeyError: if there is no such parameter.
        ValueError: if there are no draws, or some are not finite.
    """
    draws = dict(scalars({**result.draws, **result.deterministics}, result.labels))
    if not isinstance(parameter, str) or parameter not in draws:
        raise KeyError(f"{name} has no parameter {parameter!r}; it has {', '.join(draws)}")
    values = draws[parameter]
    if not values.size:
        raise ValueError(f"{name} has no draws: let it run longer")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has draws of {parameter} that are not finite: their density cannot be drawn")
    return containers.kde(values) if np.ptp(values) > 0.0 else (values.ravel()[:1], np.ones(1))


def labels(known: Collection[str], asked: Any) -> list[str]:
    """Return the labels of the parameters to show, all unless some are asked for.

    Raises:
        TypeError: if it is not a list that is asked for.
        KeyError: if there is no such parameter, or none is asked for.
    """
    if asked is None:
        return list(known)
    if isinstance(asked, str) or not isinstance(asked, Sequence):
        raise TypeError(f"parameters must be a list of labels, got {asked!r}")
    unknown = [label for label in asked if label not in list(known)]
    if unknown or not asked:
        raise KeyError(f"the comparison has no parameter {unknown[0] if unknown else ''!r}; it has {', '.join(known)}")
    return list(asked)


def times(asked: Any, num_steps: int) -> np.ndarray:
    """Return the times (T,) of the horizontal axis, the steps from 1 unless some are given.

    Raises:
        ValueError: if they are not one a step.
        TypeError: if they are neither numbers nor dates.
    """
    x = np.arange(1, num_steps + 1) if asked is None else np.asarray(asked)
    if x.shape != (num_steps,):
        raise ValueError(f"times must be ({num_steps},), one a step, got {x.shape}")
    if x.dtype.kind not in "iufM" and not all(isinstance(t, datetime.date) for t in x):
        raise TypeError(f"times must be numbers or dates, got {x.dtype}")
    return x


def require_name(site: Any) -> None:
    """Raise TypeError unless this is the name of a site."""
    if not isinstance(site, str):
        raise TypeError(f"site must be the name of a state, got {type(site).__name__}")


def levels(probabilities: Any) -> tuple[float, ...]:
    """Return the levels of quantiles.

    Raises:
        ValueError: if they are not increasing numbers between 0 and 1.
    """
    levels = np.asarray(probabilities) if isinstance(probabilities, (tuple, list, np.ndarray)) else np.zeros(())
    if levels.ndim != 1 or levels.dtype.kind != "f" or not np.all(np.diff(levels, prepend=0.0, append=1.0) > 0.0):
        raise ValueError(f"probabilities must be increasing levels between 0 and 1, got {probabilities!r}")
    return tuple(map(float, levels))


def bands(asked: Any) -> tuple[float, ...]:
    """Return the probabilities of central intervals from the widest.

    Raises:
        ValueError: if they are not numbers between 0 and 1, or there is none.
    """
    found = np.asarray(asked) if isinstance(asked, (tuple, list, np.ndarray)) else np.zeros(())
    if found.ndim != 1 or found.dtype.kind != "f" or not len(found) or not ((found > 0.0) & (found < 1.0)).all():
        raise ValueError(f"bands must be probabilities between 0 and 1, such as (0.9, 0.5), got {asked!r}")
    return tuple(sorted(map(float, found), reverse=True))


def scalar(values: Any, site: str, element: Any, *, leading: int) -> np.ndarray:
    """Return the scalar element of a site's values, after a number of leading axes.

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


def _normal(mean: np.ndarray, sd: np.ndarray) -> Path:
    """Return the path of a normal law with mean and sd (T,)."""
    widths = [(band, special.ndtri(0.5 + band / 2) * sd) for band in BANDS]
    return Path(mean, "mean", [(band, mean - width, mean + width) for band, width in widths])


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
