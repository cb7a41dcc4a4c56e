r"""Resampling: ancestors in place of weights.

A scheme places n ordered points in the unit interval; particle i gets as many offspring as points
fall below its cumulative weight :math:`C_i = W_1 + ... + W_i` and not below :math:`C_{i-1}`
(Chopin & Papaspiliopoulos 2020, chapter 9, algorithms 9.1 to 9.3).  All schemes are unbiased,
:math:`E[\text{offspring of } i] = n W_i`.

* `systematic`: points (k + u)/n with one u.  Least noise and cost; the default.
* `stratified`: points (k + u_k)/n, a u for each k.  Nearly as good, and easier to analyse.
* `multinomial`: n independent uniforms, ordered.  The noisiest; some theory wants it.
* `killing`: particle i stays where it is with probability :math:`W_i / \max W`, else it is drawn anew from all. It
  disturbs a cloud of nearly equal weights least (Chopin, Singh, Soto & Vihola 2022, *Ann. Statist.* 50(6)).

**Pinned.**  Conditional SMC retains a particle b and needs the other ancestors from the law they have when a slot,
chosen at random, got b (Chopin & Singh 2015, "On particle Gibbs sampling", *Bernoulli* 21(3)).  Offspring
counts then have the law of the scheme weighted by :math:`N_b / (n W_b)`, which is that of a scheme one of whose points
is uniform between :math:`C_{b-1}` and :math:`C_b`: this point fixes the u of its slot, the others are drawn as ever.
For `multinomial` that is n - 1 independent ancestors.  To overwrite an ancestor after ordinary resampling is wrong for
all of them, since ancestors come sorted.  Each scheme has this form as `scheme.conditional(key, weights, n, pinned)`,
which returns the ancestors and the slot of b among them.  The slot matters: the next draw of `systematic` and
`stratified` depends on the order of the particles, and a retained one that is moved to the front is in another order
than the scheme makes.

How points are counted, exactly and at little cost, on a CPU and on a GPU: `ssmscan.particles.offspring`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.arguments import refusal, require_integer
from ssmscan.particles.draws import as_key
from ssmscan.particles.offspring import ROW, ancestors_of, carry_over, count_below, cumulate_rows, ends_of, row_starts


class Resampling(Protocol):
    """A scheme: ancestors of n new particles, int32, from (N,) weights; sorted, but for those of `killing`."""

    def __call__(self, key: Array, weights: Array, n: int) -> Array:
        """Draw (n,) ancestors in [0, N); the weights are not negative and sum to one, up to rounding.

        Raises:
            TypeError: if key is not one PRNG key, weights no array of floats, or n no integer.
            ValueError: if weights known when it is called are something else, log weights for example.
        """


Pinned = Callable[[Array, Array, int, Array], tuple[Array, Array]]


class ConditionalResampling(Resampling, Protocol):
    """A scheme that can pin a particle."""

    @property
    def conditional(self) -> Pinned:
        """Draw (n,) ancestors, n at least 2, given that one is the particle `pinned`; and the slot of that one."""


def _pinned_by(conditional: Pinned) -> Callable:
    """Make the decorator of a scheme that gives it its conditional form."""

    def add(scheme: Callable) -> ConditionalResampling:
        scheme.conditional = conditional  # type: ignore[attr-defined]
        return cast(ConditionalResampling, scheme)

    return add


def _conditional_systematic(key: Array, weights: Array, n: int, pinned: Array) -> tuple[Array, Array]:
    key, weights, n = _checked(key, weights, n, at_least=2)
    slot, u = _point_of(key, weights, n, pinned)
    return _in_slot(_systematic(u, weights, n), slot, pinned)


@_pinned_by(_conditional_systematic)
def systematic(key: Array, weights: Array, n: int) -> Array:
    """Resample at the points (k + u)/n with one uniform u; arguments as in `Resampling`."""
    key, weights, n = _checked(key, weights, n)
    return _systematic(jax.random.uniform(key, ()), weights, n)


def _systematic(u: Array, weights: Array, n: int) -> Array:
    def count(whole: Array, fraction: Array) -> Array:
        return whole + jnp.ceil(fraction - u).astype(np.int32)

    return ancestors_of(ends_of(weights, n, count), n)


def _conditional_stratified(key: Array, weights: Array, n: int, pinned: Array) -> tuple[Array, Array]:
    key, weights, n = _checked(key, weights, n, at_least=2)
    key_point, key_rest = jax.random.split(key)
    slot, u = _point_of(key_point, weights, n, pinned)
    others = jax.random.uniform(key_rest, (n,))
    return _in_slot(_stratified(others.at[slot].set(u.astype(others.dtype)), weights, n), slot, pinned)


@_pinned_by(_conditional_stratified)
def stratified(key: Array, weights: Array, n: int) -> Array:
    """Resample at the points (k + u_k)/n with n independent uniforms; arguments as in `Resampling`."""
    key, weights, n = _checked(key, weights, n)
    return _stratified(jax.random.uniform(key, (n,)), weights, n)


def _stratified(u: Array, weights: Array, n: int) -> Array:
    def count(whole: Array, fraction: Array) -> Array:
        stratum, fraction = carry_over(whole, fraction)
        return stratum + (fraction > u[jnp.minimum(stratum, n - 1)]).astype(np.int32)

    return ancestors_of(ends_of(weights, n, count), n)


def _conditional_multinomial(key: Array, weights: Array, n: int, pinned: Array) -> tuple[Array, Array]:
    key, weights, n = _checked(key, weights, n, at_least=2)
    rest = multinomial(key, weights, n - 1)
    return jnp.concatenate([jnp.asarray(pinned, np.int32)[None], rest]), jnp.zeros((), np.int32)


@_pinned_by(_conditional_multinomial)
def multinomial(key: Array, weights: Array, n: int) -> Array:
    """Resample at n ordered independent uniforms; arguments as in `Resampling`.

    The uniforms are normalised cumulative sums of n + 1 exponentials (Chopin & Papaspiliopoulos
    2020, proposition 9.1).
    """
    key, weights, n = _checked(key, weights, n)
    gaps = jax.random.exponential(key, (n + 1,))
    local = cumulate_rows(gaps / jnp.sum(gaps), ROW)
    before = row_starts(local, n, lambda whole, _: whole)
    stratum, fraction = carry_over(before.whole[:, None], local * n + before.fraction[:, None])
    points = stratum.reshape(-1)[:n], fraction.reshape(-1)[:n]

    def count(whole: Array, fraction: Array) -> Array:
        return count_below(points, carry_over(whole, fraction))

    return ancestors_of(ends_of(weights, n, count), n)


def _point_of(key: Array, weights: Array, n: int, pinned: Array) -> tuple[Array, Array]:
    """Draw a point uniformly between the cumulative weights around a particle: its slot, and its place in the slot."""
    local = cumulate_rows(lax.stop_gradient(weights), ROW)
    before = row_starts(local, n, lambda whole, _: whole)
    reached = jnp.broadcast_to(before.whole[:, None], local.shape).reshape(-1)
    fraction = (local * n + before.fraction[:, None]).reshape(-1)
    last = jnp.maximum(pinned - 1, 0)
    whole, start = (jnp.where(pinned > 0, x[last], 0) for x in (reached, fraction))
    length = (reached[pinned] - whole).astype(start.dtype) + fraction[pinned] - start
    slot, u = carry_over(whole, start + length * jax.random.uniform(key, (), start.dtype))
    return jnp.clip(slot, 0, n - 1), u


def _in_slot(ancestors: Array, slot: Array, pinned: Array) -> tuple[Array, Array]:
    """Put the pinned particle into its slot, where it is up to rounding."""
    return ancestors.at[slot].set(jnp.asarray(pinned, ancestors.dtype)), slot


def _conditional_killing(key: Array, weights: Array, n: int, pinned: Array) -> tuple[Array, Array]:
    key, weights, n = _checked(key, weights, n, at_least=2)
    key_slot, key_rest = jax.random.split(key)
    # A slot has got the pinned particle because that stayed there, or because the one of the slot was killed.
    survival = _survival(weights, n)
    stayed = 1 / jnp.maximum(jnp.max(weights), _TINY)
    chances = (1 - survival).at[pinned].add(stayed)
    slot = jax.random.categorical(key_slot, jnp.log(chances)).astype(np.int32)
    return _in_slot(_killing(key_rest, weights, survival), slot, pinned)


@_pinned_by(_conditional_killing)
def killing(key: Array, weights: Array, n: int) -> Array:
    """Keep each particle with probability W / max W, else draw its ancestor anew; arguments as in `Resampling`.

    The ancestors are in the order of the slots, not sorted.

    Raises:
        ValueError: if n is another number than that of the weights.
    """
    key, weights, n = _checked(key, weights, n)
    return _killing(key, weights, _survival(weights, n))


_TINY = float(np.finfo(np.float32).tiny)


def _survival(weights: Array, n: int) -> Array:
    if n != len(weights):
        raise ValueError(f"n: killing keeps the number of particles, expected {len(weights)}, got {n}.")
    return weights / jnp.maximum(jnp.max(weights), _TINY)


def _killing(key: Array, weights: Array, survival: Array) -> Array:
    key_stay, key_draw, key_order = jax.random.split(key, 3)
    n = len(weights)
    stays = jax.random.uniform(key_stay, (n,), survival.dtype) < survival
    # In random order: those that multinomial resampling returns are sorted.
    drawn = jax.random.permutation(key_order, multinomial(key_draw, weights, n))
    return jnp.where(stays, lax.iota(np.int32, n), drawn)


def _checked(key: Array, weights: Array, n: int, *, at_least: int = 1) -> tuple[Array, Array, int]:
    """Return the arguments of a scheme as it needs them, once per trace."""
    floats = isinstance(weights, jax.Array | np.ndarray) and jnp.issubdtype(weights.dtype, jnp.floating)
    if not floats or weights.ndim != 1:
        raise TypeError(refusal("weights", "an array (N,) of floats", weights))
    if not isinstance(weights, jax.core.Tracer):
        _refuse_others(np.asarray(weights))
    return as_key(key), weights, require_integer("n", n, at_least=at_least)


def _refuse_others(weights: np.ndarray) -> None:
    """Refuse weights that are not normalised; a cloud without any weight passes."""
    total, least = (float(weights.sum()), float(weights.min())) if weights.size else (np.nan, np.nan)
    if not (least >= 0 and (total == 0 or abs(total - 1) < 1e-3)):
        raise ValueError(
            f"weights: expected none negative and a sum of one, got a least of {least:.3g} and a sum of {total:.3g}; "
            "from log weights make jax.nn.softmax(log_weights)."
        )
