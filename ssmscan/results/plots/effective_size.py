"""The effective sample size of a filter at each step."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssmscan.results.plots import curves
from ssmscan.results.plots.drawing import BLUE, GREY, VERMILION, axes, label_times, legend
from ssmscan.results.plots.sources import Filtered, time_coordinate
from ssmscan.results.result import Result
from ssmscan.results.table import significant


def ess(filtered: Filtered, *, times: Any = None, ax: Any = None) -> Any:
    """Draw the effective sample size of the particles at each step, with marks where they were resampled.

    The ESS is that of the weights after the step's data, a mark says that the particles were resampled
    before they moved to the step.  The axis is logarithmic and ends at one particle, so that a step where the ESS falls
    to a few, which the model finds surprising, is seen however many there are; below the shade's edge the filter says
    that it starves.  The least is in the legend.

    Args:
        filtered: the result of one filter.
        times: one number or date for each entry of its `ess`; by default those of its labels where the start is not
            observed, else steps, from 1, or from 0 if the start is observed.
        ax: Axes to draw into.

    Raises:
        TypeError: if this is not the result of a filter.
        ValueError: if it is that of many, or the times are not one a step.
    """
    if isinstance(filtered, Result) or not (hasattr(filtered, "ess") and hasattr(filtered, "resampled")):
        raise TypeError(f"ess draws the result of a ParticleFilter, got {type(filtered).__name__}")
    values, resampled = np.asarray(filtered.ess, np.float64), np.asarray(filtered.resampled, bool)
    num_particles, limit = filtered.num_particles, filtered.starving_limit
    if values.ndim != 1:
        raise ValueError(f"ess must be that of one filter, (T,), got shape {values.shape}: choose one of them")
    steps = np.arange(len(values)) + (0 if filtered.start_observed else 1)
    found = time_coordinate(filtered, len(values)) if times is None else times
    x = steps if found is None else curves.times(found, len(values))
    ax = axes(ax, (7.0, 2.4))
    # no particle at all has no place on the axis: a gap
    alive = np.where(values > 0.0, values, np.nan)
    label = "ESS"
    if np.isfinite(alive).any():
        least = int(np.nanargmin(alive))
        label += f", least {significant(float(alive[least]))} at step {steps[least]}"
    ax.plot(x, alive, color=BLUE, linewidth=1.0, label=label)
    if not resampled.all():
        at, bottom = x[resampled], ax.get_xaxis_transform()
        style = {"color": VERMILION, "markersize": 8, "clip_on": False, "transform": bottom, "label": "resampled"}
        ax.plot(at, np.zeros(len(at)), "|", **style)
    ax.set_yscale("log")
    ax.set_ylim(1, num_particles)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    if limit > 1.0:
        ax.axhspan(1, limit, color=GREY, alpha=0.12, linewidth=0, label=f"starving: below {limit:g}")
    ax.set_ylabel(f"effective particles of {num_particles:,}")
    label_times(ax, x, steps=found is None)
    legend(ax)
    return ax
