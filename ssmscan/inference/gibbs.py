r"""Particle Gibbs: states by conditional SMC, parameters given the states by NUTS or a kernel of BlackJAX.

Takes every model whose states and data have densities, discrete states and counts included, and is exact for any number
of particles.  See `ssmscan.inference.gibbs_sweep` for the sweep, and `ssmscan.inference.gibbs_kernels` for what moves
the parameters, for which no conjugacy is needed: the joint density is a function of the unconstrained parameters.

Prefer NUTS where all states are smooth functions of noise: it moves states and parameters together.  Prefer particle
Gibbs to PMMH where there are many parameters, or a series so long that its likelihood is too noisy: the number of
particles that conditional SMC needs hardly grows with T.
"""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from ssmscan.arguments import require_flag, require_instance
from ssmscan.errors import ModelError
from ssmscan.inference.gibbs_doubts import doubts_of
from ssmscan.inference.gibbs_kernels import NUTSKernel, ParameterKernel
from ssmscan.inference.gibbs_run import Run
from ssmscan.inference.gibbs_sweep import Chain, Drawn, Sweep, latent, lowered_programs, start_chains
from ssmscan.inference.going_on import Checkpoint, begin, origin_of
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.nuts_start import INIT_ATTEMPTS, candidates_and_units, shapes_of_candidates
from ssmscan.inference.paths import Paths
from ssmscan.inference.progress import compile_ahead, compile_chunk, compile_timed, phase, run_chunks
from ssmscan.inference.reporting import result_of
from ssmscan.inference.settings import gradients_required, require_counts, require_result_can_hold
from ssmscan.model.keys import one_key
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_data, require_drawn
from ssmscan.model.statespace.state_values import log_joint, without_noise
from ssmscan.particles.conditional import ConditionalSMC
from ssmscan.particles.panels import num_moves
from ssmscan.particles.settings_checks import strategy
from ssmscan.results.data import Costs
from ssmscan.results.health import warn_of_concerns
from ssmscan.results.result import Result

PARTICLES = 32
"""Particles where nothing is said: with ancestor sampling these draw nearly all states of most models anew."""


