"""The noise of a value: the inverse of the maps in `quantiles`, from both log tails of the value.

    log p = log F(value),    log q = log (1 - F(value)),    eps = Phi^{-1}(p), from the smaller tail

Where a family has one tail in closed form the other is log(1 - exp) of it, without cancellation where it matters: in
the smaller one, which decides.  Everything is elementwise, so that what is found of one element of a panel is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import erf, log_ndtr
from numpyro.distributions.truncated import (
    LeftTruncatedDistribution,
    RightTruncatedDistribution,
    TwoSidedTruncatedDistribution,
)

from ssmscan.model.noise.quantiles import (
    LOG_2,
    SQRT_2,
    aligned,
    bounded,
    cauchy_log_cdf,
    first_normal_lower,
    nearer_normal_lower,
    standard,
    standardised,
)

Tails = tuple[Array, Array]


def _other(log_tail: Array) -> Array:
    """Return log(1 - exp(log_tail)); from the nearer of its two forms."""
    near_one = jnp.log(-jnp.expm1(jnp.maximum(log_tail, -LOG_2)))
    return jnp.where(log_tail > -LOG_2, near_one, jnp.log1p(-jnp.exp(jnp.minimum(log_tail, -LOG_2))))


def _from_upper(log_q: Array) -> Tails:
    return _other(log_q), log_q


def _from_lower(log_p: Array) -> Tails:
    return log_p, _other(log_p)


def _location_scale(fn: Any, value: Array) -> Tails:
    value, loc, scale = aligned(value, fn.loc, fn.scale)
    log_cdf, point = standard(fn)[1], (value - loc) / scale
    return log_cdf(point), log_cdf(-point)


def _gumbel(fn: dist.Gumbel, value: Array) -> Tails:
    value, loc, scale = aligned(value, fn.loc, fn.scale)
    return _from_lower(-jnp.exp((loc - value) / scale))


def _soft_laplace(fn: dist.SoftLaplace, value: Array) -> Tails:
    value, loc, scale = aligned(value, fn.loc, fn.scale)
    point = (value - loc) / scale

    def log_cdf(point: Array) -> Array:
        # Far below, atan(exp) is exp.
        return jnp.where(point < -30.0, point, jnp.log(jnp.arctan(jnp.exp(jnp.clip(point, -30.0, 60.0))))) + _LOG_2_PI

    return log_cdf(point), log_cdf(-point)


_LOG_2_PI = -0.4515827052894548
"""log(2 / pi)."""


def _asymmetric_laplace(fn: dist.AsymmetricLaplace, value: Array) -> Tails:
    value, loc, left, right = aligned(value, fn.loc, fn.left_scale, fn.right_scale)
    point = value - loc
    log_p = jnp.minimum(point, 0.0) / left - jnp.log1p(right / left)
    log_q = -jnp.maximum(point, 0.0) / right - jnp.log1p(left / right)
    return jnp.where(point < 0.0, log_p, _other(log_q)), jnp.where(point < 0.0, _other(log_p), log_q)


def _exponential(fn: dist.Exponential, value: Array) -> Tails:
    value, rate = aligned(value, fn.rate)
    return _from_upper(-rate * value)


def _weibull(fn: dist.Weibull, value: Array) -> Tails:
    value, scale, concentration = aligned(value, fn.scale, fn.concentration)
    return _from_upper(-((value / scale) ** concentration))


def _pareto(fn: dist.Pareto, value: Array) -> Tails:
    value, scale, alpha = aligned(value, fn.scale, fn.alpha)
    return _from_upper(-alpha * jnp.log1p((value - scale) / scale))


def _gompertz(fn: dist.Gompertz, value: Array) -> Tails:
    value, concentration, rate = aligned(value, fn.concentration, fn.rate)
    return _from_upper(-concentration * jnp.expm1(rate * value))


def _kumaraswamy(fn: dist.Kumaraswamy, value: Array) -> Tails:
    value, a, b = aligned(value, fn.concentration1, fn.concentration0)
    return _from_upper(b * _other(a * jnp.log(value)))


def _half_normal(fn: dist.HalfNormal, value: Array) -> Tails:
    value, scale = aligned(value, fn.scale)
    point = value / scale
    return jnp.log(erf(point / SQRT_2)), log_ndtr(-point) + LOG_2


def _half_cauchy(fn: dist.HalfCauchy, value: Array) -> Tails:
    value, scale = aligned(value, fn.scale)
    point = value / scale
    return jnp.log(jnp.arctan(point)) + _LOG_2_PI, cauchy_log_cdf(-point) + LOG_2


def _uniform(fn: dist.Uniform, value: Array) -> Tails:
    value, low, high = aligned(value, fn.low, fn.high)
    return jnp.log((value - low) / (high - low)), jnp.log((high - value) / (high - low))


def _log_uniform(fn: dist.LogUniform, value: Array) -> Tails:
    value, low, high = aligned(value, fn.low, fn.high)
    width = jnp.log(high / low)
    return jnp.log(jnp.log(value / low) / width), jnp.log(jnp.log(high / value) / width)


def _log_difference(larger: Array, smaller: Array) -> Array:
    """Return log(exp(larger) - exp(smaller))."""
    return larger + _other(jnp.minimum(smaller - larger, 0.0))


def _truncated(fn: Any, value: Array) -> Tails:
    log_cdf, base = standard(fn.base_dist)[1], fn.base_dist
    bounds = [bound for bound in (getattr(fn, "low", None), getattr(fn, "high", None)) if bound is not None]
    value, loc, scale, *bounds = aligned(value, base.loc, base.scale, *bounds)
    point, ends = (value - loc) / scale, [standardised(bound, loc, scale) for bound in bounds]
    if isinstance(fn, LeftTruncatedDistribution):
        return _from_upper(log_cdf(-point) - log_cdf(-ends[0]))
    if isinstance(fn, RightTruncatedDistribution):
        return _from_lower(log_cdf(point) - log_cdf(ends[0]))

    def log_between(a: Array, b: Array) -> Array:
        # From the tail in which the differences are not those of ones.
        return jnp.where(a > 0.0, _log_difference(log_cdf(-a), log_cdf(-b)), _log_difference(log_cdf(b), log_cdf(a)))

    whole = log_between(*ends)
    return log_between(ends[0], point) - whole, log_between(point, ends[1]) - whole


_TAILS: dict[type, Callable[[Any, Array], Tails]] = {
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
    LeftTruncatedDistribution: _truncated,
    RightTruncatedDistribution: _truncated,
    TwoSidedTruncatedDistribution: _truncated,
}


_FARTHEST = -80.0
"""Less than log Phi(-12)."""


def _noise(tails: Callable[[Any, Array], Tails], fn: Any, value: Array) -> Array:
    log_p, log_q = tails(fn, value)
    # No further out than noise is: a value rounded onto a bound has no tail beyond it.
    lower = jnp.clip(jnp.minimum(log_p, log_q), _FARTHEST, -LOG_2)
    half = jax.lax.fori_loop(0, 5, lambda _, eps: nearer_normal_lower(lower, eps), first_normal_lower(lower))
    return bounded(jnp.where(log_p < log_q, half, -half))


def _normal(fn: dist.Normal, value: Array) -> Array:
    value, loc, scale = aligned(value, fn.loc, fn.scale)
    return (value - loc) / scale


NOISE: dict[type, Callable[[Any, Array], Array]] = {
    dist.Normal: _normal,
    **{cls: partial(_noise, tails) for cls, tails in _TAILS.items()},
}
"""By family, (distribution, value) -> the noise that its quantile function takes to the value, at most 12."""
