"""One particle of a model at one parameter value.

`ssm.at(theta)` computes everything outside the loop once, in the caller's trace, and returns these
functions of what changes inside it.  Each moves or evaluates one particle; engines vmap them.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from ssmscan.model.jaxprs.placeholders import sum_of
from ssmscan.model.noise.score import gradient_alone
from ssmscan.model.protocols import (
    Evaluated,
    EvaluatedStart,
    NoiseDynamics,
    NoiseSpec,
    PyTree,
    Start,
    Step,
    Theta,
    Values,
)
from ssmscan.model.sites import Role
from ssmscan.model.staging.post_loop import as_output
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.linear_gaussian import exactness
from ssmscan.model.statespace.loop_functions import varying


class LoopDynamics:
    """A loop at one parameter value, everything outside it computed; made by `ssm.at(theta)`.

    Attributes:
        theta: the parameters.
        xs: per-step inputs, leaves with T in front.
        num_steps: T, the number of steps.
        start_observed: whether the initial state is weighed.
        initial, innovations: initial-state sites, and latent sites of the loop.
        initial_noise, step_noise: base noise of each of them, of one particle at one step.
    """

    def __init__(self, core: Core, theta: Theta):
        program, arrays, outside = core.program, core.arrays, core.outside(theta)
        self._core, self.theta = core, theta
        self.num_steps, self.start_observed = core.num_steps, program.start_observed
        self.initial, self.innovations = core.initial, core.innovations
        self.initial_noise, self.step_noise = core.initial_noise, core.step_noise
        self._start = program.particles.start.bind(arrays, theta=theta, unroll=True)
        self._step = program.particles.step.bind(arrays, theta=theta, unroll=True)
        self._evaluate = program.evaluate.bind(arrays, outside=outside, unroll=True)
        self._outside = outside
        self._start_names = program.names(Role.START_OBSERVATION)
        self._row = program.post_loop.step.bind(arrays, outside=outside, unroll=True)
        self.xs = core.inputs(theta)

    @property
    def linear_gaussian(self) -> bool:
        """Whether carries, noise and data are jointly normal."""
        return exactness(self._core.program).exact

    def init(self, noise: Mapping[str, jax.Array]) -> Start:
        """Start one particle from base noise."""
        out = self._start(noise=dict(noise))
        weight = out["log_excess"] + sum_of(out["log_observation"][name] for name in self._start_names)
        weight = weight + gradient_alone(out["log_rough"])
        outside = self._core.outside(self.theta, out["values"])
        rows = self._core.total(self._core.program.densities.start_rows, outside)
        return Start(out["carry"], weight + rows, out["values"])

    @property
    def varying(self) -> tuple[bool, ...]:
        """For each leaf of the carry, whether it is real and noise reaches it."""
        particles = self._core.program.particles
        return varying(particles.start, particles.step)

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the latent sites with a smooth map from noise."""
        return tuple(site.name for site in (*self.initial, *self.innovations))

    @property
    def guided(self) -> NoiseDynamics:
        """The dynamics under the smooth maps."""
        if self._core.program.smooth is not self._core.program.particles:
            raise NotImplementedError
        return self

    @property
    def surrogate(self) -> NoiseDynamics:
        """The dynamics under maps that are smooth for every site."""
        return self.guided

    def evaluate_start(self, values: Mapping[str, jax.Array]) -> EvaluatedStart:
        """Start one particle at given values of the initial-state sites."""
        core, program, outside = self._core, self._core.program, self._core.outside(self.theta, values)
        return EvaluatedStart(
            core.start(self.theta, values),
            core.total(program.densities.initial, outside),
            core.total(program.densities.start, outside) + core.total(program.densities.start_rows, outside),
        )

    def step(self, carry: PyTree, x: PyTree, noise: Mapping[str, jax.Array]) -> Step:
        """Move one particle by base noise and weigh it.

        Raises:
            ModelError: data are observed after the loop in a way that joins its steps, so that none can be weighed.
        """
        self._core.refuse_unless_pointwise()
        out = self._step(carry=carry, x=x, noise=dict(noise))
        weight = out["log_weight"] + self._log_row(x, out["y"]) + gradient_alone(out["log_rough"])
        return Step(out["carry"], weight, out["values"], out["cdf"])

    def weigh(self, carry: PyTree, x: PyTree, noise: Mapping[str, jax.Array]) -> tuple[PyTree, PyTree, jax.Array]:
        """Move one particle by base noise: carry, output, and the weight of what is observed of the step alone."""
        out = self._step(carry=carry, x=x, noise=dict(noise))
        return out["carry"], out["y"], out["log_weight"] + self._log_row(x, out["y"])

    def evaluate(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Evaluated:
        """Evaluate the densities of one step at given innovations."""
        out = self._evaluate(carry=carry, x=x, values=dict(values))
        transition, observation = sum_of(out["log_transition"].values()), sum_of(out["log_observation"].values())
        observation = observation + self._log_row(x, out["y"])
        # Bound here, so that it costs nothing where it is not used.
        cdf = self._core.program.cdf(self._core.arrays, outside=self._outside, carry=carry, x=x, values=dict(values))
        return Evaluated(out["carry"], transition, observation, out["deterministic"], cdf["cdf"])

    def evaluate_by_site(
        self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]
    ) -> tuple[PyTree, PyTree, Values]:
        """Evaluate one step at given innovations: carry, output, and the log-density of each site."""
        out = self._evaluate(carry=carry, x=x, values=dict(values))
        return out["carry"], out["y"], out["log_transition"] | out["log_observation"] | self._log_rows(x, out["y"])

    def observed(self, x: PyTree) -> Values:
        """Return what is observed at a step, y_t by site, NaN where it is missing; observations after the loop too.

        What the model computes from parameters or states and observes is left out.
        """
        program, arrays, (t, _) = self._core.program, self._core.arrays, x
        inside = program.data.observed_step(arrays, x=x)["observed"]
        return inside | program.post_loop.observed(arrays, t=t)["value"]

    def _log_row(self, x: PyTree, y: PyTree) -> jax.Array:
        """Compute the log-density of what is observed of the step after the loop, a scalar."""
        return sum_of(self._log_rows(x, y).values())

    def _log_rows(self, x: PyTree, y: PyTree) -> Values:
        """Compute the same by site."""
        t, _ = x
        return self._row(t=t, y=as_output(y, self._core.program.plan))["log_prob"]


def draw_noise(key: jax.Array, specs: Mapping[str, NoiseSpec], *lead: int) -> Values:
    """Draw base noise of one particle; `lead` is the number of steps, if any."""
    noise = {}
    for number, (name, spec) in enumerate(specs.items()):
        own = jax.random.fold_in(key, number)
        keys = jax.random.split(own, *lead) if lead else own
        noise[name] = keys if spec.is_key else jax.random.normal(own, (*lead, *spec.shape))
    return noise
