r"""`ImportanceSampler`: parameters by importance sampling, with an estimate of the likelihood in place of it.

Points z are drawn from a frozen proposal q and weighed by

.. math::  w_i = \frac{p(\theta_i) |d\theta/dz| \, \hat Z_i}{q(z_i)}, \qquad
           \hat p(y) = \frac1n \sum_i w_i, \qquad
           \widehat{se}(\log \hat p) = \frac{sd(w)}{\sqrt n \, \hat p(y)} .

The estimate of each point is unbiased, so weighted means are consistent and the evidence is unbiased, for any number
of particles (IS squared: Tran, Scharth, Pitt & Kohn 2014, arXiv:1309.3339). Points are independent: no warm-up of a
chain, no autocorrelation, and more of them may be made at any time from the same proposal. The proposal is found from
the prior (`ssmscan.inference.importance_adapt`); none of those points is kept. Draws of equal weight are resampled
from the points, each with the state path of its own run. Prefer NUTS or PMMH for more than ten parameters or so: a
few points then carry all weight, and `concerns` says so.
"""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.arguments import require_flag, require_number
from ssmscan.health import Reason, Section
from ssmscan.inference.default_estimator import begin_with, default_estimator, why
from ssmscan.inference.going_on import Checkpoint, begin, estimator_again, origin_of, record_of, words
from ssmscan.inference.importance_adapt import Adaptation, Aim
from ssmscan.inference.importance_doubts import doubts, faults
from ssmscan.inference.importance_points import (
    Operand,
    Points,
    PointStep,
    first_numbers,
    in_order,
    lawless,
    make_points,
    none_of,
    num_lanes,
)
from ssmscan.inference.importance_proposal import Mixture, from_prior
from ssmscan.inference.importance_weights import combine, resample
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.paths import paths_from_keys
from ssmscan.inference.progress import Chunk, compile_chunk, phase
from ssmscan.inference.reporting import result_of
from ssmscan.inference.settings import require_counts, require_parameters, require_result_can_hold, spread
from ssmscan.inference.sizing import FEWEST, MISSED
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_data, require_drawn
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import Estimator, require_estimator, sized
from ssmscan.results.data import Costs
from ssmscan.results.health import warn_of_concerns
from ssmscan.results.result import Result
from ssmscan.results.table import significant

TOO_NOISY = 2.0
"""A standard deviation of the log likelihood estimate with which few points have most of the weight."""

MOST_POINTS = 20
"""No more than this many points are made for each effective one that is wanted."""


