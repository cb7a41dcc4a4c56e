"""Exact smoothing laws in float64, and the filter-weighted test of paths against them.

Paths of a filter, weighted by its estimate of the likelihood, are unbiased at any number of particles: with
multinomial resampling at every step, E[Z_hat f(path)] = Z E[f(path) | y] for ancestral and backward paths alike
(Andrieu, Doucet & Holenstein 2010, theorem 4; Whiteley 2010).  f are values, squares, and products at several lags,
all around the exact means, so that a law with right margins and wrong links between steps is seen.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from tests.truth import LinearGaussian, joint_moments

LAGS = (0, 1, 2, 4)


class PathLaw(NamedTuple):
    """Mean (T,) and covariance (T, T) of a scalar path given all data, and log p(y)."""

    mean: np.ndarray
    cov: np.ndarray
    log_likelihood: float


def gaussian_path(model: LinearGaussian, y: np.ndarray) -> PathLaw:
    """Condition the joint law of all states, of which one is observed at a step, on all observations; y is (T,)."""
    mean, cov = joint_moments(model, len(y))
    prior, h = cov[:, 0, :, 0], model.H[0, 0]
    spread = h**2 * prior + model.R[0, 0] * np.eye(len(y))
    gain = h * np.linalg.solve(spread, prior).T
    residual = y - h * mean[:, 0]
    total = -0.5 * (residual @ np.linalg.solve(spread, residual) + np.linalg.slogdet(2 * np.pi * spread)[1])
    return PathLaw(mean[:, 0] + gain @ residual, prior - h * gain @ prior, float(total))


def markov_path(initial: np.ndarray, transition: np.ndarray, log_emission: np.ndarray) -> PathLaw:
    """Enumerate all paths of a hidden Markov chain with values 0, 1, ...; arguments as in `tests.truth`."""
    steps = range(len(log_emission))
    paths = np.array(list(itertools.product(range(len(initial)), repeat=len(log_emission))))
    logs = np.log(initial)[paths[:, 0]] + log_emission[steps, paths].sum(1)
    logs = logs + np.log(transition)[paths[:, :-1], paths[:, 1:]].sum(1)
    total = float(logsumexp(logs))
    weights = np.exp(logs - total)
    mean = weights @ paths
    away = paths - mean
    return PathLaw(mean, (away * weights[:, None]).T @ away, total)


def features(paths: np.ndarray, law: PathLaw) -> np.ndarray:
    """Return what has mean zero under the law, (..., features): values and products at `LAGS` less their means."""
    away = np.asarray(paths, float) - law.mean
    found = [away]
    for lag in LAGS:
        product = away[..., : away.shape[-1] - lag] * away[..., lag:]
        found.append(product - np.diagonal(law.cov, lag))
    return np.concatenate(found, axis=-1)


def z_scores(terms: np.ndarray) -> np.ndarray:
    """Return z of the means of independent rows."""
    return terms.mean(0) / (terms.std(0, ddof=1) / np.sqrt(len(terms)))
