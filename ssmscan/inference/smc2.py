r"""SMC2: the posterior of the parameters after every observation, with the evidence; another observation is an update.

A cloud of parameter points, each with its own particle filter, is weighed by what the filters say of the next
observation (Chopin, Jacob & Papaspiliopoulos 2013, *JRSS B* 75(3), 397-426).  Where weights become uneven the cloud is
resampled and moved by particle marginal Metropolis-Hastings on the observations by then
(`ssmscan.inference.smc2_step`), and filters get more particles where they have become too noisy
(`ssmscan.inference.smc2_run`).  It is exact for any number of particles as the number of points grows.

It needs no start and no pilot, takes every model that the filter takes, and what it costs to take in one more
observation does not depend on how many came before, but for the rare steps where the cloud is moved.  Prefer NUTS or
PMMH where neither the evidence nor the posterior on the way is asked for.

Several independent runs give the errors, as those of `TemperedSMC` do.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import jax
import numpy as np

from ssmscan.arguments import refusal, require_flag, require_integer, require_number
from ssmscan.inference.going_on import Checkpoint, begin, key_of, origin_of, words
from ssmscan.inference.importance_weights import systematic
from ssmscan.inference.interrupts import hold_interrupts
from ssmscan.inference.progress import phase
from ssmscan.inference.reporting import result_of
from ssmscan.inference.settings import require_counts, require_parameters, require_result_can_hold, spread
from ssmscan.inference.sizing import FEWEST
from ssmscan.inference.smc2_cloud import NUMBERS
from ssmscan.inference.smc2_record import (
    RunningPosterior,
    doubts,
    evidence_of,
    fault_doubts,
    notes,
    running_posterior,
)
from ssmscan.inference.smc2_result import draws_of, paths_of
from ssmscan.inference.smc2_run import Programs, Rules, Run, Watch
from ssmscan.inference.smc2_store import facts, require_goes_on, restored, stored
from ssmscan.model.sites import Role
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.panels import num_moves
from ssmscan.results.data import Costs
from ssmscan.results.health import warn_of_concerns
from ssmscan.results.result import Result

FIRST = ParticleFilter(64, summaries=())
"""The filters with which a run begins where it is not told."""

DRAWS = 2**31
"""What is folded into the key of a step to resample the draws of a result."""


@dataclass(frozen=True, kw_only=True)
class SMC2:
    """SMC on the parameters, each point with a particle filter of its own.

    Attributes:
        num_points: parameter points of a run, M.
        num_runs: independent runs, from whose spread errors are computed.
        num_particles: particles of each filter, N; None begins with 64 and doubles them where filters are too noisy.
        threshold: the cloud is renewed where fewer than this share of the points is effective.
        target_sd: standard deviation of repeated log likelihood estimates at fixed parameters above which N grows.
        moved: share of the points that must have moved before the cloud goes on.
        max_moves: no more moves than these at a step.
        max_particles: N grows to no more.
        estimator: a `ParticleFilter` whose proposal sees no later observation, for another proposal, scheme or
            threshold of the filters; its number of particles is where N begins.
        num_paths: state paths kept of each run, of draws evenly spread.
        progress: whether to show a progress bar on a terminal.
    """

    num_points: int = 512
    num_runs: int = 4
    num_particles: int | None = None
    threshold: float = 0.5
    target_sd: float = 1.0
    moved: float = 0.8
    max_moves: int = 20
    max_particles: int = 2**14
    estimator: ParticleFilter | None = None
    num_paths: int = 500
    progress: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        require_counts(self, num_points=16, num_runs=1, max_moves=1, max_particles=FEWEST, num_paths=0)
        require_number("threshold", self.threshold, 0.0, 1.0)
        require_number("target_sd", self.target_sd, 0.0, 5.0)
        require_number("moved", self.moved, 0.0, 1.0)
        if self.num_particles is not None:
            require_counts(self, num_particles=2)
        require_flag("progress", self.progress)
        if self.estimator is None:
            return
        if not isinstance(self.estimator, ParticleFilter):
            expected = "a ParticleFilter, which takes in one observation after the other"
            raise TypeError(refusal("estimator", expected, self.estimator))
        if self.estimator.uses_later_data:
            raise ValueError(
                f"estimator: {self.estimator.proposal!r} looks at the whole series before its first step, and SMC2 "
                "takes in one observation after the other. Use Bootstrap() or Guided(...), or PMMH with this estimator."
            )

    @property
    def _filters(self) -> ParticleFilter:
        filters = self.estimator or FIRST
        return dataclasses.replace(filters, summaries=(), num_particles=self.num_particles or filters.num_particles)

    def run(
        self,
        key: jax.Array,
        ssm: StateSpaceModel,
        *,
        num_steps: int | None = None,
        start: Result | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float = 60.0,
    ) -> Result:
        """Sample the posterior of parameters and states, and estimate the evidence.

        Args:
            key: one PRNG key, typed or raw; of no effect on a run that goes on.
            ssm: a model from `ssmscan.trace`.
            num_steps: observations of the loop to take in, all by default; what comes later is not looked at.
            start: a result of SMC2 for this model and these data, whose runs are finished and to which `num_runs` runs
                are added; the draws are those of as many runs from the beginning, bit by bit.
            checkpoint: a file that holds what there is; a run that was killed goes on from it when it is called again
                in the same words.
            every: seconds between two writings.

        Returns:
            A `Result` with independent runs on its leading axis; stopped by Control-C, it holds the draws of the runs
            finished by then, and as a `start` all of them. State paths are of the whole series, none before its end.

        Warns:
            ResultWarning: of whatever `Result.concerns` returns.

        Raises:
            ModelError: if a parameter is discrete or has no sampler, or there are none.
            TypeError: if a site is not of real numbers.
            ValueError: if no point can explain an observation, or `start` or `checkpoint` is of something else.
            MemoryError: if the points do not fit on the device; nothing was compiled.
        """
        self._require(ssm)
        key, end = as_key(key), _end(ssm, num_steps)
        before, _, saving = begin(self, key, ssm, start, checkpoint, every)
        wanted = self.num_runs + (0 if start is None else sum(1 for run in start.origin["runs"] if run["step"] >= end))
        with hold_interrupts():
            result = self._sample(key, ssm, before, wanted, end, saving)
        return warn_of_concerns(result)

    def update(self, result: Result, ssm: StateSpaceModel, *, num_steps: int | None = None) -> Result:
        """Take in more observations.

        Args:
            result: what `run` or the last `update` returned.
            ssm: the model over a series that begins with the observations of the result: with room for more and filled
                by `ssm.with_data`, which is the same program, or longer, which is compiled again.
            num_steps: observations of the loop by then, all by default.

        Returns:
            A `Result` as `run` would have returned it of that series: it is the same, bit by bit.

        Raises:
            TypeError: if this is no `Result`.
            ValueError: if it is of another engine, other settings, another model or other observations, or has taken in
                more than these.
        """
        self._require(ssm)
        end = _end(ssm, num_steps)
        require_goes_on(result, self, ssm, end)
        with hold_interrupts():
            saving = Checkpoint(None, np.inf)
            found = self._sample(None, ssm, result, len(result.origin["runs"]), end, saving)
        return warn_of_concerns(found)

    @staticmethod
    def running(result: Result) -> RunningPosterior:
        """Return the evidence and the moments of all parameters after every observation of a result of SMC2.

        Raises:
            ValueError: if it is of another engine, or was stopped before there was any.
        """
        return running_posterior(result)

    def _require(self, ssm: StateSpaceModel) -> None:
        require_observed(ssm)
        require_drawn(ssm, Role.PARAMETER)
        require_drawn(ssm)
        require_parameters(ssm)
        require_result_can_hold(ssm, self)

    def _sample(
        self,
        key: jax.Array | None,
        ssm: StateSpaceModel,
        before: Result | None,
        wanted: int,
        end: int,
        saving: Checkpoint,
    ) -> Result:
        filters = self._filters
        programs = Programs(ssm, filters, self.progress)
        programs.require_room(self.num_points, filters.num_particles)
        grows = self.num_particles is None
        rules = Rules(
            *(self.num_points, float(self.threshold), float(self.target_sd), float(self.moved)),
            *(self.max_moves, self.max_particles, grows),
        )
        if before is not None:
            key = key_of(before.origin["key"], as_key(jax.random.key(0)))
        assert key is not None
        runs = [] if before is None else restored(before, key, programs, rules)
        watch, interrupted = Watch(programs), False
        each = num_moves(ssm) // max(loop.num_steps for loop in ssm.loops)
        spent = Costs(0.0, 0.0, 0.0) if before is None else before.costs

        def build(whole: bool) -> Result:
            costs = dataclasses.replace(
                spent,
                compile_seconds=spent.compile_seconds + programs.compile_seconds,
                run_seconds=spent.run_seconds + watch.seconds,
                particle_steps=each * sum(run.cloud.particle_steps for run in runs if run.cloud is not None),
            )
            return self._result(ssm, key, runs, end, costs, interrupted=interrupted or not whole, whole=whole)

        checkpoint = saving.of(lambda *_: build(False))

        def completed() -> None:
            if checkpoint is not None and checkpoint.due:
                checkpoint.write(None, None)

        left = wanted * end - sum(run.cloud.step for run in runs if run.cloud is not None)
        try:
            with phase("SMC2", progress=self.progress, total=max(left, 0)) as bar:
                for number in range(wanted):
                    if number == len(runs):
                        runs.append(Run(jax.random.fold_in(key, number), programs, rules, filters.num_particles))
                    runs[number].go_on(end, bar, completed)
        except KeyboardInterrupt:
            interrupted = True
        return build(True)

    def _result(
        self,
        ssm: StateSpaceModel,
        key: jax.Array,
        runs: list[Run],
        end: int,
        costs: Costs,
        *,
        interrupted: bool,
        whole: bool,
    ) -> Result:
        """Build the result; one that is not whole has no state paths."""
        clouds = [run.cloud for run in runs if run.cloud is not None]
        done = [(run, run.cloud) for run in runs if run.cloud is not None and run.cloud.step >= end]
        chosen = [systematic(run.key_at(end, DRAWS), cloud.log_weights) for run, cloud in done]
        theta, stats = draws_of(ssm, [cloud for _, cloud in done], chosen)
        at_end = end == _end(ssm, None)
        kept = spread(stats["point"].shape[1], self.num_paths if whole and at_end else 0)
        filters = [self._filters.with_num_particles(cloud.num_particles) for _, cloud in done] or [self._filters]
        show = self.progress and whole
        paths = paths_of(ssm, theta, stats["filter_key"], kept, filters, room=self.num_paths, progress=show)
        evidence, variance = (
            np.array([cloud.table[-1, NUMBERS.index(name)] for _, cloud in done])
            for name in ("log_evidence", "variance")
        )
        result = result_of(
            self,
            ssm,
            draws=theta,
            paths=paths,
            wanted=len(kept),
            sample_stats=stats,
            independent_runs=True,
            log_evidence=evidence_of(evidence, variance) if done and not ssm.reweighted else None,
            costs=costs,
            interrupted=interrupted,
            notes=(*notes(clouds), *_on_evidence(ssm)),
            doubts=(
                *doubts(clouds, self.target_sd if self.num_particles is None else np.inf, self.moved),
                *fault_doubts(clouds, ssm, self._filters),
            ),
            used=self._filters,
            continuation={k: v for number, cloud in enumerate(clouds) for k, v in stored(number, cloud).items()},
            origin={
                "model": origin_of(ssm),
                "key": words(key),
                "runs": [facts(cloud) for cloud in clouds],
            },
        )
        in_time = {site.name for site in ssm.sites if site.in_loop or site.role == Role.POST_LOOP_OBSERVATION}
        return dataclasses.replace(
            result,
            settings={**result.settings, "num_runs": len(clouds)},
            observed={name: x[:end] if name in in_time else x for name, x in result.observed.items()},
        )


def _end(ssm: StateSpaceModel, num_steps: int | None) -> int:
    """Return the number of observations to take in."""
    most = max(loop.num_steps for loop in ssm.loops)
    if num_steps is None:
        return most
    if require_integer("num_steps", num_steps, at_least=1) > most:
        raise ValueError(f"num_steps is {num_steps}, and the series has {most} steps: trace a longer one.")
    return int(num_steps)


def _on_evidence(ssm: StateSpaceModel) -> tuple[str, ...]:
    if not ssm.reweighted:
        return ()
    names = ", ".join(map(repr, ssm.reweighted))
    return (
        f"no evidence: the prior of {names} is masked or scaled, so it is no law that the likelihood could be averaged "
        "over",
    )
