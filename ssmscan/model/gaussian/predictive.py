r"""One-step-ahead predictive densities of a linear Gaussian model: the Kalman filter, on noise, in square-root form.

Before step t the carry given the data so far is :math:`N(m, S S^T)`, and z = (c, e) has the mean :math:`\mu = (m, 0)`
and the factor L = diag(S, I).  The log weight of the step is quadratic,
:math:`\ell(\mu + \delta) = \ell + g^T \delta - \tfrac12 \delta^T W \delta`, so that with
:math:`K = I + L^T W L = R R^T`

.. math::  \log p(y_t | y_{1:t-1}) = \ell + \tfrac12 |R^{-1} L^T g|^2 - \log \det R, \qquad
           z | y_{1:t} \sim N(\mu + L K^{-1} L^T g, \; L K^{-1} L^T) .

The carry after it is an affine function of z; the factor of its covariance comes from a QR decomposition, and none is
ever squared, which keeps the digits of float32 where a prior is wide (Anderson & Moore 1979, *Optimal Filtering*,
section 6.5).  W, g and the derivatives of the step are exact wherever they are taken.

`linear` computes the likelihood of the same model backwards, with its parts at each step *given what is ahead*: those
do not say how well the next observation was predicted.  Prefer that one for the likelihood alone, which has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.model.gaussian import algebra
from ssmscan.model.gaussian.vectors import VectorModel
from ssmscan.model.protocols import PyTree
from ssmscan.model.time_loops import scan_steps


class Predicted(NamedTuple):
    """What is known before each of the T steps, and how likely its observation was.

    Attributes:
        start: () log predictive density of the start, 0 where nothing is observed of it.
        increments: (T,) of the observation of each step; NaN from where on no normal law fits.
        carry: leaves (T, ...), the mean of the carry given all that is observed before the step.
        columns: (T, d, d) factors of the covariance of its coordinates.
    """

    start: Array
    increments: Array
    carry: PyTree
    columns: Array


def one_step_ahead(model: VectorModel) -> Array:
    """Compute the log predictive density of the start and of each step given those before it.

    Args:
        model: linear and Gaussian.

    Returns:
        (T + 1,), the start first: 0 there where nothing is observed of it; NaN from where on no normal law fits.
    """
    found = before_each_step(model)
    return jnp.concatenate([found.start[None], found.increments])


def before_each_step(model: VectorModel) -> Predicted:
    """Filter a linear Gaussian model, and return the law of the carry before each step."""
    coordinates = model.coordinates
    d, m = coordinates.size, coordinates.step_size

    def begin(z: Array) -> tuple[Array, Array]:
        carry, log_weight, _ = model.start(z)
        return coordinates.of_carry(carry), log_weight

    size = coordinates.initial_size
    first, mean, columns = _observe(begin, jnp.zeros(size), jnp.eye(size), d)
    carry = model.first_carry(mean)

    def step(state: tuple[PyTree, Array], x: PyTree) -> tuple[tuple[PyTree, Array], tuple[Array, PyTree, Array]]:
        carry, before = state

        def move(z: Array) -> tuple[Array, Array]:
            after, log_weight, _ = model.step(coordinates.into(carry, z[:d]), x, z[d:])
            return coordinates.of_carry(after), log_weight

        mean = jnp.concatenate([coordinates.of_carry(carry), jnp.zeros(m)])
        joint = jnp.zeros((d + m, d + m)).at[:d, :d].set(before).at[d:, d:].set(jnp.eye(m))
        increment, z, columns = _observe(move, mean, joint, d)
        after = model.carry_after(coordinates.into(carry, z[:d]), x, z[d:])
        return (after, columns), (increment, carry, before)

    _, (increments, carries, factors) = scan_steps(step, (carry, columns), model.xs)
    return Predicted(first, increments, carries, factors)


def _observe(function: Callable, mean: Array, columns: Array, d: int) -> tuple[Array, Array, Array]:
    """Weigh a normal law and move it.

    Args:
        function: z (n,) -> carry (d,), log weight ().
        mean: (n,) of z.
        columns: (n, n), a factor of its covariance.
        d: coordinates of the carry.

    Returns:
        The log of the mean weight, the mean (n,) of z given it, and a factor (d, d) of the covariance of the carry.
    """

    def weight(z: Array) -> Array:
        return function(z)[1]

    value, gradient, curvature = weight(mean), jax.grad(weight)(mean), -jax.hessian(weight)(mean)
    spread = algebra.product(columns.T, algebra.product(curvature, columns))
    lower, least = algebra.factor(jnp.eye(len(mean)) + algebra.symmetric(spread))
    inverse = algebra.inverse_factor(lower)
    pulled = algebra.product(inverse, algebra.product(columns.T, gradient))
    log_mean = value + 0.5 * jnp.sum(pulled**2) - jnp.sum(jnp.log(jnp.diagonal(lower)))
    after = algebra.product(columns, inverse.T)
    moved = jax.jacfwd(lambda z: function(z)[0])(mean) @ after
    wide = jnp.concatenate([moved, jnp.zeros((d, max(d - len(mean), 0)))], axis=1)
    factor = jnp.linalg.qr(wide.T, mode="r").T if d else jnp.zeros((0, 0))
    return jnp.where(least > 0.0, log_mean, jnp.nan), mean + algebra.product(after, pulled), factor
