r"""Leave-future-out: how well a model predicts a series from its past, from one result.

.. math::  \mathrm{elpd}_{\mathrm{LFO}} = \sum_{t = L}^{T - M} \log p(y_{t+1:t+M} | y_{1:t}), \qquad
           p(y_{t+1:t+M} | y_{1:t}) = \sum_j w_j(t) \prod_{s = t+1}^{t+M} p(y_s | y_{1:s-1}, \theta_j),

the increments of filters at draws, weighed back to the posterior at t (Buerkner, Gabry & Vehtari 2020, *J. Stat.
Comput. Simul.* 90(14), equations 6 to 9; `ssmscan.inference.reweighting`).  M observations are predicted together; what
is M steps ahead alone, and CRPS, are in `forecast_scores`.

**Why not LOO.**  Leave-one-out cross-validation is wrong for a state-space model.  From :math:`p(y_t | x_t)` at states
that have seen y_t it scores a fit; with y_t left out of the data in earnest, the states around it are still known from
the observations after it, and it scores interpolation.  Neither says how well the next observation will be predicted,
and both favour models whose states follow the data.
"""

from __future__ import annotations

import jax
import numpy as np

from ssmscan.arguments import require_instance, require_integer
from ssmscan.inference.filters_at_draws import choose, predictive_densities
from ssmscan.inference.forecast_mixture import without_observation
from ssmscan.inference.forecast_scores import observed_by_step, one_loop, origins_of
from ssmscan.inference.predict import with_roles_of
from ssmscan.inference.reweighting import AtDraws, Refit, observations_seen, rolling, summary_of
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_observed
from ssmscan.particles.before_steps import Filter, require_step_by_step
from ssmscan.particles.draws import as_key
from ssmscan.particles.exact_likelihood import ExactLikelihood
from ssmscan.results.result import Result
from ssmscan.results.scores import LeaveFutureOut


def leave_future_out(
    key: jax.Array,
    ssm: StateSpaceModel,
    result: Result,
    *,
    first_origin: int | None = None,
    horizon: int = 1,
    num_draws: int = 250,
    estimator: Filter | None = None,
    num_particles: int | None = None,
    refit: Refit | None = None,
    progress: bool = True,
) -> LeaveFutureOut:
    """Estimate the expected log predictive density by leaving out the future.

    Args:
        key: one PRNG key, typed or raw.
        ssm: the model over the whole series, of one loop; NaN is missing and contributes nothing.
        result: what any engine returned of it, or of the same model over the first observations.
        first_origin: L, observations known at the first origin; half of the series by default.
        horizon: M, observations that are predicted together at each origin.
        num_draws, estimator, num_particles, refit, progress: as in `forecast_scores`.

    Returns:
        `LeaveFutureOut`; its `concerns` say where it should not be trusted.

    Raises:
        ValueError: the model has several loops, an origin lies outside the series, or the result is of other data or
            other parameters.
        TypeError: an argument is of another kind.
    """
    key = as_key(key)
    require_observed(ssm)
    require_instance("result", result, Result, "a Result, as engines return it")
    ssm = one_loop(with_roles_of(ssm, result))
    origins = origins_of(ssm, first_origin, require_integer("horizon", horizon, at_least=1))
    choose_key, *filter_keys = jax.random.split(key, 3)
    chosen, notes = choose(choose_key, ssm, result, given=estimator, num_particles=num_particles, progress=progress)
    require_step_by_step("estimator", chosen)

    def evaluate(of: Result) -> AtDraws:
        keys = filter_keys[:1] if isinstance(chosen, ExactLikelihood) else filter_keys
        runs = [
            predictive_densities(own, ssm, of, num_draws=num_draws, estimator=chosen, progress=progress) for own in keys
        ]
        if len({len(run.draws) for run in runs}) > 1:  # Control-C came between
            raise KeyboardInterrupt
        steps = [run.increments[..., -ssm.num_steps :].reshape(-1, ssm.num_steps) for run in runs]
        return AtDraws.of(steps[0], steps[-1], observations_seen(ssm, of), None)

    parts, refits = rolling(origins, evaluate, result, refit)
    empty = without_observation(observed_by_step(ssm, {n: x[0, 0] for n, x in result.draws.items()}), ssm.num_steps)
    pointwise, variance = [], 0.0
    for part in parts:
        here = origins[part.rows]
        densities = np.sum([part.at.increments[:, here + ahead] for ahead in range(horizon)], axis=0)
        scores = np.logaddexp.reduce(part.log_weights + densities, axis=0)
        scores[np.all([empty[here + ahead] for ahead in range(horizon)], axis=0)] = np.nan
        pointwise.append(scores)
        there = np.isfinite(scores)
        influence = np.exp(part.log_weights[:, there]) * np.expm1(densities[:, there] - scores[there])
        variance += np.sum(influence.sum(axis=1) ** 2)
    return LeaveFutureOut(
        engine=result.engine,
        origins=origins,
        horizon=horizon,
        pointwise=np.concatenate(pointwise),
        monte_carlo_error=float(np.sqrt(variance)),
        weights=summary_of(parts, refits, origins),
        notes=notes,
    )
