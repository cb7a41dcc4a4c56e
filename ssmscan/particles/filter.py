"""The particle filter: settings in, result out.

    result = ParticleFilter(num_particles=10_000).run(key, ssm, theta)
    result.log_likelihood, result.increments, result.summaries["mean"]["x"]

One compilation serves a program, settings and shapes: other parameters, data and keys run at once.
`run` is pure and works under jit, vmap and grad.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.arguments import require_instance, require_integer, require_number
from ssmscan.labels import labels_of
from ssmscan.model.keys import loop_keys
from ssmscan.model.protocols import Model, Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.particles import settings_checks
from ssmscan.particles.concerns import warn_of
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import PATH_STREAM, LikelihoodEstimate, OneStepAhead, SampledPath
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.filter_run import run_filter
from ssmscan.particles.filter_step import FAULTY, NOWHERE, StepInfo
from ssmscan.particles.genealogy import trace_ancestry
from ssmscan.particles.memory import refuse_too_large
from ssmscan.particles.online import Online, draw_start, refuse_later_data, refuse_other, refuse_several, take
from ssmscan.particles.online_origin import Origin
from ssmscan.particles.panels import num_moves
from ssmscan.particles.printing import known
from ssmscan.particles.proposals import Bootstrap, Proposal, SeriesProposal, uses_later_data
from ssmscan.particles.resampling import Resampling, systematic
from ssmscan.particles.stores import FinalCloud, FullHistory, Store
from ssmscan.particles.summaries import SD, Mean, Summary

_BOOTSTRAP = Bootstrap()


@dataclass(frozen=True)
class ParticleFilter:
    """Settings of a particle filter.

    Attributes:
        num_particles: N, at least 2.
        resampling: scheme, see `ssmscan.particles.resampling`.
        threshold: resample when ESS < threshold * N; 1 is at every step, 0 never.
        proposal: what moves and weighs the cloud.
        summaries: what to compute at each step, no two of one name.
        store: what to keep of the clouds.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> from jax import numpy as jnp, random
        >>> from numpyro.contrib.control_flow import scan
        >>> import ssmscan
        >>> def random_walk(y):
        ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        ...     def step(x, y):
        ...         x = numpyro.sample("x", dist.Normal(x, scale))
        ...         numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     scan(step, 0.0, y)
        >>> ssm = ssmscan.trace(random_walk, jnp.array([0.3, 0.9, 1.4]))
        >>> result = ssmscan.ParticleFilter(10_000).run(random.key(0), ssm, {"scale": 0.5})
        >>> print(f"{result.log_likelihood:.1f}, means", result.summaries["mean"]["x"].round(1))
        -3.9, means [0.1 0.3 0.7]

    Raises:
        ValueError: for fewer than two particles, a threshold outside [0, 1], or two summaries of one name.
            Or a summary that predicts, such as `PIT`, of particles that know later data.
        TypeError: for settings of the wrong kind, a class in place of an object included.
    """

    num_particles: int
    _: KW_ONLY
    resampling: Resampling = systematic
    threshold: float = 0.5
    proposal: Proposal | SeriesProposal = Bootstrap()
    summaries: tuple[Summary, ...] = (Mean(), SD())
    store: Store = FinalCloud()

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_particles", require_integer("num_particles", self.num_particles, at_least=2))
        expected, advice = "a fraction of the particles in [0, 1]", "1 resamples at every step, 0 never."
        require_number("threshold", self.threshold, 0, 1, closed=True, expected=expected, advice=advice)
        settings_checks.scheme(self.resampling)
        methods = ("prepare",) if uses_later_data(self.proposal) else ("begin", "log_auxiliary", "propagate")
        settings_checks.strategy("proposal", self.proposal, methods, "Bootstrap()")
        settings_checks.strategy("store", self.store, ("begin", "keep", "result", "copies"), "FinalCloud()")
        object.__setattr__(self, "summaries", settings_checks.summaries(self.summaries))
        if self.uses_later_data:
            settings_checks.no_predictions(self.summaries, self.proposal)

    def run(self, key: Array, ssm: Model, theta: Mapping[str, Any]) -> FilterResult:
        """Filter the data of a model at given parameters; independent loops one by one.

        Args:
            key: one PRNG key, typed or raw.
            ssm: what `ssmscan.trace` returned.
            theta: value of every parameter by name.

        Raises:
            TypeError: if key is not one PRNG key, or ssm was not traced.
            ValueError: if theta lacks a parameter, has an unknown one, or a value outside its support.
            MemoryError: if the clouds to be stored are more than the device has memory.
        """
        key = as_key(key)
        require_observed(ssm)
        require_drawn(ssm)
        theta, run = ssm.canonical(theta), partial(run_filter, settings=self)
        if not isinstance(self.store, FinalCloud):
            what = f"{self.store} of {ssm.num_steps} steps and {self.num_particles} particles"
            for loop in ssm.loops:
                shapes = jax.eval_shape(run, key, loop, theta)
                refuse_too_large((shapes, [shapes.history] * (self.store.copies - 1)), what)
        keys = loop_keys(key, len(ssm.loops))
        found = (run(key, loop, theta) for key, loop in zip(keys, ssm.loops))
        return FilterResult.of_loops(found, labels_of(ssm))

    # ---- an estimator of the likelihood, see `ssmscan.particles.estimators` -------------------------------

    @property
    def uses_later_data(self) -> bool:
        """Whether particles at a step know data of later steps, so that nothing can go on step by step."""
        return uses_later_data(self.proposal)

    def with_num_particles(self, num_particles: int) -> ParticleFilter:
        """Return the same settings with another number of particles."""
        return replace(self, num_particles=num_particles)

    def particle_steps(self, ssm: Model) -> int:
        """Count the particles that a run moves by one step each."""
        return self.num_particles * num_moves(ssm)

    def estimate(self, key: Array, ssm: Model, theta: Theta) -> LikelihoodEstimate:
        """Estimate the likelihood, and nothing else."""
        found = replace(self, store=FinalCloud(), summaries=()).run(key, ssm, theta)
        status = jnp.where(found.faulty_step != NOWHERE, np.int32(FAULTY), found.status)
        return LikelihoodEstimate(found.log_likelihood, status)

    def one_step_ahead(self, key: Array, ssm: Model, theta: Theta) -> OneStepAhead:
        """Estimate the predictive density of each observation given those before it.

        Raises:
            ValueError: for a proposal that uses later data, whose single increments mean nothing.
        """
        if self.uses_later_data:
            raise ValueError(
                f"proposal: {self.proposal!r} has seen later data, so that what a step returns does not say how well "
                "its observation was predicted. Use Bootstrap() or Guided(...)."
            )
        found = replace(self, store=FinalCloud(), summaries=()).run(key, ssm, theta)
        least = [jnp.min(loop.ess.reshape(len(loop.ess), -1), axis=1) for loop in found.loops]
        status = jnp.where(found.faulty_step != NOWHERE, np.int32(FAULTY), found.status)
        return OneStepAhead(found.increments, jnp.concatenate(least), status)

    def sample_path(self, key: Array, ssm: Model, theta: Theta) -> SampledPath:
        """Make a run again, and follow a particle of its final weights to the start."""
        found = replace(self, store=FullHistory(), summaries=()).run(key, ssm, theta)
        paths = trace_ancestry(jax.random.fold_in(key, PATH_STREAM), found, num_paths=1)
        return SampledPath(found.log_likelihood, jax.tree.map(lambda leaf: leaf[0], paths))

    def describe(self, key: Array, ssm: Model, theta: Theta) -> str:
        """Return how a run ended, in a sentence; on the host."""
        return self.run(key, ssm, theta).message()

    def start(self, key: Array, ssm: StateSpaceModel, theta: Mapping[str, Any]) -> Online:
        """Return a filter before its first step, which takes its steps when `update` is called.

        Arguments and errors as in `run`; `ModelError` for a model of several loops, and `ValueError` for a proposal
        that uses later data.
        """
        refuse_later_data(self)
        key = as_key(key)
        require_observed(ssm)
        require_drawn(ssm)
        refuse_several(ssm)
        theta = ssm.canonical(theta)
        return replace(draw_start(key, ssm, theta, settings=self), origin=Origin(ssm, theta, self))

    def update(
        self, online: Online, ssm: StateSpaceModel, theta: Mapping[str, Any], num_steps: int = 1
    ) -> tuple[Online, StepInfo]:
        """Take the next steps of a series: the same as in `run`, bit by bit.

        Args:
            online: what `start` or the last `update` returned.
            ssm: the model over a series that holds the data of these steps; what comes later is not looked at.
            theta: value of every parameter by name.
            num_steps: number of steps, at least 1; one compilation serves each number.

        Returns:
            The filter after them, and what they report, with time in front (after the elements of a panel): increment,
            ess, resampled, summaries and kept of `StepInfo`.

        Raises:
            TypeError: if online is not a filter between two steps, or is traced.
            ValueError: if the series has fewer steps left, or the filter was started with other settings or on another
                model.
        """
        refuse_other(online, ssm, self)
        num_steps, first = require_integer("num_steps", num_steps, at_least=1), online.step
        if first + num_steps > ssm.num_steps:
            raise ValueError(
                f"num_steps is {num_steps}, after {first} steps of a series of {ssm.num_steps}: there are "
                f"{ssm.num_steps - first} steps left. For more, trace the model with a longer series."
            )
        theta = ssm.canonical(theta)
        # Values are not read, and of the start they are of other sites, for which it would compile once more.
        before = replace(online, values={})
        after, reports = take(before, ssm, theta, np.int32(num_steps), settings=self, capacity=num_steps)
        return replace(after, origin=Origin(ssm, theta, self)), reports


def require_filter(particle_filter: Any) -> ParticleFilter:
    """Return the settings of a filter.

    Raises:
        TypeError: it is something else, such as the number of particles.
    """
    advice = "Make one, such as ParticleFilter(1000)."
    return require_instance("particle_filter", particle_filter, ParticleFilter, "a ParticleFilter", advice)


def log_likelihood(
    key: Array,
    ssm: StateSpaceModel,
    theta: Mapping[str, Any],
    *,
    num_particles: int,
    resampling: Resampling = systematic,
    threshold: float = 0.5,
    proposal: Proposal | SeriesProposal = _BOOTSTRAP,
) -> Array:
    """Estimate the log likelihood p(y | theta), a scalar; its exponential is unbiased.

    Whatever speaks against a finite estimate is issued as a warning.  Under jit, vmap and grad there are no warnings:
    use `ParticleFilter.run` there, and look at `concerns` of its result afterwards.  Particles whose log weight is NaN
    or +inf count as impossible.

    Arguments and errors as of `ParticleFilter` and its `run`, without summaries.
    """
    settings = ParticleFilter(
        num_particles, resampling=resampling, threshold=threshold, proposal=proposal, summaries=()
    )
    result = settings.run(key, ssm, theta)
    if known(result.log_likelihood) and not np.ndim(result.log_likelihood) and result.log_likelihood > -np.inf:
        warn_of(result.concerns(), stacklevel=3)
    return result.log_likelihood
