"""Products and factors of small matrices, written out.

A pass over a long series multiplies and factors matrices of a few rows at every step.  As calls of a linear algebra
library each costs microseconds, whatever its size; written out, XLA fuses a whole step.  Above `SMALL` rows the library
is faster.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

SMALL = 4
"""Matrices of so many rows and columns or fewer are written out."""


def product(a: Array, b: Array) -> Array:
    """Multiply a matrix (i, j) by a matrix (j, k) or a vector (j,)."""
    if max(*a.shape, *b.shape) > SMALL:
        return a @ b
    if b.ndim == 1:
        return jnp.sum(a * b[None, :], axis=1)
    return jnp.sum(a[:, :, None] * b[None, :, :], axis=1)


def symmetric(a: Array) -> Array:
    """Return the symmetric part of a square matrix."""
    return 0.5 * (a + a.T)


def factor(a: Array) -> tuple[Array, Array]:
    """Factor a symmetric matrix, a = L L'.

    Returns:
        L (n, n), lower triangular, and the least pivot: at most zero, or NaN, where the matrix is not positive
        definite, and L then means nothing.
    """
    n = len(a)
    if n == 0:
        return a, jnp.ones((), a.dtype)
    if n > SMALL:
        lower = jnp.linalg.cholesky(a)
        return lower, jnp.min(jnp.diagonal(lower))
    rows: list[list[Array]] = []
    pivots = []
    for i in range(n):
        row: list[Array] = []
        for j in range(i + 1):
            rest = a[i, j] - sum((row[k] * rows[j][k] for k in range(j)), jnp.zeros((), a.dtype)) if j < i else None
            if rest is not None:
                row.append(rest / rows[j][j])
        pivot = a[i, i] - sum((x * x for x in row), jnp.zeros((), a.dtype))
        pivots.append(pivot)
        row.append(jnp.sqrt(jnp.where(pivot > 0.0, pivot, 1.0)))
        rows.append(row)
    zero = jnp.zeros((), a.dtype)
    lower = jnp.stack([jnp.stack([*row, *[zero] * (n - len(row))]) for row in rows])
    least = pivots[0]
    for pivot in pivots[1:]:
        least = jnp.minimum(least, pivot)
    return lower, least


def inverse_factor(lower: Array) -> Array:
    """Invert a lower triangular matrix (n, n)."""
    n = len(lower)
    if n == 0:
        return lower
    if n > SMALL:
        return solve_triangular(lower, jnp.eye(n, dtype=lower.dtype), lower=True)
    zero = jnp.zeros((), lower.dtype)
    rows: list[list[Array]] = []
    for i in range(n):
        row = []
        for j in range(i):
            inner = sum((lower[i, k] * rows[k][j] for k in range(j, i)), zero)
            row.append(-inner / lower[i, i])
        row.append(1.0 / lower[i, i])
        rows.append(row)
    return jnp.stack([jnp.stack([*row, *[zero] * (n - len(row))]) for row in rows])


def covariance_factor(lower: Array) -> Array:
    """Return a lower triangular factor of the inverse of L L'.

    The leading block of it factors the leading block of the inverse, which the transposed inverse of L does not.
    """
    upper = inverse_factor(lower).T
    return factor(product(upper, upper.T))[0]


def total(terms: Array) -> Array:
    """Sum (T,) numbers by halves: rounding grows with log T and not with T."""
    while len(terms) > 1:
        odd = terms[-1:] if len(terms) % 2 else terms[:0]
        terms = jnp.concatenate([terms[0 : len(terms) - len(odd) : 2] + terms[1::2], odd])
    return jnp.sum(terms)


def project(a: Array) -> Array:
    """Return the nearest positive semidefinite matrix to a symmetric one, (n, n)."""
    values, vectors = jnp.linalg.eigh(symmetric(a))
    return (vectors * jnp.maximum(values, 0.0)) @ vectors.T
