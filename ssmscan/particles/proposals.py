"""Proposals: how a cloud moves and what weight the move earns.

At step t a proposal sees the carries of all particles, the parameters, the inputs x_t of the step (observations
included) and the model's own densities, draws innovations, and returns the incremental log weights

    log_weight = log [ p(z_t | c_{t-1}) p(y_t | z_t, c_{t-1}) / q(z_t | c_{t-1}, y_t) ].

It draws the initial sites too, with the weight log [p(s) p(y_0 | s) / q(s)].  And it may look ahead before
resampling, at the next input (`log_auxiliary`) or beyond (`Move.log_ahead`): ancestors are then drawn with V
proportional to W exp(log_ahead + log_auxiliary) instead of W, and the step carries W/V (Pitt & Shephard 1999; Chopin &
Papaspiliopoulos 2020, section 10.3.3).

A proposal that must see the series before the first step has `prepare` in place of the three methods of `Proposal`, see
`SeriesProposal`.  Its particles know data of later steps: no filter that goes on step by step can use it, and single
increments of the likelihood are no predictive densities.

`Bootstrap` draws z_t from the model, so its weight is the density of the observations.  It needs
nothing but the model, and is the right choice unless observations are so precise that few particles
survive a step.  `ssmscan.particles.guided.Guided` draws from distributions that the user gives.

A proposal of one's own is a frozen dataclass with the three methods of `Proposal`.  Its fields can be hashed, and it
is then a constant of the compiled program; one with arrays is registered as a pytree whose leaves are the arrays
(`jax.tree_util.register_dataclass`), and these are arguments of the program; it is compared by identity, `eq=False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.protocols import Dynamics, Values
from ssmscan.particles.draws import START_STREAM, draw_noise
from ssmscan.particles.loop import keep_for_gradient


class Move(NamedTuple):
    """A cloud that a proposal has drawn or moved; every leaf has the N particles in front.

    Attributes:
        carry: carries after the step, or at the start.
        log_weight: (N,) incremental log weights.
        log_prediction: (N,) the part of them that does not involve the observation,
            log p(z)/q(z); None where it is zero.
        values: values of innovations and deterministics by site, or of the initial sites.
        cdf: by observation, (P(Y <= y), P(Y < y)) under each particle.
        log_ahead: (N,) log factors, finite, for what is still to come, functions of the carry alone, up to a constant;
            None for none, here and at every step.
    """

    carry: Any
    log_weight: Array
    log_prediction: Array | None
    values: dict[str, Array]
    cdf: dict[str, tuple[Array, Array]]
    log_ahead: Array | None = None


class Proposal(Protocol):
    """Draws, moves and weighs a cloud.

    Every method has the model at theta: `dynamics.theta`, what is observed (`dynamics.observed(x)`), the densities
    (`dynamics.evaluate`, `dynamics.evaluate_start`) and their derivatives, since they are functions of JAX.
    """

    def begin(self, key: Array, dynamics: Dynamics, n: int) -> Move:
        """Draw n particles of the initial sites.

        Args:
            key: the key of the run, from which those of the steps are made: draw from its streams from
                `draws.START_STREAM` on.
            dynamics: the model at theta.
            n: number of particles.
        """

    def log_auxiliary(self, dynamics: Dynamics, carry: Any, x: Any, n: int) -> Array | None:
        """Return (N,) log factors for the choice of ancestors, from the past and x; None for none."""

    def propagate(self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int) -> Move:
        """Move n particles with the noise of one key.

        Args:
            key: one key, used for nothing else.
            dynamics: the model at theta.
            carry: carries of the particles, N in front.
            x: inputs of this step, one slice of `dynamics.xs`.
            n: number of particles.
        """


class SeriesProposal(Protocol):
    """Makes a proposal of a whole series, and of what it needs at each step."""

    def prepare(self, dynamics: Dynamics) -> tuple[Proposal, Any]:
        """Look at the series, once at each theta.

        Args:
            dynamics: the model at theta.

        Returns:
            A proposal, a pytree if it has arrays; and its plan, leaves with T in front. The x that the proposal gets is
            (x, slice of the plan).
        """


class ConditionalProposal(Proposal, Protocol):
    """A proposal that can move a cloud of which one particle is given, as conditional SMC does.

    The others must be drawn from the law they have given that one: where particles of a step are not independent, from
    another than without it.
    """

    def begin_given(self, key: Array, dynamics: Dynamics, n: int, values: Values, slot: Array) -> Move:
        """Draw n particles of the initial sites, of which the one in a slot has these values; as `begin`."""

    def propagate_given(
        self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int, values: Values, slot: Array
    ) -> Move:
        """Move n particles, of which the one in a slot has these innovations; as `propagate`."""


def with_particle(moved: Move, slot: Array, carry: Any, log_weight: Array, values: Values, ahead: Any = None) -> Move:
    """Put a particle into a slot of a cloud, with what it earns."""
    known = {name: values[name] for name in moved.values}
    whole = moved.carry, moved.log_weight, moved.values, moved.log_ahead
    one = carry, log_weight, known, ahead
    placed = jax.tree.map(lambda leaf, entry: leaf.at[slot].set(entry), whole, one)
    return moved._replace(carry=placed[0], log_weight=placed[1], values=placed[2], log_ahead=placed[3])


def entry(cloud: Any, slot: Array) -> Any:
    """Return one particle of every leaf."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, slot, keepdims=False), cloud)


def uses_later_data(proposal: Proposal | SeriesProposal) -> bool:
    """Return whether particles of a proposal know data of later steps."""
    return hasattr(proposal, "prepare")


@dataclass(frozen=True)
class Bootstrap:
    """Draw initial sites and innovations from the model; the weight is the density of the observations."""

    def begin(self, key: Array, dynamics: Dynamics, n: int) -> Move:
        """Draw the initial sites from the model."""
        noise = draw_noise(key, dynamics.initial_noise, n, first_stream=START_STREAM)
        start = jax.vmap(dynamics.init, axis_size=n)(noise)
        return Move(start.carry, start.log_weight, None, start.values, {})

    def log_auxiliary(self, dynamics: Dynamics, carry: Any, x: Any, n: int) -> None:
        """Return None: ancestors are drawn with the weights themselves."""

    def propagate(self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int) -> Move:
        """Move n particles by the model's own step."""
        noise = keep_for_gradient(draw_noise(key, dynamics.step_noise, n))
        step = jax.vmap(dynamics.step, in_axes=(0, None, 0), axis_size=n)(carry, x, noise)
        return Move(step.carry, step.log_weight, None, step.values, step.cdf)

    def begin_given(self, key: Array, dynamics: Dynamics, n: int, values: Values, slot: Array) -> Move:
        """Draw the initial sites from the model, but for one particle."""
        start = dynamics.evaluate_start(values)
        weight = start.log_observation + start.log_excess
        return with_particle(
            self.begin(key, dynamics, n), slot, start.carry, possible(start.log_initial, weight), values
        )

    def propagate_given(
        self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int, values: Values, slot: Array
    ) -> Move:
        """Move n particles by the model's own step, but for one."""
        step = dynamics.evaluate(entry(carry, slot), x, values)
        weight = possible(step.log_transition, step.log_observation + step.log_excess)
        values = {**values, **step.deterministics}
        return with_particle(self.propagate(key, dynamics, carry, x, n), slot, step.carry, weight, values)


def possible(log_density: Array, log_weight: Array) -> Array:
    """Return the weight of a particle; zero where the model cannot draw it."""
    return jnp.where(log_density > -jnp.inf, log_weight, -jnp.inf)
