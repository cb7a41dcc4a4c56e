r"""The pilot of PMMH: where chains start, how many particles, and which acceptance to aim at.

Each chain starts at the likeliest of `PRIOR_DRAWS` draws of its own from the prior, so that starts stay
overdispersed.  Then, in rounds: the chains move with adaptation; the median of all chains over the second half
of the round is the *central* theta; repeated filters there measure :math:`\sigma = sd(\log \hat Z)`; since
:math:`\sigma^2 \propto 1/N`, the next number of particles is :math:`N \sigma^2 / \sigma_*^2`.

The efficiency of a pseudo-marginal random walk is flat around :math:`\sigma_* = 1.2` (Doucet, Pitt, Deligiannidis
& Kohn 2015, *Biometrika* 102(2): 1.0 to 1.7; Sherlock, Thiery, Roberts & Rosenthal 2015, *Ann. Stat.* 43(1)).
Even a proposal of length zero is accepted only with probability :math:`2 \Phi(-\sigma / \sqrt 2)`; adaptation
that aims above it shrinks the proposal to nothing, so the target is half of it, at most 0.234.

The replicates are steps of the same compiled chain with a proposal of length zero: nothing else is compiled.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import ndtr

from ssmscan.inference.marginal import Chain, Control, PMMHState, PMMHStep, evaluate
from ssmscan.inference.progress import Chunk, Progress, compile_chunk, compile_timed, run_chunks
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.loop import filters_at_once

PRIOR_DRAWS = 128
ROUNDS = 3
REPLICATES = 64
FEWEST_PARTICLES, MOST_PARTICLES = 16, 2**17
INITIAL_SCALE = 0.3
TOLERANCE = 1.8


@dataclass(frozen=True)
class Pilot:
    """What the pilot found.

    Attributes:
        particle_filter: the filter with the number of particles to use.
        chunk: the compiled chain step with that filter.
        chains: the chains where the pilot left them.
        target: acceptance to aim at.
        sd: standard deviation of the log evidence estimate at the central theta.
        compile_seconds, seconds: what it took.
        particle_steps: particles moved.
        interrupted: whether Control-C ended it; then the rest is as it was by then.
    """

    particle_filter: ParticleFilter
    chunk: Chunk
    chains: Chain
    target: float
    sd: float
    compile_seconds: float
    seconds: float
    particle_steps: int
    interrupted: bool


def target_acceptance(sd: float) -> float:
    """Return half the acceptance of a proposal of length zero, between 0.01 and 0.234."""
    return float(np.clip(ndtr(-sd / np.sqrt(2)), 0.01, 0.234))


@partial(jax.jit, static_argnames=("particle_filter",))
def _start(keys: jax.Array, ssm: Any, *, particle_filter: ParticleFilter) -> Chain:
    """Start each chain at the likeliest of its own draws from the prior."""

    def attempt(key: jax.Array) -> PMMHState:
        key_prior, key_filter = jax.random.split(key)
        return evaluate(key_filter, ssm, ssm.unconstrain(ssm.sample_prior(key_prior)), particle_filter)

    def one(key: jax.Array) -> Chain:
        key, key_prior = jax.random.split(key)
        states = jax.lax.map(attempt, jax.random.split(key_prior, PRIOR_DRAWS), batch_size=filters_at_once())
        usable = jnp.isfinite(states.log_evidence) & jnp.isfinite(states.log_prior)
        best = jnp.argmax(jnp.where(usable, states.log_evidence, -jnp.inf))
        state = jax.tree.map(lambda leaf: leaf[best], states)
        # An unusable start has estimate -inf, so that any proposal with a finite one is taken.
        state = state._replace(log_evidence=jnp.where(usable[best], state.log_evidence, -jnp.inf))
        flat, _ = ravel_pytree(state.z)
        scale = INITIAL_SCALE * jnp.eye(flat.size, dtype=flat.dtype)
        return Chain(key, state, scale, jnp.zeros((), jnp.int32))

    return jax.vmap(one)(keys)


class _Tuning:
    """The pilot under way: the current filter and chains, and what has been spent."""

    def __init__(self, key: jax.Array, ssm: Any, particle_filter: ParticleFilter, num_chains: int, bar: bool):
        self.key, self.ssm, self.bar = key, ssm, bar
        self.filter, self.num_chains = particle_filter, num_chains
        self.compile_seconds = self.seconds = 0.0
        self.particle_steps, self.interrupted = 0, False
        keys = jax.random.split(self.next_key(), num_chains)
        start, self.compile_seconds = compile_timed(_start, keys, ssm, particle_filter=particle_filter)
        began = time.perf_counter()
        self.chains = jax.block_until_ready(start(keys, ssm))
        self.seconds = time.perf_counter() - began
        self.count(PRIOR_DRAWS)
        if not np.any(np.isfinite(self.chains.state.log_evidence)):
            raise ValueError(
                f"every one of {PRIOR_DRAWS * num_chains} parameter draws from the prior has log evidence -inf with "
                f"{particle_filter.num_particles} particles: check the data against the support of their "
                "distribution, use more particles, or a prior that says more"
            )
        self.compile()

    def next_key(self) -> jax.Array:
        self.key, key = jax.random.split(self.key)
        return key

    def count(self, num_steps: int) -> None:
        runs = num_steps * self.num_chains
        self.particle_steps += runs * self.filter.num_particles * self.ssm.num_steps

    def compile(self) -> None:
        self.chunk = compile_chunk(PMMHStep(self.filter), self.control(0.0), self.chains)
        self.compile_seconds += self.chunk.compile_seconds

    def control(self, target: float | None) -> Control:
        dtype = self.chains.scale.dtype
        adapting = jnp.asarray(target is not None)
        return Control(self.ssm, jnp.asarray(target or 0.0, dtype), adapting)

    def advance(self, chains: Chain, num_steps: int, target: float | None) -> Progress:
        """Move chains; adapt if there is a target."""
        run = run_chunks(self.chunk, self.control(target), chains, num_steps, label="PMMH pilot", progress=self.bar)
        self.seconds += run.seconds
        self.count(run.done)
        self.interrupted |= run.interrupted
        return run

    def replicate(self, centre: Any) -> float:
        """Return the standard deviation of the log evidence at one theta, inf if an estimate is -inf."""
        keys = jax.random.split(self.next_key(), self.num_chains)
        state = self.chains.state._replace(z=centre)
        still = self.chains._replace(key=keys, state=state, scale=jnp.zeros_like(self.chains.scale))
        estimates = self.advance(still, -(-REPLICATES // self.num_chains), None).outputs.proposed_log_evidence
        return float(np.std(estimates, ddof=1)) if np.all(np.isfinite(estimates)) else np.inf

    def resize(self, num_particles: int) -> None:
        """Use another number of particles, with new estimates where the chains are."""
        self.filter = replace(self.filter, num_particles=num_particles)
        self.compile()
        scale = self.chains.scale
        # From an estimate of -inf a proposal of length zero is taken, with its fresh estimate.
        nothing = jnp.full_like(self.chains.state.log_evidence, -jnp.inf)
        state = self.chains.state._replace(log_evidence=nothing)
        still = self.chains._replace(state=state, scale=jnp.zeros_like(scale))
        self.chains = self.advance(still, 1, None).state._replace(scale=scale)

    def fit(self, centre: Any, target_sd: float) -> float:
        """Choose the number of particles at one theta; return the standard deviation there."""
        while not self.interrupted:
            sd = self.replicate(centre)
            ratio = float(np.clip((sd / target_sd) ** 2, 1 / 8, 8))
            size = int(np.clip(np.ceil(self.filter.num_particles * ratio), FEWEST_PARTICLES, MOST_PARTICLES))
            if abs(np.log(size / self.filter.num_particles)) < np.log(TOLERANCE):
                break
            predicted = sd * np.sqrt(self.filter.num_particles / size)
            self.resize(size)
            if 1 / 8 < ratio < 8:
                return predicted
        return sd


def run_pilot(
    key: jax.Array,
    ssm: Any,
    particle_filter: ParticleFilter,
    *,
    num_chains: int,
    num_steps: int,
    target_sd: float | None,
    progress: bool,
) -> Pilot:
    """Start the chains, move them, and choose the number of particles and the target acceptance.

    Args:
        key: typed PRNG key.
        ssm: the model.
        particle_filter: where the search starts, or the filter to keep.
        num_chains: number of chains.
        num_steps: steps of each chain in a round.
        target_sd: wanted standard deviation of the log evidence; None keeps the number of particles.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if no draw from the prior has positive evidence.
    """
    tuning = _Tuning(key, ssm, particle_filter, num_chains, progress)
    best = int(np.argmax(tuning.chains.state.log_evidence))
    centre = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[best], leaf.shape), tuning.chains.state.z)
    for round_ in range(ROUNDS + 1):
        sd = tuning.replicate(centre) if target_sd is None else tuning.fit(centre, target_sd)
        target = target_acceptance(sd)
        if round_ == ROUNDS or tuning.interrupted:
            break
        moved = tuning.advance(tuning.chains, num_steps, target)
        tuning.chains = moved.state
        centre = jax.tree.map(_late_median, moved.outputs.z)
    return Pilot(
        tuning.filter, tuning.chunk, tuning.chains, target, sd, tuning.compile_seconds, tuning.seconds,
        tuning.particle_steps, tuning.interrupted,
    )  # fmt: skip


def _late_median(trace: np.ndarray) -> jax.Array:
    """Return the median over chains and the second half of the steps, repeated for each chain."""
    median = np.median(trace[len(trace) // 2 :], axis=(0, 1)).astype(trace.dtype)
    return jnp.broadcast_to(jnp.asarray(median), trace.shape[1:])
