r"""Tempered SMC: parameters, states and the evidence from several independent runs.

Each run takes a cloud of particles from the prior to the posterior, a temperature at a time
(`ssmscan.inference.tempering_step`).  Its evidence estimate is the product of the mean weights; the runs are
independent, so that their mean estimates the evidence and their spread its error, without asymptotics inside a
run:

.. math:: \hat Z = \frac1R \sum_r \hat Z_r, \qquad
          \widehat{se}(\log \hat Z) = \frac{sd(\hat Z_1, \dots, \hat Z_R)}{\sqrt R \, \hat Z} .

Unlike NUTS it can cross between modes and gives the evidence; it costs more where neither is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp
from tqdm import tqdm

from ssmscan.arguments import require_flag, require_number
from ssmscan.inference.exact import exact_result
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.paths import STATES_STREAM, paths_from_noise
from ssmscan.inference.posterior import Position, num_coordinates
from ssmscan.inference.progress import compile_timed, phase
from ssmscan.inference.reporting import result_of
from ssmscan.inference.settings import gradients_required, require_counts, require_result_can_hold, spread
from ssmscan.inference.tempering_step import TUNING_MOVES, Ladder, tempered
from ssmscan.model.keys import one_key
from ssmscan.model.protocols import Theta
from ssmscan.model.sites import Role
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.results.data import Costs
from ssmscan.results.health import warn_of_concerns
from ssmscan.results.result import Result
from ssmscan.results.table import significant

FIRST_TUNING_MOVES = 20

MOST_TEMPERATURES = 5000
"""Temperatures after which a run is given up."""

STALLED_TEMPERATURES = 50
"""A run is also given up where the last of these together raise the temperature by less than a thousandth."""

FEW_RUNS = 4
"""Fewer runs than these do not say how far they spread."""

FEW_FINITE = 50
"""Fewer draws of a run with a finite likelihood than these are a poor start."""

LOW_ACCEPTANCE = 0.3
"""Acceptance of the last moves below which the particles are copies of a few."""


class Run(NamedTuple):
    """One finished run: N positions of equal weight, and what led there."""

    positions: Position
    log_evidence: float
    temperatures: int
    acceptance: float
    last_acceptance: float
    temperature: float


@dataclass(frozen=True, kw_only=True)
class TemperedSMC:
    """Adaptive tempered SMC on the noise-outside model, several times.

    Attributes:
        num_particles: particles of a run, N; a multiple of chain_length.
        num_runs: independent runs.
        chain_length: states of each chain of moves at a temperature, its start included.
        num_leapfrog: leapfrog steps of a move.
        target_ess: the next temperature leaves this fraction of the particles effective.
        num_paths: state paths kept of each run.
        progress: whether to show a progress bar on a terminal.
    """

    num_particles: int = 2000
    num_runs: int = 10
    chain_length: int = 20
    num_leapfrog: int = 20
    target_ess: float = 0.5
    num_paths: int = 500
    progress: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        require_counts(self, num_runs=2, chain_length=2, num_leapfrog=1, num_paths=0)
        require_counts(self, num_particles=2 * self.chain_length)
        if self.num_particles % self.chain_length:
            raise ValueError(
                f"num_particles must be a multiple of chain_length, got {self.num_particles} and "
                f"{self.chain_length}: at each temperature num_particles / chain_length chains are started"
            )
        require_number("target_ess", self.target_ess, 0.0, 1.0)
        require_flag("progress", self.progress)

    def run(self, key: jax.Array, ssm: StateSpaceModel) -> Result:
        """Sample the posterior of parameters and states, and estimate the evidence.

        Args:
            key: one PRNG key, typed or raw.
            ssm: a model from `ssmscan.trace`.

        Returns:
            A `Result` with independent runs on its leading axis; stopped by Control-C, it holds the runs
            finished by then.

        Raises:
            ModelError: if an innovation, initial state or parameter is not a smooth
                function of noise, nor a discrete state that can be summed out; before anything is compiled.
            ImportError: if BlackJAX is not installed.
            ValueError: if a run begins without a finite likelihood, or no run reaches the posterior.
            KeyboardInterrupt: if stopped before the first run was finished.
        """
        require_observed(ssm)
        tempered()
        with hold_interrupts():
            result = self._sample(one_key(key), ssm)
        return warn_of_concerns(result)

    def _sample(self, key: jax.Array, ssm: StateSpaceModel) -> Result:
        require_result_can_hold(ssm, self)
        require_drawn(ssm, Role.PARAMETER)
        require_drawn(ssm)
        if not num_coordinates(ssm):
            counts = {"num_runs": self.num_runs, "num_draws": self.num_particles, "num_paths": self.num_paths}
            return exact_result(self, key, ssm, **counts, progress=self.progress)
        keys = jax.random.split(key, self.num_runs)
        ladder = Ladder(self.num_particles, self.chain_length, self.num_leapfrog, self.target_ess)
        with phase("TemperedSMC: compiling", progress=self.progress), interruptible():
            start, start_seconds = compile_timed(_start, keys[0], ssm, ladder=ladder)
            finite = self.num_particles - np.array([int(start(key, ssm)[1]) for key in keys])
            _require_finite(finite, self.num_particles)
            shapes, _ = jax.eval_shape(partial(_start, ladder=ladder), keys[0], ssm)
            moves = jax.ShapeDtypeStruct((), jnp.int32)
            with gradients_required("TemperedSMC"):
                advance, advance_seconds = compile_timed(_advance, ssm, shapes, moves, ladder=ladder)

        runs: list[Run] = []
        interrupted = False
        began = time.perf_counter()
        try:
            with phase("TemperedSMC", progress=self.progress, total=self.num_runs) as bar, interruptible():
                for run_key in keys:
                    runs.append(_temper(run_key, ssm, start, advance, bar))
                    bar.update()
        except KeyboardInterrupt:
            if not any(run.temperature >= 1 for run in runs):
                raise
            interrupted = True
        seconds = time.perf_counter() - began
        return self._result(key, ssm, ladder, runs, finite, start_seconds + advance_seconds, seconds, interrupted)

    def _result(
        self,
        key: jax.Array,
        ssm: StateSpaceModel,
        ladder: Ladder,
        made: list[Run],
        finite: np.ndarray,
        compile_seconds: float,
        seconds: float,
        interrupted: bool,
    ) -> Result:
        runs = [run for run in made if run.temperature >= 1]
        if not runs:
            raise ValueError(f"{_stalled(made)}; there are no draws. {STALLED_WAYS_OUT}")
        positions = jax.tree.map(lambda *leaves: np.stack(leaves), *(run.positions for run in runs))
        theta = jax.tree.map(np.asarray, jax.jit(_constrain)(ssm, positions.parameters))
        kept = spread(self.num_particles, self.num_paths)
        states_key = jax.random.fold_in(key, STATES_STREAM)
        paths = paths_from_noise(
            states_key, ssm, theta, positions.noise, kept, num_chains=len(runs), progress=self.progress
        )
        evidence = np.array([run.log_evidence for run in runs])
        gradients = sum(
            run.temperatures * ladder.gradients(TUNING_MOVES)
            + (ladder.gradients(FIRST_TUNING_MOVES) - ladder.gradients(TUNING_MOVES))
            for run in made
        )
        return result_of(
            self,
            ssm,
            draws=theta,
            paths=paths,
            wanted=len(kept),
            sample_stats={"log_evidence": np.broadcast_to(evidence[:, None], (len(runs), self.num_particles))},
            independent_runs=True,
            log_evidence=None if ssm.reweighted else combine_evidence(evidence),
            costs=Costs(
                compile_seconds=compile_seconds,
                warmup_seconds=0.0,
                run_seconds=seconds,
                gradient_evaluations=gradients,
            ),
            interrupted=interrupted,
            notes=_notes(runs, finite, self.num_particles, ssm.reweighted),
            doubts=_doubts(made, finite, self.num_particles),
            package="blackjax",
        )


_start = jax.jit(lambda key, ssm, *, ladder: ladder.start(key, ssm), static_argnames="ladder")
_advance = jax.jit(lambda ssm, state, moves, *, ladder: ladder.advance(ssm, state, moves), static_argnames="ladder")


def _require_finite(finite: np.ndarray, num_particles: int) -> None:
    """Raise a sentence unless every run has draws from the prior with a finite likelihood."""
    if empty := int(np.sum(finite == 0)):
        raise ValueError(
            f"in {empty} of {len(finite)} runs none of the {num_particles:,} draws from the prior has a finite log "
            f"likelihood ({int(finite.sum()):,} of {num_particles * len(finite):,} in all): look for data outside the "
            "support of their distribution or a model without a value, use more particles, or a prior that says more"
        )


def _temper(key: jax.Array, ssm: StateSpaceModel, start: Callable, advance: Callable, bar: tqdm) -> Run:
    """Take one cloud from the prior towards the posterior, unless its temperature comes to a halt."""
    state, _ = start(key, ssm)
    moves, acceptance, temperatures, finished = FIRST_TUNING_MOVES, [], [0.0], False
    # The weights at temperature one still need a resampling and a move, which leave the temperature alone.
    while not finished and not _stands_still(temperatures):
        finished = temperatures[-1] >= 1.0
        state, report = jax.block_until_ready(advance(ssm, state, jnp.asarray(moves, jnp.int32)))
        moves = TUNING_MOVES
        temperatures.append(float(report.temperature))
        acceptance.append(float(report.acceptance))
        bar.set_postfix(temperature=f"{temperatures[-1]:.1e}", refresh=False)
    return Run(
        positions=jax.tree.map(np.asarray, state.cloud.particles),
        log_evidence=float(state.log_evidence),
        temperatures=len(acceptance),
        acceptance=float(np.mean(acceptance)),
        last_acceptance=acceptance[-1],
        temperature=temperatures[-1] if finished else min(temperatures[-1], np.nextafter(1.0, 0.0)),
    )


def _stands_still(temperatures: list[float]) -> bool:
    """Return whether a run should be given up, from the temperatures it has reached; NaN is no progress."""
    if len(temperatures) <= STALLED_TEMPERATURES or temperatures[-1] >= 1.0:
        return False
    grew = temperatures[-1] > 1.001 * temperatures[-1 - STALLED_TEMPERATURES]
    return not grew or len(temperatures) > MOST_TEMPERATURES


def _stalled(runs: list[Run]) -> str:
    """Return which runs were given up, and where."""
    found = [run for run in runs if not run.temperature >= 1]
    ends = ", ".join(significant(run.temperature) for run in found[:3]) + (", ..." if len(found) > 3 else "")
    return (
        f"{len(found)} of {len(runs)} runs came to a halt on the way from the prior (temperature 0) to the posterior "
        f"(1), at {ends}, after {found[0].temperatures} temperatures"
    )


STALLED_WAYS_OUT = (
    "Use more particles, a smaller target_ess or a prior that says more, and look for a likelihood that changes "
    "abruptly."
)


def combine_evidence(log_evidence: np.ndarray) -> tuple[float, float]:
    """Return the log of the mean of independent evidence estimates, and its standard error (nan for one run)."""
    runs = len(log_evidence)
    total = float(logsumexp(log_evidence) - np.log(runs))
    relative = np.exp(log_evidence - total)
    return total, float(np.std(relative, ddof=1) / np.sqrt(runs)) if runs > 1 else np.nan


def _constrain(ssm: StateSpaceModel, z: Theta) -> Theta:
    return jax.vmap(jax.vmap(ssm.constrain))(z) if z else {}


def _notes(runs: list[Run], finite: np.ndarray, num_particles: int, reweighted: tuple[str, ...]) -> tuple[str, ...]:
    steps = [run.temperatures for run in runs]
    accept = np.mean([run.acceptance for run in runs])
    notes = [f"{min(steps)} to {max(steps)} temperatures a run, mean acceptance of the moves {accept:.2f}"]
    total = num_particles * len(finite)
    if lost := total - int(finite.sum()):
        notes.append(f"{lost} of {total} draws from the prior had no finite log likelihood; they count as impossible")
    if reweighted:
        notes.append(
            f"no evidence: the prior of {', '.join(map(repr, reweighted))} is masked or scaled, so it is no law that "
            "the likelihood could be averaged over"
        )
    return tuple(notes)


def _doubts(runs: list[Run], finite: np.ndarray, num_particles: int) -> tuple[str, ...]:
    """Return what speaks against the runs that came to their end."""
    found = []
    ended = [run for run in runs if run.temperature >= 1]
    if len(ended) < len(runs):
        found.append(f"{_stalled(runs)}: draws and evidence are of the others only. {STALLED_WAYS_OUT}")
    if len(ended) < FEW_RUNS:
        found.append(
            f"The spread between {len(ended)} runs, from which the errors and R-hat are computed, is hardly known: "
            f"make at least {FEW_RUNS} runs."
        )
    if finite.min() < FEW_FINITE:
        found.append(
            f"Of the {num_particles:,} draws of a run from the prior as few as {int(finite.min())} had a finite log "
            "likelihood, and all others descend from these: use more particles, or a prior that says more."
        )
    lowest = min(run.last_acceptance for run in ended)
    if not lowest >= LOW_ACCEPTANCE:
        found.append(
            f"Moves at the last temperature were accepted with probability {significant(lowest)} in one run: its "
            "particles are copies of a few. Use more particles, from which scales and step size are found."
        )
    return tuple(found)
