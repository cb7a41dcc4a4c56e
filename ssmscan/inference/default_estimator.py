"""The estimator of the likelihood with which an engine begins, where it is not told one.

`DiscreteFilter` where every state has finitely many values, so that nothing need be drawn: with as many particles as
there are carries that differ, if these are few, where it is exact.  The bootstrap filter elsewhere; how many particles
and which proposal is for the pilot of the engine to find.
"""

from __future__ import annotations

import jax

from ssmscan.inference.sizing import FEWEST
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.discrete_filter import DiscreteFilter, num_carries
from ssmscan.particles.estimators import Estimator
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.finite_states import can_enumerate

PLAIN = ParticleFilter(100, summaries=())
"""Where states are drawn."""

DISCRETE = "DiscreteFilter, as the states have finitely many values: nothing else was tried"
"""Why no proposal is looked for."""

NOT_FEW = DiscreteFilter(4 * FEWEST)
"""Where more carries differ than the fewest particles that are ever tried."""

STARTS = 4
"""Draws of the parameters at which carries are counted."""


_drawn = jax.jit(lambda key, ssm: ssm.sample_start(key))


def default_estimator(ssm: StateSpaceModel) -> Estimator:
    """Return the kind of estimator that suits a model, with any number of particles."""
    return NOT_FEW if can_enumerate(ssm) else PLAIN


def begin_with(ssm: StateSpaceModel, given: Estimator | None, *, num_particles: int | None, most: int) -> Estimator:
    """Return the estimator that an engine begins with.

    Args:
        ssm: the model.
        given: what the user said, None for the one that suits the model.
        num_particles: how many, None where that is to be found.
        most: no more than these where it is.
    """
    estimator = given or default_estimator(ssm)
    if given is None and num_particles is None and isinstance(estimator, DiscreteFilter):
        keys = [jax.random.key(number) for number in range(STARTS)]
        count = max(num_carries(key, ssm, _drawn(key, ssm), at_most=FEWEST) for key in keys)
        if count <= FEWEST:
            estimator = DiscreteFilter(max(count, 1))
    return estimator.with_num_particles(num_particles or min(estimator.num_particles, most))


def why(given: Estimator | None, estimator: Estimator) -> str:
    """Return why an engine begins with an estimator and looks for no other proposal; empty where it may look."""
    return DISCRETE if given is None and isinstance(estimator, DiscreteFilter) else ""
