r"""All states of a linear Gaussian model, integrated out: the density of the data given the parameters alone.

Where carries, noise and data are jointly normal (`linear_gaussian`),

.. math::  p(y | \theta) = \int p(y | e, \theta) \, N(e; 0, I) \, de

is one pass of `ssmscan.model.gaussian`, and draws of the states given data and parameters follow its feedback law
through the model itself.  The elements of a panel are integrated one by one: O(M d^3) a step, and not O((M d)^3).

Nothing here is used unless somebody asks for it (`ssmscan.integrate_states`): engines that check each other had better
not share their likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from ssmscan.errors import ModelError
from ssmscan.model.gaussian.law import Fit
from ssmscan.model.gaussian.linear import fit_linear, log_likelihood
from ssmscan.model.gaussian.moments import draw_path
from ssmscan.model.gaussian.vectors import VectorModel, in_vectors, join_noise
from ssmscan.model.protocols import Dynamics, NoiseSpec, PyTree, Theta, Values
from ssmscan.model.sites import Role
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.dynamics import LoopDynamics
from ssmscan.model.statespace.element_dynamics import elements_at, join_values
from ssmscan.model.statespace.linear_gaussian import exactness
from ssmscan.model.statespace.marginal import Densities, LoopWithData, Posterior
from ssmscan.model.statespace.program import Program, intern

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class NormalIntegral:
    """The states of a linear Gaussian loop, integrated out.

    Attributes:
        integrated: names of all its states.
        separable: whether no density of a state is scaled, so that the draws have the density of their law.
    """

    integrated: tuple[str, ...]
    separable: bool
    has_law: bool = False

    @property
    def noise(self) -> Mapping[str, NoiseSpec]:
        """No site keeps its noise."""
        return {}

    def describe(self) -> str:
        """Return a clause that says what is integrated out."""
        names = ", ".join(f"'{name}'" for name in self.integrated)
        return f"integrated out by gradient engines: {names}, jointly normal given the parameters"

    def log_densities(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array]) -> Densities:
        """Compute the log-density of all data given the parameters; NaN where the states have no normal law."""
        found = _each(core, theta, lambda _, dynamics: log_likelihood(in_vectors(dynamics)))
        likelihood = jnp.sum(found) + core.log_static(theta)
        return Densities(jnp.zeros_like(likelihood), likelihood)

    def posterior(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array], key: Array | None) -> Posterior:
        """Draw the states given data and parameters."""
        assert key is not None and isinstance(core, Core)

        def draw(key: Array, dynamics: Dynamics) -> tuple[Values, Array]:
            model = in_vectors(dynamics)
            found = fit_linear(model)
            values, noise = draw_path(key, model, found)
            return values, log_likelihood(model) + _log_ratio(model, found, noise)

        values, log_ratio = _each(core, theta, draw, key)
        states = values if core.panel is None else join_values(values, core.panel)
        log_joint = jnp.sum(log_ratio) + core.log_static(theta) + _log_law(core, theta, states)
        return Posterior(states, {}, log_joint if self.separable else None)


def _each(core: LoopWithData, theta: Theta, run: Callable[..., T], key: Array | None = None) -> T:
    """Run a function of a key and of dynamics for a loop, or for every element of its panel, elements in front."""
    assert isinstance(core, Core)
    if core.panel is None:
        return run(key, LoopDynamics(core, theta))
    at, numbers = elements_at(core, theta), jnp.arange(core.panel.size, dtype=np.int32)
    if key is None:
        return jax.vmap(lambda number: run(None, at(number)))(numbers)
    return jax.vmap(lambda number: run(jax.random.fold_in(key, number), at(number)))(numbers)


def _log_ratio(model: VectorModel, found: Fit, noise: Values) -> Array:
    """Compute the log-density of noise under the smoothing law over that under N(0, I), a scalar."""
    coordinates, gains = model.coordinates, found.gains

    def one(noise: Array, mean: Array, scale_tril: Array) -> Array:
        if not len(noise):
            return jnp.zeros(())
        normals = solve_triangular(scale_tril, noise - mean, lower=True)
        return 0.5 * jnp.sum(noise**2 - normals**2) - jnp.sum(jnp.log(jnp.diagonal(scale_tril)))

    initial, steps = join_noise(coordinates.initial, noise), {name: noise[name] for name, _ in coordinates.step}

    def step(carry: PyTree, inputs: tuple) -> tuple[PyTree, Array]:
        x, own, mean, feedback, scale_tril, vector = inputs
        noise, mean = join_noise(coordinates.step, own), mean + feedback @ (coordinates.of_carry(carry) - vector)
        return model.step(carry, x, noise)[0], one(noise, mean, scale_tril)

    inputs = model.xs, steps, found.mean, gains.feedback, gains.scale_tril, found.carries[:-1]
    _, ratios = lax.scan(step, model.start(initial)[0], inputs)
    return one(initial, found.initial_mean, found.initial_scale_tril) + jnp.sum(ratios)


def _log_law(core: Core, theta: Theta, states: Values) -> Array:
    """Compute the log-density of the states before anything is observed, a scalar."""
    dynamics = LoopDynamics(core, theta)
    start = dynamics.evaluate_start({site.name: states[site.name] for site in core.initial})

    def step(carry: PyTree, inputs: tuple) -> tuple[PyTree, Array]:
        moved = dynamics.evaluate(carry, *inputs)
        return moved.carry, moved.log_transition

    values = {site.name: states[site.name] for site in core.innovations}
    return start.log_initial + jnp.sum(lax.scan(step, start.carry, (dynamics.xs, values))[1])


@lru_cache(maxsize=256)
def with_states_integrated(program: Program) -> Program:
    """Return the program of a loop whose states gradient engines integrate out.

    Raises:
        ModelError: the loop is not linear and Gaussian; the message says why, and what else there is.
    """
    found = exactness(program)
    if not found.exact:
        raise ModelError(
            f"the states cannot be integrated out, as the model is not linear and Gaussian: {found.why}. Use NUTS or "
            "TemperedSMC, which sample the states, or ParticleFilter and PMMH; ssmscan.gaussian_approximation "
            "approximates the integral."
        )
    names = (*program.initial, *program.names(Role.INNOVATION))
    if not names:
        return program
    scaled = {site.name for site in (*program.plan.outside, *program.plan.inside) if site.scaled}
    return intern(replace(program, marginal=NormalIntegral(names, scaled.isdisjoint(names))))
