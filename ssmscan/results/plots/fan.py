"""A forecast as a fan of quantiles that opens where the data end.

What lies before the origin is drawn pale: of an observed site the data, over the range of new draws of them (the
posterior predictive, which has seen the data); of a state its ribbons given all data.  Behind it are the quantiles of
the forecast, and hollow points for data that it has not seen, if given.  Draws of a prior predictive have no origin,
and are all fan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssmscan.arguments import require_instance, require_integer
from ssmscan.labels import labels_of
from ssmscan.results.plots import curves
from ssmscan.results.plots.curves import Categories, Path
from ssmscan.results.plots.drawing import BLUE, GREY, axes, label_times, labelled, legend, require_colour
from ssmscan.results.plots.paths import draw_categories
from ssmscan.results.plots.sources import time_coordinate
from ssmscan.results.predictions import Predictions

PALE = 0.35
"""Strength of what lies before the origin, beside the forecast."""


def forecast(
    predictions: Predictions,
    site: str,
    *,
    element: str | tuple[int | str, ...] = (),
    observed: Any = None,
    bands: Sequence[float] = (0.9, 0.5),
    history: int | None = None,
    times: Any = None,
    colour: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw a site before the origin of a forecast, and its quantiles from there on.

    Args:
        predictions: what `ssmscan.predict` or `ssmscan.prior_predictive` returned.
        site: name of a site that has a time axis: an observed one, or a state.
        element: index of the scalar, for a site that is an array, or what the labels call it.
        observed: (T,) data drawn as points, hollow behind the origin; NaN where there are none.  By default those of
            the predictions.
        bands: probabilities of the central intervals, drawn from the widest.
        history: number of steps before the origin to draw; all by default.
        times: (T,) numbers or dates; by default those of the predictions' labels, else steps from 1.
        colour: of line and fan.
        ax: Axes to draw into.

    Raises:
        TypeError: if these are no predictions.
        KeyError: if there is no such site with a time axis.
        ValueError: if the element is not a scalar, a band is not a probability, or times or data are not one a step.
    """
    expected = "what ssmscan.predict or ssmscan.prior_predictive returned"
    require_instance("predictions", predictions, Predictions, expected)
    element = labels_of(predictions).index(site, element)
    paths, data, path = _numbers(predictions, site, element, observed, curves.bands(bands))
    num_steps, origin = paths.shape[-1], predictions.known[site]
    found = time_coordinate(predictions, num_steps) if times is None else times
    x = curves.times(found, num_steps)
    start = 0 if history is None else max(origin - require_integer("history", history, at_least=0), 0)
    require_colour(colour)
    ax = axes(ax, (7.0, 3.0))
    name, colour = labelled(predictions, site, element), colour or BLUE
    if isinstance(path, Categories):
        shown = path._replace(probabilities=path.probabilities[start:])
        draw_categories(ax, x[start:], shown, name, "forecast", None, over=False)
        ax.set_ylabel(f"probability of {name}")
    else:
        of_data = site in predictions.observed
        _draw_history(ax, x, path, slice(start, origin), name, colour, of_data=of_data)
        _draw_fan(ax, x, path, slice(max(origin, start), num_steps), name, colour, "forecast" if origin else "prior")
        ax.set_ylabel(name)
    _draw_points(ax, x, data, start, origin, num_steps)
    if 0 < origin < num_steps and origin > start:
        middle = x[origin - 1] + (x[origin] - x[origin - 1]) / 2
        ax.axvline(middle, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), gid="origin")
    label_times(ax, x, steps=found is None)
    legend(ax)
    return ax


def _numbers(
    predictions: Predictions, site: Any, element: tuple[int, ...], observed: Any, bands: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray | None, Path | Categories]:
    """Return paths (draws, T), data (T,) or None, and what is drawn of the paths."""
    curves.require_name(site)
    if site not in predictions.known:
        raise KeyError(f"the predictions have no site {site!r} with a time axis; they have {list(predictions.known)}")
    values = predictions[site]
    paths = curves.scalar(values, site, element, leading=3)
    paths = paths.reshape(-1, paths.shape[-1])
    if not len(paths):
        raise ValueError(f"the predictions have no draw of {site!r}: ask for num_draws of 1 or more")
    data = None
    if observed is not None:
        data = np.asarray(observed)
        if data.shape != paths.shape[1:] or data.dtype.kind not in "biuf":
            raise ValueError(f"observed must be {paths.shape[1:]} numbers, one a step, got {data.dtype} {data.shape}")
    elif site in predictions.observed:
        data = curves.scalar(predictions.observed[site], site, element, leading=1)
    # the values of an observed site are numbers with an order, unless there are two of them
    few = 2 if site in predictions.observed else curves.MOST_VALUES
    return paths, data, curves.of_paths(paths, whole=values.dtype.kind in "biu", bands=bands, most_values=few)


def _draw_history(ax: Any, x: np.ndarray, path: Path, where: slice, name: str, colour: str, *, of_data: bool) -> None:
    """Draw what lies before the origin: of data the widest ribbon, of a state all of them and its centre."""
    if where.start >= where.stop:
        return
    for band, low, high in path.ribbons[: 1 if of_data else None]:
        label = f"new draws, {100 * band:.0f} %" if of_data else None
        shade = {"color": GREY if of_data else colour, "alpha": PALE * (0.5 - 0.3 * band) * (1.5 if of_data else 1.0)}
        ax.fill_between(x[where], low[where], high[where], linewidth=0, label=label, gid="history", **shade)
    if not of_data:
        style = {"color": colour, "linewidth": 1.0, "alpha": 0.7, "linestyle": (0, (4, 1.5))}
        ax.plot(x[where], path.centre[where], label=f"{name} given the data", gid="history", **style)


def _draw_fan(ax: Any, x: np.ndarray, path: Path, where: slice, name: str, colour: str, kind: str) -> None:
    """Draw the bands of the forecast and its centre; of a single step bars and a mark."""
    if where.start >= where.stop:
        return
    single = where.stop - where.start == 1
    for band, low, high in path.ribbons:
        label, alpha = f"{100 * band:.0f} %", 0.6 - 0.4 * band
        if single:
            ax.vlines(x[where], low[where], high[where], color=colour, alpha=alpha, linewidth=5.0, label=label)
        else:
            ax.fill_between(x[where], low[where], high[where], color=colour, alpha=alpha, linewidth=0, label=label)
    style = {"marker": "_", "markersize": 6.0} if single else {"linewidth": 1.5}
    ax.plot(
        x[where], path.centre[where], color=colour, label=f"{name}, {kind} {path.kind_of_centre}", gid=kind, **style
    )


def _draw_points(ax: Any, x: np.ndarray, data: np.ndarray | None, start: int, origin: int, num_steps: int) -> None:
    """Draw data as points, hollow where the forecast has not seen them."""
    if data is None:
        return
    seen = origin or num_steps
    style = {"linestyle": "none", "marker": "o", "markeredgewidth": 0.8, "color": "black", "zorder": 3}
    for where, hollow, label in (
        (slice(start, seen), False, "observed"),
        (slice(seen, num_steps), True, "observed later"),
    ):
        if np.isfinite(data[where]).any():
            fill = {"markerfacecolor": "white", "markersize": 3.2} if hollow else {"markersize": 1.6}
            ax.plot(x[where], data[where], label=label, gid=label, **style, **fill)
