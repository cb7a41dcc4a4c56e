"""Figures for a paper: states over data, ESS per step, agreement of engines, posterior densities.

Every function draws into one Axes, makes it if none is given, and returns it; nothing is shown or saved.
Colours are those of Okabe & Ito (2008), distinguishable with any colour vision and in grey.

Filtered states know the data up to each step and come from a filter at fixed parameters; smoothed states
know all data and, from a `Result`, average over the parameters.  They answer different questions, so one
Axes shows one kind.

matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ssmscan.arguments import refusal, require_instance
from ssmscan.results import curves
from ssmscan.results.agreement import Comparison
from ssmscan.results.curves import Categories, Path
from ssmscan.results.result import Result
from ssmscan.results.summary import PROBABILITIES
from ssmscan.results.table import significant

BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of engines and pairs, in order."""

GREY = "#6E6E6E"


class Filtered(Protocol):
    """What a particle filter reports, and all that is needed of it here."""

    @property
    def summaries(self) -> Mapping[str, Mapping[str, Any]]:
        """Summary -> site -> array: "mean" and "sd" (T, *shape), or "quantiles" (T, levels, *shape)."""

    @property
    def ess(self) -> Any:
        """Effective sample size after each weighing, (T,), or (T + 1,) if the start is observed."""

    @property
    def resampled(self) -> Any:
        """Whether the particles were resampled before the step, same shape."""

    @property
    def start_observed(self) -> bool:
        """Whether the series begin with the start."""

    @property
    def num_particles(self) -> int:
        """N."""

    @property
    def starving_limit(self) -> float:
        """Effective sample size below which the filter says that it starves."""


