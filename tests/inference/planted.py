r"""Faults of known size: a model whose posterior mean is moved by a given number of posterior standard deviations.

The density of one engine alone is multiplied by :math:`e^{a g(\theta_k)}`,

.. math:: g(x) = 3 s \tanh\!\left( \frac{x - m}{3 s} \right),

m and s the posterior mean and sd of the parameter: a tilt where the mass is, and bounded, so that no tail is made
heavier.  Draws of the right posterior with the weights :math:`e^{a g}` are draws of the wrong one.  They say how far
its mean is from the right one, before anything wrong is run, and a is solved for the shift that is wanted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.primitives import Messenger
from scipy.optimize import brentq

import ssmscan
from ssmscan.results.summary import STATISTICS

BOUND = 3.0


class Fault(NamedTuple):
    """A tilt of one parameter.

    Attributes:
        parameter: its name; it is a scalar.
        slope: a.
        mean, sd: m and s.
    """

    parameter: str
    slope: float
    mean: float
    sd: float

    def log_factor(self, x: Any) -> Any:
        """Evaluate a g(x)."""
        return self.slope * BOUND * self.sd * jnp.tanh((x - self.mean) / (BOUND * self.sd))

    def log_weights(self, x: np.ndarray) -> np.ndarray:
        """Evaluate a g at draws, in float64."""
        return self.slope * BOUND * self.sd * np.tanh((x - self.mean) / (BOUND * self.sd))


class _Tilt(Messenger):
    """Add the factor where the parameter is drawn."""

    def __init__(self, fn: Callable[..., None], fault: Fault) -> None:
        self.fault = fault
        super().__init__(fn)

    def postprocess_message(self, message: dict[str, Any]) -> None:
        if message["type"] == "sample" and message["name"] == self.fault.parameter:
            numpyro.factor("fault", self.fault.log_factor(message["value"]))


def tilted(model: Callable[..., None], fault: Fault) -> Callable[..., None]:
    """Return the model with the fault in its density."""
    return _Tilt(model, fault)


def wrong(engine: Any, ssm: ssmscan.StateSpaceModel) -> Any:
    """Return the engine, which runs this model whatever it is given: a fault that no other engine has."""

    class Wrong(type(engine)):  # type: ignore[misc]
        def run(self, key: Any, right: ssmscan.StateSpaceModel, **options: Any) -> ssmscan.Result:
            return super().run(key, ssm, **options)

    Wrong.__name__ = type(engine).__name__
    return Wrong(**{field.name: getattr(engine, field.name) for field in dataclasses.fields(engine)})


class Shift(NamedTuple):
    """What a fault does to one parameter, in sds of the right posterior.

    Attributes:
        fault: the fault.
        statistics: by name of `STATISTICS`, wrong minus right.
        error: standard error of that of the mean.
    """

    fault: Fault
    statistics: dict[str, float]
    error: float

    def __str__(self) -> str:
        moved = ", ".join(f"{name} {value:+.3f}" for name, value in self.statistics.items())
        return f"{self.fault.parameter}: {moved} (mean ± {self.error:.3f}) sd"


def weighted_statistics(x: np.ndarray, log_weights: np.ndarray) -> np.ndarray:
    """Compute mean, sd and the quantiles of weighted draws (S,)."""
    w = np.exp(log_weights - log_weights.max())
    w /= w.sum()
    mean = w @ x
    order = np.argsort(x)
    cdf = np.cumsum(w[order]) - w[order] / 2
    return np.array([mean, np.sqrt(w @ (x - mean) ** 2), *np.interp((0.05, 0.5, 0.95), cdf, x[order])])


def planted(parameter: str, draws: np.ndarray, size: float, effective: float) -> Shift:
    """Solve for the tilt that moves the mean by `size` sds.

    Args:
        parameter: its name.
        draws: (S,) of the right posterior.
        size: sds by which the mean moves; of either sign.
        effective: how many independent draws they are worth.
    """
    x = np.asarray(draws, np.float64).ravel()
    mean, sd = float(x.mean()), float(x.std())

    def fault(slope: float) -> Fault:
        return Fault(parameter, slope, mean, sd)

    def shift(slope: float) -> float:
        return (weighted_statistics(x, fault(slope).log_weights(x))[0] - mean) / sd

    slope = float(brentq(lambda a: shift(a) - size, -20 / sd, 20 / sd))
    log_weights = fault(slope).log_weights(x)
    moved = (weighted_statistics(x, log_weights) - weighted_statistics(x, np.zeros_like(x))) / sd
    w = np.exp(log_weights - log_weights.max())
    w /= w.mean()
    influence = (w - 1) * (x - mean) / sd - moved[0] * (w - 1)
    return Shift(fault(slope), dict(zip(STATISTICS, map(float, moved))), float(influence.std() / np.sqrt(effective)))
