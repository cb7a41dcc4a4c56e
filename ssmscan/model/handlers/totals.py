r"""Multinomials whose totals are data.

NumPyro keeps the total of a multinomial as a constant of its class.  In a loop it then cannot vary by step: the density
of the site leaks, and a draw asks for `total_count_max`, with which a single total is ignored (each draw has
`total_count_max` trials).  Here the total is an array like the others, and a value is drawn category by category,

.. math:: x_k \mid x_{<k} \sim Binomial(n - \sum_{j<k} x_j, p_k / \sum_{j \ge k} p_j),

which takes no largest total.  The density is NumPyro's.
"""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import distributions as dist
from numpyro.primitives import Messenger

from ssmscan.model.handlers.tables import as_arrays


def with_data_totals(fn: Any) -> Any:
    """Return a distribution with the total of the multinomial in it, if it is one, as an array."""
    if isinstance(fn, dist.MaskedDistribution | dist.Independent | dist.ExpandedDistribution):
        base = with_data_totals(fn.base_dist)
        if base is not fn.base_dist:
            fn = copy.copy(fn)
            fn.base_dist = base
        return fn
    if type(fn) not in _FAMILIES or (isinstance(fn.total_count, int | np.integer) and fn.total_count_max is None):
        return fn
    new: Any = object.__new__(_FAMILIES[type(fn)])
    new.__dict__.update(fn.__dict__)
    return new


class DataTotals(Messenger):
    """Make the totals of all multinomials arrays, and tables too; stands in a loop, around its transition."""

    def process_message(self, msg: dict) -> None:
        """Replace the distribution of a multinomial site, and an observed table."""
        if msg["type"] == "sample":
            msg["fn"], msg["value"] = with_data_totals(msg["fn"]), as_arrays(msg["value"])


def draw_multinomial(key: Array, total: Any, probs: Array, shape: tuple[int, ...]) -> Array:
    """Draw counts of shape `shape + (K,)`; the total and probabilities (K in the last axis) broadcast to them."""
    probs = jnp.moveaxis(jnp.broadcast_to(probs, (*shape, jnp.shape(probs)[-1])), -1, 0)
    at_least = jnp.cumsum(probs[::-1], axis=0)[::-1]
    share = jnp.where(at_least > 0.0, probs / jnp.where(at_least > 0.0, at_least, 1.0), 0.0)
    total = jnp.broadcast_to(jnp.asarray(total, jnp.result_type(int)), shape)

    def category(left: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        share, key = inputs
        count = jax.random.binomial(key, left.astype(share.dtype), jnp.minimum(share, 1.0)).astype(left.dtype)
        return left - count, count

    keys = jax.random.split(key, len(share) - 1)
    left, counts = jax.lax.scan(category, total, (share[:-1], keys))
    return jnp.moveaxis(jnp.concatenate([counts, left[None]]), 0, -1)


def _family(base: type) -> type:
    """Return the class of a family of multinomials with the total as an array; it has the name of its base."""

    class WithDataTotals(base):  # type: ignore[misc]
        @classmethod
        def gather_pytree_data_fields(cls) -> tuple[str, ...]:
            return (*super().gather_pytree_data_fields(), "total_count")

        @classmethod
        def gather_pytree_aux_fields(cls) -> tuple[str, ...]:
            return tuple(name for name in super().gather_pytree_aux_fields() if name != "total_count")

        def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
            shape = sample_shape + self.batch_shape
            if base is dist.DirichletMultinomial:
                key, of_probs = jax.random.split(key)
                probs = dist.Dirichlet(self.concentration).expand(self.batch_shape).sample(of_probs, sample_shape)
            else:
                probs = self.probs
            return draw_multinomial(key, self.total_count, probs, shape)

    WithDataTotals.__name__ = WithDataTotals.__qualname__ = base.__name__
    return WithDataTotals


_FAMILIES = {base: _family(base) for base in (dist.MultinomialProbs, dist.MultinomialLogits, dist.DirichletMultinomial)}