def states(
    source: Result | Filtered,
    site: str,
    *,
    element: tuple[int, ...] = (),
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
        source: a `Result`, drawn as smoothed: median, 50 and 90 % of its paths.  Or the result of a filter,
            drawn as filtered: the quantiles it kept, or its mean and the 50 and 90 % ribbons of a normal
            law with its sd.
        site: name of a state that has a time axis.
        element: index of the scalar, for a site that is an array.
        probabilities: increasing levels of the quantiles that the filter kept, with 0.5 among them.
        times: (T,) numbers or dates for the horizontal axis; steps from 1 by default.
        observed: (T,) data drawn as points.
        observed_on_the_right: give the data, in other units than the state, an axis of their own.
        colour: of line and ribbons.
        ax: Axes to draw into.

    Returns:
        The Axes of the state.

    Raises:
        TypeError: if the source is neither.
        KeyError: if there is no such site.
        ValueError: if the element is not a scalar, the quantiles are not at these levels, the times or data are not one
            a step, or the Axes already shows the other kind of state.
    """
    probs = curves.levels(probabilities)
    if isinstance(source, Result):
        kind, other = "smoothed", "filtered"
        path = curves.smoothed(source, site, element)
    elif isinstance(getattr(source, "summaries", None), Mapping):
        if runs := np.shape(getattr(source, "status", 0)):
            raise ValueError(f"source: expected one run of a filter, got {runs} of them: choose one.")
        kind, other = "filtered", "smoothed"
        path = curves.filtered(source, site, element, probs)
    else:
        raise TypeError(refusal("source", "a Result, or the result of a filter", source))
    ax = _axes(ax, (7.0, 3.0))
    shown = [artist.get_gid() for artist in ax.get_children()]
    if other in shown:
        raise ValueError(f"this Axes shows {other} states; draw the {kind} {site!r} in another")
    x = curves.times(times, len(path.probabilities if isinstance(path, Categories) else path.centre))
    _require_colour(colour)
    if observed is not None:
        _draw_data(ax, x, np.asarray(observed), own_axis=observed_on_the_right)
    name = _labelled(site, element)
    over = kind in shown
    label = f"{name}, {source.engine}" if over and isinstance(source, Result) else name
    if isinstance(path, Categories):
        _draw_categories(ax, x, path, label, kind, colour, over=over)
    else:
        first, second = (BLUE, VERMILION) if kind == "smoothed" else (VERMILION, BLUE)
        _draw_path(ax, x, path, label, kind, colour or (second if over else first), over=over)
    ax.set_ylabel(f"probability of {name}" if isinstance(path, Categories) else name)
    _label_times(ax, x, times)
    ax.margins(x=0.01)
    _legend(ax)
    return ax


def ess(filtered: Filtered, *, ax: Any = None) -> Any:
    """Draw the effective sample size of the particles at each step, with marks where they were resampled.

    The ESS is that of the weights after the step's data, a mark says that the particles were resampled
    before they moved to the step.  The axis is logarithmic and ends at one particle, so that a step where the ESS falls
    to a few, which the model finds surprising, is seen however many there are; below the shade's edge the filter says
    that it starves.  The least is in the legend.

    Raises:
        TypeError: if this is not the result of a filter.
        ValueError: if it is that of many.
    """
    if isinstance(filtered, Result) or not (hasattr(filtered, "ess") and hasattr(filtered, "resampled")):
        raise TypeError(f"ess draws the result of a ParticleFilter, got {type(filtered).__name__}")
    values, resampled = np.asarray(filtered.ess, np.float64), np.asarray(filtered.resampled, bool)
    num_particles, limit = filtered.num_particles, filtered.starving_limit
    if values.ndim != 1:
        raise ValueError(f"ess must be that of one filter, (T,), got shape {values.shape}: choose one of them")
    steps = np.arange(len(values)) + (0 if filtered.start_observed else 1)
    ax = _axes(ax, (7.0, 2.4))
    # no particle at all has no place on the axis: a gap
    alive = np.where(values > 0.0, values, np.nan)
    label = "ESS"
    if np.isfinite(alive).any():
        least = int(np.nanargmin(alive))
        label += f", least {significant(float(alive[least]))} at step {steps[least]}"
    ax.plot(steps, alive, color=BLUE, linewidth=1.0, label=label)
    if not resampled.all():
        at, bottom = steps[resampled], ax.get_xaxis_transform()
        style = {"color": VERMILION, "markersize": 8, "clip_on": False, "transform": bottom, "label": "resampled"}
        ax.plot(at, np.zeros(len(at)), "|", **style)
    ax.set_yscale("log")
    ax.set_ylim(1, num_particles)
    if limit > 1.0:
        ax.axhspan(1, limit, color=GREY, alpha=0.12, linewidth=0, label=f"starving: below {limit:g}")
    ax.set_xlabel("time step")
    ax.set_ylabel(f"effective particles of {num_particles:,}")
    ax.margins(x=0.01)
    _legend(ax)
    return ax


def agreement(comparison: Comparison, *, parameters: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draw every difference between engines with its simultaneous interval, over the tolerance of its statistic.

    A pair without a verdict is drawn pale, with one standard error on either side.

    Args:
        comparison: what `ssmscan.compare` returned.
        parameters: labels of the scalars to show, all by default.
        ax: Axes to draw into.

    Raises:
        TypeError: if this is not a comparison.
        KeyError: if it has no such parameter.
    """
    require_instance("comparison", comparison, Comparison, "what ssmscan.compare returned")
    labels = curves.labels(comparison.engines[0].summaries, parameters)
    shown = [[d for label in labels for d in pair.differences if d.parameter == label] for pair in comparison.pairs]
    rows = len(shown[0])
    ax = _axes(ax, (6.0, 1.2 + 0.2 * rows * max(1.0, 0.5 * len(shown))))
    tolerances = comparison.criteria.tolerances
    half_widths = np.array([tolerances.of(d.statistic) for d in shown[0]])
    band = {"height": 1.0, "color": GREEN, "alpha": 0.12, "linewidth": 0}
    ax.barh(np.arange(rows), 2.0 * half_widths, left=-half_widths, **band)
    ax.axvline(0.0, color=GREY, linewidth=0.8)
    for k, (pair, differences) in enumerate(zip(comparison.pairs, shown)):
        y = np.arange(rows) + 0.6 * ((k + 0.5) / len(shown) - 0.5)
        value = np.array([d.estimate.value for d in differences])
        judged = np.isfinite([d.low for d in differences])
        low = np.where(judged, [d.low for d in differences], value - [d.estimate.error for d in differences])
        style = {"fmt": "o", "markersize": 3.5, "elinewidth": 1.2, "color": COLOURS[k % len(COLOURS)]}
        label = f"{pair.title}: {pair.verdict.value}"
        ax.errorbar(value, y, xerr=value - low, label=label, alpha=1.0 if judged.all() else 0.4, **style)
    ax.set_yticks(np.arange(rows), [str(d) for d in shown[0]])
    ax.set_ylim(rows - 0.4, -0.6)
    for boundary in (k for k in range(1, rows) if shown[0][k].parameter != shown[0][k - 1].parameter):
        ax.axhline(boundary - 0.5, color=GREY, linewidth=0.4)
    in_lines = str(tolerances).replace(") and ", "),\n")
    ax.set_xlabel(f"difference in posterior sds, shaded:\n{in_lines}")
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small")
    return ax


def posterior(results: Mapping[str, Result] | Result, parameter: str, *, ax: Any = None) -> Any:
    """Draw the posterior densities of one scalar parameter by several engines over each other.

    Draws that are all equal are a vertical line.

    Args:
        results: name -> result, as given to `ssmscan.compare`; or one result.
        parameter: label of the scalar, such as "phi" or "beta[0]".
        ax: Axes to draw into.

    Raises:
        TypeError: if something is not a result.
        KeyError: if a result has no such parameter.
        ValueError: if there is no result, or one has no draws, or draws that are not finite.
    """
    if isinstance(results, Result):
        results = {results.engine: results}
    if not isinstance(results, Mapping) or not all(isinstance(result, Result) for result in results.values()):
        raise TypeError(f"posterior draws a Result, or results by name, got {type(results).__name__}")
    densities = {name: curves.density(name, result, parameter) for name, result in results.items()}
    if not densities:
        raise ValueError("posterior needs a result, got none")
    ax = _axes(ax, (4.0, 2.6))
    for k, (name, (grid, density)) in enumerate(densities.items()):
        style = {"linestyle": ("-", "--", ":", "-.")[k % 4], "color": COLOURS[k % len(COLOURS)], "linewidth": 1.6}
        if len(grid) == 1:
            ax.axvline(grid[0], label=name, **style)
        else:
            ax.plot(grid, density, label=name, **style)
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel(parameter)
    ax.set_ylabel("posterior density")
    _legend(ax)
    return ax


def _draw_path(ax: Any, x: np.ndarray, path: Path, name: str, kind: str, colour: str, *, over: bool) -> None:
    """Draw a centre with its ribbons; over another path only lines, which leave that visible."""
    centre = f"{name}, {kind} {path.kind_of_centre}"
    if over:
        band, *edges = path.ribbons[0]
        for edge, label in zip(edges, (f"{name}, {100 * band:.0f} %", None)):
            ax.plot(x, edge, "--", color=colour, linewidth=0.7, label=label)
    else:
        for band, low, high in path.ribbons:
            label = f"{100 * band:.0f} %"
            ax.fill_between(x, low, high, color=colour, alpha=0.5 - 0.3 * band, linewidth=0, label=label)
    ax.plot(x, path.centre, color=colour, linewidth=0.7 if over else 1.5, label=centre, gid=kind)


def _draw_categories(
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
            shade = colour if colour and k == 0 else COLOURS[k % len(COLOURS)]
            ax.fill_between(x, lower, upper, color=shade, alpha=0.6, linewidth=0, label=label, gid=kind)
        elif k == 0 or k < len(values) - 1:
            ax.plot(x, upper, color=colour or "black", linewidth=1.0, label=None if k else f"{name}, {kind}", gid=kind)
        lower = upper
    ax.set_ylim(0.0, 1.0)


def _label_times(ax: Any, x: np.ndarray, times: Any) -> None:
    """Name the horizontal axis; dates are written so that they do not run into each other."""
    ax.set_xlabel("time step" if times is None else "time")
    if x.dtype.kind in "MO":
        from matplotlib import dates

        locator = dates.AutoDateLocator(minticks=3, maxticks=9)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def _labelled(site: str, element: tuple[int, ...]) -> str:
    return f"{site}[{','.join(map(str, element))}]" if element else site


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


def _axes(ax: Any, size: tuple[float, float]) -> Any:
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=size, layout="constrained")
    if not (hasattr(ax, "plot") and hasattr(ax, "spines")):
        raise TypeError(f"ax must be one Axes of matplotlib, got {type(ax).__name__}")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def _require_colour(colour: Any) -> None:
    from matplotlib.colors import is_color_like

    if colour is not None and not (isinstance(colour, (str, tuple)) and is_color_like(colour)):
        raise ValueError(f"colour must be one of matplotlib, such as '#0072B2', got {colour!r}")


def _legend(ax: Any) -> None:
    columns = 4 if len(ax.get_legend_handles_labels()[0]) <= 4 else 3
    ax.legend(frameon=False, fontsize="small", ncols=columns, loc="lower right", bbox_to_anchor=(1.0, 1.0))
