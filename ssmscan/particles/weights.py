r"""Weights of a cloud: normalisation, effective sample size, and sums that keep their digits.

Log weights :math:`\ell_i` are shifted by their maximum before any exponential,

.. math::  m = \max_i \ell_i, \quad S = \sum_i e^{\ell_i - m}, \quad
           \log \textstyle\sum_i e^{\ell_i} = m + \log S, \quad
           \mathrm{ESS} = S^2 \Big/ \sum_i e^{2(\ell_i - m)}

(Chopin & Papaspiliopoulos 2020, "An Introduction to Sequential Monte Carlo", sections 8.3 and 8.6).

What is not a weight: a particle whose log weight is NaN or +inf is a fault of the model at that
point (an overflow, a pole of a density).  It gets weight zero, as a state that cannot produce the
data, and the fault is reported, so that one bad particle neither kills a run nor wins it.
A cloud without any weight left has log sum -inf, ESS 0 and *uniform* normalised weights: what is
computed from them afterwards is finite, and the caller, who sees the -inf, does not use it.

A log likelihood over many steps is accumulated with Neumaier's compensation (1974, Zeitschrift fuer
Angewandte Mathematik und Mechanik 54, 39-51): over 1e5 steps a plain float32 sum is off by tenths.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.model.time_loops import on_cpu


class Weighed(NamedTuple):
    """A normalised cloud.

    Attributes:
        log_weights: (N,) normalised, -inf where the particle has no weight.
        weights: (N,) their exponentials.
        log_sum: () log of the sum of the weights given; -inf if there was none.
        ess: () effective sample size, in [1, N], or 0 if there was no weight.
        faulty: () whether a log weight was NaN or +inf and was taken for -inf.
    """

    log_weights: Array
    weights: Array
    log_sum: Array
    ess: Array
    faulty: Array


def normalise(log_weights: Array) -> Weighed:
    """Normalise log weights of shape (N,)."""
    # NaN becomes +inf because XLA's maximum of many numbers, on a CPU, does not see it.
    marked = jnp.where(log_weights < jnp.inf, log_weights, jnp.inf)
    shift, faulty = _shift(jax.lax.stop_gradient(marked))
    clean = without_faults(marked)
    alive = shift > -jnp.inf
    # Twice guarded: without weight the exponentials are of zero, and so are their gradients.
    shifted = jnp.where(alive, clean - jnp.where(alive, shift, 0), 0)
    unnormalised = jnp.exp(shifted)
    total = jnp.sum(unnormalised)
    log_total = jnp.log(total)
    # A product: XLA repeats it where it is used, and would store a quotient.
    weights = unnormalised * (1 / total)
    return Weighed(
        log_weights=shifted - log_total,
        weights=weights,
        log_sum=jnp.where(alive, shift + log_total, -jnp.inf),
        # Not of what is not normalised: XLA makes the square of an exponential another exponential.
        ess=jnp.where(alive, 1 / jnp.sum(weights * weights), 0),
        faulty=faulty,
    )


def _shift(marked: Array) -> tuple[Array, Array]:
    """Find the largest log weight that is no fault, and whether there is a fault, marked +inf; the same everywhere."""
    if not on_cpu():
        # Both in one pass.  At a conditional the host waits for the GPU, for longer than a small cloud takes to move.
        return jnp.max(without_faults(marked)), jnp.any(marked == jnp.inf)
    top = jnp.max(marked)
    faulty = ~(top < jnp.inf)
    return jax.lax.cond(faulty, lambda x: jnp.max(without_faults(x)), lambda _: top, marked), faulty


def without_faults(log_weights: Array) -> Array:
    """Take log weights that are NaN or +inf for -inf."""
    return jnp.where(log_weights < jnp.inf, log_weights, -jnp.inf)


def uniform(n: int) -> Array:
    """Return the normalised log weights of n equal particles."""
    return jnp.full(n, -math.log(n), float)


SAMPLED = 1000
"""Particles of the sparsest cloud that are kept, at most."""


class Sparsest(NamedTuple):
    """The cloud with the smallest effective sample size by now.

    Attributes:
        ess: () its effective sample size.
        log_weights: (n,) its log weights, of n <= `SAMPLED` particles evenly spaced.
    """

    ess: Array
    log_weights: Array

    @classmethod
    def of_equal(cls, n: int) -> Sparsest:
        """Return a cloud of n particles of the same weight."""
        return cls(jnp.full((), n, float), _sampled(uniform(n)))

    def or_sparser(self, cloud: Weighed) -> Sparsest:
        """Return this cloud, or another if it is sparser."""
        sparser = cloud.ess < self.ess
        return Sparsest(
            jnp.where(sparser, cloud.ess, self.ess),
            jnp.where(sparser, _sampled(cloud.log_weights), self.log_weights),
        )


def _sampled(log_weights: Array) -> Array:
    return log_weights[:: -(-len(log_weights) // SAMPLED)]


class CompensatedSum(NamedTuple):
    """A running sum and what rounding has taken from it; the value is total + lost."""

    total: Array
    lost: Array

    @classmethod
    def zero(cls) -> CompensatedSum:
        """Return an empty sum, in the default real dtype."""
        return cls(jnp.zeros(()), jnp.zeros(()))

    def add(self, term: Array) -> CompensatedSum:
        """Add one term; an infinite or NaN term makes the value what a plain sum would be."""
        total = self.total + term
        larger = jnp.abs(self.total) >= jnp.abs(term)
        big, small = jnp.where(larger, self.total, term), jnp.where(larger, term, self.total)
        rounding = (big - total) + small
        return CompensatedSum(total, self.lost + jnp.where(jnp.isfinite(total), rounding, 0))

    def value(self) -> Array:
        """Return the sum, rounded once."""
        return self.total + self.lost
