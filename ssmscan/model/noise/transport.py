r"""Smooth transports for families without a quantile function: Gamma, Beta, Student t, Dirichlet.

JAX has no inverse incomplete gamma or beta function.  For gradient methods an approximate quantile
will do, if its error is put right in the density: with noise eps and a monotone T,

    log density of eps = log p(T(eps)) + log T'(eps) = log N(eps) + correction(eps),

and the value T(eps) has density p exactly.  With X the value, T gives d = log X - log E[X] of a Gamma and
d = logit X - log(a/b) of a Beta(a, b),

    d = shift + left log Phi(eps) - right log Phi(-eps) + middle eps,     left, right, middle >= 0.

`left` gives the exponential lower tail of log-gamma variables, log X ~ log(Phi)/k; `middle` the
Gaussian limit; `shift` and `middle` match mean and variance of d (digamma, trigamma); and `left` and
`right` match its skewness for large shapes.  The Kullback-Leibler divergence from the normal of the
pulled-back Gamma noise is below 0.006 for every shape.  The log densities are written around the
mode (Stirling remainders), so that shapes up to 1e4 lose nothing in float32.

Particles do not need any of this: they draw by rejection (`gammas`), or, for Student's t, by the exact
two-normal map of Bailey, Mathematics of Computation 62 (1994), 779-781.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import erf, gammaln

from ssmscan.model.noise.quantiles import HALF_LOG_2PI, LARGEST_NOISE, SQRT_2, bounded_exp, cast, log_tails, positive

# Moments of L = log Phi(eps): Var L = 1, Cov(eps, L), and Cov(L, -log Phi(-eps)) = pi^2/6 - 1.
_COV_NORMAL_LOG = 0.9031972855686254
_COV_LOG_LOG = 0.6449340668482264
# Third cumulant of middle*eps + left*L against that of log-gamma variables of large shape.
_SKEWNESS = 0.55
# Width of the smooth positive part that shares the variance of a Beta between tails and middle.
_BLEND = 0.1


class Transport(NamedTuple):
    """Coefficients of T, each of the shape of the noise."""

    shift: Array
    left: Array
    right: Array
    middle: Array

    def value(self, eps: Array) -> Array:
        """Return d = T(eps)."""
        log_p, log_q = log_tails(eps)
        return self.shift + self.left * log_p - self.right * log_q + self.middle * eps

    def log_slope(self, eps: Array) -> Array:
        """Return log T'(eps)."""
        log_normal = -0.5 * eps * eps - HALF_LOG_2PI
        log_p, log_q = log_tails(eps)
        tails = self.left * jnp.exp(log_normal - log_p) + self.right * jnp.exp(log_normal - log_q)
        return jnp.log(tails + self.middle)

    def inverse(self, d: Array) -> Array:
        """Solve T(eps) = d on [-12, 12] by bisection."""
        steps = 40 if d.dtype == jnp.float32 else 60

        def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            centre = 0.5 * (low + high)
            above = self.value(centre) > d
            return jnp.where(above, low, centre), jnp.where(above, centre, high)

        ends = jnp.full_like(d, -LARGEST_NOISE), jnp.full_like(d, LARGEST_NOISE)
        low, high = jax.lax.fori_loop(0, steps, halve, ends)
        return 0.5 * (low + high)


def _stirling(k: Array) -> Array:
    """Return log Gamma(k) - k log k + k, without cancellation for large k."""
    large = k > 30.0
    small_k, large_k = jnp.where(large, 30.0, k), jnp.where(large, k, 30.0)
    r = 1.0 / large_k
    series = HALF_LOG_2PI + 0.5 * jnp.log(r) + r * (1 / 12 - r * r * (1 / 360 - r * r / 1260))
    return jnp.where(large, series, gammaln(small_k) - small_k * jnp.log(small_k) + small_k)


def _log_ratio(log_density: Array, transport: Transport, eps: Array) -> Array:
    """Return log p(T) + log T' - log N: what the standard normal density lacks."""
    return log_density + transport.log_slope(eps) + 0.5 * eps * eps + HALF_LOG_2PI


def _tail(k: Array) -> Array:
    # 1/k is the exact lower tail, 0.55/k the right skewness for large k.
    return (1.0 + _SKEWNESS * k) / (1.0 + k) / k


