r"""Independent references in NumPy float64, and the one error rate of the Monte Carlo tests.

A test of a random quantity rejects at ``|z| > z_threshold(k)``: with k comparisons the whole family raises
a false alarm with probability ``ERROR_RATE``.  What such a test can see is ``minimal_detectable_effect``; a
test that states it cannot hide behind noise.

The references share nothing with the package.

* Linear Gaussian models.  All states and observations are one Gaussian vector.  With the covariance
  :math:`S = LL^\top` of the observations in time order, :math:`e = L^{-1}(y - Ey)` are the standardised
  innovations: partial sums over :math:`e` give the likelihood increments, filtered and smoothed means.
* Hidden Markov models, by summing over all :math:`K^T` paths and by the forward-backward recursion.
* Scalar non-linear models, by a point-mass filter: densities on a regular grid, sums for integrals.

In all of them :math:`x_1` has the initial law and :math:`y_1` is observed from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

ERROR_RATE = 1e-4
"""Probability that a Monte Carlo test of correct code fails, over all comparisons of that test."""

POWER = 0.9
"""Probability with which the minimal detectable effect is detected."""


def z_threshold(num_comparisons: int = 1, error_rate: float = ERROR_RATE) -> float:
    """Return the two-sided normal threshold for a family of comparisons (Bonferroni)."""
    return float(norm.isf(error_rate / (2 * num_comparisons)))


def minimal_detectable_effect(standard_error: float, num_comparisons: int = 1, error_rate: float = ERROR_RATE) -> float:
    """Return the smallest shift that a test at `z_threshold` detects with probability `POWER`."""
    return float((z_threshold(num_comparisons, error_rate) + norm.ppf(POWER)) * standard_error)


class LinearGaussian(NamedTuple):
    """x_1 ~ N(m, P), x_t = F x_{t-1} + N(0, Q), y_t = H x_t + N(0, R); d states, p observations."""

    m: np.ndarray
    P: np.ndarray
    F: np.ndarray
    Q: np.ndarray
    H: np.ndarray
    R: np.ndarray

    @classmethod
    def scalar(cls, m: float, P: float, F: float, Q: float, H: float, R: float) -> LinearGaussian:
        """Build a model with one state and one observation; P, Q, R are variances."""
        return cls(np.array([m], float), *(np.array([[value]], float) for value in (P, F, Q, H, R)))


class GaussianTruth(NamedTuple):
    """Exact answers: log_likelihood (), increments (T,), means and covariances (T, d) and (T, d, d)."""

    log_likelihood: float
    increments: np.ndarray
    filtered_mean: np.ndarray
    filtered_cov: np.ndarray
    smoothed_mean: np.ndarray
    smoothed_cov: np.ndarray


def joint_moments(model: LinearGaussian, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (T, d) and covariance (T, d, T, d) of the states x_1..x_T."""
    d = len(model.m)
    mean = np.empty((num_steps, d))
    cov = np.empty((num_steps, d, num_steps, d))
    mean[0], cov[0, :, 0, :] = model.m, model.P
    for t in range(1, num_steps):
        mean[t] = model.F @ mean[t - 1]
        cov[t, :, :t, :] = np.einsum("ij,jsk->isk", model.F, cov[t - 1, :, :t, :])
        cov[:t, :, t, :] = cov[t, :, :t, :].transpose(1, 2, 0)
        cov[t, :, t, :] = model.F @ cov[t - 1, :, t - 1, :] @ model.F.T + model.Q
    return mean, cov


def linear_gaussian(model: LinearGaussian, y: np.ndarray) -> GaussianTruth:
    """Solve a linear Gaussian model from the joint law of all its variables; y is (T, p), NaN = missing."""
    num_steps, p = y.shape
    d = len(model.m)
    mean, cov = joint_moments(model, num_steps)
    states = cov.reshape(num_steps * d, num_steps * d)
    H = np.kron(np.eye(num_steps), model.H)
    S = H @ states @ H.T + np.kron(np.eye(num_steps), model.R)

    seen = np.isfinite(y).ravel()
    residual = (y.ravel() - H @ mean.ravel())[seen]
    L = np.linalg.cholesky(S[np.ix_(seen, seen)])
    e = np.linalg.solve(L, residual)
    gain = np.linalg.solve(L, (H @ states)[seen]).reshape(-1, num_steps, d)

    count = np.concatenate([[0], np.cumsum(seen.reshape(num_steps, p).sum(1))])
    log_density = -0.5 * (e**2 + np.log(2 * np.pi)) - np.log(np.diag(L))
    filtered_mean, filtered_cov = mean.copy(), np.empty((num_steps, d, d))
    smoothed_mean, smoothed_cov = mean.copy(), np.empty((num_steps, d, d))
    for t in range(num_steps):
        past = gain[: count[t + 1], t]
        filtered_mean[t] += past.T @ e[: count[t + 1]]
        filtered_cov[t] = cov[t, :, t, :] - past.T @ past
        smoothed_mean[t] += gain[:, t].T @ e
        smoothed_cov[t] = cov[t, :, t, :] - gain[:, t].T @ gain[:, t]
    increments = np.array([log_density[a:b].sum() for a, b in itertools.pairwise(count)])
    return GaussianTruth(float(increments.sum()), increments, filtered_mean, filtered_cov, smoothed_mean, smoothed_cov)


