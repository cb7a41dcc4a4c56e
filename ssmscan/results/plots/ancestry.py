"""The genealogy of a filter's particles: the lines of the last cloud, followed back to their common ancestors.

Each resampling lets some particles have several children and others none, so that lines followed back from the last
cloud meet.  Where few are left, what the paths say of the state is what few particles say (Jacob, Murray & Rubenthaler
2015, Statistics and Computing 25, 487-496).  A line is as wide as the share of the last cloud that descends through it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ssmscan.arguments import require_integer
from ssmscan.labels import labels_of
from ssmscan.results.plots import curves
from ssmscan.results.plots.drawing import BLUE, GREY, VERMILION, axes, label_times, labelled, legend
from ssmscan.results.plots.sources import require_one_run, time_coordinate
from ssmscan.results.result import Result

MOST_POINTS = 60
"""Particles of a step that are drawn as points."""


class Generation(NamedTuple):
    """The particles of one step that have descendants in the last cloud.

    Attributes:
        nodes: (n,) where their values are.
        parents: (n,) which of the generation before each descends from; -1 before the first that is stored.
        shares: (n,) share of the last cloud that descends from each.
    """

    nodes: np.ndarray
    parents: np.ndarray
    shares: np.ndarray


def genealogy(
    filtered: Any,
    site: str,
    *,
    element: str | tuple[int | str, ...] = (),
    num_lines: int = 200,
    times: Any = None,
    ax: Any = None,
) -> Any:
    """Draw the ancestral lines of a filter's last cloud, with the number of ancestors that it has at the first step.

    Args:
        filtered: the result of one run of a filter with `store=ssmscan.Ancestry()`, `FullHistory()` or `LastSteps(k)`;
            where whole clouds are stored, some particles of each are drawn as points.
        site: name of a state in the loop.
        element: index of the scalar, for a site that is an array, or what the labels call it.
        num_lines: particles of the last cloud whose lines are drawn, spread over it; all if there are fewer.  The
            numbers of ancestors are those of all.
        times: (T,) numbers or dates; by default those of the filter's labels, else steps from 1.
        ax: Axes to draw into.

    Raises:
        TypeError: if this is not the result of a filter.
        KeyError: if the filter has no such state.
        ValueError: if it stored no history, or had too little room for it.
    """
    if isinstance(filtered, Result) or not hasattr(filtered, "history"):
        raise TypeError(f"genealogy draws the result of a ParticleFilter, got {type(filtered).__name__}")
    require_one_run(filtered)
    curves.require_name(site)
    num_lines = require_integer("num_lines", num_lines, at_least=1)
    element = labels_of(filtered).index(site, element)
    stored = _Stored(filtered, site, element)
    every = _generations(stored, np.arange(stored.num_particles))
    drawn = _generations(stored, np.unique(np.linspace(0, stored.num_particles - 1, num_lines).astype(int)))
    counts = np.array([len(generation.nodes) for generation in every])
    num_steps = stored.first + len(every)
    found = time_coordinate(filtered, num_steps) if times is None else times
    x = curves.times(found, num_steps)[stored.first :]
    ax = axes(ax, (7.0, 3.0))
    _draw_clouds(ax, x, stored)
    _draw_lines(ax, x, stored, drawn)
    alone = np.flatnonzero(counts == 1)
    first = stored.first + 1
    label = f"{counts[0]:,} ancestor{'s' * int(counts[0] > 1)} of {stored.num_particles:,} particles at step {first}"
    ax.plot([], [], color=BLUE, linewidth=1.5, label=label)
    if len(alone):
        at = {"color": VERMILION, "linewidth": 1.0, "linestyle": (0, (4, 2)), "gid": "common ancestor"}
        ax.axvline(x[alone[-1]], label=f"one common ancestor up to step {stored.first + alone[-1] + 1}", **at)
    ax.set_ylabel(labelled(filtered, site, element))
    label_times(ax, x, steps=found is None)
    legend(ax)
    return ax


class _Stored:
    """The parents and the values of one scalar, of all clouds or of a tree alike."""

    def __init__(self, filtered: Any, site: str, element: tuple[int, ...]) -> None:
        kept = filtered.history
        # another store keeps less than the values of ancestors
        if not (hasattr(kept, "parents") or hasattr(kept, "steps")):
            raise ValueError(
                "genealogy: the filter stored no paths; run ParticleFilter(..., store=Ancestry()) or FullHistory()"
            )
        self.is_tree = hasattr(kept, "parents")
        values = kept.values if self.is_tree else kept.steps.values
        if site not in values:
            raise KeyError(f"the filter has no state {site!r}; it has {list(values)}")
        self.num_particles = int(filtered.num_particles)
        number = _of_panel(filtered.panel, site, element)
        self.first = 0 if self.is_tree else int(kept.first)
        if self.is_tree:
            self.parents = np.asarray(kept.parents)[number]
            element = _within(filtered.panel, site, element)
            self.values = curves.scalar(np.asarray(values[site])[number], site, element, leading=1)
            self.last, self.num_steps = int(np.asarray(kept.last)[number]), kept.num_steps
            if int(np.asarray(kept.lost)[number]) >= 0:
                raise ValueError("genealogy: the ancestry is incomplete; run again with a larger Ancestry(room=...)")
        else:
            ancestors = np.asarray(kept.steps.ancestors)
            self.parents = ancestors if number == () else ancestors[:, number[0]]
            self.values = curves.scalar(values[site], site, element, leading=2)
            self.num_steps = len(self.parents)

    def start(self, particles: np.ndarray) -> np.ndarray:
        """Return the nodes of particles of the last cloud."""
        return particles + self.last if self.is_tree else particles

    def above(self, step: int, nodes: np.ndarray) -> np.ndarray:
        """Return the parents of nodes of a step."""
        return self.parents[nodes] if self.is_tree else self.parents[step, nodes]

    def at(self, step: int, nodes: np.ndarray) -> np.ndarray:
        """Return the values of nodes of a step."""
        return self.values[nodes] if self.is_tree else self.values[step, nodes]


def _of_panel(panel: Any, site: str, element: Any) -> tuple[int, ...]:
    """Return the number of the element of a panel that a scalar belongs to, () where there is no panel."""
    if panel is None:
        return ()
    axis = dict(panel.values)[site]
    if not axis or not isinstance(element, tuple) or len(element) < -axis:
        raise ValueError(
            f"{site} is of a panel of {panel.size} series with ancestors of their own: choose a scalar with element="
        )
    return (int(element[axis]),)


def _within(panel: Any, site: str, element: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of a scalar in what one element of a panel has, whose axis there has size one."""
    if panel is None:
        return element
    own = list(element)
    own[dict(panel.values)[site]] = 0
    return tuple(own)


