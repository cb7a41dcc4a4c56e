r"""One sweep of particle Gibbs, and where chains begin.

A chain is at unconstrained parameters z and a path x of all latent states.  A sweep is

    1.  z ~ K_x,   which leaves  p(z) p(x, y | theta(z))  invariant                                states held
    2.  e = noise of x at theta;   z ~ K_e,  which leaves  p(z) N(e; 0, I) p(y | theta(z), e)  invariant;
        x = states of e at theta                                                                  noise held
    3.  x ~ conditional SMC at theta, which leaves  p(x | y, theta)  invariant

(Andrieu, Doucet & Holenstein 2010, *JRSS B* 72(3), section 2.4.3; Lindsten, Jordan & Schoen 2014, *JMLR* 15).  The
second step, where the model has it, interweaves the two parametrisations (Yu & Meng 2011, *JCGS* 20(3);
Papaspiliopoulos, Roberts & Skoeld 2007, *Statistical Science* 22(1)): with the states held, a parameter that scales
their noise is known to within 1 / sqrt(2 T) and creeps; with the noise held it moves freely where data say little about
the states.

What is reported is (z, x) after step 3: deterministics of the loop are those of both.

A chain begins at the best of `CANDIDATES` points, by prior and a filter's likelihood, with a path of that filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Lowered

from ssmscan.inference.gibbs_kernels import KernelMove, LogDensity, ParameterKernel
from ssmscan.inference.nuts_start import CANDIDATES, INIT_ATTEMPTS, in_units
from ssmscan.inference.posterior import Position, log_posterior
from ssmscan.inference.progress import lower_chunk
from ssmscan.inference.spreading import side_by_side
from ssmscan.model.protocols import PyTree, Theta, Values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.state_values import log_joint, noise_from_states
from ssmscan.particles.conditional import ConditionalSMC
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.filter_step import NOWHERE
from ssmscan.particles.loop import each

START_PARTICLES = 100
"""Particles at least of the filter that a chain begins with."""

Operand = tuple[StateSpaceModel, Theta]
"""The model, and the unit of each parameter; see `ssmscan.inference.nuts_start`."""


class Chain(NamedTuple):
    """A chain between two sweeps.

    Attributes:
        key: typed PRNG key of the rest of the chain.
        u: unconstrained parameters in units.
        states: values of the latent sites.
        known: what the kernel has learnt, with states held and, where that is done, with noise held.
        num_sweeps: () int32, sweeps made.
        updated: (T,) sweeps after the warm-up that have drawn the states of a step anew; of a panel, the mean over its
            elements.
    """

    key: jax.Array
    u: Theta
    states: Values
    known: tuple[PyTree, ...]
    num_sweeps: jax.Array
    updated: jax.Array


class Drawn(NamedTuple):
    """What is kept of a sweep: parameters, states with deterministics of the loop, and statistics by name."""

    draws: Mapping[str, jax.Array | np.ndarray]
    states: Mapping[str, jax.Array | np.ndarray]
    stats: Mapping[str, jax.Array | np.ndarray]


def latent(ssm: StateSpaceModel, values: Values) -> Values:
    """Return the values of the latent sites alone."""
    return {site.name: values[site.name] for site in (*ssm.initial, *ssm.innovations)}


@dataclass(frozen=True)
class Sweep:
    """One sweep of every chain; see `ssmscan.inference.progress.Step`."""

    conditional: ConditionalSMC
    kernel: ParameterKernel
    interweave: bool
    num_warmup: int

    def __call__(self, operand: Operand, chains: Chain) -> tuple[Chain, Drawn]:
        """Advance all chains; their leaves have the chains in front."""
        return side_by_side(partial(self.advance, *operand), chains)

    def advance(self, ssm: StateSpaceModel, unit: Theta, chain: Chain) -> tuple[Chain, Drawn]:
        """Advance one chain."""
        key, *keys = jax.random.split(chain.key, 4)
        states, num_sweeps = chain.states, chain.num_sweeps + 1
        density = given_states(ssm, unit, states)
        known, u, done = self.kernel.move(keys[0], chain.known[0], chain.u, density, self.num_warmup)
        learnt, moves = [known], [done]
        if self.interweave:
            noise = noise_from_states(ssm, ssm.constrain(in_units(u, unit)), states)
            density = given_noise(ssm, unit, noise)
            known, proposed, done = self.kernel.move(keys[1], chain.known[1], u, density, self.num_warmup)
            learnt.append(known)
            moves.append(done)
            theta = ssm.constrain(in_units(proposed, unit))
            moved = latent(ssm, ssm.states_from_noise(theta, noise))
            # A state so far out that its noise is no number, or the other way, stays where it is.
            good = _finite((noise, moved))
            u, states = jax.tree.map(partial(jnp.where, good), (proposed, moved), (u, states))
        theta = ssm.constrain(in_units(u, unit))
        found = self.conditional.run(keys[2], ssm, theta, states)
        updated = jnp.where(num_sweeps > self.num_warmup, chain.updated + found.updated, 0.0)
        stats = _statistics(moves) | {
            "states_updated": jnp.mean(found.updated),
            "impossible": found.impossible != NOWHERE,
        }
        after = Chain(key, u, latent(ssm, found.states), tuple(learnt), num_sweeps, updated)
        return after, Drawn(theta, found.states, stats)

    def begin(self, ssm: StateSpaceModel, unit: Theta, key: jax.Array, candidates: Theta) -> tuple[Chain, jax.Array]:
        """Begin one chain at the best of its candidates; also returns whether one has a finite density."""
        key, key_points, key_first = jax.random.split(key, 3)
        size = max(self.conditional.num_particles, START_PARTICLES)
        start = ParticleFilter(size, proposal=self.conditional.proposal, summaries=())

        def evaluate(number: jax.Array) -> tuple[Theta, Values, jax.Array]:
            z = jax.tree.map(lambda leaf: leaf[number], candidates)
            theta, log_prior = ssm.log_prior_unconstrained(z)
            path = start.sample_path(jax.random.fold_in(key_points, number), ssm, theta)
            return z, latent(ssm, path.states), log_prior + path.log_likelihood

        def unfinished(carry: tuple) -> jax.Array:
            (*_, best), attempts = carry
            return attempts < jnp.where(jnp.isfinite(best), CANDIDATES, INIT_ATTEMPTS)

        def attempt(carry: tuple) -> tuple:
            best, attempts = carry
            new = evaluate(attempts)
            better = jnp.isfinite(new[2]) & (new[2] > best[2])
            return jax.tree.map(partial(jnp.where, better), new, best), attempts + 1

        zero = jnp.zeros((), jnp.int32)
        nowhere = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(evaluate, zero))
        nowhere = (*nowhere[:2], jnp.full_like(nowhere[2], -jnp.inf))
        (z, states, best), _ = jax.lax.while_loop(unfinished, attempt, (nowhere, zero))
        u = jax.tree.map(jnp.divide, z, unit)
        firsts = jax.random.split(key_first, 1 + self.interweave)
        known = tuple(self.kernel.begin(first, u, self.num_warmup) for first in firsts)
        updated = jnp.zeros(ssm.num_steps, float)
        return Chain(key, u, states, known, zero, updated), jnp.isfinite(best)


def given_states(ssm: StateSpaceModel, unit: Theta, states: Values) -> LogDensity:
    """Build the log density of parameters in units, with the states held."""

    def density(u: Theta) -> jax.Array:
        theta, log_prior = ssm.log_prior_unconstrained(in_units(u, unit))
        return log_prior + log_joint(ssm, theta, states)

    return density


def given_noise(ssm: StateSpaceModel, unit: Theta, noise: Values) -> LogDensity:
    """Build the log density of parameters in units, with the noise held."""
    return lambda u: log_posterior(ssm, Position(in_units(u, unit), noise))


def _finite(tree: tuple[Values, ...]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _statistics(moves: list[KernelMove]) -> dict[str, jax.Array]:
    """Return what is reported of the moves of a sweep, those with noise held under names of their own.

    A sweep diverges if all its moves do: a place that one of them enters is not missing.
    """
    stats = {
        "acceptance_rate": moves[0].acceptance_rate,
        "step_size": moves[0].step_size,
        "n_steps": sum((move.num_gradients for move in moves), jnp.zeros((), jnp.int32)),
        "diverging": jnp.stack([move.diverging for move in moves]).all(),
    }
    for move in moves[1:]:
        stats |= {"acceptance_rate_noise": move.acceptance_rate, "step_size_noise": move.step_size}
    return stats


@partial(jax.jit, static_argnames=("sweep",))
def start_chains(
    keys: jax.Array, ssm: StateSpaceModel, candidates: Theta, unit: Theta, *, sweep: Sweep
) -> tuple[Chain, jax.Array]:
    """Begin all chains; says for which a point was found."""
    return each(lambda chain: sweep.begin(ssm, unit, *chain), (keys, candidates))


def lowered_programs(
    sweep: Sweep, keys: jax.Array, ssm: StateSpaceModel, candidates: Theta, unit: Theta
) -> list[Lowered]:
    """Lower all that a new run compiles after its first points, for the shapes that its arguments will have."""
    start = start_chains.lower(keys, ssm, candidates, unit, sweep=sweep)
    chains, _ = jax.eval_shape(partial(start_chains, sweep=sweep), keys, ssm, candidates, unit)
    chunk, _ = lower_chunk(sweep, (ssm, unit), chains, replicates=True)
    return [chunk, start]
