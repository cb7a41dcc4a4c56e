r"""What the Gaussian approximation says of states and noise: means, covariances, draws.

Under the feedback law the carry and the noise are a Markov chain: with z = (c, e), around the nominal path,

.. math:: \mathrm{Cov}(z_t) = (I; K_t) \, C_t \, (I; K_t)^T + \mathrm{diag}(0, \Sigma_t), \qquad
          C_{t+1} = (A, B) \, \mathrm{Cov}(z_t) \, (A, B)^T,

which for a linear Gaussian model is the law of a smoother (Rauch, Tung & Striebel 1965).  A value v = g(z) of the model
has the mean :math:`g(z_*)` and the covariance :math:`G \, \mathrm{Cov}(z) \, G^T`, G its Jacobian: exact where g is
affine, the delta method elsewhere.  Draws follow the feedback law through the model itself, so that they are on its
states and not on their linearisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.gaussian import algebra
from ssmscan.model.gaussian.law import Fit
from ssmscan.model.gaussian.vectors import VectorModel
from ssmscan.model.protocols import PyTree, Values


class Moments(NamedTuple):
    """Means and covariances of the smoothing law; sites of the loop have T in front.

    Attributes:
        mean: by site, with the shape of its value, (T, ...).
        covariance: by site, of the k numbers of one value in row-major order, (T, k, k).
        noise: mean of the noise by site.
        noise_covariance: its covariance by site.
    """

    mean: Values
    covariance: Values
    noise: Values
    noise_covariance: Values


def moments(model: VectorModel, found: Fit) -> Moments:
    """Compute the moments of every site and of the noise."""
    coordinates, gains = model.coordinates, found.gains
    d, initial = coordinates.size, found.initial_mean
    start_covariance = algebra.product(found.initial_scale_tril, found.initial_scale_tril.T)

    def start_values(noise: Array) -> Values:
        return _real(model.start(noise)[2])

    def start_carry(noise: Array) -> Array:
        return coordinates.of_carry(model.start(noise)[0])

    into_carry = jax.jacfwd(start_carry)(initial)
    first = algebra.product(into_carry, algebra.product(start_covariance, into_carry.T))

    def step(covariance: Array, inputs: tuple) -> tuple[Array, Array]:
        x, carry, vector, noise, feedback, scale_tril = inputs

        def move(z: Array) -> Array:
            return coordinates.of_carry(model.step(coordinates.into(carry, z[:d]), x, z[d:])[0])

        sides = jnp.concatenate([jnp.eye(d), feedback])
        own = jnp.concatenate([jnp.zeros((d, len(noise))), scale_tril])
        joint = algebra.product(sides, algebra.product(covariance, sides.T)) + algebra.product(own, own.T)
        transition = jax.jacfwd(move)(jnp.concatenate([vector, noise]))
        return algebra.product(transition, algebra.product(joint, transition.T)), joint

    points = model.xs, found.carry_trees, found.carries[:-1], found.mean
    _, joints = lax.scan(step, first, (*points, gains.feedback, gains.scale_tril))

    def of_step(joint: Array, x: PyTree, carry: PyTree, vector: Array, noise: Array) -> tuple:
        def values(z: Array) -> Values:
            return _real(model.step(coordinates.into(carry, z[:d]), x, z[d:])[2])

        def noises(z: Array) -> Values:
            return coordinates.step_noise(z[d:])

        z = jnp.concatenate([vector, noise])
        return values(z), _through(values, z, joint), noises(z), _through(noises, z, joint)

    found_steps = jax.vmap(of_step)(joints, *points)
    found_start = (
        start_values(initial),
        _through(start_values, initial, start_covariance),
        coordinates.initial_noise(initial),
        _through(coordinates.initial_noise, initial, start_covariance),
    )
    return Moments(*({**a, **b} for a, b in zip(found_start, found_steps)))


def draw_path(key: Array, model: VectorModel, found: Fit) -> tuple[Values, Values]:
    """Draw noise and states of one path from the approximation.

    Args:
        key: one typed key.
        model: the model.
        found: its approximation.

    Returns:
        Values and noise by site; sites of the loop have T in front.
    """
    coordinates, gains = model.coordinates, found.gains
    key_start, key_steps = jax.random.split(key)
    normals = jax.random.normal(key_start, found.initial_mean.shape)
    initial = found.initial_mean + algebra.product(found.initial_scale_tril, normals)
    carry, _, values = model.start(initial)

    def step(carry: PyTree, inputs: tuple) -> tuple[PyTree, tuple]:
        x, vector, mean, feedback, scale_tril, normals = inputs
        moved = coordinates.of_carry(carry) - vector
        noise = mean + algebra.product(feedback, moved) + algebra.product(scale_tril, normals)
        carry, _, values = model.step(carry, x, noise)
        return carry, (values, coordinates.step_noise(noise))

    normals = jax.random.normal(key_steps, found.mean.shape)
    inputs = model.xs, found.carries[:-1], found.mean, gains.feedback, gains.scale_tril, normals
    _, (steps, noise) = lax.scan(step, carry, inputs)
    return {**values, **steps}, {**coordinates.initial_noise(initial), **noise}


def _real(values: Values) -> Values:
    """Return values of real numbers; what is not real has no moments here."""
    return {name: x for name, x in values.items() if jnp.issubdtype(jnp.result_type(x), jnp.floating)}


def _through(function: Callable[[Array], Values], z: Array, covariance: Array) -> Values:
    """Return the covariance of every value of a function, by the delta method."""
    jacobians = jax.jacfwd(function)(z)

    def one(jacobian: Array) -> Array:
        flat = jacobian.reshape(-1, len(z))
        return algebra.product(flat, algebra.product(covariance, flat.T))

    return {name: one(jacobian) for name, jacobian in jacobians.items()}
