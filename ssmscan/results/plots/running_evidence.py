r"""The evidence after every observation, and between models the Bayes factor.

:math:`\log p(y_{1:t})` falls by hundreds over a series while its error is of the order of one, so that the band of a
single source is seen only where it is wide.  Given several, each is drawn less the first: the logarithm of the Bayes
factor of each model against that one, which shows when the data decided.

The band is two standard errors to either side.  Of SMC2 it is that of its runs; of replicates of a filter

.. math:: \log \hat p(y_{1:t}) = \log \frac1R \sum_r e^{s_{rt}}, \qquad
          \mathrm{error}^2 = \frac{\mathrm{var}_r\, e^{s_{rt} - \log \hat p(y_{1:t})}}{R},

with :math:`s_{rt}` the sum of the increments of run r up to step t.  One run of a filter has no band.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from ssmscan.arguments import refusal
from ssmscan.results.plots import curves
from ssmscan.results.plots.drawing import COLOURS, DASHES, GREY, axes, label_times, legend
from ssmscan.results.plots.sources import time_coordinate
from ssmscan.results.result import Result
from ssmscan.results.table import rounded

WIDTH = 2.0
"""Standard errors on either side."""


class Evidence(NamedTuple):
    """Log evidence (T + 1,) after each of 0 .. T steps, and its standard error, NaN where it is not known."""

    value: np.ndarray
    error: np.ndarray


def evidence(source: Any, *, times: Any = None, ax: Any = None) -> Any:
    """Draw the log evidence of the data up to each step, with two standard errors to either side.

    Args:
        source: what `ssmscan.SMC2.running` returned, or the result of a particle filter: one run, or a batch of runs
            with other keys (by `jax.vmap`), which gives it an error.  Or several of these by name, for models of the
            same data: each is drawn less the first.
        times: (T,) numbers or dates; by default those of a filter's labels, else steps.
        ax: Axes to draw into.

    Raises:
        TypeError: if it is none of these.
        ValueError: if the particles knew later data, whose increments predict nothing, or the models differ in their
            steps.
    """
    if isinstance(source, Mapping):
        if not source:
            raise ValueError("evidence needs a source, got none")
        return _draw_factors(
            {name: _running(f"source[{name!r}]", one) for name, one in source.items()}, source, times, ax
        )
    found = _running("source", source)
    ax = axes(ax, (7.0, 2.6))
    x, shown = _times(found, (source,), times)
    end = _with_error(found.value[-1], found.error[-1])
    _draw(ax, x, Evidence(found.value[shown], found.error[shown]), f"{end} at the end", 0)
    ax.set_ylabel("log evidence")
    label_times(ax, x, steps=shown.start == 0)
    legend(ax)
    return ax


def _draw_factors(by_name: dict[str, Evidence], sources: Mapping[str, Any], times: Any, ax: Any) -> Any:
    """Draw each but the first less the first."""
    first, *others = by_name
    if not others:
        return evidence(sources[first], times=times, ax=ax)
    base = by_name[first]
    for name in others:
        if len(by_name[name].value) != len(base.value):
            raise ValueError(
                f"source[{name!r}] has {len(by_name[name].value) - 1} steps and source[{first!r}] "
                f"{len(base.value) - 1}: evidence compares models of the same data"
            )
    ax = axes(ax, (7.0, 2.6))
    x, shown = _times(base, sources.values(), times)
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    for k, name in enumerate(others):
        own = by_name[name]
        # an error that is not known does not hide the other
        error = np.sqrt(np.nan_to_num(own.error) ** 2 + np.nan_to_num(base.error) ** 2)
        error = np.where(np.isnan(own.error) & np.isnan(base.error), np.nan, error)
        factor = Evidence(own.value - base.value, error)
        end = _with_error(factor.value[-1], factor.error[-1])
        _draw(ax, x, Evidence(factor.value[shown], factor.error[shown]), f"{name}: {end} at the end", k)
    ax.set_ylabel(f"log Bayes factor against {first}")
    label_times(ax, x, steps=shown.start == 0)
    legend(ax)
    return ax


def _draw(ax: Any, x: np.ndarray, found: Evidence, label: str, k: int) -> None:
    value = np.where(np.isfinite(found.value), found.value, np.nan)
    colour = COLOURS[k % len(COLOURS)]
    if np.isfinite(found.error).any():
        low, high = value - WIDTH * found.error, value + WIDTH * found.error
        ax.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(x, value, color=colour, linestyle=DASHES[k % len(DASHES)], linewidth=1.2, label=label)


def _running(argument: str, source: Any) -> Evidence:
    """Return the evidence of one source after each step."""
    if isinstance(getattr(source, "log_evidence", None), np.ndarray) and not isinstance(source, Result):
        return Evidence(np.asarray(source.log_evidence, float), np.asarray(source.log_evidence_error, float))
    if isinstance(source, Result) or not all(hasattr(source, name) for name in ("increments", "uses_later_data")):
        expected = "what ssmscan.SMC2.running returned, or the result of a particle filter"
        raise TypeError(refusal(argument, expected, source))
    if source.uses_later_data:
        raise ValueError(
            f"{argument}: the particles of {source.proposal} knew later data, so that their increments are no evidence "
            "of the data up to a step: draw that of a filter with another proposal, such as ssmscan.Bootstrap()"
        )
    increments = np.asarray(source.increments, np.float64)
    increments = increments.reshape(-1, increments.shape[-1])
    # what no state reaches counts from the start
    total = np.asarray(source.log_likelihood, np.float64).reshape(-1, 1)
    with np.errstate(invalid="ignore"):
        static = np.nan_to_num(total - increments.sum(1, keepdims=True))
    first = static if not source.start_observed else static + increments[:, :1]
    rest = increments if not source.start_observed else increments[:, 1:]
    sums = np.cumsum(np.concatenate([first, rest], axis=1), axis=1)
    value = logsumexp(sums, axis=0) - np.log(len(sums))
    if len(sums) == 1:
        return Evidence(value, np.full(len(value), np.nan))
    with np.errstate(invalid="ignore"):
        error = np.exp(sums - value).std(0, ddof=1) / np.sqrt(len(sums))
    return Evidence(value, error)


def _times(found: Evidence, sources: Any, times: Any) -> tuple[np.ndarray, slice]:
    """Return the horizontal axis, and the entries that it is for: steps from 0, or times, which step 0 has not."""
    num_steps = len(found.value) - 1
    if times is None:
        coordinates = [time_coordinate(source, num_steps) for source in sources]
        times = next((x for x in coordinates if x is not None), None)
    if times is None:
        return np.arange(num_steps + 1), slice(0, None)
    return curves.times(times, num_steps), slice(1, None)


def _with_error(value: float, error: float) -> str:
    text = f"{rounded(value, error)} ± {rounded(error, error)}" if np.isfinite(error) else f"{value:.6g}"
    return text.replace("-", "\N{MINUS SIGN}")
