"""A run of PMMH under way: its chains, the draws made so far, and what another run needs to go on from here.

What a pilot found is frozen in it: the estimator with its number of particles, the acceptance to aim at, and the
factor of the proposal.  Each draw carries the key of its filter run, from which its state path is made.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.health import Reason, as_reasons
from ssmscan.inference.going_on import Arrays, pack, record_of, unpack
from ssmscan.inference.pilot import Pilot
from ssmscan.inference.pmmh_chain import Chain, Trace
from ssmscan.inference.progress import Chunk, Progress
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.estimators import Estimator, sized
from ssmscan.particles.filter_step import FAULTY
from ssmscan.results.result import Result


@dataclass
class Run:
    """A run under way.

    Attributes:
        key: words of the key of the run.
        estimator: of the likelihood.
        chunk: the compiled step, None where the pilot was stopped before there was one.
        chains: where they are.
        target: acceptance that the warm-up aims at.
        warmup_left: steps of the warm-up still to be taken.
        notes, doubts: of the pilot.
        compile_seconds, warmup_seconds, run_seconds, particle_steps: what it cost.
        interrupted: whether Control-C ended it.
        complete: whether the pilot came to its end, so that another run can go on from here.
        draws: parameters and statistics by name, (draws, chains, ...); None before any were made.
        faulty_proposals: proposals whose filters met log weights that are not numbers.
    """

    key: list[int]
    estimator: Estimator
    chunk: Chunk | None
    chains: Chain
    target: float
    warmup_left: int
    notes: tuple[str, ...]
    doubts: tuple[Reason, ...]
    compile_seconds: float
    warmup_seconds: float
    run_seconds: float
    particle_steps: int
    interrupted: bool = False
    complete: bool = True
    draws: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None = None
    faulty_proposals: int = 0

    @classmethod
    def of_pilot(cls, pilot: Pilot, key: list[int], num_warmup: int, *, doubts: tuple[Reason, ...]) -> Run:
        """Begin where a pilot has ended."""
        notes = [
            f"{sized(pilot.estimator)}, standard deviation of the log likelihood estimate "
            f"{pilot.sd:.2f} at the centre, target acceptance {pilot.target:.3f}"
        ]
        if pilot.aim.proposal or pilot.choice:
            notes.append(pilot.choice or "Bootstrap, as the pilot ended before another proposal could be tried")
        return cls(
            key=key,
            estimator=pilot.estimator,
            chunk=pilot.chunk,
            chains=pilot.chains,
            target=pilot.target,
            warmup_left=max(num_warmup - pilot.num_steps, 0),
            notes=tuple(notes),
            doubts=doubts,
            compile_seconds=pilot.compile_seconds,
            warmup_seconds=pilot.seconds,
            run_seconds=0.0,
            particle_steps=pilot.particle_steps,
            interrupted=pilot.interrupted,
            complete=not pilot.interrupted,
        )

    @classmethod
    def gone_on(cls, before: Result, estimator: Estimator, like: Chain) -> Run:
        """Go on from a result; `like` are chains of the same shapes."""
        origin = before.origin
        in_front = lambda arrays: {name: np.moveaxis(x, 1, 0) for name, x in arrays.items()}  # noqa: E731
        return cls(
            key=origin["key"],
            estimator=estimator,
            chunk=None,
            chains=unpack("chains", before.continuation, like),
            target=float(origin["target"]),
            warmup_left=int(origin["warmup_left"]),
            notes=tuple(origin["notes"]),
            doubts=as_reasons("doubts", origin["doubts"]),
            compile_seconds=before.costs.compile_seconds,
            warmup_seconds=before.costs.warmup_seconds,
            run_seconds=before.costs.run_seconds,
            particle_steps=before.costs.particle_steps,
            draws=(in_front(before.draws), in_front(before.sample_stats)),
            faulty_proposals=int(origin["faulty_proposals"]),
        )

    @property
    def target_array(self) -> jax.Array:
        """The target acceptance, of the type of the chains."""
        return jnp.asarray(self.target, self.chains.scale.dtype)

    @property
    def done(self) -> int:
        """Draws made in each chain."""
        return 0 if self.draws is None else len(self.draws[1]["accepted"])

    def take(self, made: Progress, ssm: StateSpaceModel) -> None:
        """Take in what was made: steps of the warm-up while some are left, draws afterwards."""
        warming, after = self.warmup_left > 0, self.ahead(made.state, made.outputs)
        for name in ("chains", "draws", "warmup_left", "faulty_proposals"):
            setattr(self, name, getattr(after, name))
        self.warmup_seconds += made.seconds if warming else 0.0
        self.run_seconds += 0.0 if warming else made.seconds
        self.particle_steps += made.done * len(self.chains.num_steps) * self.estimator.particle_steps(ssm)
        self.interrupted |= made.interrupted

    def ahead(self, chains: Chain, made: Trace) -> Run:
        """Return the run after some more steps."""
        if self.warmup_left:
            left = self.warmup_left - len(made.accepted)
            made = jax.tree.map(lambda leaf: leaf[:0], made)
            return dataclasses.replace(self, chains=chains, warmup_left=left, draws=_draws(made))
        new = _draws(made)
        joined = new if self.draws is None else jax.tree.map(lambda *x: np.concatenate(x), self.draws, new)
        faulty = self.faulty_proposals + int((made.proposed_status == FAULTY).sum())
        return dataclasses.replace(self, chains=chains, draws=joined, faulty_proposals=faulty)

    def by_chain(self) -> tuple[Arrays, Arrays]:
        """Return parameters and statistics, (chains, draws, ...)."""
        assert self.draws is not None
        theta, stats = jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0), self.draws)
        return theta, stats

    def continuation(self) -> Arrays:
        """Return what it takes to go on; nothing where the pilot was stopped."""
        return pack("chains", self.chains) if self.complete else {}

    def origin(self) -> dict[str, Any]:
        """Return the plain facts that belong to it."""
        return {
            "key": self.key,
            "target": self.target,
            "warmup_left": self.warmup_left,
            "notes": list(self.notes),
            "doubts": list(self.doubts),
            "faulty_proposals": self.faulty_proposals,
            "estimator": record_of(self.estimator),
        }


def _draws(trace: Trace) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    stats = {
        "acceptance_rate": trace.acceptance,
        "accepted": trace.accepted,
        "log_likelihood_estimate": trace.log_likelihood,
        "filter_key": trace.filter_key,
        "filter_status": np.asarray(trace.status).astype(np.int8),
    }
    return {name: np.asarray(x) for name, x in trace.theta.items()}, {name: np.asarray(x) for name, x in stats.items()}
