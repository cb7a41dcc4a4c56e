"""Whether values are uniform: PIT values of one-step-ahead predictions, ranks of simulation-based calibration.

What is drawn is the empirical distribution function less that of the uniform law, in a band that holds all of it
(`ssmscan.results.uniformity`).  Unlike a histogram it has no bins to choose.  A curve that rises from 0 and falls to 0
is of values that are too small (predictions too high), the reverse of values that are too large; above the axis on the
left and below it on the right of values that are too far out (predictions too narrow), the reverse of values that are
too near the middle (too wide).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmscan.arguments import require_integer
from ssmscan.results.plots.drawing import COLOURS, DASHES, GREY, axes, legend
from ssmscan.results.uniformity import difference, simultaneous_band, uniform_values


def pit(values: Any, *, level: float = 0.95, cells: int | None = None, ax: Any = None) -> Any:
    """Draw how far the distribution of values is from uniform, with a band for all of it.

    The band is that of independent values.  Points outside it are marked, and their number is in the legend.

    Args:
        values: (n,) PIT values, such as `filtered.summaries["pit"]["y"]` of a filter with the summary `ssmscan.PIT()`,
            or ranks of simulation-based calibration as (rank + 1) / (draws + 1); NaN is missing.  Or several such rows
            by name, drawn over each other, the band being that of the shortest.
        level: probability that uniform values stay within the band everywhere.
        cells: number of equal intervals between the points that are looked at; the smaller of 100 and n by default.
            For ranks a divisor of draws + 1.
        ax: Axes to draw into.

    Raises:
        TypeError: if these are no numbers.
        ValueError: if there is none, or one outside [0, 1], or a row is an array of rows.
    """
    by_name = values if isinstance(values, Mapping) else {"": values}
    rows = {name: uniform_values(f"values[{name!r}]" if name else "values", row) for name, row in by_name.items()}
    if not rows:
        raise ValueError("pit needs values, got none")
    if cells is not None:
        cells = require_integer("cells", cells, at_least=2)
    fewest = min(map(len, rows.values()))
    band = simultaneous_band(fewest, level=level, cells=cells)
    edges, low, high = (np.append(0.0, x) for x in (band.points, band.lower, band.upper))
    ax = axes(ax, (4.0, 2.6))
    label = f"{100 * level:g} % band of {fewest:,} uniform values"
    ax.fill_between(edges, low, high, color=GREY, alpha=0.2, linewidth=0, label=label)
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    for k, (name, row) in enumerate(rows.items()):
        found = difference(row, edges)
        outside = (found < low - 1e-9) | (found > high + 1e-9)
        text = f"outside at {outside.sum()} of {len(edges) - 2} points" if outside.any() else "inside everywhere"
        style = {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k % len(DASHES)], "linewidth": 1.2}
        ax.plot(edges, found, label=f"{name}: {text}" if name else text, **style)
        ax.plot(edges[outside], found[outside], "x", color=style["color"], markersize=4.0, gid="outside")
    ax.set_xlim(0.0, 1.0)
    ax.set_xlabel("probability integral transform")
    ax.set_ylabel("distribution less uniform")
    legend(ax)
    return ax
