"""One particle of a model at one parameter value.

`ssm.at(theta)` computes everything outside the loop once, in the caller's trace, and returns these
functions of what changes inside it.  Each moves or evaluates one particle; engines vmap them.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ssmscan.model.jaxprs.placeholders import like, sum_of
from ssmscan.model.noise.score import gradient_alone
from ssmscan.model.protocols import (
    Evaluated,
    EvaluatedStart,
    NoiseSpec,
    PyTree,
    Start,
    Step,
    Theta,
    Values,
)
from ssmscan.model.sites import Role
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.linear_gaussian import exactness
from ssmscan.model.statespace.one_particle import OneParticle, varying, without_held


class UnderMaps:
    """One particle of a loop as a function of base noise, under some maps; see `ssmscan.model.protocols.NoiseDynamics`.

    Attributes:
        initial_noise, step_noise: base noise of the sites, of one particle at one step.
        held: sites that have none because it is held at zero, and why.
    """

    def __init__(self, core: Core, theta: Theta, particle: OneParticle):
        arrays, maps, held = core.arrays, particle.maps, particle.held
        self._core, self._theta, self._particle = core, theta, particle
        self._start = maps.start.bind(arrays, theta=theta, unroll=True)
        self._step = maps.step.bind(arrays, theta=theta, unroll=True)
        self._row = particle.row.bind(arrays, outside=core.outside(theta), unroll=True)
        self._start_names = core.program.names(Role.START_OBSERVATION)
        innovations = [site.name for site in core.innovations]
        self.initial_noise, self._held_start = without_held(maps.specs, core.program.initial, held)
        self.step_noise, self._held_step = without_held(maps.specs, innovations, held)
        self.held = held

    @property
    def varying(self) -> tuple[bool, ...]:
        """For each leaf of the carry, whether it is real and noise reaches it."""
        return varying(self._particle.maps.start, self._particle.maps.step, frozenset(self.held))

    def init(self, noise: Mapping[str, jax.Array]) -> Start:
        """Start one particle from base noise."""
        out = self._start(noise={**self._held_start, **noise})
        weight = out["log_excess"] + sum_of(out["log_observation"][name] for name in self._start_names)
        weight = weight + out["correction"] + self._of_rough(out)
        outside = self._core.outside(self._theta, out["values"])
        return Start(out["carry"], weight + self._core.total(self._particle.start_rows, outside), out["values"])

    def step(self, carry: PyTree, x: PyTree, noise: Mapping[str, jax.Array]) -> Step:
        """Move one particle by base noise and weigh it.

        Raises:
            ModelError: data are observed after the loop in a way that joins its steps, so that none can be weighed.
        """
        self._core.refuse_unless_pointwise()
        out = self._step(carry=carry, x=x, noise={**self._held_step, **noise})
        weight = out["log_weight"] + self.log_row(x, out["y"]) + out["correction"] + self._of_rough(out)
        return Step(out["carry"], weight, out["values"], out["cdf"])

    def _of_rough(self, out: dict) -> jax.Array:
        """Return the gradient of draws without a smooth map; what is held is not drawn."""
        return jnp.zeros(()) if self.held else gradient_alone(out["log_rough"])

    def weigh(self, carry: PyTree, x: PyTree, noise: Mapping[str, jax.Array]) -> tuple[PyTree, PyTree, jax.Array]:
        """Move one particle by base noise: carry, output, and the weight of what is observed of the step alone."""
        out = self._step(carry=carry, x=x, noise=dict(noise))
        return out["carry"], out["y"], out["log_weight"] + self.log_row(x, out["y"])

    def log_row(self, x: PyTree, y: PyTree) -> jax.Array:
        """Compute the log-density of what is observed of the step after the loop, a scalar."""
        return sum_of(self.log_rows(x, y).values())

    def log_rows(self, x: PyTree, y: PyTree) -> Values:
        """Compute the same by site."""
        t, _ = x
        return self._row(t=t, y=like(y, self._particle.output))["log_prob"]


class LoopDynamics(UnderMaps):
    """A loop at one parameter value, everything outside it computed; made by `ssm.at(theta)`.

    Attributes:
        theta: the parameters.
        xs: per-step inputs, leaves with T in front.
        num_steps: T, the number of steps.
        start_observed: whether the initial state is weighed.
        initial, innovations: initial-state sites, and latent sites of the loop.
        moved, invertible: names of those of them with a smooth map from noise, and of those whose map has an inverse.
        guided: the dynamics under the maps that a Gaussian proposal draws in.
    """

    def __init__(self, core: Core, theta: Theta):
        program = core.program
        super().__init__(core, theta, program.one_particle(program.particles))
        self.theta, self._outside = theta, core.outside(theta)
        self.num_steps, self.start_observed = core.num_steps, program.start_observed
        self.initial, self.innovations = core.initial, core.innovations
        self.moved, self.invertible = program.moved, program.invertible
        self._evaluate = program.evaluate.bind(core.arrays, outside=self._outside, unroll=True)
        self.xs = core.inputs(theta)
        # Bound here: it is asked for inside loops.
        same = program.guided is program.particles
        self.guided: UnderMaps = self if same else UnderMaps(core, theta, program.one_particle(program.guided))

    @property
    def linear_gaussian(self) -> bool:
        """Whether carries, noise and data are jointly normal, proved from the program alone."""
        return exactness(self._core.program).exact

    @property
    def surrogate(self) -> UnderMaps:
        """The dynamics that the Gaussian approximation expands, made where it is asked for."""
        program = self._core.program
        if program.surrogate.maps is program.guided and not program.surrogate.held:
            return self.guided
        return UnderMaps(self._core, self.theta, program.surrogate)

    def evaluate_start(self, values: Mapping[str, jax.Array]) -> EvaluatedStart:
        """Start one particle at given values of the initial-state sites."""
        core, program, outside = self._core, self._core.program, self._core.outside(self.theta, values)
        return EvaluatedStart(
            core.start(self.theta, values),
            core.total(program.densities.initial, outside),
            core.total(program.densities.start, outside) + core.total(program.densities.start_rows, outside),
            core.total(program.densities.initial_excess, outside),
        )

    def start_noise_of(self, values: Mapping[str, jax.Array]) -> Values:
        """Return the noise that the smooth maps take to given values of `invertible` initial-state sites."""
        outside = self._core.outside(self.theta, values)
        return self._core.program.start_noise_of(self._core.arrays, outside=outside)["outside_noise"]

    def noise_of(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Values:
        """Return the noise that the smooth maps take to given values of `invertible` innovations of a step."""
        program, arrays = self._core.program, self._core.arrays
        return program.noise_of(arrays, outside=self._outside, carry=carry, x=x, values=dict(values))["noise"]

    def evaluate(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Evaluated:
        """Evaluate the densities of one step at given innovations."""
        out = self._evaluate(carry=carry, x=x, values=dict(values))
        transition, observation = sum_of(out["log_transition"].values()), sum_of(out["log_observation"].values())
        observation = observation + self.log_row(x, out["y"])
        # Bound here, so that it costs nothing where it is not used.
        cdf = self._core.program.cdf(self._core.arrays, outside=self._outside, carry=carry, x=x, values=dict(values))
        excess = sum_of(out["log_excess"].values())
        return Evaluated(out["carry"], transition, observation, out["deterministic"], cdf["cdf"], excess)

    def evaluate_by_site(
        self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]
    ) -> tuple[PyTree, PyTree, Values]:
        """Evaluate one step at given innovations: carry, output, and the log-density of each site."""
        out = self._evaluate(carry=carry, x=x, values=dict(values))
        return out["carry"], out["y"], out["log_transition"] | out["log_observation"] | self.log_rows(x, out["y"])

    def observed(self, x: PyTree) -> Values:
        """Return what is observed at a step, y_t by site, NaN where it is missing; observations after the loop too.

        What the model computes from parameters or states and observes is left out.
        """
        program, arrays, (t, _) = self._core.program, self._core.arrays, x
        inside = program.data.observed_step(arrays, x=x)["observed"]
        return inside | program.post_loop.observed(arrays, t=t)["value"]


def draw_noise(key: jax.Array, specs: Mapping[str, NoiseSpec], *lead: int) -> Values:
    """Draw base noise of one particle; `lead` is the number of steps, if any."""
    noise = {}
    for number, (name, spec) in enumerate(specs.items()):
        own = jax.random.fold_in(key, number)
        keys = jax.random.split(own, *lead) if lead else own
        noise[name] = keys if spec.is_key else jax.random.normal(own, (*lead, *spec.shape))
    return noise
