"""The approximation of a linear Gaussian model, which is no approximation: the Kalman filter and smoother.

Any path will do, so nothing is searched.  One pass finds the smoothed path, a second goes back around it: there all
that is quadratic is small, which is what keeps the digits of float32.  Derivatives hold the smoothed noise fixed and
go through the second pass alone, for the value does not depend on it.

Where the quadratic form is that of no normal law, because a factor of the model's own grows with the states, there is
no likelihood: NaN.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.gaussian.backward import backward
from ssmscan.model.gaussian.expansion import expand
from ssmscan.model.gaussian.fit import Fit, result
from ssmscan.model.gaussian.search import Pass, follow, unmoved
from ssmscan.model.gaussian.vectors import VectorModel


def fit_linear(model: VectorModel) -> Fit:
    """Compute the smoothing law of a linear Gaussian model, and its likelihood."""
    coordinates = model.coordinates
    initial = jnp.zeros(coordinates.initial_size)
    noise = jnp.zeros((model.num_steps, coordinates.step_size))
    near = _around(model, initial, noise)
    path = follow(model, near.path, near.first, near.gains, jnp.ones(()))
    now = _around(model, *lax.stop_gradient((path.initial_noise, path.noise)))
    return result(model, now, jnp.full((), 2, np.int32), jnp.ones((), bool), jnp.isfinite(jnp.sum(now.path.terms)))


def _around(model: VectorModel, initial: Array, noise: Array) -> Pass:
    """Go back around the path of some noise."""
    path = follow(model, *unmoved(model, initial, noise), jnp.ones(()))
    begin, steps = expand(model, path)
    first, gains = backward(begin, steps, (begin.full, steps.full), path, jnp.zeros(()))
    least = jnp.minimum(first.least_pivot, jnp.min(gains.least_pivot))
    return Pass(path, first, gains, least > 0.0, least)
