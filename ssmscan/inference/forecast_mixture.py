r"""Forecasts at weighted draws of the parameters as one forecast, and its scores; on the host.

.. math::  p(y_{t+h} | y_{1:t}) = \sum_j w_j(t) \, p(y_{t+h} | y_{1:t}, \theta_j), \qquad
           F_{t+h}(y) = \sum_j w_j(t) \, F_{t+h}(y | \theta_j)

The error of a sum of log scores that comes from finitely many draws is that of a ratio of sums, to first order: with
:math:`p_{jt}` the densities and :math:`p_t` their mixture,

.. math::  \sum_j \Big( \sum_t w_j(t) \big(p_{jt} / p_t - 1\big) \Big)^2 .
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmscan.inference.forecasts import Forecasts
from ssmscan.inference.reweighting import Part
from ssmscan.results.scoring_rules import crps, ranks_of


def without_observation(observed: Mapping[str, np.ndarray], num_steps: int) -> np.ndarray:
    """Return the steps (T,) at which every value of every site (T, ...) is missing."""
    gone = [np.isnan(y.reshape(len(y), -1)).all(1) for y in observed.values() if y.dtype.kind == "f"]
    return np.all(gone, axis=0) if gone and len(gone) == len(observed) else np.zeros(num_steps, bool)


class Mixture:
    """What is predicted: horizons, origins, the number of steps, and site -> (T, *shape), what came at each."""

    def __init__(self, horizons: tuple[int, ...], origins: np.ndarray, num_steps: int, observed: dict):
        self.horizons, self.origins, self.num_steps, self.observed = horizons, origins, num_steps, observed
        self.empty = without_observation(observed, num_steps)

    def scores(self, parts: list[Part], rng: np.random.Generator) -> dict[str, Any]:
        """Return the fields of `ForecastScores` that hold scores."""
        shape = len(self.origins), len(self.horizons)
        log_scores = np.full(shape, np.nan)
        by_site = {name: np.full(shape, np.nan) for name in parts[0].at.values.site_log_densities}
        means = {name: np.full((*shape, *y.shape[1:]), np.nan) for name, y in self.observed.items()}
        pit = {name: np.full((*shape, *y.shape[1:]), np.nan) for name, y in self.observed.items()}
        variance = np.zeros(len(self.horizons))
        for part in parts:
            found: Forecasts = part.at.values
            for i, h in enumerate(self.horizons):
                influence = np.zeros(len(part.log_weights))
                for place, row in enumerate(part.rows):
                    step = int(self.origins[row]) + h - 1
                    if step >= self.num_steps or self.empty[step]:
                        continue
                    log_weights = part.log_weights[:, place]
                    densities = found.log_densities[:, i, row].astype(np.float64)
                    log_scores[row, i] = np.logaddexp.reduce(log_weights + densities)
                    if np.isfinite(log_scores[row, i]):
                        influence += np.exp(log_weights) * np.expm1(densities - log_scores[row, i])
                    for name, table in by_site.items():
                        table[row, i] = np.logaddexp.reduce(log_weights + found.site_log_densities[name][:, i, row])
                    weights = np.exp(log_weights)
                    for name, y in self.observed.items():
                        draws = np.asarray(found.draws[name])[:, i, row]
                        means[name][row, i] = crps(y[step], draws, weights)
                        pit[name][row, i] = _pit(y[step], draws, weights, _cdf(found, name, i, row), rng)
                variance[i] += np.sum(influence**2)
        return {
            "log_scores": log_scores,
            "site_log_scores": by_site or (dict.fromkeys(self.observed, log_scores) if len(self.observed) == 1 else {}),
            "crps": means,
            "pit": pit,
            "monte_carlo_error": np.sqrt(variance),
        }


def _cdf(found: Forecasts, name: str, i: int, row: int) -> tuple[np.ndarray, np.ndarray] | None:
    if name not in found.cdf:
        return None
    at, below = found.cdf[name]
    return np.asarray(at)[:, i, row], np.asarray(below)[:, i, row]


def _pit(
    y: np.ndarray,
    draws: np.ndarray,
    weights: np.ndarray,
    cdf: tuple[np.ndarray, np.ndarray] | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the PIT of each element: from the distribution function where there is one, else from draws."""
    if cdf is None:
        at, below = ranks_of(y, draws, weights)
    else:
        at, below = (np.tensordot(weights, np.asarray(values, np.float64), 1) for values in cdf)
    values = np.clip(below + rng.uniform(size=np.shape(y)) * (at - below), 0.0, 1.0)
    return np.where(np.isnan(y), np.nan, values)
