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

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp
from tqdm import tqdm

from ssmscan.arguments import require_flag, require_number
from ssmscan.health import Reason, Section
from ssmscan.inference.common_doubts import few_runs
from ssmscan.inference.exact import exact_result
from ssmscan.inference.going_on import Checkpoint, begin, origin_of, strided
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.paths import STATES_STREAM, paths_from_noise
from ssmscan.inference.posterior import num_coordinates
from ssmscan.inference.progress import compile_timed, phase
from ssmscan.inference.reporting import result_of
from ssmscan.inference.settings import gradients_required, require_counts, require_result_can_hold
from ssmscan.inference.tempering_runs import FIRST_TUNING_MOVES, KEPT_NOISE, Ended, Made, Run
from ssmscan.inference.tempering_step import TUNING_MOVES, Ladder, tempered
from ssmscan.model.keys import one_key
from ssmscan.model.protocols import Theta
from ssmscan.model.sites import Role
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_data, require_drawn
from ssmscan.results.data import Costs
from ssmscan.results.health import warn_of_concerns
from ssmscan.results.result import Result
from ssmscan.results.table import significant

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

    def run(
        self,
        key: jax.Array,
        ssm: StateSpaceModel,
        *,
        start: Result | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float = 60.0,
    ) -> Result:
        """Sample the posterior of parameters and states, and estimate the evidence.

        Args:
            key: one PRNG key, typed or raw; of no effect on a run that goes on.
            ssm: a model from `ssmscan.trace`.
            start: a result of TemperedSMC for this model, to which `num_runs` runs are added; the draws are those of
                as many runs from the beginning, bit by bit.
            checkpoint: a file that holds the runs made so far; one that was killed goes on from it when it is called
                again in the same words.
            every: seconds between two writings.

        Returns:
            A `Result` with independent runs on its leading axis; stopped by Control-C, it holds the runs
            finished by then.

        Raises:
            ModelError: if an innovation, initial state or parameter is not a smooth
                function of noise, nor a discrete state that can be summed out; before anything is compiled.
            ImportError: if BlackJAX is not installed.
            ValueError: if a run begins without a finite likelihood, no run reaches the posterior, or `start` or
                `checkpoint` is of something else.
            KeyboardInterrupt: if stopped before the first run was finished.
        """
        require_data(ssm)
        tempered()
        key = one_key(key)
        before, added_to, saving = begin(self, key, ssm, start, checkpoint, every)
        with hold_interrupts():
            result = self._sample(key, ssm, before, added_to + self.num_runs, saving)
        return warn_of_concerns(result)

    def _sample(
        self, key: jax.Array, ssm: StateSpaceModel, before: Result | None, wanted: int, saving: Checkpoint
    ) -> Result:
        require_result_can_hold(ssm, self)
        require_drawn(ssm, Role.PARAMETER)
        require_drawn(ssm)
        if not num_coordinates(ssm):
            counts = {"num_runs": self.num_runs, "num_draws": self.num_particles, "num_paths": self.num_paths}
            return exact_result(self, key, ssm, **counts, progress=self.progress)
        ladder = Ladder(self.num_particles, self.chain_length, self.num_leapfrog, self.target_ess)
        shapes, _ = jax.eval_shape(partial(_start, ladder=ladder), key, ssm)
        made = Made(key) if before is None else Made.gone_on(before, key, shapes.cloud.particles)
        keys = [jax.random.fold_in(made.key, number) for number in range(len(made.runs), wanted)]
        with phase("TemperedSMC: compiling", progress=self.progress), interruptible():
            start, start_seconds = compile_timed(_start, key, ssm, ladder=ladder)
            finite = [self.num_particles - int(start(one, ssm)[1]) for one in keys]
            _require_finite(np.array(finite), self.num_particles)
            moves = jax.ShapeDtypeStruct((), jnp.int32)
            with gradients_required("TemperedSMC"):
                advance, advance_seconds = compile_timed(_advance, ssm, shapes, moves, ladder=ladder)
        made = dataclasses.replace(made, compile_seconds=made.compile_seconds + start_seconds + advance_seconds)

        began, spent, saving = (
            time.perf_counter(),
            made.seconds,
            saving.of(lambda made, _: self._result(ssm, made, False)),
        )
        try:
            with phase("TemperedSMC", progress=self.progress, total=len(keys)) as bar, interruptible():
                for run_key, number in zip(keys, finite):
                    run = _temper(run_key, ssm, start, advance, bar)
                    made = made.with_run(run, number, ladder, spent + time.perf_counter() - began)
                    bar.update()
                    if saving is not None and saving.due and made.ended:
                        saving.write(made, None)
        except KeyboardInterrupt:
            if not made.ended:
                raise
            made = dataclasses.replace(made, interrupted=True)
        return self._result(ssm, made)

    def _result(self, ssm: StateSpaceModel, made: Made, whole: bool = True) -> Result:
        """Build the result; one that is not whole has no state paths."""
        if not made.ended:
            raise ValueError(f"{_stalled(made.runs)}; there are no draws. {STALLED_WAYS_OUT}")
        theta = jax.tree.map(np.asarray, jax.jit(_constrain)(ssm, made.parameters))
        kept = strided(self.num_particles, self.num_paths if whole else 0, made.stride)
        states_key, num_runs = jax.random.fold_in(made.key, STATES_STREAM), len(made.ended)
        paths = paths_from_noise(
            states_key, ssm, theta, made.noise, kept, num_chains=num_runs, progress=self.progress and whole
        )
        evidence = np.array([run.log_evidence for run in made.ended])
        most = max(self.num_paths, KEPT_NOISE)
        result = result_of(
            self,
            ssm,
            draws=theta,
            paths=paths,
            wanted=len(kept),
            sample_stats={"log_evidence": np.broadcast_to(evidence[:, None], (num_runs, self.num_particles))},
            independent_runs=True,
            log_evidence=None if ssm.reweighted else combine_evidence(evidence),
            costs=Costs(
                compile_seconds=made.compile_seconds,
                warmup_seconds=0.0,
                run_seconds=made.seconds,
                gradient_evaluations=made.gradients,
            ),
            interrupted=made.interrupted or not whole,
            notes=_notes(made.ended, np.array(made.finite), self.num_particles, ssm.reweighted),
            doubts=_doubts(made.runs, np.array(made.finite), self.num_particles),
            package="blackjax",
            continuation=made.continuation(self.num_particles, most),
            origin={"model": origin_of(ssm), **made.origin(self.num_particles, most)},
        )
        return dataclasses.replace(result, settings={**result.settings, "num_runs": num_runs})


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
    last = temperatures[-1] if finished else min(temperatures[-1], np.nextafter(1.0, 0.0))
    return Run(
        jax.tree.map(np.asarray, state.cloud.particles),
        Ended(float(state.log_evidence), len(acceptance), float(np.mean(acceptance)), acceptance[-1], last),
    )


