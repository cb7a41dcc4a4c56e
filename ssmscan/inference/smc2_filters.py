r"""The filters of one parameter point: at each t of the series, an estimate of the likelihood of what came by then.

    Z_0 = h(theta) * (likelihood of an observed start),        Z_t = Z_{t-1} * \ell_t

h is the likelihood that no state reaches.  A filter goes on from where it is, by one observation or several, or runs
from the start to a step t that is known only when the program runs, so that one program serves every t.  Every element
of a panel has its own filter, and so has every loop of a model; loops advance side by side, and a shorter one that has
come to its end waits.  Keys are derived as in `ParticleFilter.run`: with the key of a point that makes the same run.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.keys import loop_keys
from ssmscan.model.protocols import Dynamics, Model, Theta
from ssmscan.particles import filter_step
from ssmscan.particles.filter_step import Settings, State
from ssmscan.particles.panels import each_filter

Filters = tuple[State, ...]
"""The filter of each loop; with the elements of a panel in front of every leaf."""


def begin(settings: Settings, key: Array, ssm: Model, theta: Theta) -> Filters:
    """Return the filters before the first step.

    Args:
        settings: number of particles, scheme, threshold and proposal.
        key: a key made by `as_key`.
        ssm: the model.
        theta: the parameters.
    """

    def one(key: Array, dynamics: Dynamics) -> State:
        return filter_step.start(settings, key, dynamics).state

    keys = loop_keys(key, len(ssm.loops))
    return tuple(each_filter(one, loop, theta, own) for own, loop in zip(keys, ssm.loops))


def advance(
    settings: Settings, filters: Filters, ssm: Model, theta: Theta, first: Array, count: Array, *, capacity: int = 0
) -> tuple[Filters, Array]:
    """Take the steps from `first` on, `count` of them, in every loop that has so many.

    Args:
        settings, ssm, theta: as in `begin`.
        filters: the filters before step number `first`, which is counted from 0.
        first, count: () int32, known when it runs.
        capacity: room for the reports, at least count, or 0 for none.

    Returns:
        The filters afterwards, and (capacity,) what each step added to the log likelihood, zeros from `count` on.
    """
    after, total = [], jnp.zeros(capacity)
    for loop, states in zip(ssm.loops, filters):
        run = partial(_steps, settings=settings, first=first, count=count, capacity=capacity)
        states, increments = each_filter(run, loop, theta, None, states)
        after.append(states)
        total = total + (increments if loop.panel is None else increments.sum(0))
    return tuple(after), total


def _steps(
    _: None, dynamics: Dynamics, state: State, *, settings: Settings, first: Array, count: Array, capacity: int
) -> tuple[State, Array]:
    def body(t: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, room = carry
        x: Any = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, t, keepdims=False), dynamics.xs)
        after, info = filter_step.update(settings, state, dynamics, x)
        # The weight of a start that is drawn from another law is in the likelihood already.
        increment = info.increment if state.pending is None else info.increment - state.pending
        increment = jnp.where(info.alive, increment, -jnp.inf)
        return after, room.at[t - first].set(increment) if capacity else room

    end = jnp.minimum(first + count, dynamics.num_steps)
    return lax.fori_loop(first, end, body, (state, jnp.zeros(capacity)))


def log_likelihood(filters: Filters, ssm: Model, theta: Theta) -> Array:
    """Return the logarithm of the estimate by now, a scalar."""
    total = ssm.log_static(theta)
    for states in filters:
        total = total + jnp.sum(states.log_likelihood.value())
    return total


def status(filters: Filters) -> Array:
    """Return how the filters ended, the worst of them; FAULTY where some log weight was no number."""
    faulty = jnp.stack([jnp.any(states.faulty_step != filter_step.NOWHERE) for states in filters]).any()
    worst = jnp.stack([jnp.max(states.status) for states in filters]).max()
    return jnp.where(faulty, jnp.full_like(worst, filter_step.FAULTY), worst)
