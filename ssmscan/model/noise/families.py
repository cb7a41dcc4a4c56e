"""Base noise: every innovation as a function of its distribution and of noise that does not depend on it.

A draw from a distribution is split in two, value = map(distribution, noise), and the noise is
standard normal wherever the family allows.  Four things rest on that split: NUTS samples the noise
outside the loop; particles draw the noise of a whole step in one batch; given the noise a filter is
differentiable; and common noise couples runs.

Two tables of families.  `particle_map` needs the exact law and nothing more: an exact smooth map,
else an inverse CDF (Bernoulli, Categorical, `counts`), else rejection that goes on from the bits of
the noise (`gammas`), else the family's own sampler with a key for each particle, which is slow.
`smooth_map` needs derivatives: an exact smooth map, else a corrected transport, else None; then gradient engines move
the value itself (`in_place`).  Wrappers
(`Independent`, `ExpandedDistribution`, `MaskedDistribution`) and `TransformedDistribution` reuse the
map of their base; a masked value keeps the noise of its base.

A family is recognised by its class.  A subclass from outside NumPyro that overrides `sample` or
`log_prob` is a family of its own, and not in the tables.  How to add one is in the header of this folder.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import log_ndtr, ndtr
from numpyro.distributions.util import safe_normalize

from ssmscan.model.noise import counts, gammas, normals, transport
from ssmscan.model.noise.quantiles import QUANTILES, bounded, cast, has_quantile
from ssmscan.model.noise.samplers import draw
from ssmscan.model.noise.tails import NOISE
from ssmscan.model.protocols import NoiseSpec

Shape = tuple[int, ...]


class MapKind(enum.Enum):
    """How noise becomes a value; the label is what the site table prints."""

    EXACT = "exact"
    TRANSPORT = "transport (corrected)"
    INVERSE_CDF = "inverse CDF"
    REJECTION = "rejection"
    SAMPLER = "sampler"
    IN_PLACE = "in place"
    STAND_IN = "stand-in"


class _Family(NamedTuple):
    """The map of one class of distributions; `noise` has shape lead + batch + event.

    Attributes:
        kind: what the map is.
        value: (distribution, noise) -> value.
        layout: distribution -> (lead, event) axes of the noise around the batch axes.
        correction: (distribution, noise) -> log p(T) + log T' - log N, of any shape; transports only.
        draw: (key, distribution, shape) -> noise whose image has the family's law; transports only.
        inverse: (distribution, value) -> the noise of a value; None where there are several, or it takes an integral.
        valid: distribution -> whether its parameters are those of a law; where values are integers.
    """

    kind: MapKind
    value: Callable[[Any, Array], Array]
    layout: Callable[[Any], tuple[Shape, Shape]] = lambda fn: ((), fn.event_shape)
    correction: Callable[[Any, Array], Array] | None = None
    draw: Callable[[Array, Any, Shape], Array] | None = None
    inverse: Callable[[Any, Array], Array] | None = None
    valid: Callable[[Any], Array] | None = None


@dataclass(frozen=True)
class NoiseMap:
    """The map from base noise to one site's value.

    Attributes:
        kind: what the map is.
        spec: the noise one value needs.
        family: the entry of the table; None for a sampler.
    """

    kind: MapKind
    spec: NoiseSpec
    family: _Family | None

    def apply(self, fn: dist.Distribution, noise: Array) -> Array:
        """Map noise to a value of shape `fn.shape()`; `fn` may hold tracers."""
        if self.family is None:
            return draw(noise, fn)
        return _value(self.family, fn, noise)

    def invert(self, fn: dist.Distribution, value: Array) -> Array | None:
        """Return the noise that `apply` takes to a value, None where there is no inverse; it has no derivative."""
        if self.family is None or self.family.inverse is None:
            return None
        try:
            return jax.lax.stop_gradient(_noise(self.family, fn, value))
        except NotImplementedError:  # a transform without an inverse
            return None

    def log_correction(self, fn: dist.Distribution, noise: Array) -> Array:
        """Return log p(T(eps)) + log |T'(eps)| - log N(eps), summed; zero unless a transport."""
        if self.family is None or self.family.correction is None:
            return jnp.zeros(())
        return jnp.sum(self.family.correction(_innermost(self.family, fn), noise))

    def fault(self, fn: dist.Distribution) -> Array:
        """Return 0, or NaN where a count has parameters that no law has: an integer value cannot be NaN itself."""
        if self.family is None or self.family.valid is None or _is_masked(fn):
            return jnp.zeros(())
        # Of the parameters, not of the value: XLA would compute that twice.
        return jnp.sum(jnp.where(self.family.valid(_innermost(self.family, fn)), 0.0, jnp.nan))

    def draw(self, key: Array, fn: dist.Distribution, sample_shape: Shape = ()) -> Array:
        """Draw noise whose image has exactly the law of `fn`: standard normal unless a transport.

        Returns:
            Noise of the shape of that of `fn.expand(sample_shape + fn.batch_shape)`.
        """
        assert self.family is not None  # a sampler of its own takes a key, not an array
        lead, batch, event = _layout(self.family, fn)
        shape = lead + sample_shape + batch + event
        if self.family.draw is None:
            return jax.random.normal(key, shape)
        return self.family.draw(key, _innermost(self.family, fn), shape)


