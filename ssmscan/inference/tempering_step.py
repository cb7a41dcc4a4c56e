r"""One temperature of tempered SMC, built from BlackJAX's kernels.

Between the reference (prior of the parameters, standard normal noise) and the posterior lie

.. math:: \pi_\lambda(z, e) \propto p(z) \, N(e; 0, I) \, L(z, e)^\lambda, \qquad 0 = \lambda_0 < \dots < \lambda_n = 1.

At each temperature particles are resampled, moved by Hamiltonian Monte Carlo that leaves :math:`\pi_\lambda`
invariant, and reweighted towards the next temperature, which is as far as the effective sample size allows
(Del Moral, Doucet & Jasra 2006, *JRSS B* 68(3); Chopin & Papaspiliopoulos 2020, algorithm 17.3).  The move is
waste-free: M = N / p particles are resampled and each makes a chain of p states, all of which are kept (Dau &
Chopin 2022, *JRSS B* 84(1), algorithm 2).  Kernel, resampling, update and weights are BlackJAX's.

What is done here: the scale of each coordinate comes from quantiles of the current particles, since priors with
heavy tails have no variance; the step size is tuned on moves that are thrown away, until the acceptance of all
chains together is near `TARGET_ACCEPTANCE`; each chain has a factor of its own to it, e^-2 to e^0.3.  The
short steps enter narrow places that the long ones cannot (a persistence near one), and no trajectory length
is a period of the target for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ssmscan.inference.posterior import Position, log_likelihood, log_reference, sample_reference
from ssmscan.model.protocols import PyTree
from ssmscan.model.statespace.front import StateSpaceModel

LOWEST = -1e30
"""What a log likelihood that is NaN or infinite counts as."""

SMALLEST_STEP = 1e-30
"""Smallest increment of the temperature."""

BISECTIONS = 80
TARGET_ACCEPTANCE = 0.85
TUNING_MOVES = 4
STEP_FACTORS = (-2.0, 0.3)
"""Range of the log of a chain's own factor of the step size."""


class Particles(NamedTuple):
    """A tempered cloud.

    Attributes:
        key: typed PRNG key of the rest of the run.
        cloud: BlackJAX's state: particles, weights, temperature.
        step_size: () the last step size.
        log_evidence: () log evidence gathered so far.
    """

    key: jax.Array
    cloud: PyTree
    step_size: jax.Array
    log_evidence: jax.Array


def finite_log_likelihood(ssm: StateSpaceModel, position: Position) -> jax.Array:
    """Evaluate the log likelihood, `LOWEST` where it is not finite."""
    value = log_likelihood(ssm, position)
    return jnp.where(jnp.isfinite(value), value, LOWEST)


