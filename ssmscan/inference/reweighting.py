r"""Draws given all data, weighed back to the posterior at an earlier origin; and where that fails, drawn anew.

Draws :math:`\theta_j \sim p(\theta | y_{1:n})` have seen what comes after the origin t.  With the increments of a
filter at each of them, those of the posterior at t are the same draws with the weights

.. math::  w_j(t) \propto \prod_{s = t+1}^{n} \frac{1}{p(y_s | y_{1:s-1}, \theta_j)} \quad (t < n), \qquad
           w_j(t) \propto \prod_{s = n+1}^{t} p(y_s | y_{1:s-1}, \theta_j) \quad (t > n),

smoothed by their Pareto tail (Buerkner, Gabry & Vehtari 2020, *J. Stat. Comput. Simul.* 90(14), 2499-2523).  Where the
tail index is too large and there is a function that samples anew, it is called there, and its draws serve the earlier
origins until theirs is: their algorithm, backwards.

**Noise of the filters.**  An estimate :math:`\hat p = p e^{\sigma z - \sigma^2/2}` of the product has :math:`E[1/\hat
p] = e^{\sigma^2} / p`.  Where sigma is the same at all draws, weights only lose :math:`1 - e^{-\sigma^2}` of their
effective number; where it is not, draws at which the filter is noisier get too much weight, by
:math:`e^{\sigma^2(\theta)}`.  Weights and forecasts come from two independent filters at each draw: the product of an
estimate and its own inverse would turn the mean of the estimates into their harmonic mean, and every log score would be
too low by the variance of its increment.  How far the two lie apart tells sigma.  Exact filters have no noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ssmscan.arguments import require_instance
from ssmscan.model.sites import Role
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.results.result import Result
from ssmscan.results.scores import Reweighting
from ssmscan.tail_index import Smoothed, reliable_below, smoothed

Refit = Callable[[int], Result]
"""From a number of observations to a result of these, the first of the series."""


class AtDraws(NamedTuple):
    """What was computed at the draws of one result.

    Attributes:
        increments: (J, T) log p(y_t | y_{1:t-1}, theta_j), float64.
        weighing: (J, T) the same by another filter, from which weights are made.
        seen: n, the observations that the draws have seen.
        values: whatever else was computed, leaves with J in front.
    """

    increments: np.ndarray
    weighing: np.ndarray
    seen: int
    values: Any

    @classmethod
    def of(cls, increments: np.ndarray, weighing: np.ndarray, seen: int, values: Any) -> AtDraws:
        """Take an increment that is not a number for that of a filter without any particle left."""
        given, other = (
            np.nan_to_num(x.astype(np.float64), nan=-np.inf, neginf=-np.inf) for x in (increments, weighing)
        )
        return cls(given, other, seen, values)


class Part(NamedTuple):
    """Origins that rest on the draws of one result.

    Attributes:
        rows: (k,) their numbers among all origins, in increasing order.
        log_weights: (J, k) normalised.
        tail_index: (k,) of the weights before they were smoothed.
        at: what was computed at the draws.
    """

    rows: np.ndarray
    log_weights: np.ndarray
    tail_index: np.ndarray
    at: AtDraws


def weights_at(at: AtDraws, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the log weights (J, n) of draws at each origin, and their tail index (n,)."""
    ratios = _log_ratios(at.weighing, at.seen, origins)
    found = [_smoothed(column) for column in ratios.T]
    return np.stack([one.log_weights for one in found], axis=1), np.array([one.tail_index for one in found])


def _log_ratios(increments: np.ndarray, seen: int, origins: np.ndarray) -> np.ndarray:
    """Return the log of p(y_{1:t} | theta) / p(y_{1:n} | theta) of each draw at each origin t, (J, n)."""
    before = np.concatenate([np.zeros((len(increments), 1)), np.cumsum(increments, axis=1)], axis=1)
    with np.errstate(invalid="ignore"):
        return before[:, origins] - before[:, [seen]]