WRAPPERS = (dist.MaskedDistribution, dist.Independent, dist.ExpandedDistribution)


def _bernoulli_probs(fn: dist.BernoulliProbs, noise: Array) -> Array:
    eps, probs = cast(noise, fn.probs)
    return (ndtr(-eps) < probs).astype(jnp.result_type(int))


def _bernoulli_logits(fn: dist.BernoulliLogits, noise: Array) -> Array:
    eps, logits = cast(noise, fn.logits)
    return (log_ndtr(-eps) - log_ndtr(eps) < logits).astype(jnp.result_type(int))


def _categorical(probs: Array, noise: Array) -> Array:
    eps, probs = cast(noise, probs, shape=jnp.shape(noise) + jnp.shape(probs)[-1:])
    below = jnp.cumsum(probs, axis=-1)
    index = jnp.sum(below <= ndtr(eps)[..., None] * below[..., -1:], axis=-1)
    # Rounding can leave u above the whole sum: the last category that has any probability.
    last = probs.shape[-1] - 1 - jnp.argmax(probs[..., ::-1] > 0.0, axis=-1)
    return jnp.minimum(index, last).astype(jnp.result_type(int))


def _categorical_probs(fn: dist.CategoricalProbs, noise: Array) -> Array:
    return _categorical(fn.probs, noise)


def _categorical_logits(fn: dist.CategoricalLogits, noise: Array) -> Array:
    return _categorical(jax.nn.softmax(fn.logits, axis=-1), noise)


def _projected_normal(fn: dist.ProjectedNormal, noise: Array) -> Array:
    eps, concentration = cast(noise, fn.concentration)
    return safe_normalize(concentration + eps)


def _delta(fn: dist.Delta, noise: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(fn.v), noise.shape[1:])


def _is_masked(fn: dist.Distribution) -> bool:
    return isinstance(fn, dist.MaskedDistribution) or (isinstance(fn, WRAPPERS) and _is_masked(fn.base_dist))


def _normals(count: int) -> Callable[[Any], tuple[Shape, Shape]]:
    """Build the layout of a family that takes `count` normals for one value."""
    return lambda fn: ((count,), fn.event_shape)


def _no_noise(fn: dist.Delta, value: Array) -> Array:
    return jnp.zeros((0, *jnp.shape(value)))


_EXACT: dict[type, _Family] = {
    **{cls: _Family(MapKind.EXACT, quantile, inverse=NOISE[cls]) for cls, quantile in QUANTILES.items()},
    dist.MultivariateNormal: _Family(
        MapKind.EXACT, normals.multivariate_normal, inverse=normals.multivariate_normal_noise
    ),
    dist.LowRankMultivariateNormal: _Family(MapKind.EXACT, normals.low_rank_normal, normals.low_rank_layout),
    dist.MatrixNormal: _Family(MapKind.EXACT, normals.matrix_normal, inverse=normals.matrix_normal_noise),
    dist.GaussianRandomWalk: _Family(MapKind.EXACT, normals.random_walk, inverse=normals.random_walk_noise),
    dist.ProjectedNormal: _Family(MapKind.EXACT, _projected_normal),
    dist.Delta: _Family(MapKind.EXACT, _delta, lambda fn: ((0,), fn.event_shape), inverse=_no_noise),
}
_PARTICLE: dict[type, _Family] = {
    **_EXACT,
    dist.StudentT: _Family(MapKind.EXACT, transport.student_exact, _normals(2)),
    dist.BernoulliProbs: _Family(MapKind.INVERSE_CDF, _bernoulli_probs),
    dist.BernoulliLogits: _Family(MapKind.INVERSE_CDF, _bernoulli_logits),
    dist.CategoricalProbs: _Family(MapKind.INVERSE_CDF, _categorical_probs),
    dist.CategoricalLogits: _Family(MapKind.INVERSE_CDF, _categorical_logits),
    dist.Poisson: _Family(MapKind.INVERSE_CDF, counts.poisson_value, valid=counts.poisson_valid),
    dist.BinomialProbs: _Family(MapKind.INVERSE_CDF, counts.binomial_probs_value, valid=counts.binomial_probs_valid),
    dist.BinomialLogits: _Family(MapKind.INVERSE_CDF, counts.binomial_logits_value, valid=counts.binomial_logits_valid),
    dist.GeometricProbs: _Family(MapKind.INVERSE_CDF, counts.geometric_probs_value),
    dist.GeometricLogits: _Family(MapKind.INVERSE_CDF, counts.geometric_logits_value),
    dist.Gamma: _Family(MapKind.REJECTION, gammas.gamma_value, _normals(gammas.NORMALS)),
    dist.Beta: _Family(MapKind.REJECTION, gammas.beta_value, _normals(2 * gammas.NORMALS)),
    dist.Dirichlet: _Family(MapKind.REJECTION, gammas.dirichlet_value, _normals(gammas.NORMALS)),
    dist.GammaPoisson: _Family(
        MapKind.REJECTION, gammas.gamma_poisson_value, _normals(gammas.NORMALS + 1), valid=gammas.gamma_poisson_valid
    ),
    dist.BetaBinomial: _Family(
        MapKind.REJECTION,
        gammas.beta_binomial_value,
        _normals(2 * gammas.NORMALS + 1),
        valid=gammas.beta_binomial_valid,
    ),
}
_SMOOTH: dict[type, _Family] = {
    **_EXACT,
    dist.Gamma: _Family(
        MapKind.TRANSPORT,
        transport.gamma_value,
        correction=transport.gamma_correction,
        draw=transport.gamma_draw,
    ),
    dist.InverseGamma: _Family(
        MapKind.TRANSPORT,
        transport.inverse_gamma_value,
        correction=transport.gamma_correction,
        draw=transport.gamma_draw,
    ),
    dist.Beta: _Family(
        MapKind.TRANSPORT,
        transport.beta_value,
        correction=transport.beta_correction,
        draw=transport.beta_draw,
    ),
    dist.Dirichlet: _Family(
        MapKind.TRANSPORT,
        transport.dirichlet_value,
        correction=transport.gamma_correction,
        draw=transport.gamma_draw,
    ),
    dist.StudentT: _Family(
        MapKind.TRANSPORT,
        transport.student_value,
        _normals(2),
        transport.student_correction,
        transport.student_draw,
    ),
}


