"""One particle of a model at one parameter value.

`ssm.at(theta)` computes everything outside the loop once, in the caller's trace, and returns these
functions of what changes inside it.  Each moves or evaluates one particle; engines vmap them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from ssmscan.model.jaxprs.dataflow import UNUSED
from ssmscan.model.jaxprs.placeholders import sum_of
from ssmscan.model.noise.score import gradient_alone
from ssmscan.model.protocols import Evaluated, EvaluatedStart, NoiseSpec, Start, Step, Theta, Values
from ssmscan.model.sites import Role, Site
from ssmscan.model.staging.post_loop import as_output

if TYPE_CHECKING:
    from ssmscan.model.statespace.front import StateSpaceModel

PyTree = Any


class LoopDynamics:
    """A model at one parameter value, everything outside the loop computed; made by `ssm.at(theta)`.

    Attributes:
        theta: the parameters.
        xs: per-step inputs, leaves with T in front.
        num_steps: T, the number of steps.
        start_observed: whether the initial state is weighed.
        initial, innovations: initial-state sites, and latent sites of the loop.
        initial_noise, step_noise: base noise of each of them, of one particle at one step.
    """

    num_steps: int
    start_observed: bool
    initial: tuple[Site, ...]
    innovations: tuple[Site, ...]
    initial_noise: dict[str, NoiseSpec]
    step_noise: dict[str, NoiseSpec]

    def __init__(self, ssm: StateSpaceModel, theta: Theta):
        program, arrays, outside = ssm.program, ssm.arrays, ssm._outside(theta)
        self._ssm, self.theta = ssm, theta
        self.num_steps, self.start_observed = ssm.num_steps, ssm.start_observed
        self.initial, self.innovations = ssm.initial, ssm.innovations
        self.initial_noise, self.step_noise = ssm.initial_noise, ssm.step_noise
        self._start = program.start.bind(arrays, theta, unroll=True)
        self._step = program.step.bind(arrays, theta, unroll=True)
        self._evaluate = program.evaluate.bind(arrays, outside, unroll=True)
        self._start_names = program.names(Role.START_OBSERVATION)
        self._tail = program.tail.step.bind(arrays, outside, unroll=True)
        self.xs = ssm._inputs(theta)

    def init(self, noise: Mapping[str, jax.Array]) -> Start:
        """Start one particle from base noise."""
        out = self._start(dict(noise))
        weight = out["log_excess"] + sum_of(out["log_observation"][name] for name in self._start_names)
        weight = weight + gradient_alone(out["log_rough"])
        return Start(out["carry"], weight + self._log_rows_of_start(out["values"]), out["values"])

    def evaluate_start(self, values: Mapping[str, jax.Array]) -> EvaluatedStart:
        """Start one particle at given values of the initial-state sites."""
        ssm, program, outside = self._ssm, self._ssm.program, self._ssm._outside(self.theta, values)
        return EvaluatedStart(
            program.start_value.bind(ssm.arrays, outside)(*[UNUSED] * 6)["start"],
            ssm._sum(program.log_initial, "outside_log_density", outside),
            ssm._sum(program.log_start, "outside_log_prob", outside) + self._log_rows_of_start(values),
        )

    def step(self, carry: PyTree, x: PyTree, noise: Mapping[str, jax.Array]) -> Step:
        """Move one particle by base noise and weigh it.

        Raises:
            ModelError: data are observed after the loop in a way that joins its steps, so that none can be weighed.
        """
        self._ssm.refuse_tail()
        out = self._step(carry, x, dict(noise))
        weight = out["log_weight"] + self._log_row(x, out["y"]) + gradient_alone(out["log_rough"])
        return Step(out["carry"], weight, out["values"], out["cdf"])

    def evaluate(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Evaluated:
        """Evaluate the densities of one step at given innovations."""
        out = self._evaluate(carry, x, dict(values), UNUSED, UNUSED, UNUSED)
        transition, observation = sum_of(out["log_transition"].values()), sum_of(out["log_observation"].values())
        observation = observation + self._log_row(x, out["y"])
        return Evaluated(out["carry"], transition, observation, out["deterministic"], out["cdf"])

    def observed(self, x: PyTree) -> Values:
        """Return what is observed at a step, y_t by site, NaN where it is missing; observations after the loop too.

        What the model computes from parameters or states and observes is left out.
        """
        program, arrays, (t, _) = self._ssm.program, self._ssm.arrays, x
        inside = program.observed_step.bind(arrays, UNUSED)(UNUSED, x, *[UNUSED] * 4)["observed"]
        return inside | program.tail.observed.select("value").bind(arrays, UNUSED)(t, UNUSED)["value"]

    def _log_row(self, x: PyTree, y: PyTree) -> jax.Array:
        """Log-density of what is observed of the step after the loop, a scalar."""
        t, _ = x
        return sum_of(self._tail(t, as_output(y, self._ssm.program.plan))["log_prob"].values())

    def _log_rows_of_start(self, values: Mapping[str, jax.Array]) -> jax.Array:
        """Log-density of the rows after the loop that observe the start, a scalar."""
        outside = self._ssm._outside(self.theta, values)
        return sum_of(self._ssm.program.tail_start(self._ssm.arrays, outside)["log_prob"].values())
