"""What an engine hands over: draws, state paths, their price, and how they were made, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ssmscan.health import Reason, as_reasons
from ssmscan.labels import Labels
from ssmscan.results.plain_values import (
    as_flag,
    as_indices,
    as_json,
    as_log_weights,
    as_number,
    as_numbers,
    as_texts,
    require_holdable,
)
from ssmscan.results.summary import Sample, ScalarSummary, scalars, summarise
from ssmscan.results.weighted import effective_number, normalised, summarise_weighted
from ssmscan.tail_index import tail_index

ARRAYS = (
    "draws", "states", "sample_stats", "observed", "constants", "state_probabilities", "deterministics", "points",
    "continuation",
)  # fmt: skip
"""The fields that hold arrays by name."""

NO_PATHS = "run the engine with num_paths of 1 or more; with start=result it goes on and makes those of old draws too"
"""What to do about a result without state paths, as `cross_check` and checkpoints have them."""


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


@dataclass(frozen=True, eq=False, kw_only=True)
class ResultData:
    """The fields of a `Result`, where each is explained."""

    engine: str
    draws: dict[str, np.ndarray]
    states: dict[str, np.ndarray]
    state_draws: np.ndarray
    sample_stats: dict[str, np.ndarray]
    independent_runs: bool = False
    log_evidence: float | None = None
    log_evidence_error: float | None = None
    costs: Costs
    settings: dict[str, Any]
    versions: dict[str, str]
    observed: dict[str, np.ndarray]
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    doubts: tuple[Reason, ...] = ()
    initial: tuple[str, ...] = ()
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    state_probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    deterministics: dict[str, np.ndarray] = field(default_factory=dict)
    points: dict[str, np.ndarray] = field(default_factory=dict)
    log_weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    continuation: dict[str, np.ndarray] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)

    def __post_init__(self) -> None:
        """Make arrays NumPy's, settings what a file gives back, and check all shapes."""
        for name in ARRAYS:
            object.__setattr__(self, name, as_numbers(name, getattr(self, name)))
        object.__setattr__(self, "state_draws", as_indices("state_draws", self.state_draws))
        object.__setattr__(self, "log_weights", as_log_weights("log_weights", self.log_weights))
        object.__setattr__(self, "doubts", as_reasons("doubts", self.doubts))
        for name in ("notes", "initial"):
            object.__setattr__(self, name, as_texts(name, getattr(self, name)))
        for name in ("independent_runs", "interrupted"):
            object.__setattr__(self, name, as_flag(name, getattr(self, name)))
        for name in ("log_evidence", "log_evidence_error"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else as_number(name, value))
        for name in ("settings", "versions", "origin"):
            object.__setattr__(self, name, as_json(name, getattr(self, name)))
        as_texts("engine", [self.engine])
        if not isinstance(self.costs, Costs):
            raise TypeError(f"costs of a Result must be ssmscan.Costs, got {self.costs!r}")
        if not isinstance(self.labels, Labels):
            raise TypeError(f"labels of a Result must be ssmscan.Labels, got {self.labels!r}")
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

    @property
    def effective_points(self) -> float:
        """Number of points of equal weight that are worth as much, (sum w)^2 / sum w^2; 0 without points."""
        return effective_number(self.log_weights)

    @cached_property
    def tail_index(self) -> float | None:
        """k-hat, the tail index of the weights: infinite variance from 0.5, errors not reliable above 0.7.

        None without weighted points, -inf where the largest weights are all the same.
        """
        return tail_index(self.log_weights) if self.points else None

    @cached_property
    def summaries(self) -> dict[str, ScalarSummary]:
        """What the draws say about each scalar parameter, by label as in ``"beta[0,1]"``; computed once.

        Where there are weighted points, it is what these say.
        """
        self._require_draws()
        if self.points:
            return {label: summarise_weighted(*sample) for label, sample in samples(self).items()}
        return {
            label: summarise(x, independent_runs=self.independent_runs) for label, x in scalars(self.draws, self.labels)
        }

    @property
    def title(self) -> str:
        """The engine and the number of draws, in one line."""
        if self.points:
            size = f"{len(self.log_weights):,} points, {self.effective_points:,.0f} effective"
            return f"{self.engine}: {size}{', interrupted' if self.interrupted else ''}"
        unit = "independent runs" if self.independent_runs else "chains"
        end = ", interrupted" if self.interrupted else ""
        return f"{self.engine}: {self.num_chains} {unit} of {self.num_draws} draws{end}"

    def _require_draws(self) -> None:
        if self.num_draws == 0:
            raise ValueError(f"{self.engine} was stopped before its first draw: there is nothing to summarise")

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
        self._check_points()
        require_holdable(self.draws, self.deterministics)
        require_holdable({**self.draws, **self.deterministics}, self.states, self.observed)
        require_holdable(self.sample_stats)
        require_holdable(self.state_probabilities)
        require_holdable(self.constants)

    def _check_points(self) -> None:
        shapes = {name: values.shape[2:] for name, values in self.draws.items()}
        if len(self.log_weights) and not self.points:
            raise ValueError(
                f"log_weights has {len(self.log_weights)} weights and points is empty: give points as well"
            )
        if self.points and self.num_draws and not len(self.log_weights):
            raise ValueError("points without log_weights have no meaning: give both")
        if self.points and self.points.keys() != shapes.keys():
            raise ValueError(f"points must be of the parameters {sorted(shapes)}, as draws, got {sorted(self.points)}")
        for name, values in self.points.items():
            if values.shape != (expected := (len(self.log_weights), *shapes[name])):
                raise ValueError(f"points[{name!r}] must have shape {expected}, one row a weight, got {values.shape}")

    @staticmethod
    def _require_leading(field: str, arrays: Mapping[str, np.ndarray], leading: tuple[int | None, ...]) -> None:
        for name, values in arrays.items():
            if values.shape[: len(leading)] != leading:
                raise ValueError(f"{field}[{name!r}] must have a shape that begins with {leading}, got {values.shape}")


def samples(result: ResultData) -> dict[str, Sample]:
    """Return values and weights of each scalar parameter, by label: the weighted points where there are any."""
    if not result.points:
        return {label: Sample.of(x) for label, x in scalars(result.draws, result.labels)}
    weights = normalised(result.log_weights)
    points = {name: values[None] for name, values in result.points.items()}
    return {label: Sample(x[0], weights) for label, x in scalars(points, result.labels)}
