"""One site as it was met, and what its distribution says under NumPyro's wrappers.

NumPyro counts a site with its masks and scales; a draw is made from the distribution without them, its *law*.
What is drawn once, a parameter, counts as NumPyro counts it: under a mask its prior is flat.  What is drawn for
each particle, a state, has its law all the same where it is masked, as beyond the end of a padded series; its scale
is a weight.  So have the elements that `obs_mask` and missing values leave open.  What an engine reads:

    parameter   log_prior()                       and log_prior() - log_density() to those who drew it from its law
    state       log_density() + log_excess()      and log_excess() to those who drew it from its law
    observed    log_prob()
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist

from ssmscan.arguments import refusal
from ssmscan.errors import ModelError
from ssmscan.model.handlers import missing

OUTSIDE = "_named_outside"
"""Mark, in the `infer` of a site of the loop, of a name that scopes around the loop do not change."""


class SiteMessage(NamedTuple):
    """One site as it was met.

    Attributes:
        name: name of the site.
        fn: its distribution, None for a deterministic.
        value: its value.
        observed: whether the value was fixed by the model or by a handler around it.
        scale: factor on the log-probability, or None.
        loop: number of loops met before it.
        replayed: index of the noise-free loop it was recorded in, or None.
        present: which elements of an observed value are not missing, or None for all.  A latent site that
            has it holds the missing elements of an observed one, drawn given the rest.
        raw: the observed value before its missing elements were put in.
        simulated: whether the value was drawn and takes no part in inference.
        plates: name and size of the plates it stands in, and the axis of the value, counted from its end.
        auxiliary: whether NumPyro made it for the elements that an `obs_mask` leaves open.
        written: its name where it stands, in a loop without what scopes around the loop add.
    """

    name: str
    fn: Any
    value: Any
    observed: bool
    scale: Any
    loop: int = 0
    replayed: int | None = None
    present: Any = None
    raw: Any = None
    simulated: bool = False
    plates: tuple[tuple[str, int, int], ...] = ()
    auxiliary: bool = False
    written: str = ""

    @property
    def latent(self) -> bool:
        """Whether the site is drawn."""
        return self.fn is not None and not self.observed

    @property
    def shape(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the value.

        Raises:
            TypeError: the value is not an array, or a site with a density has complex values.
        """
        value, site = self.value, f"site '{clean_name(str(self.name))}'"
        try:
            dtype = value.dtype if hasattr(value, "dtype") else jnp.result_type(value)
        except (TypeError, ValueError):
            raise TypeError(refusal(f"the value of {site}", "an array", value, "Look at its obs=.")) from None
        if self.fn is not None and jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{site} has values of dtype {dtype}, and a density is of real numbers. Look at its obs=.")
        return jax.ShapeDtypeStruct(jnp.shape(value), dtype)

    @property
    def given(self) -> jax.Array:
        """The observed value, NaN where it is missing."""
        if self.present is None:
            return jnp.asarray(self.value)
        return jnp.where(self.present, self.raw.astype(jnp.result_type(float, self.raw)), jnp.nan)

    def log_prob(self) -> jax.Array:
        """Compute the log-probability as NumPyro counts it, with masks and scales, a scalar."""
        log_prob = self._log_prob(self.fn)
        return jnp.sum(log_prob if self.scale is None else log_prob * self.scale)

    def log_density(self) -> jax.Array:
        """Compute the log-density of the draw itself, masks and scales left out, a scalar."""
        return jnp.sum(self._log_prob(unmasked(self.fn)))

    def _log_prob(self, fn: dist.Distribution) -> jax.Array:
        # Only where NumPyro validates does it give a value outside the support the density zero.
        with numpyro.validation_enabled(True):
            try:
                if self.present is None:
                    return fn.log_prob(self.value)
                seen = missing.log_prob(fn, self.value, self.present)
                return seen if self.observed else fn.log_prob(self.value) - seen
            except NotImplementedError:
                raise ModelError(
                    f"site '{self.name}' ({type(fn).__name__}) has no density: its class has no log_prob method. Give "
                    "it one, or write the site as a function of draws from distributions that have one."
                ) from None

    def log_excess(self) -> jax.Array | float:
        """Compute what scaling a latent site adds to the density it is drawn from."""
        return 0.0 if self.scale is None else self.log_prob() - jnp.sum(self._log_prob(self.fn))

    def log_prior(self) -> jax.Array:
        """Compute what a parameter adds to the log-density of the model, a scalar."""
        return self.log_density() + self.log_excess() if self._left_open else self.log_prob()

    def log_reweighting(self) -> jax.Array | float:
        """Compute what `log_prior` of a parameter has more than the law that it is drawn from."""
        return self.log_prior() - self.log_density() if self.reweighted else 0.0

    @property
    def reweighted(self) -> bool:
        """Whether a parameter counts otherwise than by the law that it is drawn from."""
        return self.latent and (self.scale is not None or self.masked)

    @property
    def masked(self) -> bool:
        """Whether a mask of the user's may leave elements of a draw out of the density."""
        return self.latent and is_masked(self.fn) and not self._left_open

    @property
    def _left_open(self) -> bool:
        """Whether a draw stands for elements of a value that is given for the others."""
        return self.latent and (self.auxiliary or self.present is not None)

    def invalid(self) -> jax.Array:
        """Return whether a counted element is not finite or outside the support, a scalar; of a draw, any element."""
        value = jnp.asarray(self.value)
        inside = jnp.asarray(unmasked(self.fn).support(value))
        number = jnp.isfinite(value) if jnp.issubdtype(value.dtype, jnp.inexact) else jnp.ones(value.shape, bool)
        number = jnp.all(number, axis=tuple(range(inside.ndim, number.ndim)))
        wrong = ~(inside & number)
        return jnp.any(wrong & mask_of(self.fn) if self.observed else wrong)


