"""Differences between engines with their simultaneous intervals, and the verdict on each.

A verdict has a mark of its own, so that it is read in grey:

    filled circle   agree: the interval lies within the tolerance of its statistic
    filled cross    disagree: beyond the tolerance, and not zero
    hollow circle   cannot tell: neither, or there is no verdict on the pair

The verdict on a pair follows from its marks: *disagree* if there is a cross, *agree* if all are filled circles.  A pair
without a verdict has thin bars of one standard error on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssmscan.arguments import require_instance
from ssmscan.results.agreement import Comparison
from ssmscan.results.checked import CrossCheck
from ssmscan.results.criteria import Criteria
from ssmscan.results.plots import curves
from ssmscan.results.plots.drawing import COLOURS, DASHES, GREEN, GREY, axes, legend
from ssmscan.results.verdicts import Difference, Verdict

MARKS = {
    Verdict.AGREE: {"marker": "o", "fillstyle": "full"},
    Verdict.DISAGREE: {"marker": "X", "fillstyle": "full"},
    Verdict.CANNOT_TELL: {"marker": "o", "fillstyle": "none"},
}
"""How a verdict is marked."""


def agreement(comparison: Comparison | CrossCheck, *, parameters: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draw every difference between engines with its simultaneous interval, over the tolerance of its statistic.

    Args:
        comparison: what `ssmscan.compare` or `ssmscan.cross_check` returned.
        parameters: labels of the scalars to show, all by default.
        ax: Axes to draw into; by default one that is as high as the rows need.

    Raises:
        TypeError: if this is not a comparison.
        ValueError: if it is a cross-check of which some engine has no draws.
        KeyError: if it has no such parameter.
    """
    if isinstance(comparison, CrossCheck):
        if comparison.comparison is None:
            raise ValueError(
                "comparison: the cross-check compared nothing, since some engine has no draws; go on with it"
            )
        comparison = comparison.comparison
    require_instance("comparison", comparison, Comparison, "what ssmscan.compare or ssmscan.cross_check returned")
    labels = curves.labels(comparison.engines[0].summaries, parameters)
    shown = [[d for label in labels for d in pair.differences if d.parameter == label] for pair in comparison.pairs]
    criteria, rows = comparison.criteria, len(shown[0])
    ax = axes(ax, (6.0, 1.2 + 0.2 * rows * max(1.0, 0.5 * len(shown))))
    half_widths = np.array([criteria.tolerances.of(d.statistic) for d in shown[0]])
    band = {"height": 1.0, "color": GREEN, "alpha": 0.15, "linewidth": 0}
    ax.barh(np.arange(rows), 2.0 * half_widths, left=-half_widths, **band)
    ax.axvline(0.0, color=GREY, linewidth=0.8)
    for k, differences in enumerate(shown):
        _draw_pair(ax, np.arange(rows) + 0.6 * ((k + 0.5) / len(shown) - 0.5), differences, criteria, k)
    ax.set_yticks(np.arange(rows), [str(d) for d in shown[0]])
    ax.set_ylim(rows - 0.4, -0.6)
    for boundary in (k for k in range(1, rows) if shown[0][k].parameter != shown[0][k - 1].parameter):
        ax.axhline(boundary - 0.5, color=GREY, linewidth=0.4)
    in_lines = str(criteria.tolerances).replace(") and ", "),\n")
    ax.set_xlabel(f"difference in posterior sds, shaded:\n{in_lines}")
    legend(
        ax, [_entry(f"{pair.title}: {pair.verdict.value}", pair.verdict, k) for k, pair in enumerate(comparison.pairs)]
    )
    return ax


def verdict_of(difference: Difference, criteria: Criteria) -> Verdict:
    """Return the verdict on one difference; that on its pair is the worst of these."""
    tolerance = criteria.tolerances.of(difference.statistic)
    if not np.isfinite(difference.reach):
        return Verdict.CANNOT_TELL
    if difference.reach <= tolerance:
        return Verdict.AGREE
    beyond = abs(difference.estimate.value) > tolerance
    return Verdict.DISAGREE if beyond and difference.p_value < criteria.significance else Verdict.CANNOT_TELL


def _draw_pair(ax: Any, y: np.ndarray, differences: Sequence[Difference], criteria: Criteria, k: int) -> None:
    """Draw the bars of the pair with this number, and a mark on each."""
    value = np.array([d.estimate.value for d in differences])
    judged = np.isfinite([d.low for d in differences])
    low = np.where(judged, [d.low for d in differences], value - [d.estimate.error for d in differences])
    width = 1.2 if judged.all() else 0.6
    bars = ax.errorbar(value, y, xerr=value - low, fmt="none", elinewidth=width, ecolor=_colour(k))
    bars[2][0].set_linestyle(DASHES[k % len(DASHES)])
    for verdict, mark in MARKS.items():
        which = np.array([verdict_of(d, criteria) is verdict for d in differences])
        if which.any():
            ax.plot(value[which], y[which], linestyle="none", gid=verdict.value, **_style(mark, k))


def _entry(label: str, verdict: Verdict, k: int) -> Any:
    """Return the entry of a pair in the legend: its line with the mark of its verdict."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linewidth=1.2, linestyle=DASHES[k % len(DASHES)], label=label, **_style(MARKS[verdict], k))


def _style(mark: dict[str, str], k: int) -> dict[str, Any]:
    size = 5.5 if mark["marker"] == "X" else 4.5
    white = {"markerfacecolor": "white"} if mark["fillstyle"] == "none" else {"markeredgecolor": "white"}
    edge = 1.0 if mark["fillstyle"] == "none" else 0.4
    shape = {"marker": mark["marker"], "markersize": size, "markeredgewidth": edge}
    return {"color": _colour(k), **shape, **white}


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]
