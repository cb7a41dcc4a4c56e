"""What an engine found: draws of the parameters, state paths, their price, and how they were made.

A `Result` holds NumPy arrays and plain values and nothing of the engine that made it: it can be summarised,
compared, plotted, exported to ArviZ, saved, and loaded in a process that never sampled.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssmscan.files import other_format
from ssmscan.results import containers, health, layout, printing, storage
from ssmscan.results.containers import Variable
from ssmscan.results.plain_values import as_flag, as_indices, as_json, as_number, as_numbers, as_texts, require_holdable
from ssmscan.results.summary import STATISTICS, Summary, scalars, summarise
from ssmscan.results.table import Table, count, rounded, significant

CONCERNS = "ssmscan_concerns"
"""Attribute of what ArviZ reads: why the result cannot be trusted as it is."""

_FORMAT = 3
_IN_GROUPS = (*layout.ARRAYS, "state_draws", "costs")


@dataclass(frozen=True)
class Costs:
    """What a run cost.

    Attributes:
        compile_seconds: tracing and compiling, apart from everything below.
        warmup_seconds: adaptation and pilots, or the particles' way from prior to posterior.
        run_seconds: making the draws that are kept.
        particle_steps: particles moved by one time step each, pilots and warm-up included.
        gradient_evaluations: gradients of the log density over the whole series, warm-up included.
    """

    compile_seconds: float
    warmup_seconds: float
    run_seconds: float
    particle_steps: int = 0
    gradient_evaluations: int = 0

    def __post_init__(self) -> None:
        """Make the numbers Python's."""
        for field_ in dataclasses.fields(self):
            number = as_number(field_.name, getattr(self, field_.name))
            whole = field_.name in ("particle_steps", "gradient_evaluations")
            object.__setattr__(self, field_.name, int(number) if whole else number)


