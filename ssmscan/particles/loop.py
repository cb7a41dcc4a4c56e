r"""A loop whose gradient remembers little.

The backward pass of a scan needs the state before every step.  Cut into about :math:`\sqrt T` chunks of about
:math:`\sqrt T` steps, it keeps the states between chunks and, of the chunk it is in, those between steps:
:math:`O(\sqrt T)` states instead of T, for a third forward run (Griewank & Walther 2008, *Evaluating Derivatives*,
chapter 12, the scheme of two levels).  Intermediate arrays of a step are computed again and never kept.

Without a derivative it is `lax.scan`, and compiled as that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

SHORT = 200
"""So many steps or fewer are one chunk."""


def scan_remembering_little(step: Callable, carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
    """Scan; arguments and results as of `lax.scan`.

    Args:
        step: (carry, x) -> carry, y; it may close over traced arrays.
        carry: first carry.
        xs: inputs, leaves with length in front.
        length: number of steps, at least 1.
    """
    # A rule for derivatives must see every array it is about as an argument.
    closed, arrays = jax.closure_convert(step, carry, jax.tree.map(lambda leaf: leaf[0], xs))

    @jax.custom_jvp
    def loop(arrays: list, carry: Any, xs: Any) -> tuple[Any, Any]:
        return lax.scan(lambda carry, x: closed(carry, x, *arrays), carry, xs, length)

    def derivative(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(primals)
        directions = jax.tree.leaves(tangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
        # What has no tangent keeps none: some functions have no derivative in some of their arguments.
        moving = [i for i, d in enumerate(directions) if not isinstance(d, SymbolicZero)]

        def chunked(*values: Any) -> tuple[Any, Any]:
            placed = dict(zip(moving, values))
            arrays, carry, xs = jax.tree.unflatten(tree, [placed.get(i, leaf) for i, leaf in enumerate(leaves)])
            return _chunked(lambda carry, x: closed(carry, x, *arrays), carry, xs, length)

        return jax.jvp(chunked, [leaves[i] for i in moving], [directions[i] for i in moving])

    loop.defjvp(derivative, symbolic_zeros=True)
    return loop(arrays, carry, xs)


def _chunked(step: Callable, carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
    """Scan over chunks; what is left over is a chunk of its own."""
    # Inside a scan nothing is there to be merged with what is computed again.
    step = jax.checkpoint(step, prevent_cse=False)
    size = chunk_size(length)
    if size == length:
        return lax.scan(step, carry, xs, length)
    count = length // size
    main = jax.tree.map(lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), xs)
    rest = jax.tree.map(lambda leaf: leaf[count * size :], xs)

    def chunk(carry: Any, xs: Any) -> tuple[Any, Any]:
        return lax.scan(step, carry, xs, size)

    carry, ys = lax.scan(jax.checkpoint(chunk, prevent_cse=False), carry, main, count)
    ys = jax.tree.map(lambda leaf: leaf.reshape(count * size, *leaf.shape[2:]), ys)
    if count * size == length:
        return carry, ys
    carry, more = lax.scan(step, carry, rest, length - count * size)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, more)


def chunk_size(length: int) -> int:
    """Steps in a chunk: near the root of the length, a divisor where there is one, since a rest is compiled apart."""
    if length <= SHORT:
        return length
    root = math.isqrt(length)
    near = [size for size in range(root // 2 + 1, 2 * root) if length % size == 0]
    return min(near, key=lambda size: abs(math.log(size / root)), default=root)
