r"""Backward steps: from the particle of a path after step t + 1 to its particle after step t.

A path is at particle j of the cloud after step t + 1, with innovations v and carry c'.  Its particle i one step before
has the law

.. math::  B(i) \; \propto \; W_t^i \; p(v | c_t^i) \; p(y_{t+1} | c_t^i, v) \; 1[h(c_t^i, v) = c'],

see `ssmscan.particles.parents`.

`sampled` draws i from B (Godsill, Doucet & West 2004, *JASA* 99(465); Chopin & Papaspiliopoulos 2020, algorithm 12.2):
N densities a step and path.

`moved` begins at the parent, which has the law B given the cloud if j is a draw of the filter, and makes k independent
Metropolis moves that leave B as it is (Bunch & Godsill 2013, *IEEE Trans. Signal Process.* 61(4); Dau & Chopin 2023,
"On backward smoothing algorithms", *Annals of Statistics* 51(5), section 3):

.. math::  i' \sim W_t, \qquad \text{accepted with probability} \quad \min\left(1, \frac{
           p(v | c^{i'}) \, p(y_{t+1} | c^{i'}, v) \, 1[h(c^{i'}, v) = c']}{p(v | c^i) \, p(y_{t+1} | c^i, v)}\right),

k + 1 densities a step and path, whatever N is.  Begun anywhere else it would need many moves, and where the carry
remembers more than the innovations say it would end at a parent that cannot be.  One move is enough for errors that do
not grow as paths of ancestors degenerate (Dau & Chopin 2023); more take away what is left of common ancestors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.protocols import Dynamics, Values
from ssmscan.particles.clouds import History
from ssmscan.particles.parents import equal_bits, log_parents
from ssmscan.particles.proposals import entry
from ssmscan.particles.smoothing_draws import draw_index, draw_many, row_width, table
from ssmscan.particles.weights import without_faults

TOGETHER = 2**20
"""Pairs of a path and a particle that `sampled` weighs side by side, at most."""


def each_path(path: Callable[[Array], Any], uniforms: Array, together: int | None = None) -> Any:
    """Draw every path, from its own uniforms, the first axis; no more side by side than are given."""
    # One path is not a batch: as gathers of one row, its steps meet a fault of the CPU compiler of jaxlib 0.12.0.1,
    # which mistakes a slice of its own making, `dynamic-slice.1`, for one of JAX's, `dynamic_slice.1`.
    if len(uniforms) == 1:
        return jax.tree.map(lambda leaf: leaf[None], path(uniforms[0]))
    if together is None or together >= len(uniforms):
        return jax.vmap(path)(uniforms)
    return lax.map(path, uniforms, batch_size=together)


def sampled(key: Array, dynamics: Dynamics, history: History, *, num_paths: int) -> tuple[Values, Array]:
    """Draw paths from the backward law.

    Returns:
        Values by site, paths in front of those of one path, and (T,) the share of paths whose particle before each step
        is not the parent.
    """
    steps, initial = history.steps, history.initial
    count, n = steps.log_weights.shape
    start = initial.carry, initial.log_weights

    def back(index: Array, inputs: tuple) -> tuple[Array, tuple[Values, Array]]:
        t, x, uniforms, values, ancestors = inputs
        # A slice at a time, not a copy of all clouds, which may be most of the memory there is; and behind a
        # conditional, which XLA does not fuse into the loop over paths and particles.
        carry, log_weights = lax.cond(
            t > 0,
            lambda: _whole_rows(entry((steps.carry, steps.log_weights), t - 1)),
            lambda: _whole_rows(start),
        )
        child, ancestor = entry(_innovations(dynamics, values), index), entry(ancestors, index)
        parents = log_parents(dynamics, carry, log_weights, x, child, ancestor)
        # Densities of the true parent may overflow to nothing; it remains a parent.
        parent = draw_index(uniforms, parents.log_weights, otherwise=ancestor)
        return parent, ({**child, **entry(parents.deterministics, parent)}, parent != ancestor)

    def path(uniforms: Array) -> tuple[Values, Array]:
        last = draw_index(uniforms[-1], steps.log_weights[-1])
        inputs = jnp.arange(count), _inputs(dynamics, history), uniforms[:-1], steps.values, steps.ancestors
        first, (values, renewed) = lax.scan(back, last, inputs, reverse=True)
        return {**entry(initial.values, first), **values}, renewed

    uniforms = jax.random.uniform(key, (num_paths, count + 1, 2))
    paths, renewed = each_path(path, uniforms, together=max(TOGETHER // n, 1))
    return paths, jnp.mean(renewed, axis=0, dtype=float)


def moved(key: Array, dynamics: Dynamics, history: History, *, num_paths: int, num_moves: int) -> tuple[Values, Array]:
    """Draw paths by Metropolis moves from the ancestors; returns as of `sampled`."""
    steps, initial = history.steps, history.initial
    count = len(steps.log_weights)
    key_last, key_steps = jax.random.split(key)
    in_order = lax.iota(np.int32, num_paths)

    def back(index: Array, inputs: tuple) -> tuple[Array, tuple[Values, Array]]:
        t, x, key = inputs
        key_proposed, key_accepted = jax.random.split(key)
        child = {name: leaf[t, index] for name, leaf in _innovations(dynamics, steps.values).items()}

        # Propose: the ancestor in front, and behind it draws of the weights.
        log_weights = lax.cond(t > 0, lambda: steps.log_weights[t - 1], lambda: initial.log_weights)
        proposed = draw_many(key_proposed, table(log_weights), (num_paths, num_moves))
        candidates = jnp.concatenate([steps.ancestors[t, index][:, None], proposed], axis=1)
        carry = lax.cond(
            t > 0,
            lambda: jax.tree.map(lambda leaf: leaf[t - 1, candidates], steps.carry),
            lambda: jax.tree.map(lambda leaf: leaf[candidates], initial.carry),
        )

        # Weigh: as the weights of the filter are proposed, they do not enter.
        evaluate = jax.vmap(jax.vmap(lambda c, v: dynamics.evaluate(c, x, v), in_axes=(0, None)))
        step = evaluate(carry, child)
        log_ratio = without_faults(step.log_transition + step.log_observation)
        for leaf in jax.tree.leaves(step.carry):
            log_ratio = jnp.where(jax.vmap(lambda own: equal_bits(own, np.int32(0)))(leaf), log_ratio, -jnp.inf)
        log_ratio = jnp.where(log_weights[candidates] > -jnp.inf, log_ratio, -jnp.inf)

        # Accept or reject, one move after the other.
        uniforms = jnp.log(jax.random.uniform(key_accepted, (num_moves, num_paths)))
        chosen, current = jnp.zeros(num_paths, np.int32), log_ratio[:, 0]
        for move in range(num_moves):
            accepted = uniforms[move] < log_ratio[:, move + 1] - current
            chosen = jnp.where(accepted, np.int32(move + 1), chosen)
            current = jnp.where(accepted, log_ratio[:, move + 1], current)
        parent = candidates[in_order, chosen]
        deterministics = {name: leaf[in_order, chosen] for name, leaf in step.deterministics.items()}
        return parent, ({**child, **deterministics}, jnp.mean(parent != candidates[:, 0], dtype=float))

    last = draw_many(key_last, table(steps.log_weights[-1]), (num_paths,))
    inputs = jnp.arange(count), _inputs(dynamics, history), jax.random.split(key_steps, count)
    first, (values, renewed) = lax.scan(back, last, inputs, reverse=True)
    paths = {name: jnp.swapaxes(leaf, 0, 1) for name, leaf in values.items()}
    return {**{name: leaf[first] for name, leaf in initial.values.items()}, **paths}, renewed


def _innovations(dynamics: Dynamics, values: Values) -> Values:
    return {site.name: values[site.name] for site in dynamics.innovations}


def _inputs(dynamics: Dynamics, history: History) -> Any:
    """Return the inputs of the steps that the history has."""
    count = len(history.steps.log_weights)
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, history.first, count), dynamics.xs)


def _whole_rows(cloud: tuple[Any, Array]) -> tuple[Any, Array]:
    """Fill the last row with copies of the last particle, without weight."""
    carry, log_weights = cloud
    n = len(log_weights)
    index = np.minimum(np.arange(n + -n % row_width(n)), n - 1)
    log_weights = jnp.pad(log_weights, (0, len(index) - n), constant_values=-jnp.inf)
    return jax.tree.map(lambda leaf: leaf[index], carry), log_weights
