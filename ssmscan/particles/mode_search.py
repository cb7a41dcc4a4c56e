r"""Whether the states given all data have several modes: searches from random paths.

The Gaussian approximation (`ssmscan.model.gaussian`) is found by climbing from the prior path.  Here the climb starts
at `STARTS` independent draws of the prior's noise.  On a log-concave model all end at the same path.  Where one ends at
another, whose Laplace approximation of the likelihood is within `COMPARABLE` of the best on the log scale, the one that
is used leaves out mass that is not negligible.  A mode whose basin has a share s of the prior paths is missed with
probability :math:`(1 - s)^{STARTS}`, one of two equal ones in 3 of 100 cases.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.model.gaussian.fit import fit_vectors
from ssmscan.model.gaussian.vectors import NoiseShapes, in_vectors
from ssmscan.model.protocols import Dynamics, Model, Theta, Values
from ssmscan.particles.loop import each
from ssmscan.particles.panels import each_filter

STARTS = 6
COMPARABLE = 5.0
APART = 0.5
"""Noise of two modes differs by more than this somewhere; that of one, found twice, by rounding."""


class Mode(NamedTuple):
    """Where a search from a random path ended.

    Attributes:
        noise: (m,) all noise of the path.
        log_likelihood: () its Laplace approximation.
        settled: () bool, whether it is a mode.
    """

    noise: Array
    log_likelihood: Array
    settled: Array


@jax.jit
def search_modes(key: Array, ssm: Model, theta: Theta) -> list[Mode | None]:
    """Search for the mode of each loop from random paths; the elements of a panel in front, then the searches."""
    return [each_filter(_modes, loop, theta, key) for loop in ssm.loops]


def _modes(key: Array, dynamics: Dynamics) -> Mode | None:
    model = in_vectors(dynamics)
    if model.exact:
        return None
    coordinates, steps = model.coordinates, model.num_steps

    def search(key: Array) -> Mode:
        first, rest = jax.random.split(key)
        start = {**_normal(first, coordinates.initial), **_normal(rest, coordinates.step, steps)}
        found = fit_vectors(model, start=start)
        noise = jnp.concatenate([found.initial_mean, found.mean.ravel()])
        return Mode(noise, found.log_likelihood, found.converged & found.finite)

    return each(search, jax.random.split(key, STARTS))


def _normal(key: Array, shapes: NoiseShapes, *lead: int) -> Values:
    keys = jax.random.split(key, max(len(shapes), 1))
    return {name: jax.random.normal(one, (*lead, *shape)) for one, (name, shape) in zip(keys, shapes)}


def count_modes(found: Mode | None) -> tuple[int, int]:
    """Count the searches that settled, and those that did so at a mode beside the best that is not negligible."""
    if found is None:
        return 0, 0
    settled = np.reshape(found.settled, (-1, STARTS)) & np.isfinite(found.log_likelihood).reshape(-1, STARTS)
    height = np.where(settled, np.reshape(found.log_likelihood, (-1, STARTS)), -np.inf)
    noise = np.reshape(found.noise, (*height.shape, -1))
    best = np.take_along_axis(noise, height.argmax(1)[:, None, None], 1)
    apart = np.abs(noise - best).max(2, initial=0.0) > APART
    near = height > height.max(1, keepdims=True) - COMPARABLE
    return int(settled.sum()), int((settled & apart & near).sum())