class MarkovTruth(NamedTuple):
    """Exact answers of a hidden Markov model: log_likelihood (), increments (T,), marginals (T, K)."""

    log_likelihood: float
    increments: np.ndarray
    filtered: np.ndarray
    smoothed: np.ndarray


def hmm_enumeration(initial: np.ndarray, transition: np.ndarray, log_emission: np.ndarray) -> float:
    """Sum the joint over all K^T paths; initial (K,), transition (K, K), log_emission (T, K)."""
    num_steps, num_states = log_emission.shape
    with np.errstate(divide="ignore"):
        log_initial, log_transition = np.log(initial), np.log(transition)
    terms = [
        log_initial[path[0]]
        + sum(log_transition[i, j] for i, j in itertools.pairwise(path))
        + sum(log_emission[t, k] for t, k in enumerate(path))
        for path in itertools.product(range(num_states), repeat=num_steps)
    ]
    return float(logsumexp(terms))


def hmm_forward_backward(initial: np.ndarray, transition: np.ndarray, log_emission: np.ndarray) -> MarkovTruth:
    """Run the forward-backward recursion; shapes as in `hmm_enumeration`."""
    num_steps, num_states = log_emission.shape
    filtered = np.empty((num_steps, num_states))
    increments = np.empty(num_steps)
    predicted = initial
    for t in range(num_steps):
        with np.errstate(divide="ignore"):
            joint = np.log(predicted) + log_emission[t]
        increments[t] = logsumexp(joint)
        filtered[t] = np.exp(joint - increments[t])
        predicted = filtered[t] @ transition
    smoothed = filtered.copy()
    for t in reversed(range(num_steps - 1)):
        predicted = filtered[t] @ transition
        ratio = np.divide(smoothed[t + 1], predicted, out=np.zeros(num_states), where=predicted > 0)
        smoothed[t] = filtered[t] * (transition @ ratio)
    return MarkovTruth(float(increments.sum()), increments, filtered, smoothed)


class GridTruth(NamedTuple):
    """Answers of a point-mass filter: log_likelihood (), increments, filtered mean and sd (T,)."""

    log_likelihood: float
    increments: np.ndarray
    filtered_mean: np.ndarray
    filtered_sd: np.ndarray


def point_mass_filter(
    grid: np.ndarray,
    initial: np.ndarray,
    transition: np.ndarray | Callable[[int], np.ndarray],
    log_emission: np.ndarray,
) -> GridTruth:
    """Filter a scalar model on a regular grid of G points that covers the state.

    Args:
        grid: (G,), equally spaced, narrower than the sharpest density and wide enough to hold it all.
        initial: (G,) density of x_1 at the grid.
        transition: (G, G) density of x_t at the second index given x_{t-1} at the first, or a function
            that returns it for the 0-based t >= 1.
        log_emission: (T, G) log p(y_t | x_t at the grid).
    """
    spacing = grid[1] - grid[0]
    num_steps = len(log_emission)
    increments, mean, sd = np.empty(num_steps), np.empty(num_steps), np.empty(num_steps)
    density = predicted = initial
    for t in range(num_steps):
        if t > 0:
            kernel = transition(t) if callable(transition) else transition
            predicted = spacing * (density @ kernel)
        peak = log_emission[t].max()
        joint = predicted * np.exp(log_emission[t] - peak)
        total = spacing * joint.sum()
        increments[t] = peak + np.log(total)
        density = joint / total
        mean[t] = spacing * (density @ grid)
        sd[t] = np.sqrt(spacing * (density @ (grid - mean[t]) ** 2))
    return GridTruth(float(increments.sum()), increments, mean, sd)
