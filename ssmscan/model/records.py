"""One site as it was met, and what its distribution says under NumPyro's wrappers.

NumPyro counts a site with its masks and scales.  A draw is made from the distribution without them;
the difference, for a scaled latent site, is a weight.  A masked latent is drawn from its own
distribution and carries no density elsewhere.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro import distributions as dist


class Record(NamedTuple):
    """One site as it was met.

    Attributes:
        name: name of the site.
        fn: its distribution, None for a deterministic.
        value: its value.
        observed: whether the value was fixed by the model or by a handler around it.
        scale: factor on the log-probability, or None.
        loop: number of loops met before it.
        replayed: index of the noise-free loop it was recorded in, or None.
        plates: name and size of the plates it stands in.
    """

    name: str
    fn: Any
    value: Any
    observed: bool
    scale: Any
    loop: int = 0
    replayed: int | None = None
    plates: tuple[tuple[str, int], ...] = ()

    @property
    def latent(self) -> bool:
        """Whether the site is drawn."""
        return self.fn is not None and not self.observed

    def log_prob(self) -> jax.Array:
        """Log-probability as NumPyro counts it, with masks and scales, a scalar."""
        log_prob = self.fn.log_prob(self.value)
        return jnp.sum(log_prob if self.scale is None else log_prob * self.scale)

    def log_density(self) -> jax.Array:
        """Log-density of the draw itself, masks and scales left out, a scalar."""
        return jnp.sum(unmasked(self.fn).log_prob(self.value))

    def log_excess(self) -> jax.Array | float:
        """What scaling a latent site adds to the density it is drawn from."""
        return 0.0 if self.scale is None else self.log_prob() - jnp.sum(self.fn.log_prob(self.value))

    def invalid(self) -> jax.Array:
        """Whether an unmasked element is NaN or outside the support, a scalar."""
        value = jnp.asarray(self.value)
        inside = jnp.asarray(unmasked(self.fn).support(value))
        number = value == value
        number = jnp.all(number, axis=tuple(range(inside.ndim, number.ndim)))
        return jnp.any(~(inside & number) & mask_of(self.fn))


def with_sample_shape(msg: dict) -> dist.Distribution:
    """The distribution of the whole value, `sample_shape` made part of its batch."""
    fn, extra = msg["fn"], tuple(msg["kwargs"].get("sample_shape", ()))
    return fn.expand(extra + fn.batch_shape) if extra and not msg.get("_control_flow_done") else fn


def is_factor(fn: dist.Distribution) -> bool:
    """Whether a site comes from `numpyro.factor`, which observes nothing."""
    return isinstance(unmasked(fn), dist.Unit)


def unmasked(fn: dist.Distribution) -> dist.Distribution:
    """The distribution without its masks."""
    if isinstance(fn, dist.MaskedDistribution):
        return unmasked(fn.base_dist)
    if isinstance(fn, dist.Independent):
        return dist.Independent(unmasked(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        return dist.ExpandedDistribution(unmasked(fn.base_dist), fn.batch_shape)
    return fn


def mask_of(fn: dist.Distribution) -> jax.Array:
    """Which batch elements count, broadcastable to `fn.batch_shape`."""
    if isinstance(fn, dist.MaskedDistribution):
        own = jnp.asarray(fn._mask) if fn._mask is not None else jnp.asarray(True)
        return own & mask_of(fn.base_dist)
    if isinstance(fn, dist.Independent):
        inner = mask_of(fn.base_dist)
        drop = max(inner.ndim - len(fn.batch_shape), 0)
        return jnp.any(inner, axis=tuple(range(inner.ndim - drop, inner.ndim))) if drop else inner
    if isinstance(fn, dist.ExpandedDistribution):
        return mask_of(fn.base_dist)
    return jnp.asarray(True)


def clean_name(name: str) -> str:
    """Drop the traced index that an f-string has written into a name."""
    kinds = "(?:Jit|Batch|JVP|Linearize|DynamicJaxpr)*"
    return re.sub(rf"[_\-.]?({kinds}Tracer\([^)]*\)|Traced<.*>)", "", name) or name
