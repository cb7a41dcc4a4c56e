r"""Paths of the state from a stored filter run.

`trace_ancestry` follows the parents of particles drawn with the final weights.  Each path is a draw
that leaves pseudo-marginal samplers exact, and costs O(T), but paths share their early states.

`backward_sample` draws each state anew, from the last step to the first (Godsill, Doucet & West
2004; Chopin & Papaspiliopoulos 2020, algorithm 12.2).  Given the step t + 1 of a path, with
innovations v and carry c', particle i of step t is chosen with probability proportional to

.. math::  W_t^i \; p(v | c_t^i) \; p(y_{t+1} | c_t^i, v) \; 1[h(c_t^i, v) = c'],

h the model's step: O(N) per state and exact for *any* carry.  Where the carry remembers more than
its innovations (a level that accumulates, say) only parents that lead to the same carry qualify,
in the extreme only the true one, and the path is the ancestral one; where it does not, paths are
nearly independent draws from the smoothing distribution.  Equality is bitwise on every leaf, among
carries computed side by side by the same code: that of the true parent is the one to match.

An index is drawn by inverse CDF in two stages, each with a uniform of its own: the row, of about
:math:`\sqrt N` particles, by the rows' weights, then the particle in it.  Nothing is cumulated over all
particles, and one exponential for each is most of the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.arguments import require_instance, require_integer
from ssmscan.model.keys import loop_keys
from ssmscan.model.protocols import Dynamics, Model, Panel, Theta
from ssmscan.model.statespace.element_dynamics import join_values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_traced
from ssmscan.particles.clouds import History, Tree
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.offspring import cumulate_rows
from ssmscan.particles.panels import each_element, each_filter
from ssmscan.particles.weights import without_faults

Paths = dict[str, Array]


def trace_ancestry(key: Array, result: FilterResult, *, num_paths: int) -> Paths:
    """Draw particles with the final weights, and return their ancestral paths.

    Args:
        key: one PRNG key.
        result: of a filter with `store=Ancestry()`, `FullHistory()`, or `LastSteps(k)`: the same paths.
        num_paths: number of paths, drawn independently.

    Returns:
        By site of the loop (num_paths, T, ...), by initial site (num_paths, ...); of the last k steps alone, without
        initial sites, where no more were stored.  Under jit or vmap, the paths of a tree that is incomplete are NaN,
        integers the smallest there are.

    Raises:
        ValueError: if the run stored no history, or had too little room for it.
    """
    key, num_paths = as_key(key), require_integer("num_paths", num_paths, at_least=1)
    _refuse_other(result)
    paths: Paths = {}
    for own, loop in zip(loop_keys(key, len(result.loops)), result.loops):
        kept = _kept(loop)
        if isinstance(kept, Tree) and not isinstance(kept.lost, jax.core.Tracer) and np.any(np.asarray(kept.lost) >= 0):
            raise ValueError(
                f"result: the ancestral paths are incomplete: at step {int(kept.lost.max())} there was no room for all "
                "of their nodes. Run again with a larger Ancestry(room=...); or with FullHistory(), where all always "
                "fits."
            )
        paths |= _ancestral(own, kept, panel=loop.panel, num_paths=num_paths)
    return paths


def backward_sample(
    key: Array, ssm: StateSpaceModel, theta: Mapping[str, Any], result: FilterResult, *, num_paths: int
) -> Paths:
    """Draw paths from the smoothing distribution, p(states | all data).

    Args:
        key: one PRNG key.
        ssm: the model that was filtered.
        theta: the parameters it was filtered at.
        result: of a filter with `store=FullHistory()` or `LastSteps(k)`.
        num_paths: number of paths; time and working memory are num_paths * N per step.

    Returns:
        By site of the loop (num_paths, T, ...), by initial site (num_paths, ...); of the last k steps alone, without
        initial sites, where no more were stored.

    Raises:
        ValueError: if the run stored no clouds, or theta is not valid.
    """
    key, num_paths = as_key(key), require_integer("num_paths", num_paths, at_least=1)
    require_traced(ssm)
    _refuse_other(result, ssm)
    theta = ssm.canonical(theta)
    paths: Paths = {}
    for own, model, loop in zip(loop_keys(key, len(result.loops)), ssm.loops, result.loops):
        kept = _kept(loop)
        if isinstance(kept, Tree):
            raise ValueError(
                "result: the filter stored ancestors alone, and backward sampling needs whole clouds; run "
                "ParticleFilter(..., store=FullHistory()), or LastSteps(k) for the last k steps, or use trace_ancestry."
            )
        paths |= _backward(own, model, theta, kept, num_paths=num_paths)
    return paths


def _refuse_other(result: Any, ssm: StateSpaceModel | None = None) -> None:
    """Raise unless this is the result of one run, and of a model where it is given."""
    advice = "States of a sampler are in the `states` of its Result."
    require_instance("result", result, FilterResult, "what ParticleFilter.run returned", advice)
    if np.ndim(result.status):
        raise ValueError(
            f"result: expected one run, got {np.shape(result.status)} of them; call this under jax.vmap, or choose one "
            "by jax.tree.map(lambda x: x[0], result)."
        )
    if ssm is None:
        return
    if len(result.loops) != len(ssm.loops):
        raise ValueError(f"result: expected {len(ssm.loops)} filters, one a loop of ssm, got {len(result.loops)}.")
    for loop, model in zip(result.loops, ssm.loops):
        if isinstance(loop.history, History):
            needed, held = sorted(site.name for site in model.innovations), sorted(loop.history.steps.values)
            if not set(needed) <= set(held):
                raise ValueError(f"result: expected states {needed}, as ssm has, got {held}; give the filtered model.")


def _kept(result: FilterResult) -> History | Tree:
    if result.history is None:
        raise ValueError(
            "result: the filter stored no history; run ParticleFilter(..., store=FullHistory()) to draw paths, or with "
            "store=Ancestry() to trace ancestry in less memory."
        )
    return result.history


def _take(cloud: Any, index: Array) -> Any:
    """Select one particle of every leaf."""
    return jax.tree.map(partial(lax.dynamic_index_in_dim, index=index, keepdims=False), cloud)


def _draw(uniforms: Array, log_weights: Array, otherwise: Array | int = 0) -> Array:
    """Draw one index with the given weights, which need not be normalised.

    Args:
        uniforms: (2,) one for the row, one for the place in it.
        log_weights: (N,); what is not below +inf counts as no weight.
        otherwise: index to give where nothing has weight.

    Returns:
        () int32, never an index without weight.
    """
    width = _row_width(len(log_weights))
    clean = without_faults(log_weights)
    clean = jnp.pad(clean, (0, -len(clean) % width), constant_values=-jnp.inf).reshape(-1, width)
    shift = jnp.max(clean)
    alive = shift > -jnp.inf
    shift = jnp.where(alive, shift, 0)
    totals = jnp.dot(jnp.exp(clean - shift), jnp.ones(width, clean.dtype), precision=lax.Precision.HIGHEST)
    row = _first_beyond(uniforms[0], totals)
    index = row * width + _first_beyond(uniforms[1], jnp.exp(clean[row] - shift))
    return jnp.where(alive, index, otherwise).astype(np.int32)


def _row_width(n: int) -> int:
    """Return the number of particles in a row: a power of two near the root of their number."""
    return 1 << math.ceil(math.log2(n) / 2)


def _first_beyond(uniform: Array, weights: Array) -> Array:
    """Return the first entry with weight whose cumulative weight exceeds the fraction of the total, () int32."""
    reached = cumulate_rows(weights, len(weights))[0]
    index = lax.iota(np.int32, len(weights))
    # Rounding may leave none beyond: then it is the last with weight.
    last = jnp.max(jnp.where(weights > 0, index, 0))
    return jnp.min(jnp.where((weights > 0) & (reached > uniform * reached[-1]), index, last))


def _each(path: Callable[[Array], Paths], uniforms: Array) -> Paths:
    """Draw every path, from its own uniforms, the first axis."""
    # One path is not a batch: as gathers of one row, its steps meet a fault of the CPU compiler of jaxlib 0.12.0.1,
    # which mistakes a slice of its own making, `dynamic-slice.1`, for one of JAX's, `dynamic_slice.1`.
    if len(uniforms) == 1:
        return jax.tree.map(lambda leaf: leaf[None], path(uniforms[0]))
    return jax.vmap(path)(uniforms)


@partial(jax.jit, static_argnames=("panel", "num_paths"))
def _ancestral(key: Array, kept: History | Tree, *, panel: Panel | None, num_paths: int) -> Paths:
    paths_of: Callable[[Array, Any, int], Paths] = _tree_paths if isinstance(kept, Tree) else _ancestral_paths
    paths = each_element(lambda key, _, kept: paths_of(key, kept, num_paths), panel, key, kept, together=True)
    return join_values(paths, panel)


def _ancestral_paths(key: Array, history: History, num_paths: int) -> Paths:
    steps = history.steps

    def back(index: Array, step: tuple[dict, Array]) -> tuple[Array, dict]:
        values, ancestors = step
        return _take(ancestors, index), _take(values, index)

    def path(uniforms: Array) -> Paths:
        last = _draw(uniforms, steps.log_weights[-1])
        first, values = lax.scan(back, last, (steps.values, steps.ancestors), reverse=True)
        return {**_take(history.initial.values, first), **values}

    return _each(path, jax.random.uniform(key, (num_paths, 2)))


def _tree_paths(key: Array, tree: Tree, num_paths: int) -> Paths:
    def back(node: Array, _: None) -> tuple[Array, dict]:
        return _take(tree.parents, node), _take(tree.values, node)

    def path(uniforms: Array) -> Paths:
        last = tree.last + _draw(uniforms, tree.log_weights)
        root, values = lax.scan(back, last, None, length=tree.num_steps, reverse=True)
        return {**_take(tree.initial, np.int32(-1) - _take(tree.parents, root)), **values}

    paths = _each(path, jax.random.uniform(key, (num_paths, 2)))
    return jax.tree.map(lambda path: jnp.where(tree.lost < 0, path, _nothing(path.dtype)), paths)


def _nothing(dtype: Any) -> Any:
    """Return the value of a dtype that stands for a missing one."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.nan
    return False if jnp.issubdtype(dtype, jnp.bool_) else jnp.iinfo(dtype).min


