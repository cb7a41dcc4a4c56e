"""Draws of every site from a model, in the sample and beyond it, with the dates that they are for.

What `ssmscan.predict` and `ssmscan.prior_predictive` return: a mapping from sites to arrays, as it was when it was a
dictionary, and beside the arrays what one needs to draw, to score or to export them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssmscan.labels import Labels, shown
from ssmscan.results.containers import datatree, export
from ssmscan.results.layout import Axes, Group, cut, of_draws, variables
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
        start: names of the initial states, which are among these.
        state_draws: (draws,) which draws of each chain of the result they belong to; None for draws from the prior.
    """

    draws: dict[str, np.ndarray]
    labels: Labels = field(default_factory=Labels)
    observed: dict[str, np.ndarray] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    initial: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    state_draws: np.ndarray | None = None

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

    def to_arviz(self) -> Any:
        """Return the draws and the data for the installed ArviZ: a DataTree, or `InferenceData` before ArviZ 1.

        Draws from the prior are in groups prior, prior_states and prior_predictive; others in posterior_predictive and,
        at the steps beyond the states of the result, predictions.
        """
        if self.state_draws is None:
            groups = of_prior(self)
        else:
            ahead = any(self.num_steps(name) > steps for name, steps in self.known.items())
            groups = {"posterior_predictive": within(self)} | ({"predictions": beyond(self)} if ahead else {})
        data = variables(_axes(self), self.observed, ())
        groups["observed_data"] = cut(data, {}, {} if self.state_draws is None else _known_times(self))
        return export(datatree(groups, {"inference_library": "ssmscan"}))

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


def within(predictions: Predictions) -> Group:
    """Return the observed sites at the steps that states of the result cover, as variables for ArviZ.

    Sites without a time axis are among them.
    """
    found = _variables(predictions, [name for name in predictions.draws if name in predictions.observed])
    return cut(found, {}, _known_times(predictions))


def beyond(predictions: Predictions) -> Group:
    """Return the sites with a time axis at the steps beyond those that states of the result cover.

    Raises:
        ValueError: if there are no such steps.
    """
    ahead = [name for name in predictions.known if predictions.num_steps(name) > predictions.known[name]]
    if not ahead:
        raise ValueError(
            "predictions: the model has no more steps than the states of the result, so that there is no forecast. "
            "Trace it with more steps, and call ssmscan.predict with that; in-sample draws are for "
            "posterior_predictive."
        )
    return cut(_variables(predictions, ahead), _known_times(predictions), {})


def of_prior(predictions: Predictions) -> dict[str, Group]:
    """Return groups of draws from the prior: parameters and what follows from them, states, and observations.

    Raises:
        ValueError: if they are draws from a posterior.
    """
    if predictions.state_draws is not None:
        raise ValueError("prior: expected what ssmscan.prior_predictive returned, got draws from a posterior.")
    rest = [name for name in predictions.draws if name not in predictions.observed]
    states = [name for name in rest if name in predictions.known or name in predictions.start]
    return {
        "prior": _variables(predictions, [name for name in rest if name not in states]),
        "prior_states": _variables(predictions, states),
        "prior_predictive": _variables(
            predictions, [name for name in predictions.draws if name in predictions.observed]
        ),
    }


def _axes(predictions: Predictions) -> Axes:
    return Axes.of(predictions.labels, map(predictions.num_steps, predictions.known), predictions.initial)


def _variables(predictions: Predictions, sites: Iterable[str]) -> Group:
    found = variables(_axes(predictions), {name: predictions.draws[name] for name in sites}, ("chain", "draw"))
    return found | ({} if predictions.state_draws is None or not found else of_draws(predictions.state_draws))


def _known_times(predictions: Predictions) -> dict[str, int | None]:
    """Return the number of known steps along each time dimension."""
    times = _axes(predictions).times
    return {times[predictions.num_steps(name)]: steps for name, steps in predictions.known.items()}
