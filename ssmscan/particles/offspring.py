r"""Numbers of ordered points below cumulative weights: what every resampling scheme counts, on a CPU and on a GPU.

No point is searched for.  Points k + u in units of 1/n are counted below the positions :math:`n C_i`; these *ends*,
one per particle, become ancestors by counting at each slot how many ends do not exceed it.  Ancestors come sorted,
which makes gathers cheap.

Positions :math:`n C_i` are held as a whole part and a fraction, since float32 alone has spacing
0.06 at 1e6 and misplaces ancestors.  Cumulative sums run along rows of 16 particles as one matrix
product, then over the row totals, and so on up.  The ends are monotone, the last particle with weight ends at n,
and a particle without weight ends exactly where its predecessor does, so it is never chosen,
wherever it stands.

What a CPU and a GPU do in different ways is behind `lax.platform_dependent`, in `ancestors_of` and `_unfused`.  A
kernel written for one of them goes there, and must give the same ancestors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

T = TypeVar("T")
Count = Callable[[Array, Array], Array]
"""Number of points below the position whole + fraction, int32, in units of 1/n; both broadcast."""

ROW = 16  # XLA's matrix product is fastest here: 1 ns a particle, 3 to 5 with rows of 32 or more
_LONG_ROW = 64  # of row totals, of which there are few: fewer levels are fewer kernels to compile and to start
_TOP = 128  # largest number of groups that are summed at once


class GroupStarts(NamedTuple):
    """Where each of some groups of particles begins, in units of 1/n.

    Attributes:
        whole: (G,) int32, and fraction: (G,) of either sign: position, their sum.
        start: (G,) number of points below it: monotone, from 0.
        stop: (G,) the same of the next group; of the last one with weight, and of those after it, n.
    """

    whole: Array
    fraction: Array
    start: Array
    stop: Array


def ends_of(weights: Array, n: int, count: Count) -> Array:
    """Number, for each particle, of the points below its cumulative weight: monotone, (N,) int32."""
    local = cumulate_rows(lax.stop_gradient(weights), ROW)
    before = row_starts(local, n, count)
    ends = count(before.whole[:, None], local * n + before.fraction[:, None])
    return _confine(ends, local > 0, local >= local[:, -1:], before)[: len(weights)]


def _confine(ends: Array, some: Array, all_: Array, before: GroupStarts) -> Array:
    """Keep the ends of the members of each group inside the group; (G, L) to (G * L,).

    Rounding must not move an end between members with weight: no weight, no offspring.

    Args:
        ends: (G, L) as computed.
        some, all_: (G, L) whether some of the group's weight, or all of it, is in this member and those before.
        before: of the groups.
    """
    start, stop = before.start[:, None], before.stop[:, None]
    ends = jnp.where(some, jnp.clip(ends, start, stop), start)
    return jnp.where(all_, stop, ends).reshape(-1)


def row_starts(local: Array, n: int, count: Count) -> GroupStarts:
    """Return where rows of particles begin, from cumulative weights inside them."""

    def compute(local: Array) -> GroupStarts:
        position = local[:, -1] * n
        return _group_starts(*carry_over(jnp.zeros(position.shape, _counting_dtype(n, position)), position), n, count)

    return _unfused(compute, local)


def _group_starts(whole: Array, fraction: Array, n: int, count: Count) -> GroupStarts:
    """Return where groups begin that are whole + fraction (G,) long; together they are n long, up to rounding."""
    if len(whole) <= _TOP:
        return _few_group_starts(whole, fraction, n, count)
    groups = len(whole)
    whole, fraction = cumulate_rows(whole, _LONG_ROW), cumulate_rows(fraction, _LONG_ROW)
    first = _group_starts(*carry_over(whole[:, -1], fraction[:, -1]), n, count)
    some, all_ = (whole > 0) | (fraction > 0), (whole >= whole[:, -1:]) & (fraction >= fraction[:, -1:])
    reached = first.whole[:, None] + whole.astype(np.int32), first.fraction[:, None] + fraction
    stop = _confine(count(*reached), some, all_, first)[:groups]
    whole, fraction, start = (_prepend_zero(x.reshape(-1)[: groups - 1]) for x in (*reached, stop))
    return GroupStarts(whole, fraction, start, stop)


def _few_group_starts(whole: Array, fraction: Array, n: int, count: Count) -> GroupStarts:
    """Return where a few groups begin; here rounding is corrected, and ends are made monotone."""
    some, index = (whole > 0) | (fraction > 0), lax.iota(np.int32, len(whole))
    whole, fraction = (cumulate_rows(x, len(x))[0] for x in (whole, fraction))
    # Weights and sums are rounded: what they reach beyond n is taken back, from each group its share.
    excess = (whole[-1] - n).astype(fraction.dtype) + fraction[-1]
    reached = whole.astype(np.int32), fraction - (whole.astype(fraction.dtype) + fraction) * (excess / n)
    ends = jnp.where(some, jnp.clip(count(*reached), 0, n), 0)
    ends = jnp.where((whole >= whole[-1]) & (fraction >= fraction[-1]), n, ends)
    stop = jnp.max(jnp.where(index[:, None] >= index[None, :], ends[None, :], 0), axis=1)
    whole, fraction, start = (_prepend_zero(x[:-1]) for x in (*reached, stop))
    return GroupStarts(whole, fraction, start, stop)


def _counting_dtype(largest: int, like: Array) -> np.dtype:
    """Choose a dtype that counts to `largest`: floats are summed faster."""
    return np.dtype(np.int32) if largest >= 2 ** (jnp.finfo(like.dtype).nmant + 1) else like.dtype


def carry_over(whole: Array, position: Array) -> tuple[Array, Array]:
    """Move the whole part of a position into `whole`, so that the fraction is in [0, 1)."""
    excess = jnp.floor(position)
    return whole + excess.astype(whole.dtype), position - excess


def cumulate_rows(x: Array, length: int) -> Array:
    """Return cumulative sums inside rows: (n,) to (ceil(n / length), length), zeros behind the end."""
    rows = jnp.pad(x, (0, -len(x) % length)).reshape(-1, length)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return jnp.cumsum(rows, axis=1, dtype=x.dtype)
    triangle = jnp.asarray(np.triu(np.ones((length, length))), x.dtype)
    return jnp.dot(rows, triangle, precision=lax.Precision.HIGHEST)


def _cumulate(x: Array) -> Array:
    """Return the cumulative sum, by rows of rows."""
    if len(x) <= _TOP:
        return cumulate_rows(x, len(x)).reshape(-1)
    local = cumulate_rows(x, _LONG_ROW)
    local = local + _prepend_zero(_cumulate(local[:, -1])[:-1])[:, None]
    return local.reshape(-1)[: len(x)]


def _prepend_zero(x: Array) -> Array:
    """Return the array with a zero before its first entry."""
    return jnp.pad(x, (1, 0))


def _unfused(compute: Callable[[Array], T], local: Array) -> T:
    """Compute from the totals of rows once, not fused into the loop over particles that reads the result.

    On a CPU, XLA fuses what is computed per row into that loop and repeats it for every particle,
    at twice the cost of resampling.  A conditional is the only boundary its fusion respects.  It
    asks what XLA cannot know to be always true: that a sum of weights is not NaN.
    """

    def conditional(local: Array) -> T:
        result = jax.eval_shape(compute, local)

        def never(_: Array) -> T:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), result)

        return lax.cond(local[-1, -1] >= 0, compute, never, local)

    return lax.platform_dependent(local, cpu=conditional, default=compute)


def count_below(points: tuple[Array, Array], position: tuple[Array, Array]) -> Array:
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


def ancestors_of(ends: Array, n: int) -> Array:
    """Turn ends (N,) into ancestors: slot k belongs to the first particle that ends beyond k."""

    def by_counting(ends: Array) -> Array:
        counts = jnp.zeros(n, _counting_dtype(len(ends), jnp.zeros((), np.float32)))
        counts = counts.at[ends].add(counts.dtype.type(1), mode="drop", indices_are_sorted=True)
        local = cumulate_rows(counts, ROW)
        before = _unfused(lambda local: _prepend_zero(_cumulate(local[:, -1])[:-1]).astype(np.int32), local)
        return (local.astype(np.int32) + before[:, None]).reshape(-1)[:n]

    def by_marking(ends: Array) -> Array:
        start = _prepend_zero(ends)[:-1]
        slot = jnp.where(ends > start, start, n)
        index = lax.iota(np.int32, len(ends))
        return lax.cummax(jnp.zeros(n, np.int32).at[slot].set(index, mode="drop"))

    # Scatter-add of floats is slow on a GPU, and a running maximum is slow on a CPU.
    ancestors = lax.platform_dependent(ends, cpu=by_counting, default=by_marking)
    return jnp.minimum(ancestors, len(ends) - 1)
