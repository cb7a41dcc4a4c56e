"""The contract between models and engines: `Model`, and `Dynamics`, which is a model at one parameter value.

    theta ~ p(theta)                            parameters
    s ~ p(s | theta),  c_0 = g(s, theta)        initial state and carry
    v_t ~ p(v | c_{t-1}, x_t, theta)            innovations
    c_t = h(c_{t-1}, x_t, v_t, theta)           carry
    y_t ~ p(y | c_{t-1}, x_t, v_t, theta)       observations

Engines are annotated with these two and know nothing else of a model.  `ssmscan.StateSpaceModel` satisfies `Model`;
one loop at theta and one element of a panel at theta satisfy `Dynamics`, and so may what somebody writes by hand.
x is always the input of a step, z always an unconstrained value of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

from ssmscan.model.sites import Site

PyTree = Any
Theta = dict[str, jax.Array]
Values = dict[str, jax.Array]


class NoiseSpec(NamedTuple):
    """The base noise of one site of one particle.

    Attributes:
        shape: shape of its standard normals; () when `is_key`.
        is_key: whether it needs one typed PRNG key instead.
    """

    shape: tuple[int, ...]
    is_key: bool


class Panel(NamedTuple):
    """Where the elements are.

    Attributes:
        size: M, the number of elements.
        name: name of the plate, None for an axis without one.
        noise: by innovation and initial site, the axis of its base noise.
        values: by site, the axis of its value counted from the end (-1 is the last), 0 if elements share the value.
        carry: the same for every leaf of the carry.
    """

    size: int
    name: str | None
    noise: tuple[tuple[str, int], ...]
    values: tuple[tuple[str, int], ...]
    carry: tuple[int, ...]

    def __str__(self) -> str:
        named = f" '{self.name}'" if self.name else ""
        return f"panel of {self.size} elements{named}, filtered one by one"


class Start(NamedTuple):
    """The start of one particle.

    Attributes:
        carry: carry before the first step.
        log_weight: log-density of the observations of the start, a scalar; it has the gradient of the log-density
            of draws that are no smooth function of noise, see `ssmscan.model.noise.score`.
        values: values of the initial-state sites.
    """

    carry: PyTree
    log_weight: jax.Array
    values: Values


class EvaluatedStart(NamedTuple):
    """The start of one particle at given values of the initial-state sites.

    Attributes:
        carry: carry before the first step.
        log_initial: log-density of the values, a scalar.
        log_observation: log-density of the observations of the start, a scalar.
        log_excess: the part of log_initial that is not of the law of draws but of its scaling, a scalar.
    """

    carry: PyTree
    log_initial: jax.Array
    log_observation: jax.Array
    log_excess: jax.Array | float = 0.0


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
    values: Values
    cdf: dict[str, tuple[jax.Array, jax.Array]]


class Evaluated(NamedTuple):
    """One step of one particle at given innovations.

    Attributes:
        carry: carry after the step.
        log_transition: log-density of the innovations, a scalar.
        log_observation: log-density of the observations, a scalar.
        deterministics: values of the deterministics of the step.
        cdf: as in `Step`.
        log_excess: the part of log_transition that is not of the law of draws but of its scaling, a scalar.
    """

    carry: PyTree
    log_transition: jax.Array
    log_observation: jax.Array
    deterministics: Values
    cdf: dict[str, tuple[jax.Array, jax.Array]]
    log_excess: jax.Array | float = 0.0


class NoiseDynamics(Protocol):
    """The start and a step of one particle as functions of base noise, under one choice of maps to values."""

    @property
    def initial_noise(self) -> Mapping[str, NoiseSpec]:
        """Base noise of the initial-state sites of one particle."""

    @property
    def step_noise(self) -> Mapping[str, NoiseSpec]:
        """Base noise of the innovations of one particle at one step."""

    @property
    def varying(self) -> tuple[bool, ...]:
        """For each leaf of the carry, whether it is real and noise reaches it, at the start or by any step."""

    @property
    def held(self) -> Mapping[str, str]:
        """Sites without noise because theirs is held at zero, in `Dynamics.surrogate`, and why, a clause."""

    def init(self, noise: Mapping[str, jax.Array]) -> Start:
        """Start one particle from base noise."""

    def step(self, carry: PyTree, x: PyTree, noise: Mapping[str, jax.Array]) -> Step:
        """Move one particle by base noise and weigh it."""


class Dynamics(NoiseDynamics, Protocol):
    """One loop of a model, or one element of a panel, at one parameter value; functions of one particle.

    Everything outside the loop is computed when it is made, in the caller's trace.
    """

    @property
    def theta(self) -> Theta:
        """The parameters."""

    @property
    def xs(self) -> PyTree:
        """Inputs of the steps, leaves with T in front."""

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""

    @property
    def start_observed(self) -> bool:
        """Whether the initial state is weighed."""

    @property
    def initial(self) -> tuple[Site, ...]:
        """Initial-state sites."""

    @property
    def innovations(self) -> tuple[Site, ...]:
        """Latent sites of the loop."""

    @property
    def linear_gaussian(self) -> bool:
        """Whether the loop is linear and Gaussian, which is proved and not judged by numbers."""

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the latent sites, initial ones first, whose noise a proposal may draw from another law."""

    @property
    def invertible(self) -> tuple[str, ...]:
        """Names of the latent sites whose values tell their noise under smooth maps."""

    def start_noise_of(self, values: Mapping[str, jax.Array]) -> Values:
        """Return the noise that the smooth maps take to given values of `invertible` initial-state sites."""

    def noise_of(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Values:
        """Return the noise that the smooth maps take to given values of `invertible` innovations of a step."""

    @property
    def guided(self) -> NoiseDynamics:
        """The dynamics in whose noise such a proposal draws: the `moved` sites under their smooth maps."""

    @property
    def surrogate(self) -> NoiseDynamics:
        """The dynamics that are expanded to find such a proposal: `guided`, smooth stand-ins for the other sites.

        Its carry has the same tree; integers that the stand-ins of counts enter are real there.
        """

    def evaluate_start(self, values: Mapping[str, jax.Array]) -> EvaluatedStart:
        """Start one particle at given values of the initial-state sites."""

    def evaluate(self, carry: PyTree, x: PyTree, values: Mapping[str, jax.Array]) -> Evaluated:
        """Evaluate the densities of one step at given innovations."""

    def observed(self, x: PyTree) -> Values:
        """Return what is observed at a step, y_t by site, NaN where it is missing; observations after the loop too."""


class Model(Protocol):
    """What an engine is given: sites, the law of the parameters, and the dynamics at given parameters."""

    @property
    def parameters(self) -> tuple[Site, ...]:
        """Sites drawn once, theta."""

    @property
    def initial(self) -> tuple[Site, ...]:
        """Initial-state sites, drawn once per particle."""

    @property
    def innovations(self) -> tuple[Site, ...]:
        """Latent sites of the loop."""

    @property
    def observations(self) -> tuple[Site, ...]:
        """Observed sites that the states reach."""

    @property
    def num_steps(self) -> int:
        """T, the number of steps; of all loops together where there are several."""

    @property
    def panel(self) -> Panel | None:
        """Elements that do not interact, filtered one by one; None where there are none."""

    @property
    def loops(self) -> tuple[Model, ...]:
        """One model for each loop that data depend on; the model itself where there is one."""

    def canonical(self, theta: Mapping[str, Any]) -> Theta:
        """Check parameter values and cast them to the dtypes of their sites."""

    def log_prior(self, theta: Theta) -> jax.Array:
        """Log-density of the parameters, a scalar."""

    def log_static(self, theta: Theta) -> jax.Array:
        """Log-likelihood of the observations and factors that no state reaches, a scalar."""

    def sample_prior(self, key: jax.Array) -> Theta:
        """Draw the parameters from their prior."""

    def sample_start(self, key: jax.Array) -> Theta:
        """Draw parameters to start at: from their prior where it has a sampler, else from near zero in z."""

    def constrain(self, z: Theta) -> Theta:
        """Compute parameters from unconstrained values."""

    def unconstrain(self, theta: Theta) -> Theta:
        """Compute unconstrained values of the parameters."""

    def log_prior_unconstrained(self, z: Theta) -> tuple[Theta, jax.Array]:
        """Compute the parameters, and log p(theta) + log|d theta / d z|, at unconstrained values."""

    def at(self, theta: Theta) -> Dynamics:
        """Compute everything outside the loop once, in the caller's trace; the elements of a panel together."""

    def elements_at(self, theta: Theta) -> Callable[[jax.Array], Dynamics]:
        """Compute everything that the elements of a panel share once; return the dynamics of element number m."""
