r"""The backward pass: the value function of the rest of the series, and the law of the noise given the carry.

From :math:`V_{t+1}(c') = s + p^T \delta c' - \frac12 \delta c'^T P \delta c'` and the expansion of step t,

.. math::
    S &= I + W_{ee} + B^T P B, & k &= S^{-1} (g_e - e_* + B^T p), & K &= -S^{-1} (W_{ec} + B^T P A), \\
    p_t &= g_c + A^T p + K^T (g_e - e_* + B^T p), &
    P_t &= (A + B K)^T P (A + B K) + K^T K + (I; K)^T W (I; K), && \\
    s_t - s_{t+1} &= \ell_* - \tfrac12 |e_*|^2 + \tfrac12 k^T S k - \tfrac12 \log |S| .&&&&

The noise given the carry is :math:`N(e_* + k + K \delta c, S^{-1})`.  The form of P is that of Joseph: a sum of
squares, which rounding cannot make indefinite.  The constant s is kept as its differences: their sum, with that of the
start, is the log likelihood, exact for a linear Gaussian model.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ssmscan.model.gaussian import algebra
from ssmscan.model.gaussian.expansion import Expansion, Path
from ssmscan.model.time_loops import scan_steps


class Gains(NamedTuple):
    """The law of the noise of a step given the carry before it, and the value function there; T in front of all.

    Attributes:
        change: (m,) k, how far the mean of the noise is from its nominal value at the nominal carry.
        feedback: (m, d) K.
        scale_tril: (m, m) lower triangular L, L L' the covariance of the noise given the carry.
        gradient, curvature: (d,) p and (d, d) P of the value function before the step, around the nominal carry.
        increment: () what the step adds to the log likelihood.
        promise: () half k' S k: what a full step in the noise promises to add to the log density of the path.
        least_pivot: () of S; the approximation exists where all are positive.
    """

    change: Array
    feedback: Array
    scale_tril: Array
    gradient: Array
    curvature: Array
    increment: Array
    promise: Array
    least_pivot: Array


def one_step(
    expansion: Expansion, weights: Array, noise: Array, log_weight: Array, after: tuple[Array, Array]
) -> Gains:
    """Go back through one step.

    Args:
        expansion: of the step.
        weights: (n, n) the curvature W to use.
        noise, log_weight: of the nominal path.
        after: p and P of the value function after the step.
    """
    p, big_p = after
    m, d = len(noise), expansion.transition.shape[1] - len(noise)
    a, b = expansion.transition[:, :d], expansion.transition[:, d:]
    product = algebra.product
    pb = product(big_p, b)
    s = jnp.eye(m, dtype=noise.dtype) + weights[d:, d:] + product(b.T, pb)
    lower, least = algebra.factor(algebra.symmetric(s))
    inverse = algebra.inverse_factor(lower)
    slope = expansion.gradient[d:] - noise + product(b.T, p)
    whitened = product(inverse, slope)
    change = product(inverse.T, whitened)
    feedback = -product(inverse.T, product(inverse, weights[d:, :d] + product(pb.T, a)))
    closed = a + product(b, feedback)
    sides = jnp.concatenate([jnp.eye(d, dtype=noise.dtype), feedback])
    curvature = (
        product(closed.T, product(big_p, closed))
        + product(feedback.T, feedback)
        + product(sides.T, product(weights, sides))
    )
    promise = 0.5 * jnp.sum(whitened**2)
    log_determinant = 2.0 * jnp.sum(jnp.log(jnp.diagonal(lower)))
    return Gains(
        change=change,
        feedback=feedback,
        scale_tril=inverse.T if m == 1 else algebra.covariance_factor(lower),
        gradient=expansion.gradient[:d] + product(a.T, p) + product(feedback.T, slope),
        curvature=algebra.symmetric(curvature),
        increment=log_weight - 0.5 * jnp.sum(noise**2) + promise - 0.5 * log_determinant,
        promise=promise,
        least_pivot=least,
    )


def backward(begin: Expansion, steps: Expansion, weights: tuple[Array, Array], path: Path) -> tuple[Gains, Gains]:
    """Go back from the end to the start.

    Args:
        begin, steps: expansions of the start and of the steps.
        weights: the curvatures W to use, of the start and of the steps.
        path: the nominal path.

    Returns:
        Gains of the start, whose carry has no coordinates, and of the steps, T in front.
    """
    d = begin.transition.shape[0]
    nothing = jnp.zeros(d, path.noise.dtype), jnp.zeros((d, d), path.noise.dtype)

    def back(after: tuple[Array, Array], inputs: tuple) -> tuple[tuple[Array, Array], Gains]:
        expansion, curved, noise, log_weight = inputs
        gains = one_step(expansion, curved, noise, log_weight, after)
        return (gains.gradient, gains.curvature), gains

    inputs = steps, weights[1], path.noise, path.log_weights[1:]
    after, gains = scan_steps(back, nothing, inputs, reverse=True)
    first = one_step(begin, weights[0], path.initial_noise, path.log_weights[0], after)
    return first, gains
