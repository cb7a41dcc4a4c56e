r"""Scores of forecasts with a rolling origin, from one result and without a fit at each origin.

    scores = forecast_scores(key, ssm, result, horizons=(1, 4))
    scores.log_score, scores.mean_crps(), scores.pit        print(scores) is a table

At every origin t the forecast is the mixture over the posterior *at t*: draws given all data are weighed back to it
(`ssmscan.inference.reweighting`), those of a result of the first observations forward.  At each draw filters give the
forecasts (`ssmscan.inference.forecasts`).  With weights :math:`w_j(t)`,

.. math::  \log p(y_{t+h} | y_{1:t}) = \log \sum_j w_j(t) \, p(y_{t+h} | y_{1:t}, \theta_j) ,

and CRPS and PIT are of the same mixture (`ssmscan.results.scoring_rules`).  Draws of equal weight have seen what they
predict: their scores are too good, in a model of many parameters by far.

A run of `SMC2` has the posterior after every observation.  Its evidence tells the log score one step ahead,
:math:`\log p(y_{1:t+1}) - \log p(y_{1:t})`, which then needs no weights.

Data that no state reaches count as known at every origin; so does the start.  What a mask of the model's own leaves out
is left out of the log score, and not of CRPS and PIT: make it NaN instead.

The host holds draws x horizons x origins x (num_paths + 3) numbers for each element of an observation, the device those
of one draw (of eight on an accelerator).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from ssmscan.arguments import require_flag, require_instance, require_integer
from ssmscan.inference.at_draws import at_draws, require_draws_of
from ssmscan.inference.filters_at_draws import choose
from ssmscan.inference.forecast_mixture import Mixture
from ssmscan.inference.forecasts import Forecaster
from ssmscan.inference.predict import with_roles_of
from ssmscan.inference.reweighting import AtDraws, Refit, observations_seen, rolling, summary_of
from ssmscan.inference.smc2_record import running_posterior
from ssmscan.model.protocols import Theta, Values
from ssmscan.model.sites import Role
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.reading_ahead import refuse_reading_ahead
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.particles.before_steps import Filter, require_step_by_step
from ssmscan.particles.draws import as_key
from ssmscan.results.result import Result
from ssmscan.results.scores import ForecastScores

OF_SMC2 = (
    "One step ahead the log scores are differences of the evidence that SMC2 had on its way; they need no weights."
)


def forecast_scores(
    key: jax.Array,
    ssm: StateSpaceModel,
    result: Result,
    *,
    horizons: Sequence[int] = (1,),
    first_origin: int | None = None,
    num_draws: int = 250,
    num_paths: int = 16,
    estimator: Filter | None = None,
    num_particles: int | None = None,
    refit: Refit | None = None,
    progress: bool = True,
) -> ForecastScores:
    """Score forecasts of a series from every origin, without a fit at each.

    Args:
        key: one PRNG key, typed or raw.
        ssm: the model over the whole series, of one loop; NaN is missing and contributes nothing.
        result: what any engine returned of it, or of the same model over the first observations.
        horizons: steps ahead, each at least 1.
        first_origin: observations known at the first origin, at least 1; half of the series by default.
        num_draws: draws used of each chain, evenly spread, at most those that it has.
        num_paths: futures drawn from each origin at each draw; those of all draws together make the forecast.
        estimator: `ParticleFilter` with a proposal that does not see later data, `DiscreteFilter`, or
            `ExactLikelihood`; None takes one that is exact where there is one.
        num_particles: of the estimator; None takes those of the one that is given, or finds them.
        refit: called as refit(t) where draws say too little of the posterior at origin t; returns a `Result` of the
            first t observations, `lambda t: engine.run(key, ssmscan.trace(model, y[:t]))`.
        progress: whether to show a progress bar on a terminal.

    Returns:
        `ForecastScores`; its `concerns` say where it should not be trusted.

    Raises:
        ModelError: the states read data around their sites, so that more than one step ahead cannot be predicted.
        ValueError: the model has several loops, a horizon or origin lies outside the series, or the result is of other
            data or other parameters.
        TypeError: an argument is of another kind.
    """
    key = as_key(key)
    require_observed(ssm)
    require_drawn(ssm)
    steps, ssm = _horizons(horizons), one_loop(ssm)
    if steps[-1] > 1:
        refuse_reading_ahead(ssm.core, ssm.sample_start(as_key(jax.random.key(0))))
    require_instance("result", result, Result, "a Result, as engines return it")
    require_flag("progress", progress)
    for name, count in (("num_draws", num_draws), ("num_paths", num_paths)):
        require_integer(name, count, at_least=1)
    ssm = with_roles_of(ssm, result)
    require_draws_of(ssm, result)
    origins_of(ssm, first_origin, steps[-1])
    origins = origins_of(ssm, first_origin, steps[0])
    choose_key, filter_key = jax.random.split(key)
    chosen, notes = choose(choose_key, ssm, result, given=estimator, num_particles=num_particles, progress=progress)
    require_step_by_step("estimator", chosen)
    theta = {name: values[0, 0] for name, values in result.draws.items()}
    observed, drawn, rows = _predicted(ssm, theta)
    started = Role.START_OBSERVATION
    sites = tuple(site.name for site in ssm.observations if site.role is not started and site.family != "Unit")
    forecaster = Forecaster(chosen, int(origins[0]), steps, num_paths, sites, drawn, rows)

    def evaluate(of: Result) -> AtDraws:
        found = at_draws(
            forecaster, filter_key, ssm, of, num_draws=num_draws, label="forecasts at draws", progress=progress
        )
        if not len(found.draws):
            raise KeyboardInterrupt
        values = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found.values)
        return AtDraws.of(values.increments, values.weighing, observations_seen(ssm, of), values)

    parts, refits = rolling(origins, evaluate, result, refit)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    scores = Mixture(steps, origins, ssm.num_steps, observed).scores(parts, rng)
    return with_evidence_of(
        result,
        ForecastScores(
            engine=result.engine,
            origins=origins,
            horizons=np.array(steps),
            **scores,
            weights=summary_of(parts, refits, origins),
            notes=notes,
        ),
        ssm.num_steps,
    )


def with_evidence_of(result: Result, scores: ForecastScores, num_steps: int) -> ForecastScores:
    """Return scores whose log scores one step ahead are those that a run of SMC2 had on its way."""
    if result.engine != "SMC2" or scores.horizons[0] != 1:
        return scores
    running = running_posterior(result)
    if len(running.log_evidence) != num_steps + 1:
        return scores
    log_scores, error = scores.log_scores.copy(), scores.monte_carlo_error.copy()
    there = np.isfinite(log_scores[:, 0])
    log_scores[there, 0] = np.diff(running.log_evidence)[scores.origins[there]]
    error[0] = running.log_evidence_error[-1]
    sites = {name: log_scores if x is scores.log_scores else x for name, x in scores.site_log_scores.items()}
    told = (*scores.notes, OF_SMC2)
    return replace(scores, log_scores=log_scores, site_log_scores=sites, monte_carlo_error=error, notes=told)


def one_loop(ssm: StateSpaceModel) -> StateSpaceModel:
    """Return a model of one loop.

    Raises:
        ValueError: it has several, whose steps have no time in common.
    """
    if len(ssm.loops) > 1:
        raise ValueError(
            f"ssm: it has {len(ssm.loops)} independent loops, which have no time in common. Score one of them, "
            "ssm.loops[k]; the data of the others count as known at every origin."
        )
    return ssm


def origins_of(ssm: StateSpaceModel, first: int | None, ahead: int) -> np.ndarray:
    """Return the origins from the first on, such that what is `ahead` steps ahead is in the series.

    Raises:
        ValueError: there are none.
    """
    least = max(ssm.num_steps // 2, 1) if first is None else require_integer("first_origin", first, at_least=1)
    if least + ahead > ssm.num_steps:
        raise ValueError(
            f"first_origin is {least}, and the series has {ssm.num_steps} steps: {ahead} more would have to follow it."
        )
    return np.arange(least, ssm.num_steps - ahead + 1)


def _horizons(given: Sequence[int]) -> tuple[int, ...]:
    values = given if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else (given,)
    found = {require_integer("horizons", value, at_least=1) for value in values}
    if not found:
        raise ValueError("horizons: expected steps ahead such as (1, 4), got none.")
    return tuple(sorted(found))


@jax.jit
def _by_step(ssm: StateSpaceModel, theta: Theta) -> Values:
    dynamics = ssm.at(ssm.canonical(theta))
    return jax.vmap(dynamics.observed)(dynamics.xs)


def observed_by_step(ssm: StateSpaceModel, theta: Theta) -> dict[str, np.ndarray]:
    """Return what is observed at each step by site, (T, ...), NaN where it is missing."""
    return {name: np.asarray(y) for name, y in jax.device_get(_by_step(ssm, theta)).items()}


def _predicted(ssm: StateSpaceModel, theta: dict) -> tuple[dict, tuple[str, ...], tuple[tuple[str, int], ...]]:
    """Return what came at each step, the sites that are drawn, and where the rows of those after the loop begin."""
    by_step = observed_by_step(ssm, theta)
    whole, observed, rows = ssm.observed, {}, []
    drawn = jax.eval_shape(partial(StateSpaceModel.simulate, ssm), jax.random.key(0), theta)
    for site in ssm.observations:
        if site.name not in by_step or site.name not in drawn:
            continue
        y = by_step[site.name]
        if site.role is Role.POST_LOOP_OBSERVATION:
            first = _first_row(y, whole.get(site.name), drawn[site.name].shape)
            if first is None:
                continue
            rows.append((site.name, first))
        elif drawn[site.name].shape != y.shape:
            continue
        observed[site.name] = y
    return observed, tuple(observed), tuple(rows)


def _first_row(y: np.ndarray, whole: np.ndarray | None, shape: tuple[int, ...]) -> int | None:
    """Return which row of an observation after the loop belongs to the first step; None where it has none for each."""
    if whole is None or shape[1:] != y.shape[1:] or whole.shape[1:] != y.shape[1:]:
        return None
    for first in sorted(range(max(len(whole) - 1, 1)), key=lambda first: first != max(len(whole) - len(y), 0)):
        part = whole[first : first + len(y)]
        if np.array_equal(part, y[: len(part)], equal_nan=y.dtype.kind == "f") and _nothing(y[len(part) :]):
            return first
    return None


def _nothing(y: np.ndarray) -> bool:
    return not len(y) or (y.dtype.kind == "f" and bool(np.isnan(y).all()))
