r"""What weighted points say about one number, and how well: estimates, errors and degrees of freedom from the weights.

Points :math:`x_i` drawn from a proposal have importance weights :math:`W_i`, normalised to sum to one.  An average
:math:`\bar h = \sum_i W_i h(x_i)` moves by :math:`-u_i` when point i is left out,

.. math::  u_i = W_i \, \frac{h(x_i) - \bar h}{1 - W_i}, \qquad  \mathrm{error}^2 = \sum_i u_i^2,

the delta method for a ratio of two averages (Owen 2013, *Monte Carlo theory, methods and examples*, section 9.2) as the
jackknife has it: the divisor keeps a point that makes up much of the average from hiding its own error.

* mean: :math:`h = x`;
* sd: :math:`h = (x - \bar x)^2`, divided by :math:`2s`;
* quantile p: :math:`h = 1\{x \le q\}` gives the error of the distribution function there, and the inverse of that
  function carries it over, :math:`c` errors to either side, as it does for chains (see `summary`).

Those :math:`u_i^2` are few where few points have weight, so the error is uncertain by itself.  With its relative
variance :math:`v = \sum u_i^4 / (\sum u_i^2)^2 - 1/n`, the degrees of freedom are :math:`2/v`, the n of equal weights
and normal values; a quantile has :math:`1/\nu = v/2 + 2/m`, m the effective number of points that the distance between
its two order statistics rests on.

Effective sizes are the numbers of independent draws with those errors.  R-hat compares consecutive pieces of the
points, each with its own weights, in the ranks of the values and of their distance from the median (Vehtari et al.
2021, section 4): points are independent, so it is a check of the errors by the spread between pieces and near one.

Weights are used as they are: those that smoothing takes away are what the errors are about.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from ssmscan.results.summary import PROBABILITIES, SPACING, Estimate, ScalarSummary

PIECES = 4
"""Consecutive pieces of the points that R-hat compares."""

LEAST_POINTS = 4 * PIECES
"""Points from which errors are estimated."""


def normalised(log_weights: np.ndarray) -> np.ndarray:
    """Return weights that sum to one from logarithms up to a constant; nan where no point has any weight."""
    with np.errstate(invalid="ignore"):
        weights = np.exp(log_weights - np.max(log_weights, initial=-np.inf))
        return weights / weights.sum()


def effective_number(log_weights: np.ndarray) -> float:
    """Return the number of points of equal weight that are worth as much for a mean, 0 where none has any weight."""
    weights = normalised(log_weights)
    return float(1.0 / np.sum(weights**2)) if np.isfinite(weights).all() and len(weights) else 0.0


def weighted_mean(values: np.ndarray, log_weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean (...) of values (points, ...); values without weight may be anything."""
    weights = normalised(log_weights)
    used = weights != 0.0
    return np.tensordot(weights[used], np.asarray(values[used], np.float64), axes=1)


def summarise_weighted(values: np.ndarray, weights: np.ndarray) -> ScalarSummary:
    """Summarise the weighted points of one scalar.

    Args:
        values: (points,) in the order in which they were made.
        weights: (points,) that sum to one.

    Returns:
        The summary.  Errors, effective sizes and R-hat are nan where they are not defined: no weight, a value that is
        not finite and has weight, all values equal, or fewer than sixteen points.

    Raises:
        ValueError: if there are no points.
    """
    if values.ndim != 1 or values.shape != weights.shape or not values.size:
        raise ValueError(f"values and weights must be one a point, got shapes {values.shape} and {weights.shape}")
    used = weights != 0.0
    x, w = values[used], weights[used]
    nan = float("nan")
    if len(values) < LEAST_POINTS or not np.isfinite([x, w]).all() or np.ptp(x) == 0.0:
        known = _estimates(x, w) if np.isfinite([x, w]).all() else np.full(2 + len(PROBABILITIES), nan)
        statistics = tuple(Estimate(float(value), nan, nan) for value in known)
        return ScalarSummary(statistics, (nan,) * len(PROBABILITIES), nan, nan, nan)
    mean, sd, *quantiles = _estimates(x, w)
    n = len(values)
    order = np.argsort(x, kind="stable")
    x_sorted, w_sorted = x[order], w[order]
    statistics = [
        Estimate(mean, *_mean_error(x, w, n)),
        Estimate(sd, *_mean_error((x - mean) ** 2, w, n, derivative=0.5 / sd)),
    ]
    ess_quantiles = []
    for p, q in zip(PROBABILITIES, quantiles):
        estimate, ess = _quantile(x_sorted, w_sorted, n, p, q)
        statistics.append(estimate)
        ess_quantiles.append(ess)
    normal, folded = _normal_scores(x, w), _normal_scores(np.abs(x - quantiles[1]), w)
    return ScalarSummary(
        statistics=tuple(Estimate(*map(float, estimate)) for estimate in statistics),
        ess_quantiles=tuple(ess_quantiles),
        ess_bulk=float((_deviation(normal, w) / _mean_error(normal, w, n)[0]) ** 2),
        ess_tail=min(ess_quantiles[0], ess_quantiles[-1]),
        rhat=max(_rhat(scores, w, _piece_of(used)) for scores in (normal, folded)),
    )


