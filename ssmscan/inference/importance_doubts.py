"""Why the points of the importance sampler should not be trusted, with what to do about it.

An index of the tail of the weights, `Result.tail_index`, says the rest.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from ssmscan.health import Condition, Reason, Section
from ssmscan.inference.common_doubts import not_numbers
from ssmscan.inference.importance_points import Points
from ssmscan.inference.importance_weights import effective
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import Estimator
from ssmscan.particles.filter_step import FAULTY
from ssmscan.results.table import significant

FEW_EFFECTIVE = 100
"""Fewer effective points than these say little."""

HEAVIEST = 0.1
"""A share of all weight that one point should not have."""

FAULTY_SHARE, FAULTY_WEIGHT = 0.01, 0.001
"""Shares of the points, and of all weight, from which filters without a number are said; fewer are of the defence."""

WAYS = "Use ssmscan.NUTS or ssmscan.PMMH, a prior that says more, or more points, num_points."


def doubts(
    points: Points, log_weights: np.ndarray, noise: tuple[Reason, ...], temperature: float
) -> tuple[Reason, ...]:
    """Return what speaks against points that there are.

    Args:
        points: the points.
        log_weights: (n,) their weights.
        noise: what is said of the noise of the estimates.
        temperature: at which the adaptation ended.
    """
    if not len(log_weights):
        return ()
    if not np.isfinite(log_weights).any():
        sentence = "No point has any weight: the proposal missed the posterior."
        return (Reason(sentence, "Use another engine.", Section.POINTS, Condition.UNUSABLE),)
    found = list(noise)
    if temperature < 1:
        sentence = f"The proposal did not arrive: its rounds ended at temperature {significant(temperature)} of 1."
        found.append(Reason(sentence, WAYS, Section.POINTS))
    top, size = float(np.exp(log_weights.max() - logsumexp(log_weights))), effective(log_weights)
    d = points.z.shape[1]
    where = f"in {d} dimension{'s' * (d > 1)}"
    if top > HEAVIEST:
        sentence = (
            f"One of {len(log_weights):,} points has {100 * top:.0f} % of all weight: {where} the proposal does not "
            "cover the posterior."
        )
        found.append(Reason(sentence, WAYS, Section.POINTS))
    elif size < FEW_EFFECTIVE:
        sentence = f"Only {size:.0f} of {len(log_weights):,} points are effective, {where}."
        found.append(Reason(sentence, WAYS, Section.POINTS))
    return tuple(found)


def faults(points: Points, log_weights: np.ndarray, ssm: StateSpaceModel, estimator: Estimator) -> tuple[Reason, ...]:
    """Return what to say of filters that met log weights that are not numbers, unless a few far away did."""
    faulty = np.flatnonzero(points.status == FAULTY)
    if not len(faulty):
        return ()
    carried = np.exp(logsumexp(log_weights[faulty]) - logsumexp(log_weights))
    if len(faulty) < FAULTY_SHARE * len(points.z) and not carried > FAULTY_WEIGHT:
        return ()
    i = int(faulty[np.argmax(log_weights[faulty])])
    theta = {name: jnp.asarray(leaf[i]) for name, leaf in points.theta.items()}
    said = estimator.describe(as_key(jnp.asarray(points.filter_key[i])), ssm, theta)
    return (not_numbers(f"{len(faulty):,} of {len(points.z):,} points come from", f"Point {i}: {said}"),)
