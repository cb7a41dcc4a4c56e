r"""Tempered SMC: parameters, states and the evidence from several independent runs.

Each run takes a cloud of particles from the prior to the posterior, a temperature at a time
(`ssmscan.inference.temperature`).  Its evidence estimate is the product of the mean weights; the runs are
independent, so that their mean estimates the evidence and their spread its error, without asymptotics inside a
run:

.. math:: \hat Z = \frac1R \sum_r \hat Z_r, \qquad
          \widehat{se}(\log \hat Z) = \frac{sd(\hat Z_1, \dots, \hat Z_R)}{\sqrt R \, \hat Z} .

Unlike NUTS it can cross between modes and gives the evidence; it costs more where neither is asked for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp
from tqdm.auto import tqdm

from ssmscan.inference.posterior import STATES_STREAM, Position, state_paths
from ssmscan.inference.progress import compile_timed
from ssmscan.inference.settings import (
    describe,
    require_between,
    require_integer,
    require_unknowns,
    spread,
    stock_key,
    versions,
)
from ssmscan.inference.temperature import TUNING_MOVES, Ladder, Particles, tempered
from ssmscan.results.result import Costs, Result

FIRST_TUNING_MOVES = 20


class Run(NamedTuple):
    """One finished run: N positions of equal weight, and what led there."""

    positions: Position
    log_evidence: float
    temperatures: int
    acceptance: float
    not_finite: int


@dataclass(frozen=True)
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
        require_integer("num_runs", self.num_runs, at_least=2)
        require_integer("chain_length", self.chain_length, at_least=2)
        require_integer("num_particles", self.num_particles, at_least=2 * self.chain_length)
        if self.num_particles % self.chain_length:
            raise ValueError(
                f"num_particles must be a multiple of chain_length, got {self.num_particles} and "
                f"{self.chain_length}: at each temperature num_particles / chain_length chains are started"
            )
        require_integer("num_leapfrog", self.num_leapfrog, at_least=1)
        require_between("target_ess", self.target_ess, 0.0, 1.0)
        require_integer("num_paths", self.num_paths, at_least=0)

    def run(self, key: jax.Array, ssm: Any) -> Result:
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
            KeyboardInterrupt: if stopped before the first run was finished.
        """
        tempered()
        require_unknowns(ssm)
        key = stock_key(key)
        keys = jax.random.split(key, self.num_runs)
        ladder = Ladder(self.num_particles, self.chain_length, self.num_leapfrog, self.target_ess)
        start, start_seconds = compile_timed(_start, keys[0], ssm, ladder=ladder)
        shapes, _ = jax.eval_shape(partial(_start, ladder=ladder), keys[0], ssm)
        moves = jax.ShapeDtypeStruct((), jnp.int32)
        advance, advance_seconds = compile_timed(_advance, ssm, shapes, moves, ladder=ladder)

        runs: list[Run] = []
        interrupted = False
        began = time.perf_counter()
        try:
            with tqdm(total=self.num_runs, desc="TemperedSMC", disable=None if self.progress else True) as bar:
                for run_key in keys:
                    runs.append(_temper(run_key, ssm, start, advance, bar))
                    bar.update()
        except KeyboardInterrupt:
            if not runs:
                raise
            interrupted = True
        seconds = time.perf_counter() - began
        return self._result(key, ssm, ladder, runs, start_seconds + advance_seconds, seconds, interrupted)

    def _result(
        self,
        key: jax.Array,
        ssm: Any,
        ladder: Ladder,
        runs: list[Run],
        compile_seconds: float,
        seconds: float,
        interrupted: bool,
    ) -> Result:
        positions = jax.tree.map(lambda *leaves: np.stack(leaves), *(run.positions for run in runs))
        theta = jax.tree.map(np.asarray, jax.jit(_constrain)(ssm, positions.parameters))
        kept = spread(self.num_particles, self.num_paths)
        states = state_paths(jax.random.fold_in(key, STATES_STREAM), ssm, theta, positions.noise, kept)
        evidence = combine_evidence(np.array([run.log_evidence for run in runs]))
        log_evidence, error = (None, None) if ssm.reweighted else evidence
        per_draw = (len(runs), self.num_particles)
        stats = {"log_evidence": np.array([run.log_evidence for run in runs])}
        gradients = sum(
            run.temperatures * ladder.gradients(TUNING_MOVES)
            + (ladder.gradients(FIRST_TUNING_MOVES) - ladder.gradients(TUNING_MOVES))
            for run in runs
        )
        return Result(
            engine="TemperedSMC",
            draws=theta,
            states=states.value.states,
            state_draws=kept,
            sample_stats={name: np.broadcast_to(value[:, None], per_draw) for name, value in stats.items()},
            independent_runs=True,
            log_evidence=log_evidence,
            log_evidence_error=error,
            costs=Costs(
                compile_seconds=compile_seconds + states.compile_seconds,
                warmup_seconds=0.0,
                run_seconds=seconds + states.seconds,
                gradient_evaluations=gradients,
            ),
            settings=describe(self),
            versions=versions("blackjax"),
            observed=ssm.observed,
            interrupted=interrupted,
            notes=_notes(runs, self.num_particles, ssm.reweighted),
            initial=tuple(site.name for site in ssm.initial),
            state_probabilities=states.value.probabilities,
        )


