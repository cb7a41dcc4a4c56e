r"""The gradient of a draw that is no smooth function of noise.

A discrete innovation, or one made by its family's own sampler, does not move smoothly with theta.  Draw it, hold
the value fixed, and let its density carry the derivative (Glynn 1990, "Likelihood ratio gradient estimation for
stochastic systems", *Communications of the ACM* 33(10), 75-84):

.. math::  \nabla E_{p_\theta}[f_\theta(v)] = E\left[\nabla f_\theta(v) + f_\theta(v) \nabla \log p_\theta(v)\right]
           = E\left[\nabla \left(f_\theta(v) \, \frac{p_\theta(v)}{\bar p_\theta(v)}\right)\right], \quad
           \bar p = p \text{ held constant}.

So the draw multiplies the weight of its particle by p / p-bar, which is 1 and has the gradient of log p.  It asks
that the support of v does not depend on theta.  Prefer a smooth map from noise where there is one (`families`): its
gradients vary less.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.noise.families import MapKind
from ssmscan.model.noise.moments import SiteMap


def is_rough(map_: SiteMap) -> bool:
    """Return whether a map from noise has no derivative."""
    return map_.kind in (MapKind.INVERSE_CDF, MapKind.REJECTION, MapKind.SAMPLER)


@jax.custom_jvp
def gradient_alone(number: Array) -> Array:
    """Return number - stop_gradient(number): zeros with its gradient, for which it is not computed."""
    return _zeros_of(number)


@gradient_alone.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _zeros_of(primals[0]), tangents[0]


def _zeros_of(number: Array) -> Array:
    """Return zeros of which vmap sees the batch; of plain zeros JAX loses the batch of the tangent."""
    zeros = jnp.zeros_like(number)
    return lax.select(number > 0, zeros, zeros)
