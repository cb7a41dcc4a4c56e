r"""The posterior with the noise outside the loop: what gradient engines sample.

With unconstrained parameters z and base noise e of all innovations and initial states, the model is

.. math:: \pi(z, e) \propto p(\theta(z)) \, |d\theta/dz| \; \prod_i N(e_i; 0, 1) \; L(\theta, e),

a *reference* (prior of the parameters, standard normal noise) times a likelihood L that includes the observed
sites the loop does not reach, the corrections of inexact noise maps, and what a mask or a scale makes of a prior:
the reference is the law that prior draws have.  NUTS samples the product; tempering
raises L alone to a power.  A point is the pair ``Position(parameters, noise)``.

Papaspiliopoulos, Roberts, Skoeld (2007), *Statistical Science* 22(1), 59-73, on why non-centring mixes well
where data are weak; with very informative observations the states are better sampled as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from ssmscan.model.protocols import Theta, Values
from ssmscan.model.statespace.front import StateSpaceModel


class Position(NamedTuple):
    """A point of the noise-outside space.

    Attributes:
        parameters: site name -> unconstrained value.
        noise: site name -> standard normal base noise, (T, ...) for sites in the loop.
    """

    parameters: Theta
    noise: Values


def log_reference(ssm: StateSpaceModel, position: Position) -> jax.Array:
    """Evaluate the log density of what `sample_reference` draws, normalised."""
    log_law, _ = ssm.log_law_unconstrained(position.parameters)
    leaves = jax.tree.leaves(position.noise)
    return log_law + sum((norm.logpdf(leaf).sum() for leaf in leaves), jnp.zeros_like(log_law))


def log_likelihood(ssm: StateSpaceModel, position: Position) -> jax.Array:
    """Evaluate log L, everything that is not the reference."""
    _, reweighting = ssm.log_law_unconstrained(position.parameters)
    return ssm.log_likelihood_given_noise(ssm.constrain(position.parameters), position.noise) + reweighting


def log_posterior(ssm: StateSpaceModel, position: Position) -> jax.Array:
    """Evaluate the unnormalised log density of the posterior."""
    return log_reference(ssm, position) + log_likelihood(ssm, position)


def sample_noise(key: jax.Array, ssm: StateSpaceModel) -> Values:
    """Draw the base noise of one whole series."""
    specs = ssm.smooth_noise
    keys = jax.random.split(key, max(len(specs), 1))
    return {name: jax.random.normal(k, spec.shape) for k, (name, spec) in zip(keys, specs.items())}


def num_coordinates(ssm: StateSpaceModel) -> int:
    """Count the coordinates of a point; none are left where a model has no parameters and its states are summed out."""
    shapes = jax.eval_shape(lambda: sample_reference(jax.random.key(0), ssm))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def sample_reference(key: jax.Array, ssm: StateSpaceModel) -> Position:
    """Draw from the prior of z and the noise."""
    key_parameters, key_noise = jax.random.split(key)
    return Position(ssm.unconstrain(ssm.sample_prior(key_parameters)), sample_noise(key_noise, ssm))