def _log_moments(k: Array) -> tuple[Array, Array]:
    """Return digamma(k) - log k and trigamma(k + 1), the latter being Var log X - 1/k^2.

    To six digits, by recurrence to k + 4 and Stirling's series: T is exact whatever its coefficients,
    and JAX's polygamma and its derivative in k take most of the time of a gradient.
    """
    r = 1.0 / (k + 4.0)
    square = r * r
    mean = -0.5 * r - square / 12.0 + square * square / 120.0 + jnp.log1p(4.0 / k)
    variance = r + 0.5 * square + r * square * (1 / 6 - square * (1 / 30 - square / 42))
    for i in range(4):
        mean = mean - 1.0 / (k + i)
        variance = variance + (1.0 / (k + i) ** 2 if i else 0.0)
    return mean, variance


def gamma_transport(k: Array) -> Transport:
    """Match d = log(X rate / k) of a Gamma(k, rate) variable."""
    left = _tail(k)
    mean, variance = _log_moments(k)
    rest = variance + (1.0 / k - left) * (1.0 / k + left)
    covariance = _COV_NORMAL_LOG * left
    middle = rest / (covariance + jnp.sqrt(covariance * covariance + rest))
    return Transport(mean + left, left, jnp.zeros_like(left), middle)


def gamma_log_ratio(k: Array, eps: Array) -> Array:
    """Return the correction of the transported Gamma noise, elementwise."""
    transport = gamma_transport(k)
    d = transport.value(eps)
    return _log_ratio(-k * (jnp.expm1(d) - d) - _stirling(k), transport, eps)


def gamma_noise(key: Array, k: Array) -> Array:
    """Draw the noise whose image is a Gamma(k) variable: the family's sampler, pulled back."""
    log_x = jax.random.loggamma(key, k, k.shape, k.dtype)
    return gamma_transport(k).inverse(log_x - jnp.log(k))


def beta_transport(a: Array, b: Array) -> Transport:
    """Match d = logit(X) - log(a/b) of a Beta(a, b) variable."""
    left, right = _tail(a), _tail(b)
    (mean_a, variance_a), (mean_b, variance_b) = _log_moments(a), _log_moments(b)
    variance = variance_a + 1.0 / (a * a) + variance_b + 1.0 / (b * b)
    tails = left * left + right * right + 2.0 * _COV_LOG_LOG * left * right
    # Two heavy tails together have more variance than there is: shrink them smoothly.
    excess = tails / variance - 1.0
    root = jnp.sqrt(excess * excess + _BLEND * _BLEND)
    kept = 1.0 + 0.5 * (excess + root)
    left, right = left / jnp.sqrt(kept), right / jnp.sqrt(kept)
    rest = variance * 0.5 * (root - excess) / kept
    covariance = _COV_NORMAL_LOG * (left + right)
    middle = rest / (covariance + jnp.sqrt(covariance * covariance + rest))
    return Transport((mean_a + left) - (mean_b + right), left, right, middle)


def beta_log_ratio(a: Array, b: Array, eps: Array) -> Array:
    """Return the correction of the transported Beta noise, elementwise."""
    transport = beta_transport(a, b)
    d = transport.value(eps)
    total = a + b
    mean, log_mean, log_rest = a / total, jnp.log(a / total), jnp.log(b / total)
    near = jnp.abs(d) < 1.0
    # log(1 - m + m e^d): the first form is exact near the mode, the second in the tails.
    centre = jnp.log1p(mean * jnp.expm1(jnp.where(near, d, 0.0)))
    outer = jnp.logaddexp(log_rest, log_mean + d)
    log_density = a * d - total * jnp.where(near, centre, outer)
    log_density = log_density + _stirling(total) - _stirling(a) - _stirling(b)
    return _log_ratio(log_density, transport, eps)


def beta_noise(key: Array, a: Array, b: Array) -> Array:
    """Draw the noise whose image is a Beta(a, b) variable."""
    key_a, key_b = jax.random.split(key)
    logit = jax.random.loggamma(key_a, a, a.shape, a.dtype) - jax.random.loggamma(key_b, b, b.shape, b.dtype)
    return beta_transport(a, b).inverse(logit - jnp.log(a) + jnp.log(b))


