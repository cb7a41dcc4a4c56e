r"""One step of stochastic gradient ascent, for every start of `ssmscan.inference.maximum`, and where starts are.

A start is the best of some draws from the prior.  A step is that of the user's optimizer, on the gradient of one filter
with a fresh key; where the gradient is not finite it is not taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ssmscan.inference.curvature import objective
from ssmscan.inference.prior_points import prior_point
from ssmscan.inference.spreading import side_by_side
from ssmscan.model.protocols import Model, PyTree, Theta
from ssmscan.particles.estimators import Estimator
from ssmscan.particles.loop import filters_at_once

PRIOR_DRAWS = 32
"""Draws from the prior of which each start takes the best."""


class Optimizer(Hashable, Protocol):
    """What is needed of an `optax.GradientTransformation`."""

    @property
    def init(self) -> Callable[[Theta], PyTree]:
        """Make the state of the optimizer at a point."""

    @property
    def update(self) -> Callable[[Theta, PyTree, Theta], tuple[Theta, PyTree]]:
        """Make an update and the next state, from a gradient, the state and the point."""


class Climb(NamedTuple):
    """One start between two steps: the key of the rest, unconstrained parameters, state of the optimizer."""

    key: jax.Array
    z: Theta
    optimizer: PyTree


class Climbed(NamedTuple):
    """What is kept of one step: the iterate after it, the log likelihood before it, whether the gradient was finite."""

    z: Theta
    log_likelihood: jax.Array
    usable: jax.Array


@dataclass(frozen=True)
class ClimbStep:
    """One step of every start; see `ssmscan.inference.progress.Step`."""

    estimator: Estimator
    optimizer: Optimizer
    prior: bool

    def __call__(self, ssm: Model, climbs: Climb) -> tuple[Climb, Climbed]:
        """Advance all starts; their leaves have the starts in front."""
        return side_by_side(functools.partial(self._advance, ssm), climbs)

    def _advance(self, ssm: Model, climb: Climb) -> tuple[Climb, Climbed]:
        key, own = jax.random.split(climb.key)

        def loss(z: Theta) -> tuple[jax.Array, jax.Array]:
            value, (log_likelihood, _) = objective(own, ssm, z, self.estimator, self.prior)
            return -value, log_likelihood

        (value, log_likelihood), gradient = jax.value_and_grad(loss, has_aux=True)(climb.z)
        usable = jnp.isfinite(value) & jnp.all(jnp.isfinite(ravel_pytree(gradient)[0]))
        updates, state = self.optimizer.update(gradient, climb.optimizer, climb.z)
        z = jax.tree.map(lambda leaf, update: (leaf + update).astype(leaf.dtype), climb.z, updates)
        # Where there is no gradient the optimizer must not learn from it; the next key may do better.
        z, state = jax.tree.map(functools.partial(jnp.where, usable), (z, state), (climb.z, climb.optimizer))
        return Climb(key, z, state), Climbed(z, log_likelihood, usable)


@functools.cache
def default_optimizer() -> Optimizer:
    """Return Adam with a rate that falls; one object, so that it is compiled once."""
    try:
        import optax
    except ImportError as error:
        raise ImportError("MaximumLikelihood needs optax: pip install optax") from error
    return optax.adam(lambda count: 0.1 * (1 + count / 50) ** -0.6)


@functools.partial(jax.jit, static_argnames=("step",))
def start_climbs(keys: jax.Array, ssm: Model, *, step: ClimbStep) -> tuple[Climb, jax.Array]:
    """Start each climb at the best of its own draws from the prior; and the log likelihoods found."""

    def attempt(key: jax.Array) -> tuple:
        key_prior, key_filter = jax.random.split(key)
        z = prior_point(ssm, key_prior)
        return z, objective(key_filter, ssm, z, step.estimator, step.prior)[0]

    def one(key: jax.Array) -> tuple[Climb, jax.Array]:
        key, own = jax.random.split(key)
        z, value = jax.lax.map(attempt, jax.random.split(own, PRIOR_DRAWS), batch_size=filters_at_once())
        finite = jnp.isfinite(value) & jax.vmap(lambda z: jnp.all(jnp.isfinite(ravel_pytree(z)[0])))(z)
        best = jnp.argmax(jnp.where(finite, value, -jnp.inf))
        z = jax.tree.map(lambda leaf: leaf[best], z)
        return Climb(key, z, step.optimizer.init(z)), finite[best]

    return jax.vmap(one)(keys)
