"""Quantile functions in the log-CDF domain: exact maps from a standard normal to a family.

With eps ~ N(0, 1), p = Phi(eps) is uniform and F^{-1}(p) has distribution F.  Written with p
itself the map overflows where float32 rounds p to one, at eps = 5.4.  Every map here is a function
of both log tails,

    log p = log Phi(eps),    log q = log Phi(-eps),

of which at least one is always accurate, so the map is exact to rounding wherever eps can be
(|eps| <= 12).  Example: the exponential is -log q / rate, the Gumbel loc - scale log(-log p).
Devroye, Non-Uniform Random Variate Generation (1986), section II.2, has the inversions.

For a family without a quantile function in closed form see `transport`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import erfinv, log_ndtr
from jax.typing import ArrayLike
from numpyro.distributions.truncated import (
    LeftTruncatedDistribution,
    RightTruncatedDistribution,
    TwoSidedTruncatedDistribution,
)

# Beyond 12 the smaller tail of a normal underflows in float32.
LARGEST_NOISE = 12.0
# A truncation bound further out than this many scales counts as this far: finite, and never reached.
FARTHEST_BOUND = 1e10
_TRUNCATED = (LeftTruncatedDistribution, RightTruncatedDistribution, TwoSidedTruncatedDistribution)
LOG_2 = 0.6931471805599453
HALF_LOG_2PI = 0.9189385332046727

Tail = Callable[[Array], Array]


def cast(noise: Array, *parameters: ArrayLike, shape: tuple[int, ...] | None = None) -> list[Array]:
    """Bring noise and parameters to one strong dtype, and the parameters to one shape.

    Args:
        noise: standard normals, clipped to [-12, 12].
        parameters: anything that broadcasts to `shape`.
        shape: the shape of a value, that of `noise` by default.

    Returns:
        The noise and the parameters in the dtype of the family's values.
    """
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(noise, *parameters)
    to = jnp.shape(noise) if shape is None else shape
    clipped = jnp.clip(jnp.asarray(noise, dtype), -LARGEST_NOISE, LARGEST_NOISE)
    return [clipped, *(jnp.broadcast_to(jnp.asarray(p, dtype), to) for p in parameters)]


def bounded_exp(x: Array) -> Array:
    """Exponentiate into the positive normal numbers: neither 0 nor infinity."""
    info = jnp.finfo(x.dtype)
    low, high = float(jnp.log(info.tiny)) + 0.1, float(jnp.log(info.max)) - 0.1
    return jnp.exp(jnp.clip(x, low, high))


@jax.custom_jvp
def _normal_lower(log_p: Array) -> Array:
    """Invert log_ndtr for log_p <= log(1/2).

    Newton on the concave log_ndtr from -sqrt(-2 (log p + log 2)), a lower bound on the root because
    Phi(-h) <= exp(-h^2/2) / 2: the iterates increase to the root and never leave.
    """
    x = -jnp.sqrt(jnp.maximum(-2.0 * (log_p + LOG_2), 0.0))
    for _ in range(5):
        log_cdf = log_ndtr(x)
        x = x + (log_p - log_cdf) * jnp.exp(log_cdf + 0.5 * x * x + HALF_LOG_2PI)
    return x


@_normal_lower.defjvp
def _normal_lower_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (log_p,), (dlog_p,) = primals, tangents
    x = _normal_lower(log_p)
    return x, dlog_p * jnp.exp(log_p + 0.5 * x * x + HALF_LOG_2PI)


def _symmetric(lower: Tail) -> Callable[[Array, Array], Array]:
    """Extend the quantile of the lower half, a function of log p, to both halves of a symmetric law."""

    def quantile(log_p: Array, log_q: Array) -> Array:
        left = log_p < log_q
        half = lower(jnp.minimum(jnp.where(left, log_p, log_q), -LOG_2))
        return jnp.where(left, half, -half)

    return quantile


def _cauchy_lower(log_p: Array) -> Array:
    # cot(pi p) = cos(pi p) / (pi p sinc(p)): the pole stays in the exponent, where gradients are finite.
    p = jnp.exp(log_p)
    return -jnp.exp(-log_p) * jnp.cos(jnp.pi * p) / (jnp.pi * jnp.sinc(p))


def _laplace_log_cdf(z: Array) -> Array:
    # The exponential is guarded twice: its argument, and the branch.
    upper = jnp.log1p(-0.5 * jnp.exp(-jnp.maximum(z, 0.0)))
    return jnp.where(z < 0.0, jnp.minimum(z, 0.0) - LOG_2, upper)


def _cauchy_log_cdf(z: Array) -> Array:
    return jnp.log(jnp.arctan2(jnp.ones_like(z), -z) / jnp.pi)


normal_quantile = _symmetric(_normal_lower)
cauchy_quantile = _symmetric(_cauchy_lower)
laplace_quantile = _symmetric(lambda log_p: log_p + LOG_2)


def logistic_quantile(log_p: Array, log_q: Array) -> Array:
    """Return log(p / q)."""
    return log_p - log_q


# Symmetric location-scale families: (quantile, log CDF) of the standard member.
SYMMETRIC: dict[type, tuple[Callable[[Array, Array], Array], Tail]] = {
    dist.Normal: (normal_quantile, log_ndtr),
    dist.Cauchy: (cauchy_quantile, _cauchy_log_cdf),
    dist.Laplace: (laplace_quantile, _laplace_log_cdf),
    dist.Logistic: (logistic_quantile, jax.nn.log_sigmoid),
}


def _tails(eps: Array) -> tuple[Array, Array]:
    return log_ndtr(eps), log_ndtr(-eps)


def _standard(fn: Any) -> tuple[Callable[[Array, Array], Array], Tail] | None:
    return next((SYMMETRIC[cls] for cls in type(fn).__mro__ if cls in SYMMETRIC), None)


def has_quantile(fn: Any) -> bool:
    """Tell a truncated distribution whose base has no quantile function here from all others."""
    return not isinstance(fn, _TRUNCATED) or _standard(fn.base_dist) is not None


def _location_scale(fn: Any, eps: Array) -> Array:
    quantile, _ = _standard(fn)
    eps, loc, scale = cast(eps, fn.loc, fn.scale)
    return loc + scale * quantile(*_tails(eps))


def _normal(fn: dist.Normal, eps: Array) -> Array:
    eps, loc, scale = cast(eps, fn.loc, fn.scale)
    return loc + scale * eps


def _gumbel(fn: dist.Gumbel, eps: Array) -> Array:
    eps, loc, scale = cast(eps, fn.loc, fn.scale)
    return loc - scale * jnp.log(-log_ndtr(eps))


def _soft_laplace(fn: dist.SoftLaplace, eps: Array) -> Array:
    eps, loc, scale = cast(eps, fn.loc, fn.scale)

    def lower(log_p: Array) -> Array:
        half = 0.5 * jnp.exp(log_p)
        return log_p + jnp.log(0.5 * jnp.pi * jnp.sinc(half) / jnp.cos(jnp.pi * half))

    return loc + scale * _symmetric(lower)(*_tails(eps))


def _asymmetric_laplace(fn: dist.AsymmetricLaplace, eps: Array) -> Array:
    eps, loc, left, right = cast(eps, fn.loc, fn.left_scale, fn.right_scale)
    log_p, log_q = _tails(eps)
    below = log_p + jnp.log1p(right / left)
    above = log_q + jnp.log1p(left / right)
    return loc + jnp.where(below < 0.0, left * below, -right * above)


def _exponential(fn: dist.Exponential, eps: Array) -> Array:
    eps, rate = cast(eps, fn.rate)
    return -log_ndtr(-eps) / rate


def _weibull(fn: dist.Weibull, eps: Array) -> Array:
    eps, scale, concentration = cast(eps, fn.scale, fn.concentration)
    return scale * bounded_exp(jnp.log(-log_ndtr(-eps)) / concentration)


def _pareto(fn: dist.Pareto, eps: Array) -> Array:
    eps, scale, alpha = cast(eps, fn.scale, fn.alpha)
    return scale * bounded_exp(-log_ndtr(-eps) / alpha)


def _gompertz(fn: dist.Gompertz, eps: Array) -> Array:
    eps, concentration, rate = cast(eps, fn.concentration, fn.rate)
    return jnp.log1p(-log_ndtr(-eps) / concentration) / rate


def _kumaraswamy(fn: dist.Kumaraswamy, eps: Array) -> Array:
    eps, a, b = cast(eps, fn.concentration1, fn.concentration0)
    inner = log_ndtr(-eps) / b
    # Below the range of exp the result is 1 whatever it is; the guard keeps its gradient finite.
    log_power = jnp.log(-jnp.expm1(jnp.maximum(inner, -80.0)))
    return bounded_exp(log_power / a)


def _half_normal(fn: dist.HalfNormal, eps: Array) -> Array:
    eps, scale = cast(eps, fn.scale)
    log_p, log_q = _tails(eps)
    near = jnp.sqrt(2.0).astype(eps.dtype) * erfinv(jnp.exp(jnp.minimum(log_p, -LOG_2)))
    far = -_normal_lower(jnp.minimum(log_q, -LOG_2) - LOG_2)
    return scale * jnp.where(eps < 0.0, near, far)


def _half_cauchy(fn: dist.HalfCauchy, eps: Array) -> Array:
    eps, scale = cast(eps, fn.scale)
    log_p, log_q = _tails(eps)
    near = jnp.tan(0.5 * jnp.pi * jnp.exp(jnp.minimum(log_p, -LOG_2)))
    far = -_cauchy_lower(jnp.minimum(log_q, -LOG_2) - LOG_2)
    return scale * jnp.where(eps < 0.0, near, far)


def _uniform(fn: dist.Uniform, eps: Array) -> Array:
    eps, low, high = cast(eps, fn.low, fn.high)
    log_p, log_q = _tails(eps)
    # From the nearer end, so that neither bound swallows a small distance to the other.
    from_low, from_high = low + (high - low) * jnp.exp(log_p), high - (high - low) * jnp.exp(log_q)
    return jnp.where(eps < 0.0, from_low, from_high)


def _truncated(fn: Any, eps: Array, low: ArrayLike | None, high: ArrayLike | None) -> Array:
    """Mix the tails of the bounds: F(x) = q F(low) + p F(high), and 1 - F(x) likewise, both sums of positives."""
    quantile, log_cdf = _standard(fn.base_dist)
    bounds = [b for b in (low, high) if b is not None]
    eps, loc, scale, *bounds = cast(eps, fn.base_dist.loc, fn.base_dist.scale, *bounds)
    log_p, log_q = _tails(eps)
    log_below, log_above, x_bounds = log_p, log_q, list(bounds)
    if low is not None:
        z = jnp.clip((bounds[0] - loc) / scale, -FARTHEST_BOUND, FARTHEST_BOUND)
        low_below, low_above = log_cdf(z) + log_q, log_cdf(-z) + log_q
    if high is not None:
        z = jnp.clip((bounds[-1] - loc) / scale, -FARTHEST_BOUND, FARTHEST_BOUND)
        log_below, high_above = log_cdf(z) + log_p, log_cdf(-z) + log_p
        log_above = high_above if low is not None else jnp.logaddexp(log_q, high_above)
    if low is not None:
        log_below = jnp.logaddexp(low_below, log_below)
        log_above = low_above if high is None else jnp.logaddexp(low_above, log_above)
    x = loc + scale * quantile(log_below, log_above)
    x = x if low is None else jnp.maximum(x, x_bounds[0])
    return x if high is None else jnp.minimum(x, x_bounds[-1])


QUANTILES: dict[type, Callable[[Any, Array], Array]] = {
    dist.Normal: _normal,
    dist.Cauchy: _location_scale,
    dist.Laplace: _location_scale,
    dist.Logistic: _location_scale,
    dist.SoftLaplace: _soft_laplace,
    dist.AsymmetricLaplace: _asymmetric_laplace,
    dist.Gumbel: _gumbel,
    dist.Exponential: _exponential,
    dist.Weibull: _weibull,
    dist.Pareto: _pareto,
    dist.Gompertz: _gompertz,
    dist.Kumaraswamy: _kumaraswamy,
    dist.HalfNormal: _half_normal,
    dist.HalfCauchy: _half_cauchy,
    dist.Uniform: _uniform,
    LeftTruncatedDistribution: lambda fn, eps: _truncated(fn, eps, fn.low, None),
    RightTruncatedDistribution: lambda fn, eps: _truncated(fn, eps, None, fn.high),
    TwoSidedTruncatedDistribution: lambda fn, eps: _truncated(fn, eps, fn.low, fn.high),
}
