"""A model as functions of vectors: which leaves of the carry, and which noise, are coordinates.

The Gaussian approximation works with a carry of d real coordinates and noise of m.  Leaves of the carry that no noise
reaches, and integer ones, are not coordinates: they are carried along the nominal path.  Noise of the sites that a
proposal may move comes first, so that its law is the leading block of the law of all.

The functions are jaxprs of one particle whose arrays are leaves of `VectorModel`: a pass is then a function of arrays
alone, which is what rules for derivatives and for batches need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval as pe

from ssmscan.errors import ModelError
from ssmscan.model.protocols import Dynamics, NoiseSpec, PyTree, Values

MOST = 1000
"""Largest number of rows of the matrices of a step."""

NoiseShapes = tuple[tuple[str, tuple[int, ...]], ...]


class Leaf(NamedTuple):
    """A leaf of the carry: its shape, its dtype, and whether it is among the coordinates."""

    shape: tuple[int, ...]
    dtype: np.dtype
    varies: bool


@dataclass(frozen=True)
class Coordinates:
    """Where the coordinates are.

    Attributes:
        tree: structure of the carry.
        leaves: its leaves.
        initial, step: names and shapes of the noise of the start and of one step, moved sites first.
        moved_initial, moved_step: how many of these coordinates belong to moved sites.
    """

    tree: Any
    leaves: tuple[Leaf, ...]
    initial: NoiseShapes
    step: NoiseShapes
    moved_initial: int
    moved_step: int

    @property
    def size(self) -> int:
        """d, the number of coordinates of the carry."""
        return sum(math.prod(leaf.shape) for leaf in self.leaves if leaf.varies)

    @property
    def initial_size(self) -> int:
        """m_0, the number of coordinates of the noise of the start."""
        return _size(self.initial)

    @property
    def step_size(self) -> int:
        """m, the number of coordinates of the noise of a step."""
        return _size(self.step)

    def of_carry(self, carry: PyTree) -> Array:
        """Return the coordinates (d,) of a carry; counts become real."""
        found = [x for x, leaf in zip(jax.tree.leaves(carry), self.leaves) if leaf.varies]
        return _join(found)

    def into(self, carry: PyTree, vector: Array) -> PyTree:
        """Return a carry with other coordinates."""
        leaves, rest, out = jax.tree.leaves(carry), vector, []
        for x, leaf in zip(leaves, self.leaves):
            if leaf.varies:
                size = math.prod(leaf.shape)
                x, rest = rest[:size].reshape(leaf.shape).astype(leaf.dtype), rest[size:]
            out.append(x)
        return jax.tree.unflatten(self.tree, out)

    def initial_noise(self, vector: Array) -> Values:
        """Return noise of the start by site, of as many sites as the vector is long."""
        return _split(self.initial, vector)

    def step_noise(self, vector: Array) -> Values:
        """Return noise of a step by site, of as many sites as the vector is long."""
        return _split(self.step, vector)


def _size(shapes: NoiseShapes) -> int:
    return sum(math.prod(shape) for _, shape in shapes)


def _join(arrays: list[Array]) -> Array:
    flat = [jnp.ravel(x).astype(float) for x in arrays]
    return jnp.concatenate(flat) if flat else jnp.zeros(0)


def _split(shapes: NoiseShapes, vector: Array) -> Values:
    out, used = {}, 0
    for name, shape in shapes:
        size = math.prod(shape)
        if used + size <= len(vector):
            out[name] = vector[used : used + size].reshape(shape)
            used += size
    return out


def join_noise(shapes: NoiseShapes, noise: Mapping[str, Array]) -> Array:
    """Return the coordinates of noise by site."""
    return _join([noise[name] for name, _ in shapes])


def _ordered(specs: Mapping[str, NoiseSpec], moved: tuple[str, ...]) -> tuple[NoiseShapes, int]:
    """Return names and shapes, moved sites first, and how many coordinates these have."""
    first = tuple((name, tuple(spec.shape)) for name, spec in specs.items() if name in moved)
    rest = tuple((name, tuple(spec.shape)) for name, spec in specs.items() if name not in moved)
    return first + rest, _size(first)


class Written(NamedTuple):
    """A function of one particle as a jaxpr, without its arrays."""

    jaxpr: Any
    tree: Any

    def __call__(self, arrays: list[Array], *arguments: PyTree) -> PyTree:
        """Evaluate it."""
        run = jaxpr_as_fun(ClosedJaxpr(self.jaxpr, arrays))
        return jax.tree.unflatten(self.tree, run(*jax.tree.leaves(arguments)))

    def first_part(self, tree: Any) -> Written:
        """Return the function for the first part of its results alone, a tree of this structure."""
        kept = [i < tree.num_leaves for i in range(len(self.jaxpr.outvars))]
        jaxpr, _ = pe.dce_jaxpr(self.jaxpr, kept, instantiate=True)
        return Written(jaxpr, tree)

    def __hash__(self) -> int:
        return id(self.jaxpr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Written) and self.jaxpr is other.jaxpr


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["start_arrays", "step_arrays", "xs"],
    meta_fields=["coordinates", "start_written", "step_written", "num_steps", "exact", "replaced"],
)
@dataclass(frozen=True, eq=False)
class VectorModel:
    """The start and a step of one particle in coordinates.

    Attributes:
        start_arrays, step_arrays: arrays that the functions read.
        xs: inputs of the steps, T in front.
        coordinates: where they are.
        start_written: noise -> carry, log weight, values.
        step_written: carry, x, noise -> carry, log weight, values.
        num_steps: T.
        exact: whether the model is linear and Gaussian.
        replaced: names of the sites that the surrogate replaces by others.
    """

    start_arrays: list[Array]
    step_arrays: list[Array]
    xs: PyTree
    coordinates: Coordinates
    start_written: Written
    step_written: Written
    num_steps: int
    exact: bool
    replaced: tuple[str, ...]

    def start(self, noise: Array) -> tuple[PyTree, Array, Values]:
        """Start one particle from noise (m_0,): carry, log weight, values of the initial sites."""
        return self.start_written(self.start_arrays, self.coordinates.initial_noise(noise))

    def step(self, carry: PyTree, x: PyTree, noise: Array) -> tuple[PyTree, Array, Values]:
        """Move one particle by noise (m,): carry, log weight, values of the sites of the loop."""
        return self.step_written(self.step_arrays, carry, x, self.coordinates.step_noise(noise))

    def in_order(self, noise: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return noise of a series by site as that of the start (m_0,) and of the steps (T, m)."""
        steps = {name: noise[name] for name, _ in self.coordinates.step}
        of_step = partial(join_noise, self.coordinates.step)
        return join_noise(self.coordinates.initial, noise), jax.vmap(of_step, axis_size=self.num_steps)(steps)

    def by_site(self, initial: Array, steps: Array) -> Values:
        """Return noise of a series by site; undoes `in_order`."""
        return {**self.coordinates.initial_noise(initial), **jax.vmap(self.coordinates.step_noise)(steps)}

    def first_carry(self, noise: Array) -> PyTree:
        """Start one particle, for its carry alone."""
        written = self.start_written.first_part(self.coordinates.tree)
        return written(self.start_arrays, self.coordinates.initial_noise(noise))

    def carry_after(self, carry: PyTree, x: PyTree, noise: Array) -> PyTree:
        """Move one particle, for its carry alone."""
        written = self.step_written.first_part(self.coordinates.tree)
        return written(self.step_arrays, carry, x, self.coordinates.step_noise(noise))


