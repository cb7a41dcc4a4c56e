"""Engines that draw a known law, to measure a cross-check by: chains of an autoregression, and weighted points.

Each goes on as one longer run would: draw i depends on the key and on i alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy.signal import lfilter

import ssmscan

NAMES = ("a", "b", "c")


def three_parameters(y):
    """A model with the parameters that these engines draw; its posterior is nowhere used."""
    drift = sum(numpyro.sample(name, dist.Normal(0.0, 1.0)) for name in NAMES)

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x + drift, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, 0.0, y)


def traced() -> ssmscan.StateSpaceModel:
    return ssmscan.trace(three_parameters, jnp.zeros(3))


def generators(key: jax.Array, number: int) -> list[np.random.Generator]:
    words = np.asarray(jax.random.key_data(key)).tolist()
    return [np.random.default_rng([*words, i]) for i in range(number)]


def result_of(engine: Any, draws: np.ndarray, observed: Any, *, interrupted: bool = False, **more: Any):
    """Build the result of an engine with draws (chains, draws, parameters)."""
    return ssmscan.Result(
        engine=type(engine).__name__,
        draws={name: draws[..., i] for i, name in enumerate(NAMES)},
        states={},
        state_draws=np.zeros(0, np.int64),
        sample_stats={},
        costs=ssmscan.Costs(0.0, 0.0, 1e-6 * draws.size),
        settings={},
        versions={},
        observed=observed,
        interrupted=interrupted,
        **more,
    )


@dataclass(frozen=True)
class Chains:
    """Chains of a Gaussian autoregression with unit variance, the first parameter moved by `shift`."""

    num_samples: int = 1000
    num_chains: int = 4
    persistence: float = 0.6
    shift: float = 0.0
    calls: list = field(default_factory=list, compare=False)

    def draw(self, key: jax.Array, total: int) -> np.ndarray:
        rho = self.persistence
        noise = np.array([rng.standard_normal((total, len(NAMES))) for rng in generators(key, self.num_chains)])
        noise[:, 1:] *= np.sqrt(1.0 - rho**2)
        return lfilter([1.0], [1.0, -rho], noise, axis=1) + self.shift * (np.arange(len(NAMES)) == 0)

    def run(self, key, ssm, *, start=None):
        self.calls.append(self.num_samples)
        before = 0 if start is None else start.num_draws
        return result_of(self, self.draw(key, before + self.num_samples), ssm.observed)


@dataclass(frozen=True)
class Points:
    """Points of a t law with five degrees of freedom, weighted to be standard normal."""

    num_points: int = 2000
    shift: float = 0.0

    def run(self, key, ssm, *, start=None):
        total = self.num_points + (0 if start is None else len(start.log_weights))
        normals, squares, resampling = generators(key, 3)
        scale = np.sqrt(5.0 / squares.chisquare(5.0, total))
        points = normals.standard_normal((total, len(NAMES))) * scale[:, None]
        square = (points**2).sum(axis=1)
        log_weights = -0.5 * square + 0.5 * (5.0 + len(NAMES)) * np.log1p(square / 5.0)
        weights = np.exp(log_weights - log_weights.max())
        chosen = resampling.choice(total, size=(1, total), p=weights / weights.sum())
        points += self.shift * (np.arange(len(NAMES)) == 0)
        weighted = {name: points[:, i] for i, name in enumerate(NAMES)}
        return result_of(self, points[chosen], ssm.observed, points=weighted, log_weights=log_weights)
