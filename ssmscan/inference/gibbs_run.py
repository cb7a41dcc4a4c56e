"""A run of particle Gibbs under way: its chains, the draws made so far, and what another run needs to go on from here.

The states of all draws, (draws, chains, T, ...), may be too much to keep: those of at most so many as are wanted stay,
a power of two apart, so that they are among those of any longer run.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ssmscan.inference.gibbs_sweep import Chain, Drawn
from ssmscan.inference.going_on import Arrays, key_of, pack, strided, unpack, words
from ssmscan.inference.progress import Progress
from ssmscan.model.protocols import Theta
from ssmscan.results.result import Result


@dataclass
class Run:
    """A run under way.

    Attributes:
        key: of the run.
        chains: where they are.
        unit: of each parameter in the chains.
        num_paths: draws of each chain whose states are kept, at most.
        num_warmup: sweeps of the warm-up.
        warmup_left: those of them still to be made.
        made: parameters and statistics by name, (draws, chains, ...), and the states of the draws in `path_draws`;
            None before any were made.
        path_draws: see there.
        gradients, warmup_seconds, run_seconds, compile_seconds: what it cost.
        interrupted: whether Control-C ended it.
    """

    key: jax.Array
    chains: Chain
    unit: Theta
    num_paths: int
    num_warmup: int
    warmup_left: int
    made: Drawn | None = None
    path_draws: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    gradients: int = 0
    warmup_seconds: float = 0.0
    run_seconds: float = 0.0
    compile_seconds: float = 0.0
    interrupted: bool = False

    @classmethod
    def gone_on(cls, before: Result, key: jax.Array, shapes: Chain, unit: Theta, num_paths: int) -> Run:
        """Go on from a result whose chains and units have these shapes."""
        stored, origin = before.continuation, before.origin
        states = {name: before.states[name] for name in origin["states"]}
        made = Drawn(before.draws, states, before.sample_stats)
        return cls(
            key=key_of(origin["key"], key),
            chains=unpack("chains", stored, shapes),
            unit=unpack("unit", stored, unit),
            num_paths=num_paths,
            num_warmup=int(before.settings["num_warmup"]),
            warmup_left=int(origin["warmup_left"]),
            made=jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0), made),
            path_draws=before.state_draws,
            gradients=before.costs.gradient_evaluations,
            warmup_seconds=before.costs.warmup_seconds,
            run_seconds=before.costs.run_seconds,
            compile_seconds=before.costs.compile_seconds,
        )

    @property
    def done(self) -> int:
        """Draws made in each chain."""
        return 0 if self.made is None else len(self.made.stats["n_steps"])

    @property
    def sweeps(self) -> int:
        """Sweeps made by each chain, those of the warm-up included."""
        return self.num_warmup - self.warmup_left + self.done

    def take(self, progress: Progress) -> None:
        """Take in what was made: sweeps of the warm-up while some are left, draws afterwards."""
        warming, after = self.warmup_left > 0, self.ahead(progress.state, progress.outputs)
        for name in ("chains", "made", "path_draws", "warmup_left", "gradients"):
            setattr(self, name, getattr(after, name))
        self.warmup_seconds += progress.seconds if warming else 0.0
        self.run_seconds += 0.0 if warming else progress.seconds
        self.interrupted |= progress.interrupted

    def ahead(self, chains: Chain, made: Drawn) -> Run:
        """Return the run after some more sweeps."""
        count = len(made.stats["n_steps"])
        gradients = self.gradients + int(made.stats["n_steps"].sum())
        if self.warmup_left:
            left, none = self.warmup_left - count, jax.tree.map(lambda leaf: leaf[:0], made)
            return dataclasses.replace(self, chains=chains, made=none, warmup_left=left, gradients=gradients)
        drawn = np.concatenate([self.path_draws, np.arange(self.done, self.done + count)])
        joined = made if self.made is None else jax.tree.map(lambda *x: np.concatenate(x), self.made, made)
        kept = np.isin(drawn, strided(self.done + count, self.num_paths))
        joined = joined._replace(states=jax.tree.map(lambda leaf: leaf[kept], joined.states))
        return dataclasses.replace(self, chains=chains, made=joined, path_draws=drawn[kept], gradients=gradients)

    def by_chain(self) -> tuple[Arrays, Arrays, Arrays]:
        """Return parameters, states and statistics, (chains, draws, ...)."""
        assert self.made is not None
        draws, states, stats = jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 1, 0), self.made)
        return draws, states, stats

    def continuation(self) -> Arrays:
        """Return what it takes to go on."""
        return pack("chains", self.chains) | pack("unit", self.unit)

    def origin(self) -> dict[str, Any]:
        """Return the plain facts that belong to it; of states only those that a sweep reports are gone on with."""
        states = [] if self.made is None else sorted(self.made.states)
        return {"key": words(self.key), "warmup_left": self.warmup_left, "states": states}
