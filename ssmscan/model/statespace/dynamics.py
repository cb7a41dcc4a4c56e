"""One particle of a model at one parameter value.

`ssm.at(theta)` computes everything outside the loop once, in the caller's trace, and returns these
functions of what changes inside it.  Each moves or evaluates one particle; engines vmap them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from ssmscan.model.jaxprs.dataflow import UNUSED
from ssmscan.model.jaxprs.placeholders import sum_of
from ssmscan.model.noise.score import gradient_alone
from ssmscan.model.protocols import NoiseSpec
from ssmscan.model.sites import Role, Site
from ssmscan.model.staging.post_loop import as_output

if TYPE_CHECKING:
    from ssmscan.model.statespace.front import StateSpaceModel, Theta

PyTree = Any


class Start(NamedTuple):
    """The start of one particle.

    Attributes:
        carry: carry before the first step.
        log_weight: log-density of the observations of the start, a scalar; it has the gradient of the log-density
            of draws that are no smooth function of noise, see `score`.
        values: values of the initial-state sites.
    """

    carry: PyTree
    log_weight: jax.Array
    values: dict[str, jax.Array]


class Step(NamedTuple):
    """One step of one particle.

    Attributes:
        carry: carry after the step.
        log_weight: log-density of the observations of the step, a scalar; its gradient as that of the start.
        values: values of innovations and deterministics of the step.
        cdf: for each observation with a distribution function, (P(Y <= y), P(Y < y)).
    """

    carry: PyTree
    log_weight: jax.Array
    values: dict[str, jax.Array]
    cdf: dict[str, tuple[jax.Array, jax.Array]]


class Evaluated(NamedTuple):
    """One step of one particle at given innovations.

    Attributes:
        carry: carry after the step.
        log_transition: log-density of the innovations, a scalar.
        log_observation: log-density of the observations, a scalar.
        deterministics: values of the deterministics of the step.
    """

    carry: PyTree
    log_transition: jax.Array
    log_observation: jax.Array
    deterministics: dict[str, jax.Array]


class LoopDynamics:
    """A model at one parameter value, everything outside the loop computed; made by `ssm.at(theta)`.

    Attributes:
        xs: per-step inputs, leaves with T in front.
    """

    def __init__(self, ssm: StateSpaceModel, theta: Theta):
        program, arrays, outside = ssm.program, ssm.arrays, ssm._outside(theta)
        self._ssm, self._theta = ssm, theta
        self._start = program.start.bind(arrays, theta, unroll=True)
        self._step = program.step.bind(arrays, theta, unroll=True)
        self._evaluate = program.evaluate.bind(arrays, outside, unroll=True)
        self._start_names = program.names(Role.START_OBSERVATION)
        self._tail = program.tail.step.bind(arrays, outside, unroll=True)
        self.xs = ssm._inputs(theta)

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""
        return self._ssm.num_steps

    @property
    def start_observed(self) -> bool:
        """Whether the initial state is weighed."""
        return self._ssm.start_observed

    @property
    def innovations(self) -> tuple[Site, ...]:
        """Latent sites of the loop."""
        return self._ssm.innovations

    @property
    def initial_noise(self) -> dict[str, NoiseSpec]:
        """Base noise of the initial-state sites of one particle."""
        return self._ssm.initial_noise

    @property
    def step_noise(self) -> dict[str, NoiseSpec]:
        """Base noise of the innovations of one particle at one step."""
        return self._ssm.step_noise

    def init(self, noise: Mapping[str, jax.Array]) -> Start:
        """Start one particle from base noise."""
        out = self._start(dict(noise))
        weight = out["log_excess"] + sum_of(out["log_observation"][name] for name in self._start_names)
        weight = weight + gradient_alone(out["log_rough"])
        program, values = self._ssm.program, self._ssm._outside(self._theta, out["values"])
        tail = program.tail_start(self._ssm.arrays, values)["log_prob"]
        return Start(out["carry"], weight + sum_of(tail.values()), out["values"])

    def step(self, carry: PyTree, x: PyTree, noise: Mapping[str, jax.Array]) -> Step:
        """Move one particle by base noise and weigh it.

        Raises:
            ModelError: data are observed after the loop in a way that joins its steps, so that none can be weighed.
        """
        self._ssm.refuse_tail()
        out = self._step(carry, x, dict(noise))
        weight = out["log_weight"] + self._log_tail(x, out["y"]) + gradient_alone(out["log_rough"])
        return Step(out["carry"], weight, out["values"], out["cdf"])

    def _log_tail(self, x: PyTree, y: PyTree) -> jax.Array:
        """Log-density of what is observed of the step after the loop, a scalar."""
        t, _ = x
        return sum_of(self._tail(t, as_output(y, self._ssm.program.plan))["log_prob"].values())

    def evaluate(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Evaluated:
        """Densities of one step at given innovations."""
        out = self._evaluate(carry, x, dict(values), UNUSED, UNUSED, UNUSED)
        transition, observation = sum_of(out["log_transition"].values()), sum_of(out["log_observation"].values())
        return Evaluated(out["carry"], transition, observation + self._log_tail(x, out["y"]), out["deterministic"])

    def start_from(self, values: Mapping[str, jax.Array]) -> PyTree:
        """The initial carry at given values of the initial-state sites."""
        ssm = self._ssm
        rest = ssm.program.start_value.bind(ssm.arrays, ssm._outside(self._theta, values))
        return rest(*[UNUSED] * 6)["start"]

    def log_initial(self, values: Mapping[str, jax.Array]) -> jax.Array:
        """Log-density of values of the initial-state sites, a scalar."""
        ssm = self._ssm
        return ssm._sum(ssm.program.log_initial, "outside_log_density", ssm._outside(self._theta, values))
