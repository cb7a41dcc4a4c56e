r"""The search for the most probable path of the noise: forward passes with a line search, backward passes between.

A forward pass follows :math:`e_t = e_{*,t} + \alpha k_t + K_t (c_t - c_{*,t})` through the model itself, for several
step lengths alpha side by side, and keeps the path with the largest log density.  Where none is better than the one
there is, or only after a short step, the log weights count by less in the next passes, which makes for a wider law;
every long step raises their share again, up to one: the modes are followed from the prior on.  A search has *settled*
when a full step promises next to nothing: the value is off by the square root of what is promised.

The search starts from the model's prior path moved a little, since at noise zero some log densities have a kink: of the
logits of a binomial at zero, for one, NumPyro's has none of the right derivatives.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.gaussian import algebra
from ssmscan.model.gaussian.backward import Gains, backward
from ssmscan.model.gaussian.expansion import Expansion, Path, expand
from ssmscan.model.gaussian.vectors import VectorModel
from ssmscan.model.time_loops import scan_steps

LENGTHS = (1.0, 0.6, 0.3, 0.1, 0.03, 0.01, 0.001, -0.01)
"""Step lengths that are tried; at a kink the way up may be back."""
SETTLED = 0.75
"""Power of the rounding unit that a full step may still promise where a search has settled."""
FULL = (1.0, 0.75, 0.5, 0.0)
"""Shares of the full curvature that are tried, the rest being the projected one."""
NUDGE = 0.02
"""Size of the noise from which a search starts."""


class Pass(NamedTuple):
    """A nominal path and the backward pass around it.

    Attributes:
        path: the path.
        first, gains: gains of the start and of the steps.
        definite: () bool, whether the full curvature was used, and was that of a maximum.
        least_pivot: () of all steps and the start.
    """

    path: Path
    first: Gains
    gains: Gains
    definite: Array
    least_pivot: Array


class Search(NamedTuple):
    """A search between two passes.

    Attributes:
        now: the last pass.
        share: () by how much the log weights counted of the last backward pass.
        passes: () int32.
        promise: () what a full step promises.
        finite: () bool, whether the path has a finite log density.
        settled: () bool.
    """

    now: Pass
    share: Array
    passes: Array
    promise: Array
    finite: Array
    settled: Array


def follow(model: VectorModel, nominal: Path, first: Gains, gains: Gains, length: Array) -> Path:
    """Follow the feedback law through the model, with steps of one length."""
    coordinates = model.coordinates
    initial = nominal.initial_noise + length * first.change
    carry, log_weight, _ = model.start(initial)

    def step(carry, inputs):
        x, noise, before, change, feedback = inputs
        moved = coordinates.of_carry(carry) - coordinates.of_carry(before)
        noise = noise + length * change + algebra.product(feedback, moved)
        after, log_weight, _ = model.step(carry, x, noise)
        return after, (noise, carry, log_weight)

    inputs = model.xs, nominal.noise, nominal.carries, gains.change, gains.feedback
    last, (noise, carries, log_weights) = scan_steps(step, carry, inputs)
    return Path(initial, noise, carries, last, jnp.concatenate([log_weight[None], log_weights]))


def _half_square(path: Path) -> Array:
    """Return half the sum of squares of the noise; trials in front where there are."""
    return 0.5 * (jnp.sum(path.initial_noise**2, axis=-1) + jnp.sum(path.noise**2, axis=(-2, -1)))


def unmoved(model: VectorModel, initial: Array, noise: Array) -> tuple[Path, Gains, Gains]:
    """Return a nominal path of zeros, and gains that make `follow` give the path of some noise from it."""
    d, steps = model.coordinates.size, model.num_steps
    carry = jax.eval_shape(model.start, initial)[0]
    carries = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), carry)
    last = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)
    path = Path(jnp.zeros_like(initial), jnp.zeros_like(noise), carries, last, jnp.zeros(steps + 1))

    def none(change: Array, size: int, *lead: int) -> Gains:
        m = change.shape[-1]
        square, one = jnp.zeros((*lead, m, m)), jnp.zeros(lead)
        p = jnp.zeros((*lead, size)), jnp.zeros((*lead, size, size))
        return Gains(change, jnp.zeros((*lead, m, size)), square, *p, one, one, one)

    return path, none(initial, 0), none(noise, d, steps)


def passed(model: VectorModel, path: Path, share: Array) -> Pass:
    """Go back around a path: with the full curvature where that is of a maximum, else with the projected one."""
    expanded = expand(model, path)

    def attempt(state: tuple[Array, Pass]) -> tuple[Array, Pass]:
        return state[0] + np.int32(1), back(expanded, path, jnp.asarray(FULL)[state[0]], share)

    level = jnp.zeros((), np.int32)
    shapes = jax.eval_shape(attempt, (level, None))[1]
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    begun = level, empty._replace(path=path)
    level, found = lax.while_loop(lambda s: (s[0] < len(FULL)) & ~(s[1].least_pivot > 0.0), attempt, begun)
    return found


def back(expanded: tuple[Expansion, Expansion], path: Path, full: Array, share: Array) -> Pass:
    """Go back around a path with so much of the full curvature and the rest of the projected one.

    Args:
        expanded: expansions of the start and of the steps.
        path: the path.
        full: () between zero and one.
        share: () by how much the log weights count.
    """
    begin, steps = (each.weighed(share) for each in expanded)
    whole = begin.full, steps.full

    def mixed() -> tuple[Array, Array]:
        rest = _projected(begin, steps)
        return jax.tree.map(lambda a, b: full * a + (1.0 - full) * b, whole, rest)

    weights = lax.cond(full == 1.0, lambda: whole, mixed)
    found = back_with(begin, steps, weights, path)
    return found._replace(definite=found.definite & (full == 1.0))


def back_with(begin: Expansion, steps: Expansion, weights: tuple[Array, Array], path: Path) -> Pass:
    """Go back around a path with some curvature; it is definite where that is of a maximum."""
    first, gains = backward(begin, steps, weights, path)
    least = jnp.minimum(first.least_pivot, jnp.min(gains.least_pivot))
    return Pass(path, first, gains, least > 0.0, least)


def _projected(begin: Expansion, steps: Expansion) -> tuple[Array, Array]:
    """Take out of the curvature of the log weights what is not concave; its derivative is that of the curvature."""

    def one(weights: Array) -> Array:
        return weights + lax.stop_gradient(algebra.project(weights) - weights)

    return one(begin.weights) if len(begin.weights) else begin.weights, jax.vmap(one)(steps.weights)


def search(model: VectorModel, initial: Array, noise: Array, *, nudged: bool, max_passes: int) -> Search:
    """Look for the most probable path.

    Args:
        model: the model.
        initial: (m_0,) noise of the start from which to search.
        noise: (T, m) the same of the steps.
        nudged: whether several sizes of that noise are tried, for the best.
        max_passes: largest number of passes.
    """
    dtype = jnp.zeros(()).dtype
    tolerance = float(np.finfo(dtype).eps) ** SETTLED
    lengths = jnp.asarray(LENGTHS, dtype)

    def go(state: Search) -> Search:
        now, begins = state.now, state.passes == 0
        trials = jax.vmap(follow, in_axes=(None, None, None, None, 0))(model, now.path, now.first, now.gains, lengths)
        weights = jnp.sum(trials.log_weights - now.path.log_weights, axis=1)
        gained = state.share * weights - _half_square(trials) + _half_square(now.path)
        gained = jnp.where(jnp.isfinite(gained), gained, -jnp.inf)
        best = jnp.argmax(gained) if nudged else jnp.where(begins, 0, jnp.argmax(gained))
        better = (gained[best] > 0.0) | begins | (state.promise < tolerance)
        chosen = jax.tree.map(lambda leaf: leaf[best], trials)
        path = jax.tree.map(lambda new, old: jnp.where(better, new, old), chosen, now.path)
        length = lengths[best]
        factor = jnp.where(length >= 0.5, 4.0, jnp.where(length >= 0.2, 1.0, 0.3))
        share = jnp.where(better, factor, 0.1) * state.share
        share = jnp.where(state.passes >= max_passes - 1, 1.0, jnp.minimum(share, 1.0))
        after = passed(model, path, share)
        promise = after.first.promise + jnp.sum(after.gains.promise)
        finite = jnp.isfinite(jnp.sum(path.log_weights)) & jnp.isfinite(promise)
        settled = finite & (promise < tolerance) & (share == 1.0)
        return Search(after, share, state.passes + np.int32(1), promise, finite, settled)

    zero, none = jnp.zeros(()), jnp.zeros((), bool)
    begun = Pass(*unmoved(model, initial, noise), none, zero)
    state = Search(begun, jnp.ones(()), jnp.zeros((), np.int32), zero, ~none, none)
    return lax.while_loop(lambda s: (s.passes < max_passes) & s.finite & ~s.settled, go, state)
