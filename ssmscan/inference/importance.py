r"""`ImportanceSampler`: parameters by importance sampling, with an estimate of the likelihood in place of it.

Points z are drawn from a frozen proposal q and weighed by

.. math::  w_i = \frac{p(\theta_i) |d\theta/dz| \, \hat Z_i}{q(z_i)}, \qquad
           \hat p(y) = \frac1n \sum_i w_i, \qquad
           \widehat{se}(\log \hat p) = \frac{sd(w)}{\sqrt n \, \hat p(y)} .

The estimate of each point is unbiased, so weighted means are consistent and the evidence is unbiased, for any number
of particles (IS squared: Tran, Scharth, Pitt & Kohn 2014, arXiv:1309.3339).  Points are independent: no warm-up of a
chain, no autocorrelation, and more of them may be made at any time from the same proposal.

The proposal is found from the prior (`ssmscan.inference.importance_adapt`); none of those points is kept.  Draws of
equal weight are resampled from the points, each with the state path of its own run.  Prefer NUTS or PMMH for more than
about ten parameters: a few points then carry all weight, and `concerns` says so.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from ssmscan.arguments import require_flag, require_number
from ssmscan.inference.importance_adapt import Adaptation, Aim
from ssmscan.inference.importance_origin import origin_of, require_continues
from ssmscan.inference.importance_points import (
    Operand,
    Points,
    PointStep,
    first_numbers,
    lawless,
    make_points,
    num_lanes,
)
from ssmscan.inference.importance_proposal import Mixture, from_prior
from ssmscan.inference.importance_weights import combine, effective, faults, resample
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.paths import paths_from_keys
from ssmscan.inference.progress import Chunk, compile_chunk, phase
from ssmscan.inference.reporting import result_of
from ssmscan.inference.settings import describe, require_counts, require_parameters, require_result_can_hold, spread
from ssmscan.inference.sizing import FEWEST, MISSED
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import Estimator, require_estimator, sized
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.look_ahead import LookAhead
from ssmscan.results.data import Costs
from ssmscan.results.health import warn_of_concerns
from ssmscan.results.result import Result
from ssmscan.results.table import significant

PLAIN = ParticleFilter(100, summaries=())
"""The estimator from which the adaptation starts where none is given."""

MOST_POINTS = 20
"""No more than this many points are made for each effective one that is wanted."""

FEW_EFFECTIVE = 100
"""Fewer effective points than these say little."""

HEAVIEST = 0.1
"""A share of all weight that one point should not have."""


@dataclass(frozen=True, kw_only=True)
class ImportanceSampler:
    """Importance sampling of the parameters on an estimate of the likelihood.

    Example:
        >>> import jax, ssmscan
        >>> from ssmscan import datasets
        >>> from ssmscan.stochastic_volatility import stochastic_volatility
        >>> ssm = ssmscan.trace(stochastic_volatility, datasets.gbpusd().values[:50])
        >>> sampler = ssmscan.ImportanceSampler(num_points=500, num_paths=50, progress=False)
        >>> result = sampler.run(jax.random.key(0), ssm)
        >>> result.engine, result.points["mu"].shape
        ('ImportanceSampler', (500,))

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

    def run(self, key: jax.Array, ssm: StateSpaceModel, *, start: Result | None = None) -> Result:
        """Sample the posterior of the parameters and the states, and estimate the evidence.

        Args:
            key: one PRNG key, typed or raw; of no effect where there is a start.
            ssm: a model from `ssmscan.trace`.
            start: a result of this engine for the same model and data: num_points more points are made from its
                proposal, as many again as it has by default.  The result is that of one longer run.

        Returns:
            A `Result` with points and weights; stopped by Control-C, it holds those made by then.

        Warns:
            ResultWarning: of whatever `Result.concerns` returns.

        Raises:
            ModelError: if a parameter is discrete, or there are none.
            TypeError: if a site is not of real numbers.
            ValueError: if no draw from the prior has positive likelihood, or start belongs to something else.
        """
        require_observed(ssm)
        require_drawn(ssm)
        require_parameters(ssm)
        require_result_can_hold(ssm, self)
        with hold_interrupts():
            frozen = self._adapt(as_key(key), ssm) if start is None else self._going_on(start, ssm)
            result = self._sample(ssm, frozen)
        return warn_of_concerns(result)

    def _adapt(self, key: jax.Array, ssm: StateSpaceModel) -> Frozen:
        """Find the proposal and the number of points."""
        given = self.estimator or PLAIN
        estimator = given.with_num_particles(self.num_particles or min(given.num_particles, self.max_particles))
        aim = Aim(self.target_sd, self.num_particles is None, self.estimator is None, self.max_particles)
        key_adapt, key_points = jax.random.split(key)
        found = Adaptation(key_adapt, ssm, estimator, aim, float(self.pilot_seconds), progress=self.progress).run()
        share = found.share if found.share > 0 else 0.0
        count = int(np.clip(self.target_ess / max(share, 1e-9), self.target_ess, MOST_POINTS * self.target_ess))
        return Frozen(
            found.estimator,
            np.asarray(jax.random.key_data(key_points)),
            from_prior(found.dimension) if found.proposal is None else found.proposal,
            np.array([found.sd, share, found.temperature, found.rounds]),
            (found.choice, found.limit),
            found.chunk,
            self.num_points or count,
            None,
            Costs(found.compile_seconds, found.seconds, 0.0, found.particle_steps),
            found.interrupted,
        )

    def _going_on(self, start: Result, ssm: StateSpaceModel) -> Frozen:
        """Take proposal, estimator and points from a result."""
        require_continues(start, self, ssm)
        stored, chosen = start.continuation, start.origin["estimator"]
        automatic = ParticleFilter(100, proposal=LookAhead(), summaries=()) if chosen["look_ahead"] else PLAIN
        estimator = (self.estimator or automatic).with_num_particles(chosen["num_particles"])
        made = Points(
            stored["z"],
            dict(start.points),
            *(stored[name] for name in ("log_prior", "log_law", "log_likelihood", "filter_key", "status")),
        )
        proposal = Mixture(*(stored[f"proposal_{name}"] for name in Mixture._fields))
        choice, limit = start.origin["said"]
        more = self.num_points or len(made.z)
        return Frozen(
            estimator, stored["key"], proposal, stored["found"], (choice, limit), None, more, made, start.costs, False
        )

    def _sample(self, ssm: StateSpaceModel, frozen: Frozen) -> Result:
        """Make the points, resample draws from them, and make their paths."""
        lanes = num_lanes()
        operand = Operand(ssm, jnp.asarray(frozen.key), frozen.proposal.on_device())
        had = 0 if frozen.made is None else len(frozen.made.z)
        chunk, compile_seconds = frozen.chunk, 0.0
        interrupted, seconds = frozen.interrupted, 0.0
        if chunk is None and not interrupted:
            try:
                with phase("ImportanceSampler: compiling", progress=self.progress), interruptible():
                    step = PointStep(frozen.estimator, lanes)
                    chunk = compile_chunk(step, operand, first_numbers(had, lanes))
                compile_seconds = chunk.compile_seconds
            except KeyboardInterrupt:
                interrupted = True
        points = none_of(ssm, frozen.estimator, operand, lanes) if frozen.made is None else frozen.made
        if chunk is not None and not interrupted:
            label = "ImportanceSampler"
            made = make_points(chunk, operand, lanes, had, frozen.more, label=label, progress=self.progress)
            points = jax.tree.map(lambda a, b: np.concatenate([a, b]), points, made.points)
            interrupted, seconds = made.interrupted, made.seconds
        runs = len(points.z) - had
        costs = Costs(
            frozen.costs.compile_seconds + compile_seconds,
            frozen.costs.warmup_seconds,
            frozen.costs.run_seconds + seconds,
            frozen.costs.particle_steps + runs * frozen.estimator.particle_steps(ssm),
        )
        return self._result(ssm, frozen, points, costs, interrupted)

    def _result(self, ssm: StateSpaceModel, frozen: Frozen, points: Points, costs: Costs, interrupted: bool) -> Result:
        log_weights = points.log_weights(frozen.proposal) if len(points.z) else np.zeros(0)
        chosen = resample(log_weights, jnp.asarray(frozen.key))
        theta, keys = {name: leaf[chosen][None] for name, leaf in points.theta.items()}, points.filter_key[chosen][None]
        kept = spread(len(chosen), self.num_paths)
        paths = paths_from_keys(keys, ssm, theta, kept, frozen.estimator, room=self.num_paths, progress=self.progress)
        again = 0 if paths.log_likelihood is None else paths.log_likelihood.size
        evidence = combine(log_weights) if len(log_weights) and not lawless(ssm) else None
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
            log_evidence=evidence,
            costs=dataclasses.replace(
                costs, particle_steps=costs.particle_steps + again * frozen.estimator.particle_steps(ssm)
            ),
            interrupted=interrupted,
            notes=self._notes(ssm, frozen),
            doubts=(*self._doubts(frozen, points, log_weights), *faults(points, log_weights, ssm, frozen.estimator)),
            used=frozen.estimator,
        )
        if not len(log_weights):
            return result
        look_ahead = isinstance(getattr(frozen.estimator, "proposal", None), LookAhead)
        return dataclasses.replace(
            result,
            points=points.theta,
            log_weights=log_weights,
            continuation={
                "key": frozen.key,
                "found": frozen.found,
                **{f"proposal_{name}": leaf for name, leaf in frozen.proposal._asdict().items()},
                **{name: leaf for name, leaf in points._asdict().items() if name != "theta"},
            },
            origin={
                **origin_of(self, ssm),
                "estimator": {"num_particles": frozen.estimator.num_particles, "look_ahead": look_ahead},
                "said": list(frozen.said),
            },
        )

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

    def _doubts(self, frozen: Frozen, points: Points, log_weights: np.ndarray) -> tuple[str, ...]:
        """Return what speaks against the points."""
        if not len(log_weights):
            return ()
        found, d = [], points.z.shape[1]
        sd, _, temperature, _ = frozen.found
        ways = "Use NUTS or PMMH, a prior that says more, or more points"
        if sd > MISSED * self.target_sd and (self.num_particles is None or sd > 2):
            limit = f" ({frozen.said[1]})" if frozen.said[1] else ""
            found.append(
                f"The estimates of the likelihood are noisy: with {frozen.estimator.num_particles:,} particles the "
                f"standard deviation of their logarithm is {significant(float(sd))} at the centre{limit}. Use more, "
                "num_particles, or another proposal of the filter."
            )
        if temperature < 1:
            found.append(
                f"The proposal did not arrive: its rounds ended at temperature {significant(float(temperature))} of 1. "
                f"{ways}."
            )
        top, size = float(np.exp(log_weights.max() - logsumexp(log_weights))), effective(log_weights)
        if not np.isfinite(log_weights).any():
            found.append("No point has any weight: the proposal missed the posterior. Use another engine.")
        elif top > HEAVIEST:
            found.append(
                f"One of {len(log_weights):,} points has {100 * top:.0f} % of all weight: in {d} dimensions the "
                f"proposal does not cover the posterior. {ways}."
            )
        elif size < FEW_EFFECTIVE:
            found.append(f"Only {size:.0f} of {len(log_weights):,} points are effective, in {d} dimensions. {ways}.")
        return tuple(found)


class Frozen(NamedTuple):
    """What the points are made with.

    Attributes:
        estimator: of the likelihood.
        key: uint32[2], of all points.
        proposal: their law.
        found: what the adaptation measured: noise, effective share, temperature, rounds.
        said: why the filter has its proposal, and what kept it from more particles.
        chunk: the compiled program, None where it is still to be compiled.
        more: points to make.
        made: points that are there, None at first.
        costs: by now.
        interrupted: whether Control-C came.
    """

    estimator: Estimator
    key: np.ndarray
    proposal: Mixture
    found: np.ndarray
    said: tuple[str, str]
    chunk: Chunk | None
    more: int
    made: Points | None
    costs: Costs
    interrupted: bool


def none_of(ssm: StateSpaceModel, estimator: Estimator, operand: Operand, lanes: int) -> Points:
    """Return points of the right shapes, of which there are none."""
    shapes = jax.eval_shape(PointStep(estimator, lanes), operand, first_numbers(0, lanes))[1]
    return jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), shapes)
