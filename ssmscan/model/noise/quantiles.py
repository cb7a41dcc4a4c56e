"""Quantile functions in the log-CDF domain: exact maps from a standard normal to a family.

With eps ~ N(0, 1), p = Phi(eps) is uniform and F^{-1}(p) has distribution F.  Written with p
itself the map overflows where float32 rounds p to one, at eps = 5.4.  Every map here is a function
of both log tails,

    log p = log Phi(eps),    log q = log Phi(-eps),

both accurate to rounding, so the map is exact wherever eps can be (|eps| <= 12).  Example: the
exponential is -log q / rate, the Gumbel loc - scale log(-log p).  A normal is loc + scale eps for every eps: data may
say that its noise was 50.
Devroye, Non-Uniform Random Variate Generation (1986), section II.2, has the inversions.

The inverse of a map is in `tails`.  For a family without a quantile function in closed form see `transport`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
FARTHEST_BOUND = 1e9
_TRUNCATED = (LeftTruncatedDistribution, RightTruncatedDistribution, TwoSidedTruncatedDistribution)
LOG_2 = 0.6931471805599453
SQRT_2 = 1.4142135623730951
HALF_LOG_2PI = 0.9189385332046727

Tail = Callable[[Array], Array]


def aligned(noise: Array, *parameters: ArrayLike, shape: tuple[int, ...] | None = None) -> list[Array]:
    """Bring noise and parameters to one strong dtype, and the parameters to one shape.

    Args:
        noise: standard normals.
        parameters: anything that broadcasts to `shape`.
        shape: the shape of a value, that of `noise` by default.

    Returns:
        The noise and the parameters in the dtype of the family's values.
    """
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(noise, *parameters)
    to = jnp.shape(noise) if shape is None else shape
    return [jnp.asarray(noise, dtype), *(jnp.broadcast_to(jnp.asarray(p, dtype), to) for p in parameters)]


def bounded(noise: Array) -> Array:
    """Clip noise to [-12, 12]; for what is no affine function of it."""
    return jnp.clip(noise, -LARGEST_NOISE, LARGEST_NOISE)


def cast(noise: Array, *parameters: ArrayLike, shape: tuple[int, ...] | None = None) -> list[Array]:
    """Align noise and parameters, and clip the noise; arguments as in `aligned`."""
    noise, *rest = aligned(noise, *parameters, shape=shape)
    return [bounded(noise), *rest]


def bounded_exp(exponent: Array) -> Array:
    """Exponentiate into the positive numbers, with a factor of 1000 to spare before 0 and infinity."""
    info = np.finfo(exponent.dtype)
    return jnp.exp(jnp.clip(exponent, float(np.log(info.tiny)) + 7.0, float(np.log(info.max)) - 7.0))


def positive(value: Array) -> Array:
    """Keep a positive value from rounding to 0 or infinity, where its log-density is undefined."""
    info = np.finfo(value.dtype)
    return jnp.clip(value, float(info.tiny), float(info.max))


def log_tails(eps: Array) -> tuple[Array, Array]:
    """Return log Phi(eps) and log Phi(-eps), the one near zero without cancellation.

    `log_ndtr` alone loses that one: in float32 it is wrong by 4 % at eps = 5.
    """
    below = eps < 0.0
    lower = log_ndtr(jnp.where(below, eps, -eps))
    upper = jnp.log1p(-jnp.exp(lower))
    return jnp.where(below, lower, upper), jnp.where(below, upper, lower)


def normal_lower(log_p: Array) -> Array:
    """Invert log_ndtr for log_p <= log(1/2).

    Newton on the concave log_ndtr from -sqrt(-2 (log p + log 2)), a lower bound on the root because
    Phi(-h) <= exp(-h^2/2) / 2: the iterates increase to the root and never leave.
    """
    eps = first_normal_lower(log_p)
    for _ in range(5):
        eps = nearer_normal_lower(log_p, eps)
    return eps


def first_normal_lower(log_p: Array) -> Array:
    """Return where `normal_lower` begins."""
    return -jnp.sqrt(jnp.maximum(-2.0 * (log_p + LOG_2), 0.0))


def nearer_normal_lower(log_p: Array, eps: Array) -> Array:
    """Make a step of `normal_lower`."""
    log_cdf = log_ndtr(eps)
    return eps + (log_p - log_cdf) * jnp.exp(log_cdf + 0.5 * eps * eps + HALF_LOG_2PI)


_normal_lower = jax.custom_jvp(normal_lower)


@_normal_lower.defjvp
def _normal_lower_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (log_p,), (dlog_p,) = primals, tangents
    eps = _normal_lower(log_p)
    return eps, dlog_p * jnp.exp(log_p + 0.5 * eps * eps + HALF_LOG_2PI)


def _symmetric(lower: Tail) -> Callable[[Array, Array], Array]:
    """Extend the quantile of the lower half, a function of log p, to both halves of a symmetric law."""

    def quantile(log_p: Array, log_q: Array) -> Array:
        left = log_p < log_q
        half = lower(jnp.where(left, log_p, log_q))
        return jnp.where(left, half, -half)

    return quantile


def _angle_cot_angle(angle: Array) -> Array:
    """Return angle / tan(angle) on (0, pi/2], by its series near zero."""
    near = angle < 1e-2
    far = jnp.where(near, 1e-2, angle)
    square = angle * angle
    return jnp.where(near, 1.0 - square / 3.0 - square * square / 45.0, far / jnp.tan(far))


def _cauchy_lower(log_p: Array) -> Array:
    # -cot(pi p) with its pole in an exponent, where gradients are finite.
    return -jnp.exp(-log_p) / jnp.pi * _angle_cot_angle(jnp.pi * jnp.exp(log_p))


def _laplace_log_cdf(point: Array) -> Array:
    # The exponential is guarded twice: its argument, and the branch.
    upper = jnp.log1p(-0.5 * jnp.exp(-jnp.maximum(point, 0.0)))
    return jnp.where(point < 0.0, jnp.minimum(point, 0.0) - LOG_2, upper)


def cauchy_log_cdf(point: Array) -> Array:
    """Return the log CDF of a standard Cauchy."""
    return jnp.log(jnp.arctan2(jnp.ones_like(point), -point) / jnp.pi)


normal_quantile = _symmetric(_normal_lower)
cauchy_quantile = _symmetric(_cauchy_lower)
laplace_quantile = _symmetric(lambda log_p: log_p + LOG_2)


def logistic_quantile(log_p: Array, log_q: Array) -> Array:
    """Return log(p / q)."""
    return log_p - log_q


# Symmetric location-scale families: (quantile, log CDF) of the standard member.
SYMMETRIC: dict[type, tuple[Callable[[Array, Array], Array], Tail]] = {
    dist.Normal: (normal_quantile, log_ndtr),
    dist.Cauchy: (cauchy_quantile, cauchy_log_cdf),
    dist.Laplace: (laplace_quantile, _laplace_log_cdf),
    dist.Logistic: (logistic_quantile, jax.nn.log_sigmoid),
}


def standard(fn: Any) -> tuple[Callable[[Array, Array], Array], Tail]:
    """Return the quantile function and the log CDF of the standard member of a symmetric family."""
    return next(SYMMETRIC[cls] for cls in type(fn).__mro__ if cls in SYMMETRIC)


def has_quantile(fn: Any) -> bool:
    """Return whether this is anything but a truncated distribution whose base has no quantile function here."""
    return not isinstance(fn, _TRUNCATED) or isinstance(fn.base_dist, tuple(SYMMETRIC))


def _location_scale(fn: Any, eps: Array) -> Array:
    pair = standard(fn)
    assert pair is not None
    quantile, _ = pair
    eps, loc, scale = cast(eps, fn.loc, fn.scale)
    return loc + scale * quantile(*log_tails(eps))


def _normal(fn: dist.Normal, eps: Array) -> Array:
    eps, loc, scale = aligned(eps, fn.loc, fn.scale)
    return loc + scale * eps


def _gumbel(fn: dist.Gumbel, eps: Array) -> Array:
    eps, loc, scale = cast(eps, fn.loc, fn.scale)
    return loc - scale * jnp.log(-log_tails(eps)[0])


def _soft_laplace(fn: dist.SoftLaplace, eps: Array) -> Array:
    eps, loc, scale = cast(eps, fn.loc, fn.scale)

    def lower(log_p: Array) -> Array:
        # log tan(pi p / 2)
        return log_p + jnp.log(0.5 * jnp.pi / _angle_cot_angle(0.5 * jnp.pi * jnp.exp(log_p)))

    return loc + scale * _symmetric(lower)(*log_tails(eps))


def _asymmetric_laplace(fn: dist.AsymmetricLaplace, eps: Array) -> Array:
    eps, loc, left, right = cast(eps, fn.loc, fn.left_scale, fn.right_scale)
    log_p, log_q = log_tails(eps)
    below = log_p + jnp.log1p(right / left)
    above = log_q + jnp.log1p(left / right)
    return loc + jnp.where(below < 0.0, left * below, -right * above)


def _exponential(fn: dist.Exponential, eps: Array) -> Array:
    eps, rate = cast(eps, fn.rate)
    return -log_tails(eps)[1] / rate


def _weibull(fn: dist.Weibull, eps: Array) -> Array:
    eps, scale, concentration = cast(eps, fn.scale, fn.concentration)
    return positive(scale * bounded_exp(jnp.log(-log_tails(eps)[1]) / concentration))


def _pareto(fn: dist.Pareto, eps: Array) -> Array:
    eps, scale, alpha = cast(eps, fn.scale, fn.alpha)
    # The support is open at `scale`.
    ratio = jnp.maximum(bounded_exp(-log_tails(eps)[1] / alpha), 1.0 + float(np.finfo(eps.dtype).eps))
    return positive(scale * ratio)


def _gompertz(fn: dist.Gompertz, eps: Array) -> Array:
    eps, concentration, rate = cast(eps, fn.concentration, fn.rate)
    return jnp.log1p(-log_tails(eps)[1] / concentration) / rate


def _kumaraswamy(fn: dist.Kumaraswamy, eps: Array) -> Array:
    eps, a, b = cast(eps, fn.concentration1, fn.concentration0)
    inner = log_tails(eps)[1] / b
    # Below the range of exp the result is 1 whatever it is; the guard keeps its gradient finite.
    log_power = jnp.log(-jnp.expm1(jnp.maximum(inner, -80.0)))
    return bounded_exp(log_power / a)


def _half_normal(fn: dist.HalfNormal, eps: Array) -> Array:
    eps, scale = cast(eps, fn.scale)
    log_p, log_q = log_tails(eps)
    # Each branch sees the other's arguments replaced by the median, so that no gradient is NaN.
    below = eps < 0.0
    near = SQRT_2 * erfinv(jnp.exp(jnp.where(below, log_p, -LOG_2)))
    far = -_normal_lower(jnp.where(below, -LOG_2, log_q) - LOG_2)
    return scale * jnp.where(below, near, far)


def _half_cauchy(fn: dist.HalfCauchy, eps: Array) -> Array:
    eps, scale = cast(eps, fn.scale)
    log_p, log_q = log_tails(eps)
    below = eps < 0.0
    near = jnp.tan(0.5 * jnp.pi * jnp.exp(jnp.where(below, log_p, -LOG_2)))
    far = -_cauchy_lower(jnp.where(below, -LOG_2, log_q) - LOG_2)
    return scale * jnp.where(below, near, far)


def _uniform(fn: dist.Uniform, eps: Array) -> Array:
    eps, low, high = cast(eps, fn.low, fn.high)
    log_p, log_q = log_tails(eps)
    # From the nearer end, so that neither bound swallows a small distance to the other.
    from_low, from_high = low + (high - low) * jnp.exp(log_p), high - (high - low) * jnp.exp(log_q)
    return jnp.where(eps < 0.0, from_low, from_high)


def _log_uniform(fn: dist.LogUniform, eps: Array) -> Array:
    eps, low, high = cast(eps, fn.low, fn.high)
    log_p, log_q = log_tails(eps)
    width = jnp.log(high / low)
    from_low, from_high = low * jnp.exp(width * jnp.exp(log_p)), high * jnp.exp(-width * jnp.exp(log_q))
    return jnp.clip(jnp.where(eps < 0.0, from_low, from_high), low, high)


def standardised(bound: Array, loc: Array, scale: Array) -> Array:
    """Return the bound of a truncation in scales from the location, no further out than counts."""
    # Clipped twice: an infinite bound must not reach the division, whose gradient would be NaN.
    standard = (jnp.clip(bound, -(FARTHEST_BOUND**2), FARTHEST_BOUND**2) - loc) / scale
    return jnp.clip(standard, -FARTHEST_BOUND, FARTHEST_BOUND)


def _truncated(fn: Any, eps: Array, low: ArrayLike | None, high: ArrayLike | None) -> Array:
    """Mix the tails of the bounds: F(value) = q F(low) + p F(high) and 1 - F(value) likewise; nothing cancels."""
    pair = standard(fn.base_dist)
    assert pair is not None
    quantile, log_cdf = pair
    given = [bound for bound in (low, high) if bound is not None]
    eps, loc, scale, *bounds = cast(eps, fn.base_dist.loc, fn.base_dist.scale, *given)
    log_p, log_q = log_tails(eps)
    ends = [standardised(bound, loc, scale) for bound in bounds]
    # A missing bound has F(low) = 0 or 1 - F(high) = 0: its term is left out.
    if high is None:
        value = quantile(jnp.logaddexp(log_cdf(ends[0]) + log_q, log_p), log_cdf(-ends[0]) + log_q)
        return jnp.maximum(loc + scale * value, bounds[0])
    if low is None:
        value = quantile(log_cdf(ends[0]) + log_p, jnp.logaddexp(log_q, log_cdf(-ends[0]) + log_p))
        return jnp.minimum(loc + scale * value, bounds[0])
    below = jnp.logaddexp(log_cdf(ends[0]) + log_q, log_cdf(ends[1]) + log_p)
    above = jnp.logaddexp(log_cdf(-ends[0]) + log_q, log_cdf(-ends[1]) + log_p)
    return jnp.clip(loc + scale * quantile(below, above), bounds[0], bounds[1])


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
    dist.LogUniform: _log_uniform,
    LeftTruncatedDistribution: lambda fn, eps: _truncated(fn, eps, fn.low, None),
    RightTruncatedDistribution: lambda fn, eps: _truncated(fn, eps, None, fn.high),
    TwoSidedTruncatedDistribution: lambda fn, eps: _truncated(fn, eps, fn.low, fn.high),
}
