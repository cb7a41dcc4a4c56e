r"""A loop whose gradient remembers little.

The backward pass of a scan needs the state before every step.  Cut into about :math:`\sqrt T` chunks of about
:math:`\sqrt T` steps, it keeps the states between chunks and, of the chunk it is in, those between steps:
:math:`O(\sqrt T)` states instead of T, for a third forward run (Griewank & Walther 2008, *Evaluating Derivatives*,
chapter 12, the scheme of two levels).  Intermediate arrays of a step are computed again and never kept.

Without a derivative it is `lax.scan`, and compiled as that.  Derivatives are reverse-mode only.

Under vmap a CPU takes one loop after the other: together, a decision such as to resample becomes the work of both
ways for all, and what is computed once for a cloud is fused into the loop over its particles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.dtypes import float0
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from ssmscan.model.time_loops import on_cpu

SHORT = 200
"""So many steps or fewer are one chunk."""

_KEPT = "kept for the backward pass"


def keep_for_gradient(x: Any) -> Any:
    """Mark arrays of a step that the backward pass of a chunk should rather keep than compute again."""
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, _KEPT), x)


def scan_remembering_little(step: Callable, carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
    """Scan; arguments and results as of `lax.scan`.

    Args:
        step: (carry, x) -> carry, y; it may close over traced arrays.
        carry: first carry.
        xs: inputs, leaves with length in front.
        length: number of steps, at least 1.
    """
    written, shapes = jax.make_jaxpr(step, return_shape=True)(carry, jax.tree.map(lambda leaf: leaf[0], xs))

    first, tree = jax.tree.flatten(carry)
    source = _sources(written.jaxpr, len(first))
    kept = sorted(set(source))

    def restore(leaves: list) -> list:
        return [leaves[kept.index(i)] for i in source]

    # A rule for derivatives runs when the caller's trace is over: it must see every array as an argument.
    def step_of(arrays: list) -> Callable:
        run = jaxpr_as_fun(ClosedJaxpr(written.jaxpr, arrays))

        def short(leaves: list, x: Any) -> tuple[list, Any]:
            out = run(*restore(leaves), *jax.tree.leaves(x))
            return [out[i] for i in kept], jax.tree.unflatten(jax.tree.structure(shapes[1]), out[len(first) :])

        return short

    @jax.custom_vjp
    @one_after_the_other
    def loop(arrays: list, carry: Any, xs: Any) -> tuple[Any, Any]:
        return lax.scan(step_of(arrays), carry, xs, length)

    def forward(*arguments: Any) -> tuple[Any, tuple]:
        primals, tree = jax.tree.flatten(arguments, is_leaf=lambda leaf: isinstance(leaf, CustomVJPPrimal))
        # What is not differentiated must not be: some functions have no derivative in some of their arguments.
        moving = tuple(i for i, primal in enumerate(primals) if primal.perturbed)

        def chunked(*values: Array) -> tuple[Any, Any]:
            placed = dict(zip(moving, values))
            leaves = [placed.get(i, primal.value) for i, primal in enumerate(primals)]
            arrays, carry, xs = jax.tree.unflatten(tree, leaves)
            return _chunked(step_of(arrays), carry, xs, length)

        out, pullback = jax.vjp(chunked, *(primals[i].value for i in moving))
        return _in_front(out), (pullback, _Arguments(tree, moving))

    def backward(residuals: tuple, cotangents: Any) -> Any:
        pullback, arguments = residuals
        whole = jax.tree.map(_instantiate, cotangents, is_leaf=_is_symbolic)
        found = dict(zip(arguments.moving, pullback(whole)))
        return jax.tree.unflatten(arguments.tree, [found.get(i) for i in range(arguments.tree.num_leaves)])

    loop.defvjp(forward, backward, symbolic_zeros=True)
    leaves, ys = loop(written.consts, [first[i] for i in kept], xs)
    return jax.tree.unflatten(tree, restore(leaves)), ys


def _sources(jaxpr: Any, size: int) -> list[int]:
    """For each leaf of the carry, which one stands for it: another if no step reads it and every step makes both equal.

    XLA would copy it at every step.
    """
    read = {id(variable) for variables in (jaxpr.outvars, *(e.invars for e in jaxpr.eqns)) for variable in variables}
    made = [id(variable) for variable in jaxpr.outvars[:size]]
    unread = [id(variable) not in read for variable in jaxpr.invars[:size]]
    return [
        next((j for j in range(size) if made[j] == made[i] and not unread[j]), i) if unread[i] else i
        for i in range(size)
    ]


def filters_at_once() -> int | None:
    """Return the number of filters to vmap where many are wanted, for `lax.map`: on a CPU one by one."""
    return None if on_cpu() else 8


def each(function: Callable, xs: Any) -> Any:
    """Apply to every replicate; on a CPU to one after the other."""
    return lax.map(function, xs) if on_cpu() else jax.vmap(function)(xs)


def one_after_the_other(function: Callable) -> Callable:
    """Make a function of arrays that vmap, on a CPU, applies to one replicate after the other.

    It may close over no traced array, and has no derivative of its own.
    """
    alone = custom_vmap(function)

    @alone.def_vmap
    def every(size: int, batched: Any, *arguments: Any) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(arguments)
        moving = [i for i, is_batched in enumerate(jax.tree.leaves(batched)) if is_batched]
        # One by one, an outer vmap must find this rule again; together, this vmap must not.
        inner = alone if on_cpu() else function

        def one(values: list[Array]) -> Any:
            placed = dict(zip(moving, values))
            return inner(*jax.tree.unflatten(tree, [placed.get(i, leaf) for i, leaf in enumerate(leaves)]))

        out = each(one, [leaves[i] for i in moving])
        return out, jax.tree.map(lambda _: True, out)

    return alone


@custom_vmap
def _in_front(out: Any) -> Any:
    """Return the argument; under vmap with the replicates in front of every leaf, where JAX takes them to be because
    `one_after_the_other` puts them there.
    """
    return out


@_in_front.def_vmap
def _(size: int, batched: Any, out: Any) -> tuple[Any, Any]:
    def spread(leaf: Array, is_batched: bool) -> Array:
        return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

    return jax.tree.map(spread, out, batched[0]), jax.tree.map(lambda _: True, out)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Arguments:
    """The arguments of a loop: their structure, and which leaves are differentiated."""

    tree: Any
    moving: tuple[int, ...]


def _is_symbolic(leaf: Any) -> bool:
    return isinstance(leaf, SymbolicZero)


def _instantiate(leaf: Any) -> Any:
    """Make a cotangent an array; that of an integer has no type of its own."""
    if not _is_symbolic(leaf):
        return leaf
    zeros = np.zeros if leaf.dtype == float0 else jnp.zeros
    return zeros(leaf.shape, leaf.dtype)


def _chunked(step: Callable, carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
    """Scan over chunks; what is left over is a chunk of its own."""
    # Inside a scan nothing is there to be merged with what is computed again.
    step = jax.checkpoint(step, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(_KEPT))
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
