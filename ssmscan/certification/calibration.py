r"""Simulation-based calibration of the importance sampler, exact for any number of points.

Parameters are drawn from the prior and data from them; then the true parameters are one draw of the posterior, and
their place in it is uniform (Cook, Gelman & Rubin 2006; Talts, Betancourt, Simpson, Vehtari & Gelman 2018,
arXiv:1804.06788).  On each data set a proposal q is found, and points are made and weighed, as `ImportanceSampler` does
it for a user, in fewer rounds.  The true point joins them, with the weight it would have had as a point,

.. math::  w_0 = \frac{p(\theta_0) |d\theta/dz| \, \hat Z_0}{q(z_0)},

the estimate being that of a filter which contains the true states (`conditional_likelihood`).  Given the points and
data, the true one is number i with probability :math:`w_i / \sum_j w_j`: it is an exact draw, and the others are from q
with fresh estimates.  So the weight below its value, with its own divided at random, is uniform whatever the number of
points and particles and however bad q is; few effective points cost power, not truth.

Ranked are the unconstrained parameters, and the log of the estimated likelihood, which depends on the data and sees
what no parameter shows: a posterior that is the prior (Modrák et al. 2023, *Bayesian Analysis*).  Distribution
functions are judged by simultaneous bands (`ssmscan.results.uniformity`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import ndtr, ndtri, softmax

from ssmscan.certification.certificate import POWER, Calibration
from ssmscan.certification.conditional_likelihood import conditional_log_likelihood
from ssmscan.certification.exact_draws import Places, draw_exactly
from ssmscan.certification.replicates import coordinate_names
from ssmscan.inference.importance_adapt import Adaptation, Aim
from ssmscan.inference.importance_points import Operand, PointStep, first_numbers, make_points, num_lanes
from ssmscan.inference.importance_proposal import from_prior
from ssmscan.inference.importance_weights import effective
from ssmscan.inference.interrupts import interruptible
from ssmscan.inference.progress import Chunk, compile_chunk, phase
from ssmscan.model.protocols import Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.resampling import multinomial
from ssmscan.results.uniformity import difference, simultaneous_band

REPLICATES, GRID = 500, 100
ROUND, MOST_ROUNDS, POINTS = 240, 4, 320
"""Points of a round, rounds in which the proposal is found, and points of a posterior: few are as exact as many."""

NUM_PARTICLES, THRESHOLD = 32, 0.5
ESTIMATOR = ParticleFilter(NUM_PARTICLES, resampling=multinomial, threshold=THRESHOLD, summaries=())
LOG_LIKELIHOOD = "log likelihood"


class Truth(NamedTuple):
    """An exact draw as the importance sampler would have had it among its points.

    Attributes:
        ssm: the model over the data of the draw.
        z: (d,) unconstrained parameters.
        log_prior, log_law, log_likelihood: as of `importance_points.Points`.
        usable: whether all of it is finite.
    """

    ssm: StateSpaceModel
    z: jax.Array
    log_prior: jax.Array
    log_law: jax.Array
    log_likelihood: jax.Array
    usable: jax.Array


class Calibrated(NamedTuple):
    """The calibration, what it took, and how many data sets were left out."""

    calibration: Calibration | None
    seconds: float
    compile_seconds: float
    left_out: int
    interrupted: bool


@partial(jax.jit, static_argnames=("places",))
def _draw_truth(key: jax.Array, ssm: StateSpaceModel, *, places: Places) -> Truth:
    key_draw, key_filter = jax.random.split(key)
    draw = draw_exactly(key_draw, ssm, places)
    z: Theta = ssm.unconstrain(draw.theta)
    log_likelihood = conditional_log_likelihood(
        key_filter, draw.ssm, draw.theta, draw.states, num_particles=NUM_PARTICLES, threshold=THRESHOLD
    )
    flat, (_, log_prior) = ravel_pytree(z)[0], ssm.log_prior_unconstrained(z)
    return Truth(draw.ssm, flat, log_prior, ssm.log_law_unconstrained(z)[0], log_likelihood, draw.usable)


def calibrate(
    key: jax.Array,
    ssm: StateSpaceModel,
    places: Places,
    *,
    count: int,
    error_rate: float,
    deadline: Callable[[], float],
    progress: bool,
) -> Calibrated:
    """Calibrate the importance sampler on data that the model makes.

    Args:
        key: PRNG key.
        ssm: a model of few steps.
        places: how data enter it.
        count: data sets.
        error_rate: probability that a right sampler leaves one of the bands.
        deadline: called once compilation is over; returns the value of `time.perf_counter` to stop at.
        progress: whether to show it.
    """
    key, rng = as_key(key), np.random.default_rng(0)
    words = [jax.random.key_data(jax.random.fold_in(key, number)) for number in range(3)]
    positions: list[np.ndarray] = []
    sizes: list[float] = []
    left_out, interrupted, compile_seconds, began = 0, False, 0.0, time.perf_counter()
    try:
        with phase("certify: compiling the calibration", progress=progress), interruptible():
            truth = _draw_truth(jax.random.wrap_key_data(words[0]), ssm, places=places)
            step, lanes = PointStep(ESTIMATOR, num_lanes()), num_lanes()
            operand = Operand(ssm, words[1], from_prior(len(truth.z)).on_device())
            chunk = compile_chunk(step, operand, first_numbers(0, lanes), replicates=True)
        compile_seconds = time.perf_counter() - began
        began, until = time.perf_counter(), deadline()
        with phase("certify: calibration", progress=progress, total=count) as bar:
            for number in range(count):
                if time.perf_counter() > until:
                    break
                own = jax.random.fold_in(jax.random.wrap_key_data(words[2]), number)
                found = _one(own, ssm, places, chunk, rng)
                bar.update(1)
                if found is None:
                    left_out += 1
                    continue
                positions.append(found[0])
                sizes.append(found[1])
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.perf_counter() - began
    if len(positions) < 20:
        return Calibrated(None, seconds, compile_seconds, left_out, interrupted)
    names = (*coordinate_names(ssm, {}, {}), LOG_LIKELIHOOD)
    every = np.array(positions)
    bands = simultaneous_band(len(every), level=1.0 - error_rate / len(names), cells=GRID)
    differences = np.array([difference(column, bands.points) for column in every.T])
    grid = np.arange(1, GRID + 1) / GRID
    calibration = Calibration(names, every, grid, differences, bands, np.array(sizes))
    return Calibrated(calibration, seconds, compile_seconds, left_out, interrupted)


def _one(
    key: jax.Array, ssm: StateSpaceModel, places: Places, chunk: Chunk, rng: np.random.Generator
) -> tuple[np.ndarray, float] | None:
    """Return the positions of the true point among those of one posterior, and how many are effective.

    None where the data are not finite, or impossible at every draw of the prior: what is left out is decided by the
    data, and by random numbers that have nothing to do with the true point.
    """
    keys = jax.random.split(key, 3)
    truth = _draw_truth(keys[0], ssm, places=places)
    if not truth.usable:
        return None
    aim = Aim(np.inf, False, False, NUM_PARTICLES)
    try:
        found = Adaptation(as_key(keys[1]), truth.ssm, ESTIMATOR, aim, np.inf, progress=False)
        found.chunk = chunk
        found.round(from_prior(found.dimension), ROUND)
        found.require_finite()
        for number in range(1, MOST_ROUNDS + 1):
            found.refit()
            if number == MOST_ROUNDS or (found.temperature == 1.0 and number > 1):
                break
            found.round(found.proposal, ROUND)
    except ValueError:
        return None
    assert found.proposal is not None
    operand = Operand(truth.ssm, jax.random.key_data(keys[2]), found.proposal.on_device())
    made = make_points(chunk, operand, first_numbers(0, num_lanes()), POINTS, label="", progress=False, leave=False)
    if made.interrupted:
        raise KeyboardInterrupt
    points = made.points
    own = _log_weight(truth, found.proposal.log_density)
    log_weights = np.append(own, points.log_weights(found.proposal))
    quantities = np.column_stack(
        [
            np.vstack([np.asarray(truth.z, np.float64), points.z]),
            np.append(float(truth.log_likelihood), points.log_likelihood),
        ]
    )
    return weighted_positions(quantities, log_weights, rng), effective(log_weights)


def _log_weight(truth: Truth, log_density: Callable) -> float:
    """Return the log weight of the true point."""
    log_posterior = float(truth.log_prior) + float(truth.log_likelihood)
    law = log_density(np.asarray(truth.z, np.float64)[None], np.asarray(truth.log_law)[None])
    return log_posterior - float(law[0])


def weighted_positions(quantities: np.ndarray, log_weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the weight below the first row of each quantity, its own and that of ties divided at random.

    Args:
        quantities: (points, quantities).
        log_weights: (points,) up to a constant.
        rng: of the division.
    """
    if not log_weights[0] > -np.inf:
        return np.full(quantities.shape[1], np.nan)
    weights = softmax(log_weights)[:, None]
    below = np.where(quantities < quantities[:1], weights, 0.0).sum(0)
    equal = np.where(quantities == quantities[:1], weights, 0.0).sum(0)
    return below + equal * rng.random(quantities.shape[1])


def visible_shift(size: int, level: float) -> float:
    """Return the shift of a posterior, in its sds, that leaves the band of one quantity with probability `POWER`.

    By simulation: 200 samples of positions Phi(Phi^-1(v) + shift).
    """
    bands = simultaneous_band(size, level=level, cells=GRID)
    uniform = ndtri(np.random.default_rng(0).random((200, size)))

    def power(shift: float) -> float:
        found = np.array([difference(ndtr(row + shift), bands.points) for row in uniform])
        return float(((found < bands.lower) | (found > bands.upper)).any(axis=1).mean())

    low, high = 0.0, 3.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high
