r"""Noise of a whole series as a function of standard normals, by a feedback law through the model.

With the gains of the Gaussian approximation at some parameters, noise is

.. math::  e_0 = \bar e_0 + L_0 u_0, \qquad  e_t = \bar e_t + K_t (c_t - c_t^*) + L_t u_t, \qquad
           c_{t+1} = f(c_t, e_t; \theta),

where f is the model's own step at *any* parameters: the states are held near the path that data pin down, whatever
:math:`\theta` makes of the noise.  Given the parameters, noise depends on u up to the same step alone, so that
:math:`|\partial e / \partial u| = \prod_t |L_t|`, a constant, whatever the gains, the path and f are.  A law from
elsewhere, or a bad one, is slow and never wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.model.gaussian import algebra
from ssmscan.model.gaussian.law import Fit
from ssmscan.model.gaussian.vectors import VectorModel
from ssmscan.model.protocols import PyTree
from ssmscan.model.time_loops import scan_steps


class Means(NamedTuple):
    """The part of a law that is moved with the parameters.

    Attributes:
        initial: (m_0,) mean of the noise of the start.
        noise: (T, m) mean of the noise of each step at the nominal carry.
        carry: (T, d) nominal carry before each step.
    """

    initial: Array
    noise: Array
    carry: Array


class FeedbackLaw(NamedTuple):
    """A feedback law of one loop, or of one element of a panel.

    Attributes:
        means: mean of the noise, and the nominal carries.
        initial_scale_tril: (m_0, m_0) lower triangular, with a positive diagonal.
        feedback: (T, m, d) K.
        scale_tril: (T, m, m) lower triangular, with positive diagonals.
    """

    means: Means
    initial_scale_tril: Array
    feedback: Array
    scale_tril: Array

    @property
    def log_determinant(self) -> Array:
        """() log of the constant Jacobian."""
        factors = self.initial_scale_tril, self.scale_tril
        return sum((jnp.sum(jnp.log(jnp.diagonal(x, axis1=-2, axis2=-1))) for x in factors), jnp.zeros(()))


def law_of(found: Fit) -> FeedbackLaw:
    """Return the law that an approximation has found."""
    means = Means(found.initial_mean, found.mean, found.carries[:-1])
    return FeedbackLaw(means, found.initial_scale_tril, found.gains.feedback, found.gains.scale_tril)


def identity_law(model: VectorModel) -> FeedbackLaw:
    """Return the law under which the noise is u itself."""
    coordinates, steps = model.coordinates, model.num_steps
    m_0, m, d = coordinates.initial_size, coordinates.step_size, coordinates.size
    means = Means(jnp.zeros(m_0), jnp.zeros((steps, m)), jnp.zeros((steps, d)))
    unit = jnp.broadcast_to(jnp.eye(m), (steps, m, m))
    return FeedbackLaw(means, jnp.eye(m_0), jnp.zeros((steps, m, d)), unit)


def usable(law: FeedbackLaw) -> Array:
    """Return whether all numbers of a law are finite and its scales positive, a scalar."""
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(law)]).all()
    scales = law.initial_scale_tril, law.scale_tril
    return finite & jnp.stack([jnp.all(jnp.diagonal(x, axis1=-2, axis2=-1) > 0) for x in scales]).all()


def noise_from(model: VectorModel, law: FeedbackLaw, initial: Array, steps: Array) -> tuple[Array, Array]:
    """Return the noise of a series.

    Args:
        model: the model at any parameters.
        law: the law.
        initial: (m_0,) u of the start.
        steps: (T, m) u of the steps.
    """
    e = law.means.initial + algebra.product(law.initial_scale_tril, initial)
    # What does not depend on the carry is computed for all steps at once.
    own = law.means.noise + jax.vmap(algebra.product)(law.scale_tril, steps)

    def move(carry: PyTree, inputs: tuple) -> tuple[PyTree, Array]:
        x, own, feedback, nominal = inputs
        noise = own + algebra.product(feedback, model.coordinates.of_carry(carry) - nominal)
        return model.carry_after(carry, x, noise), noise

    _, noise = scan_steps(move, model.first_carry(e), (model.xs, own, law.feedback, law.means.carry))
    return e, noise


def noise_into(model: VectorModel, law: FeedbackLaw, initial: Array, steps: Array) -> tuple[Array, Array]:
    """Return the u of a series from its noise; undoes `noise_from`."""

    def move(carry: PyTree, inputs: tuple) -> tuple[PyTree, Array]:
        x, noise, nominal = inputs
        return model.carry_after(carry, x, noise), model.coordinates.of_carry(carry) - nominal

    _, moved = scan_steps(move, model.first_carry(initial), (model.xs, steps, law.means.carry))
    rest = steps - law.means.noise - jax.vmap(algebra.product)(law.feedback, moved)
    u = algebra.product(algebra.inverse_factor(law.initial_scale_tril), initial - law.means.initial)
    return u, jax.vmap(lambda lower, x: algebra.product(algebra.inverse_factor(lower), x))(law.scale_tril, rest)
