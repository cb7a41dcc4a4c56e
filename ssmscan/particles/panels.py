"""Arrays of a panel: one filter an element, seen as one.

Filters that run under vmap return arrays with the M elements in front and the axis of the elements,
at size one, where the model has it.  `join_*` moves the first onto the second, so that a value has
the shape of its site; `split_history` is the inverse, for what goes through the elements one by one
again.  Weights and ancestors, which the model does not know, keep the elements before the particles.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.model.protocols import Panel
from ssmscan.particles.clouds import Cloud, History


def join(x: Array, back: int) -> Array:
    """Move elements from the front to the axis `back` from the end (-1 the last); 0 if they share the value."""
    if not back:
        return x[0]
    x = jnp.squeeze(x, axis=back)
    return jnp.moveaxis(x, 0, x.ndim + back)


def split(x: Array, back: int, size: int) -> Array:
    """Undo `join`."""
    if not back:
        return jnp.broadcast_to(x, (size, *x.shape))
    return jnp.expand_dims(jnp.moveaxis(x, back, 0), back)


def join_values(values: dict[str, Array], panel: Panel) -> dict[str, Array]:
    """Join values by site, whatever is in front of the shape of the site."""
    places = dict(panel.values)
    return {name: join(x, places[name]) for name, x in values.items()}


def _join_carry(carry: Any, panel: Panel) -> Any:
    leaves, tree = jax.tree.flatten(carry)
    return jax.tree.unflatten(tree, [join(leaf, back) for leaf, back in zip(leaves, panel.carry)])


def join_cloud(cloud: Cloud, panel: Panel) -> Cloud:
    """Join a cloud; its weights are (M, N)."""
    return Cloud(_join_carry(cloud.carry, panel), cloud.log_weights, join_values(cloud.values, panel))


def join_history(history: History, panel: Panel) -> History:
    """Join all clouds; weights and ancestors of the steps are (T, M, N)."""
    steps = history.steps
    joined = steps._replace(
        carry=_join_carry(steps.carry, panel),
        values=join_values(steps.values, panel),
        log_weights=jnp.moveaxis(steps.log_weights, 0, 1),
        ancestors=jnp.moveaxis(steps.ancestors, 0, 1),
    )
    return History(join_cloud(history.initial, panel), joined, history.first[0])


def split_history(history: History, panel: Panel) -> History:
    """Give the history of every element, elements in front."""
    places = dict(panel.values)

    def carries(carry: Any) -> Any:
        leaves, tree = jax.tree.flatten(carry)
        return jax.tree.unflatten(tree, [split(leaf, b, panel.size) for leaf, b in zip(leaves, panel.carry)])

    def values(by_site: dict[str, Array]) -> dict[str, Array]:
        return {name: split(x, places[name], panel.size) for name, x in by_site.items()}

    initial, steps, first = history
    return History(
        Cloud(carries(initial.carry), initial.log_weights, values(initial.values)),
        steps._replace(
            carry=carries(steps.carry),
            values=values(steps.values),
            log_weights=jnp.moveaxis(steps.log_weights, 1, 0),
            ancestors=jnp.moveaxis(steps.ancestors, 1, 0),
        ),
        jnp.broadcast_to(first, (panel.size,)),
    )
