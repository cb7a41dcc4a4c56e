"""The noise of a moved site as a sample site of its own: its prior, its draws, its continuation.

Exact maps have a standard normal prior.  The prior of transported noise is the pull-back of the family,
density N(eps) exp(correction(eps)), sampled by the family's sampler and the inverse of the transport; this
needs the family's parameters, so it exists where they are the same at every step.  Where they change,
the density stays N(eps), the correction becomes a factor, and the draws come from a run of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.primitives import _PYRO_STACK

from ssmscan.model.noise.families import WRAPPERS, MapKind, NoiseMap


class Moved(NamedTuple):
    """A latent site that becomes a function of noise.

    Attributes:
        noise_map: its map.
        law: the distribution of a transported site, if it is the same at every step; else None.
    """

    noise_map: NoiseMap
    law: dist.Distribution | None

    @property
    def changing(self) -> bool:
        """Whether the noise has a law that only the loop knows."""
        return self.noise_map.kind is MapKind.TRANSPORT and self.law is None

    def prior(self) -> dist.Distribution:
        """Return the distribution of the noise of one value."""
        shape, law, noise_map = self.noise_map.spec.shape, self.law, self.noise_map
        if law is None:
            return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))
        return NoisePrior(shape, lambda key: noise_map.draw(key, law), lambda eps: noise_map.log_correction(law, eps))

    def prior_of_loop(self, length: int) -> dist.Distribution:
        """Return the distribution of the noise of all steps, time in front."""
        shape = (length, *self.noise_map.spec.shape)
        if self.law is None:
            return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))
        one = self.prior()
        return NoisePrior(
            shape,
            lambda key: jax.vmap(one.draw)(jax.random.split(key, length)),
            lambda eps: jnp.sum(jax.vmap(one.log_ratio)(eps)),
        )


class NoisePrior(dist.Distribution):
    """N(0, I) times a density ratio, with a sampler of its own.

    Args:
        shape: shape of the noise, all of it event.
        draw: key -> noise.
        log_ratio: noise -> log density - log N(0, I), a scalar.
    """

    arg_constraints: dict = {}

    def __init__(self, shape: tuple[int, ...], draw: Callable[[Array], Array], log_ratio: Callable[[Array], Array]):
        self.draw, self.log_ratio = draw, log_ratio
        super().__init__((), shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All reals."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw noise of shape `sample_shape + shape`."""
        if not sample_shape:
            return self.draw(key)
        keys = jax.random.split(key, sample_shape[0])
        return jax.vmap(lambda k: self.sample(k, sample_shape[1:]))(keys)

    def log_prob(self, value: Array) -> Array:
        """Return the log density; axes in front of `shape` are batch."""
        if jnp.ndim(value) > len(self.event_shape):
            return jax.vmap(self.log_prob)(value)
        return jnp.sum(dist.Normal(0.0, 1.0).log_prob(value)) + self.log_ratio(value)


