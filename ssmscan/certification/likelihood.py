r"""Is the estimated likelihood of a filter right?  From an exact draw it must be one of several like it.

Beside the estimate of a filter that contains the exact states are n fresh ones of `ParticleFilter` with the same
settings.  The position of the first among all, by weight, is uniform (`conditional_likelihood`).  Its mean and its
spread are compared with those of a uniform number: nothing else is known to be needed of the likelihood, and neither
tails nor a ratio of estimates spoil the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from ssmscan.certification.certificate import z_threshold
from ssmscan.certification.conditional_likelihood import conditional_log_likelihood, position
from ssmscan.certification.exact_draws import Places, draw_exactly
from ssmscan.certification.kernels import FILTER, NUM_PARTICLES, THRESHOLD, Operand
from ssmscan.particles.draws import as_key
from ssmscan.particles.loop import each


@dataclass(frozen=True)
class LikelihoodCheck:
    """Fresh estimates beside that of a filter which contains the exact states."""

    places: Places
    num_fresh: int = 7

    def __call__(self, operand: Operand, key: jax.Array) -> dict[str, jax.Array]:
        """Make one replicate."""
        key_draw, key_first, key_fresh, key_position = jax.random.split(key, 4)
        draw = draw_exactly(key_draw, operand.ssm, self.places)
        first = conditional_log_likelihood(
            key_first, draw.ssm, draw.theta, draw.states, num_particles=NUM_PARTICLES, threshold=THRESHOLD
        )
        keys = jax.random.split(key_fresh, self.num_fresh)
        fresh = each(lambda own: FILTER.estimate(as_key(own), draw.ssm, draw.theta).log_likelihood, keys)
        logs = jnp.concatenate([first[None], fresh])
        return {"position": position(key_position, logs, logs), "logs": logs, "usable": draw.usable}


class Uniformity(NamedTuple):
    """Mean and spread of positions, in standard errors, and the smallest factor of the likelihood that is seen."""

    z: float
    threshold: float
    visible: float

    @property
    def passed(self) -> bool:
        """Whether both are those of a uniform number."""
        return bool(self.z <= self.threshold)


def compare_positions(positions: np.ndarray, logs: np.ndarray, error_rate: float, quantile: float) -> Uniformity:
    """Compare positions with uniform numbers.

    Args:
        positions: (replicates,).
        logs: (replicates, n) the estimates, that of the exact states first.
        error_rate: of both comparisons.
        quantile: of the normal, to be added to the threshold.
    """
    away = np.where(np.isfinite(positions), np.asarray(positions, np.float64), 1e6) - 0.5
    root = np.sqrt(len(away))
    zs = (away.mean() * root * np.sqrt(12), ((away**2).mean() - 1 / 12) * root * np.sqrt(180))
    threshold = z_threshold(2, error_rate)
    wanted = (threshold + quantile) / (root * np.sqrt(12))

    def shift(nats: float) -> float:
        return float(abs(_mean_position(logs, nats) - 0.5))

    low, high = 0.0, 8.0
    if shift(high) < wanted:
        return Uniformity(float(max(map(abs, zs))), threshold, np.inf)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if shift(middle) >= wanted else (middle, high)
    return Uniformity(float(max(map(abs, zs))), threshold, high)


def _mean_position(logs: np.ndarray, nats: float) -> float:
    """Return the mean position where the estimates of the filter are wrong by a factor, and had been right.

    The first is drawn by the right weights, and placed by the wrong ones.
    """
    logs = np.sort(np.where(np.isfinite(logs), np.asarray(logs, np.float64), -1e30), axis=1)
    right = softmax(logs, axis=1)
    total = np.zeros(len(logs))
    for own in range(logs.shape[1]):
        shifted = logs + nats
        shifted[:, own] -= nats
        wrong = softmax(shifted, axis=1)
        below = np.where(shifted < shifted[:, own : own + 1], wrong, 0.0).sum(axis=1)
        total += right[:, own] * (below + 0.5 * wrong[:, own])
    return float(total.mean())
