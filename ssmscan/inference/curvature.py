r"""Standard errors at a maximum: the observed information from differences of averaged scores.

With scores :math:`s_k(z) = \nabla \log \hat Z_k(z)` of filters whose keys k are the same at every z,

.. math::  J_{ij} = -\frac{1}{K} \sum_k \frac{s_{k,i}(z + h_j e_j) - s_{k,i}(z - h_j e_j)}{2 h_j},
           \qquad \mathrm{Cov}(\hat z) = J^{-1}.

Common keys take out most of the noise; resampling leaves some, which falls with :math:`h_j`, while the error of the
difference grows with its square: h is half a standard error, found by a first pass.  Leaving out groups of keys
(the jackknife) says how noisy the standard errors are.  On the scale of the model they follow by the delta method.

Spall (2005), *J. Comput. Graph. Stat.* 14(4), 889-909, on the information from differences of noisy gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from ssmscan.model.protocols import Model, Theta
from ssmscan.particles.estimators import Estimator
from ssmscan.particles.filter_step import FAULTY

FIRST_STEP, LEAST_STEP, LARGEST_STEP = 0.1, 0.02, 0.5
GROUPS = 8

Objective = tuple[jax.Array, tuple[jax.Array, jax.Array]]
"""What is maximised; and beside it the log likelihood, and whether a log weight of the filter was not a number."""


def objective(key: jax.Array, ssm: Model, z: Theta, estimator: Estimator, prior: bool) -> Objective:
    """Estimate log p(y | theta), plus log p(theta) if `prior`."""
    theta = ssm.constrain(z)
    found = estimator.estimate(key, ssm, theta)
    value = found.log_likelihood + ssm.log_prior(theta) if prior else found.log_likelihood
    return value, (found.log_likelihood, found.status == FAULTY)


class Probed(NamedTuple):
    """Filters with one key at M points.

    Attributes:
        objective: (M,) what is maximised.
        log_likelihood: (M,).
        faulty: (M,) whether a log weight was not a number.
        gradient: (M, d), or None.
    """

    objective: jax.Array
    log_likelihood: jax.Array
    faulty: jax.Array
    gradient: jax.Array | None


@dataclass(frozen=True)
class ProbeStep:
    """One key at every point; see `ssmscan.inference.progress.Step`. The operand is (ssm, points)."""

    estimator: Estimator
    prior: bool
    gradient: bool

    def __call__(self, operand: tuple[Model, Theta], key: jax.Array) -> tuple[jax.Array, Probed]:
        """Run the filters; points have M in front."""
        ssm, points = operand
        key, own = jax.random.split(key)

        def value(z: Theta) -> Objective:
            return objective(own, ssm, z, self.estimator, self.prior)

        def at(z: Theta) -> Probed:
            if not self.gradient:
                total, (log_likelihood, faulty) = value(z)
                return Probed(total, log_likelihood, faulty, None)
            (total, (log_likelihood, faulty)), gradient = jax.value_and_grad(value, has_aux=True)(z)
            return Probed(total, log_likelihood, faulty, ravel_pytree(gradient)[0])

        return key, jax.vmap(at)(points)


def displaced(z: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the 2d points z + h_j e_j and then z - h_j e_j, (2d, d)."""
    return np.concatenate([z + np.diag(steps), z - np.diag(steps)])


def information(scores: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Average differences of scores (K, 2d, d) at `displaced` points into the symmetric information (d, d).

    Scores that are NaN are left out; where all are, so is the information.
    """
    d = len(steps)
    there = ~np.isnan(scores)
    count = there.sum(axis=0)
    mean = np.where(count, np.where(there, scores, 0.0).sum(axis=0), np.nan) / np.maximum(count, 1)
    columns = -(mean[:d] - mean[d:]) / (2 * steps[:, None])
    return (columns + columns.T) / 2


def next_steps(scores: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Choose displacements of half a standard error, (d,)."""
    curvature = np.diag(information(scores, steps))
    wanted = 0.5 / np.sqrt(np.where(curvature > 0, curvature, np.nan))
    return np.clip(np.where(np.isfinite(wanted), wanted, LARGEST_STEP), LEAST_STEP, LARGEST_STEP)


def covariance(found: np.ndarray) -> np.ndarray:
    """Invert an information matrix; NaN where it is not positive definite."""
    if not np.isfinite(found).all() or np.linalg.eigvalsh(found).min(initial=np.inf) <= 0:
        return np.full_like(found, np.nan)
    return np.linalg.inv(found)


def relative_noise(scores: np.ndarray, steps: np.ndarray) -> float:
    """Relative Monte Carlo error of the standard errors, the largest, by leaving out groups of keys."""
    groups = np.array_split(np.arange(len(scores)), min(GROUPS, len(scores)))
    if len(groups) < 2:
        return np.nan
    left = [np.delete(scores, group, axis=0) for group in groups]
    errors = np.sqrt(np.array([np.diag(covariance(information(part, steps))) for part in left]))
    spread = np.sqrt((len(groups) - 1) * np.var(errors, axis=0))
    return float(np.max(spread / errors.mean(axis=0)))
