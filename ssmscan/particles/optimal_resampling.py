r"""Many weighted particles made fewer without bias: equal ones merged, and the light ones of the others thinned.

**Merging.**  Particles with the same carry, bit by bit, have the same future: one of them gets their total weight.

**Thinning** (Fearnhead & Clifford 2003, *JRSS B* 65(4), section 3.2).  Of M > N particles with weights w, those with
:math:`w_i \ge \kappa` keep their weight; each other is kept with probability :math:`w_i / \kappa`, with weight
:math:`\kappa`, where

.. math::  \sum_i \min(w_i / \kappa, 1) = N .

Expected weights are those given, exactly N are left, none is there twice, and no unbiased scheme changes the weights
less in mean square.  What is kept is chosen by systematic points, as no light particle holds two of them.

Few particles are compared pair by pair, in a handful of operations of which each is one loop; many are sorted, by a
hash of the carry or by weight.  Two carries of one hash that are not equal are kept apart, or at worst keep equal ones
from being merged.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

PAIRWISE = 64
"""So many particles, or fewer, are compared pair by pair."""

WORDS = 8
"""Carries of more words than this are never compared pair by pair."""


class Thinned(NamedTuple):
    """Which of M particles fill N places.

    Attributes:
        source: (N,) int32, the particle of each place.
        filled: (N,) whether it has one.
        log_least: () log of the weight that the light ones among them get, -inf where all are kept.
    """

    source: Array
    filled: Array
    log_least: Array


def leaders(carry: Any, alive: Array) -> Array:
    """Return for each of M particles one that it is equal to, the same for all that are merged, (M,) int32.

    Args:
        carry: leaves (M, ...).
        alive: (M,) which of them have weight; the others are equal to nothing.
    """
    m = len(alive)
    bits = [_bits(leaf) for leaf in jax.tree.leaves(carry)]
    index = lax.iota(np.int32, m)
    if m <= PAIRWISE and sum(leaf.shape[1] for leaf in bits) <= WORDS:
        equal = alive[:, None] & alive[None, :]
        for leaf in bits:
            for word in leaf.T:
                equal &= word[:, None] == word[None, :]
        return jnp.min(jnp.where(equal, index[None, :], index[:, None]), axis=1)
    hashed = jnp.zeros(m, np.uint32)
    for leaf in bits:
        hashed = _mixed(hashed ^ _hash(leaf))
    # Those without weight come last, and begin a run each.
    _, _, order = lax.sort((~alive, hashed, index), num_keys=2)
    begins = ~alive[order]
    for leaf in bits:
        ordered = leaf[order]
        begins |= jnp.any(ordered != jnp.roll(ordered, 1, axis=0), axis=1)
    begins = begins.at[0].set(True)
    first = lax.cummax(jnp.where(begins, index, 0))
    return jnp.zeros(m, np.int32).at[order].set(order[first])


def _bits(leaf: Array) -> Array:
    """Return a leaf as words of 32 bits, (M, words)."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    leaf = lax.stop_gradient(leaf)
    if leaf.dtype == bool:
        leaf = leaf.astype(np.uint8)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    words = lax.bitcast_convert_type(leaf, f"uint{8 * min(leaf.dtype.itemsize, 4)}").astype(np.uint32)
    return words.reshape(len(leaf), math.prod(words.shape[1:]))


def _mixed(x: Array) -> Array:
    """Mix the bits of 32-bit words: the finaliser of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def _hash(words: Array) -> Array:
    """Hash rows of words, (M, words) -> (M,)."""
    places = np.arange(1, words.shape[1] + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
    return jnp.sum(_mixed(words + places), axis=1, dtype=np.uint32)


def merged(log_weights: Array, leader: Array) -> Array:
    """Return log weights (M,) in which each leader has the total of those that it leads, and the others none."""
    m = len(log_weights)
    index = lax.iota(np.int32, m)
    values = lax.stop_gradient(log_weights)
    if m <= PAIRWISE:
        led = leader[None, :] == leader[:, None]
        top = jnp.max(jnp.where(led, values[None, :], -jnp.inf), axis=1)
    else:
        top = jax.ops.segment_max(values, leader, m)[leader]
    top = jnp.where(top > -jnp.inf, top, 0)
    scaled = jnp.exp(log_weights - top)
    if m <= PAIRWISE:
        total = jnp.sum(jnp.where(led, scaled[None, :], 0), axis=1)
    else:
        total = jax.ops.segment_sum(scaled, leader, m)[leader]
    has = (leader == index) & (values > -jnp.inf)
    return jnp.where(has, top + jnp.log(jnp.where(has, total, 1)), -jnp.inf)


def thinned(uniform: Array, log_weights: Array, n: int) -> Thinned:
    """Choose n of M particles, all that have weight where they are no more.

    Args:
        uniform: () that the points are moved by.
        log_weights: (M,) normalised.
        n: number of places.
    """
    log_weights = lax.stop_gradient(log_weights)
    index = lax.iota(np.int32, len(log_weights))
    if len(log_weights) <= PAIRWISE:
        order, w = index, jnp.exp(log_weights)
        before = (w[None, :] > w[:, None]) | ((w[None, :] == w[:, None]) & (index[None, :] < index[:, None]))
        rank = jnp.sum(before, axis=1, dtype=np.int32)
        tail = jnp.sum(jnp.where(before, 0, w[None, :]), axis=1)
    else:
        descending, order = lax.sort((-log_weights, index), num_keys=1)
        w, rank = jnp.exp(-descending), index
        tail = _up_to(w[::-1])[::-1]
    # The first, from the heaviest on, that is light among those that are not heavier.
    places = n - rank
    num_whole = jnp.min(jnp.where((places > 0) & (w * places.astype(w.dtype) <= tail), rank, n - 1))
    num_light = (n - num_whole).astype(w.dtype)
    least = jnp.sum(jnp.where(rank == num_whole, tail, 0)) / num_light
    reached = _up_to(jnp.where(rank < num_whole, 0, w)) / jnp.where(least > 0, least, 1)
    points = jnp.ceil(jnp.minimum(reached, num_light) - uniform)
    chosen = (rank < num_whole) | (points > jnp.concatenate([jnp.zeros(1, points.dtype), points[:-1]]))
    alive = log_weights[order] > -jnp.inf
    enough = jnp.sum(alive, dtype=np.int32) <= n
    chosen = jnp.where(enough, alive, chosen)
    place = _up_to(chosen.astype(np.int32))
    source = jnp.zeros(n, np.int32).at[jnp.where(chosen, place - 1, n)].set(order, mode="drop")
    return Thinned(source, lax.iota(np.int32, n) < place[-1], jnp.where(enough, -jnp.inf, jnp.log(least)))


def _up_to(x: Array) -> Array:
    """Return cumulative sums, each including its own entry."""
    if len(x) > PAIRWISE:
        return jnp.cumsum(x)
    index = lax.iota(np.int32, len(x))
    return jnp.sum(jnp.where(index[None, :] <= index[:, None], x[None, :], 0), axis=1, dtype=x.dtype)
