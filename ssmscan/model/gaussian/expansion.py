r"""A step and its log weight to second order around a nominal path.

With z = (c, e), around the nominal point of a step,

.. math:: f(z) \approx c'_* + A \, \delta c + B \, \delta e, \qquad
          \ell(z) \approx \ell_* + g^T \delta z - \tfrac12 \delta z^T W \delta z .

W is one of two curvatures.  The *full* one, of :math:`\ell + \lambda^T f` with the costate :math:`\lambda` of the
path, is that of Newton's method on the whole path: at the mode it gives Laplace's approximation (Pantoja 1988, *Int. J.
Control* 47(5)).  The *projected* one is that of :math:`\ell` alone, Gauss-Newton in f, with what is not concave in it
taken out: it is always positive semidefinite, which makes for steps uphill and for proposals, not for a value.

All derivatives of all steps are computed side by side; only the costate is a recursion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.model.gaussian import algebra
from ssmscan.model.gaussian.vectors import VectorModel
from ssmscan.model.protocols import PyTree
from ssmscan.model.time_loops import scan_steps


class Path(NamedTuple):
    """A nominal path.

    Attributes:
        initial_noise: (m_0,).
        noise: (T, m).
        carries: carry before each step, T in front of every leaf.
        last: carry after the last step.
        log_weights: (T + 1,) of the start and of each step.
    """

    initial_noise: Array
    noise: Array
    carries: PyTree
    last: PyTree
    log_weights: Array


class Expansion(NamedTuple):
    """Expansions of all steps, T in front; of the start without that axis, and with no carry before it.

    Attributes:
        transition: (d, d + m), A and B.
        gradient: (d + m,), g.
        full, weights: (d + m, d + m) curvature W of l + costate . f, and of l alone.
    """

    transition: Array
    gradient: Array
    full: Array
    weights: Array

    def weighed(self, share: Array) -> Expansion:
        """Count the log weights by a share of theirs: the costate is linear in them."""
        return Expansion(self.transition, share * self.gradient, share * self.full, share * self.weights)


def expand(model: VectorModel, path: Path) -> tuple[Expansion, Expansion]:
    """Expand the start and every step around a path."""
    of_carry, into = model.coordinates.of_carry, model.coordinates.into
    d, carries = model.coordinates.size, path.carries

    def start(z: Array) -> tuple[Array, Array]:
        carry, log_weight, _ = model.start(z)
        return of_carry(carry), log_weight

    def step(z: Array, carry: PyTree, x: PyTree) -> tuple[Array, Array]:
        carry, log_weight, _ = model.step(into(carry, z[:d]), x, z[d:])
        return of_carry(carry), log_weight

    vectors = jax.vmap(of_carry, axis_size=model.num_steps)(carries)
    z = jnp.concatenate([vectors, path.noise], axis=1)
    transition, gradient = jax.vmap(jax.jacfwd(step))(z, carries, model.xs)
    initial_transition, initial_gradient = jax.jacfwd(start)(path.initial_noise)

    def costate(after: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        a, g = inputs
        return g + algebra.product(a.T, after), after

    nothing = jnp.zeros(d)
    inputs = transition[:, :, :d], gradient[:, :d]
    first, costates = scan_steps(costate, nothing, inputs, reverse=True)

    def curvature(function: Callable, z: Array, after: Array, *arguments: PyTree) -> tuple[Array, Array]:
        def both(z: Array) -> Array:
            carry, log_weight = function(z, *arguments)
            return jnp.stack([log_weight, jnp.sum(after * carry)])

        weights, rest = jax.jacfwd(jax.jacrev(both))(z)
        return -weights - rest, -weights

    curved = jax.vmap(lambda z, after, *rest: curvature(step, z, after, *rest))(z, costates, carries, model.xs)
    begin = Expansion(initial_transition, initial_gradient, *curvature(start, path.initial_noise, first))
    return begin, Expansion(transition, gradient, *curved)
