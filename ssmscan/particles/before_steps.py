r"""What a filter knows before each step: how likely the observation of the step was, and equal carries to go on from.

For every step t, the increment :math:`\log p(y_t | y_{1:t-1}, \theta)` and K carries from
:math:`p(c_{t-1} | y_{1:t-1}, \theta)`, which is all that forecasts from every origin take.  The filter is that of an
estimator of the likelihood:

* `ParticleFilter`: K of its particles, chosen by weight; the increment is an estimate, its exponential unbiased;
* `DiscreteFilter`: the same of every state with a finite number of values; exact where no more carries can differ;
* `ExactLikelihood`: draws from the normal law of a Kalman filter, and the exact increment.

The chosen are in random order, so that any of them is a draw, and those of different elements of a panel, which do not
interact, may be put together.  A proposal that has seen later data knows what is to be predicted and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.arguments import refusal
from ssmscan.model.gaussian.predictive import before_each_step
from ssmscan.model.gaussian.vectors import in_vectors
from ssmscan.model.protocols import Dynamics, Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles import filter_step
from ssmscan.particles.clouds import Cloud
from ssmscan.particles.discrete_filter import DiscreteFilter, run_discrete
from ssmscan.particles.draws import as_key
from ssmscan.particles.exact_likelihood import ExactLikelihood
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.filter_step import State, StepInfo
from ssmscan.particles.panels import each_filter, join_cloud
from ssmscan.particles.resampling import systematic

CHOICE_STREAM = 2**32 - 2
"""What is folded into the key of a run to choose carries; see `estimators.PATH_STREAM`."""

Filter = ParticleFilter | DiscreteFilter | ExactLikelihood


class BeforeSteps(NamedTuple):
    """What is known before each of the T steps.

    Attributes:
        increments: (T,) log p(y_t | y_{1:t-1}, theta), of all elements of a panel together.
        carry: leaves (T, K, ...), carries of equal weight.
    """

    increments: Array
    carry: Any


def require_step_by_step(argument: str, estimator: Any) -> Filter:
    """Return an estimator whose filter takes in one observation after the other.

    Raises:
        TypeError: it is something else.
        ValueError: its proposal has seen later data.
    """
    if not isinstance(estimator, ParticleFilter | DiscreteFilter | ExactLikelihood):
        expected = "ParticleFilter(1000), DiscreteFilter(8) or ExactLikelihood()"
        raise TypeError(refusal(argument, expected, estimator))
    if isinstance(estimator, ParticleFilter) and estimator.uses_later_data:
        raise ValueError(
            f"{argument}: {estimator.proposal!r} has seen the later observations, so that its increments are no "
            "forecasts. Use Bootstrap() or Guided(...); or ExactLikelihood() where the model is linear and Gaussian."
        )
    return estimator


def before_steps(key: Array, ssm: StateSpaceModel, theta: Theta, *, estimator: Filter, num_kept: int) -> BeforeSteps:
    """Filter the data of a model of one loop, and return what is known before each step; pure.

    Args:
        key: a typed key.
        ssm: the model, of one loop.
        theta: the parameters, canonical.
        estimator: what filters, see `require_step_by_step`.
        num_kept: K, carries kept before each step.
    """
    run: Callable[[Array, Dynamics], tuple[Array, Any]]
    if isinstance(estimator, ParticleFilter):
        run = partial(_of_particles, estimator=estimator, count=num_kept)
    elif isinstance(estimator, DiscreteFilter):
        run = partial(_of_values, estimator=estimator, count=num_kept)
    else:
        run = partial(_of_normal_laws, count=num_kept)
    increments, carry = each_filter(run, ssm, theta, as_key(key))
    if ssm.panel is None:
        return BeforeSteps(increments, carry)
    return BeforeSteps(increments.sum(0), join_cloud(Cloud(carry, increments, {}), ssm.panel).carry)


def _of_particles(key: Array, dynamics: Dynamics, *, estimator: ParticleFilter, count: int) -> tuple[Array, Any]:
    settings: Any = estimator
    began = filter_step.start(settings, key, dynamics).state

    def chosen(state: State) -> Any:
        own = jax.random.fold_in(jax.random.fold_in(state.key, CHOICE_STREAM), state.step)
        return _choose(own, state.carry, state.weights, count)

    def report(held: Any, state: State, info: StepInfo) -> tuple[Any, tuple[Array, Any]]:
        return chosen(state), (info.increment, held)

    *_, (increments, carry) = filter_step.scan_updates(
        settings, began, dynamics, dynamics.xs, report, begin=lambda _: chosen(began), length=dynamics.num_steps
    )
    return increments, carry


def _of_values(key: Array, dynamics: Dynamics, *, estimator: DiscreteFilter, count: int) -> tuple[Array, Any]:
    found = run_discrete(key, dynamics, estimator.num_particles)
    keys = jax.random.split(jax.random.fold_in(key, CHOICE_STREAM), dynamics.num_steps)
    carry, log_weights = found.before
    return found.increments[1:], jax.vmap(partial(_choose, count=count))(keys, carry, jnp.exp(log_weights))


def _of_normal_laws(key: Array, dynamics: Dynamics, *, count: int) -> tuple[Array, Any]:
    model = in_vectors(dynamics)
    known = before_each_step(model)
    noise = jax.random.normal(key, (dynamics.num_steps, count, model.coordinates.size))

    def draw(carry: Any, columns: Array, noise: Array) -> Any:
        mean = model.coordinates.of_carry(carry)
        return jax.vmap(lambda z: model.coordinates.into(carry, mean + columns @ z))(noise)

    return known.increments, jax.vmap(draw)(known.carry, known.columns, noise)


def _choose(key: Array, carry: Any, weights: Array, count: int) -> Any:
    """Choose carries by their weights, in random order."""
    choice, order = jax.random.split(key)
    chosen = jax.random.permutation(order, systematic(choice, weights, count))
    return jax.tree.map(lambda leaf: leaf[chosen], carry)
