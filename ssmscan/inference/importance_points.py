r"""The points of the importance sampler: drawn from a mixture and weighed by an estimate of the likelihood.

Point i of a run has the key ``fold_in(key, i)``: it is the same in whatever batch and on whatever device it is made.
One compiled program makes the starts (draws of the prior), the rounds, the repeats at one point by which noise is
measured, and the final points: they differ in the mixture and in the key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ssmscan.inference.importance_proposal import Mixture, draw
from ssmscan.inference.prior_points import prior_point, shapes_of_point
from ssmscan.inference.progress import Chunk, run_chunks
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import Estimator
from ssmscan.particles.loop import each, on_cpu

LANES, LANES_TOGETHER = 8, 128
"""Points of a step: on a CPU, where they are made one by one, and on an accelerator."""


class Points(NamedTuple):
    """Points, on the host (n, ...).

    Attributes:
        z: (n, d) unconstrained values, flat.
        theta: by site.
        log_prior: log p(theta) + log|d theta / dz|.
        log_law: log-density of what the prior draws; the same unless it is masked or scaled.
        log_likelihood: the estimate.
        filter_key: uint32 (n, 2), the key of the run that made it.
        status: how that ended.
    """

    z: Any
    theta: Any
    log_prior: Any
    log_law: Any
    log_likelihood: Any
    filter_key: Any
    status: Any

    def log_posterior(self) -> np.ndarray:
        """Return log prior + log likelihood in float64; -inf where it is no number."""
        total = np.asarray(self.log_prior, np.float64) + np.asarray(self.log_likelihood, np.float64)
        return np.where(total < np.inf, total, -np.inf)

    def log_weights(self, proposal: Mixture) -> np.ndarray:
        """Return log(prior * likelihood / q), (n,); q is the whole of the mixture that the points were drawn from."""
        with np.errstate(invalid="ignore", over="ignore"):
            found = self.log_posterior() - proposal.log_density(np.asarray(self.z, np.float64), self.log_law)
        return np.where(found < np.inf, found, -np.inf)


class Operand(NamedTuple):
    """What all points share: the model, the words of the key, the proposal."""

    ssm: StateSpaceModel
    key: jax.Array
    proposal: Mixture


@dataclass(frozen=True)
class PointStep:
    """The next points of every lane; see `ssmscan.inference.progress.Step`.  The state is their numbers, (lanes,)."""

    estimator: Estimator
    lanes: int

    def __call__(self, operand: Operand, numbers: jax.Array) -> tuple[jax.Array, Points]:
        """Make one point of each lane."""
        apart = self.estimator.uses_later_data and self.estimator.num_particles
        every: Callable = jax.lax.map if apart else each
        return numbers + self.lanes, every(partial(self._point, operand), numbers)

    def _point(self, operand: Operand, number: jax.Array) -> Points:
        ssm = operand.ssm
        key_draw, key_run = jax.random.split(jax.random.fold_in(as_key(operand.key), number))
        shapes = shapes_of_point(ssm)
        unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))[1]
        flat = draw(key_draw, operand.proposal, lambda key: ravel_pytree(prior_point(ssm, key))[0])
        z = unravel(flat)
        theta, log_prior = ssm.log_prior_unconstrained(z)
        log_law, _ = ssm.log_law_unconstrained(z)
        found = self.estimator.estimate(key_run, ssm, theta)
        return Points(flat, theta, log_prior, log_law, found.log_likelihood, jax.random.key_data(key_run), found.status)


def num_lanes() -> int:
    """Return the points of a step."""
    return LANES if on_cpu() else LANES_TOGETHER


def dimension(ssm: StateSpaceModel) -> int:
    """Count the unconstrained coordinates of the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes_of_point(ssm)))


def lawless(ssm: StateSpaceModel) -> tuple[str, ...]:
    """Return the parameters whose prior is masked, scaled or without a sampler: no law to draw from or average over."""
    undrawable = {site.name for core in ssm.cores for site in core.traced_sites if not site.drawable}
    return (*ssm.reweighted, *(site.name for site in ssm.parameters if site.name in undrawable))


def first_numbers(start: int, lanes: int) -> jax.Array:
    """Return the numbers of the first points of all lanes."""
    return jnp.arange(start, start + lanes, dtype=jnp.uint32)


class Made(NamedTuple):
    """Points that were made, and what that took; `interrupted` by Control-C."""

    points: Points
    seconds: float
    interrupted: bool


def none_of(step: PointStep, operand: Operand) -> Points:
    """Return points of the right shapes, of which there are none."""
    shapes = jax.eval_shape(step, operand, first_numbers(0, step.lanes))[1]
    return jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), shapes)


def in_order(outputs: Points, count: int) -> Points:
    """Return the first count points of outputs (steps, lanes, ...) in the order of their numbers."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], outputs)


def make_points(chunk: Chunk, operand: Operand, first: jax.Array, count: int, *, label: str, **options: Any) -> Made:
    """Make count points from those with the first numbers on, or as many as there was time for.

    Args:
        chunk: the compiled step.
        operand: what they share.
        first: (lanes,) numbers of the first ones.
        count: how many.
        label: text before the progress bar.
        options: of `run_chunks`.
    """
    run = run_chunks(chunk, operand, first, -(-count // len(first)), label=label, **options)
    return Made(in_order(run.outputs, count), run.seconds, run.interrupted)
