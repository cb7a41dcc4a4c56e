"""Posterior densities of one parameter by several engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmscan.results.plots import curves
from ssmscan.results.plots.drawing import COLOURS, DASHES, axes, legend
from ssmscan.results.result import Result


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
    ax = axes(ax, (4.0, 2.6))
    for k, (name, (grid, density)) in enumerate(densities.items()):
        style = {"linestyle": DASHES[k % len(DASHES)], "color": COLOURS[k % len(COLOURS)], "linewidth": 1.6}
        if len(grid) == 1:
            ax.axvline(grid[0], label=name, **style)
        else:
            ax.plot(grid, density, label=name, **style)
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel(parameter)
    ax.set_ylabel("posterior density")
    legend(ax)
    return ax