def quantile(ordered: np.ndarray, weights: np.ndarray, probabilities: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """Return quantiles of values in increasing order: each value stands at the middle of its step of the cdf."""
    return np.interp(probabilities, np.cumsum(weights) - weights / 2.0, ordered)


def _estimates(x: np.ndarray, w: np.ndarray) -> list[float]:
    """Return mean, sd and quantiles."""
    order = np.argsort(x, kind="stable")
    return [float(w @ x), _deviation(x, w), *map(float, quantile(x[order], w[order], PROBABILITIES))]


def _deviation(x: np.ndarray, w: np.ndarray) -> float:
    return float(np.sqrt(w @ (x - w @ x) ** 2))


def _mean_error(h: np.ndarray, w: np.ndarray, n: int, derivative: float = 1.0) -> tuple[float, float]:
    """Return error and degrees of freedom of a function of the weighted mean of `h`, given its derivative."""
    error, relative_variance = _influence(h, w, n)
    return derivative * error, 2.0 / relative_variance


def _influence(h: np.ndarray, w: np.ndarray, n: int) -> tuple[float, float]:
    """Return the error of the weighted mean of `h` and the relative variance of its square."""
    squares = (w * (h - w @ h) / np.maximum(1.0 - w, np.finfo(np.float64).eps)) ** 2
    total = squares.sum()
    if total == 0.0:
        return 0.0, 2.0
    return float(np.sqrt(total)), float(max(squares @ squares / total**2 - 1.0 / n, 1.0 / n))


def _quantile(ordered: np.ndarray, w: np.ndarray, n: int, p: float, q: float) -> tuple[Estimate, float]:
    """Return a quantile with its error, and the number of independent draws that would have it."""
    error, relative_variance = _influence(ordered <= q, w, n)
    if error == 0.0:
        return Estimate(q, float("nan"), float("nan")), float("nan")
    ess = p * (1.0 - p) / error**2
    ranks = special.betaincinv(ess * p + 1.0, ess * (1.0 - p) + 1.0, special.ndtr([-SPACING, SPACING]))
    low, high = quantile(ordered, w, ranks)
    between = w[(ordered >= low) & (ordered <= high)]
    points = between.sum() ** 2 / (between @ between) if len(between) else 1.0
    df = 1.0 / (relative_variance / 2.0 + 2.0 / points)
    return Estimate(q, (high - low) / (2.0 * SPACING), df), float(ess)


def _normal_scores(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the normal quantile of each value's place in the weighted distribution, ties sharing theirs."""
    _, inverse = np.unique(x, return_inverse=True)
    mass = np.bincount(inverse, w)
    limits = np.finfo(np.float64)
    places = np.clip(np.cumsum(mass) - mass / 2.0, limits.tiny, 1.0 - limits.epsneg)
    return special.ndtri(places)[inverse]


def _piece_of(used: np.ndarray) -> np.ndarray:
    """Return for each used point in which of the consecutive pieces of all points it lies."""
    return (np.arange(len(used)) * PIECES // len(used))[used]


def _rhat(scores: np.ndarray, w: np.ndarray, piece: np.ndarray) -> float:
    """Return how far the pieces differ: infinite where one of them has no weight."""
    mass = np.bincount(piece, w, PIECES)
    if not (mass > 0.0).all():
        return float("inf")
    means = np.bincount(piece, w * scores, PIECES) / mass
    within = np.mean(np.bincount(piece, w * (scores - means[piece]) ** 2, PIECES) / mass)
    return float(np.sqrt(1.0 + means.var(ddof=1) / within)) if within > 0.0 else float("inf")
