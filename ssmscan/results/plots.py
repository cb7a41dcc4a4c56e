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
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import special

from ssmscan.results import containers
from ssmscan.results.agreement import Comparison
from ssmscan.results.result import Result
from ssmscan.results.summary import PROBABILITIES, scalars
from ssmscan.results.verdicts import TOLERANCE

BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of engines and pairs, in order."""

GREY = "#6E6E6E"
_BANDS = (0.9, 0.5)


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
    def final(self) -> Any:
        """The last cloud; its ``log_weights`` are (N,)."""


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
        KeyError: if there is no such site.
        ValueError: if the element is not a scalar, the quantiles are not at these levels, or the Axes
            already shows the other kind of state.
    """
    if isinstance(source, Result):
        kind, other, colour = "smoothed", "filtered", colour or BLUE
        path = _smoothed(source, site, element)
    else:
        kind, other, colour = "filtered", "smoothed", colour or VERMILION
        path = _filtered(source, site, element, tuple(probabilities))
    ax = _axes(ax, (7.0, 3.0))
    if any(line.get_gid() == other for line in ax.lines):
        raise ValueError(f"this Axes shows {other} states; draw the {kind} {site!r} in another")
    x = np.arange(1, len(path.centre) + 1) if times is None else np.asarray(times)

    if observed is not None:
        _draw_data(ax, x, np.asarray(observed), own_axis=observed_on_the_right)
    for band, low, high in path.ribbons:
        label = f"{100 * band:.0f} %"
        ax.fill_between(x, low, high, color=colour, alpha=0.5 - 0.3 * band, linewidth=0, label=label)
    label = f"{_labelled(site, element)}, {kind} {path.kind_of_centre}"
    ax.plot(x, path.centre, color=colour, linewidth=1.2, label=label, gid=kind)
    ax.set_xlabel("time step" if times is None else "time")
    ax.set_ylabel(_labelled(site, element))
    ax.margins(x=0.01)
    _legend(ax)
    return ax


def ess(filtered: Filtered, *, ax: Any = None) -> Any:
    """Draw the effective sample size of the particles at each step, with marks where they were resampled.

    The ESS is that of the weights after the step's data, a mark says that the particles were resampled
    before they moved to the step.  A step where the ESS falls to a few particles is one the model finds
    surprising.
    """
    values, resampled = np.asarray(filtered.ess), np.asarray(filtered.resampled, bool)
    num_particles = np.shape(filtered.final.log_weights)[-1]
    if values.ndim != 1:
        raise ValueError(f"ess must be that of one filter, (T,), got shape {values.shape}: choose one of them")
    steps = np.arange(len(values)) + (0 if filtered.start_observed else 1)
    ax = _axes(ax, (7.0, 2.4))
    ax.plot(steps, values, color=BLUE, linewidth=1.0, label="ESS")
    if not resampled.all():
        at = steps[resampled]
        ax.plot(at, np.zeros(len(at)), "|", color=VERMILION, markersize=8, clip_on=False, label="resampled")
    ax.set_ylim(0, num_particles)
    ax.set_xlabel("time step")
    ax.set_ylabel(f"effective particles of {num_particles:,}")
    ax.margins(x=0.01)
    _legend(ax)
    return ax


