r"""The exact smoothing law, where a model has one: independent draws, means and standard deviations.

    linear Gaussian         the feedback law of one pass of `ssmscan.model.gaussian`, a Kalman smoother in another form
    finite discrete states  forward filtering, backward sampling (`ssmscan.model.discrete.forward_backward`)

Each loop of a model is looked at by itself, from its program alone.  A model that mixes the two kinds of states in one
loop has no exact law that could be computed: given the regimes it is Gaussian, and there are too many of their paths.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.arguments import refusal
from ssmscan.errors import ModelError
from ssmscan.model.gaussian.linear import fit_linear
from ssmscan.model.gaussian.moments import draw_path, moments
from ssmscan.model.gaussian.vectors import in_vectors
from ssmscan.model.keys import loop_keys
from ssmscan.model.protocols import Dynamics, Model, Theta, Values
from ssmscan.model.sites import Site
from ssmscan.model.statespace.discrete_sum import DiscreteSum
from ssmscan.model.statespace.element_dynamics import join_values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.linear_gaussian import exactness
from ssmscan.particles.panels import each_filter


class ExactLaw(NamedTuple):
    """Draws from the smoothing law, and what is known of it without them.

    Attributes:
        log_likelihood: () log p(y | theta).
        paths: by site, (num_paths, T, ...) for those of the loop.
        mean, sd: by site, of those whose moments are known.
    """

    log_likelihood: Array
    paths: Values
    mean: Values
    sd: Values


def has_exact_law(ssm: Model) -> bool:
    """Tell whether every loop of a model is linear and Gaussian, or of finite discrete states alone."""
    return isinstance(ssm, StateSpaceModel) and not any(_refusal(loop) for loop in ssm.loops)


def exact_law(key: Array, ssm: Model, theta: Theta, *, num_paths: int) -> ExactLaw:
    """Draw from the exact smoothing law.

    Args:
        key: a typed key.
        ssm: the model.
        theta: the parameters, canonical.
        num_paths: number of independent draws.

    Raises:
        ModelError: the model has no exact law; the message says why.
    """
    if not isinstance(ssm, StateSpaceModel):
        raise TypeError(refusal("ssm", "what ssmscan.trace returned", ssm))
    if why := next(filter(None, map(_refusal, ssm.loops)), ""):
        raise ModelError(
            f"the states have no exact smoothing law, as the model is neither linear and Gaussian nor of finite "
            f"discrete states alone: {why}. Use BackwardSimulation() or MCMCBackward(), or Smoother() without a "
            "method, which chooses between them."
        )
    found = [
        (_gaussian if exactness(loop.program).exact else _finite)(own, loop, theta, num_paths=num_paths)
        for own, loop in zip(loop_keys(key, len(ssm.loops)), ssm.loops)
    ]
    total = sum((law.log_likelihood for law in found[1:]), found[0].log_likelihood)
    return ExactLaw(total, *({k: x for law in found for k, x in law[part].items()} for part in (1, 2, 3)))


def _refusal(loop: StateSpaceModel) -> str:
    """Return why a loop has no exact law, a clause; empty where it has one."""
    found, marginal = exactness(loop.program), loop.program.marginal
    if found.exact or isinstance(marginal, DiscreteSum) and not marginal.noise:
        return ""
    if isinstance(marginal, DiscreteSum):
        return f"{', '.join(map(repr, marginal.noise))} is continuous beside discrete states"
    return found.why


@partial(jax.jit, static_argnames=("num_paths",))
def _gaussian(key: Array, loop: StateSpaceModel, theta: Theta, *, num_paths: int) -> ExactLaw:
    def of_one(key: Array, dynamics: Dynamics) -> ExactLaw:
        model = in_vectors(dynamics)
        found = fit_linear(model)
        law = moments(model, found)
        paths = jax.vmap(lambda own: draw_path(own, model, found)[0])(jax.random.split(key, num_paths))
        # What the model computes of its states need not be linear in them.
        mean = {site.name: law.mean[site.name] for site in (*loop.initial, *loop.innovations)}
        sd = {name: jnp.sqrt(_diagonal(law.covariance[name])).reshape(x.shape) for name, x in mean.items()}
        return ExactLaw(found.log_likelihood, paths, mean, sd)

    found = each_filter(of_one, loop, theta, key, together=True)
    joined = (join_values(part, loop.panel) for part in found[1:])
    return ExactLaw(jnp.sum(found.log_likelihood) + loop.log_static(theta), *joined)


def _diagonal(x: Array) -> Array:
    """Return the diagonals of (..., k, k) covariances; rounding may leave one below zero."""
    return jnp.maximum(jnp.diagonal(x, axis1=-2, axis2=-1), 0.0)


@partial(jax.jit, static_argnames=("num_paths",))
def _finite(key: Array, loop: StateSpaceModel, theta: Theta, *, num_paths: int) -> ExactLaw:
    paths = jax.vmap(lambda own: loop.states_from_noise(theta, {}, own))(jax.random.split(key, num_paths))
    probabilities = loop.posterior_states(theta, {}, key).probabilities
    sites = {site.name: site for site in loop.summed_out}
    of_site = {name: _moments(sites[name], shares) for name, shares in probabilities.items()}
    mean, sd = ({name: found[part] for name, found in of_site.items()} for part in (0, 1))
    return ExactLaw(loop.log_likelihood_given_noise(theta, {}), paths, mean, sd)


def _moments(site: Site, probabilities: Array) -> tuple[Any, Any]:
    """Return mean and standard deviation of a discrete site from the probabilities (..., values) of its values."""
    values = jnp.asarray(site.values, probabilities.dtype)
    mean = jnp.tensordot(probabilities, values, 1)
    away = (jnp.reshape(values, (1,) * mean.ndim + (-1,)) - mean[..., None]) ** 2
    return mean, jnp.sqrt(jnp.sum(probabilities * away, axis=-1))