@dataclass(frozen=True, eq=False)
class Result:
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
        doubts: why the engine itself does not trust what it found, in sentences that say what to do; `concerns` adds
            what the draws show.
        initial: names in `states` that have no time axis.
        state_probabilities: discrete site that the engine summed out -> (T, *shape, values), without T for an
            initial site: the posterior probability of each of its values, in increasing order, averaged over
            the draws in `state_draws` of all chains.  With parameters known these are the smoothing probabilities
            of the forward-backward recursion; they vary less than frequencies in `states`.
        deterministics: deterministic outside the loop -> (chains, draws, *shape), if parameters decide it; those that
            states decide are in `states`.  They are computed from the draws: summary and compare leave them out.

    Raises:
        ValueError: if an array does not have the shape above; it names the array.
        TypeError: if the settings are not what JSON can hold, or an array is not of numbers.
    """

    engine: str
    draws: dict[str, np.ndarray]
    states: dict[str, np.ndarray]
    state_draws: np.ndarray
    sample_stats: dict[str, np.ndarray]
    independent_runs: bool
    log_evidence: float | None
    log_evidence_error: float | None
    costs: Costs
    settings: dict[str, Any]
    versions: dict[str, str]
    observed: dict[str, np.ndarray]
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    initial: tuple[str, ...] = ()
    state_probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    deterministics: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make arrays NumPy's, settings what a file gives back, and check all shapes."""
        for name in layout.ARRAYS:
            object.__setattr__(self, name, as_numbers(name, getattr(self, name)))
        object.__setattr__(self, "state_draws", as_indices("state_draws", self.state_draws))
        for name in ("notes", "doubts", "initial"):
            object.__setattr__(self, name, as_texts(name, getattr(self, name)))
        for name in ("independent_runs", "interrupted"):
            object.__setattr__(self, name, as_flag(name, getattr(self, name)))
        for name in ("log_evidence", "log_evidence_error"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else as_number(name, value))
        for name in ("settings", "versions"):
            object.__setattr__(self, name, as_json(name, getattr(self, name)))
        as_texts("engine", [self.engine])
        if not isinstance(self.costs, Costs):
            raise TypeError(f"costs of a Result must be ssmscan.results.Costs, got {self.costs!r}")
        self._check()

    @property
    def num_chains(self) -> int:
        """Number of chains, or of independent runs."""
        return self._leading[0]

    @property
    def num_draws(self) -> int:
        """Number of draws in each chain or run."""
        return self._leading[1]

    @property
    def _leading(self) -> tuple[int, ...]:
        """(chains, draws); a model without parameters has only what the engine says of each draw."""
        return (*self.draws.values(), *self.sample_stats.values())[0].shape[:2]

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """What the draws say about each scalar parameter, by label as in ``"beta[0,1]"``; computed once."""
        self._require_draws()
        return {label: summarise(x, independent_runs=self.independent_runs) for label, x in scalars(self.draws)}

    def concerns(self) -> tuple[str, ...]:
        """Return the reasons not to trust this result, each a sentence; see `ssmscan.results.health`."""
        return health.concerns(self)

    def summary(self) -> Table:
        """Return a table of every scalar parameter: moments, quantiles, their error, ESS and R-hat; concerns below.

        MCSE is the standard error of the mean, and the column beside it half a 95 % interval of the
        mean: autocorrelation-aware for chains, from the spread between runs (Student t) otherwise.

        Raises:
            ValueError: if there are no draws.
        """
        self._require_draws()
        rows = []
        for label, s in self.summaries.items():
            rows.append(
                (
                    label,
                    *(rounded(e.value, e.error) for e in s.statistics),
                    significant(s.mean.error),
                    significant(s.mean.half_width(0.95)),
                    count(s.ess_bulk),
                    count(s.ess_tail),
                    rounded(s.rhat, 0.01),
                )
            )
        columns = ("parameter", *STATISTICS, "MCSE", "± 95 %", "bulk ESS", "tail ESS", "R-hat")
        return Table(self.title, columns, tuple(rows), notes=self.concerns())

    def mean(self) -> dict[str, np.ndarray]:
        """Return the posterior mean of each parameter, ready to be a theta.

        Raises:
            ValueError: if there are no draws.
        """
        self._require_draws()
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
        groups = {**layout.groups(self), "paths": {"state_draws": Variable(("path",), self.state_draws)}}
        sites = {name: list(getattr(self, name)) for name in layout.ARRAYS}
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _IN_GROUPS}
        header = {**plain, "costs": dataclasses.asdict(self.costs), "format": _FORMAT, "sites": sites}
        return storage.write(path, groups, header, self._attributes())

    @property
    def title(self) -> str:
        """The engine and the number of draws, in one line."""
        unit = "independent runs" if self.independent_runs else "chains"
        end = ", interrupted" if self.interrupted else ""
        return f"{self.engine}: {self.num_chains} {unit} of {self.num_draws} draws{end}"

    def __repr__(self) -> str:
        return printing.text(self)

    def _repr_html_(self) -> str:
        return printing.html(self)

    def _require_draws(self) -> None:
        if self.num_draws == 0:
            raise ValueError(f"{self.engine} was stopped before its first draw: there is nothing to summarise")

    def _attributes(self) -> dict[str, str]:
        return {"inference_library": "ssmscan", CONCERNS: "\n".join(self.concerns())}

    def _check(self) -> None:
        if not (self.draws or self.sample_stats):
            raise ValueError("a Result needs draws of a parameter, or sample_stats where there are none; got neither")
        first = (*self.draws.values(), *self.sample_stats.values())[0]
        if first.ndim < 2 or first.shape[0] == 0:
            raise ValueError(
                f"draws or sample_stats must be (chains, draws, ...), one chain at least, got {first.shape}"
            )
        leading = (self.num_chains, self.num_draws)
        self._require_leading("draws", self.draws, leading)
        self._require_leading("sample_stats", self.sample_stats, leading)
        self._require_leading("deterministics", self.deterministics, leading)
        if self.state_draws.ndim != 1 or np.any((self.state_draws < 0) | (self.state_draws >= leading[1])):
            raise ValueError(
                f"state_draws must be a list of draws between 0 and {leading[1] - 1}, "
                f"got shape {self.state_draws.shape}, values {np.unique(self.state_draws)}"
            )
        if unknown := sorted(set(self.initial) - set(self.states)):
            raise ValueError(f"initial names {unknown}, which states does not hold: {sorted(self.states)}")
        paths = (self.num_chains, len(self.state_draws))
        for name, values in self.states.items():
            self._require_leading("states", {name: values}, paths)
            if name not in self.initial and values.ndim < 3:
                raise ValueError(f"states[{name!r}] must be (chains, paths, time, ...), got {values.shape}")
        require_holdable(self.draws, self.deterministics)
        require_holdable({**self.draws, **self.deterministics}, self.states, self.observed)
        require_holdable(self.sample_stats)
        require_holdable(self.state_probabilities)

    @staticmethod
    def _require_leading(field: str, arrays: Mapping[str, np.ndarray], leading: tuple[int | None, ...]) -> None:
        for name, values in arrays.items():
            if values.shape[: len(leading)] != leading:
                raise ValueError(f"{field}[{name!r}] must have a shape that begins with {leading}, got {values.shape}")


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
            costs, state_draws = _costs(header.pop("costs")), groups["paths"]["state_draws"]
            return Result(**layout.arrays(groups, sites), **header, costs=costs, state_draws=state_draws)
    except KeyError as error:
        raise storage.damaged(path, f"it has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise storage.damaged(path, str(error)) from error
    raise other_format(path, found, _FORMAT, again="run the engine again, or read its arrays with arviz.from_netcdf")


def _costs(found: Any) -> Costs:
    if not isinstance(found, dict):
        raise TypeError(f"costs must be numbers by name, got {found!r}")
    return Costs(**found)