def _generations(stored: _Stored, particles: np.ndarray) -> list[Generation]:
    """Return the ancestors of particles of the last cloud, from the first step."""

    def back() -> Iterator[Generation]:
        nodes, shares = stored.start(particles), np.full(len(particles), 1.0 / len(particles))
        for step in reversed(range(stored.num_steps)):
            above = stored.above(step, nodes)
            known, parents = np.unique(above, return_inverse=True)
            yield Generation(nodes, parents if step else np.full(len(nodes), -1), shares)
            nodes, shares = known, np.bincount(parents, weights=shares)

    return list(back())[::-1]


def _draw_lines(ax: Any, x: np.ndarray, stored: _Stored, generations: list[Generation]) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.dates import date2num

    place = date2num(x) if x.dtype.kind in "MO" else x
    segments, widths = [], []
    for step in range(1, len(generations)):
        before, here = generations[step - 1], generations[step]
        ends = stored.at(step - 1, before.nodes)[here.parents], stored.at(step, here.nodes)
        for one, other, share in zip(*ends, here.shares):
            segments.append([(place[step - 1], one), (place[step], other)])
            widths.append(0.3 + 1.7 * np.sqrt(share))
    ax.add_collection(LineCollection(segments, linewidths=widths, colors=BLUE, alpha=0.8, gid="lines"))
    if x.dtype.kind in "MO":
        ax.xaxis_date()
    ax.autoscale_view()


def _draw_clouds(ax: Any, x: np.ndarray, stored: _Stored) -> None:
    """Draw some particles of each step as points; a tree has none but those that have descendants."""
    if stored.is_tree:
        return
    some = np.unique(np.linspace(0, stored.num_particles - 1, MOST_POINTS).astype(int))
    points = {"color": GREY, "marker": ".", "markersize": 1.5, "linestyle": "none", "alpha": 0.2, "rasterized": True}
    ax.plot(np.repeat(x, len(some)), stored.values[:, some].ravel(), label="particles", gid="particles", **points)