class DiscreteInnovation(dist.Distribution):
    """A discrete site left in the loop: it can be drawn, but asking for its density is an error.

    Args:
        name: the site.
        fn: its distribution.
    """

    arg_constraints: dict = {}

    def __init__(self, name: str, fn: dist.Distribution):
        self.name, self.fn, self.family = name, fn, family_name(fn)
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)

    def _refusal(self) -> ValueError:
        return ValueError(
            f"site '{self.name}' ({self.family}) is a discrete innovation, which gradient methods cannot "
            "take. Use ssmscan.NUTS on the traced model, which sums finite states out, or particles (ssmscan.PMMH), or "
            "replace it by a continuous approximation."
        )

    @property
    def support(self) -> constraints.Constraint:
        """The support of the distribution."""
        return self.fn.support

    @property
    def has_enumerate_support(self) -> bool:
        """Refuse by name: NumPyro asks before it samples a discrete site."""
        raise self._refusal()

    def mask(self, mask: Any) -> dist.Distribution:
        """Mask the distribution; NumPyro's own wrapper would ask for enumeration."""
        return DiscreteInnovation(self.name, self.fn.mask(mask))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw from the distribution."""
        return self.fn.sample(key, sample_shape)

    def log_prob(self, value: Array) -> Array:
        """Refuse by name."""
        raise self._refusal()


def family_name(fn: dist.Distribution) -> str:
    """Return the class of a distribution under its wrappers."""
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return type(fn).__name__


def given(name: str, *kinds: type, stack: list | None = None) -> bool:
    """Return whether an active handler of one of the kinds, `condition` or `substitute` by default, holds a value."""
    kinds = kinds or (handlers.condition, handlers.substitute)
    found: list[Any] = [h for h in (_PYRO_STACK if stack is None else stack) if isinstance(h, kinds)]
    return any(h.data is not None and h.data.get(name) is not None for h in found)


def fixed(name: str, stack: list | None = None) -> bool:
    """Return whether a handler gives a site its value; posterior draws hold its noise too, which then counts."""
    if given(name, handlers.condition, stack=stack):
        return True
    return given(name, stack=stack) and not given(f"{name}_noise", stack=stack)


def sample_site(name: str, prior: dist.Distribution, key: Array | None) -> Array:
    """Make the noise a sample site, unless there is none of it."""
    if 0 in prior.shape():
        return jnp.zeros(prior.shape())
    return numpyro.sample(name, prior, rng_key=key)


def sample_loop_noise(
    plan: dict[str, Moved],
    length: int,
    key: Array | None,
    site_name: Callable[[str], str],
    run: Callable[[dict, dict, Array], dict[str, Array]],
) -> dict[str, Array]:
    """Sample the noise sites of a loop.

    Args:
        plan: the moved sites.
        length: number of steps T.
        key: PRNG key, None where all noise is given by handlers.
        site_name: name of a site -> name of its noise site.
        run: (noise, number of steps known, keys of the steps) -> noise of the sites whose law changes in
            the loop, drawn where it is not known.

    Returns:
        site -> noise of shape (T, ...); what handlers gave for fewer steps is continued.

    Raises:
        ValueError: given noise does not fit the loop, or there is no key to continue it.
    """
    noise: dict[str, Array] = {}
    known: dict[str, int] = {}
    draws: dict[str, Array] = {}
    keys: Iterator[Array] = iter([] if key is None else jax.random.split(jax.random.fold_in(key, 1), 2 * len(plan) + 2))

    def by_the_loop(name: str) -> dist.Distribution:
        # One run draws the joint law of all such sites, given the noise that is known.
        if not draws and key is not None and not given(site_name(name)):
            draws.update(run(noise, known, jax.random.split(next(keys), length)))
        return NoisePrior((length, *plan[name].noise_map.spec.shape), lambda _: draws[name], lambda eps: jnp.zeros(()))

    # What a run of the loop needs comes first: constant laws, then what is given.
    for name in sorted(plan, key=lambda name: (plan[name].changing, not given(site_name(name)))):
        moved, site = plan[name], site_name(name)
        prior = by_the_loop(name) if moved.changing else moved.prior_of_loop(length)
        eps = sample_site(site, prior, next(keys, None))
        known[name] = _steps_given(site, eps, prior.event_shape, key)
        missing = length - known[name]
        if missing:
            later, shape = moved.prior_of_loop(missing), (missing, *prior.event_shape[1:])
            rest = jnp.zeros(shape) if moved.changing else later.sample(next(keys))
            eps = jnp.concatenate([eps, rest.astype(eps.dtype)])
        noise[name] = eps
    if any(known[name] < length for name in plan if plan[name].changing):
        noise.update(run(noise, known, jax.random.split(next(keys), length)))
    return noise


def _steps_given(site: str, eps: Any, shape: tuple[int, ...], key: Array | None) -> int:
    steps = jnp.shape(eps)[0] if jnp.ndim(eps) == len(shape) else -1
    if jnp.shape(eps)[1:] != shape[1:] or not 0 <= steps <= shape[0]:
        raise ValueError(
            f"site '{site}' is given noise of shape {jnp.shape(eps)}; the loop takes {shape}, or fewer steps, which "
            "are continued with fresh draws. Pass draws of this model, or give the loop more steps."
        )
    if steps < shape[0] and key is None:
        raise ValueError(
            f"site '{site}' is given noise of {steps} steps for a loop of {shape[0]}, and there is no PRNG key to "
            "draw the rest. Run the model under numpyro.infer.Predictive or handlers.seed."
        )
    return steps
