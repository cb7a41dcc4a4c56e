r"""Conditional SMC: one update of a whole state path that leaves its law given the data as it is.

A particle filter runs beside a path that is given, the *reference*: at every step one particle, in a slot b, is the
path's own, resampling is conditional on its survival (`ssmscan.particles.resampling`), and at the end a path is drawn
from the particles.  For any number of particles from two on, this is a Markov kernel that leaves p(states | y, theta)
invariant (Andrieu, Doucet & Holenstein 2010, *JRSS B* 72(3), theorem 5).  It resamples at every step: where it does not
there would be no ancestor to draw again.  The weight of a resampled particle is W/V of its parent, as in `filter_step`.

**Ancestor sampling** (Lindsten, Jordan & Schoen 2014, *JMLR* 15, algorithm 2).  Before step t the reference gets a new
past, particle i with probability proportional to

.. math::  W_{t-1}^i \; p(v_t | c_{t-1}^i) \; p(y_t | c_{t-1}^i, v_t) \; 1[h(c_{t-1}^i, v_t) = c_t],

v its innovations and c its carry; W are the filtering weights, whatever ancestors are drawn by.  The others are then
resampled given that one.  **Backward sampling** (Whiteley 2010, in the discussion of the same paper) draws the new
path by these weights from the last step to the first when all clouds are there.  Equality of carries is bitwise, among
carries computed side by side by the same code; where a carry remembers more than its innovations only the particle's
own parent qualifies, and both are the ancestral path.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.protocols import Dynamics, Values
from ssmscan.particles.filter_step import NOWHERE
from ssmscan.particles.parents import log_parents
from ssmscan.particles.proposals import ConditionalProposal, Move, entry
from ssmscan.particles.resampling import ConditionalResampling
from ssmscan.particles.weights import normalise, uniform


class ConditionalSettings(Protocol):
    """What an update reads of a front object."""

    @property
    def num_particles(self) -> int:
        """N, the reference included."""

    @property
    def resampling(self) -> ConditionalResampling:
        """Scheme that draws ancestors, and can pin one."""

    @property
    def proposal(self) -> ConditionalProposal:
        """What moves and weighs."""

    @property
    def backward(self) -> Backward:
        """How the new path is connected to the particles."""


class Backward(Protocol):
    """How paths get new pasts."""

    @property
    def forward(self) -> bool:
        """Whether the reference gets a new ancestor at every step."""

    @property
    def back(self) -> bool:
        """Whether the new path is drawn backward through all clouds."""


class Reference(NamedTuple):
    """A path that is given: values of the initial sites, and of the innovations with T in front."""

    initial: Values
    steps: Values


class Cloud(NamedTuple):
    """A cloud with a reference in it, N in front.

    Attributes:
        carry: carries.
        log_weights: (N,) normalised filtering weights.
        log_ahead: (N,) what the proposal sees ahead, None where it looks no further.
        slot: () int32, where the reference is.
        impossible: () int32, the first step at which the reference has no weight, the start being -1; else `NOWHERE`.
    """

    carry: Any
    log_weights: Array
    log_ahead: Array | None
    slot: Array
    impossible: Array


class Kept(NamedTuple):
    """What is kept of each step, T in front.

    Attributes:
        values: (T, N, ...) by site.
        ancestors: (T, N) int32, parents in the cloud before.
        before: carries and weights of that cloud, None where they are not needed.
        slot: (T,) int32, where the reference is.
    """

    values: Values
    ancestors: Array
    before: tuple[Any, Array] | None
    slot: Array


class Updated(NamedTuple):
    """A new path.

    Attributes:
        values: initial site -> value; innovations and deterministics of the loop -> (T, ...).
        updated: (T,) bool, whether the values of a step are those of another particle than the reference.
        impossible: as of `Cloud`.
    """

    values: Values
    updated: Array
    impossible: Array


def update_path(
    settings: ConditionalSettings, key: Array, dynamics: Dynamics, xs: tuple[Any, Any], reference: Reference
) -> Updated:
    """Draw a new path given one.

    Args:
        settings: number of particles, scheme, proposal, backward.
        key: a key made by `as_key`.
        dynamics: the model at theta.
        xs: inputs of the steps as the model has them, and as the proposal takes them.
        reference: the path.
    """
    key_start, key_slot, key_last, key_steps = jax.random.split(key, 4)
    keys = jax.random.split(key_steps, (dynamics.num_steps, 4))
    first, values = _start(settings, key_start, key_slot, dynamics, reference)

    def step(cloud: Cloud, inputs: tuple) -> tuple[Cloud, Kept]:
        return _step(settings, cloud, dynamics, *inputs)

    numbers = jnp.arange(dynamics.num_steps, dtype=np.int32)
    last, kept = lax.scan(step, first, (numbers, keys, *xs, reference.steps))
    final = jax.random.categorical(key_last, last.log_weights).astype(np.int32)
    chosen = _backward(final, dynamics, xs[0], kept, keys) if settings.backward.back else _ancestral(final, kept)
    path = {**entry(values, chosen.first), **chosen.values}
    return Updated(path, chosen.indices != kept.slot, last.impossible)


def _start(
    settings: ConditionalSettings, key: Array, key_slot: Array, dynamics: Dynamics, reference: Reference
) -> tuple[Cloud, Values]:
    n = settings.num_particles
    # Anywhere: schemes depend on the order of particles.
    slot = jax.random.randint(key_slot, (), 0, n, np.int32)
    drawn = settings.proposal.begin_given(key, dynamics, n, reference.initial, slot)
    nowhere = jnp.full((), NOWHERE, np.int32)
    weighed = normalise(uniform(n) + drawn.log_weight)
    impossible = _first_fault(nowhere, jnp.full((), -1, np.int32), drawn, slot)
    return Cloud(drawn.carry, weighed.log_weights, drawn.log_ahead, slot, impossible), drawn.values


def _step(
    settings: ConditionalSettings,
    cloud: Cloud,
    dynamics: Dynamics,
    number: Array,
    keys: Array,
    x: Any,
    proposed: Any,
    values: Values,
) -> tuple[Cloud, Kept]:
    n, (key_pinned, key_resample, key_move, _) = settings.num_particles, keys
    carry, log_weights = cloud.carry, cloud.log_weights

    # Which particle is the parent of the reference.
    pinned = cloud.slot
    if settings.backward.forward:
        parents = log_parents(dynamics, carry, log_weights, x, values, pinned).log_weights
        pinned = draw_index(key_pinned, parents, pinned)

    # Resample the others given that one, by weight and by what the proposal sees ahead.
    ahead, auxiliary = cloud.log_ahead, settings.proposal.log_auxiliary(dynamics, carry, proposed, n)
    if auxiliary is not None:
        ahead = auxiliary if ahead is None else ahead + auxiliary
    v = normalise(log_weights if ahead is None else log_weights + ahead)
    ancestors, slot = settings.resampling.conditional(key_resample, v.weights, n, pinned)
    ratio = jnp.zeros(n) if ahead is None else (log_weights - v.log_weights)[ancestors]

    # Propagate and weigh.
    taken = jax.tree.map(lambda leaf: leaf[ancestors], carry)
    moved = settings.proposal.propagate_given(key_move, dynamics, taken, proposed, n, values, slot)
    weighed = normalise(ratio + moved.log_weight)
    impossible = _first_fault(cloud.impossible, number, moved, slot)
    before = (carry, log_weights) if settings.backward.back else None
    kept = Kept(moved.values, ancestors, before, slot)
    return Cloud(moved.carry, weighed.log_weights, moved.log_ahead, slot, impossible), kept


def _first_fault(before: Array, step: Array, moved: Move, slot: Array) -> Array:
    impossible = ~(entry(moved.log_weight, slot) > -jnp.inf)
    return jnp.where(impossible & (before == NOWHERE), step, before)


def draw_index(key: Array, log_weights: Array, otherwise: Array) -> Array:
    """Draw one index with the given weights, () int32; `otherwise` where nothing has weight."""
    drawn = jax.random.categorical(key, log_weights).astype(np.int32)
    return jnp.where(jnp.max(log_weights) > -jnp.inf, drawn, otherwise)


class _Chosen(NamedTuple):
    """The particle of the start, the index at each step, and the values there."""

    first: Array
    indices: Array
    values: Values


def _ancestral(final: Array, kept: Kept) -> _Chosen:
    def back(index: Array, step: tuple[Values, Array]) -> tuple[Array, tuple[Array, Values]]:
        values, ancestors = step
        return entry(ancestors, index), (index, entry(values, index))

    first, (indices, values) = lax.scan(back, final, (kept.values, kept.ancestors), reverse=True)
    return _Chosen(first, indices, values)


def _backward(final: Array, dynamics: Dynamics, xs: Any, kept: Kept, keys: Array) -> _Chosen:
    names = [site.name for site in dynamics.innovations]

    def back(index: Array, step: tuple) -> tuple[Array, tuple[Array, Values]]:
        x, values, ancestors, (carry, log_weights), key = step
        child, own = entry({name: values[name] for name in names}, index), entry(ancestors, index)
        found = log_parents(dynamics, carry, log_weights, x, child, own)
        parent = draw_index(key, found.log_weights, own)
        return parent, (index, {**child, **entry(found.deterministics, parent)})

    inputs = xs, kept.values, kept.ancestors, kept.before, keys[:, 3]
    first, (indices, values) = lax.scan(back, final, inputs, reverse=True)
    return _Chosen(first, indices, values)
