r"""Sums over the paths of a finite hidden chain: evidence, smoothing, a draw of the path.

With s the value of the start, z_t = k the joint value of all discrete draws of step t, and everything else
given, the joint density of data and path is a product of weights,

    w(s) w_1(s, z_1) prod_{t=2..T} w_t(z_{t-1}, z_t) prod_t e_t(z_t),

and the three recursions are, in logs,

    forward    alpha_t(k) = log e_t(k) + logsumexp_j [ alpha_{t-1}(j) + log w_t(j, k) ]
    backward   beta_t(j)  = logsumexp_k [ log w_{t+1}(j, k) + log e_{t+1}(k) + beta_{t+1}(k) ]
    sampling   z_T ~ exp alpha_T,   z_t | z_{t+1} = k ~ exp [ alpha_t(.) + log w_{t+1}(., k) ].

Rabiner (1989), *Proceedings of the IEEE* 77(2), section III; Scott (2002), *JASA* 97(457), sections 2.1-2.2;
Chopin & Papaspiliopoulos (2020), *An Introduction to Sequential Monte Carlo*, sections 6.2-6.3.

The alphas are normalised at each step, so that float32 serves any length, and a weight of zero (log -inf)
has gradient zero.  The cost is T K^2; the memory of the recursion and of its gradient T K.  For many
values, or values whose number grows, use particles.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Chain(NamedTuple):
    """Log-weights of a finite chain of T steps and K values, started from one of J values.

    Attributes:
        start: (J,) of the start.
        first: (J, K) from the start to the first step.
        constant: (K, K) from step to step, what is the same at all steps.
        varying: (T - 1, K, K) what is not, or None.
        emission: (T, K) of the value at a step.
    """

    start: Array
    first: Array
    constant: Array
    varying: Array | None
    emission: Array


class Filtered(NamedTuple):
    """What the forward pass finds.

    Attributes:
        log_evidence: log of the sum over all paths, a scalar.
        log_filter: (T, K) log-probability of the value at a step given the weights up to it.
    """

    log_evidence: Array
    log_filter: Array


class Smoothed(NamedTuple):
    """Probabilities given all weights: of the start (J,), of the value at each step (T, K)."""

    start: Array
    steps: Array


def log_sum_exp(a: Array, axis: int) -> Array:
    """Sum in logs over an axis; all -inf gives -inf, with gradient zero."""
    top = lax.stop_gradient(jnp.max(a, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.exp(a - top), axis=axis)
    # A sum that is NaN stays NaN.
    none = total == 0.0
    return jnp.where(none, -jnp.inf, jnp.squeeze(top, axis) + jnp.log(jnp.where(none, 1.0, total)))


def _normalise(a: Array) -> tuple[Array, Array]:
    """Log-probabilities and the log of their sum; what has no mass at all stays so."""
    total = log_sum_exp(a, 0)
    return a - jnp.where(total == -jnp.inf, 0.0, total), total


def _between(constant: Array, varying: Array | None) -> Array:
    return constant if varying is None else constant + varying


def forward(chain: Chain) -> Filtered:
    """Run the forward pass."""
    begun = log_sum_exp(chain.start[:, None] + chain.first, 0) + chain.emission[0]
    log_filter, total = _normalise(begun)

    def step(previous, inputs):
        emission, varying = inputs
        moved = log_sum_exp(previous[:, None] + _between(chain.constant, varying), 0)
        new, total = _normalise(moved + emission)
        return new, (new, total)

    # Kept for the gradient are the alphas alone; the K x K sums are made again.
    again = jax.checkpoint(step, prevent_cse=False)
    _, (rest, totals) = lax.scan(again, log_filter, (chain.emission[1:], chain.varying))
    return Filtered(total + jnp.sum(totals), jnp.concatenate([log_filter[None], rest]))


def smooth(chain: Chain, filtered: Filtered) -> Smoothed:
    """Run the backward pass; probabilities of each value given all weights."""
    last = jnp.zeros_like(filtered.log_filter[0])

    def step(beta, inputs):
        emission, varying = inputs
        sums = log_sum_exp(_between(chain.constant, varying) + (emission + beta), 1)
        # Only differences matter.
        new, _ = _normalise(sums)
        return new, new

    first, betas = lax.scan(step, last, (chain.emission[1:], chain.varying), reverse=True)
    begun = chain.start + log_sum_exp(chain.first + (chain.emission[0] + first), 1)
    return Smoothed(_softmax(begun), _softmax(filtered.log_filter + jnp.concatenate([betas, last[None]])))


def _softmax(a: Array) -> Array:
    return jnp.exp(a - log_sum_exp(a, -1)[..., None])


def sample(key: Array, chain: Chain, filtered: Filtered) -> tuple[Array, Array]:
    """Draw one path given all weights.

    Returns:
        Index of the start, a scalar, and of the value at each step, (T,), integers.
    """
    # One batch of noise for all steps: the largest of log p + Gumbel is a draw from p.
    start_key, steps_key = jax.random.split(key)
    shape, dtype = filtered.log_filter.shape, filtered.log_filter.dtype
    noise = jax.random.gumbel(steps_key, shape, dtype)
    last = jnp.argmax(filtered.log_filter[-1] + noise[-1])

    def step(later, inputs):
        log_filter, noise, varying = inputs
        index = jnp.argmax(log_filter + _between(chain.constant, varying)[:, later] + noise)
        return index, index

    inputs = filtered.log_filter[:-1], noise[:-1], chain.varying
    first, path = lax.scan(step, last, inputs, reverse=True)
    begun = jnp.argmax(chain.start + chain.first[:, first] + jax.random.gumbel(start_key, chain.start.shape, dtype))
    return begun, jnp.concatenate([path, last[None]])
