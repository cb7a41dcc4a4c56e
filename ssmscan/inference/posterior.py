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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from ssmscan.inference.progress import Timed, call_timed

Theta = dict[str, jax.Array]

STATES_STREAM = 2**32 - 1
"""What is folded into the key of a run to draw discrete states; the run itself uses the small numbers."""

BATCH = 64


class Position(NamedTuple):
    """A point of the noise-outside space.

    Attributes:
        parameters: site name -> unconstrained value.
        noise: site name -> standard normal base noise, (T, ...) for sites in the loop.
    """

    parameters: Theta
    noise: Theta


def log_reference(ssm: Any, position: Position) -> jax.Array:
    """Evaluate the log density of what `sample_reference` draws, normalised."""
    log_law, _ = ssm.log_law_unconstrained(position.parameters)
    leaves = jax.tree.leaves(position.noise)
    return log_law + sum((norm.logpdf(leaf).sum() for leaf in leaves), jnp.zeros_like(log_law))


def log_likelihood(ssm: Any, position: Position) -> jax.Array:
    """Evaluate log L, everything that is not the reference."""
    _, reweighting = ssm.log_law_unconstrained(position.parameters)
    return ssm.log_likelihood_given_noise(ssm.constrain(position.parameters), position.noise) + reweighting


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


class Paths(NamedTuple):
    """State paths of some draws.

    Attributes:
        states: initial sites, innovations and deterministics of the loop, (chains, paths, ...).
        probabilities: discrete site that is summed out -> (T, *shape, values), or (*shape, values) for an
            initial site: the posterior probability of each of its values, averaged over the draws.
    """

    states: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]


@jax.jit
def _states_of(keys: jax.Array, ssm: Any, theta: Theta, noise: Theta, weights: jax.Array) -> Any:
    """States of draws in batches (B, b, ...); probabilities summed over each batch with weights."""

    def batch(inputs: tuple) -> tuple:
        keys, theta, noise, weights = inputs
        found = jax.vmap(lambda key, *pair: ssm.posterior_states(*pair, key))(keys, theta, noise)
        return found.states, jax.tree.map(lambda p: jnp.tensordot(weights, p, 1), found.probabilities)

    # A batch at a time: all at once would hold every carry of every draw.
    return jax.lax.map(batch, (keys, theta, noise, weights))


def state_paths(key: jax.Array, ssm: Any, draws: Any, noise: Any, kept: np.ndarray) -> Timed:
    """Rebuild the state paths of some draws; discrete states that are summed out are drawn.

    Args:
        key: typed PRNG key of the discrete states.
        ssm: the model.
        draws: parameters, (chains, draws, ...).
        noise: base noise, (chains, draws, ...).
        kept: (paths,) the draws wanted.

    Returns:
        `Paths`, and the time it took.
    """
    picked = jax.tree.map(lambda leaf: np.asarray(leaf)[:, kept], (draws, noise))
    lead = jax.tree.leaves(picked)[0].shape[:2]
    count = lead[0] * lead[1]
    size = max(min(BATCH, count), 1)
    batches = -(-count // size)
    # The last batch is filled up with the first draw.
    order = np.where(np.arange(batches * size) < count, np.arange(batches * size), 0)

    def batched(leaf: np.ndarray) -> np.ndarray:
        return leaf.reshape(-1, *leaf.shape[2:])[order].reshape(batches, size, *leaf.shape[2:])

    real = np.arange(batches * size).reshape(batches, size) < count
    weights = np.asarray(real / max(count, 1), jnp.result_type(float))
    keys = jax.random.split(key, (batches, size))
    timed = call_timed(_states_of, keys, ssm, *jax.tree.map(batched, picked), weights)
    paths, sums = timed.value

    def unbatched(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return leaf.reshape(-1, *leaf.shape[2:])[:count].reshape(*lead, *leaf.shape[2:])

    states = {name: unbatched(values) for name, values in paths.items()}
    probabilities = {name: np.asarray(values).sum(0) for name, values in sums.items()}
    return timed._replace(value=Paths(states, probabilities))
