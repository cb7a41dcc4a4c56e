"""One filter for each element of a panel.

Filters that run under vmap return arrays with the M elements in front and the axis of the elements,
at size one, where the model has it.  `join_*` moves the first onto the second, so that a value has
the shape of its site; `split_history` is the inverse, for what goes through the elements one by one
again.  Weights and ancestors, which the model does not know, keep the elements before the particles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.protocols import Model, Panel, Theta
from ssmscan.model.statespace.element_dynamics import join, join_values
from ssmscan.particles.clouds import Cloud, History, Kept
from ssmscan.particles.filter_result import FilterResult, first_fault
from ssmscan.particles.loop import each
from ssmscan.particles.weights import CompensatedSum

T = TypeVar("T")
C = TypeVar("C", Cloud, Kept)


def each_filter(
    run: Callable[..., T], ssm: Model, theta: Theta, key: Array | None, *per_element: Any, together: bool = False
) -> T:
    """Run a function of a filter once, or once for each element of a panel.

    Args:
        run: called as run(key, dynamics, *per_element).
        ssm: a model of one loop.
        theta: the parameters; what they alone determine is computed once for all elements.
        key, per_element, together: as in `each_element`.

    Returns:
        What `run` returned; for a panel with the M elements in front of every leaf.
    """
    at = (lambda _: ssm.at(theta)) if ssm.panel is None else ssm.elements_at(theta)
    return each_element(lambda key, m, *rest: run(key, at(m), *rest), ssm.panel, key, *per_element, together=together)


def num_moves(ssm: Model) -> int:
    """Return how many steps a run takes with one particle: of every loop, in each element of a panel."""
    return sum(loop.num_steps * (1 if loop.panel is None else loop.panel.size) for loop in ssm.loops)


def each_element(
    run: Callable[..., T], panel: Panel | None, key: Array | None, *per_element: Any, together: bool = False
) -> T:
    """Run a function once, or once for each element of a panel, as run(key, number, *per_element).

    Args:
        run: what to run; number is () int32.
        panel: the panel, None for a single filter, which has the number 0.
        key: element m gets `fold_in(key, m)`, a single filter the key itself; None stays None.
        per_element: what else it takes: a history as a result has it, all else with the elements in front.
        together: whether to vmap on a CPU too, where elements come one after the other by default.
    """
    if panel is None:
        return run(key, 0, *per_element)
    numbers = jnp.arange(panel.size, dtype=np.int32)
    if together:
        keys = None if key is None else jax.vmap(partial(jax.random.fold_in, key))(numbers)
        return jax.vmap(run)(keys, numbers, *_split(per_element, panel))

    def one(arguments: tuple) -> T:
        return run(None if key is None else jax.random.fold_in(key, arguments[0]), *arguments)

    return each(one, (numbers, *_split(per_element, panel)))


def join_result(
    log_likelihood: CompensatedSum, every: FilterResult, panel: Panel | None
) -> tuple[CompensatedSum, FilterResult]:
    """Join the results of the elements of a panel.

    Args:
        log_likelihood: of the steps of each element.
        every: all else, elements in front.
        panel: the panel, None for a single filter.

    Returns:
        The sum of the log likelihoods, and all else; the element that failed is the first that failed worst.
    """
    if panel is None:
        return log_likelihood, replace(every, failed_element=jnp.zeros((), np.int32))
    status = jnp.max(every.status)
    number = jnp.argmin(jnp.where(every.status == status, every.failed_step, every.failed_step.max() + 1))
    values = jax.vmap(CompensatedSum.value)(log_likelihood)
    log_likelihood, _ = lax.scan(lambda total, value: (total.add(value), None), CompensatedSum.zero(), values)
    return log_likelihood, replace(
        every,
        increments=every.increments.sum(0),
        ess=every.ess.T,
        resampled=every.resampled.T,
        summaries={name: join_values(by_site, panel) for name, by_site in every.summaries.items()},
        final=join_cloud(every.final, panel),
        status=status,
        failed_step=every.failed_step[number],
        faulty_step=first_fault(every.faulty_step),
        history=join_history(every.history, panel) if isinstance(every.history, History) else every.history,
        failed_element=number.astype(np.int32),
        panel=panel,
    )


def split(x: Array, back: int, size: int) -> Array:
    """Undo `join`."""
    if not back:
        return jnp.broadcast_to(x, (size, *x.shape))
    return jnp.expand_dims(jnp.moveaxis(x, back, 0), back)


def join_cloud(cloud: Cloud, panel: Panel) -> Cloud:
    """Join a cloud; its weights are (M, N)."""
    return _relocate(join, cloud, panel)


def join_history(history: History, panel: Panel) -> History:
    """Join all clouds; weights and ancestors of the steps are (T, M, N)."""
    steps = _swap_weights(_relocate(join, history.steps, panel))
    return History(join_cloud(history.initial, panel), steps, history.first[0])


def split_history(history: History, panel: Panel) -> History:
    """Return the history of every element, elements in front; undo `join_history`."""
    back = partial(split, size=panel.size)
    initial, steps = _relocate(back, history.initial, panel), _swap_weights(_relocate(back, history.steps, panel))
    return History(initial, steps, jnp.broadcast_to(history.first, (panel.size,)))


def _relocate(move: Callable[[Array, int], Array], clouds: C, panel: Panel) -> C:
    """Join or split the carries and values of one cloud or of those of all steps."""
    leaves, tree = jax.tree.flatten(clouds.carry)
    carry = jax.tree.unflatten(tree, [move(leaf, back) for leaf, back in zip(leaves, panel.carry)])
    places = dict(panel.values)
    return clouds._replace(carry=carry, values={name: move(x, places[name]) for name, x in clouds.values.items()})


def _swap_weights(steps: Kept) -> Kept:
    """Swap time and elements where the model knows neither."""
    log_weights, ancestors = jnp.swapaxes(steps.log_weights, 0, 1), jnp.swapaxes(steps.ancestors, 0, 1)
    return steps._replace(log_weights=log_weights, ancestors=ancestors)


def _split(per_element: tuple, panel: Panel) -> tuple:
    return tuple(split_history(one, panel) if isinstance(one, History) else one for one in per_element)