def agreement(comparison: Comparison, *, parameters: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draw every difference between engines with its simultaneous interval, over the band of agreement.

    A pair without a verdict is drawn pale, with one standard error on either side.

    Args:
        comparison: what `ssmscan.compare` returned.
        parameters: labels of the scalars to show, all by default.
        ax: Axes to draw into.
    """
    labels = list(parameters) if parameters is not None else list(comparison.engines[0].summaries)
    shown = [[d for label in labels for d in pair.differences if d.parameter == label] for pair in comparison.pairs]
    rows = len(shown[0])
    ax = _axes(ax, (6.0, 1.2 + 0.2 * rows * max(1.0, 0.5 * len(shown))))
    ax.axvspan(-TOLERANCE, TOLERANCE, color=GREEN, alpha=0.12, linewidth=0)
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
    for boundary in range(5, rows, 5):
        ax.axhline(boundary - 0.5, color=GREY, linewidth=0.4)
    ax.set_xlabel(f"difference in posterior sds (shaded: ±{TOLERANCE})")
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small")
    return ax


def posterior(results: Mapping[str, Result], parameter: str, *, ax: Any = None) -> Any:
    """Draw the posterior densities of one scalar parameter by several engines over each other.

    Args:
        results: name -> result, as given to `ssmscan.compare`.
        parameter: label of the scalar, such as "phi" or "beta[0]".
        ax: Axes to draw into.

    Raises:
        KeyError: if a result has no such parameter.
    """
    ax = _axes(ax, (4.0, 2.6))
    for k, (name, result) in enumerate(results.items()):
        draws = dict(scalars(result.draws))
        if parameter not in draws:
            raise KeyError(f"{name} has no parameter {parameter!r}; it has {', '.join(draws)}")
        grid, density = containers.kde(draws[parameter])
        style = ("-", "--", ":", "-.")[k % 4]
        ax.plot(grid, density, style, color=COLOURS[k % len(COLOURS)], linewidth=1.6, label=name)
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel(parameter)
    ax.set_ylabel("posterior density")
    _legend(ax)
    return ax


class _Path(NamedTuple):
    """Centre (T,) of a scalar state, and ribbons from the widest: probability, low (T,), high (T,)."""

    centre: np.ndarray
    kind_of_centre: str
    ribbons: list[tuple[float, np.ndarray, np.ndarray]]


def _smoothed(source: Result, site: str, element: tuple[int, ...]) -> _Path:
    timed = [name for name in source.states if name not in source.initial]
    if site not in timed:
        raise KeyError(f"the result has no state {site!r} with a time axis; it has {timed}")
    paths = _scalar(source.states[site], site, element, leading=3)
    paths = paths.reshape(-1, paths.shape[-1])
    ribbons = [(band, *np.quantile(paths, [0.5 - band / 2, 0.5 + band / 2], axis=0)) for band in _BANDS]
    return _Path(np.median(paths, axis=0), "median", ribbons)


def _filtered(source: Filtered, site: str, element: tuple[int, ...], probs: tuple[float, ...]) -> _Path:
    kept = source.summaries
    if "quantiles" not in kept and not {"mean", "sd"} <= kept.keys():
        raise KeyError(f"the filter kept {sorted(kept)}; run it with summaries=(Mean(), SD()) or (Quantiles(),)")
    sites = kept["quantiles" if "quantiles" in kept else "mean"]
    if site not in sites:
        raise KeyError(f"the filter has no state {site!r}; it has {list(sites)}")
    if "quantiles" in kept:
        levels = _scalar(sites[site], site, element, leading=2)
        if levels.shape[1] != len(probs) or 0.5 not in probs:
            raise ValueError(f"probabilities must be the filter's {levels.shape[1]}, 0.5 among them, got {probs}")
        ribbons = [(probs[-1 - k] - probs[k], levels[:, k], levels[:, -1 - k]) for k in range(len(probs) // 2)]
        return _Path(levels[:, probs.index(0.5)], "median", ribbons)
    mean, sd = (_scalar(kept[name][site], site, element, leading=1) for name in ("mean", "sd"))
    widths = [(band, special.ndtri(0.5 + band / 2) * sd) for band in _BANDS]
    return _Path(mean, "mean", [(band, mean - width, mean + width) for band, width in widths])


def _scalar(values: Any, site: str, element: tuple[int, ...], *, leading: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    shape = values.shape[leading:]
    if len(element) != len(shape):
        raise ValueError(f"{site} has shape {shape}: choose a scalar with element=, got {element}")
    index: tuple[Any, ...] = (..., *element)
    return values[index]


def _labelled(site: str, element: tuple[int, ...]) -> str:
    return f"{site}[{','.join(map(str, element))}]" if element else site


def _draw_data(ax: Any, x: np.ndarray, observed: np.ndarray, *, own_axis: bool) -> None:
    if observed.shape != x.shape:
        raise ValueError(f"observed must be {x.shape}, one value a step, got {observed.shape}")
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
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def _legend(ax: Any) -> None:
    ax.legend(frameon=False, fontsize="small", ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0))
