"""The path of a state with ribbons, over the data.

Filtered states know the data up to each step and come from a filter at fixed parameters; smoothed states know all data
and, from a `Result`, average over the parameters.  They answer different questions, so one Axes shows one kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssmscan.arguments import refusal
from ssmscan.labels import labels_of
from ssmscan.results.plots import curves
from ssmscan.results.plots.curves import Categories, Path
from ssmscan.results.plots.drawing import (
    AREAS,
    BLUE,
    GREY,
    VERMILION,
    axes,
    label_times,
    labelled,
    legend,
    require_colour,
)
from ssmscan.results.plots.sources import (
    Filtered,
    Smoothed,
    is_filtered,
    is_smoothed,
    require_one_run,
    time_coordinate,
)
from ssmscan.results.result import Result
from ssmscan.results.summary import PROBABILITIES


def states(
    source: Result | Filtered | Smoothed,
    site: str,
    *,
    element: str | tuple[int | str, ...] = (),
    probabilities: Sequence[float] = PROBABILITIES,
    times: Any = None,
    observed: Any = None,
    observed_on_the_right: bool = False,
    colour: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw the path of a state with ribbons, over the data if given.

    A state of a few whole values is drawn as the probability of each, stacked.  What is drawn into an Axes that shows
    a state already, by another engine for one, is drawn as lines over it: the centre, and dashed the widest ribbon.

    Args:
        source: a `Result`, or what a smoother returned, drawn as smoothed: median, 50 and 90 % of its paths (of an
            exact law its mean, and the ribbons of a normal law with its sd).  Or the result of a filter, drawn as
            filtered: the quantiles it kept, or its mean and the 50 and 90 % ribbons of a normal law with its sd.
        site: name of a state that has a time axis.
        element: index of the scalar, for a site that is an array, or what the labels call it.
        probabilities: increasing levels of the quantiles that the filter kept, with 0.5 among them.
        times: (T,) numbers or dates for the horizontal axis; by default those of the source's labels, else steps from
            1.
        observed: (T,) data drawn as points.
        observed_on_the_right: give the data, in other units than the state, an axis of their own.
        colour: of line and ribbons.
        ax: Axes to draw into.

    Returns:
        The Axes of the state.

    Raises:
        TypeError: if the source is none of these.
        KeyError: if there is no such site.
        ValueError: if the element is not a scalar, the quantiles are not at these levels, the times or data are not one
            a step, or the Axes already shows the other kind of state.
    """
    probs = curves.levels(probabilities)
    element = labels_of(source).index(site, element)
    path, kind, other = _curve(source, site, element, probs)
    ax = axes(ax, (7.0, 3.0))
    shown = [artist.get_gid() for artist in ax.get_children()]
    if other in shown:
        raise ValueError(f"this Axes shows {other} states; draw the {kind} {site!r} in another")
    num_steps = len(path.probabilities if isinstance(path, Categories) else path.centre)
    found = time_coordinate(source, num_steps) if times is None else times
    x = curves.times(found, num_steps)
    require_colour(colour)
    if observed is not None:
        _draw_data(ax, x, np.asarray(observed), own_axis=observed_on_the_right)
    name = labelled(source, site, element)
    over = kind in shown
    label = name
    if over and isinstance(source, Result):
        # what the vertical axis says need not be said again
        label = source.engine if ax.get_ylabel().endswith(name) else f"{name}, {source.engine}"
    if isinstance(path, Categories):
        draw_categories(ax, x, path, label, kind, colour, over=over)
    else:
        first, second = (BLUE, VERMILION) if kind == "smoothed" else (VERMILION, BLUE)
        draw_path(ax, x, path, label, kind, colour or (second if over else first), over=over)
    ax.set_ylabel(f"probability of {name}" if isinstance(path, Categories) else name)
    label_times(ax, x, steps=found is None)
    legend(ax)
    return ax


def _curve(source: Any, site: Any, element: Any, probs: tuple[float, ...]) -> tuple[Path | Categories, str, str]:
    """Return what is drawn of a source, its kind, and the kind that it is not to be mixed with."""
    if isinstance(source, Result):
        return curves.smoothed(source, site, element), "smoothed", "filtered"
    if is_smoothed(source):
        require_one_run(source)
        return curves.smoothed_given_parameters(source, site, element), "smoothed", "filtered"
    if is_filtered(source):
        require_one_run(source)
        return curves.filtered(source, site, element, probs), "filtered", "smoothed"
    raise TypeError(refusal("source", "a Result, or the result of a filter or a smoother", source))


def draw_path(ax: Any, x: np.ndarray, path: Path, name: str, kind: str, colour: str, *, over: bool) -> None:
    """Draw a centre with its ribbons; over another path only lines, which leave that visible."""
    centre = f"{name}, {kind} {path.kind_of_centre}"
    if over:
        band, *edges = path.ribbons[0]
        centre = f"{name}, {path.kind_of_centre} and {100 * band:.0f} %"
        for edge in edges:
            ax.plot(x, edge, "--", color=colour, linewidth=0.7)
    else:
        for band, low, high in path.ribbons:
            label = f"{100 * band:.0f} %"
            ax.fill_between(x, low, high, color=colour, alpha=0.5 - 0.3 * band, linewidth=0, label=label)
    ax.plot(x, path.centre, color=colour, linewidth=0.7 if over else 1.5, label=centre, gid=kind)


def draw_categories(
    ax: Any, x: np.ndarray, path: Categories, name: str, kind: str, colour: str | None, *, over: bool
) -> None:
    """Draw probabilities one on top of the other; over others, only lines where they meet.

    Of two values the larger is drawn, and the other is what is left.
    """
    probabilities, values = path
    if len(values) == 2:
        probabilities, values = probabilities[:, 1:], values[1:]
    lower = np.zeros(len(x))
    for k, (value, probability) in enumerate(zip(values, probabilities.T)):
        upper = lower + probability
        label = f"{name} = {value}, {kind}" if k == 0 else value
        if not over:
            shade = colour if colour and k == 0 else AREAS[k % len(AREAS)]
            # two areas that are alike in grey touch where the one between them is empty
            lines = {"hatch": "///", "edgecolor": "white"} if k % 4 == 2 else {}
            ax.fill_between(x, lower, upper, facecolor=shade, alpha=0.6, linewidth=0, label=label, gid=kind, **lines)
        elif k == 0 or k < len(values) - 1:
            ax.plot(x, upper, color=colour or "black", linewidth=1.0, label=None if k else f"{name}, {kind}", gid=kind)
        lower = upper
    ax.set_ylim(0.0, 1.0)


def _draw_data(ax: Any, x: np.ndarray, observed: np.ndarray, *, own_axis: bool) -> None:
    if observed.shape != x.shape or observed.dtype.kind not in "biuf":
        raise ValueError(f"observed must be {x.shape} numbers, one a step, got {observed.dtype} {observed.shape}")
    points = {"color": GREY, "markersize": 2.5, "linestyle": "none", "marker": ".", "label": "observed"}
    if not own_axis:
        ax.plot(x, observed, zorder=1, **points)
        return
    right = ax.twinx()
    right.plot(x, observed, alpha=0.7, **points)
    right.set_ylabel("observed", color=GREY)
    right.tick_params(axis="y", colors=GREY)
    right.spines["top"].set_visible(False)
    # the state lies over the data
    ax.set_zorder(right.get_zorder() + 1)
    ax.patch.set_visible(False)
