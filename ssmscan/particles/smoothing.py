r"""Smoothing: the states given all data and given parameters, :math:`p(x_{0:T} | y_{1:T}, \theta)`.

    result = Smoother().run(key, ssm, theta)
    result.paths["x"], result.mean["x"], result.sd["x"]

========================  ==============================  ==================================================
method                    a path costs, a step            its law
========================  ==============================  ==================================================
`Exact()`                 O(1), after one pass            exact, independent paths; few models have it
`BackwardSimulation()`    N densities                     that of the filter's particles, error O(1/N)
`MCMCBackward()`          num_moves + 1 densities         the same, nearly; for many particles
`FixedLag()`              O(L) beside a filter            of each step by data up to L steps later; no paths
========================  ==============================  ==================================================

`Smoother()` takes the first where a model has it, the second for few particles and the third for many.  Each is a
frozen object with one method, `smooth`; a method of one's own is another (`SmoothingMethod`).

All are right for any carry, one that its innovations do not determine included: a particle that cannot have led to the
next state of a path is never taken (`ssmscan.particles.smoothing_backward`).  If only one can, paths are ancestral and
meet in few states, which `concerns` says and `SmoothingResult.renewed` shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.arguments import require_integer
from ssmscan.labels import labels_of
from ssmscan.model.protocols import Model, Theta, Values
from ssmscan.model.statespace.element_dynamics import join_values
from ssmscan.model.statespace.requirements import require_observed
from ssmscan.particles import settings_checks
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter, require_filter
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.filter_step import VANISHED
from ssmscan.particles.genealogy import MOST_MOVES, backward_paths
from ssmscan.particles.panels import each_element
from ssmscan.particles.smoothing_draws import draw_many, table
from ssmscan.particles.smoothing_exact import exact_law, has_exact_law
from ssmscan.particles.smoothing_lag import Lagged, LagMoments, Moments
from ssmscan.particles.smoothing_result import SmoothingResult
from ssmscan.particles.stores import FullHistory, LastSteps

FEW_PARTICLES = 100
"""Up to so many, drawing among all costs no more than `MCMCBackward` does."""

_FILTER = ParticleFilter(1000)


class SmoothingMethod(Protocol):
    """How the states are drawn; frozen."""

    def smooth(self, key: Array, ssm: Model, theta: Theta, num_paths: int) -> SmoothingResult:
        """Draw paths given canonical parameters; pure."""


@dataclass(frozen=True)
class Exact:
    """Independent draws from the exact smoothing law, of linear Gaussian models and of finite discrete states."""

    def smooth(self, key: Array, ssm: Model, theta: Theta, num_paths: int) -> SmoothingResult:
        """Draw paths.

        Raises:
            ModelError: the model has no exact law; the message says why.
        """
        law = exact_law(key, ssm, theta, num_paths=num_paths)
        rest = _moments_of({name: x for name, x in law.paths.items() if name not in law.mean})
        mean, sd = {**law.mean, **rest.mean}, {**law.sd, **rest.sd}
        return SmoothingResult(law.log_likelihood, law.paths, mean, sd, None, None, "Exact", tuple(sorted(law.mean)))


@dataclass(frozen=True)
class BackwardSimulation:
    """Paths drawn backward through a stored filter run, each state among all particles (Godsill, Doucet & West 2004).

    Attributes:
        particle_filter: its store is `FullHistory()`, unless it is `LastSteps(k)`.
    """

    particle_filter: ParticleFilter = _FILTER

    def __post_init__(self) -> None:
        require_filter(self.particle_filter)

    def smooth(self, key: Array, ssm: Model, theta: Theta, num_paths: int) -> SmoothingResult:
        """Draw paths; time is N a step and path."""
        return _backward(key, ssm, theta, num_paths, self.particle_filter, None)


@dataclass(frozen=True)
class MCMCBackward:
    """Paths drawn backward by Metropolis moves from the ancestors (Bunch & Godsill 2013; Dau & Chopin 2023).

    Attributes:
        particle_filter: its store is `FullHistory()`, unless it is `LastSteps(k)`.
        num_moves: moves of each state, at least 1.
    """

    particle_filter: ParticleFilter = _FILTER
    num_moves: int = 5

    def __post_init__(self) -> None:
        require_filter(self.particle_filter)
        moves = require_integer("num_moves", self.num_moves, at_least=1, at_most=MOST_MOVES)
        object.__setattr__(self, "num_moves", moves)

    def smooth(self, key: Array, ssm: Model, theta: Theta, num_paths: int) -> SmoothingResult:
        """Draw paths; time is num_moves + 1 a step and path."""
        return _backward(key, ssm, theta, num_paths, self.particle_filter, self.num_moves)


@dataclass(frozen=True)
class FixedLag:
    """Means and standard deviations of each step by the particles `lag` steps later, in memory for lag steps.

    They are *biased*: data later than that are left out, an error that falls with the lag as fast as the model
    forgets its state, and that no number of particles takes away.  Too long a lag has the noise of few common
    ancestors instead.  A law of whole paths it is not: its `paths` are ancestral ones of the last lag + 1 steps.

    Attributes:
        particle_filter: its store is not used.
        lag: L, at least 1.
    """

    particle_filter: ParticleFilter = _FILTER
    lag: int = 20

    def __post_init__(self) -> None:
        require_filter(self.particle_filter)
        object.__setattr__(self, "lag", require_integer("lag", self.lag, at_least=1))

    def smooth(self, key: Array, ssm: Model, theta: Theta, num_paths: int) -> SmoothingResult:
        """Compute moments of all steps, and draw paths of the last ones."""
        key_filter, key_paths = jax.random.split(key)
        found = replace(self.particle_filter, store=LagMoments(self.lag), summaries=()).run(key_filter, ssm, theta)
        paths: Values = {}
        mean: Values = {}
        sd: Values = {}
        for number, loop in enumerate(found.loops):
            lagged: Lagged = loop.history  # type: ignore[assignment]
            own = jax.random.fold_in(key_paths, number)
            draw = partial(_last_steps, num_paths=num_paths)
            paths |= join_values(each_element(draw, loop.panel, own, lagged, together=True), loop.panel)
            mean |= join_values(lagged.moments.mean, loop.panel)
            sd |= join_values(lagged.moments.sd, loop.panel)
        moments = _unless_vanished(Moments(mean, sd), found)
        return SmoothingResult(found.log_likelihood, paths, *moments, None, _without_history(found), "FixedLag")


@dataclass(frozen=True)
class Smoother:
    """Settings of a smoother.

    Attributes:
        method: how; None is `Exact()` where the model has an exact law, else `BackwardSimulation` or `MCMCBackward`.
        num_paths: paths to draw.
        num_particles: of the filter, where the method is None.

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
        >>> result = ssmscan.Smoother(num_paths=50).run(random.key(0), ssm, {"scale": 0.5})
        >>> print(result.method, result.paths["x"].shape, *(f"{mean:.2f}" for mean in result.mean["x"]))
        Exact (50, 3) 0.27 0.54 0.71

    Raises:
        TypeError: for a method that is none.
        ValueError: for numbers that are too small.
    """

    method: SmoothingMethod | None = None
    num_paths: int = 100
    num_particles: int = 1000

    def __post_init__(self) -> None:
        if self.method is not None:
            settings_checks.strategy("method", self.method, ("smooth",), "MCMCBackward()")
        object.__setattr__(self, "num_paths", require_integer("num_paths", self.num_paths, at_least=1))
        object.__setattr__(self, "num_particles", require_integer("num_particles", self.num_particles, at_least=2))

    def run(self, key: Array, ssm: Model, theta: Mapping[str, Any]) -> SmoothingResult:
        """Draw the states given all data at given parameters; pure, and works under jit and vmap.

        Args:
            key: one PRNG key.
            ssm: what `ssmscan.trace` returned.
            theta: value of every parameter by name.

        Raises:
            ModelError: the method does not suit the model; the message says why, and which does.
            ValueError: if theta lacks a parameter, has an unknown one, or a value outside its support.
        """
        key = as_key(key)
        require_observed(ssm)
        theta = ssm.canonical(theta)
        found = self.method_for(ssm).smooth(key, ssm, theta, self.num_paths)
        sites = (*ssm.initial, *ssm.innovations)
        discrete = tuple((s.name, tuple(sorted(s.values))) for s in sites if s.values and s.name in found.mean)
        return replace(found, labels=labels_of(ssm), discrete=discrete)

    def method_for(self, ssm: Model) -> SmoothingMethod:
        """Return the method that is used for a model."""
        if self.method is not None:
            return self.method
        if has_exact_law(ssm):
            return Exact()
        particle_filter = ParticleFilter(self.num_particles)
        few = self.num_particles <= FEW_PARTICLES
        return BackwardSimulation(particle_filter) if few else MCMCBackward(particle_filter)


def _backward(
    key: Array, ssm: Model, theta: Theta, num_paths: int, particle_filter: ParticleFilter, num_moves: int | None
) -> SmoothingResult:
    key_filter, key_paths = jax.random.split(key)
    store = particle_filter.store if isinstance(particle_filter.store, LastSteps) else FullHistory()
    found = replace(particle_filter, store=store, summaries=()).run(key_filter, ssm, theta)
    paths, renewed = backward_paths(key_paths, ssm, theta, found, num_paths=num_paths, num_moves=num_moves)
    name = "BackwardSimulation" if num_moves is None else f"MCMCBackward, {num_moves} moves"
    moments = _unless_vanished(_moments_of(paths), found)
    return SmoothingResult(found.log_likelihood, paths, *moments, renewed, _without_history(found), name)


def _moments_of(paths: Values) -> Moments:
    real = {name: x.astype(jnp.result_type(float)) for name, x in paths.items()}
    return Moments({name: x.mean(0) for name, x in real.items()}, {name: x.std(0) for name, x in real.items()})


def _unless_vanished(moments: Moments, found: FilterResult) -> Moments:
    """Return moments, NaN where the filter lost all weight: then no particle is a state that can have been."""
    return jax.tree.map(lambda x: jnp.where(found.status == VANISHED, jnp.nan, x), moments)


def _last_steps(key: Array, _: Any, lagged: Lagged, *, num_paths: int) -> Values:
    index = draw_many(key, table(lagged.log_weights), (num_paths,))
    return {name: jnp.swapaxes(x[:, index], 0, 1) for name, x in lagged.values.items()}


def _without_history(found: FilterResult) -> FilterResult:
    return FilterResult.of_loops(replace(loop, history=None) for loop in found.loops)
