"""What an engine found: draws of the parameters, state paths, their price, and how they were made.

A `Result` holds NumPy arrays and plain values and nothing of the engine that made it: it can be summarised,
compared, plotted, exported to ArviZ, saved, and loaded in a process that never sampled.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssmscan.arguments import require_instance
from ssmscan.files import other_format
from ssmscan.health import Health
from ssmscan.labels import Labels
from ssmscan.results import containers, health, layout, printing, storage
from ssmscan.results.data import ARRAYS, Costs, ResultData
from ssmscan.results.densities import KIND, PredictiveDensities
from ssmscan.results.plain_values import as_json, as_numbers
from ssmscan.results.predictions import Predictions, beyond, of_prior, within
from ssmscan.results.table import Table
from ssmscan.results.weighted import weighted_mean

CONCERNS = "ssmscan_concerns"
"""Attribute of what ArviZ reads: why the result cannot be trusted as it is."""

_FORMAT = 5
_IN_GROUPS = (*ARRAYS, "state_draws", "log_weights", "costs", "labels")


@dataclass(frozen=True, eq=False)
class Result(ResultData):
    """Draws from the posterior of a state-space model, by any engine.

    Attributes:
        engine: name of the method, such as "NUTS".
        draws: parameter -> (chains, draws, *shape), on the scale of the model; empty for a model without parameters.
        states: latent site of the loop -> (chains, paths, T, *shape), initial site -> (chains, paths,
            *shape). Independent loops have each their own T.
        state_draws: (paths,) path j belongs to draw ``state_draws[j]`` of the same chain.
        sample_stats: name -> (chains, draws, ...), what the engine says about each draw.
        independent_runs: False: the leading axis counts chains, and draws follow one another.  True: it
            counts independent runs of a particle sampler, and draws inside a run have no order.
        log_evidence: log p(y), parameters integrated out; None where the engine gives none.
        log_evidence_error: its standard error.
        costs: what the run cost.
        settings: everything the engine was told, as JSON can hold it.
        versions: package -> version.
        observed: observed site -> data, time in front for sites of the loop.
        interrupted: whether the run was stopped before its end; the draws are those made by then.
        notes: what the engine chose, in sentences.
        doubts: why the engine itself does not trust what it found, and what to do; `health` adds what the draws show.
            A text is the sentence of a reason.
        initial: names in `states` that have no time axis.
        constants: arrays among the arguments of the model that no observed site has its data from, by argument, such
            as covariates.
        state_probabilities: discrete site of few values -> (T, *shape, values), without T for an initial site: the
            posterior probability of each of its values, in increasing order, averaged over the draws in `state_draws`
            of all chains.  Where the engine sums the site out these are smoothing probabilities given each draw of the
            parameters, which vary less than the frequencies in `states` that they are elsewhere.
        deterministics: deterministic outside the loop -> (chains, draws, *shape), if parameters decide it; those that
            states decide are in `states`.  They are computed from the draws: summary and compare leave them out.
        points: parameter -> (points, *shape), draws of unequal weight, as an importance sampler makes them; empty where
            draws have equal weight.  Where there are points, `draws` are resampled from them, for whatever reads draws,
            and mean, summary, concerns and compare are about the points and their weights.
        log_weights: (points,) logarithm of the weight of each point up to a constant, -inf for none.
        continuation: what it takes an engine to go on from this result, by names that it chose; not shown.
        origin: what the run belongs to, as JSON can hold it, so that an engine goes on only from its own; not shown.
        labels: names of the axes and what stands along them, dates for one.

    Raises:
        ValueError: if an array does not have the shape above; it names the array.
        TypeError: if the settings are not what JSON can hold, or an array is not of numbers.
    """

    def health(self) -> Health:
        """Return whether this result can be used, why not and what to do; see `ssmscan.results.health`."""
        return health.health(self)

    def concerns(self) -> tuple[str, ...]:
        """Return the sentences of `health`; nothing if all is well."""
        return self.health().sentences

    def summary(self) -> Table:
        """Return a table of every scalar parameter: moments, quantiles, their error, ESS and R-hat; concerns below.

        MCSE is the standard error of the mean, and the column beside it half a 95 % interval of the
        mean: autocorrelation-aware for chains, from the spread between runs (Student t) otherwise.

        Raises:
            ValueError: if there are no draws.
        """
        return printing.parameters(self, notes=self.concerns())

    def mean(self) -> dict[str, np.ndarray]:
        """Return the posterior mean of each parameter, ready to be a theta.

        Raises:
            ValueError: if there are no draws.
        """
        self._require_draws()
        if self.points:
            return {name: weighted_mean(values, self.log_weights) for name, values in self.points.items()}
        return {name: values.mean(axis=(0, 1)) for name, values in self.draws.items()}

    def to_arviz(
        self,
        *,
        posterior_predictive: Mapping[str, np.ndarray] | None = None,
        predictions: Predictions | None = None,
        log_likelihood: PredictiveDensities | None = None,
        prior: Predictions | None = None,
    ) -> Any:
        """Return what the installed ArviZ works with: a DataTree, or `InferenceData` before ArviZ 1.

        The groups are those of ArviZ's schema.  Of the result itself: posterior, with the parameters and what the model
        computes of them; sample_stats; observed_data; constant_data.  State paths are in a group `states`, from every
        engine, whose draw coordinate says which draw each path belongs to, and probabilities of discrete states in
        `state_probabilities`.  Time has the dates of the labels.  A slash in the name of a site becomes a dot.

        The attribute `ssmscan_concerns` of the whole and of the posterior holds the concerns, one a line.  All draws
        have equal weight: ArviZ knows no other.

        Args:
            posterior_predictive: what `ssmscan.predict` returned, whose observed sites are taken at the steps that
                states of the result cover; or arrays of all draws (chains, draws, ...), or of those with a state path
                (chains, paths, ...).
            predictions: what `ssmscan.predict` returned of a longer model: all its sites in the loop, at the steps
                beyond.
            log_likelihood: what `ssmscan.predictive_densities` returned: one-step-ahead predictive densities, by the
                sites observed together, as the attribute `kind` of the group says.
            prior: what `ssmscan.prior_predictive` returned: groups prior, prior_states and prior_predictive.

        Raises:
            ValueError: if a predictive array is of neither all draws nor all state paths, or predictions do not go
                beyond the states.
            TypeError: if one of them is something else.
        """
        groups, kinds = layout.groups(self), {}
        if isinstance(posterior_predictive, Predictions):
            groups["posterior_predictive"] = within(posterior_predictive)
        elif posterior_predictive is not None:
            groups["posterior_predictive"] = self._of_draws("posterior_predictive", posterior_predictive)
        if predictions is not None:
            require_instance("predictions", predictions, Predictions, "what ssmscan.predict returned")
            groups["predictions"] = beyond(predictions)
        if log_likelihood is not None:
            expected = "what ssmscan.predictive_densities returned"
            require_instance("log_likelihood", log_likelihood, PredictiveDensities, expected)
            axes = layout.Axes.of_result(self)
            densities = layout.variables(axes, log_likelihood.by_site, ("chain", "draw"))
            groups["log_likelihood"] = densities | layout.of_draws(log_likelihood.draws)
            kinds["log_likelihood"] = KIND
        if prior is not None:
            require_instance("prior", prior, Predictions, "what ssmscan.prior_predictive returned")
            groups |= of_prior(prior)
        return containers.export(containers.datatree(groups, self._attributes(), kinds))

    def _of_draws(self, argument: str, arrays: Mapping[str, np.ndarray]) -> layout.Group:
        """Return arrays of all draws, or of all state paths, as variables."""
        predictive = as_numbers(argument, arrays)
        paths = len(self.state_draws)
        of_paths = {values.shape[:2] for values in predictive.values()} == {(self.num_chains, paths)}
        if not of_paths:
            self._require_leading(argument, predictive, (self.num_chains, self.num_draws))
        found = layout.variables(layout.Axes.of_result(self), predictive, ("chain", "draw"))
        return found | layout.of_draws(self.state_draws if of_paths else np.arange(self.num_draws))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to a netCDF file and return its path; `load` gives back the same arrays.

        An existing file is replaced in one step, never left half written.
        """
        groups = {**layout.groups(self), **layout.own_groups(self)}
        sites = {name: list(getattr(self, name)) for name in ARRAYS} | {"labels": list(self.labels.coords)}
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _IN_GROUPS}
        header = {
            **plain,
            "costs": dataclasses.asdict(self.costs),
            "dims": dict(self.labels.dims),
            "format": _FORMAT,
            "sites": sites,
        }
        return storage.write(path, groups, header, self._attributes())

    def __repr__(self) -> str:
        return printing.text(self, self.health())

    def _repr_html_(self) -> str:
        return printing.html(self, self.health())

    def _attributes(self) -> dict[str, str]:
        return {"inference_library": "ssmscan", CONCERNS: "\n".join(self.concerns())}


def load(path: str | os.PathLike[str]) -> Result:
    """Load a `Result` that was saved, by this or another process; nothing is left open.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
        ValueError: if the file is not a saved result, is damaged, or has the format of another version of the package.
    """
    groups, header = storage.read(path)
    try:
        found, sites = int(header.pop("format")), header.pop("sites")
        if found == _FORMAT:
            costs = Costs(**as_json("costs", header.pop("costs")))
            labels = Labels(layout.unnumbered(groups, "labels", sites), header.pop("dims"))
            return Result(**layout.arrays(groups, sites), **header, costs=costs, labels=labels)
    except KeyError as error:
        raise storage.damaged(path, f"it has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise storage.damaged(path, str(error)) from error
    raise other_format(path, found, _FORMAT, again="run the engine again, or read its arrays with arviz.from_netcdf")
