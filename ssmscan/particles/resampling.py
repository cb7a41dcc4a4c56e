r"""Resampling: ancestors in place of weights.

A scheme places n ordered points in the unit interval; particle i gets as many offspring as points
fall below its cumulative weight :math:`C_i = W_1 + ... + W_i` and not below :math:`C_{i-1}`
(Chopin & Papaspiliopoulos 2020, chapter 9, algorithms 9.1 to 9.3).  All three schemes are unbiased,
:math:`E[\text{offspring of } i] = n W_i`.

* `systematic`: points (k + u)/n with one u.  Least noise and cost; the default.
* `stratified`: points (k + u_k)/n, a u for each k.  Nearly as good, and easier to analyse.
* `multinomial`: n independent uniforms, ordered.  The noisiest; some theory and conditional SMC want it.

No point is searched for: the number of points (k + u)/n below :math:`C_i` is
:math:`\lceil n C_i - u \rceil`.  These *ends*, one per particle, become ancestors by counting at
each slot how many ends do not exceed it.  Ancestors come sorted, which makes gathers cheap.

Positions :math:`n C_i` are held as a whole part and a fraction, since float32 alone has spacing
0.06 at 1e6 and misplaces ancestors.  Cumulative sums run along rows of 16 particles as one matrix
product, then over the row totals.  The ends are monotone, the last particle with weight ends at n,
and a particle without weight ends exactly where its predecessor does, so it is never chosen,
wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

T = TypeVar("T")

_ROW = 16  # XLA's matrix product is fastest here: 1 ns a particle, 3 to 5 with rows of 32 or more
_WHOLE_IN_FLOAT32 = 2**24  # whole numbers below are exact


class Resampling(Protocol):
    """A scheme: ancestors of n new particles, sorted, int32, from (N,) log weights."""

    def __call__(self, key: Array, log_weights: Array, n: int) -> Array:
        """Draw (n,) ancestors in [0, N); log weights need not be normalised, -inf is weight zero."""


def systematic(key: Array, log_weights: Array, n: int) -> Array:
    """Resample at the points (k + u)/n with one uniform u; arguments as in `Resampling`."""
    u = jax.random.uniform(key, ())

    def count(whole: Array, position: Array) -> Array:
        return whole + jnp.ceil(position).astype(np.int32)

    return _ancestors(_ends(log_weights, n, count, -u), n)


def stratified(key: Array, log_weights: Array, n: int) -> Array:
    """Resample at the points (k + u_k)/n with n independent uniforms; arguments as in `Resampling`."""
    u = jax.random.uniform(key, (n,))

    def count(whole: Array, position: Array) -> Array:
        stratum, fraction = _carry(whole, position)
        return stratum + (fraction > u[jnp.minimum(stratum, n - 1)]).astype(np.int32)

    return _ancestors(_ends(log_weights, n, count), n)


def multinomial(key: Array, log_weights: Array, n: int) -> Array:
    """Resample at n ordered independent uniforms; arguments as in `Resampling`.

    The uniforms are normalised cumulative sums of n + 1 exponentials (Chopin & Papaspiliopoulos
    2020, proposition 9.1).
    """
    local = _cumulate_rows(jax.random.exponential(key, (n + 1,)))
    whole, fraction, scale = _apart(lambda totals: _over_rows(totals, n), local[:, -1])
    stratum, fraction = _carry(whole[:-1, None], local * scale + fraction[:-1, None])
    points = stratum.reshape(-1)[:n], fraction.reshape(-1)[:n]

    def count(whole: Array, position: Array) -> Array:
        return _count_below(points, _carry(whole, position))

    return _ancestors(_ends(log_weights, n, count), n)


def _ends(log_weights: Array, n: int, count: Callable[[Array, Array], Array], offset: Array | float = 0.0) -> Array:
    """Number, for each particle, of the points below its cumulative weight: monotone, (N,) int32.

    Args:
        log_weights: (N,).
        count: number of points below the position whole + fraction, in units of 1/n; whole is
            int32, the fraction is small but may exceed one; broadcasts.
        offset: added to all positions.
    """
    log_weights = lax.stop_gradient(log_weights)
    shift = jnp.max(log_weights)
    local = _cumulate_rows(jnp.exp(log_weights - jnp.where(shift > -jnp.inf, shift, 0)))

    def bounds(totals: Array) -> tuple[Array, ...]:
        whole, fraction, scale = _over_rows(totals, n)
        fraction = fraction + offset
        index = lax.iota(np.int32, len(totals))
        last = jnp.max(jnp.where(totals > 0, index, 0))
        ends = lax.cummax(jnp.where(totals > 0, jnp.clip(count(whole[1:], fraction[1:]), 0, n), 0))
        ends = _after_zero(jnp.where(index >= last, n, ends))
        return whole[:-1], fraction[:-1], scale, ends[:-1], ends[1:]

    whole, fraction, scale, start, stop = _apart(bounds, local[:, -1])
    ends = count(whole[:, None], local * scale + fraction[:, None])
    ends = jnp.clip(ends, start[:, None], stop[:, None])
    # Rounding must not move an end between particles with weight: no weight, no offspring.
    ends = jnp.where(local > 0, ends, start[:, None])
    ends = jnp.where(local >= local[:, -1:], stop[:, None], ends)
    return ends.reshape(-1)[: len(log_weights)]


def _over_rows(totals: Array, n: int) -> tuple[Array, Array, Array]:
    """Cumulate row totals, scaled to sum to n, in two parts.

    Returns:
        whole (R + 1,) int32 and fraction (R + 1,) in [0, 1): what has been reached before each row
        and after the last; the scale ().
    """
    scale = n / jnp.sum(totals)
    scaled = totals * scale
    whole = jnp.floor(scaled)
    fraction = scaled - whole
    # The scale is rounded: what the scaled totals sum to beyond n is taken back.
    excess = (jnp.sum(whole) - n) + jnp.sum(fraction)
    fraction = fraction - scaled * (excess / n)
    whole, fraction = _carry(_cumulate_whole(whole, n), _cumulate(fraction))
    return _after_zero(whole), _after_zero(fraction), scale


def _carry(whole: Array, position: Array) -> tuple[Array, Array]:
    """Move the whole part of a position over: the fraction is in [0, 1)."""
    excess = jnp.floor(position)
    return whole + excess.astype(np.int32), position - excess


def _cumulate_rows(x: Array) -> Array:
    """Cumulative sums inside rows: (n,) to (ceil(n / 16), 16), zeros behind the end."""
    rows = jnp.pad(x, (0, -len(x) % _ROW)).reshape(-1, _ROW)
    triangle = jnp.asarray(np.triu(np.ones((_ROW, _ROW))), x.dtype)
    return jnp.dot(rows, triangle, precision=lax.Precision.HIGHEST)


def _cumulate(x: Array) -> Array:
    """Cumulative sum by rows of rows; exact for whole numbers below 2^24."""
    local = _cumulate_rows(x)
    if len(local) > 1:
        local = local + _after_zero(_cumulate(local[:, -1]))[:-1, None]
    return local.reshape(-1)[: len(x)]


def _cumulate_whole(x: Array, largest: int) -> Array:
    """Cumulative sum, in int32, of whole numbers that sum to at most `largest`."""
    if largest < _WHOLE_IN_FLOAT32:
        return _cumulate(x).astype(np.int32)
    return jnp.cumsum(x.astype(np.int32))


def _after_zero(x: Array) -> Array:
    """Put a zero in front."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x])


