r"""Are the kernels of samplers exact?  From exact draws they must stay exact, whatever N.

An exact draw of (theta, states) given its data is moved some steps by a sampler: whatever its law was, it must be the
same (Geweke 2004, *JASA* 99, section 3).  The samplers are those of the package, in the form in which a chain is after
its warm-up:

    PMMH       random-walk steps on the estimate of a filter; the first estimate is that of a filter which contains
               the states (`conditional_likelihood`), as in the stationary law
    Gibbs      parameters given states by NUTS, states given parameters by conditional SMC
    NUTS       parameters and noise of the states together, by NUTS on the model with its noise outside

A kernel that estimates its present point again, leaves a Jacobian out, or moves states by another law fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ssmscan.certification.conditional_likelihood import conditional_log_likelihood
from ssmscan.certification.exact_draws import Places, draw_exactly
from ssmscan.certification.replicates import Scales, coordinates, statistics, usable_pairs
from ssmscan.inference import pmmh_chain
from ssmscan.inference.gibbs_kernels import NUTSKernel
from ssmscan.inference.gibbs_sweep import Chain, Sweep
from ssmscan.inference.nuts_start import in_units
from ssmscan.inference.posterior import Position, log_posterior
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.state_values import noise_from_states, without_noise
from ssmscan.particles.conditional import ConditionalSMC
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.resampling import multinomial

NUM_PARTICLES, THRESHOLD = 32, 0.5
STEP_SIZE = 0.3
"""Of NUTS, in units of the prior."""

FILTER = ParticleFilter(NUM_PARTICLES, resampling=multinomial, threshold=THRESHOLD, summaries=())


class Operand(NamedTuple):
    """What all replicates share: the model, and the scales of its coordinates."""

    ssm: StateSpaceModel
    scales: Scales


@dataclass(frozen=True)
class PMMHCheck:
    """Steps of PMMH from an exact draw, as far as the spread of the prior and half, a quarter, ... of it by turns."""

    places: Places
    num_steps: int = 16

    def __call__(self, operand: Operand, key: jax.Array) -> dict[str, jax.Array]:
        """Make one replicate."""
        ssm, scales = operand
        key_draw, key_first, key_steps = jax.random.split(key, 3)
        draw = draw_exactly(key_draw, ssm, self.places)
        z = ssm.unconstrain(draw.theta)
        first = conditional_log_likelihood(
            key_first, draw.ssm, draw.theta, draw.states, num_particles=NUM_PARTICLES, threshold=THRESHOLD
        )
        _, log_prior = draw.ssm.log_prior_unconstrained(z)
        state = pmmh_chain.PMMHState(z, log_prior, first, jnp.zeros(2, jnp.uint32), jnp.zeros((), jnp.int32))
        spread = jnp.diag(ravel_pytree(scales.unit)[0].astype(ravel_pytree(z)[0].dtype))

        def step(state: Any, inputs: tuple) -> tuple[Any, jax.Array]:
            key, number = inputs
            scale = spread * 0.5 ** (number % 4).astype(spread.dtype)
            state, move = pmmh_chain.pmmh_step(key, state, scale, draw.ssm, FILTER)
            return state, move.accepted

        keys = jax.random.split(as_key(key_steps), self.num_steps)
        state, accepted = jax.lax.scan(step, state, (keys, jnp.arange(self.num_steps)))
        count = len(draw.data)
        before = statistics(coordinates(ssm, draw.theta, {}, draw.data), _of_parameters(scales, ssm, count), count)
        moved = ssm.constrain(state.z)
        after = statistics(coordinates(ssm, moved, {}, draw.data), _of_parameters(scales, ssm, count), count)
        return usable_pairs(draw, before, jnp.where(accepted.any(), after, before))


@dataclass(frozen=True)
class GibbsCheck:
    """Sweeps of particle Gibbs from an exact draw; of conditional SMC alone where there are no parameters."""

    places: Places
    num_sweeps: int = 4

    def __call__(self, operand: Operand, key: jax.Array) -> dict[str, jax.Array]:
        """Make one replicate."""
        ssm, scales = operand
        key_draw, key_begin, key_sweeps = jax.random.split(key, 3)
        draw = draw_exactly(key_draw, ssm, self.places)
        smc = ConditionalSMC(NUM_PARTICLES // 4)
        theta, states = draw.theta, draw.states
        if ssm.parameters:
            sweep = Sweep(smc, NUTSKernel(max_tree_depth=2), interweave=False, num_warmup=0)
            u = jax.tree.map(jnp.divide, draw.ssm.unconstrain(theta), scales.unit)
            known = (_with_step_size(sweep.kernel.begin(key_begin, u, 0)),)
            zero = jnp.zeros((), jnp.int32)
            chain = Chain(as_key(key_sweeps), u, states, known, zero, jnp.zeros(ssm.num_steps, float))
            chain, _ = jax.lax.scan(
                lambda chain, _: (sweep.advance(draw.ssm, scales.unit, chain)[0], None),
                chain,
                None,
                length=self.num_sweeps,
            )
            theta, states = draw.ssm.constrain(in_units(chain.u, scales.unit)), chain.states
        else:

            def update(states: Any, key: jax.Array) -> tuple[Any, None]:
                found = smc.run(key, draw.ssm, theta, states).states
                return {name: found[name] for name in states}, None

            states, _ = jax.lax.scan(update, states, jax.random.split(key_sweeps, self.num_sweeps))
        count = len(draw.data)
        before = statistics(coordinates(ssm, draw.theta, draw.states, draw.data), scales, count)
        return usable_pairs(draw, before, statistics(coordinates(ssm, theta, states, draw.data), scales, count))


@dataclass(frozen=True)
class NUTSCheck:
    """Transitions of NUTS on parameters and noise from an exact draw."""

    places: Places
    num_steps: int = 3

    def __call__(self, operand: Operand, key: jax.Array) -> dict[str, jax.Array]:
        """Make one replicate."""
        ssm, scales = operand
        key_draw, key_begin, key_steps = jax.random.split(key, 3)
        draw = draw_exactly(key_draw, ssm, self.places)
        u = jax.tree.map(jnp.divide, draw.ssm.unconstrain(draw.theta), scales.unit)
        summed = not ssm.smooth_noise
        noise = {} if summed else noise_from_states(draw.ssm, draw.theta, draw.states)
        point = {"parameters": u, "noise": noise}
        kernel = NUTSKernel(max_tree_depth=3)

        def density(point: dict) -> jax.Array:
            return log_posterior(draw.ssm, Position(in_units(point["parameters"], scales.unit), point["noise"]))

        def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
            known, point = carry
            known, point, _ = kernel.move(key, known, point, density, 0)
            return (known, point), None

        known = _with_step_size(kernel.begin(key_begin, point, 0))
        (_, point), _ = jax.lax.scan(step, (known, point), jax.random.split(key_steps, self.num_steps))
        theta = draw.ssm.constrain(in_units(point["parameters"], scales.unit))
        count = len(draw.data)
        if summed:
            scales = _of_parameters(scales, ssm, count)
            old, new = coordinates(ssm, draw.theta, {}, draw.data), coordinates(ssm, theta, {}, draw.data)
        else:
            moved = draw.ssm.states_from_noise(theta, point["noise"])
            states = {name: moved[name] for name in draw.states}
            old = coordinates(ssm, draw.theta, draw.states, draw.data)
            new = coordinates(ssm, theta, states, draw.data)
        return usable_pairs(draw, statistics(old, scales, count), statistics(new, scales, count))


def no_gradients(ssm: StateSpaceModel) -> str:
    """Return why `NUTSCheck` does not apply, a clause; empty where it does."""
    if not ssm.parameters and ssm.summed_out:
        return "nothing is left to move: the states are summed out and there are no parameters"
    if ssm.summed_out and ssm.smooth_noise:
        return "some states are summed out, and others are not"
    if not ssm.summed_out and (names := without_noise(ssm)):
        return f"the values of {', '.join(map(repr, names))} do not tell their noise"
    return ""


def _with_step_size(known: Any) -> Any:
    return known._replace(scales=known.scales._replace(step_size=jnp.full((), STEP_SIZE)))


def _of_parameters(scales: Scales, ssm: StateSpaceModel, num_data: int) -> Scales:
    """Return the scales without those of the states."""
    size = sum(leaf.size for leaf in jax.tree.leaves(scales.unit))

    def part(leaf: Any) -> jax.Array:
        return jnp.concatenate([leaf[:size], leaf[len(leaf) - num_data :]])

    return Scales(scales.unit, part(scales.middle), part(scales.spread))
