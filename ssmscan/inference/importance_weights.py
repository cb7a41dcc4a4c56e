r"""Weights of importance sampling, on the host in float64: how many are effective, their mean, draws of equal weight.

Weights are never smoothed or cut: whether they can be trusted is for `ssmscan.tail_index` to say.
"""

from __future__ import annotations

import jax
import numpy as np
from scipy.special import logsumexp

from ssmscan.particles.draws import as_key


def effective(log_weights: np.ndarray) -> float:
    """Return (sum w)^2 / sum w^2; 0 where there is no weight."""
    top = log_weights.max(initial=-np.inf)
    if not np.isfinite(top):
        return 0.0
    weights = np.exp(log_weights - top)
    return float(weights.sum() ** 2 / (weights**2).sum())


def warmest(log_weights: np.ndarray, wanted: float) -> float:
    """Return the largest temperature, at most 1, at which enough weights are effective."""
    wanted = min(wanted, 0.5 * np.isfinite(log_weights).sum())
    if effective(log_weights) >= wanted:
        return 1.0
    low, high = np.log(1e-30), 0.0
    with np.errstate(under="ignore"):
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if effective(np.exp(middle) * log_weights) >= wanted else (low, middle)
    return float(np.exp(low))


def combine(log_weights: np.ndarray) -> tuple[float, float]:
    """Return the logarithm of the mean weight and its standard error."""
    n = len(log_weights)
    total = float(logsumexp(log_weights) - np.log(n))
    if not np.isfinite(total):
        return -np.inf, np.nan
    return total, float(np.std(np.exp(log_weights - total), ddof=1) / np.sqrt(n)) if n > 1 else np.nan


def resample(log_weights: np.ndarray, key: jax.Array) -> np.ndarray:
    """Choose as many points as there are, of equal weight, by systematic resampling with a fixed uniform; sorted."""
    if not np.isfinite(log_weights).any():
        return np.zeros(0, np.int64)
    return systematic(jax.random.fold_in(as_key(key), 2**32 - 1), log_weights)


def systematic(key: jax.Array, log_weights: np.ndarray) -> np.ndarray:
    """Choose as many points as there are in proportion to their weights, of which there is one; on the host, sorted."""
    n, u = len(log_weights), float(jax.random.uniform(key))
    cumulative = np.cumsum(np.exp(log_weights - logsumexp(log_weights)))
    last = int(np.flatnonzero(np.isfinite(log_weights))[-1])
    return np.minimum(np.searchsorted(cumulative, (np.arange(n) + u) / n, side="right"), last)
