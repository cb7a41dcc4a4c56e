r"""The step of particle marginal Metropolis-Hastings, exact for any number of particles.

The state of the chain is (z, Z) with unconstrained parameters z and the *stored* estimate Z of their likelihood.
A step proposes z' = z + S u, u ~ N(0, I), asks the estimator at theta(z') for a fresh unbiased estimate Z', and accepts
with probability

.. math:: \min\left(1, \frac{p(\theta') |d\theta'/dz'| \, \hat Z'}{p(\theta) |d\theta/dz| \, \hat Z}\right).

Z is never estimated again: that is what makes the posterior of theta exact at any N (Andrieu, Doucet &
Holenstein 2010, *JRSS B* 72(3), section 2.4.2 and theorem 4).  A state path comes from the accepted filter run:
its key is kept, the run is made again, and a particle is drawn from its final weights and followed to the start.

In warm-up S follows the robust adaptive Metropolis of Vihola (2012, *Stat. Comput.* 22, eq. 1),

.. math:: S_n S_n^T = S_{n-1} \left(I + \eta_n (\alpha_n - \alpha_*) \, u u^T / |u|^2\right) S_{n-1}^T,
          \qquad \eta_n = \min(1, d \, n^{-2/3}),

and is frozen after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ssmscan.inference.spreading import side_by_side
from ssmscan.model.protocols import Model, Theta
from ssmscan.particles.estimators import Estimator
from ssmscan.particles.loop import each


class PMMHState(NamedTuple):
    """A point of the chain and the estimate that belongs to it.

    Attributes:
        z: unconstrained parameters by site.
        log_prior: log p(theta) + log|d theta / d z|, a scalar.
        log_likelihood: the stored estimate, a scalar.
        filter_key: uint32[2], the key of the filter run that made it.
        status: int32, how that run ended, see `ssmscan.LikelihoodEstimate`.
    """

    z: Theta
    log_prior: jax.Array
    log_likelihood: jax.Array
    filter_key: jax.Array
    status: jax.Array | np.int32 = np.int32(0)


class Move(NamedTuple):
    """What one step did.

    Attributes:
        direction: (d,) the standard normal behind the proposal.
        acceptance: acceptance probability, 0 where the proposal has no finite density.
        accepted: whether the proposal was taken.
        log_likelihood: the estimate at the proposal.
        status: how its filter run ended.
    """

    direction: jax.Array
    acceptance: jax.Array
    accepted: jax.Array
    log_likelihood: jax.Array
    status: jax.Array | np.int32 = np.int32(0)


def evaluate(key: jax.Array, ssm: Model, z: Theta, estimator: Estimator) -> PMMHState:
    """Estimate the likelihood at z and make the state of the chain that the estimate belongs to."""
    theta, log_prior = ssm.log_prior_unconstrained(z)
    found = estimator.estimate(key, ssm, theta)
    return PMMHState(z, log_prior, found.log_likelihood, jax.random.key_data(key), found.status)


def pmmh_step(
    key: jax.Array, state: PMMHState, scale: jax.Array, ssm: Model, estimator: Estimator
) -> tuple[PMMHState, Move]:
    """Take one step of the chain.

    Args:
        key: typed PRNG key.
        state: where the chain is.
        scale: (d, d) factor S of the proposal covariance, in the order of `ravel_pytree`.
        ssm: the model.
        estimator: unbiased for the likelihood, not for its logarithm.
    """
    key_move, key_filter, key_accept = jax.random.split(key, 3)
    flat, unravel = ravel_pytree(state.z)
    direction = jax.random.normal(key_move, flat.shape, flat.dtype)
    proposal = evaluate(key_filter, ssm, unravel(flat + scale @ direction), estimator)

    log_ratio = (proposal.log_prior + proposal.log_likelihood) - (state.log_prior + state.log_likelihood)
    # NaN, as from a parameter rounded onto the edge of its support, is an impossible proposal.
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    acceptance = jnp.exp(jnp.minimum(log_ratio, 0.0))
    accepted = jax.random.uniform(key_accept, (), acceptance.dtype) < acceptance
    state = jax.tree.map(partial(jnp.where, accepted), proposal, state)
    return state, Move(direction, acceptance, accepted, proposal.log_likelihood, proposal.status)


def adapt_scale(scale: jax.Array, move: Move, target: jax.Array, count: jax.Array) -> jax.Array:
    """Update the proposal factor after step number count (from 1) by robust adaptive Metropolis."""
    d = scale.shape[0]
    rate = jnp.minimum(1.0, d * count.astype(scale.dtype) ** (-2 / 3))
    unit = move.direction / jnp.linalg.norm(move.direction)
    change = rate * (move.acceptance - target)
    stretched = scale @ (jnp.eye(d, dtype=scale.dtype) + change * jnp.outer(unit, unit)) @ scale.T
    return jnp.linalg.cholesky(stretched)


class Chain(NamedTuple):
    """A chain between two steps.

    Attributes:
        key: typed PRNG key of the rest of the chain.
        state: where it is.
        scale: (d, d) proposal factor.
        num_steps: () int32, steps taken.
    """

    key: jax.Array
    state: PMMHState
    scale: jax.Array
    num_steps: jax.Array


class Control(NamedTuple):
    """What the steps of a run share.

    Attributes:
        ssm: the model.
        target: () acceptance that the adaptation aims at.
        adapting: () bool, whether the proposal factor still changes.
    """

    ssm: Model
    target: jax.Array
    adapting: jax.Array


class Trace(NamedTuple):
    """What is kept of one step: the state after it, on both scales, and the move."""

    z: Theta
    theta: Theta
    log_prior: jax.Array
    log_likelihood: jax.Array
    filter_key: jax.Array
    status: jax.Array | np.int32
    acceptance: jax.Array
    accepted: jax.Array
    proposed_log_likelihood: jax.Array
    proposed_status: jax.Array | np.int32


@dataclass(frozen=True)
class PMMHStep:
    """One step of every chain; see `ssmscan.inference.progress.Step`."""

    estimator: Estimator

    def __call__(self, control: Control, chains: Chain) -> tuple[Chain, Trace]:
        """Advance all chains; their leaves have the chains in front."""
        advance = partial(self._advance, control)
        # What is searched for at each theta, side by side, takes as long as the slowest search, and minutes to compile.
        apart = self.estimator.uses_later_data and self.estimator.num_particles
        return each(advance, chains) if apart else side_by_side(advance, chains)

    def _advance(self, control: Control, chain: Chain) -> tuple[Chain, Trace]:
        key, key_step = jax.random.split(chain.key)
        state, move = pmmh_step(key_step, chain.state, chain.scale, control.ssm, self.estimator)
        num_steps = chain.num_steps + 1
        adapted = adapt_scale(chain.scale, move, control.target, num_steps)
        scale = jnp.where(control.adapting, adapted, chain.scale)
        trace = Trace(
            z=state.z,
            theta=control.ssm.constrain(state.z),
            log_prior=state.log_prior,
            log_likelihood=state.log_likelihood,
            filter_key=state.filter_key,
            status=state.status,
            acceptance=move.acceptance,
            accepted=move.accepted,
            proposed_log_likelihood=move.log_likelihood,
            proposed_status=move.status,
        )
        return Chain(key, state, scale, num_steps), trace