@dataclass(frozen=True, kw_only=True)
class ParticleGibbs:
    """Particle Gibbs: states given parameters by conditional SMC, parameters given states by a Markov kernel.

    Example:
        >>> import jax, ssmscan
        >>> from ssmscan import datasets
        >>> from ssmscan.stochastic_volatility import stochastic_volatility
        >>> ssm = ssmscan.trace(stochastic_volatility, datasets.gbpusd().values[:50])
        >>> result = ssmscan.ParticleGibbs(num_samples=1000, progress=False).run(jax.random.key(0), ssm)
        >>> result.title, result.states["h"].shape
        ('ParticleGibbs: 4 chains of 1000 draws', (4, 1000, 50))

    Attributes:
        num_samples: draws kept in each chain.
        num_warmup: sweeps of adaptation, not kept.
        num_chains: chains, side by side.
        num_particles: of conditional SMC; None for as many as `conditional` has, else 32.
        conditional: how states are drawn given parameters; None is `ConditionalSMC(num_particles)`.
        kernel: what moves the parameters given the states: a `NUTSKernel` or `BlackJAXKernel`.
        interweave: whether a sweep also moves the parameters with the noise of the states held, where all states that
            are not summed out are smooth functions of noise and back; the notes of the result say where not, and why.
        num_paths: state paths kept in each chain, evenly spread over its draws.
        progress: whether to show a progress bar on a terminal.

    Raises:
        TypeError, ValueError: for settings of the wrong kind or out of range, or two numbers of particles.
    """

    num_samples: int = 2000
    num_warmup: int = 500
    num_chains: int = 4
    num_particles: int | None = None
    conditional: ConditionalSMC | None = None
    kernel: ParameterKernel = NUTSKernel()
    interweave: bool = True
    num_paths: int = 1000
    progress: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        require_counts(self, num_samples=1, num_warmup=1, num_chains=1, num_paths=0)
        if self.num_particles is not None:
            require_counts(self, num_particles=2)
        if self.conditional is not None:
            require_instance("conditional", self.conditional, ConditionalSMC, "a ConditionalSMC or None")
            if self.num_particles is not None:
                raise ValueError(
                    f"num_particles is {self.num_particles} and conditional has {self.conditional.num_particles}: give "
                    "one of them, as in conditional=ConditionalSMC(64)"
                )
        strategy("kernel", self.kernel, ("begin", "move"), "NUTSKernel()")
        require_flag("interweave", self.interweave)
        require_flag("progress", self.progress)

    def run(
        self,
        key: jax.Array,
        ssm: StateSpaceModel,
        *,
        start: Result | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float = 60.0,
    ) -> Result:
        """Sample the posterior of the parameters and the states.

        Args:
            key: one PRNG key, typed or raw; of no effect on a run that goes on.
            ssm: a model from `ssmscan.trace`.
            start: a result of ParticleGibbs for this model, to whose chains `num_samples` draws each are added without
                warm-up; the draws are those of one longer run, bit by bit.
            checkpoint: a file that holds what there is, written now and then; a run that was killed goes on from it
                when it is called again in the same words.
            every: seconds between two writings.

        Returns:
            A `Result`; stopped by Control-C, it holds the draws made by then, none if still in warm-up.

        Raises:
            ModelError: if a parameter is discrete, there are none, states or data have no density, or JAX has no
                gradient of it; before anything is compiled.
            ValueError: if no starting point with a finite density is found, or `start` or `checkpoint` is of something
                else.
        """
        require_data(ssm)
        require_drawn(ssm)
        _require_movable(ssm)
        require_result_can_hold(ssm, self)
        key = one_key(key)
        before, added_to, saving = begin(self, key, ssm, start, checkpoint, every)
        with hold_interrupts():
            result = self._sample(key, ssm, before, added_to + self.num_samples, saving)
        return warn_of_concerns(result)

    def _sample(
        self, key: jax.Array, ssm: StateSpaceModel, before: Result | None, wanted: int, saving: Checkpoint
    ) -> Result:
        num_warmup = self.num_warmup if before is None else int(before.settings["num_warmup"])
        obstacle = obstacle_to_interweaving(ssm) if self.interweave else ""
        notes = (f"parameters are moved with the states held alone: {obstacle}",) if obstacle else ()
        sweep = Sweep(self._conditional, self.kernel, self.interweave and not obstacle, num_warmup)
        keys = jax.random.split(key, self.num_chains)
        with (
            gradients_required("ParticleGibbs"),
            phase("ParticleGibbs: compiling", progress=self.progress),
            interruptible(),
        ):
            if before is None:
                candidates, unit, seconds = candidates_and_units(key, ssm, self.num_chains)
                began = time.perf_counter()
                compile_ahead(*lowered_programs(sweep, keys, ssm, candidates, unit))
                start, _ = compile_timed(start_chains, keys, ssm, candidates, unit, sweep=sweep)
                seconds += time.perf_counter() - began
                chains, found = start(keys, ssm, candidates, unit)
                _require_found(np.asarray(found))
                run = Run(key, chains, unit, self.num_paths, num_warmup, num_warmup, compile_seconds=seconds)
            else:
                like = shapes_of_candidates(ssm, self.num_chains)
                shapes, _ = jax.eval_shape(partial(start_chains, sweep=sweep), keys, ssm, *like)
                run = Run.gone_on(before, key, shapes, like[1], self.num_paths)
            chunk = compile_chunk(sweep, (ssm, run.unit), run.chains, replicates=True)
        run.compile_seconds += chunk.compile_seconds

        def build(chains: Chain, made: Drawn) -> Result:
            return self._result(ssm, run.ahead(chains, made), notes, whole=False)

        def advance(label: str, num_sweeps: int) -> None:
            operand, checkpoint, show = (ssm, run.unit), saving.of(build), self.progress
            run.take(
                run_chunks(chunk, operand, run.chains, num_sweeps, label=label, progress=show, checkpoint=checkpoint)
            )

        if run.warmup_left:
            advance("ParticleGibbs warm-up", run.warmup_left)
        if not run.interrupted:
            advance("ParticleGibbs", max(wanted - run.done, 0))
        return self._result(ssm, run, notes)

    @property
    def _conditional(self) -> ConditionalSMC:
        return self.conditional or ConditionalSMC(self.num_particles or PARTICLES)

    def _result(self, ssm: StateSpaceModel, run: Run, notes: tuple[str, ...], *, whole: bool = True) -> Result:
        (draws, states, stats), conditional = run.by_chain(), self._conditional
        updated = np.asarray(run.chains.updated)
        result = result_of(
            self,
            ssm,
            draws=draws,
            paths=Paths(states, run.path_draws, {}, None, 0.0, 0.0, False, ""),
            wanted=len(run.path_draws),
            sample_stats=stats,
            costs=Costs(
                compile_seconds=run.compile_seconds,
                warmup_seconds=run.warmup_seconds,
                run_seconds=run.run_seconds,
                particle_steps=run.sweeps * self.num_chains * conditional.num_particles * num_moves(ssm),
                gradient_evaluations=run.gradients,
            ),
            interrupted=run.interrupted or not whole,
            notes=notes,
            doubts=doubts_of(draws, stats, updated, conditional),
            used=conditional,
            continuation=run.continuation(),
            origin={"model": origin_of(ssm), **run.origin()},
        )
        settings = {**result.settings, "num_warmup": run.num_warmup, "num_samples": result.num_draws}
        return dataclasses.replace(result, settings=settings)


def obstacle_to_interweaving(ssm: StateSpaceModel) -> str:
    """Return why no parameters are moved with the noise of the states held, a clause; empty where they are."""
    names = ", ".join(repr(name) for name in without_noise(ssm))
    if names:
        return f"{names} are no smooth one-to-one functions of noise"
    return "the noise of the states is integrated out" if ssm.summed_out else ""


def _require_movable(ssm: StateSpaceModel) -> None:
    """Refuse a model without parameters, or whose states given parameters have no density.

    Raises:
        ModelError: see above; or a parameter is discrete.
    """
    if not ssm.parameters:
        raise ModelError(
            "the model has no parameters, so ParticleGibbs has nothing to move beside the states. Use "
            "ssmscan.ConditionalSMC or ssmscan.ParticleFilter for states, or ssmscan.NUTS."
        )

    def joint(key: jax.Array) -> jax.Array:
        theta = ssm.sample_start(key)
        return log_joint(ssm, ssm.constrain(ssm.unconstrain(theta)), latent(ssm, ssm.simulate(key, theta)))

    jax.eval_shape(joint, jax.random.key(0))


def _require_found(found: np.ndarray) -> None:
    """Refuse to begin where no candidate has a finite density.

    Raises:
        ValueError: see above.
    """
    if not np.all(found):
        raise ValueError(
            f"no point with a finite log likelihood in {INIT_ATTEMPTS} attempts for chain(s) "
            f"{np.flatnonzero(~found).tolist()}: check the data against the support of their distribution, use more "
            "particles, or a prior that says more"
        )
