"""PMMH: parameters by a random walk on the likelihood that a particle filter estimates.

Takes every model the filter takes, discrete innovations included, and is exact for any number of particles:
see `ssmscan.inference.marginal` for the step, `ssmscan.inference.pilot` for what is tuned before it.  A random
walk needs many draws, and its chains run side by side.  Prefer NUTS where all innovations are smooth functions
of noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.inference.marginal import Chain, Control
from ssmscan.inference.pilot import ROUNDS, Pilot, run_pilot
from ssmscan.inference.progress import Progress, run_chunks
from ssmscan.inference.replay import replay_paths
from ssmscan.inference.settings import (
    describe,
    require_between,
    require_integer,
    require_parameters,
    require_result_can_hold,
    spread,
    versions,
)
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.results.result import Costs, Result

ROUND_SHARE = 8
"""Each round of the pilot takes this part of the warm-up."""


@dataclass(frozen=True)
class PMMH:
    """Particle marginal Metropolis-Hastings with an adaptive random walk.

    Attributes:
        num_samples: draws kept in each chain.
        num_warmup: steps of adaptation, not kept, the pilot's included.
        num_chains: chains, side by side.
        num_particles: number of particles, or None to let the pilot choose.
        target_sd: standard deviation of the log evidence that the pilot aims at.
        particle_filter: its other settings, and the number of particles the pilot starts from.
        num_paths: state paths kept in each chain, evenly spread over its draws.
        progress: whether to show a progress bar on a terminal.
    """

    num_samples: int = 5000
    num_warmup: int = 2000
    num_chains: int = 4
    num_particles: int | None = None
    target_sd: float = 1.2
    particle_filter: ParticleFilter = ParticleFilter(100, summaries=())
    num_paths: int = 500
    progress: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        require_integer("num_samples", self.num_samples, at_least=1)
        require_integer("num_warmup", self.num_warmup, at_least=ROUND_SHARE)
        require_integer("num_chains", self.num_chains, at_least=1)
        require_between("target_sd", self.target_sd, 0.0, 5.0)
        require_integer("num_paths", self.num_paths, at_least=0)
        if self.num_particles is not None:
            require_integer("num_particles", self.num_particles, at_least=2)

    def run(self, key: jax.Array, ssm: Any) -> Result:
        """Sample the posterior of the parameters and the states.

        Args:
            key: one PRNG key, typed or raw.
            ssm: a model from `ssmscan.trace`.

        Returns:
            A `Result`; stopped by Control-C, it holds the draws made by then, none if still in warm-up.

        Raises:
            ModelError: if a parameter is discrete, or there are none.
            ValueError: if no draw from the prior has positive evidence.
        """
        require_parameters(ssm)
        require_result_can_hold(ssm, self)
        key = as_key(key)
        size = self.num_particles or self.particle_filter.num_particles
        round_steps = self.num_warmup // ROUND_SHARE
        pilot = run_pilot(
            key,
            ssm,
            replace(self.particle_filter, num_particles=size, summaries=()),
            num_chains=self.num_chains,
            num_steps=round_steps,
            target_sd=self.target_sd if self.num_particles is None else None,
            progress=self.progress,
        )
        control = Control(ssm, jnp.asarray(pilot.target, pilot.chains.scale.dtype), jnp.asarray(True))
        left = 0 if pilot.interrupted else self.num_warmup - ROUNDS * round_steps
        warmup = self._advance(pilot, control, pilot.chains, left, "PMMH warm-up")
        frozen = control._replace(adapting=jnp.asarray(False))
        left = 0 if pilot.interrupted or warmup.interrupted else self.num_samples
        sampled = self._advance(pilot, frozen, warmup.state, left, "PMMH")
        return self._result(ssm, pilot, warmup, sampled)

    def _advance(self, pilot: Pilot, control: Control, chains: Chain, num_steps: int, label: str) -> Progress:
        return run_chunks(pilot.chunk, control, chains, num_steps, label=label, progress=self.progress)

    def _result(self, ssm: Any, pilot: Pilot, warmup: Progress, sampled: Progress) -> Result:
        trace = jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0), sampled.outputs)
        kept = spread(sampled.done, self.num_paths)
        picked = jax.tree.map(lambda leaf: leaf[:, kept], trace)
        replayed = replay_paths(picked.filter_key, ssm, picked.theta, pilot.particle_filter)
        evidence, states = replayed.value
        runs = (warmup.done + sampled.done) * self.num_chains + evidence.size
        return Result(
            engine="PMMH",
            draws=trace.theta,
            states=states,
            state_draws=kept,
            sample_stats={
                "acceptance_rate": trace.acceptance,
                "accepted": trace.accepted,
                "log_evidence": trace.log_evidence,
                "filter_key": trace.filter_key,
            },
            independent_runs=False,
            log_evidence=None,
            log_evidence_error=None,
            costs=Costs(
                compile_seconds=pilot.compile_seconds + replayed.compile_seconds,
                warmup_seconds=pilot.seconds + warmup.seconds,
                run_seconds=sampled.seconds + replayed.seconds,
                particle_steps=pilot.particle_steps + runs * pilot.particle_filter.num_particles * ssm.num_steps,
            ),
            settings={**describe(self), "used": describe(pilot.particle_filter)},
            versions=versions(),
            observed=ssm.observed,
            interrupted=pilot.interrupted or warmup.interrupted or sampled.interrupted,
            notes=_notes(pilot, evidence, picked.log_evidence),
            initial=tuple(site.name for site in ssm.initial),
        )


def _notes(pilot: Pilot, evidence: np.ndarray, stored: np.ndarray) -> tuple[str, ...]:
    """Say what the pilot chose, and whether every replayed run was the one that had been accepted."""
    notes = [
        f"{pilot.particle_filter.num_particles} particles, standard deviation of the log evidence "
        f"{pilot.sd:.2f} at the centre, target acceptance {pilot.target:.3f}"
    ]
    differ = int(np.sum(~np.isclose(evidence, stored, rtol=1e-4, atol=1e-3)))
    if differ:
        notes.append(f"{differ} of {evidence.size} replayed filter runs differ from the accepted ones by rounding")
    return tuple(notes)
