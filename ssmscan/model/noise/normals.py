"""Normals of several dimensions: affine functions of standard normals, whatever these are.

Data may say that the noise of a normal was 50, so nothing is clipped here: where a model is linear in all its noise
its densities are those of one joint normal law.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.linalg import solve_triangular
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


def multivariate_normal_noise(fn: dist.MultivariateNormal, value: Array) -> Array:
    """Solve L eps = value - loc."""
    value, scale_tril = aligned(value, fn.scale_tril, shape=(*jnp.shape(value), jnp.shape(value)[-1]))
    value, loc = aligned(value, fn.loc)
    return _lower_solve(scale_tril, (value - loc)[..., None])[..., 0]


def matrix_normal_noise(fn: dist.MatrixNormal, value: Array) -> Array:
    """Solve A eps B' = value - loc."""
    batch, (rows, columns) = jnp.shape(value)[:-2], fn.event_shape
    value, row = aligned(value, fn.scale_tril_row, shape=(*batch, rows, rows))
    value, column = aligned(value, fn.scale_tril_column, shape=(*batch, columns, columns))
    value, loc = aligned(value, fn.loc)
    half = jnp.swapaxes(_lower_solve(row, value - loc), -2, -1)
    return jnp.swapaxes(_lower_solve(column, half), -2, -1)


def random_walk_noise(fn: dist.GaussianRandomWalk, value: Array) -> Array:
    """Return the increments over their scale."""
    value, scale = aligned(value, jnp.expand_dims(fn.scale, -1))
    return jnp.diff(value, axis=-1, prepend=jnp.zeros_like(value[..., :1])) / scale


def _lower_solve(lower: Array, right: Array) -> Array:
    return solve_triangular(lower, right, lower=True)