def simulated(messages: list[SiteMessage], names: Collection[str]) -> list[SiteMessage]:
    """Return the same messages, sites of some names as values that are drawn and not inferred."""
    return [m._replace(fn=None, simulated=True) if m.name in names else m for m in messages]


def can_be_drawn(fn: dist.Distribution) -> bool:
    """Return whether a site observes something that can be drawn again: not a factor, and its family has a sampler."""
    inner = unmasked(fn)
    while isinstance(inner, dist.Independent | dist.ExpandedDistribution):
        inner = inner.base_dist
    return not is_factor(fn) and type(inner).sample is not dist.Distribution.sample


def with_sample_shape(msg: dict) -> dist.Distribution:
    """Return the distribution of the whole value, `sample_shape` made part of its batch."""
    fn, extra = msg["fn"], tuple(msg["kwargs"].get("sample_shape", ()))
    return fn.expand(extra + fn.batch_shape) if extra and not msg.get("_control_flow_done") else fn


def is_factor(fn: dist.Distribution) -> bool:
    """Return whether a site comes from `numpyro.factor`, which observes nothing."""
    return isinstance(unmasked(fn), dist.Unit)


def is_point(fn: dist.Distribution) -> bool:
    """Return whether a distribution has one value, so that what is drawn from it is computed."""
    return isinstance(_bottom(fn), dist.Delta)


def point_counts(fn: dist.Distribution) -> bool:
    """Return whether a distribution of one value adds to the log-density; where that is not known, it does."""
    log_density = _bottom(fn).log_density
    return isinstance(log_density, jax.core.Tracer) or bool(np.any(np.asarray(log_density) != 0.0))


def _bottom(fn: dist.Distribution) -> Any:
    while isinstance(fn, dist.MaskedDistribution | dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    return fn


def is_masked(fn: dist.Distribution) -> bool:
    """Return whether a distribution holds a mask that may leave elements out."""
    if isinstance(fn, dist.MaskedDistribution):
        return not (isinstance(fn._mask, bool) and fn._mask) or is_masked(fn.base_dist)
    return has_base(fn) and is_masked(fn.base_dist)


def has_base(fn: dist.Distribution) -> bool:
    """Return whether a distribution is one that wraps another, whose masks are its own."""
    return isinstance(fn, dist.Independent | dist.ExpandedDistribution) or type(fn) is dist.TransformedDistribution


def unmasked(fn: dist.Distribution) -> dist.Distribution:
    """Return the distribution without its masks, its law."""
    if isinstance(fn, dist.MaskedDistribution):
        return unmasked(fn.base_dist)
    if isinstance(fn, dist.Independent):
        return dist.Independent(unmasked(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        return dist.ExpandedDistribution(unmasked(fn.base_dist), fn.batch_shape)
    if has_base(fn) and is_masked(fn.base_dist):
        return dist.TransformedDistribution(unmasked(fn.base_dist), fn.transforms)
    return fn


def mask_of(fn: dist.Distribution) -> jax.Array:
    """Return which batch elements count, broadcastable to `fn.batch_shape`."""
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