def _entry(table: dict[type, _Family], fn: dist.Distribution) -> _Family | None:
    for cls in type(fn).__mro__:
        if cls in table:
            return table[cls] if has_quantile(fn) else None
        own = not cls.__module__.startswith("numpyro.")
        if own and not {"sample", "log_prob"}.isdisjoint(vars(cls)):
            return None
    return None


def _find(table: dict[type, _Family], fn: dist.Distribution) -> _Family | None:
    """Return the family at the bottom of wrappers and transforms."""
    if isinstance(fn, WRAPPERS):
        return _find(table, fn.base_dist)
    entry = _entry(table, fn)
    if entry is None and isinstance(fn, dist.TransformedDistribution):
        own = not type(fn).__module__.startswith("numpyro.")
        return None if own else _find(table, fn.base_dist)
    return entry


def _is_bottom(family: _Family, fn: dist.Distribution) -> bool:
    if isinstance(fn, WRAPPERS):
        return False
    return any(_entry(table, fn) is family for table in (_PARTICLE, _SMOOTH))


def _innermost(family: _Family, fn: dist.Distribution) -> dist.Distribution:
    while not _is_bottom(family, fn):
        fn = fn.base_dist
    return fn


def _value(family: _Family, fn: dist.Distribution, noise: Array) -> Array:
    if _is_bottom(family, fn):
        return family.value(fn, noise)
    steps = () if isinstance(fn, WRAPPERS) else fn.transforms
    if not all(isinstance(transform, normals.LINEAR) for transform in steps):
        noise = bounded(noise)
    value = _value(family, fn.base_dist, noise)
    for transform in steps:
        value = transform(value)
    return value


def _noise(family: _Family, fn: dist.Distribution, value: Array) -> Array:
    """Undo `_value`."""
    if _is_bottom(family, fn):
        assert family.inverse is not None
        return family.inverse(fn, value)
    for transform in () if isinstance(fn, WRAPPERS) else reversed(fn.transforms):
        value = transform.inv(value)
    return _noise(family, fn.base_dist, value)


def _layout(family: _Family, fn: dist.Distribution) -> tuple[Shape, Shape, Shape]:
    """Return the (lead, batch, event) axes of the noise."""
    if _is_bottom(family, fn):
        lead, event = family.layout(fn)
        return lead, fn.batch_shape, event
    lead, batch, event = _layout(family, fn.base_dist)
    if isinstance(fn, dist.Independent):
        event = batch[len(fn.batch_shape) :] + event
    return lead, fn.batch_shape, event


def _map_from(table: dict[type, _Family], fn: dist.Distribution) -> NoiseMap | None:
    family = _find(table, fn)
    if family is None:
        return None
    lead, batch, event = _layout(family, fn)
    return NoiseMap(family.kind, NoiseSpec(lead + batch + event, False), family)


def particle_map(fn: dist.Distribution) -> NoiseMap:
    """Choose the exact map of a distribution for particles: smooth, inverse CDF, or its own sampler."""
    return _map_from(_PARTICLE, fn) or NoiseMap(MapKind.SAMPLER, NoiseSpec((), True), None)


def smooth_map(fn: dist.Distribution) -> NoiseMap | None:
    """Choose the differentiable map of a distribution, exact or corrected; None where there is none."""
    return _map_from(_SMOOTH, fn)