def in_vectors(dynamics: Dynamics) -> VectorModel:
    """Write the surrogate of a model at theta in coordinates."""
    surrogate, moved = dynamics.surrogate, dynamics.moved
    initial, moved_initial = _ordered(surrogate.initial_noise, moved)
    step, moved_step = _ordered(surrogate.step_noise, moved)
    first = {name: jnp.zeros(shape) for name, shape in initial}
    noise = {name: jnp.zeros(shape) for name, shape in step}
    x = jax.tree.map(lambda leaf: leaf[0], dynamics.xs)

    start_jaxpr, begun = jax.make_jaxpr(lambda e: _parts(surrogate.init(e)), return_shape=True)(first)
    carry = begun[0]
    step_jaxpr, moved_on = jax.make_jaxpr(lambda c, x, e: _parts(surrogate.step(c, x, e)), return_shape=True)(
        carry, x, noise
    )
    coordinates = Coordinates(
        tree=jax.tree.structure(carry),
        leaves=tuple(
            Leaf(tuple(leaf.shape), leaf.dtype, varies)
            for leaf, varies in zip(jax.tree.leaves(carry), surrogate.varying)
        ),
        initial=initial,
        step=step,
        moved_initial=moved_initial,
        moved_step=moved_step,
    )
    if dynamics.initial or dynamics.innovations:
        _refuse(coordinates)
    return VectorModel(
        start_arrays=start_jaxpr.consts,
        step_arrays=step_jaxpr.consts,
        xs=dynamics.xs,
        coordinates=coordinates,
        start_written=Written(start_jaxpr.jaxpr, jax.tree.structure(begun)),
        step_written=Written(step_jaxpr.jaxpr, jax.tree.structure(moved_on)),
        num_steps=dynamics.num_steps,
        exact=dynamics.linear_gaussian,
        replaced=tuple(s.name for s in (*dynamics.initial, *dynamics.innovations) if s.name not in moved),
    )


def _refuse(coordinates: Coordinates) -> None:
    """Raise where there is nothing to approximate, or more than dense matrices should hold."""
    if not coordinates.initial_size + coordinates.step_size:
        raise ModelError(
            "no state of the model is a smooth function of noise, so that it has no Gaussian approximation. Use "
            "ParticleFilter with Bootstrap(), or NUTS, which sums finite discrete states out."
        )
    if (size := coordinates.size + coordinates.step_size) > MOST:
        raise ModelError(
            f"a Gaussian approximation of this model has matrices of {size:,} rows at every step: {coordinates.size:,} "
            f"numbers of the carry that noise reaches, and {coordinates.step_size:,} of noise; more than {MOST:,} are "
            "too many for dense algebra. Use ParticleFilter with Bootstrap(), or NUTS; independent series are filtered "
            "one by one where they are a plate in the loop."
        )


def _parts(moved: Any) -> tuple[PyTree, Array, Values]:
    return moved.carry, moved.log_weight, moved.values
