"""State-space models written by hand against the interface that engines use, for tests of the kernel alone.

`Autoregression`: x_t = rho x_{t-1} + sx e_t, y_t = x_t + sy noise.  The start is stationary; it may be observed.
`with_faults` overwrites the log weights of single steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from ssmscan.model.protocols import Evaluated, EvaluatedStart, NoiseSpec, Start, Step
from tests.truth import GaussianTruth, LinearGaussian, linear_gaussian

THETA = {"rho": 0.9, "sx": 1.0, "sy": 0.2}


class Named(NamedTuple):
    name: str
    discrete: bool = False
    values: tuple = ()


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["y", "penalty", "y_start"],
    meta_fields=["start_observed"],
)
@dataclass(frozen=True)
class Autoregression:
    """y, penalty: (T,), the penalty is added to log weights of particles with x > 0; y_start: ()."""

    y: jax.Array
    penalty: jax.Array
    y_start: jax.Array
    start_observed: bool = False

    parameters = tuple(map(Named, THETA))
    innovations = (Named("x"),)
    initial = (Named("x0"),)
    observations = (Named("y"),)

    panel = None

    @property
    def loops(self) -> tuple[Autoregression, ...]:
        return (self,)

    @property
    def num_steps(self) -> int:
        return len(self.y)

    @property
    def initial_noise(self) -> dict[str, NoiseSpec]:
        return {"x0": NoiseSpec((), False)}

    @property
    def step_noise(self) -> dict[str, NoiseSpec]:
        return {"x": NoiseSpec((), False)}

    def canonical(self, theta):
        return {name: jnp.asarray(theta[name], float) for name in THETA}

    def sample_prior(self, key):
        return dict(zip(THETA, jax.random.normal(key, (len(THETA),))))

    sample_start = sample_prior

    def log_prior(self, theta):
        return sum(norm.logpdf(theta[name]) for name in THETA)

    def constrain(self, z):
        return z

    def unconstrain(self, theta):
        return theta

    def log_prior_unconstrained(self, z):
        return z, self.log_prior(z)

    def log_static(self, theta):
        return jnp.zeros(())

    def at(self, theta):
        return LoopDynamics(self, theta)

    def elements_at(self, theta):
        raise TypeError("the model is not a panel")


class LoopDynamics:
    def __init__(self, ssm: Autoregression, theta):
        self.ssm, self.theta, self.xs = ssm, theta, (ssm.y, ssm.penalty)
        self.num_steps, self.start_observed = ssm.num_steps, ssm.start_observed
        self.initial, self.innovations = ssm.initial, ssm.innovations
        self.initial_noise, self.step_noise = ssm.initial_noise, ssm.step_noise

        self.moved, self.varying, self.held, self.linear_gaussian = ("x0", "x"), (True,), {}, False
        self.invertible = self.moved

    @property
    def guided(self):
        return self

    surrogate = guided

    @property
    def sd_start(self):
        return self.theta["sx"] / jnp.sqrt(1 - self.theta["rho"] ** 2)

    def init(self, noise):
        x0 = noise["x0"] * self.sd_start
        return Start(x0, self.evaluate_start({"x0": x0}).log_observation, {"x0": x0})

    def evaluate_start(self, values):
        seen = norm.logpdf(self.ssm.y_start, values["x0"], self.theta["sy"])
        seen = seen if self.ssm.start_observed else jnp.zeros(())
        return EvaluatedStart(values["x0"], norm.logpdf(values["x0"], 0, self.sd_start), seen)

    def step(self, carry, x, noise):
        state = self.theta["rho"] * carry + self.theta["sx"] * noise["x"]
        ev = self.evaluate(carry, x, {"x": state})
        return Step(ev.carry, ev.log_observation, {"x": state, **ev.deterministics}, ev.cdf)

    def evaluate(self, carry, x, values):
        y, penalty = x
        state = values["x"]
        seen = norm.logpdf(y, state, self.theta["sy"]) + jnp.where(state > 0, penalty, 0)
        moved = norm.logpdf(state, self.theta["rho"] * carry, self.theta["sx"])
        p = norm.cdf(y, state, self.theta["sy"])
        return Evaluated(state, moved, seen, {"twice": 2 * state}, {"y": (p, p)})

    def start_noise_of(self, values):
        return {"x0": values["x0"] / self.sd_start}

    def noise_of(self, carry, x, values):
        return {"x": (values["x"] - self.theta["rho"] * carry) / self.theta["sx"]}

    def observed(self, x):
        return {"y": x[0]}


def autoregression(num_steps: int = 10, *, start_observed: bool = False, penalty=None, theta=THETA) -> Autoregression:
    """Data of the AR(1)+noise model of `exact`, the first `num_steps` of 100."""
    z = np.random.RandomState(0).standard_normal((100, 2))
    x = theta["sx"] * z[0, 0] / math.sqrt(1 - theta["rho"] ** 2)
    y = []
    for t, (moved, seen) in enumerate(z):
        x = theta["rho"] * x + theta["sx"] * moved if t else x
        y.append(x + theta["sy"] * seen)
    penalty = np.zeros(num_steps) if penalty is None else penalty
    return Autoregression(
        jnp.asarray(y[:num_steps], float), jnp.asarray(penalty, float), jnp.asarray(4.0, float), start_observed
    )


def exact(ssm: Autoregression, theta=THETA) -> GaussianTruth:
    """Kalman answers; with an observed start the series have it first."""
    variance = theta["sx"] ** 2 / (1 - theta["rho"] ** 2)
    model = LinearGaussian.scalar(0, variance, theta["rho"], theta["sx"] ** 2, 1, theta["sy"] ** 2)
    y = np.asarray(ssm.y, float)
    if ssm.start_observed:
        y = np.concatenate([[float(ssm.y_start)], y])
    return linear_gaussian(model, y[:, None])  # without it, x_1 is stationary as x_0 is