@partial(jax.jit, static_argnames=("ladder",))
def _start(key: jax.Array, ssm: Any, *, ladder: Ladder) -> Any:
    return ladder.start(key, ssm)


@partial(jax.jit, static_argnames=("ladder",))
def _advance(ssm: Any, state: Particles, tuning_moves: jax.Array, *, ladder: Ladder) -> Any:
    return ladder.advance(ssm, state, tuning_moves)


def _temper(key: jax.Array, ssm: Any, start: Any, advance: Any, bar: Any) -> Run:
    """Take one cloud from the prior to the posterior."""
    state, not_finite = start(key, ssm)
    moves, acceptance, reached, finished = FIRST_TUNING_MOVES, [], 0.0, False
    # The weights at temperature one still need a resampling and a move, which leave the temperature alone.
    while not finished:
        finished = reached >= 1.0
        state, report = jax.block_until_ready(advance(ssm, state, jnp.asarray(moves, jnp.int32)))
        moves, reached = TUNING_MOVES, float(report.temperature)
        acceptance.append(float(report.acceptance))
        bar.set_postfix(temperature=f"{reached:.1e}", refresh=False)
    positions = jax.tree.map(np.asarray, state.cloud.particles)
    return Run(positions, float(state.log_evidence), len(acceptance), float(np.mean(acceptance)), int(not_finite))


def combine_evidence(log_evidence: np.ndarray) -> tuple[float, float]:
    """Return the log of the mean of independent evidence estimates, and its standard error (nan for one run)."""
    runs = len(log_evidence)
    total = float(logsumexp(log_evidence) - np.log(runs))
    relative = np.exp(log_evidence - total)
    return total, float(np.std(relative, ddof=1) / np.sqrt(runs)) if runs > 1 else np.nan


def _constrain(ssm: Any, z: Any) -> Any:
    return jax.vmap(jax.vmap(ssm.constrain))(z) if z else {}


def _notes(runs: list[Run], num_particles: int, reweighted: tuple[str, ...]) -> tuple[str, ...]:
    steps = [run.temperatures for run in runs]
    accept = np.mean([run.acceptance for run in runs])
    notes = [f"{min(steps)} to {max(steps)} temperatures a run, mean acceptance of the moves {accept:.2f}"]
    if lost := sum(run.not_finite for run in runs):
        notes.append(
            f"{lost} of {num_particles * len(runs)} draws from the prior had no finite log likelihood; they count "
            "as impossible"
        )
    if reweighted:
        notes.append(
            f"no evidence: the prior of {', '.join(map(repr, reweighted))} is masked or scaled, so it is no law that "
            "the likelihood could be averaged over"
        )
    return tuple(notes)
