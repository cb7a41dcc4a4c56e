"""Draws of every site from a model, in the sample and beyond it, with the dates that they are for.

What `ssmscan.predict` and `ssmscan.prior_predictive` return: a mapping from sites to arrays, as it was when it was a
dictionary, and beside the arrays what one needs to draw, to score or to export them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ssmscan.labels import Labels, shown
from ssmscan.results.table import Table


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(Mapping[str, np.ndarray]):
    """Draws of the sites of a model, by name: ``predictions["y"]``.

    Attributes:
        draws: site -> (chains, draws, [T,] *shape); sites of the loop have time in front.
        labels: names of the axes and what stands along them.
        observed: observed site -> data, NaN where there are none; time in front for sites of the loop.
        known: site with a time axis -> number of its steps that states of the result cover; a forecast begins there.
        initial: names of the sites without a time axis.
    """

    draws: dict[str, np.ndarray]
    labels: Labels = field(default_factory=Labels)
    observed: dict[str, np.ndarray] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    initial: tuple[str, ...] = ()

    def __getitem__(self, site: str) -> np.ndarray:
        return self.draws[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self.draws)

    def __len__(self) -> int:
        return len(self.draws)

    @property
    def num_known(self) -> int:
        """Number of steps that states of the result cover, 0 where none are.

        Raises:
            ValueError: if loops differ; ask `known` for a site.
        """
        found = set(self.known.values())
        if len(found) > 1:
            raise ValueError(f"the loops of the model differ in their known steps, {sorted(found)}: ask known[site]")
        return found.pop() if found else 0

    def num_steps(self, site: str) -> int:
        """Return the number of steps of a site with a time axis.

        Raises:
            KeyError: if there is no such site, or it has no time axis.
        """
        if site not in self.known:
            raise KeyError(f"the predictions have no site {site!r} with a time axis; they have {list(self.known)}")
        return self.draws[site].shape[2]

    def times(self, site: str) -> np.ndarray | None:
        """Return the time coordinate of a site, one entry a step; None where there is none."""
        return self.labels.times(self.num_steps(site))

    def summary(self) -> Table:
        """Return a table of the sites: shape of one draw, the steps of a forecast, and what they are for."""
        rows = []
        for site, values in self.draws.items():
            shape = values.shape[3:] if site in self.known else values.shape[2:]
            ahead = str(self.num_steps(site) - self.known[site]) if site in self.known else ""
            rows.append((site, str(shape) if shape else "", self._span(site), ahead))
        lead = next(iter(self.draws.values())).shape[:2] if self.draws else (0, 0)
        title = f"Predictions: {lead[0]} chains of {lead[1]} draws"
        return Table(title, ("site", "shape", "time", "steps ahead"), tuple(rows), labels=3)

    def _span(self, site: str) -> str:
        if site not in self.known:
            return ""
        steps, times = self.num_steps(site), self.times(site)
        return f"{steps} steps" if times is None else f"{shown(times[0])} to {shown(times[-1])}, {steps} steps"

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()
