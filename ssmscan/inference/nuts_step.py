"""One transition of NUTS for every chain, and where chains begin: NumPyro's kernel on the posterior of `posterior`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.stages import Lowered
from numpyro.infer import NUTS as Kernel
from numpyro.infer.hmc import HMCState
from numpyro.infer.util import ParamInfo

from ssmscan.inference.nuts_start import Beginning, in_units, starting_point
from ssmscan.inference.posterior import Position, log_posterior
from ssmscan.inference.progress import lower_chunk
from ssmscan.inference.spreading import side_by_side
from ssmscan.inference.whitening import Guide, guide_at, log_determinant, noise_of, rewhitened
from ssmscan.model.protocols import Theta, Values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.loop import each

Operand = tuple[StateSpaceModel, Theta, Guide | None, jax.Array]
LOOK_DEPTH = 7
"""Depth of a tree at most in a warm-up that noise is whitened in."""

Moved = dict[str, dict[str, jax.Array]]
"""A point of a chain: "parameters" in units, and the "noise" that is moved."""
Drawn = dict[str, dict[str, jax.Array]]
"""Of each chain "draws" and "noise" by site, and "stats" by name."""


@dataclass(frozen=True)
class NUTSStep:
    """One NUTS transition of every chain; see `ssmscan.inference.progress.Step`.

    The operand is (ssm, unit of each parameter, what the noise that is moved is to the noise of the model, None where
    it is the same, and the acceptance that warm-up aims at).
    """

    num_warmup: int
    max_tree_depth: int

    def position(self, ssm: StateSpaceModel, unit: Theta, guide: Guide | None, z: Moved) -> Position:
        """Return the point of the model that a point of the chain stands for."""
        parameters = in_units(z["parameters"], unit)
        return Position(parameters, z["noise"] if guide is None else noise_of(ssm, guide, parameters, z["noise"]))

    def potential(self, ssm: StateSpaceModel, unit: Theta, guide: Guide | None) -> Callable[[Moved], jax.Array]:
        """Build minus the log posterior as a function of parameters in units, and the noise that is moved."""
        constant = 0.0 if guide is None else log_determinant(guide)
        return lambda z: -log_posterior(ssm, self.position(ssm, unit, guide, z)) - constant

    def kernel(
        self, ssm: StateSpaceModel, unit: Theta, guide: Guide | None, target_accept: jax.Array | float = 0.8
    ) -> Kernel:
        """Build NumPyro's kernel for this model."""
        return Kernel(
            potential_fn=self.potential(ssm, unit, guide),
            max_tree_depth=self.depths(guide),
            target_accept_prob=target_accept,
        )

    def depths(self, guide: Guide | None) -> tuple[int, int]:
        """Return how deep a tree may be in a warm-up and after it."""
        return self.max_tree_depth if guide is None else min(self.max_tree_depth, LOOK_DEPTH), self.max_tree_depth

    def init(
        self, key: jax.Array, ssm: StateSpaceModel, unit: Theta, guide: Guide | None, point: ParamInfo
    ) -> HMCState:
        """Start one chain at a point with its density and gradient, which are not computed and compiled again."""
        return self.kernel(ssm, unit, guide).init(key, self.num_warmup, point)

    def __call__(self, operand: Operand, states: HMCState) -> tuple[HMCState, Drawn]:
        """Advance all chains; states has the chains in front."""
        ssm, unit, guide, target_accept = operand
        kernel = self.kernel(ssm, unit, guide, target_accept)

        def advance(state: HMCState) -> tuple[HMCState, dict[str, jax.Array], Values]:
            # NumPyro's kernel learns its warm-up schedule in init; with the gradient given, nothing is evaluated.
            kernel.init(state.rng_key, self.num_warmup, ParamInfo(state.z, state.potential_energy, state.z_grad))
            state = kernel.sample(state, (), {})
            parameters, noise = self.position(ssm, unit, guide, state.z)
            return state, ssm.constrain(parameters), noise

        states, draws, noise = side_by_side(advance, states)
        return states, {
            "draws": draws,
            "noise": noise,
            "stats": {
                "acceptance_rate": states.accept_prob,
                "diverging": states.diverging,
                "energy": states.energy,
                "lp": -states.potential_energy,
                "n_steps": states.num_steps,
                "step_size": states.adapt_state.step_size,
            },
        }


@partial(jax.jit, static_argnames=("step",))
def start_chains(
    keys: jax.Array, ssm: StateSpaceModel, begun: Beginning, guide: Guide | None, *, step: NUTSStep
) -> tuple[HMCState, jax.Array]:
    """Find a starting point for each chain and initialise the kernel; says for which chains it was found."""

    def one(chain: tuple[jax.Array, Theta, Values]) -> tuple[HMCState, jax.Array]:
        (key_point, key_chain) = jax.random.split(chain[0])
        own = begun._replace(candidates=chain[1], noise=chain[2])
        point, found = starting_point(key_point, ssm, step.potential(ssm, begun.unit, guide), own)
        return step.init(key_chain, ssm, begun.unit, guide, point), found

    return each(one, (keys, begun.candidates, begun.noise))


def lowered_programs(
    step: NUTSStep, keys: jax.Array, ssm: StateSpaceModel, begun: Beginning, guide: Guide | None
) -> list[Lowered]:
    """Lower all that a new run compiles after its first points, for the shapes that its arguments will have."""
    start = start_chains.lower(keys, ssm, begun, guide, step=step)
    states, _ = jax.eval_shape(partial(start_chains, step=step), keys, ssm, begun, guide)
    target = jax.ShapeDtypeStruct((), jnp.result_type(float))
    chunk, _ = lower_chunk(step, (ssm, begun.unit, guide, target), states, replicates=True)
    if guide is None:
        return [chunk, start]
    middle = jax.ShapeDtypeStruct(guide.center.shape, guide.center.dtype)
    white = rewhitened.lower(ssm, guide, guide, states.z["parameters"], states.z["noise"])
    return [chunk, start, guide_at.lower(ssm, middle, middle), white]
