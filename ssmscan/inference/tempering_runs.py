"""The runs of tempered SMC made so far, and what another call needs to add to them.

A run depends on the key of all and its own number, so that runs added later are those that a longer call would have
made.  Nothing of a run is needed to make another; what is carried is the noise of some particles, from which state
paths are made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from ssmscan.inference.going_on import Arrays, key_of, pack, strided, unpack, words
from ssmscan.inference.posterior import Position
from ssmscan.inference.tempering_step import TUNING_MOVES, Ladder
from ssmscan.results.result import Result

FIRST_TUNING_MOVES = 20

KEPT_NOISE = 500
"""Particles of each run whose noise a result carries, at most, unless more paths are wanted."""


class Ended(NamedTuple):
    """What led to the end of a run; JSON can hold it."""

    log_evidence: float
    temperatures: int
    acceptance: float
    last_acceptance: float
    temperature: float


class Run(NamedTuple):
    """One run: N positions of equal weight, and what led there."""

    positions: Position
    end: Ended


@dataclass(frozen=True)
class Made:
    """The runs made so far.

    Attributes:
        key: of all runs.
        runs: how each ended, in the order of their numbers, those that were given up too.
        positions: of those that reached the posterior, each leaf (runs, N, ...); noise for every `stride`-th particle.
        stride: see there.
        finite: draws from the prior with a finite likelihood, of each run.
        gradients, seconds, compile_seconds: what they cost.
        interrupted: whether Control-C ended it.
    """

    key: jax.Array
    runs: list[Ended] = field(default_factory=list)
    positions: Position | None = None
    stride: int = 1
    finite: list[int] = field(default_factory=list)
    gradients: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    interrupted: bool = False

    @classmethod
    def gone_on(cls, before: Result, key: jax.Array, shapes: Position) -> Made:
        """Go on from a result; `shapes` are the positions of a run."""
        origin, count, stride = before.origin, before.num_chains, int(before.origin["stride"])
        kept = len(range(0, before.num_draws, stride))

        def like(leaf: jax.Array, size: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((count, size, *leaf.shape[1:]), leaf.dtype)

        def filled(leaf: jax.Array) -> np.ndarray:
            out = np.zeros((count, before.num_draws, *leaf.shape[2:]), leaf.dtype)
            out[:, ::stride] = np.asarray(leaf)
            return out

        parameters = jax.tree.map(lambda leaf: like(leaf, before.num_draws), shapes.parameters)
        noise = jax.tree.map(lambda leaf: like(leaf, kept), shapes.noise)
        return cls(
            key=key_of(origin["key"], key),
            runs=[Ended(*run) for run in origin["runs"]],
            positions=Position(
                jax.tree.map(np.asarray, unpack("parameters", before.continuation, parameters)),
                jax.tree.map(filled, unpack("noise", before.continuation, noise)),
            ),
            stride=stride,
            finite=list(origin["finite"]),
            gradients=before.costs.gradient_evaluations,
            seconds=before.costs.run_seconds,
            compile_seconds=before.costs.compile_seconds,
        )

    @property
    def ended(self) -> list[Ended]:
        """Those that reached the posterior."""
        return [run for run in self.runs if run.temperature >= 1]

    @property
    def parameters(self) -> Any:
        """Unconstrained parameters by site, (runs, N, ...)."""
        return {} if self.positions is None else self.positions.parameters

    @property
    def noise(self) -> Any:
        """Noise by site, (runs, N, ...)."""
        return {} if self.positions is None else self.positions.noise

    def with_run(self, run: Run, finite: int, ladder: Ladder, seconds: float) -> Made:
        """Return these and another run; `seconds` were spent on all."""
        positions = self.positions
        if run.end.temperature >= 1:
            one = jax.tree.map(lambda leaf: leaf[None], run.positions)
            positions = one if positions is None else jax.tree.map(lambda *x: np.concatenate(x), positions, one)
        first = ladder.gradients(FIRST_TUNING_MOVES) - ladder.gradients(TUNING_MOVES)
        return replace(
            self,
            runs=[*self.runs, run.end],
            positions=positions,
            finite=[*self.finite, finite],
            gradients=self.gradients + run.end.temperatures * ladder.gradients(TUNING_MOVES) + first,
            seconds=seconds,
        )

    def continuation(self, num_particles: int, most: int) -> Arrays:
        """Return what it takes to go on, with the noise of at most so many particles of each run."""
        rows = strided(num_particles, most, self.stride)
        return pack("parameters", self.parameters) | pack("noise", jax.tree.map(lambda x: x[:, rows], self.noise))

    def origin(self, num_particles: int, most: int) -> dict[str, Any]:
        """Return the plain facts that belong to it."""
        rows = strided(num_particles, most, self.stride)
        return {
            "key": words(self.key),
            "runs": [list(run) for run in self.runs],
            "finite": self.finite,
            "stride": int(rows[1]) if len(rows) > 1 else self.stride,
        }