def gamma_value(fn: Any, noise: Array) -> Array:
    """Map noise to a Gamma value."""
    eps, k, rate = cast(noise, fn.concentration, fn.rate)
    return positive(k / rate * bounded_exp(gamma_transport(k).value(eps)))


def inverse_gamma_value(fn: Any, noise: Array) -> Array:
    """Map noise to an inverse Gamma value; directly, since 1/a of a tiny a has no finite gradient."""
    eps, k, rate = cast(noise, fn.concentration, fn.rate)
    return positive(rate / k * bounded_exp(-gamma_transport(k).value(eps)))


def gamma_correction(fn: Any, noise: Array) -> Array:
    """Return the correction of a Gamma, elementwise."""
    eps, k = cast(noise, fn.concentration)
    return gamma_log_ratio(k, eps)


def gamma_draw(key: Array, fn: Any, shape: tuple[int, ...]) -> Array:
    """Draw the noise of a Gamma."""
    _, k = cast(jnp.zeros(shape), fn.concentration)
    return gamma_noise(key, k)


def beta_value(fn: Any, noise: Array) -> Array:
    """Map noise to a Beta value inside (0, 1)."""
    eps, a, b = cast(noise, fn.concentration1, fn.concentration0)
    value = jax.nn.sigmoid(beta_transport(a, b).value(eps) + jnp.log(a) - jnp.log(b))
    info = jnp.finfo(value.dtype)
    return jnp.clip(value, info.tiny, 1.0 - info.epsneg)


def beta_correction(fn: Any, noise: Array) -> Array:
    """Return the correction of a Beta, elementwise."""
    eps, a, b = cast(noise, fn.concentration1, fn.concentration0)
    return beta_log_ratio(a, b, eps)


def beta_draw(key: Array, fn: Any, shape: tuple[int, ...]) -> Array:
    """Draw the noise of a Beta."""
    _, a, b = cast(jnp.zeros(shape), fn.concentration1, fn.concentration0)
    return beta_noise(key, a, b)


def student_value(fn: Any, noise: Array) -> Array:
    """Map two normals to loc + scale e / sqrt(g), g ~ Gamma(df/2, df/2) transported."""
    pair, loc, scale, df = cast(noise, fn.loc, fn.scale, fn.df, shape=noise.shape[1:])
    log_g = gamma_transport(0.5 * df).value(pair[1])
    return loc + scale * pair[0] * bounded_exp(-0.5 * log_g)


def student_correction(fn: Any, noise: Array) -> Array:
    """Return the correction of the mixing variable of Student's t, elementwise."""
    pair, df = cast(noise, fn.df, shape=noise.shape[1:])
    return gamma_log_ratio(0.5 * df, pair[1])


def student_draw(key: Array, fn: Any, shape: tuple[int, ...]) -> Array:
    """Draw the two noises of a Student t."""
    key_z, key_g = jax.random.split(key)
    _, df = cast(jnp.zeros(shape), fn.df, shape=shape[1:])
    return jnp.stack([jax.random.normal(key_z, df.shape, df.dtype), gamma_noise(key_g, 0.5 * df)])


def student_exact(fn: Any, noise: Array) -> Array:
    """Map two normals to Student's t exactly: sqrt(df (U^(-2/df) - 1)) cos(pi V), U and V uniform."""
    pair, loc, scale, df = cast(noise, fn.loc, fn.scale, fn.df, shape=noise.shape[1:])
    exponent = -2.0 * log_tails(pair[0])[1] / df
    inner = jnp.maximum(-jnp.expm1(-exponent), jnp.finfo(exponent.dtype).tiny)
    radius = jnp.sqrt(df) * bounded_exp(0.5 * exponent) * jnp.sqrt(inner)
    return loc + scale * radius * jnp.sin(0.5 * jnp.pi * erf(pair[1] / SQRT_2))


def dirichlet_value(fn: Any, noise: Array) -> Array:
    """Map noise to a point of the simplex: transported Gammas, normalised in logs."""
    eps, k = cast(noise, fn.concentration)
    value = jax.nn.softmax(gamma_transport(k).value(eps) + jnp.log(k), axis=-1)
    return jnp.maximum(value, jnp.finfo(value.dtype).tiny)
