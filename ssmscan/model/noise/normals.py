"""Normals of several dimensions: affine functions of standard normals, whatever these are.

Data may say that the noise of a normal was 50, so nothing is clipped here: where a model is linear in all its noise
its densities are those of one joint normal law.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import transforms

from ssmscan.model.noise.quantiles import aligned

Shape = tuple[int, ...]

LINEAR = (
    transforms.AffineTransform,
    transforms.IdentityTransform,
    transforms.LowerCholeskyAffine,
    transforms.PermuteTransform,
    transforms.RecursiveLinearTransform,
    transforms.ReshapeTransform,
)
"""Transforms that leave a normal normal."""


def _matrix_vector(matrix: Array, vector: Array) -> Array:
    return jnp.squeeze(matrix @ vector[..., None], -1)


def multivariate_normal(fn: dist.MultivariateNormal, noise: Array) -> Array:
    """Return loc + L eps."""
    matrix = jnp.shape(noise) + jnp.shape(noise)[-1:]
    eps, scale_tril = aligned(noise, fn.scale_tril, shape=matrix)
    eps, loc = aligned(eps, fn.loc)
    return loc + _matrix_vector(scale_tril, eps)


def low_rank_normal(fn: dist.LowRankMultivariateNormal, noise: Array) -> Array:
    """Return loc + W eps' + sqrt(D) eps."""
    (size,), rank = fn.event_shape, jnp.shape(fn.cov_factor)[-1]
    vector = noise.shape[:-1] + (size,)
    eps, loc, diagonal = aligned(noise, fn.loc, fn.cov_diag, shape=vector)
    _, factor = aligned(eps, fn.cov_factor, shape=(*vector, rank))
    return loc + _matrix_vector(factor, eps[..., size:]) + jnp.sqrt(diagonal) * eps[..., :size]


def low_rank_layout(fn: dist.LowRankMultivariateNormal) -> tuple[Shape, Shape]:
    """Return the (lead, event) axes of the noise: one normal for each element and each factor."""
    return (), (fn.event_shape[0] + jnp.shape(fn.cov_factor)[-1],)


def matrix_normal(fn: dist.MatrixNormal, noise: Array) -> Array:
    """Return loc + A eps B'."""
    batch, (rows, columns) = noise.shape[:-2], fn.event_shape
    eps, row = aligned(noise, fn.scale_tril_row, shape=(*batch, rows, rows))
    eps, column = aligned(eps, fn.scale_tril_column, shape=(*batch, columns, columns))
    eps, loc = aligned(eps, fn.loc)
    return loc + row @ eps @ jnp.swapaxes(column, -2, -1)


def random_walk(fn: dist.GaussianRandomWalk, noise: Array) -> Array:
    """Return the sums of the increments."""
    eps, scale = aligned(noise, jnp.expand_dims(fn.scale, -1))
    return jnp.cumsum(eps, axis=-1) * scale
