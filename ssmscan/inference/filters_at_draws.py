r"""Filters at draws from the posterior: how well each observation was predicted from those before it.

    found = predictive_densities(key, ssm, result)
    found.increments            (chains, draws, T): log p(y_t | y_1:t-1, theta), at a spread of the draws

States of a `Result` are given *all* data: densities p(y_t | x_t) at them have seen y_t, and a filter has not.  The
average over draws, :math:`\log \frac1J \sum_j p(y_t | y_{1:t-1}, \theta_j)`, still has seen it through the parameters:
it is no score of a forecast until the draws are of a fit to earlier data, or weighed back to it (Buerkner, Gabry &
Vehtari 2020, *J. Stat. Comput. Simul.* 90(14), 2499-2523).

Exact where the model allows: by the Kalman filter for a linear Gaussian model, by the forward recursion for states of
few values.  Elsewhere by a bootstrap filter, with as many particles as its log likelihood at a middle draw needs to
have a standard deviation of `TARGET_SD`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.arguments import refusal, require_flag, require_instance, require_integer
from ssmscan.inference.at_draws import AtDraws, at_draws, require_draws_of
from ssmscan.inference.default_estimator import begin_with
from ssmscan.inference.predict import with_roles_of
from ssmscan.inference.progress import phase
from ssmscan.inference.sizing import best_size, next_size
from ssmscan.model.protocols import Model, Theta
from ssmscan.model.sites import Role
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.linear_gaussian import exactness
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.particles.discrete_filter import DiscreteFilter
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import Estimator, OneStepAhead, require_estimator, sized
from ssmscan.particles.exact_likelihood import ExactLikelihood
from ssmscan.particles.filter_step import COMPLETE, FAULTY
from ssmscan.particles.loop import each
from ssmscan.results.densities import PredictiveDensities
from ssmscan.results.result import Result

TARGET_SD = 0.5
"""Standard deviation of log likelihood estimates that is aimed at; all increments together are then too low by 1/8."""

REPLICATES = 16
"""Estimates from which it is measured."""

FIRST, MOST = 512, 2**14
"""The fewest particles, which are tried first, and the most."""


class Predicting(Estimator, Protocol):
    """An estimator of the likelihood that also says how well each observation was predicted."""

    def one_step_ahead(self, key: jax.Array, ssm: Model, theta: Theta) -> OneStepAhead:
        """Compute the predictive density of each observation given those before it."""


@dataclass(frozen=True)
class _OneStepAhead:
    """The function of a draw; see `ssmscan.inference.at_draws`."""

    estimator: Predicting

    def __call__(self, ssm: StateSpaceModel, key: jax.Array, theta: Theta) -> OneStepAhead:
        """Filter at one draw."""
        return self.estimator.one_step_ahead(key, ssm, theta)


def predictive_densities(
    key: jax.Array,
    ssm: StateSpaceModel,
    result: Result,
    *,
    num_draws: int = 100,
    estimator: Predicting | None = None,
    num_particles: int | None = None,
    progress: bool = True,
) -> PredictiveDensities:
    """Compute the predictive density of each observation given those before it, at draws of a result.

    Args:
        key: one PRNG key, typed or raw.
        ssm: the model of the result; it may have other data, and more of them.
        result: what any engine returned.
        num_draws: draws used of each chain, evenly spread, at most those that it has.
        estimator: `ParticleFilter` with a proposal that does not see later data, `DiscreteFilter`, or
            `ExactLikelihood`; None takes one that is exact where there is one.
        num_particles: of the estimator; None takes those of the one that is given, or finds them.
        progress: whether to show a progress bar on a terminal.

    Raises:
        ValueError: the result has no draws, or of other parameters than the model; or the proposal sees later data.
        TypeError: the estimator is none, or has no predictive densities.
    """
    key = as_key(key)
    require_observed(ssm)
    require_instance("result", result, Result, "a Result, as engines return it")
    require_integer("num_draws", num_draws, at_least=1)
    require_flag("progress", progress)
    ssm = with_roles_of(ssm, result)
    require_draws_of(ssm, result)
    if estimator is not None:
        _require_predicting(estimator)
    if num_particles is not None:
        require_integer("num_particles", num_particles, at_least=2)
    own, rest = jax.random.split(key)
    chosen, notes = choose(own, ssm, result, given=estimator, num_particles=num_particles, progress=progress)
    found = at_draws(
        _OneStepAhead(chosen), rest, ssm, result, num_draws=num_draws, label="filters at draws", progress=progress
    )
    if not len(found.draws):  # stopped by Control-C, with nothing to return
        raise KeyboardInterrupt
    increments, ess, status = map(np.asarray, found.values)
    told = (*notes, *_faults(found))
    return PredictiveDensities(increments, ess, status, found.draws, chosen, told, _parts(ssm, increments.shape[2]))


def _parts(ssm: StateSpaceModel, size: int) -> tuple[tuple[str, int], ...]:
    """Return which sites are observed together, and at how many steps of the series."""
    found = []
    for loop in ssm.loops:
        start, steps = (
            [site.name for site in loop.observations if (site.role is Role.START_OBSERVATION) is at_start]
            for at_start in (True, False)
        )
        own = bool(start and steps)  # rows after the loop that are of the start are of the same site as the others
        found += [("+".join(start), 1)] if own else []
        found.append(("+".join(steps or start), loop.num_steps + (loop.start_observed and not own)))
    assert sum(number for _, number in found) == size
    return tuple(found)


def choose(
    key: jax.Array,
    ssm: StateSpaceModel,
    result: Result,
    *,
    given: Predicting | None = None,
    num_particles: int | None = None,
    progress: bool = True,
) -> tuple[Any, tuple[str, ...]]:
    """Choose what filters at draws of a result.

    Args:
        key: one PRNG key.
        ssm: the model.
        result: whose middle draw is filtered where a number of particles has to be found.
        given: what the user said, None for what suits the model.
        num_particles: how many, None where that is to be found.
        progress: whether to show what is done.

    Returns:
        The estimator, and why, in sentences.
    """
    if given is not None:
        return (given if num_particles is None else given.with_num_particles(num_particles)), ()
    if all(exactness(core.program).exact for core in ssm.cores):
        return ExactLikelihood(), ("The Kalman filter: the model is linear and Gaussian.",)
    require_drawn(ssm)
    begun = begin_with(ssm, None, num_particles=num_particles, most=MOST)
    if isinstance(begun, DiscreteFilter) or num_particles is not None:
        return begun, ()
    return _sized(key, ssm, begun, _middle(result), progress)


def _require_predicting(estimator: Any) -> None:
    require_estimator("estimator", estimator)
    if not hasattr(estimator, "one_step_ahead"):
        expected = "an estimator with predictive densities, such as ParticleFilter(1000)"
        raise TypeError(refusal("estimator", expected, estimator))
    if estimator.uses_later_data and estimator.num_particles:
        raise ValueError(
            f"estimator: {estimator!r} has particles that know later data, so that what a step returns says nothing of "
            "how well its observation was predicted. Use a ParticleFilter with Bootstrap() or Guided(...)."
        )


def _middle(result: Result) -> dict[str, Any]:
    """Return the draw that is nearest to the middle of all, in ranks of its scalars."""
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in result.draws.items()}
    if not flat:
        return {}
    columns = np.concatenate([x.reshape(len(x), -1) for x in flat.values()], axis=1)
    ranks = columns.argsort(0).argsort(0) / len(columns) - 0.5
    nearest = int(np.argmin(np.sum(ranks**2, axis=1)))
    return {name: x[nearest] for name, x in flat.items()}


@partial(jax.jit, static_argnames=("estimator",))
def _replicates(keys: jax.Array, ssm: StateSpaceModel, theta: Theta, *, estimator: Estimator) -> jax.Array:
    return each(lambda key: estimator.estimate(key, ssm, theta).log_likelihood, keys)


def _sized(
    key: jax.Array, ssm: StateSpaceModel, estimator: Estimator, theta: Theta, progress: bool
) -> tuple[Any, tuple[str, ...]]:
    """Find the number of particles with which estimates at one point are as near to each other as is wanted."""
    measured: dict[int, float] = {}
    size = FIRST
    theta = {name: jnp.asarray(value) for name, value in theta.items()}
    while size not in measured:
        with phase(f"filters at draws: trying {size} particles", progress=progress):
            keys = jax.random.split(jax.random.fold_in(key, size), REPLICATES)
            found = np.asarray(_replicates(keys, ssm, theta, estimator=estimator.with_num_particles(size)))
        measured[size] = float(np.std(found, ddof=1)) if np.isfinite(found).all() else np.inf
        size = max(next_size(measured, size, TARGET_SD, MOST) or FIRST, FIRST)
    chosen = estimator.with_num_particles(best_size(measured, TARGET_SD))
    sd = measured[chosen.num_particles]
    return chosen, (
        f"{sized(chosen)}: log likelihood estimates at a middle draw have a standard deviation of {sd:.2g}.",
    )


def _faults(found: AtDraws) -> tuple[str, ...]:
    status, told = found.values.status, []
    if found.interrupted:
        told.append(f"Stopped by Control-C: {len(found.draws)} draws a chain were filtered by then.")
    if wrong := int(np.sum(status == FAULTY)):
        told.append(
            f"At {wrong} of {status.size} draws log weights of particles were not numbers and counted as impossible: "
            "mend the density of the model."
        )
    if lost := int(np.sum((status != COMPLETE) & (status != FAULTY))):
        told.append(f"At {lost} of {status.size} draws no particle could have made the data: use more of them.")
    return tuple(told)
