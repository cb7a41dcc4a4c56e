"""One element of a panel, to the engines what a model and its `LoopDynamics` are.

The elements of a panel differ by a number, which may be batched: engines vmap over it.  Everything
that the parameters alone determine is computed once for all elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from ssmscan.model.noise.score import gradient_alone
from ssmscan.model.protocols import NoiseSpec
from ssmscan.model.sites import Site
from ssmscan.model.statespace.dynamics import Evaluated, Start, Step
from ssmscan.model.statespace.panel import ElementFunctions

if TYPE_CHECKING:
    from ssmscan.model.statespace.front import StateSpaceModel, Theta

PyTree = Any


class ElementModel(NamedTuple):
    """Static facts of one element; see `StateSpaceModel`."""

    num_steps: int
    start_observed: bool
    innovations: tuple[Site, ...]
    initial_noise: dict[str, NoiseSpec]
    step_noise: dict[str, NoiseSpec]


class ElementDynamics(NamedTuple):
    """One element at one parameter value; see `LoopDynamics`. Arrays keep the axis of the elements, at size one."""

    facts: ElementModel
    xs: PyTree
    number: jax.Array
    parts: tuple[Callable, Callable, Callable]

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""
        return self.facts.num_steps

    @property
    def start_observed(self) -> bool:
        """Whether the initial state is weighed."""
        return self.facts.start_observed

    @property
    def innovations(self) -> tuple[Site, ...]:
        """Latent sites of the loop."""
        return self.facts.innovations

    @property
    def initial_noise(self) -> dict[str, NoiseSpec]:
        """Base noise of the initial-state sites of one particle."""
        return self.facts.initial_noise

    @property
    def step_noise(self) -> dict[str, NoiseSpec]:
        """Base noise of the innovations of one particle at one step."""
        return self.facts.step_noise

    def init(self, noise: Mapping[str, jax.Array]) -> Start:
        """Start one particle from base noise."""
        out = self.parts[0](self.number, dict(noise))
        return Start(out["carry"], out["log_weight"] + gradient_alone(out["log_rough"]), out["values"])

    def step(self, carry: PyTree, x: PyTree, noise: Mapping[str, jax.Array]) -> Step:
        """Move one particle by base noise and weigh it."""
        out = self.parts[1](self.number, carry, x, dict(noise))
        return Step(out["carry"], out["log_weight"] + gradient_alone(out["log_rough"]), out["values"], out["cdf"])

    def evaluate(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Evaluated:
        """Densities of one step at given innovations."""
        out = self.parts[2](self.number, carry, x, dict(values))
        return Evaluated(out["carry"], out["log_transition"], out["log_observation"], out["deterministic"])


def element_model(ssm: StateSpaceModel) -> ElementModel:
    """Describe one element of a panel."""
    noise = _elements(ssm).noise
    return ElementModel(
        ssm.num_steps,
        ssm.start_observed,
        ssm.innovations,
        {site.name: noise[site.name] for site in ssm.initial},
        {site.name: noise[site.name] for site in ssm.innovations},
    )


def elements_at(ssm: StateSpaceModel, theta: Theta) -> Callable[[jax.Array], ElementDynamics]:
    """Compute what all elements share; return the element of a number."""
    elements, arrays = _elements(ssm), ssm.arrays
    parts = tuple(fn.bind(arrays, theta, unroll=True) for fn in (elements.start, elements.step, elements.evaluate))
    facts, xs = element_model(ssm), ssm._inputs(theta)
    return lambda number: ElementDynamics(facts, xs, number, parts)  # type: ignore[arg-type]


def _elements(ssm: StateSpaceModel) -> ElementFunctions:
    elements = ssm.program.elements
    if isinstance(elements, str):
        raise TypeError("the model is not a panel")
    return elements
