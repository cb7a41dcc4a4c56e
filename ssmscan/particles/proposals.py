"""Proposals: how a cloud moves and what weight the move earns.

At step t a proposal sees the carries of all particles and the inputs x_t of the step (observations
included), draws innovations, and returns the incremental log weights

    log_weight = log [ p(z_t | c_{t-1}) p(y_t | z_t, c_{t-1}) / q(z_t | c_{t-1}, y_t) ].

It may also look ahead before resampling: ancestors are then drawn with V proportional to
W exp(log_auxiliary) instead of W, and the kernel carries W/V (Pitt & Shephard 1999; Chopin &
Papaspiliopoulos 2020, section 10.3.3).

`Bootstrap` draws z_t from the model, so its weight is the density of the observations.  It needs
nothing but the model, and is the right choice unless observations are so precise that few particles
survive a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
from jax import Array

from ssmscan.model.protocols import Dynamics
from ssmscan.particles.draws import draw_noise
from ssmscan.particles.loop import keep_for_gradient


class Moved(NamedTuple):
    """A cloud after a move; every leaf has the N particles in front.

    Attributes:
        carry: carries after the step.
        log_weight: (N,) incremental log weights.
        log_prediction: (N,) the part of them that does not involve the observation,
            log p(z)/q(z); None where it is zero.
        values: values of innovations and deterministics by site.
        cdf: by observation, (P(Y <= y), P(Y < y)) under each particle.
    """

    carry: Any
    log_weight: Array
    log_prediction: Array | None
    values: dict[str, Array]
    cdf: dict[str, tuple[Array, Array]]


class Proposal(Protocol):
    """Moves and weighs a cloud; a frozen, hashable object of settings."""

    def log_auxiliary(self, dynamics: Dynamics, carry: Any, x: Any, n: int) -> Array | None:
        """Give (N,) log factors for the choice of ancestors, from the past and x; None for none."""

    def propagate(self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int) -> Moved:
        """Move n particles with the noise of one key.

        Args:
            key: one key, used for nothing else.
            dynamics: the model at theta.
            carry: carries of the particles, N in front.
            x: inputs of this step, one slice of `dynamics.xs`.
            n: number of particles.
        """


@dataclass(frozen=True)
class Bootstrap:
    """Draw innovations from the model; the weight is the density of the observations."""

    def log_auxiliary(self, dynamics: Dynamics, carry: Any, x: Any, n: int) -> None:
        """Look at nothing: ancestors are drawn with the weights themselves."""

    def propagate(self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int) -> Moved:
        """Move n particles by the model's own step."""
        noise = keep_for_gradient(draw_noise(key, dynamics.step_noise, n))
        step = jax.vmap(dynamics.step, in_axes=(0, None, 0), axis_size=n)(carry, x, noise)
        return Moved(step.carry, step.log_weight, None, step.values, step.cdf)
