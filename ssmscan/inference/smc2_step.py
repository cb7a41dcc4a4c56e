r"""The cloud of parameter points on the device: estimated, taken to the next observations, moved.

A point is (z, its filters), z unconstrained parameters.  At step t the cloud targets

.. math:: \pi_t(z, u) \propto p(z) \, \psi_t(u | z) \, \hat Z_t(z, u),

u the random numbers of its filters and :math:`\hat Z_t` their estimate of :math:`p(y_{1:t} | \theta)`; the marginal of
z is the posterior given :math:`y_{1:t}` for any number of particles (Chopin, Jacob & Papaspiliopoulos 2013, *JRSS B*
75(3), proposition 1).

**Move** (their section 3.3).  A step of particle marginal Metropolis-Hastings: z' is drawn, filters at z' run from 1 to
t, and the pair is taken with probability

.. math:: \min\left(1, \frac{p(z') \hat Z_t(z', u') \, q(z | z')}{p(z) \hat Z_t(z, u) \, q(z' | z)}\right).

The estimate of the present point is the stored one and never made again.  q has the location and scatter of the cloud:
a t distribution that forgets z, or a random walk; which of them, and t, are arguments of one compiled program.

**Exchange** (section 3.6.1).  Filters of another number of particles are run at the same z, and the point gets the
weight :math:`\hat Z_t^{new} / \hat Z_t^{old}`: importance sampling on the space of both runs, whose target has the same
marginal in z.

Points are replicates (`ssmscan.inference.spreading`): one after the other on each core of a CPU, where a filter of a
few hundred particles stays in the cache; together on an accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from ssmscan.inference.prior_points import prior_point, shapes_of_point
from ssmscan.inference.smc2_filters import Filters, advance, begin, log_likelihood, status
from ssmscan.inference.spreading import side_by_side, spread
from ssmscan.model.protocols import Model, PyTree, Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.time_loops import on_cpu
from ssmscan.particles.draws import as_key, unrolled_threefry
from ssmscan.particles.filter_step import Settings

DEGREES = 5
"""Degrees of freedom of the law that forgets the present point: tails heavier than those of most posteriors."""

WIDER = 1.1
"""Factor on its scale."""

WALK = 2.38
"""Scale of the random walk in d dimensions, times the root of d (Roberts & Rosenthal 2001, *Stat. Sci.* 16(4))."""


class Points(NamedTuple):
    """Parameter points; a single one, or M in front of every leaf.

    Attributes:
        z: (d,) unconstrained values, flat.
        log_prior: () log p(theta) + log|d theta / dz|.
        log_likelihood: () the estimate by now.
        filter_key: uint32 (2,), the key of the run that made it.
        status: () int32, how that run went by now.
        filters: where it is.
    """

    z: Array
    log_prior: Array
    log_likelihood: Array
    filter_key: Array
    status: Array
    filters: Filters


class Law(NamedTuple):
    """What proposals are drawn from.

    Attributes:
        mean: (d,) location of the cloud.
        factor: (d, d) lower triangular, of its scatter.
        forgets: () bool, whether a proposal does not depend on the present point.
        stays: () bool, whether it is the present point, whose filters are run again and taken.  That is no move: it
            makes the first filters of points, those of an exchange, and repeats.
    """

    mean: Any
    factor: Any
    forgets: Any
    stays: Any

    @classmethod
    def of(cls, mean: np.ndarray, factor: np.ndarray, *, forgets: bool = False, stays: bool = False) -> Law:
        """Return a law on the device."""
        dtype = jnp.zeros(()).dtype
        return cls(jnp.asarray(mean, dtype), jnp.asarray(factor, dtype), jnp.asarray(forgets), jnp.asarray(stays))

    @classmethod
    def same(cls, dimension: int) -> Law:
        """Return the law that stays where it is."""
        return cls.of(np.zeros(dimension), np.eye(dimension), stays=True)


class Operand(NamedTuple):
    """What all points share.

    Attributes:
        ssm: the model.
        key: typed key; point m has ``fold_in(key, m)``.
        step: () int32, steps taken by now.
        law: of proposals.
    """

    ssm: Model
    key: Array
    step: Array
    law: Law | None = None


class Kernel(Protocol):
    """What is done to every point: ``(operand, state, count) -> (state, outputs)``, see `spreading.spread`."""

    def __call__(self, operand: Operand, state: PyTree, count: Array, /) -> tuple[PyTree, PyTree]:
        """Return the new state, and what is reported, with steps in front of the points."""


@partial(jax.jit, static_argnames=("kernel", "mesh"))
def over_points(operand: Operand, state: PyTree, count: Array, *, kernel: Kernel, mesh: Mesh) -> tuple[PyTree, PyTree]:
    """Apply a kernel to all points, spread over the cores or devices of a mesh."""
    return spread(kernel, state, mesh)(operand, state, count)


def unravel(ssm: Model, z: Array) -> Theta:
    """Return unconstrained values by site."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes_of_point(ssm))
    return ravel_pytree(zeros)[1](z)


def evaluate(settings: Settings, key: Array, ssm: Model, z: Array, count: Array) -> Points:
    """Make a point at z, its filters run to the first `count` steps."""
    theta, log_prior = ssm.log_prior_unconstrained(unravel(ssm, z))
    filters = begin(settings, key, ssm, theta)
    filters, _ = advance(settings, filters, ssm, theta, jnp.zeros_like(count), count)
    found = log_likelihood(filters, ssm, theta)
    return Points(z, log_prior, found, jax.random.key_data(key), status(filters), filters)