@dataclass(frozen=True, kw_only=True)
class ImportanceSampler:
    """Importance sampling of the parameters on an estimate of the likelihood.

    Example:
        >>> import jax, ssmscan
        >>> from ssmscan import datasets
        >>> from ssmscan.stochastic_volatility import stochastic_volatility
        >>> ssm = ssmscan.trace(stochastic_volatility, datasets.gbpusd().values[:50])
        >>> sampler = ssmscan.ImportanceSampler(num_points=2000, num_paths=50, progress=False)
        >>> result = sampler.run(jax.random.key(0), ssm)
        >>> result.engine, result.points["mu"].shape
        ('ImportanceSampler', (2000,))

    Attributes:
        num_points: points to make; None makes as many as give `target_ess` by the last round of the adaptation.
        target_ess: effective points wanted where num_points is None.
        num_particles: number of particles of the estimator, or None to let the adaptation choose.
        target_sd: standard deviation of the log likelihood estimate that it aims at.
        estimator: of the likelihood, as in `ssmscan.PMMH`.
        num_paths: state paths kept, of draws evenly spread.
        progress: whether to show a progress bar on a terminal.
        max_particles: the adaptation chooses no more.
        pilot_seconds: after this time no round of the adaptation is begun.
    """

    num_points: int | None = None
    target_ess: int = 2000
    num_particles: int | None = None
    target_sd: float = 1.0
    estimator: Estimator | None = None
    num_paths: int = 500
    progress: bool = True
    max_particles: int = 2**14
    pilot_seconds: float = 120.0

    def __post_init__(self) -> None:
        """Check the settings."""
        require_counts(self, target_ess=1, num_paths=0, max_particles=FEWEST)
        require_number("target_sd", self.target_sd, 0.0, 5.0)
        require_number("pilot_seconds", self.pilot_seconds, 0.0, np.inf)
        if self.num_points is not None:
            require_counts(self, num_points=1)
        if self.num_particles is not None:
            require_counts(self, num_particles=2)
        if self.estimator is not None:
            require_estimator("estimator", self.estimator)
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
        """Sample the posterior of the parameters and the states, and estimate the evidence.

        Args:
            key: one PRNG key, typed or raw; of no effect where there is a start.
            ssm: a model from `ssmscan.trace`.
            start: a result of ImportanceSampler for this model: num_points more points are made from its proposal, as
                many again as it has by default; points and weights are those of one longer run, bit by bit.
            checkpoint: a file that holds what there is, written now and then; a run that was killed after its
                adaptation goes on from it when it is called again in the same words.
            every: seconds between two writings.

        Returns:
            A `Result` with points and weights; stopped by Control-C, it holds those made by then.

        Warns:
            ResultWarning: of whatever `Result.concerns` returns.

        Raises:
            ModelError: if a parameter is discrete, or there are none.
            TypeError: if a site is not of real numbers.
            ValueError: if no draw from the prior has positive likelihood, or `start` or `checkpoint` is of something
                else.
        """
        require_data(ssm)
        require_drawn(ssm)
        require_parameters(ssm)
        require_result_can_hold(ssm, self)
        key = as_key(key)
        before, added_to, saving = begin(self, key, ssm, start, checkpoint, every)
        with hold_interrupts():
            frozen = self._adapt(key, ssm) if before is None else self._gone_on(before, ssm)
            wanted = added_to + (self.num_points or added_to or frozen.wanted)
            result = self._sample(ssm, frozen, wanted, saving)
        return warn_of_concerns(result)

    def _adapt(self, key: jax.Array, ssm: StateSpaceModel) -> Frozen:
        """Find the proposal and the number of points."""
        began = time.perf_counter()
        estimator = begin_with(ssm, self.estimator, num_particles=self.num_particles, most=self.max_particles)
        counting, reason = time.perf_counter() - began, why(self.estimator, estimator)
        free = self.estimator is None and not reason
        aim = Aim(self.target_sd, self.num_particles is None, free, self.max_particles)
        key_adapt, key_points = jax.random.split(key)
        found = Adaptation(key_adapt, ssm, estimator, aim, float(self.pilot_seconds), progress=self.progress).run()
        share = found.share if found.share > 0 else 0.0
        return Frozen(
            estimator=found.estimator,
            keys=(words(key), words(key_points)),
            proposal=from_prior(found.dimension) if found.proposal is None else found.proposal,
            found=(found.sd, share, found.temperature, found.rounds),
            said=(found.choice or reason, found.limit),
            wanted=int(np.clip(self.target_ess / max(share, 1e-9), self.target_ess, MOST_POINTS * self.target_ess)),
            chunk=found.chunk,
            made=None,
            costs=Costs(counting + found.compile_seconds, found.seconds, 0.0, found.particle_steps),
            interrupted=found.interrupted,
        )

    def _gone_on(self, before: Result, ssm: StateSpaceModel) -> Frozen:
        """Take proposal, estimator and points from a result."""
        stored, origin = before.continuation, before.origin
        return Frozen(
            estimator=estimator_again(before, self.estimator, default_estimator(ssm)),
            keys=tuple(origin["keys"]),
            proposal=Mixture(*(stored[f"proposal_{name}"] for name in Mixture._fields)),
            found=tuple(stored["found"]),
            said=tuple(origin["said"]),
            wanted=origin["wanted"],
            chunk=None,
            made=Points(theta=dict(before.points), **{n: stored[n] for n in Points._fields if n != "theta"}),
            costs=before.costs,
            interrupted=False,
        )

    def _sample(self, ssm: StateSpaceModel, frozen: Frozen, wanted: int, saving: Checkpoint) -> Result:
        """Make the points, resample draws from them, and make their paths."""
        lanes, step = num_lanes(), PointStep(frozen.estimator, num_lanes())
        operand = Operand(ssm, jnp.asarray(frozen.keys[1], jnp.uint32), frozen.proposal.on_device())
        had = none_of(step, operand) if frozen.made is None else frozen.made
        first = first_numbers(len(had.z), lanes)

        def build(made: Points, seconds: float, *, interrupted: bool, whole: bool) -> Result:
            points = jax.tree.map(lambda a, b: np.concatenate([a, b]), had, made)
            costs = dataclasses.replace(
                frozen.costs,
                compile_seconds=frozen.costs.compile_seconds + compile_seconds,
                run_seconds=frozen.costs.run_seconds + seconds,
                particle_steps=frozen.costs.particle_steps + len(made.z) * frozen.estimator.particle_steps(ssm),
            )
            return self._result(ssm, frozen, points, costs, interrupted=interrupted, whole=whole)

        chunk, compile_seconds, nothing = frozen.chunk, 0.0, none_of(step, operand)
        if frozen.interrupted:
            return build(nothing, 0.0, interrupted=True, whole=True)
        if chunk is None:
            try:
                with phase("ImportanceSampler: compiling", progress=self.progress), interruptible():
                    chunk = compile_chunk(step, operand, first, replicates=True)
                compile_seconds = chunk.compile_seconds
            except KeyboardInterrupt:
                return build(nothing, 0.0, interrupted=True, whole=True)

        count = max(wanted - len(had.z), 0)
        checkpoint = saving.of(lambda _, outputs: build(in_order(outputs, count), 0.0, interrupted=True, whole=False))
        made = make_points(
            chunk, operand, first, count, label="ImportanceSampler", progress=self.progress, checkpoint=checkpoint
        )
        return build(made.points, made.seconds, interrupted=made.interrupted, whole=True)

    def _result(
        self, ssm: StateSpaceModel, frozen: Frozen, points: Points, costs: Costs, *, interrupted: bool, whole: bool
    ) -> Result:
        """Build the result; one that is not whole has no state paths."""
        log_weights = points.log_weights(frozen.proposal) if len(points.z) else np.zeros(0)
        chosen = resample(log_weights, jnp.asarray(frozen.keys[1], jnp.uint32))
        theta, keys = {name: leaf[chosen][None] for name, leaf in points.theta.items()}, points.filter_key[chosen][None]
        kept = spread(len(chosen), self.num_paths if whole else 0)
        paths = paths_from_keys(
            keys, ssm, theta, kept, frozen.estimator, room=self.num_paths, progress=self.progress and whole
        )
        again = 0 if paths.log_likelihood is None else paths.log_likelihood.size
        result = result_of(
            self,
            ssm,
            draws=theta,
            paths=paths,
            wanted=len(kept),
            sample_stats={
                "log_likelihood_estimate": points.log_likelihood[chosen][None],
                "filter_key": keys,
                "filter_status": points.status[chosen][None].astype(np.int8),
                "point": chosen[None].astype(np.int32),
            },
            log_evidence=combine(log_weights) if len(log_weights) and not lawless(ssm) else None,
            costs=dataclasses.replace(
                costs, particle_steps=costs.particle_steps + again * frozen.estimator.particle_steps(ssm)
            ),
            interrupted=interrupted,
            notes=self._notes(ssm, frozen),
            doubts=(
                *doubts(points, log_weights, self._noise_doubt(frozen), frozen.found[2]),
                *faults(points, log_weights, ssm, frozen.estimator),
            ),
            used=frozen.estimator,
            continuation={
                "found": np.array(frozen.found),
                **{f"proposal_{name}": leaf for name, leaf in frozen.proposal._asdict().items()},
                **{name: leaf for name, leaf in points._asdict().items() if name != "theta"},
            }
            if len(log_weights)
            else None,
            origin={
                "model": origin_of(ssm),
                "key": frozen.keys[0],
                "keys": list(frozen.keys),
                "estimator": record_of(frozen.estimator),
                "said": list(frozen.said),
                "wanted": frozen.wanted,
            },
        )
        own = {"settings": {**result.settings, "num_points": len(log_weights)}, "points": points.theta}
        return dataclasses.replace(result, log_weights=log_weights, **own) if len(log_weights) else result

    def _notes(self, ssm: StateSpaceModel, frozen: Frozen) -> tuple[str, ...]:
        sd, share, _, rounds = frozen.found
        noise = f", standard deviation of the log likelihood estimate {sd:.2f} at the centre" if sd > 0 else ""
        count = len(frozen.proposal.components)
        notes = [
            f"{sized(frozen.estimator)}{noise}; proposal of {count} component{'s' * (count > 1)} after {int(rounds)} "
            f"rounds, effective share {share:.2f} in the last"
        ]
        notes += [frozen.said[0]] if frozen.said[0] else []
        if lawless(ssm):
            names = ", ".join(repr(site) for site in lawless(ssm))
            notes.append(
                f"no evidence: the prior of {names} is masked, scaled or without a sampler, so it is no law that the "
                "likelihood could be averaged over"
            )
        return tuple(notes)

    def _noise_doubt(self, frozen: Frozen) -> tuple[Reason, ...]:
        sd, size = frozen.found[0], frozen.estimator.num_particles
        if not sd > (MISSED * self.target_sd if self.num_particles is None else TOO_NOISY):
            return ()
        limit = f"; {frozen.said[1]}" if frozen.said[1] else ""
        sentence = (
            f"The estimates of the likelihood are noisy: with {size:,} particles the standard deviation of their "
            f"logarithm is {significant(sd)} at the centre{limit}."
        )
        return (Reason(sentence, "Use more, num_particles, or another proposal of the filter.", Section.NOISE),)


class Frozen(NamedTuple):
    """What the points are made with.

    Attributes:
        estimator: of the likelihood.
        keys: words of the key of the run, and of that of the points.
        proposal: their law.
        found: what the adaptation measured: noise, effective share, temperature, rounds.
        said: why the filter has its proposal, and what kept it from more particles.
        wanted: number of points that gives the effective number that is wanted.
        chunk: the compiled program, None where it is still to be compiled.
        made: points that are there, None at first.
        costs: by now.
        interrupted: whether Control-C came.
    """

    estimator: Estimator
    keys: tuple[list[int], ...]
    proposal: Mixture
    found: tuple[float, ...]
    said: tuple[str, ...]
    wanted: int
    chunk: Chunk | None
    made: Points | None
    costs: Costs
    interrupted: bool
