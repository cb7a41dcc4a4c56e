r"""Fixed-lag smoothing: the states of a step by the particles L steps later, in O(L N) memory.

.. math::  p(x_t | y_{1:T}) \; \approx \; p(x_t | y_{1:t+L}) \; \approx \; \sum_i W_{t+L}^i \,
           \delta\left( x_t^{a(i)} \right),

a(i) the ancestor of particle i after step t (Kitagawa & Sato 2001, in *Sequential Monte Carlo Methods in Practice*,
chapter 9; Olsson, Cappe, Douc & Moulines 2008, *Bernoulli* 14(1)).  The first approximation is a *bias* that no number
of particles takes away: what data more than L steps later say is left out.  It falls with L as fast as the model
forgets.  The second is a variance, which rises with L as ancestors become few.

A `Store` beside the filter keeps the values of the last L + 1 steps in a ring and, for each of them, the ancestor of
every particle: after each step the lines of ancestors are gathered like the particles, and the moments of the oldest
are put out.  At the end the ring has the last L + 1 steps given all data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.protocols import Values
from ssmscan.particles.clouds import Cloud
from ssmscan.particles.filter_step import State, StepInfo
from ssmscan.particles.summaries import over_particles


class Moments(NamedTuple):
    """Means and standard deviations by site."""

    mean: Values
    sd: Values


class Lagged(NamedTuple):
    """What fixed-lag smoothing has of a series.

    Attributes:
        moments: of every site of the loop, (T, ...), and of the initial sites.
        log_weights: (N,) of the last cloud.
        values: of the last R = min(L + 1, T) steps, by site (R, N, ...), each particle's ancestors in its place.
    """

    moments: Moments
    log_weights: Array
    values: Values


class _Ring(NamedTuple):
    """The last L + 1 steps, step t in row t mod (L + 1).

    Attributes:
        values: (L + 1, N, ...) by site.
        lines: (L + 1, N) int32, the ancestor of each particle after that step.
        initial: values of the start; lines_initial: (N,) the ancestors there.
        start: the moments of the start by the particles of step min(t, L - 1).
    """

    values: Values
    lines: Array
    initial: Values
    lines_initial: Array
    start: Moments


@dataclass(frozen=True)
class LagMoments:
    """A store that keeps the moments of each step by the particles of a later one; see `ssmscan.particles.stores`.

    Attributes:
        lag: L, at least 1.
    """

    lag: int
    copies = 2

    def begin(self, first: Cloud, values: Callable[[], Values], num_steps: int) -> _Ring:
        """Return an empty ring."""
        rows, n = min(self.lag, num_steps - 1) + 1, len(first.log_weights)
        ring = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), values())
        own = lax.iota(np.int32, n)
        return _Ring(
            ring,
            jnp.broadcast_to(own, (rows, n)),
            first.values,
            own,
            _moments(jnp.exp(first.log_weights), first.values),
        )

    def keep(self, held: _Ring, state: State, info: StepInfo) -> tuple[_Ring, Moments]:
        """Write over the oldest step, and return the moments of the oldest that is left."""
        rows, n = held.lines.shape
        row, own = (state.step - np.int32(1)) % np.int32(rows), lax.iota(np.int32, n)
        lines, start = lax.cond(
            info.resampled,
            lambda: (held.lines[:, info.ancestors], held.lines_initial[info.ancestors]),
            lambda: (held.lines, held.lines_initial),
        )
        lines = lax.dynamic_update_index_in_dim(lines, own, row, 0)
        values = jax.tree.map(
            lambda ring, new: lax.dynamic_update_index_in_dim(ring, new, row, 0), held.values, info.moved.values
        )
        oldest = (row + np.int32(1)) % np.int32(rows)
        moments = _moments(info.weights, {name: leaf[oldest, lines[oldest]] for name, leaf in values.items()})
        begun = _moments(info.weights, {name: leaf[start] for name, leaf in held.initial.items()})
        within = state.step <= np.int32(self.lag)
        begun = jax.tree.map(lambda new, old: jnp.where(within, new, old), begun, held.start)
        return _Ring(values, lines, held.initial, start, begun), moments

    def result(self, held: _Ring, stacked: Moments, first: Cloud, last: Cloud, span: tuple[int, int]) -> Lagged:
        """Return the moments of all steps, and the last steps of every particle's line."""
        rows, end = len(held.lines), span[1]
        order = np.arange(end - rows, end) % rows
        values = jax.tree.map(
            lambda ring: jax.vmap(lambda row, line: row[line])(ring[order], held.lines[order]), held.values
        )
        weights = jnp.exp(last.log_weights)
        ends = lax.map(lambda row: _moments(weights, row[1]), (order, values))
        moments = jax.tree.map(lambda early, late: jnp.concatenate([early[rows - 1 : -1], late]), stacked, ends)
        joined = Moments(*({**a, **b} for a, b in zip(held.start, moments)))
        return Lagged(joined, last.log_weights, values)


def _moments(weights: Array, values: Values) -> Moments:
    mean = {name: over_particles(weights, x) for name, x in values.items()}

    def sd(x: Array, mean: Array) -> Array:
        return jnp.sqrt(over_particles(weights, (x.astype(weights.dtype) - mean[None]) ** 2))

    return Moments(mean, {name: sd(x, mean[name]) for name, x in values.items()})