def _stands_still(temperatures: list[float]) -> bool:
    """Return whether a run should be given up, from the temperatures it has reached; NaN is no progress."""
    if len(temperatures) <= STALLED_TEMPERATURES or temperatures[-1] >= 1.0:
        return False
    grew = temperatures[-1] > 1.001 * temperatures[-1 - STALLED_TEMPERATURES]
    return not grew or len(temperatures) > MOST_TEMPERATURES


def _stalled(runs: list[Ended]) -> str:
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


def _notes(runs: list[Ended], finite: np.ndarray, num_particles: int, reweighted: tuple[str, ...]) -> tuple[str, ...]:
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


def _doubts(runs: list[Ended], finite: np.ndarray, num_particles: int) -> tuple[Reason, ...]:
    """Return what speaks against the runs that came to their end."""
    found = []
    ended = [run for run in runs if run.temperature >= 1]
    if len(ended) < len(runs):
        sentence = f"{_stalled(runs)}: draws and evidence are of the others only."
        found.append(Reason(sentence, STALLED_WAYS_OUT, Section.COLLAPSE))
    if len(ended) < FEW_RUNS:
        found.append(few_runs(len(ended), FEW_RUNS))
    if finite.min() < FEW_FINITE:
        sentence = (
            f"Of the {num_particles:,} draws of a run from the prior as few as {int(finite.min())} had a finite log "
            "likelihood, and all others descend from these."
        )
        remedy = "Use more particles, num_particles, or a prior that says more."
        found.append(Reason(sentence, remedy, Section.COLLAPSE))
    lowest = min(run.last_acceptance for run in ended)
    if not lowest >= LOW_ACCEPTANCE:
        sentence = (
            f"Moves at the last temperature were accepted with probability {significant(lowest)} in one run: its "
            "particles are copies of a few."
        )
        remedy = "Use more particles, num_particles, from which scales and step size are found."
        found.append(Reason(sentence, remedy, Section.COLLAPSE))
    return tuple(found)
