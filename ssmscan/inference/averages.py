"""Averages of noisy numbers, and how noisy they are.

Likelihoods are averaged on their own scale and kept in logarithms.  The iterates of an ascent depend on each other:
means of `BATCHES` long pieces hardly do, and their spread says how noisy the average of all is (Glynn & Whitt 1991,
*Oper. Res. Lett.* 10(8), 431-435).
"""

from __future__ import annotations

import jax
import numpy as np

from ssmscan.model.protocols import Theta

BATCHES = 10
"""Batches of the averaged part, whose means say how noisy the average is; the halves are made of them."""


def join_iterates(z: Theta) -> np.ndarray:
    """Join iterates, leaves (steps, starts, ...), into (starts, steps, d) float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(z)]
    return np.swapaxes(np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1), 0, 1)


def log_mean_exp(values: np.ndarray) -> np.ndarray:
    """Average estimates of a likelihood over the first axis, in logarithms; NaN for none."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    top = np.where(np.isfinite(values.max(axis=0)), values.max(axis=0), 0.0)
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(values - top).mean(axis=0))


def sd(values: np.ndarray) -> float:
    """Return the standard deviation of a sample, NaN where there are fewer than two."""
    return float(values.std(ddof=1)) if len(values) > 1 else np.nan


def mean_error(weights: np.ndarray) -> float:
    """Return the relative Monte Carlo error of the mean of some weights, NaN where there are fewer than two."""
    return sd(weights / weights.mean()) / len(weights) ** 0.5 if len(weights) else np.nan


def _batch_means(kept: np.ndarray) -> np.ndarray:
    return np.array([part.mean(axis=0) for part in np.array_split(kept, min(BATCHES, len(kept)))])


def halves(kept: np.ndarray) -> np.ndarray:
    """Return how far the mean of the second half of the iterates (n, d) is from that of the first, (d,)."""
    means = _batch_means(kept)
    half = len(means) // 2
    return means[half:].mean(axis=0) - means[:half].mean(axis=0) if half else np.full(kept.shape[1], np.nan)


def average_error(kept: np.ndarray) -> np.ndarray:
    """Monte Carlo error of the mean of autocorrelated iterates (n, d), from the means of batches, (d,)."""
    means = _batch_means(kept)
    return means.std(axis=0, ddof=1) / len(means) ** 0.5 if len(means) > 1 else np.full(kept.shape[1], np.nan)
