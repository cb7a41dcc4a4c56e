r"""Smooth stand-ins for sites without a smooth map from noise, for the Gaussian approximation of a model alone.

The approximation expands one particle's step to second order in its carry and noise.  A count does not move smoothly
with either.  There the approximation runs another law, a normal with the count's own mean and variance,

.. math::  u = \mu(c) + \sigma(c) e, \quad e \sim N(0, 1), \qquad
           \sigma = \frac{v}{\sqrt{v + 1/12}},

with v the variance.  A count is rounded to a lattice, and 1/12 is the variance of rounding: for v above a fraction of a
count sigma is sqrt(v), but sqrt(v) has no derivative at v = 0, where this is zero with a finite one.  No trials give no
events, exactly.  The value stays inside the bounds of the support, which may move with the carry: with softplus
s(a) = log(1 + exp a),

.. math::  \text{value} = \text{low} + w \left(s(a) - s(a - H)\right), \qquad
           a = a_0 + 4 e, \quad w = \sigma / 4, \quad H = (\text{high} - \text{low}) / w.

That is u itself where the bounds are a few standard deviations away, increasing in e and differentiable everywhere,
and a_0, in closed form, makes it the mean at e = 0: a path without noise is the mean field.

    counts         the normal above; of several categories (Multinomial) the same for each given those before it
    mixtures       the same: a second-order expansion of their density would see one component alone
    circles        a normal around the mean direction, with the variance of the wrapped normal of the same resultant
    other laws     with a density and a bijector to the support: the exact law, as a transport T of e and the correction
                   log p(T(e)) + log |T'(e)| - log N(e)
    categories     Bernoulli, Categorical and their like, and what has no moments: held at the median, without noise.
                   Programs index arrays with them and compare them with numbers, which values in between would not
                   fail but pass through, on a branch that no category takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import i0e, i1e
from numpyro.distributions import constraints

from ssmscan.model.noise.families import WRAPPERS, MapKind, NoiseMap
from ssmscan.model.noise.in_place import InPlace
from ssmscan.model.noise.quantiles import HALF_LOG_2PI
from ssmscan.model.protocols import NoiseSpec

_ROUNDING = 1.0 / 12.0
_LABELS = (dist.BernoulliProbs, dist.BernoulliLogits, dist.CategoricalProbs, dist.CategoricalLogits)
_MIXTURES = (dist.MixtureSameFamily, dist.MixtureGeneral)
_SPLIT = (dist.MultinomialProbs, dist.MultinomialLogits, dist.DirichletMultinomial)
_STEEPNESS = 4.0
# Of a mean from a bound, in units of the width, where it is on it by rounding.
_CLOSEST = 1e-6
# The standard deviation of a uniform angle.
_WIDEST_ANGLE = 3.0**-0.5 * jnp.pi

_LABEL = "it is a category, which has no values in between"
_NO_MOMENTS = "its family gives no mean and variance"


@dataclass(frozen=True)
class Matched:
    """A smooth value with the mean and the variance of a distribution; see `NoiseMap`.

    Attributes:
        spec: the standard normals.
        value: (distribution, noise) -> value.
        kind: what the map is.
    """

    spec: NoiseSpec
    value: Callable[[Any, Array], Array]
    kind: MapKind = MapKind.STAND_IN

    def apply(self, fn: dist.Distribution, noise: Array) -> Array:
        """Map noise to a value of shape `fn.shape()`, which is real; `fn` may hold tracers."""
        return jnp.broadcast_to(self.value(fn, noise), fn.shape())

    def log_correction(self, fn: dist.Distribution, noise: Array) -> Array:
        """Return 0: it is another law, and its noise is standard normal."""
        return jnp.zeros(())

    def fault(self, fn: dist.Distribution) -> Array:
        """Return 0: what has no law has moments that are not finite."""
        return jnp.zeros(())


@dataclass(frozen=True)
class Transported:
    """The map of a site in place, with the density of its values corrected for standard normal noise; see `NoiseMap`.

    Attributes:
        in_place: the map.
    """

    in_place: InPlace
    kind: MapKind = MapKind.STAND_IN

    @property
    def spec(self) -> NoiseSpec:
        """The noise of one value."""
        return self.in_place.spec

    def apply(self, fn: dist.Distribution, noise: Array) -> Array:
        """Map noise to a value."""
        return self.in_place.apply(fn, noise)

    def log_correction(self, fn: dist.Distribution, noise: Array) -> Array:
        """Return log p(T(eps)) + log |T'(eps)| - log N(eps), summed."""
        return self.in_place.log_density(_unmasked(fn), noise) + jnp.sum(0.5 * noise * noise + HALF_LOG_2PI)

    def fault(self, fn: dist.Distribution) -> Array:
        """Return 0: the value is real, and can be NaN itself."""
        return jnp.zeros(())


SiteMap = NoiseMap | InPlace | Matched | Transported
StandIn = Matched | Transported | str
"""A map, or a clause: why the site is held where its map for particles sends noise zero."""


