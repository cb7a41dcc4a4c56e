r"""Missing elements of observed values.

An element of an observed value is missing at random where it is NaN, and where a handler conditions the
first steps of a loop only.  With y = (y_o, y_m) its present and missing elements,

    log-likelihood   log p(y_o), the joint density with y_m integrated out
    drawn, if the model reads the value afterwards (a lag):   y_m ~ p(y_m | y_o), an innovation

Little and Rubin (2019), *Statistical Analysis with Missing Data*, chapter 6.  Independent elements drop out
one by one.  Of a multivariate normal the present elements are again normal, and with d a draw of the whole,

    y_m = d_m + S_mo S_oo^{-1} (y_o - d_o)

is a draw of the rest (Matheron's rule; Hoffman and Ribak, Astrophysical Journal 380, 1991), smooth in d.  Rows and
columns of missing elements are replaced by those of the identity, so that the pattern may change at run time.
Other joint families can only be missing whole.

Missing elements are replaced by a value in the support before any density is computed, which keeps gradients
finite.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import distributions as dist
from numpyro.distributions import biject_to

from ssmscan.model.noise.families import WRAPPERS

SUFFIX = "_missing"


class Gaps(NamedTuple):
    """Which observed sites have missing elements.

    Attributes:
        names: sites whose NaNs are missing elements.
        imputed: of the sites with missing elements, those whose missing elements are drawn; None for all.
    """

    names: frozenset[str] = frozenset()
    imputed: frozenset[str] | None = None

    def imputes(self, name: str) -> bool:
        """Return whether the missing elements of a site are drawn."""
        return self.imputed is None or name in self.imputed


NO_GAPS = Gaps()


def filler(fn: dist.Distribution) -> Array:
    """Return some value in the support, of the shape of one draw."""
    if fn.is_discrete:
        lower = getattr(fn.support, "lower_bound", 0)
        return jnp.broadcast_to(lower, fn.shape()).astype(jnp.result_type(int))
    transform = biject_to(fn.support)
    return jnp.broadcast_to(transform(jnp.zeros(transform.inverse_shape(fn.shape()))), fn.shape())


def fill(fn: dist.Distribution, value: Array, present: Array) -> Array:
    """Replace the missing elements of a value by one in the support.

    Args:
        fn: the distribution.
        value: of shape `fn.shape()`; missing elements may be NaN.
        present: bool, of that shape.
    """
    return jnp.where(present, value, jax.lax.stop_gradient(filler(fn)).astype(jnp.result_type(value)))


def complete(fn: dist.Distribution, value: Array, present: Array, draw: Array) -> Array:
    """Return the value with its missing elements taken from a draw of the whole, given the elements that are there."""
    while isinstance(fn, dist.MaskedDistribution | dist.ExpandedDistribution):
        fn = fn.base_dist
    if isinstance(fn, dist.Independent):
        return complete(fn.base_dist, value, present, draw)
    if isinstance(fn, dist.MultivariateNormal):
        error = jnp.where(present, value - draw, 0.0)
        weights = jnp.linalg.solve(_marginal_covariance(fn, present), error[..., None])[..., 0]
        draw = draw + jnp.einsum("...ij,...j->...i", fn.covariance_matrix, jnp.where(present, weights, 0.0))
    return jnp.where(present, value, draw.astype(jnp.result_type(value)))


def log_prob(fn: dist.Distribution, value: Array, present: Array) -> Array:
    """Compute the log-density of the present elements, shape `fn.batch_shape`.

    Args:
        fn: the distribution.
        value: of shape `fn.shape()`, missing elements filled.
        present: bool, of that shape.
    """
    if isinstance(fn, dist.MaskedDistribution):
        # NumPyro's own mask selects from the density with its guards; its base is what has gaps.
        return jnp.where(jnp.asarray(fn._mask), log_prob(fn.base_dist, value, present), 0.0)
    if isinstance(fn, dist.ExpandedDistribution):
        return jnp.broadcast_to(log_prob(fn.base_dist, value, present), fn.batch_shape)
    if isinstance(fn, dist.Independent):
        inner = log_prob(fn.base_dist, value, present)
        return jnp.sum(inner, axis=tuple(range(inner.ndim - fn.reinterpreted_batch_ndims, inner.ndim)))
    if not fn.event_dim:
        return jnp.where(present, fn.log_prob(value), 0.0)
    if isinstance(fn, dist.MultivariateNormal):
        loc = jnp.where(present, fn.loc, value)
        scale_tril = jnp.linalg.cholesky(_marginal_covariance(fn, present))
        missing = jnp.sum(~present, axis=-1)
        return dist.MultivariateNormal(loc, scale_tril=scale_tril).log_prob(value) + missing * (
            0.5 * math.log(2 * math.pi)
        )
    whole = jnp.all(present, axis=tuple(range(-fn.event_dim, 0)))
    return jnp.where(whole, fn.log_prob(value), 0.0)


def only_whole(fn: dist.Distribution) -> int:
    """Return the number of trailing axes that can only be missing together; 0 where elements drop out one by one."""
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return 0 if isinstance(fn, dist.MultivariateNormal) else fn.event_dim


def _marginal_covariance(fn: dist.MultivariateNormal, present: Array) -> Array:
    both = present[..., :, None] & present[..., None, :]
    return jnp.where(both, fn.covariance_matrix, jnp.eye(fn.event_shape[0]))
