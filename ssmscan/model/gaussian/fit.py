r"""The Gaussian approximation of a model at theta: gains, value function, log likelihood.

    found = fit_vectors(in_vectors(ssm.at(theta)))
    found.log_likelihood, found.converged, found.gains.scale_tril

One word says what the log likelihood is.  *Exact*: the model is linear and Gaussian, which is proved from its jaxprs,
and any path gives it.  *Laplace*: the path is the mode, and the curvature is the whole one and that of a maximum.
*Surrogate*: all else.

Derivatives in whatever the dynamics depend on hold the path that the search found fixed and go through two more
passes: one Newton step from it, and the expansion there.  At the mode that step has the derivative of the mode itself,
by the implicit function theorem.  Nothing of it is compiled where no derivative is taken.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.dtypes import float0

from ssmscan.model.gaussian.expansion import expand
from ssmscan.model.gaussian.law import Fit, result
from ssmscan.model.gaussian.linear import fit_linear
from ssmscan.model.gaussian.search import NUDGE, back, follow, search, unmoved
from ssmscan.model.gaussian.vectors import VectorModel
from ssmscan.model.protocols import Values

MAX_PASSES = 50


def fit_vectors(model: VectorModel, *, start: Values | None = None, max_passes: int = MAX_PASSES) -> Fit:
    """Approximate the smoothing law of a model in vectors.

    Args:
        model: the model at theta.
        start: noise by site, of the steps with T in front, from which to search; None is the prior path moved a little.
        max_passes: largest number of passes.
    """
    if model.exact:
        return fit_linear(model)
    initial, noise = model.in_order(prior_path(model) if start is None else start)
    return _fitted(model, initial, noise, start is None, max_passes)


def prior_path(model: VectorModel) -> Values:
    """Return the noise of the prior path moved a little, by site."""
    coordinates = model.coordinates
    noise = NUDGE * _pattern(model.num_steps * coordinates.step_size).reshape(model.num_steps, -1)
    initial = NUDGE * _pattern(coordinates.initial_size)
    return model.by_site(initial, noise)


def _pattern(size: int) -> Array:
    """Return numbers of mixed sign and size about one."""
    return jnp.cos(jnp.arange(size, dtype=float) + 0.5)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _fitted(model: VectorModel, initial: Array, noise: Array, nudged: bool, max_passes: int) -> Fit:
    found = search(model, initial, noise, nudged=nudged, max_passes=max_passes)
    return result(model, found.now, found.passes, found.settled, found.finite)


@_fitted.defjvp
def _(nudged: bool, max_passes: int, primals: tuple, tangents: tuple) -> tuple[Fit, Fit]:
    model, initial, noise = primals
    found = _fitted(model, initial, noise, nudged, max_passes)
    whole = jnp.ones(())

    def last(model: VectorModel) -> Fit:
        nominal = unmoved(model, found.initial_mean, found.mean)
        path = follow(model, *nominal, jnp.ones(()))
        now = back(expand(model, path), path, found.definite.astype(whole.dtype), whole)
        path = follow(model, path, now.first, now.gains, whole)
        now = back(expand(model, path), path, found.definite.astype(whole.dtype), whole)
        return result(model, now, found.passes, found.converged, found.finite)

    _, tangent = jax.jvp(last, (model,), (tangents[0],))
    return found, jax.tree.map(_real_tangent, found, tangent)


def _real_tangent(value: Array, tangent: Array) -> Array | np.ndarray:
    """Return a tangent as JAX wants it: that of an integer has no type of its own."""
    return tangent if jnp.issubdtype(value.dtype, jnp.inexact) else np.zeros(value.shape, float0)
