r"""Values that gradient engines move as they are: families without a smooth map from noise.

The value x of a continuous site is a function T of numbers z without constraints, which move beside the noise of other
sites.  Their density is that of the value, under the change of variables,

    log density of z = log p(T(z)) + log |det dT/dz|.

T is NumPyro's bijector to the support, which may depend on parameters.  A circle and a sphere have none: a bijector
to the interval from -pi to pi would tear the circle open, and chains could not pass the cut.  There z has one dimension
more than x, and x is its direction,

    x = z / |z|,   or the angle of z on the circle,   |z|^2 ~ Gamma(5, 5) independent of x,

a ring that is narrow enough for its curvature to be the same everywhere, and passable all round.

It is the *law* of z, and not, as with a transport, a correction of N(0, 1), under which a state that is far from zero
has next to no density.  Engines that begin at draws from the prior count it as prior, and draw z by forward simulation,
the family's sampler and the inverse of T.

A family with atoms, such as a mixture with a `Delta`, has no density that moves: it stays without a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma, log
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import biject_to, constraints

from ssmscan.model.noise.families import WRAPPERS, MapKind, NoiseMap, Shape, smooth_map
from ssmscan.model.noise.samplers import draw
from ssmscan.model.protocols import NoiseSpec

RING = 5.0
"""Shape and rate of the Gamma law of the squared radius of a direction."""

EDGE = 80.0
"""Where an unconstrained value is infinite because a draw was rounded to the edge of its support, it is this far."""


@dataclass(frozen=True)
class InPlace:
    """The map from unconstrained values to the value of one site; see `NoiseMap`.

    Attributes:
        spec: the unconstrained values.
        kind: what the map is.
    """

    spec: NoiseSpec
    kind: MapKind = MapKind.IN_PLACE

    def apply(self, fn: dist.Distribution, noise: Array) -> Array:
        """Map unconstrained values to a value of shape `fn.shape()`; `fn` may hold tracers."""
        return _space(fn).value(noise)

    def log_density(self, fn: dist.Distribution, noise: Array) -> Array:
        """Return log p(T(z)) + log|T'(z)|, summed; of a law, without masks."""
        space = _space(fn)
        return jnp.sum(fn.log_prob(space.value(noise))) + space.log_volume(noise)

    def fault(self, fn: dist.Distribution) -> Array:
        """Return 0: a value is never a count, which could not be NaN."""
        return jnp.zeros(())

    def draw(self, key: Array, fn: dist.Distribution) -> Array:
        """Draw unconstrained values whose image has the law of `fn`."""
        key_value, key_radius = jax.random.split(key)
        noise = _space(fn).noise(key_radius, draw(key_value, fn))
        return jnp.nan_to_num(noise, nan=0.0, posinf=EDGE, neginf=-EDGE)


class _Bijected(NamedTuple):
    """A support that NumPyro has a bijection to."""

    transform: Any
    shape: Shape

    def value(self, noise: Array) -> Array:
        return self.transform(noise)

    def log_volume(self, noise: Array) -> Array:
        return jnp.sum(self.transform.log_abs_det_jacobian(noise, self.value(noise)))

    def noise(self, key: Array, value: Array) -> Array:
        return self.transform.inv(value)


class _Directions(NamedTuple):
    """Circles, the value being an angle and the coordinates of z in front; or spheres, in the last axis."""

    shape: Shape
    axis: int

    def value(self, noise: Array) -> Array:
        if self.axis == 0:
            return jnp.arctan2(noise[1], noise[0])
        return noise / jnp.linalg.norm(noise, axis=-1, keepdims=True)

    def log_volume(self, noise: Array) -> Array:
        # z has density p(x) g(r) / r^(n - 1), g that of the radius; the area of the sphere cancels.
        n, square = self.shape[self.axis], jnp.sum(noise * noise, axis=self.axis)
        constant = log(2.0) + RING * log(RING) - lgamma(RING)
        return jnp.sum(constant + (RING - 0.5 * n) * jnp.log(square) - RING * square)

    def noise(self, key: Array, value: Array) -> Array:
        direction = jnp.stack([jnp.cos(value), jnp.sin(value)]) if self.axis == 0 else value
        square = jax.random.gamma(key, RING, jnp.sum(direction, axis=self.axis, keepdims=True).shape) / RING
        return direction * jnp.sqrt(square)


def _space(fn: dist.Distribution) -> _Bijected | _Directions:
    """Return how a value is made of numbers without constraints.

    Raises:
        NotImplementedError: NumPyro has no bijection to the support.
    """
    support: Any = fn.support
    inner = support
    while isinstance(inner, constraints.independent):
        inner = inner.base_constraint
    if isinstance(inner, type(constraints.circular)):
        return _Directions((2, *fn.shape()), 0)
    if isinstance(inner, type(constraints.sphere)) and fn.shape()[-1] > 1:
        return _Directions(fn.shape(), -1)
    transform = biject_to(support)
    return _Bijected(transform, transform.inverse_shape(fn.shape()))


# Not every version of NumPyro has all of them.
_WITH_ATOMS = tuple(
    getattr(dist, name)
    for name in (
        "Delta",
        "HurdleProbs",
        "ZeroInflatedProbs",
        "LeftCensoredDistribution",
        "RightCensoredDistribution",
        "IntervalCensoredDistribution",
    )
    if hasattr(dist, name)
)


def _has_atoms(fn: dist.Distribution) -> bool:
    """Return whether single values have a probability, as far as NumPyro's classes say so."""
    if isinstance(fn, _WITH_ATOMS):
        return True
    if isinstance(fn, dist.MixtureGeneral):
        return any(map(_has_atoms, fn.component_distributions))
    if isinstance(fn, dist.MixtureSameFamily):
        return _has_atoms(fn.component_distribution)
    return isinstance(fn, (*WRAPPERS, dist.TransformedDistribution)) and _has_atoms(fn.base_dist)


def gradient_map(fn: dist.Distribution) -> NoiseMap | InPlace | None:
    """Choose what gradient engines move: noise where there is a smooth map, else the value itself; None of integers.

    None also of a family with atoms, and where NumPyro has no bijection to the support.
    """
    found = smooth_map(fn)
    if found is not None or fn.is_discrete or _has_atoms(fn):
        return found
    try:
        return InPlace(NoiseSpec(_space(fn).shape, False))
    except NotImplementedError:
        return None
