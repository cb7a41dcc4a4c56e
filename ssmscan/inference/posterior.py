r"""The posterior with the noise outside the loop: what gradient engines sample.

With unconstrained parameters z and base noise e of all innovations and initial states, the model is

.. math:: \pi(z, e) \propto p(\theta(z)) \, |d\theta/dz| \; \prod_i N(e_i; 0, 1) \; L(\theta, e),

a *reference* (prior of the parameters, standard normal noise) times a likelihood L that includes the observed
sites the loop does not reach and the corrections of inexact noise maps.  NUTS samples the product; tempering
raises L alone to a power.  A point is the pair ``Position(parameters, noise)``.

Papaspiliopoulos, Roberts, Skoeld (2007), *Statistical Science* 22(1), 59-73, on why non-centring mixes well
where data are weak; with very informative observations the states are better sampled as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from ssmscan.inference.progress import Timed, call_timed

Theta = dict[str, jax.Array]


class Position(NamedTuple):
    """A point of the noise-outside space.

    Attributes:
        parameters: site name -> unconstrained value.
        noise: site name -> standard normal base noise, (T, ...) for sites in the loop.
    """

    parameters: Theta
    noise: Theta


def log_reference(ssm: Any, position: Position) -> jax.Array:
    """Evaluate the log density of the prior of z and of the noise, normalised."""
    _, log_prior = ssm.log_prior_unconstrained(position.parameters)
    leaves = jax.tree.leaves(position.noise)
    return log_prior + sum((norm.logpdf(leaf).sum() for leaf in leaves), jnp.zeros_like(log_prior))


def log_likelihood(ssm: Any, position: Position) -> jax.Array:
    """Evaluate log L, everything that is not the reference."""
    return ssm.log_likelihood_given_noise(ssm.constrain(position.parameters), position.noise)


def log_posterior(ssm: Any, position: Position) -> jax.Array:
    """Evaluate the unnormalised log density of the posterior."""
    return log_reference(ssm, position) + log_likelihood(ssm, position)


def sample_noise(key: jax.Array, ssm: Any) -> Theta:
    """Draw the base noise of one whole series."""
    specs = ssm.smooth_noise
    keys = jax.random.split(key, max(len(specs), 1))
    return {name: jax.random.normal(k, spec.shape) for k, (name, spec) in zip(keys, specs.items())}


def sample_reference(key: jax.Array, ssm: Any) -> Position:
    """Draw from the prior of z and the noise."""
    key_parameters, key_noise = jax.random.split(key)
    return Position(ssm.unconstrain(ssm.sample_prior(key_parameters)), sample_noise(key_noise, ssm))


@jax.jit
def _states_of(ssm: Any, theta: Theta, noise: Theta) -> Theta:
    # A batch at a time: all at once would hold every carry of every draw.
    return jax.lax.map(lambda pair: ssm.states_from_noise(*pair), (theta, noise), batch_size=64)


def state_paths(ssm: Any, draws: Any, noise: Any, kept: np.ndarray) -> Timed:
    """Rebuild the state paths of some draws.

    Args:
        ssm: the model.
        draws: parameters, (chains, draws, ...).
        noise: base noise, (chains, draws, ...).
        kept: (paths,) the draws wanted.

    Returns:
        Initial sites, innovations and deterministics of the loop, (chains, paths, ...), and the time it took.
    """
    picked = jax.tree.map(lambda leaf: leaf[:, kept], (draws, noise))
    lead = jax.tree.leaves(picked)[0].shape[:2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), picked)
    timed = call_timed(_states_of, ssm, *flat)
    states = {n: np.asarray(values).reshape(*lead, *values.shape[1:]) for n, values in timed.value.items()}
    return timed._replace(value=states)
