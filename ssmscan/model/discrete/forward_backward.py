r"""Sums over the paths of a finite hidden chain: likelihood, smoothing, a draw of the path.

With s the value of the start, z_t = k the joint value of all discrete draws of step t, and everything else
given, the joint density of data and path is a product of weights,

    w(s) w_1(s, z_1) prod_{t=2..T} w_t(z_{t-1}, z_t) prod_t e_t(z_t),

and the three recursions are, in logs,

    forward    alpha_t(k) = log e_t(k) + logsumexp_j [ alpha_{t-1}(j) + log w_t(j, k) ]
    backward   beta_t(j)  = logsumexp_k [ log w_{t+1}(j, k) + log e_{t+1}(k) + beta_{t+1}(k) ]
    sampling   z_T ~ exp alpha_T,   z_t | z_{t+1} = k ~ exp [ alpha_t(.) + log w_{t+1}(., k) ].

Rabiner (1989), *Proceedings of the IEEE* 77(2), section III; Scott (2002), *JASA* 97(457), sections 2.1-2.2;
Chopin & Papaspiliopoulos (2020), *An Introduction to Sequential Monte Carlo*, sections 6.2-6.3.

The alphas are shifted at each step, so that float32 serves any length, and a weight of zero (log -inf) has
gradient zero.  The cost is T K^2, the memory T K.  For few values the gradient goes back through the loop,
which keeps T K^2 numbers and no exponential is taken twice; for more it is a backward pass.  For many values, or
values whose number grows, use particles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

FEW = 16
"""Up to this many values gradients go back through the loop: it takes half the time for 3, and 1.4 times for 32."""


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
        log_likelihood: log of the sum over all paths, a scalar.
        log_filter: (T, K) log-probability of the value at a step given the weights up to it.
    """

    log_likelihood: Array
    log_filter: Array


class Smoothed(NamedTuple):
    """Probabilities given all weights: of the start (J,), of the value at each step (T, K)."""

    start: Array
    steps: Array


def log_sum_exp(a: Array, axis: Any) -> Array:
    """Sum in logs over an axis or several; all -inf gives -inf, with gradient zero."""
    top = _finite(jnp.max(a, axis=axis, keepdims=True))
    total = jnp.sum(jnp.exp(a - top), axis=axis)
    # A sum that is NaN stays NaN.
    none = total == 0.0
    return jnp.where(none, -jnp.inf, jnp.squeeze(top, axis) + jnp.log(jnp.where(none, 1.0, total)))


def _finite(top: Array) -> Array:
    """Turn a largest log-weight into a shift: any finite number will do, and none has a gradient."""
    return lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))


def _probabilities(a: Array, axis: Any) -> Array:
    """Normalise log-weights over an axis or several; no mass at all gives zeros."""
    return jnp.exp(a - jnp.expand_dims(_unless_empty(log_sum_exp(a, axis)), axis))


def _unless_empty(total: Array) -> Array:
    return jnp.where(total == -jnp.inf, 0.0, total)


def _between(constant: Array, varying: Array | None) -> Array:
    return constant if varying is None else constant + varying


def _alphas(chain: Chain) -> tuple[Array, Array]:
    """Run the forward pass: log-weights (T, K), the largest of each step zero, and the shifts (T,)."""

    def shifted(a: Array) -> tuple[Array, Array]:
        top = _finite(jnp.max(a))
        return a - top, top

    def step(previous: Array, inputs: tuple) -> tuple[Array, tuple[Array, Array]]:
        emission, varying = inputs
        new, top = shifted(log_sum_exp(previous[:, None] + _between(chain.constant, varying), 0) + emission)
        return new, (new, top)

    first, top = shifted(log_sum_exp(chain.start[:, None] + chain.first, 0) + chain.emission[0])
    _, (rest, tops) = lax.scan(step, first, (chain.emission[1:], chain.varying))
    return jnp.concatenate([first[None], rest]), jnp.concatenate([top[None], tops])


def _betas(chain: Chain) -> Array:
    """Run the backward pass: (T, K), up to a constant at each step."""
    last = jnp.zeros_like(chain.emission[0])

    def step(beta: Array, inputs: tuple) -> tuple[Array, Array]:
        emission, varying = inputs
        sums = log_sum_exp(_between(chain.constant, varying) + (emission + beta), 1)
        new = sums - _finite(jnp.max(sums))
        return new, new

    _, betas = lax.scan(step, last, (chain.emission[1:], chain.varying), reverse=True)
    return jnp.concatenate([betas, last[None]])


def forward(chain: Chain) -> Filtered:
    """Run the forward pass."""
    alphas, shifts = _alphas(chain)
    totals = log_sum_exp(alphas, 1)
    return Filtered(totals[-1] + jnp.sum(shifts), alphas - _unless_empty(totals)[:, None])


def smooth(chain: Chain, filtered: Filtered) -> Smoothed:
    """Run the backward pass; probabilities of each value given all weights."""
    betas = _betas(chain)
    begun = chain.start + log_sum_exp(chain.first + (chain.emission[0] + betas[0]), 1)
    return Smoothed(_probabilities(begun, 0), _probabilities(filtered.log_filter + betas, 1))


def log_likelihood(chain: Chain) -> Array:
    """Compute the log of the sum over all paths, a scalar, with the gradient that costs less."""
    few = chain.emission.shape[1] <= FEW
    return forward(chain).log_likelihood if few else log_likelihood_by_smoothing(chain)


@jax.custom_jvp
def log_likelihood_by_smoothing(chain: Chain) -> Array:
    """Compute the log of the sum over all paths, its gradient from a backward pass.

    The derivative in a log-weight is the posterior probability that the weight is used: nothing of the forward
    loop but the alphas is kept.
    """
    return forward(chain).log_likelihood


@log_likelihood_by_smoothing.defjvp
def _by_smoothing(primals: tuple[Chain], tangents: tuple[Chain]) -> tuple[Array, Array]:
    (chain,), (slope,) = primals, tangents
    (alphas, shifts), betas = _alphas(chain), _betas(chain)
    both, after = alphas + betas, chain.emission + betas
    begun = _probabilities(chain.start[:, None] + chain.first + after[0], (0, 1))
    moves = alphas[:-1, :, None] + _between(chain.constant, chain.varying) + after[1:, None, :]
    # The sum over moves into a step is known from the sum over its values.
    used = jnp.exp(moves - _unless_empty(log_sum_exp(both, 1) + shifts)[1:, None, None])
    change = jnp.sum(begun * (slope.start[:, None] + slope.first))
    change = change + jnp.sum(_probabilities(both, 1) * slope.emission)
    change = change + jnp.sum(jnp.sum(used, 0) * slope.constant)
    if slope.varying is not None:
        change = change + jnp.sum(used * slope.varying)
    return log_sum_exp(alphas[-1], 0) + jnp.sum(shifts), change


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


def log_weight(chain: Chain, start: Array, path: Array) -> Array:
    """Compute the log of the product of the weights along a path, as `sample` returns it; a scalar."""
    total = chain.start[start] + chain.first[start, path[0]] + jnp.sum(chain.constant[path[:-1], path[1:]])
    steps = jnp.arange(len(path))
    if chain.varying is not None:
        total = total + jnp.sum(chain.varying[steps[:-1], path[:-1], path[1:]])
    return total + jnp.sum(chain.emission[steps, path])