def noise_at(at: AtDraws, origins: np.ndarray) -> np.ndarray:
    """Measure the standard deviation of log weights that is noise of the filters, (n,), from the two of each draw."""
    with np.errstate(invalid="ignore"):
        apart = _log_ratios(at.increments, at.seen, origins) - _log_ratios(at.weighing, at.seen, origins)
    there = np.isfinite(apart)
    return np.sqrt(np.sum(np.where(there, apart, 0.0) ** 2, axis=0) / (2.0 * np.maximum(there.sum(0), 1)))


def _smoothed(log_ratios: np.ndarray) -> Smoothed:
    """Smooth weights; a draw whose filter lost all its particles, at which the ratio is not finite, has none."""
    there = np.isfinite(log_ratios)
    if not there.any():
        return Smoothed(np.full(len(log_ratios), -np.log(len(log_ratios))), np.inf)
    return smoothed(np.where(there, log_ratios, -np.inf))


def rolling(
    origins: np.ndarray, evaluate: Callable[[Result], AtDraws], result: Result, refit: Refit | None
) -> tuple[list[Part], tuple[int, ...]]:
    """Weigh the draws of a result at each origin, and draw anew where they say too little.

    Args:
        origins: (n,) in increasing order.
        evaluate: filters at the draws of a result.
        result: where to begin.
        refit: samples the parameters given the first observations; None never does.

    Returns:
        The parts, and the origins at which `refit` was called.
    """
    parts, refits, left = [], list[int](), np.arange(len(origins))
    at = evaluate(result)
    while len(left):
        log_weights, index = weights_at(at, origins[left])
        bad = np.flatnonzero(index > reliable_below(len(at.increments)))
        first = int(bad[-1]) + 1 if refit is not None and len(bad) else 0
        if len(left[first:]):
            parts.append(Part(left[first:], log_weights[:, first:], index[first:], at))
        left = left[:first]
        if len(left) and refit is not None:
            origin = int(origins[left[-1]])
            at = evaluate(_refitted(refit, origin))
            if at.seen != origin:
                raise ValueError(
                    f"refit({origin}) returned a result of {at.seen} observations: fit the model to the first "
                    f"{origin} of the series, as in ssmscan.trace(model, y[:{origin}])."
                )
            refits.append(origin)
    return parts[::-1], tuple(refits)


def _refitted(refit: Refit, origin: int) -> Result:
    found = refit(origin)
    return require_instance(f"refit({origin})", found, Result, "a Result, as engines return it")


def summary_of(parts: list[Part], refits: tuple[int, ...], origins: np.ndarray) -> Reweighting:
    """Return what the weights are worth at each origin."""
    noise = np.concatenate([noise_at(part.at, origins[part.rows]) for part in parts])
    effective = [1.0 / np.sum(np.exp(2.0 * part.log_weights), axis=0) for part in parts]
    count = min(len(part.at.increments) for part in parts)
    index = np.concatenate([part.tail_index for part in parts])
    return Reweighting(index, reliable_below(count), np.concatenate(effective), noise, count, refits)


def observations_seen(ssm: StateSpaceModel, result: Result) -> int:
    """Return the number of observations of the one loop that the draws of a result have seen.

    Args:
        ssm: the model over the whole series.
        result: of this model over the first of its observations, or all.

    Raises:
        ValueError: it is of other observations.
    """
    whole, timed, seen = ssm.observed, {Role.OBSERVATION, Role.POST_LOOP_OBSERVATION}, ssm.num_steps
    for site in ssm.sites:
        if site.role not in timed or site.name not in whole or site.name not in result.observed:
            continue
        all_ = whole[site.name]
        given = np.asarray(result.observed[site.name]).astype(all_.dtype)
        if len(given) > len(all_) or not np.array_equal(all_[: len(given)], given, equal_nan=all_.dtype.kind == "f"):
            raise ValueError(
                f"result: it is of other observations of '{site.name}' than ssm, or of more of them. Give the model "
                "over the whole series, and a result of the same series or of its beginning."
            )
        seen = min(seen, ssm.num_steps - (len(all_) - len(given)))
    return seen