def bisect_log(function: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """Find the root of a decreasing function on (0, high] by bisection of the logarithm.

    A first step away from a prior with heavy tails may be 1e-20: bisecting the step itself takes as many
    halvings to see it.  Returns high where the function is still positive there.
    """
    del low

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, right = bounds
        middle = (left + right) / 2
        above = function(jnp.exp(middle)) > 0
        return jnp.where(above, middle, left), jnp.where(above, right, middle)

    start = jnp.log(jnp.asarray(SMALLEST_STEP, jnp.result_type(high)))
    bounds = (start, jnp.maximum(jnp.log(high), start))
    root, _ = jax.lax.fori_loop(0, BISECTIONS, halve, bounds)
    return jnp.where(function(high) > 0, high, jnp.minimum(jnp.exp(root), high))


def coordinate_scales(particles: Position) -> jax.Array:
    """Half the distance between the 16 % and 84 % quantiles of each coordinate, (d,), as `ravel_pytree` orders."""
    rows = jax.vmap(lambda position: ravel_pytree(position)[0])(particles)
    low, high = jnp.quantile(rows, jnp.asarray([0.16, 0.84], rows.dtype), axis=0)
    return jnp.maximum((high - low) / 2, 1e-6)


class Report(NamedTuple):
    """What one temperature did: where it led, and the mean acceptance of its moves."""

    temperature: jax.Array
    acceptance: jax.Array


@dataclass(frozen=True)
class Ladder:
    """Settings of the moves between temperatures; see `ssmscan.inference.tempering.TemperedSMC`."""

    num_particles: int
    chain_length: int
    num_leapfrog: int
    target_ess: float

    @property
    def num_chains(self) -> int:
        """Chains at each temperature, M."""
        return self.num_particles // self.chain_length

    def gradients(self, tuning_moves: int) -> int:
        """Gradient evaluations of one temperature."""
        moves = self.chain_length - 1 + tuning_moves
        return self.num_chains * (moves * self.num_leapfrog + 2)

    def start(self, key: jax.Array, ssm: StateSpaceModel) -> tuple[Particles, jax.Array]:
        """Draw the cloud from the reference; say how many draws have no finite likelihood."""
        key, key_draws = jax.random.split(key)
        draws = jax.vmap(lambda k: sample_reference(k, ssm))(jax.random.split(key_draws, self.num_particles))
        values = jax.vmap(partial(log_likelihood, ssm))(draws)
        zero = jnp.zeros((), values.dtype)
        cloud = tempered().init(draws)._replace(tempering_param=zero)
        step_size = jnp.full_like(zero, 0.1)
        return Particles(key, cloud, step_size, zero), jnp.sum(~jnp.isfinite(values))

    def advance(self, ssm: StateSpaceModel, state: Particles, tuning_moves: jax.Array) -> tuple[Particles, Report]:
        """Resample, tune, move at the present temperature, and weigh for the next."""
        from blackjax.mcmc import hmc
        from blackjax.smc import adaptive_tempered, resampling, waste_free

        key, key_scales, key_tune, key_spread, key_kernel = jax.random.split(state.key, 5)
        cloud = state.cloud
        even = resampling.systematic(key_scales, cloud.weights, self.num_particles)
        even = jax.tree.map(lambda leaf: leaf[even], cloud.particles)
        inverse_mass = coordinate_scales(even) ** 2

        def log_density(position: Position) -> jax.Array:
            tempered = cloud.tempering_param * finite_log_likelihood(ssm, position)
            return log_reference(ssm, position) + tempered

        every = jax.tree.map(lambda leaf: leaf[:: self.chain_length], even)
        step_size = self._tune(key_tune, log_density, every, inverse_mass, state.step_size, tuning_moves)
        kernel = adaptive_tempered.build_kernel(
            partial(log_reference, ssm),
            partial(finite_log_likelihood, ssm),
            hmc.build_kernel(),
            hmc.init,
            resampling.systematic,
            self.target_ess,
            root_solver=bisect_log,
            update_strategy=waste_free.waste_free_smc(self.num_particles, self.chain_length),
        )
        # BlackJAX shares parameters with a leading one among chains and maps over the others.
        parameters = {
            "step_size": self._spread(key_spread, step_size),
            "inverse_mass_matrix": inverse_mass[None],
            "num_integration_steps": jnp.full((1,), self.num_leapfrog, jnp.int32),
        }
        cloud, info = kernel(key_kernel, cloud, None, parameters)
        log_evidence = state.log_evidence + info.log_likelihood_increment
        report = Report(cloud.tempering_param, info.update_info.acceptance_rate.mean())
        return Particles(key, cloud, step_size, log_evidence), report

    def _spread(self, key: jax.Array, step_size: jax.Array) -> jax.Array:
        """Draw a step size for each chain; (M,)."""
        return step_size * jnp.exp(jax.random.uniform(key, (self.num_chains,), step_size.dtype, *STEP_FACTORS))

    def _tune(
        self,
        key: jax.Array,
        log_density: Callable[[Position], jax.Array],
        starts: Position,
        inverse_mass: jax.Array,
        step_size: jax.Array,
        num_moves: jax.Array,
    ) -> jax.Array:
        """Move the step size until all chains together accept as they should; their moves are dropped."""
        from blackjax.mcmc import hmc

        def move(key: jax.Array, state: PyTree, step_size: jax.Array) -> tuple[PyTree, PyTree]:
            return hmc.build_kernel()(key, state, log_density, step_size, inverse_mass, self.num_leapfrog)

        def body(_: int, carry: tuple) -> tuple:
            key, states, step_size = carry
            key, key_spread, key_move = jax.random.split(key, 3)
            keys = jax.random.split(key_move, self.num_chains)
            states, info = jax.vmap(move)(keys, states, self._spread(key_spread, step_size))
            gain = 2.0 * (info.acceptance_rate.mean() - TARGET_ACCEPTANCE)
            return key, states, step_size * jnp.exp(gain)

        states = jax.vmap(lambda position: hmc.init(position, log_density))(starts)
        return jax.lax.fori_loop(0, num_moves, body, (key, states, step_size))[2]


def tempered() -> ModuleType:
    """Import BlackJAX's tempered SMC, or say what to install."""
    try:
        from blackjax.smc import tempered
    except ImportError as error:
        raise ImportError(
            "TemperedSMC uses the kernels of BlackJAX, which is not installed: pip install blackjax"
        ) from error
    return tempered
