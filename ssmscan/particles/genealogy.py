r"""Paths of the state from a stored filter run.

`trace_ancestry` follows the parents of particles drawn with the final weights.  Each path is a draw
that leaves pseudo-marginal samplers exact, and costs O(T), but paths share their early states.

`backward_sample` chooses each state anew, from the last step to the first, among all particles that may be its parent:
by the whole backward law, O(N) a state, or by a few Metropolis moves from the ancestor, O(1) a state (see
`ssmscan.particles.smoothing_backward`).  Both are right for *any* carry.  Where the carry remembers more than
its innovations (a level that accumulates, say) only parents that lead to the same carry qualify,
in the extreme only the true one, and the path is the ancestral one; where it does not, paths are
nearly independent draws from the smoothing distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.arguments import require_instance, require_integer
from ssmscan.model.keys import loop_keys
from ssmscan.model.protocols import Dynamics, Model, Panel, Theta, Values
from ssmscan.model.statespace.element_dynamics import join_values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_traced
from ssmscan.particles.clouds import History, Tree
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.panels import each_element, each_filter
from ssmscan.particles.proposals import entry
from ssmscan.particles.smoothing_backward import each_path, moved, sampled
from ssmscan.particles.smoothing_draws import draw_index

MOST_MOVES = 64
"""No more Metropolis moves of one state than these: `sampled` costs less, or is as good."""


def trace_ancestry(key: Array, result: FilterResult, *, num_paths: int) -> Values:
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
    paths: Values = {}
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
    key: Array,
    ssm: StateSpaceModel,
    theta: Mapping[str, Any],
    result: FilterResult,
    *,
    num_paths: int,
    num_moves: int | None = None,
) -> Values:
    """Draw paths from the smoothing distribution, p(states | all data).

    Args:
        key: one PRNG key.
        ssm: the model that was filtered.
        theta: the parameters it was filtered at.
        result: of a filter with `store=FullHistory()` or `LastSteps(k)`.
        num_paths: number of paths; without num_moves time is num_paths * N per step.
        num_moves: Metropolis moves of each state from the ancestor; None draws each among all particles.

    Returns:
        By site of the loop (num_paths, T, ...), by initial site (num_paths, ...); of the last k steps alone, without
        initial sites, where no more were stored.

    Raises:
        ValueError: if the run stored no clouds, or theta is not valid.
    """
    return backward_paths(key, ssm, theta, result, num_paths=num_paths, num_moves=num_moves)[0]


def backward_paths(
    key: Array,
    ssm: Model,
    theta: Mapping[str, Any],
    result: FilterResult,
    *,
    num_paths: int,
    num_moves: int | None = None,
) -> tuple[Values, Array]:
    """Draw paths as `backward_sample`; also (T,) the share of them whose particle before a step is not the parent.

    Of several loops, the steps of one after those of the other; of a panel, the mean over its elements.
    """
    key, num_paths = as_key(key), require_integer("num_paths", num_paths, at_least=1)
    if num_moves is not None:
        num_moves = require_integer("num_moves", num_moves, at_least=1, at_most=MOST_MOVES)
    require_traced(ssm)
    _refuse_other(result, ssm)
    theta = ssm.canonical(theta)
    paths: Values = {}
    renewed: list[Array] = []
    for own, model, loop in zip(loop_keys(key, len(result.loops)), ssm.loops, result.loops):
        kept = _kept(loop)
        if isinstance(kept, Tree):
            raise ValueError(
                "result: the filter stored ancestors alone, and backward sampling needs whole clouds; run "
                "ParticleFilter(..., store=FullHistory()), or LastSteps(k) for the last k steps, or use trace_ancestry."
            )
        found, changed = _backward(own, model, theta, kept, num_paths=num_paths, num_moves=num_moves)
        paths, renewed = paths | found, [*renewed, changed]
    return paths, jnp.concatenate(renewed)


def _refuse_other(result: Any, ssm: Model | None = None) -> None:
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
    if not isinstance(result.history, History | Tree):
        raise ValueError(
            "result: the filter stored no history; run ParticleFilter(..., store=FullHistory()) to draw paths, or with "
            "store=Ancestry() to trace ancestry in less memory."
        )
    return result.history


@partial(jax.jit, static_argnames=("panel", "num_paths"))
def _ancestral(key: Array, kept: History | Tree, *, panel: Panel | None, num_paths: int) -> Values:
    paths_of: Callable[[Array, Any, int], Values] = _tree_paths if isinstance(kept, Tree) else _ancestral_paths
    paths = each_element(lambda key, _, kept: paths_of(key, kept, num_paths), panel, key, kept, together=True)
    return join_values(paths, panel)


def _ancestral_paths(key: Array, history: History, num_paths: int) -> Values:
    steps = history.steps

    def back(index: Array, step: tuple[dict, Array]) -> tuple[Array, dict]:
        values, ancestors = step
        return entry(ancestors, index), entry(values, index)

    def path(uniforms: Array) -> Values:
        last = draw_index(uniforms, steps.log_weights[-1])
        first, values = lax.scan(back, last, (steps.values, steps.ancestors), reverse=True)
        return {**entry(history.initial.values, first), **values}

    return each_path(path, jax.random.uniform(key, (num_paths, 2)))


def _tree_paths(key: Array, tree: Tree, num_paths: int) -> Values:
    def back(node: Array, _: None) -> tuple[Array, dict]:
        return entry(tree.parents, node), entry(tree.values, node)

    def path(uniforms: Array) -> Values:
        last = tree.last + draw_index(uniforms, tree.log_weights)
        root, values = lax.scan(back, last, None, length=tree.num_steps, reverse=True)
        return {**entry(tree.initial, np.int32(-1) - entry(tree.parents, root)), **values}

    paths = each_path(path, jax.random.uniform(key, (num_paths, 2)))
    return jax.tree.map(lambda path: jnp.where(tree.lost < 0, path, _nothing(path.dtype)), paths)


def _nothing(dtype: Any) -> Any:
    """Return the value of a dtype that stands for a missing one."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.nan
    return False if jnp.issubdtype(dtype, jnp.bool_) else jnp.iinfo(dtype).min


@partial(jax.jit, static_argnames=("num_paths", "num_moves"))
def _backward(
    key: Array, ssm: Model, theta: Theta, history: History, *, num_paths: int, num_moves: int | None
) -> tuple[Values, Array]:
    """Draw the paths of one loop; (T,) the share of new parents is a mean over the elements of a panel."""

    def paths_of(key: Array, dynamics: Dynamics, history: History) -> tuple[Values, Array]:
        if num_moves is None:
            return sampled(key, dynamics, history, num_paths=num_paths)
        return moved(key, dynamics, history, num_paths=num_paths, num_moves=num_moves)

    paths, renewed = each_filter(paths_of, ssm, theta, key, history, together=True)
    return join_values(paths, ssm.panel), renewed if ssm.panel is None else renewed.mean(0)
