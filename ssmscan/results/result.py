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

from ssmscan.files import other_format
from ssmscan.health import Health
from ssmscan.results import containers, health, layout, printing, storage
from ssmscan.results.containers import Variable
from ssmscan.results.data import ARRAYS, Costs, ResultData
from ssmscan.results.plain_values import as_json, as_numbers
from ssmscan.results.table import Table
from ssmscan.results.weighted import weighted_mean

CONCERNS = "ssmscan_concerns"
"""Attribute of what ArviZ reads: why the result cannot be trusted as it is."""

_FORMAT = 4
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
        state_probabilities: discrete site that the engine summed out -> (T, *shape, values), without T for an
            initial site: the posterior probability of each of its values, in increasing order, averaged over
            the draws in `state_draws` of all chains.  With parameters known these are the smoothing probabilities
            of the forward-backward recursion; they vary less than frequencies in `states`.
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

    def to_arviz(self, *, posterior_predictive: Mapping[str, np.ndarray] | None = None) -> Any:
        """Return what the installed ArviZ works with: a DataTree, or `InferenceData` before ArviZ 1.

        Groups are posterior, sample_stats, observed_data and, if given, posterior_predictive with arrays of all draws
        (chains, draws, ...), or of those with a state path (chains, paths, ...) as `ssmscan.predict` makes them.  State
        paths are in the posterior when every draw has one; otherwise in a group `states`, whose draw coordinate says
        which draw each path belongs to.  A slash in the name of a site becomes a dot.  The attribute
        `ssmscan_concerns` of the whole and of the posterior holds the concerns, one a line.  All draws have equal
        weight: ArviZ knows no other.

        Raises:
            ValueError: if a predictive array is of neither all draws nor all state paths.
        """
        groups = layout.groups(self)
        if posterior_predictive is not None:
            predictive = as_numbers("posterior_predictive", posterior_predictive)
            paths = len(self.state_draws)
            of_paths = {values.shape[:2] for values in predictive.values()} == {(self.num_chains, paths)}
            if not of_paths:
                self._require_leading("posterior_predictive", predictive, (self.num_chains, self.num_draws))
            groups["posterior_predictive"] = layout.variables(self, predictive, ("chain", "draw"))
            if of_paths and paths < self.num_draws:
                groups["posterior_predictive"]["draw"] = Variable(("draw",), self.state_draws)
        return containers.export(containers.datatree(groups, self._attributes()))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to a netCDF file and return its path; `load` gives back the same arrays.

        An existing file is replaced in one step, never left half written.
        """
        groups = {**layout.groups(self), **layout.own_groups(self)}
        sites = {name: list(getattr(self, name)) for name in ARRAYS}
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _IN_GROUPS}
        header = {**plain, "costs": dataclasses.asdict(self.costs), "format": _FORMAT, "sites": sites}
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
            return Result(**layout.arrays(groups, sites), **header, costs=costs)
    except KeyError as error:
        raise storage.damaged(path, f"it has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise storage.damaged(path, str(error)) from error
    raise other_format(path, found, _FORMAT, again="run the engine again, or read its arrays with arviz.from_netcdf")
