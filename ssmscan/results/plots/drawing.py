"""What all figures share: colours, lines and marks that differ in grey too, the Axes, its times and its legend.

Colours are those of Okabe & Ito (2008, "Color Universal Design"), distinguishable with any colour vision.  Printed in
grey several of them are alike, so that no figure relies on colour alone: lines differ in their dashes, marks in their
shape, and areas that touch in lightness.

Sizes of letters are relative to `font.size` of matplotlib.  For a column of a journal, 3.3 inches, 8 points are right:

    with plt.rc_context({"font.size": 8}):
        _, ax = plt.subplots(figsize=(3.3, 2.2), layout="constrained")
        ssmscan.plots.states(result, "x", ax=ax)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ssmscan.labels import labels_of

BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of engines and pairs, in order."""

AREAS = (BLUE, "#F0E442", VERMILION, "#56B4E9", "#000000", "#E69F00", GREEN, "#CC79A7")
"""Colours of areas one on top of the other: light follows dark."""

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
"""Lines of engines and pairs, in order."""

GREY = "#6E6E6E"


def axes(ax: Any, size: tuple[float, float]) -> Any:
    """Return the Axes to draw into, a new one of a size in inches if none is given.

    Raises:
        TypeError: if something else is given.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=size, layout="constrained")
    if not (hasattr(ax, "plot") and hasattr(ax, "spines")):
        raise TypeError(f"ax must be one Axes of matplotlib, got {type(ax).__name__}")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def require_colour(colour: Any) -> None:
    """Raise ValueError unless matplotlib knows the colour, or it is None."""
    from matplotlib.colors import is_color_like

    if colour is not None and not (isinstance(colour, (str, tuple)) and is_color_like(colour)):
        raise ValueError(f"colour must be one of matplotlib, such as '#0072B2', got {colour!r}")


def label_times(ax: Any, x: np.ndarray, *, steps: bool) -> None:
    """Name the horizontal axis; dates are written so that they do not run into each other.

    Args:
        ax: the Axes.
        x: (T,) what stands on the axis.
        steps: whether these are the numbers of the steps.
    """
    ax.set_xlabel("time step" if steps else "time")
    ax.margins(x=0.01)
    if x.dtype.kind in "MO":
        from matplotlib import dates

        locator = dates.AutoDateLocator(minticks=3, maxticks=6 if _is_narrow(ax) else 9)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def legend(ax: Any, handles: Any = None) -> None:
    """Put a legend above the Axes, in as many columns as have room there."""
    entries = {} if handles is None else {"handles": handles}
    number = len(ax.get_legend_handles_labels()[0]) if handles is None else len(handles)
    room = _room(ax)
    for columns in range(min(number, 4), 0, -1):
        box = ax.legend(
            frameon=False,
            fontsize="small",
            ncols=columns,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            borderaxespad=0.2,
            columnspacing=1.2,
            handlelength=1.8,
            **entries,
        )
        if box.get_window_extent().width <= room:
            break


def _room(ax: Any) -> float:
    """Return the width in pixels above an Axes: that of the figure, if no other Axes stand beside it."""
    place = ax.get_subplotspec()
    if place is not None and place.get_gridspec().ncols == 1:
        return 0.95 * ax.figure.bbox.width
    return ax.get_window_extent().width


def labelled(source: Any, site: str, element: tuple[int, ...]) -> str:
    """Return the label of a scalar: the site, and what stands at its index."""
    return labels_of(source).element(site, element)


def _is_narrow(ax: Any) -> bool:
    """Return whether an Axes has room for few dates: fewer than 35 letters side by side."""
    from matplotlib import rcParams

    inches = ax.get_window_extent().width / ax.figure.dpi
    return bool(inches * 72.0 / rcParams["font.size"] < 35.0)