@partial(jax.jit, static_argnames=("num_paths",))
def _backward(key: Array, ssm: Model, theta: Theta, history: History, *, num_paths: int) -> Paths:
    paths = each_filter(partial(_backward_paths, num_paths=num_paths), ssm, theta, key, history, together=True)
    return join_values(paths, ssm.panel)


def _backward_paths(key: Array, dynamics: Dynamics, history: History, *, num_paths: int) -> Paths:
    steps, initial = history.steps, history.initial
    innovations = [site.name for site in dynamics.innovations]
    count = len(steps.log_weights)
    xs = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, history.first, count), dynamics.xs)

    start = initial.carry, initial.log_weights

    def back(index: Array, inputs: tuple) -> tuple[Array, dict]:
        t, x, uniforms, values, ancestors = inputs
        # A slice at a time, not a copy of all clouds, which may be most of the memory there is; and behind a
        # conditional, which XLA does not fuse into the loop over paths and particles.
        carry, log_weights = lax.cond(
            t > 0,
            lambda: _whole_rows(_take((steps.carry, steps.log_weights), t - 1)),
            lambda: _whole_rows(start),
        )
        child, ancestor = _take({name: values[name] for name in innovations}, index), _take(ancestors, index)
        step = jax.vmap(lambda c: dynamics.evaluate(c, x, child))(carry)
        log_weights = log_weights + step.log_transition + step.log_observation
        for leaf in jax.tree.leaves(step.carry):
            log_weights = jnp.where(_equals_entry(leaf, ancestor), log_weights, -jnp.inf)
        # Densities of the true parent may overflow to nothing; it remains a parent.
        parent = _draw(uniforms, log_weights, otherwise=ancestor)
        return parent, {**child, **_take(step.deterministics, parent)}

    def path(uniforms: Array) -> Paths:
        last = _draw(uniforms[-1], steps.log_weights[-1])
        inputs = jnp.arange(count), xs, uniforms[:-1], steps.values, steps.ancestors
        first, values = lax.scan(back, last, inputs, reverse=True)
        return {**_take(initial.values, first), **values}

    return _each(path, jax.random.uniform(key, (num_paths, count + 1, 2)))


def _whole_rows(cloud: tuple[Any, Array]) -> tuple[Any, Array]:
    """Fill the last row with copies of the last particle, without weight."""
    carry, log_weights = cloud
    n = len(log_weights)
    index = np.minimum(np.arange(n + -n % _row_width(n)), n - 1)
    log_weights = jnp.pad(log_weights, (0, len(index) - n), constant_values=-jnp.inf)
    return jax.tree.map(lambda leaf: leaf[index], carry), log_weights


def _equals_entry(leaf: Array, index: Array) -> Array:
    """Return which entries (N, ...) equal one of them in every bit, (N,) bool; NaN equals itself."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        leaf = leaf.view(f"uint{8 * leaf.dtype.itemsize}")
    return jnp.all((leaf == leaf[index][None]).reshape(len(leaf), -1), axis=1)