def stand_in(fn: dist.Distribution, smooth: NoiseMap | InPlace | None) -> StandIn | None:
    """Choose what stands for a site in the Gaussian approximation; None where its own smooth map does.

    Args:
        fn: its distribution, whose parameters may be tracers.
        smooth: its map for gradient engines.
    """
    if isinstance(smooth, NoiseMap):
        return None
    inner = _bottom(fn)
    if isinstance(inner, _LABELS):
        return _LABEL
    if isinstance(inner, _SPLIT) and _own_moments(inner):
        *batch, categories = fn.shape()
        return Matched(NoiseSpec((*batch, categories - 1), False), _split_value)
    if isinstance(inner, dist.VonMises) and _own_moments(inner):
        return Matched(NoiseSpec(fn.shape(), False), _angle_value)
    exact = isinstance(smooth, InPlace) and not isinstance(inner, _MIXTURES)
    if not exact and _has_moments(fn):
        return Matched(NoiseSpec(fn.shape(), False), _matched_value)
    return Transported(smooth) if isinstance(smooth, InPlace) else _NO_MOMENTS


def matched(mean: Array, variance: Array, low: Array | None, high: Array | None, noise: Array) -> Array:
    """Compute the value of some noise, between bounds; see the header.

    Args:
        mean, variance: of the law.
        low, high: bounds of the support, None where there is none.
        noise: standard normals.
    """
    variance = jnp.maximum(variance, 0.0)
    scale = variance * jax.lax.rsqrt(variance + _ROUNDING)
    if low is None and high is None:
        return mean + scale * noise
    if low is None:
        return -matched(-mean, variance, -jnp.asarray(high), None, -noise)
    certain = scale <= 0.0
    width = jnp.where(certain, 1.0, scale / _STEEPNESS)

    def log_rise(distance: Array) -> Array:
        """Return log(1 - exp(-distance))."""
        return jnp.log(-jnp.expm1(-jnp.where(certain, 1.0, jnp.maximum(distance, _CLOSEST))))

    above = (mean - low) / width
    a = above + log_rise(above) + _STEEPNESS * noise
    if high is None:
        value = jax.nn.softplus(a)
    else:
        whole = (high - low) / width
        a = a - log_rise(whole - above)
        value = jax.nn.softplus(a) - jax.nn.softplus(a - whole)
    return jnp.where(certain, mean, low + width * value)


def _matched_value(fn: Any, noise: Array) -> Array:
    dtype = noise.dtype
    low, high = (None if bound is None else jnp.asarray(bound, dtype) for bound in _bounds(fn.support))
    return matched(jnp.asarray(fn.mean, dtype), jnp.asarray(fn.variance, dtype), low, high, noise)


def _split_value(fn: Any, noise: Array) -> Array:
    """Split a total over categories: each given those before it, and the last the rest."""
    law, dtype = _bottom(fn), noise.dtype
    total = jnp.broadcast_to(jnp.asarray(law.total_count, dtype), noise.shape[:-1])
    mixed = isinstance(law, dist.DirichletMultinomial)
    weights = jnp.broadcast_to(jnp.asarray(law.concentration if mixed else law.probs, dtype), fn.shape())
    left, values = total, []
    for k in range(noise.shape[-1]):
        rest = jnp.sum(weights[..., k:], axis=-1)
        share = weights[..., k] / jnp.where(rest > 0.0, rest, 1.0)
        variance = left * share * (1.0 - share)
        if mixed:
            variance = variance * (rest + left) / (rest + 1.0)
        values.append(matched(left * share, variance, jnp.zeros_like(left), left, noise[..., k]))
        left = jnp.maximum(left - values[-1], 0.0)
    return jnp.stack([*values, left], axis=-1)


def _angle_value(fn: Any, noise: Array) -> Array:
    """Map noise to an angle around the mean direction, which is not wrapped: what reads it has the period."""
    law, dtype = _bottom(fn), noise.dtype
    concentration = jnp.asarray(law.concentration, dtype)
    resultant = i1e(concentration) / i0e(concentration)
    least = jnp.exp(-0.5 * _WIDEST_ANGLE**2)
    scale = jnp.sqrt(-2.0 * jnp.log(jnp.clip(resultant, least, 1.0 - jnp.finfo(dtype).eps)))
    return jnp.asarray(law.loc, dtype) + scale * noise


def _bounds(support: Any) -> tuple[Any, Any]:
    """Return the bounds of a support, None where it has none."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)


def _bottom(fn: Any) -> Any:
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return fn


def _unmasked(fn: Any) -> Any:
    return fn.base_dist if isinstance(fn, dist.MaskedDistribution) else fn


def _own_moments(law: dist.Distribution) -> bool:
    """Return whether mean and variance are those of the law: no class of the user's changes it without them."""
    named: set[str] = set()
    for cls in type(law).__mro__:
        if cls.__module__.startswith("numpyro."):
            return True
        named |= vars(cls).keys()
        if not named.isdisjoint(("sample", "log_prob")) and not named.issuperset(("mean", "variance")):
            return False
    return True


def _has_moments(fn: Any) -> bool:
    """Return whether a distribution knows its mean and its variance."""
    if not _own_moments(_bottom(fn)):
        return False
    try:
        # In the trace that the distribution was made in: NumPyro keeps them with the distribution.
        return jnp.shape(fn.mean) == jnp.shape(fn.variance) == fn.shape()
    except Exception:  # a class of the user's may fail in any way
        return False
