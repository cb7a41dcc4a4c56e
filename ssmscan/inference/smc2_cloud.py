r"""A weighted cloud of parameter points between two observations, and the record of what it said at each step.

Weights are kept in float64 on the host.  With weights w that were 1/M each after the last resampling, at step s,

.. math:: \log p(y_{1:t}) \approx \log p(y_{1:s}) + \log \sum_m w_m, \qquad
          \mathrm{ESS} = \Big(\sum_m w_m\Big)^2 \Big/ \sum_m w_m^2 .

The relative variance of a mean of M independent weights is 1/ESS - 1/M.  Summed over the stretches between resamplings
it is that of the evidence where points forget their ancestors in between; several runs ask for no such thing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

from ssmscan.inference.importance_weights import effective
from ssmscan.inference.smc2_step import DEGREES, Points
from ssmscan.results.weighted import normalised

Arrays = dict[str, np.ndarray]

NUMBERS = ("log_evidence", "variance", "ess", "num_particles", "moved", "num_moves", "noise")
"""What is recorded at each step before moments: `moved`, `num_moves` and `noise` are NaN where nothing was moved."""

ITERATIONS = 20
"""Steps of expectation maximisation for the scatter."""


@dataclass(frozen=True)
class Cloud:
    """M weighted points after some steps.

    Attributes:
        points: on the device.
        theta: parameters by site, (M, ...), on the host.
        log_weights: (M,) float64; equal weights are -log M.
        before: log evidence at the last resampling.
        variance: its relative variance.
        step: steps taken.
        num_particles: of each filter, N.
        table: (step + 1, columns) what was recorded at each step: `NUMBERS`, then means and standard deviations of all
            scalar parameters.
        particle_steps: particles moved by one step each.
    """

    points: Points
    theta: Arrays
    log_weights: np.ndarray
    before: float
    variance: float
    step: int
    num_particles: int
    table: np.ndarray
    particle_steps: int

    @property
    def size(self) -> int:
        """M."""
        return len(self.log_weights)

    @property
    def log_evidence(self) -> float:
        """Log evidence of what came by now."""
        return self.before + float(logsumexp(self.log_weights))

    @property
    def moves(self) -> float:
        """Number of times that the cloud was moved at its step."""
        return float(self.table[-1, NUMBERS.index("num_moves")])

    @property
    def ess(self) -> float:
        """Effective number of points."""
        return effective(self.log_weights)

    def with_weights(self, increments: np.ndarray) -> Cloud:
        """Return the cloud after its points earned log weights; one that is no number counts as impossible."""
        found = self.log_weights + np.asarray(increments, np.float64)
        return replace(self, log_weights=np.where(found < np.inf, found, -np.inf))

    def recorded(self) -> Cloud:
        """Return the cloud with a row for its step."""
        weights = normalised(self.log_weights)
        flat = np.concatenate([self.theta[name].reshape(self.size, -1) for name in sorted(self.theta)], axis=1)
        flat = flat.astype(np.float64)
        flat = np.where(weights[:, None] > 0, flat, 0.0)
        mean = weights @ flat
        sd = np.sqrt(weights @ (flat - mean) ** 2)
        ess, nothing = self.ess, (np.nan, 0.0, np.nan)
        variance = self.variance + 1 / ess - 1 / self.size
        row = np.concatenate([[self.log_evidence, variance, ess, self.num_particles, *nothing], mean, sd])
        return replace(self, table=np.concatenate([self.table.reshape(-1, len(row)), row[None]]))

    def noted(self, **numbers: float) -> Cloud:
        """Return the cloud with other numbers in its last row."""
        table = self.table.copy()
        for name, value in numbers.items():
            table[-1, NUMBERS.index(name)] = value
        return replace(self, table=table)

    def chosen(self, index: np.ndarray, points: Points) -> Cloud:
        """Return the cloud of resampled points, of equal weight."""
        return replace(
            self,
            points=points,
            log_weights=np.full(self.size, -np.log(self.size)),
            before=self.log_evidence,
            variance=self.variance + 1 / self.ess - 1 / self.size,
            theta={name: x[index] for name, x in self.theta.items()},
        )


def scatter(z: np.ndarray, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return location (d,) and a factor (d, d) of the scatter of weighted points, of a t distribution fitted to them.

    Points far out count less than in a covariance, which early posteriors, near to the prior, often do not have.
    Where few points have weight the scatter is shrunk towards its diagonal, which is positive definite.
    """
    weights = normalised(log_weights)
    z, weights = np.asarray(z, np.float64)[weights > 0], weights[weights > 0]
    d, tail = z.shape[1], np.ones(len(z))
    share = min(1.0, (d + 1) * (weights**2).sum())
    for _ in range(ITERATIONS):
        own = weights * tail
        mean = own @ z / own.sum()
        covariance = (z - mean).T @ ((z - mean) * own[:, None])
        diagonal = np.diag(np.maximum(np.diag(covariance), 1e-10))
        factor = np.linalg.cholesky((1 - share) * covariance + (share + 1e-6) * diagonal)
        distance = (np.linalg.solve(factor, (z - mean).T) ** 2).sum(0)
        tail = (DEGREES + d) / (DEGREES + distance)
    return mean, factor


def noise_of(estimates: np.ndarray) -> float:
    """Return the standard deviation of repeated estimates (points, repeats) of a log likelihood at fixed parameters.

    The median over the points; infinite at one where some estimates are zero and others are not.
    """
    some = estimates[np.isfinite(estimates).any(1)]
    if not len(some):
        return np.inf
    with np.errstate(invalid="ignore"):
        variances = np.where(np.isfinite(some).all(1), np.var(some, axis=1, ddof=1), np.inf)
    return float(np.sqrt(np.median(variances)))


def host(tree: Any) -> Any:
    """Return arrays on the host."""
    return jax.tree.map(np.asarray, tree)
