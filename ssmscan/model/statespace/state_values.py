r"""A model at given values of its states: their density with the data, and the noise that makes them.

.. math::  \log p(s, v_{1:T}, y | \theta) = \log h(\theta) + \log p(s) p(y_0 | s)
           + \sum_t \log p(v_t | c_{t-1}) \, p(y_t | c_{t-1}, v_t)

is what the parameters are updated by while the states are held.  With the noise held instead, e = e(v, theta), states
move with the parameters: `noise_from_states` undoes `StateSpaceModel.states_from_noise`.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.placeholders import sum_of
from ssmscan.model.protocols import PyTree, Theta, Values
from ssmscan.model.statespace.dynamics import LoopDynamics
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.simulation import known_states
from ssmscan.model.time_loops import scan_steps


def without_noise(ssm: StateSpaceModel) -> tuple[str, ...]:
    """Return the names of the states whose values do not tell their noise: no smooth one-to-one functions of it."""
    known = {name for core in ssm.cores for name in core.program.invertible}
    return tuple(site.name for site in (*ssm.initial, *ssm.innovations) if site.name not in known)


def log_joint(ssm: StateSpaceModel, theta: Theta, states: Mapping[str, jax.Array]) -> jax.Array:
    """Compute log p(states, data | theta), a scalar; works under jit, vmap and grad.

    Args:
        ssm: the model.
        theta: value of every parameter.
        states: value of every initial site, and of every innovation with time in front; other sites may be there.

    Raises:
        ModelError: data are observed after the loop in a way that joins its steps.
        ValueError: if states lacks a site, or one has another shape.
    """
    terms = [ssm.log_static(theta)]
    for dynamics, initial, loop in _each(ssm, theta, states):
        start = dynamics.evaluate_start(initial)

        def body(carry: PyTree, inputs: tuple, dynamics: LoopDynamics = dynamics) -> tuple[PyTree, jax.Array]:
            found = dynamics.evaluate(carry, *inputs)
            return found.carry, found.log_transition + found.log_observation

        _, steps = scan_steps(body, start.carry, (dynamics.xs, loop))
        terms += [start.log_initial, start.log_observation, jnp.sum(steps)]
    return sum_of(terms)


def noise_from_states(ssm: StateSpaceModel, theta: Theta, states: Mapping[str, jax.Array]) -> Values:
    """Compute the noise of given states, by site; it has no derivative.

    Arguments as of `log_joint`.

    Raises:
        ModelError: some states are no smooth one-to-one functions of noise, see `without_noise`.
        ValueError: if states lacks a site, or one has another shape.
    """
    if names := ", ".join(repr(name) for name in without_noise(ssm)):
        raise ModelError(
            f"the noise of {names} cannot be found from values: their map from noise is not smooth and one-to-one. Use "
            "what needs the values alone, such as ParticleGibbs(interweave=False)."
        )
    noise: Values = {}
    for dynamics, initial, loop in _each(ssm, theta, states):

        def body(carry: PyTree, inputs: tuple, dynamics: LoopDynamics = dynamics) -> tuple[PyTree, Values]:
            return dynamics.evaluate(carry, *inputs).carry, dynamics.noise_of(carry, *inputs)

        _, steps = scan_steps(body, dynamics.evaluate_start(initial).carry, (dynamics.xs, loop))
        noise |= dynamics.start_noise_of(initial) | steps
    return noise


def _each(
    ssm: StateSpaceModel, theta: Theta, states: Mapping[str, jax.Array]
) -> list[tuple[LoopDynamics, Values, Values]]:
    """Return each loop at theta, with the values of its initial sites and those of its innovations."""
    theta, known = ssm.canonical(theta), known_states(ssm.cores, states, whole=True)
    found = []
    for core in ssm.cores:
        core.refuse_unless_pointwise()
        initial, loop = ({site.name: known[site.name] for site in part} for part in (core.initial, core.innovations))
        found.append((LoopDynamics(core, theta), initial, loop))
    return found
