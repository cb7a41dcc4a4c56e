"""The Gaussian approximation as arrays: `Fit`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.model.gaussian import algebra
from ssmscan.model.gaussian.backward import Gains
from ssmscan.model.gaussian.search import Pass
from ssmscan.model.gaussian.vectors import VectorModel
from ssmscan.model.protocols import PyTree


class Fit(NamedTuple):
    """A Gaussian approximation of the smoothing law; of one particle, of one loop or one element of a panel.

    Attributes:
        initial_mean: (m_0,) mean of the noise of the start.
        initial_scale_tril: (m_0, m_0) lower triangular factor of its covariance.
        mean: (T, m) mean of the noise of each step at the nominal carry.
        gains: feedback, covariance and value function of each step, T in front.
        carries: (T + 1, d) nominal carries, before each step and at the end.
        carry_trees: the same before each step as the model has them, with leaves that are not coordinates.
        log_likelihood: () log p(y | theta) of the loop, as exact as the word says.
        increments: (T + 1,) its parts, of the start first; what is ahead is in them.
        passes: () int32, how many it took.
        converged: () bool, whether the path is the mode to rounding.
        definite: () bool, whether the curvature is the whole one, and that of a maximum.
        finite: () bool, whether the path has a finite log density.
    """

    initial_mean: Array
    initial_scale_tril: Array
    mean: Array
    gains: Gains
    carries: Array
    carry_trees: PyTree
    log_likelihood: Array
    increments: Array
    passes: Array
    converged: Array
    definite: Array
    finite: Array


def result(model: VectorModel, now: Pass, passes: Array, converged: Array, finite: Array) -> Fit:
    """Return what is known after the last pass."""
    path, of_carry = now.path, model.coordinates.of_carry
    before = jax.vmap(of_carry, axis_size=model.num_steps)(path.carries)
    increments = jnp.concatenate([now.first.increment[None], now.gains.increment])
    return Fit(
        initial_mean=path.initial_noise + now.first.change,
        initial_scale_tril=now.first.scale_tril,
        mean=path.noise + now.gains.change,
        gains=now.gains,
        carries=jnp.concatenate([before, of_carry(path.last)[None]]),
        carry_trees=path.carries,
        log_likelihood=algebra.total(increments),
        increments=increments,
        passes=passes,
        converged=converged,
        definite=now.definite,
        finite=finite,
    )