def propose(key: Array, z: Array, law: Law) -> tuple[Array, Array]:
    """Draw z', and return log q(z | z') - log q(z' | z)."""
    d = z.shape[0]
    key_normal, key_tail = jax.random.split(key)
    normal = jax.random.normal(key_normal, (d,), z.dtype)
    tail = jnp.sqrt(jnp.mean(jax.random.normal(key_tail, (DEGREES,), z.dtype) ** 2))
    factor = WIDER * law.factor
    forgetful, walked = law.mean + factor @ normal / tail, z + WALK / d**0.5 * (law.factor @ normal)

    def log_t(point: Array) -> Array:
        distance = jnp.sum(jax.scipy.linalg.solve_triangular(factor, point - law.mean, lower=True) ** 2)
        return -0.5 * (DEGREES + d) * jnp.log1p(distance / DEGREES)

    moved = jnp.where(law.forgets, forgetful, walked)
    return jnp.where(law.stays, z, moved), jnp.where(law.forgets, log_t(z) - log_t(forgetful), 0)


def move(settings: Settings, key: Array, point: Points, operand: Operand, count: Array) -> tuple[Points, Array]:
    """Take one step of particle marginal Metropolis-Hastings given the first `count` steps; also whether it moved."""
    assert operand.law is not None
    key_move, key_filter, key_accept = jax.random.split(key, 3)
    z, log_ratio = propose(key_move, point.z, operand.law)
    proposed = evaluate(settings, key_filter, operand.ssm, z, count)
    log_ratio += (proposed.log_prior + proposed.log_likelihood) - (point.log_prior + point.log_likelihood)
    # NaN, as from a parameter rounded onto the edge of its support, is an impossible proposal.
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    accepted = jnp.log(jax.random.uniform(key_accept, (), log_ratio.dtype)) < log_ratio
    accepted = accepted | operand.law.stays
    return jax.tree.map(partial(jnp.where, accepted), proposed, point), accepted


@dataclass(frozen=True)
class Assimilate:
    """Takes points to the next `count` observations; reports (capacity, M) what each adds to the log likelihood."""

    settings: Settings
    capacity: int

    def __call__(self, operand: Operand, state: Points, count: Array) -> tuple[Points, Array]:
        """Advance them all."""

        def one(point: Points) -> tuple[Points, Array]:
            ssm, (settings, first) = operand.ssm, (self.settings, operand.step)
            theta, _ = ssm.log_prior_unconstrained(unravel(ssm, point.z))
            filters, found = advance(settings, point.filters, ssm, theta, first, count, capacity=self.capacity)
            now = log_likelihood(filters, ssm, theta)
            return point._replace(log_likelihood=now, status=status(filters), filters=filters), found

        points, increments = side_by_side(one, state)
        return points, jnp.moveaxis(increments, 0, 1)


class Lanes(NamedTuple):
    """What a move is made of; M in front of every leaf.

    Attributes:
        number: () uint32, which point it is.
        used: () bool, whether its filters need to run; elsewhere they stay at the start, on a CPU.
        point: where it is.
    """

    number: Array
    used: Array
    point: Points


@dataclass(frozen=True)
class Move:
    """Moves points once, given the first `count` steps; reports (1, M) which of them moved."""

    settings: Settings

    def __call__(self, operand: Operand, state: Lanes, count: Array) -> tuple[Lanes, Array]:
        """Move them all."""

        def one(lane: Lanes) -> tuple[Points, Array]:
            key = jax.random.fold_in(operand.key, lane.number)
            # Together, all lanes take as long as one, and a loop that ends for each apart takes longer.
            own = jnp.where(lane.used, count, 0) if on_cpu() else count
            return move(self.settings, key, lane.point, operand, own)

        points, accepted = side_by_side(one, state)
        return state._replace(point=points), accepted[None]


@partial(jax.jit, static_argnames=("num_points",))
def first_values(key: Array, ssm: StateSpaceModel, *, num_points: int) -> tuple[Array, Array]:
    """Draw (M, d) unconstrained values from the law of the prior, and what the log prior has more there."""

    def one(key: Array) -> tuple[Array, Array]:
        z = prior_point(ssm, key)
        return ravel_pytree(z)[0], ssm.log_law_unconstrained(z)[1]

    return jax.lax.map(one, jax.random.split(key, num_points))


@jax.jit
def taken(points: PyTree, index: Array) -> PyTree:
    """Return the points with these numbers."""
    return jax.tree.map(lambda leaf: leaf[index], points)


@jax.jit
def parameters(ssm: Model, z: Array) -> Theta:
    """Return parameters by site, (M, ...), from (M, d) unconstrained values."""
    return jax.lax.map(lambda one: ssm.constrain(unravel(ssm, one)), z)


def numbers(count: int) -> Array:
    """Return the numbers of points."""
    return jnp.arange(count, dtype=np.uint32)


@partial(jax.jit, static_argnames=("settings",))
def _first(key: Array, ssm: Model, *, settings: Settings) -> Points:
    z = ravel_pytree(prior_point(ssm, key))[0]
    return evaluate(settings, key, ssm, z, jnp.zeros((), jnp.int32))


def shapes_of_points(settings: Settings, ssm: Model, num_points: int) -> Points:
    """Return the shapes of points, for which nothing is compiled; traced once for each model and settings."""
    point = jax.eval_shape(partial(_first, settings=settings), as_key(jax.random.key(0)), ssm)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_points, *leaf.shape), leaf.dtype), point)


def blank(shapes: Points) -> Points:
    """Return points that are still to be made."""

    def zeros(leaf: jax.ShapeDtypeStruct) -> Array:
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jax.random.wrap_key_data(jnp.zeros((*leaf.shape, 2), np.uint32), impl=unrolled_threefry)

    return jax.tree.map(zeros, shapes)
