r"""Scoring rules of probabilistic forecasts from weighted draws, and the errors of their sums; NumPy alone.

**CRPS.**  With X, X' independent draws of a forecast and y what came,

.. math::  \mathrm{CRPS} = E|X - y| - \tfrac12 E|X - X'|

(Gneiting & Raftery 2007, *JASA* 102(477), equation 21): the absolute error of a forecast that is a point, in the units
of y, smaller is better.  A forecast is a mixture over draws j of the parameters with weights :math:`w_j`, of each of
which there are R draws :math:`x_{jr}`.  Two of these with the same parameters are not independent draws of the mixture,
so the second mean is over pairs with different ones,

.. math::  \frac{1}{1 - \sum_j w_j^2} \sum_{j \ne k} w_j w_k \frac{1}{R^2} \sum_{r, s} |x_{jr} - x_{ks}| ,

which is unbiased for every R and number of draws of equal weight: the fair CRPS (Ferro 2014, *Q. J. R. Meteorol. Soc.*
140; Zamo & Naveau 2018, *Math. Geosci.* 50(2)).  The mean over all pairs favours forecasts with many draws.  Of one
draw of the parameters it is over pairs of its forecasts.

**PIT.**  :math:`F(y^-) + u (F(y) - F(y^-))`, u uniform: uniform under the true forecast, of counts too (Brockwell 2007,
*Stat. Probab. Lett.* 77(14)).

**Errors of sums.**  Scores of neighbouring origins depend on each other, those h steps ahead over h - 1 steps at least.
The variance of a sum of n scores with autocovariances :math:`\gamma_l` is estimated by

.. math::  n \Big(\gamma_0 + 2 \sum_{l=1}^{L} \big(1 - \tfrac{l}{L+1}\big) \gamma_l \Big), \qquad
           L = h - 1 + \lfloor 4 (n / 100)^{2/9} \rfloor

(Newey & West 1987, *Econometrica* 55(3); Diebold & Mariano 1995, *J. Bus. Econ. Stat.* 13(3)).  It takes the scores for
stationary, and with fewer than about fifty origins it is too small more often than not.
"""

from __future__ import annotations

import numpy as np


def crps(y: np.ndarray, draws: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the fair CRPS of each element of an observation.

    Args:
        y: (*shape) what came, NaN where it is missing.
        draws: (J, R, *shape) R forecasts with each of J draws of the parameters.
        weights: (J,) of these, normalised.

    Returns:
        (*shape); NaN where y is missing, or one of several draws has all the weight.
    """
    y, draws = np.asarray(y, np.float64), np.asarray(draws, np.float64)
    count, repeats = draws.shape[:2]
    away = draws - y
    column = weights.reshape(-1, *[1] * y.ndim)
    error = np.sum(column * np.abs(away).mean(1), axis=0)

    flat = away.reshape(count * repeats, *y.shape)
    order = np.argsort(flat, axis=0)
    x = np.take_along_axis(flat, order, axis=0)
    w = np.repeat(weights / repeats, repeats)[order]
    below, sums = np.cumsum(w, axis=0) - w, np.cumsum(w * x, axis=0) - w * x
    every = 2.0 * np.sum(w * (x * below - sums), axis=0)

    ranks = (2.0 * np.arange(repeats) - repeats + 1.0).reshape(-1, *[1] * y.ndim)
    same = np.sum(column**2 * 2.0 * np.sum(ranks * np.sort(away, axis=1), axis=1), axis=0) / repeats**2
    others = 1.0 - np.sum(weights**2)
    if count == 1:
        spread = every * (repeats / (repeats - 1.0) if repeats > 1 else np.nan)
    else:
        spread = (every - same) / others if others > 1e-12 else np.full_like(every, np.nan)
    return np.where(np.isnan(y), np.nan, error - 0.5 * spread)


def ranks_of(y: np.ndarray, draws: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the distribution function of forecasts at y and just below it, from draws.

    Args:
        y, draws, weights: as in `crps`.

    Returns:
        (*shape) P(Y <= y) and P(Y < y), with y itself counted as one more draw: under the true forecast, what lies
        between is uniform for any number of draws of equal weight.
    """
    column = weights.reshape(-1, *[1] * np.ndim(y))
    below = np.sum(column * np.mean(draws < y, axis=1), axis=0)
    same = np.sum(column * np.mean(draws == y, axis=1), axis=0)
    number = draws.shape[0] * draws.shape[1]
    return (number * (below + same) + 1.0) / (number + 1.0), number * below / (number + 1.0)


def standard_error(scores: np.ndarray, horizon: int = 1) -> float:
    """Estimate the standard error of the sum of scores of consecutive origins.

    Args:
        scores: (n,) NaN where there is none.
        horizon: steps ahead.

    Returns:
        The error; NaN for fewer than two scores.
    """
    there = np.isfinite(scores)
    number = int(there.sum())
    if number < 2:
        return np.nan
    away = np.where(there, scores - scores[there].mean(), 0.0)
    most = min(horizon - 1 + int(4 * (number / 100) ** (2 / 9)), number - 1)
    variance = float(away @ away)
    for lag in range(1, most + 1):
        variance += 2.0 * (1.0 - lag / (most + 1)) * float(away[lag:] @ away[:-lag])
    return float(np.sqrt(max(variance, 0.0) * number / (number - 1)))
