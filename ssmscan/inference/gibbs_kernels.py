r"""How particle Gibbs moves parameters while states are held: a Markov kernel that adapts in warm-up.

A kernel leaves a density on the unconstrained parameters invariant.  That density changes from sweep to sweep, for the
states do, so that a kernel keeps nothing of a point but its scales:

    NUTSKernel      NumPyro's No-U-Turn sampler (Hoffman & Gelman 2014, *JMLR* 15)
    BlackJAXKernel  any sampler of BlackJAX that is made from a log density, a step size and scales

Both learn a step size (dual averaging) and a diagonal of variances (in windows of Stan's schedule), by NumPyro's
adaptation, in the warm-up alone: what moves after it is one kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from numpyro.infer import NUTS as NumPyroNUTS
from numpyro.infer.hmc_util import HMCAdaptState, IntegratorState, warmup_adapter
from numpyro.infer.util import ParamInfo

from ssmscan.arguments import require_function, require_integer, require_number
from ssmscan.model.protocols import PyTree, Theta

LogDensity = Callable[[Theta], jax.Array]


class Adaptation(NamedTuple):
    """What a kernel has learnt.

    Attributes:
        num_moves: () int32, moves made.
        scales: NumPyro's state of an adaptation: step size, inverse mass, and what they are learnt from.
    """

    num_moves: jax.Array
    scales: HMCAdaptState


class KernelMove(NamedTuple):
    """What one move of the parameters did.

    Attributes:
        acceptance_rate: () mean acceptance probability of what was tried.
        num_gradients: () int32, gradients of the log density.
        diverging: () bool, whether the move ended where the integrator fails.
        step_size: () with which it was made.
    """

    acceptance_rate: jax.Array
    num_gradients: jax.Array
    diverging: jax.Array
    step_size: jax.Array


class ParameterKernel(Hashable, Protocol):
    """A Markov kernel on unconstrained parameters: settings that can be hashed, and two pure functions."""

    def begin(self, key: jax.Array, z: Theta, num_warmup: int) -> PyTree:
        """Return what is known before the first move, arrays of any structure."""

    def move(
        self, key: jax.Array, known: PyTree, z: Theta, log_density: LogDensity, num_warmup: int
    ) -> tuple[PyTree, Theta, KernelMove]:
        """Move the parameters once, leaving a density invariant; adapt in the first `num_warmup` moves alone.

        Args:
            key: typed PRNG key.
            known: what was learnt so far.
            z: the parameters.
            log_density: logarithm of the density, up to a constant.
            num_warmup: moves in which the kernel adapts.

        Returns:
            What is known after it, the parameters, and what was done.
        """


@dataclass(frozen=True, kw_only=True)
class NUTSKernel:
    """One transition of NumPyro's No-U-Turn sampler a sweep.

    Attributes:
        target_accept: acceptance probability that the step size aims at.
        max_tree_depth: at most 2**max_tree_depth gradients a move; a long move is lost on states that soon change.

    Raises:
        TypeError, ValueError: for settings out of range.
    """

    target_accept: float = 0.9
    max_tree_depth: int = 6

    def __post_init__(self) -> None:
        """Check the settings."""
        require_number("target_accept", self.target_accept, 0.0, 1.0)
        require_integer("max_tree_depth", self.max_tree_depth, at_least=1)

    def begin(self, key: jax.Array, z: Theta, num_warmup: int) -> PyTree:
        """Return unit scales."""
        return _begin(key, z, num_warmup, self.target_accept)

    def move(
        self, key: jax.Array, known: Adaptation, z: Theta, log_density: LogDensity, num_warmup: int
    ) -> tuple[PyTree, Theta, KernelMove]:
        """Move by one tree; see `ParameterKernel`."""

        def potential(z: Theta) -> jax.Array:
            return -log_density(z)

        kernel = NumPyroNUTS(
            potential_fn=potential, max_tree_depth=self.max_tree_depth, target_accept_prob=self.target_accept
        )
        point = ParamInfo(z, *jax.value_and_grad(potential)(z))
        state = kernel.init(key, num_warmup, point)
        state = state._replace(i=known.num_moves, adapt_state=known.scales)
        state = kernel.sample(state, (), {})
        done = KernelMove(
            state.accept_prob, state.num_steps.astype(jnp.int32) + 1, state.diverging, known.scales.step_size
        )
        return Adaptation(state.i, state.adapt_state), state.z, done


@dataclass(frozen=True, eq=False)
class BlackJAXKernel:
    """One step of a sampler of BlackJAX a sweep.

    Example:
        >>> import blackjax, ssmscan
        >>> nuts = ssmscan.BlackJAXKernel(blackjax.nuts)
        >>> def langevin(log_density, step_size, inverse_mass):
        ...     return blackjax.mala(log_density, step_size)
        >>> mala = ssmscan.BlackJAXKernel(langevin, target_accept=0.6)

    Attributes:
        build: (log_density, step_size, inverse_mass) -> what BlackJAX calls a sampling algorithm, with functions `init`
            and `step`. The step size is adapted to the `acceptance_rate` of what a step reports, where it has one;
            inverse_mass are variances, (d,), in the order of `jax.flatten_util.ravel_pytree`.
        target_accept: acceptance probability that the step size aims at.

    Raises:
        TypeError, ValueError: for a build that is no function, or an acceptance out of range.
    """

    build: Callable[[LogDensity, jax.Array, jax.Array], Any]
    target_accept: float = 0.8

    def __post_init__(self) -> None:
        """Check the settings."""
        require_function("build", self.build, "a function (log_density, step_size, inverse_mass) -> sampling algorithm")
        require_number("target_accept", self.target_accept, 0.0, 1.0)

    def begin(self, key: jax.Array, z: Theta, num_warmup: int) -> PyTree:
        """Return unit scales."""
        return _begin(key, z, num_warmup, self.target_accept)

    def move(
        self, key: jax.Array, known: Adaptation, z: Theta, log_density: LogDensity, num_warmup: int
    ) -> tuple[PyTree, Theta, KernelMove]:
        """Move by one step; see `ParameterKernel`."""
        scales = known.scales
        sampler = self.build(log_density, scales.step_size, scales.inverse_mass_matrix)
        state, info = sampler.step(key, sampler.init(z))
        accepted = jnp.asarray(getattr(info, "acceptance_rate", self.target_accept), scales.step_size.dtype)
        _, update = warmup_adapter(num_warmup, target_accept_prob=self.target_accept)
        point = IntegratorState(state.position, None, None, None)

        def learn(scales: HMCAdaptState) -> HMCAdaptState:
            return update(known.num_moves, accepted, point, scales)

        scales = jax.lax.cond(known.num_moves < num_warmup, learn, lambda scales: scales, scales)
        done = KernelMove(
            acceptance_rate=accepted,
            num_gradients=jnp.asarray(getattr(info, "num_integration_steps", 1), jnp.int32) + 1,
            diverging=jnp.asarray(getattr(info, "is_divergent", False)),
            step_size=known.scales.step_size,
        )
        return Adaptation(known.num_moves + 1, scales), state.position, done


def _begin(key: jax.Array, z: Theta, num_warmup: int, target_accept: float) -> Adaptation:
    init, _ = warmup_adapter(num_warmup, target_accept_prob=target_accept)
    one = jnp.ones((), jnp.result_type(float))
    return Adaptation(jnp.zeros((), jnp.int32), init(IntegratorState(z, None, None, None), key, one))
