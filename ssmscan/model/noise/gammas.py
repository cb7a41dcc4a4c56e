r"""Exact draws of Gamma variables, and what is made of them, for particles: Beta, Dirichlet, mixed counts.

Rejection of Marsaglia & Tsang (2000), "A simple method for generating gamma variables", ACM TOMS 26, 363-372: with
d = k - 1/3, y = e / (3 sqrt(d)), e normal and U uniform, d (1 + y)^3 is Gamma(k) if 1 + y > 0 and U <= h(y),

    log h(y) = 3 d (log(1 + y) - y + y^2/2 - y^3/3) <= 0,

which holds for 95 % of the e at k = 1 and more above.  For k < 2 the draw is of shape k + 1 and times V^(1/k), where
V = U / h of the accepted candidate is again uniform and independent of it: no other number is needed.

The noise of a variable is three normals (e, a, b), with U = exp(-(a^2 + b^2)/2), and makes the first candidate.  A
particle that rejects goes on with candidates from Threefry under the bits of its own noise: the value is a function of
the noise, and no keys are made.  All particles take part in each round, four rounds for 10^4 of them, and a round is
two blocks of Threefry and two logarithms.  JAX's own sampler makes keys for each particle and round, in nested loops.

The value jumps where a candidate is rejected: it has no derivative, and its density goes into the weight (`score`).
For smooth maps of the same families see `transport`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.noise import counts
from ssmscan.model.noise.quantiles import cast, positive
from ssmscan.model.threefry import normal_and_exponential

NORMALS = 3
"""How many standard normals a Gamma variable takes."""
_FEW = 32
# A bound that is never reached: each round rejects 5 %.
_MOST_ROUNDS = 64


def _words(noise: Array) -> Array:
    """Return the bits of floats as 32-bit words; the two words of a float64 are mixed into one."""
    words = lax.bitcast_convert_type(noise, np.uint32)
    return words if words.ndim == noise.ndim else words[..., 0] ^ (words[..., 1] * np.uint32(0x9E3779B9))


def _log_acceptance(d: Array, y: Array) -> Array:
    """Return log h(y); near zero as a series, of which nothing cancels."""
    near = jnp.abs(y) < 0.1
    small, large = jnp.where(near, y, 0.0), jnp.where(near, 0.0, y)
    series = jnp.zeros_like(y)
    for power in range(11, 3, -1):
        series = (-1.0) ** (power + 1) / power + small * series
    exact = jnp.log1p(jnp.maximum(large, -1.0)) - large * (1.0 - large * (0.5 - large / 3.0))
    return 3.0 * d * jnp.where(near, series * jnp.square(jnp.square(small)), exact)


def standard_gamma(noise: Array, k: Array) -> tuple[Array, Array]:
    """Draw Gamma(k, 1) variables as a product of which the second factor may underflow.

    Args:
        noise: standard normals, NORMALS in front of the shape of k.
        k: shapes; one that is NaN or negative gives NaN.

    Returns:
        A positive factor and the log of another, <= 0.
    """
    few = 1 < k.size <= _FEW
    return lax.platform_dependent(noise, k, cpu=_one_by_one, default=_together) if few else _together(noise, k)


def _one_by_one(noise: Array, k: Array) -> tuple[Array, Array]:
    """Draw element by element: of small arrays, one for each particle, XLA on a CPU computes one number at a time."""

    def element(_: None, inputs: tuple) -> tuple[None, tuple[Array, Array]]:
        return None, _together(jnp.stack(inputs[:-1]), inputs[-1])

    _, draws = lax.scan(element, None, (*jnp.reshape(noise, (NORMALS, k.size)), jnp.ravel(k)))
    return jnp.reshape(draws[0], k.shape), jnp.reshape(draws[1], k.shape)


def _together(noise: Array, k: Array) -> tuple[Array, Array]:
    """Draw all elements in one loop."""
    k = jnp.where(k >= 0.0, k, jnp.nan)
    boosted = k < 2.0
    d = jnp.where(boosted, k + 1.0, k) - 1.0 / 3.0
    scale = lax.rsqrt(9.0 * d)
    first_word, second_word, third_word = _words(noise)

    def candidate(normal: Array, exponential: Array) -> tuple[Array, Array, Array]:
        y = scale * normal
        log_v = -exponential - _log_acceptance(d, y)
        # A comparison with NaN is false: a NaN is accepted at once.
        return (y <= -1.0) | (log_v > 0.0), y, log_v

    def again(state: tuple) -> tuple:
        number, rejected, y, log_v = state
        fresh = normal_and_exponential((first_word, second_word), third_word, number, k.dtype)
        still, *new = candidate(*fresh)
        y, log_v = (jnp.where(rejected, n, o) for n, o in zip(new, (y, log_v)))
        return number + np.uint32(1), rejected & still, y, log_v

    first = candidate(noise[0], 0.5 * (noise[1] * noise[1] + noise[2] * noise[2]))
    state = (jnp.zeros((), np.uint32), *first)
    _, _, y, log_v = lax.while_loop(lambda s: jnp.any(s[1]) & (s[0] < _MOST_ROUNDS), again, state)
    root = 1.0 + y
    return d * root * root * root, jnp.where(boosted, log_v / k, 0.0)


def _gamma(noise: Array, k: Array, rate: Array) -> Array:
    factor, log_factor = standard_gamma(noise, k)
    return factor / rate * jnp.exp(log_factor)


def _odds(noise: Array, a: Array, b: Array) -> Array:
    """Draw (1 - p) / p of p ~ Beta(a, b), both Gamma variables in one loop."""
    pair = jnp.reshape(noise, (NORMALS, 2, *noise.shape[1:]))
    factor, log_factor = standard_gamma(pair, jnp.stack([a, b]))
    return factor[1] / factor[0] * jnp.exp(log_factor[1] - log_factor[0])


def gamma_value(fn: Any, noise: Array) -> Array:
    """Map 3 normals to a Gamma value."""
    noise, k, rate = lax.stop_gradient(cast(noise, fn.concentration, fn.rate, shape=noise.shape[1:]))
    return positive(_gamma(noise, k, rate))


def beta_value(fn: Any, noise: Array) -> Array:
    """Map 6 normals to a Beta value inside (0, 1)."""
    noise, a, b = lax.stop_gradient(cast(noise, fn.concentration1, fn.concentration0, shape=noise.shape[1:]))
    value = 1.0 / (1.0 + _odds(noise, a, b))
    info = jnp.finfo(value.dtype)
    return jnp.clip(value, info.tiny, 1.0 - info.epsneg)


def dirichlet_value(fn: Any, noise: Array) -> Array:
    """Map 3 normals for each corner to a point of the simplex."""
    noise, k = lax.stop_gradient(cast(noise, fn.concentration, shape=noise.shape[1:]))
    factor, log_factor = standard_gamma(noise, k)
    value = jax.nn.softmax(jnp.log(factor) + log_factor, axis=-1)
    return jnp.maximum(value, jnp.finfo(value.dtype).tiny)


def gamma_poisson_value(fn: Any, noise: Array) -> Array:
    """Map 4 normals to a count: the mean is a Gamma variable.  Every negative binomial is one."""
    noise, k, rate = lax.stop_gradient(cast(noise, fn.concentration, fn.rate, shape=noise.shape[1:]))
    return counts.poisson(noise[NORMALS], _gamma(noise[:NORMALS], k, rate))


def gamma_poisson_valid(fn: Any) -> Array:
    """Return where the mean has valid Gamma parameters."""
    return (jnp.asarray(fn.concentration) >= 0) & (jnp.asarray(fn.rate) >= 0)


def beta_binomial_value(fn: Any, noise: Array) -> Array:
    """Map 7 normals to a count: the probability is a Beta variable."""
    parameters = fn.concentration1, fn.concentration0, fn.total_count
    noise, a, b, total = lax.stop_gradient(cast(noise, *parameters, shape=noise.shape[1:]))
    odds = _odds(noise[: 2 * NORMALS], a, b)
    return counts.binomial(noise[2 * NORMALS], total, 1.0 / (1.0 + odds), 1.0 / (1.0 + 1.0 / odds))


def beta_binomial_valid(fn: Any) -> Array:
    """Return where the number of trials and the Beta parameters of the probability are valid."""
    both = (jnp.asarray(fn.concentration1) >= 0) & (jnp.asarray(fn.concentration0) >= 0)
    return both & (jnp.asarray(fn.total_count) >= 0)
