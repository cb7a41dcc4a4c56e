"""One element of a panel at one parameter value, to the engines what `LoopDynamics` is of a model.

The elements of a panel differ by a number, which may be batched: engines vmap over it.  Everything
that the parameters alone determine is computed once for all elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from ssmscan.model.noise.score import gradient_alone
from ssmscan.model.protocols import (
    Evaluated,
    EvaluatedStart,
    Panel,
    PyTree,
    Start,
    Step,
    Theta,
    Values,
)
from ssmscan.model.sites import Site
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.element_functions import OneElement
from ssmscan.model.statespace.linear_gaussian import exactness
from ssmscan.model.statespace.one_particle import varying, without_held


class _Shared:
    """What the elements have in common: static facts, and the staged functions at the parameters."""

    def __init__(self, core: Core, theta: Theta):
        elements = core.program.elements
        if isinstance(elements, str):
            raise TypeError("the model is not a panel")
        self.core, self.theta, self.elements = core, theta, elements
        self.num_steps, self.start_observed = core.num_steps, core.program.start_observed
        self.initial = tuple(_of_one(site, elements.panel) for site in core.initial)
        self.innovations = tuple(_of_one(site, elements.panel) for site in core.innovations)
        self.particles = self.guided = _Bound(core, theta, elements.particles)
        if elements.guided is not elements.particles:
            self.guided = _Bound(core, theta, elements.guided)
        self.evaluate = elements.evaluate.bind(core.arrays, theta=theta, unroll=True)
        # What few proposals ask for is bound where it is called.
        self.evaluate_start = partial(elements.evaluate_start, core.arrays, theta=theta)
        self.start_noise_of = partial(elements.start_noise_of, core.arrays, theta=theta)
        self.noise_of = partial(elements.noise_of, core.arrays, theta=theta)
        self.cdf = partial(elements.cdf, core.arrays, theta=theta)
        self.observed = partial(elements.observed, core.arrays)
        self.xs = core.inputs(theta)


class _Bound:
    """What moves and weighs one element under some maps, at the parameters."""

    def __init__(self, core: Core, theta: Theta, one: OneElement):
        self.start, self.step = (staged.bind(core.arrays, theta=theta, unroll=True) for staged in (one.start, one.step))
        innovations = [site.name for site in core.innovations]
        self.initial_noise, self.held_start = without_held(one.noise, core.program.initial, one.held)
        self.step_noise, self.held_step = without_held(one.noise, innovations, one.held)
        self.one = one


class ElementUnderMaps:
    """One element as a function of base noise, under some maps; see `UnderMaps`."""

    def __init__(self, bound: _Bound, number: jax.Array):
        self._bound, self._number = bound, number
        self.initial_noise, self.step_noise, self.held = bound.initial_noise, bound.step_noise, bound.one.held

    @property
    def varying(self) -> tuple[bool, ...]:
        """For each leaf of the carry, whether it is real and noise reaches it."""
        return varying(self._bound.one.start, self._bound.one.step, frozenset(self.held))

    def init(self, noise: Mapping[str, jax.Array]) -> Start:
        """Start one particle from base noise."""
        out = self._bound.start(m=self._number, noise={**self._bound.held_start, **noise})
        return Start(out["carry"], out["log_weight"] + self._of_rough(out), out["values"])

    def step(self, carry: PyTree, x: PyTree, noise: Mapping[str, jax.Array]) -> Step:
        """Move one particle by base noise and weigh it."""
        out = self._bound.step(m=self._number, carry=carry, x=x, noise={**self._bound.held_step, **noise})
        return Step(out["carry"], out["log_weight"] + self._of_rough(out), out["values"], out["cdf"])

    def _of_rough(self, out: dict) -> jax.Array:
        return jnp.zeros(()) if self.held else gradient_alone(out["log_rough"])


class ElementDynamics(ElementUnderMaps):
    """One element at one parameter value; see `LoopDynamics`. Arrays keep the axis of the elements, at size one."""

    def __init__(self, shared: _Shared, number: jax.Array):
        super().__init__(shared.particles, number)
        self._shared = shared
        self.theta, self.xs, self.num_steps = shared.theta, shared.xs, shared.num_steps
        self.start_observed, self.initial, self.innovations = shared.start_observed, shared.initial, shared.innovations
        self.moved, self.invertible = shared.elements.moved, shared.elements.invertible

    @property
    def linear_gaussian(self) -> bool:
        """Whether carries, noise and data are jointly normal: those of an element are where those of all are."""
        return exactness(self._shared.core.program).exact

    @property
    def guided(self) -> ElementUnderMaps:
        """The dynamics under the maps that a Gaussian proposal draws in."""
        return self._under(self._shared.guided)

    @property
    def surrogate(self) -> ElementUnderMaps:
        """The dynamics that the Gaussian approximation expands, made where it is asked for."""
        shared, surrogate = self._shared, self._shared.elements.surrogate
        same = surrogate is shared.elements.guided
        return self._under(shared.guided if same else _Bound(shared.core, self.theta, surrogate))

    def _under(self, bound: _Bound) -> ElementUnderMaps:
        return self if bound is self._bound else ElementUnderMaps(bound, self._number)

    def evaluate_start(self, values: Mapping[str, jax.Array]) -> EvaluatedStart:
        """Start one particle at given values of the initial-state sites."""
        out = self._shared.evaluate_start(m=self._number, values=dict(values))
        return EvaluatedStart(out["carry"], out["log_initial"], out["log_observation"], out["log_excess"])

    def start_noise_of(self, values: Mapping[str, jax.Array]) -> Values:
        """Return the noise that the smooth maps take to given values of `invertible` initial-state sites."""
        return self._shared.start_noise_of(m=self._number, values=dict(values))

    def noise_of(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Values:
        """Return the noise that the smooth maps take to given values of `invertible` innovations of a step."""
        return self._shared.noise_of(m=self._number, carry=carry, x=x, values=dict(values))

    def evaluate(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Evaluated:
        """Evaluate the densities of one step at given innovations."""
        out = self._shared.evaluate(m=self._number, carry=carry, x=x, values=dict(values))
        densities = out["log_transition"], out["log_observation"]
        cdf = self._shared.cdf(m=self._number, carry=carry, x=x, values=dict(values))["cdf"]
        return Evaluated(out["carry"], *densities, out["deterministic"], cdf, out["log_excess"])

    def observed(self, x: PyTree) -> Values:
        """Return what is observed of the element at a step; see `LoopDynamics.observed`."""
        return self._shared.observed(m=self._number, x=x)["observed"]


def elements_at(core: Core, theta: Theta) -> Callable[[jax.Array], ElementDynamics]:
    """Compute what all elements share; return the dynamics of element number m."""
    shared = _Shared(core, theta)
    return lambda number: ElementDynamics(shared, number)


def join(x: jax.Array, back: int) -> jax.Array:
    """Move elements from the front to the axis `back` from the end (-1 the last); 0 if they share the value."""
    if not back:
        return x[0]
    x = jnp.squeeze(x, axis=back)
    return jnp.moveaxis(x, 0, x.ndim + back)


def join_values(values: Values, panel: Panel | None) -> Values:
    """Join values by site, whatever is in front of the shape of the site; those of a single filter stay."""
    if panel is None:
        return values
    places = dict(panel.values)
    return {name: join(x, places[name]) for name, x in values.items()}


def _of_one(site: Site, panel: Panel) -> Site:
    """Return the site of one element, its axis at size one."""
    axis, shape = dict(panel.values)[site.name], list(site.shape)
    if axis:
        shape[axis] = 1
    return site._replace(shape=tuple(shape))