def _apart(compute: Callable[[Array], T], totals: Array) -> T:
    """Compute from row totals, once, before the loop over particles that reads the result.

    On a CPU, XLA fuses what is computed per row into that loop and repeats it for every particle,
    at twice the cost of resampling.  A conditional is the only boundary its fusion respects.  It
    asks whether there is any weight; without any, the result is zero.
    """

    def conditional(totals: Array) -> T:
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(compute, totals))
        return lax.cond(jnp.sum(totals) > 0, compute, lambda _: nothing, totals)

    return lax.platform_dependent(totals, cpu=conditional, default=compute)


def _count_below(points: tuple[Array, Array], position: tuple[Array, Array]) -> Array:
    """Count the ordered points (whole, fraction) below each position, by bisection."""
    (n,) = points[0].shape

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = jnp.minimum((low + high) // 2, n - 1)
        whole, fraction = points[0][middle], points[1][middle]
        below = (whole < position[0]) | ((whole == position[0]) & (fraction < position[1]))
        searching = low < high
        return jnp.where(searching & below, middle + 1, low), jnp.where(searching & ~below, middle, high)

    start = jnp.zeros_like(position[0]), jnp.full_like(position[0], n)
    return lax.fori_loop(0, n.bit_length(), halve, start)[0]


def _ancestors(ends: Array, n: int) -> Array:
    """Turn ends (N,) into ancestors: slot k belongs to the first particle that ends beyond k."""

    def by_counting(ends: Array) -> Array:
        counts = jnp.zeros(n, np.float32).at[ends].add(np.float32(1), mode="drop", indices_are_sorted=True)
        local = _cumulate_rows(counts)
        total = len(ends)
        before = _apart(lambda totals: _after_zero(_cumulate_whole(totals, total)), local[:, -1])
        return (local.astype(np.int32) + before[:-1, None]).reshape(-1)[:n]

    def by_marking(ends: Array) -> Array:
        start = _after_zero(ends)[:-1]
        slot = jnp.where(ends > start, start, n)
        index = lax.iota(np.int32, len(ends))
        return lax.cummax(jnp.zeros(n, np.int32).at[slot].set(index, mode="drop"))

    # Scatter-add of floats is slow on a GPU, and a running maximum is slow on a CPU.
    ancestors = lax.platform_dependent(ends, cpu=by_counting, default=by_marking)
    return jnp.minimum(ancestors, len(ends) - 1)
