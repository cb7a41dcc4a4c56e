"""Faults to plant in the parts of a model and in what samplers do with them, and the check that must object to each.

Nearly all is staged by `trace`, so that a model is traced while a fault is there; compiled programs are forgotten on
both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssmscan.inference import importance_points, pmmh_chain, posterior
from ssmscan.model.noise import quantiles
from ssmscan.model.statespace import front
from ssmscan.model.statespace.dynamics import LoopDynamics, UnderMaps
from ssmscan.particles import conditional_step, filter_step


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put a fault in place of what is there, and forget what was compiled."""
    right = owner.__dict__[name] if isinstance(owner, type) else getattr(owner, name)
    jax.clear_caches()
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, right)
        jax.clear_caches()


def dropped_observation():
    """Leave out what is observed at every other step where particles are weighed."""
    right = UnderMaps.step

    def wrong(self, carry, x, noise):
        moved, (t, _) = right(self, carry, x, noise), x
        return moved._replace(log_weight=jnp.where(t % 2 == 0, moved.log_weight, 0.0))

    return replaced(UnderMaps, "step", wrong)


def noise_too_wide():
    """Map standard normals to normals whose sd is 5 % too large."""
    right = quantiles.aligned

    def wrong(eps, *rest):
        eps, *rest = right(eps, *rest)
        return 1.05 * eps, *rest

    return replaced(quantiles, "aligned", wrong)


def start_too_narrow():
    """Draw the initial state with half its sd."""
    right = UnderMaps.init
    return replaced(UnderMaps, "init", lambda self, noise: right(self, jax.tree.map(lambda e: 0.5 * e, dict(noise))))


def missing_jacobian():
    """Use the prior density of theta where that of z is due."""

    def wrong(self, z):
        theta = self.constrain(z)
        return theta, self.log_prior(theta)

    return replaced(front.StateSpaceModel, "log_prior_unconstrained", wrong)


def missing_prior():
    """Leave the prior of the parameters out of their density, and keep the Jacobian."""
    right = front.StateSpaceModel.log_prior_unconstrained

    def wrong(self, z):
        theta, log_prior = right(self, z)
        return theta, log_prior - self.log_prior(theta)

    return replaced(front.StateSpaceModel, "log_prior_unconstrained", wrong)


def shifted_observations():
    """Give every step the inputs, and so the data, of the step before."""
    right = LoopDynamics.__init__

    def wrong(self, core, theta):
        right(self, core, theta)
        t, xs = self.xs
        self.xs = t, jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), xs)

    return replaced(LoopDynamics, "__init__", wrong)


def forgotten_weights():
    """Let particles move with equal weights where they were not resampled."""
    return replaced(filter_step, "_carried", lambda needed, ratio, log_weights: ratio * 0 - jnp.log(1.0 * len(ratio)))


def estimated_again():
    """Estimate the present point of PMMH again before every step."""
    right = pmmh_chain.pmmh_step

    def wrong(key, state, scale, ssm, estimator):
        key, again = jax.random.split(key)
        found = pmmh_chain.evaluate(again, ssm, state.z, estimator)
        return right(key, state._replace(log_likelihood=found.log_likelihood), scale, ssm, estimator)

    return replaced(pmmh_chain, "pmmh_step", wrong)


def first_particle():
    """Let conditional SMC end at the particle in the first slot, whatever its weight."""
    right = conditional_step._ancestral
    return replaced(conditional_step, "_ancestral", lambda final, kept: right(jnp.zeros_like(final), kept))


def noise_without_density():
    """Leave the density of the noise out of what NUTS samples."""
    return replaced(posterior, "_log_normal", lambda ssm, position: ssm.log_law_unconstrained(position.parameters)[0])


def weights_without_proposal():
    """Weigh the points of the importance sampler by the posterior alone."""
    return replaced(importance_points.Points, "log_weights", lambda self, proposal: self.log_posterior())


class Fault(NamedTuple):
    """A fault: how it is planted, the check that must see it, and whether it is one of the parts of a model."""

    plant: Callable
    seen_by: str
    in_parts: bool = True


FAULTS = {
    "observation dropped at every other step": Fault(dropped_observation, "densities"),
    "noise of states 5 % too wide": Fault(noise_too_wide, "forward draws"),
    "initial state of half the sd": Fault(start_too_narrow, "forward draws"),
    "missing Jacobian": Fault(missing_jacobian, "densities"),
    "prior left out": Fault(missing_prior, "densities"),
    "data one step late": Fault(shifted_observations, "densities"),
    "carried weights forgotten": Fault(forgotten_weights, "likelihood", False),
    "PMMH estimates again": Fault(estimated_again, "PMMH", False),
    "conditional SMC ends anywhere": Fault(first_particle, "Gibbs", False),
    "NUTS without the density of noise": Fault(noise_without_density, "NUTS", False),
    "importance weights without the proposal": Fault(weights_without_proposal, "calibration", False),
}
