r"""The approximation of a linear Gaussian model, which is no approximation: the Kalman filter and smoother.

Any path will do, so nothing is searched.  One pass finds the smoothed path, a second goes back around it: there all
that is quadratic is small, which is what keeps the digits of float32.

**The score** needs no derivative of a pass.  With z = (c, e) under the smoothing law, by Fisher's identity for each
step and since the derivative of V is the expectation of that of what is ahead,

.. math::  \nabla_\theta \log p(y | \theta)
           = \sum_t E\left[\nabla_\theta \left(\ell_t(z_t; \theta) + V_{t+1}(f_t(z_t; \theta))\right)\right],

the law of z and V held fixed.  What is in brackets is quadratic in z, and its mean that over the points
:math:`\bar z \pm \sqrt{n} b_i`, :math:`b_i` the n columns of a factor of the covariance: one gradient of steps side by
side.  For Fisher's identity see Douc, Moulines & Stoffer (2014), *Nonlinear Time Series*, chapter 10; for the points
Arasaratnam & Haykin (2009), *IEEE Trans. Automat. Contr.* 54(6).

Where the quadratic form is that of no normal law, because a factor in the model outweighs the states, there is no
likelihood: NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.gaussian import algebra
from ssmscan.model.gaussian.backward import Gains
from ssmscan.model.gaussian.expansion import Expansion, Path, expand
from ssmscan.model.gaussian.law import Fit, result
from ssmscan.model.gaussian.search import Pass, back_with, follow, unmoved
from ssmscan.model.gaussian.vectors import VectorModel
from ssmscan.model.protocols import PyTree
from ssmscan.model.time_loops import scan_steps

PASSES = 2


def fit_linear(model: VectorModel) -> Fit:
    """Compute the smoothing law of a linear Gaussian model, and its likelihood."""
    return _fit(model, _smooth(model)[0])


@jax.custom_jvp
def log_likelihood(model: VectorModel) -> Array:
    """Compute the log likelihood of a linear Gaussian model, a scalar; NaN where its states have no normal law."""
    found = fit_linear(model)
    return jnp.where(found.definite, found.log_likelihood, jnp.nan)


@log_likelihood.defjvp
def _(primals: tuple[VectorModel], tangents: tuple[VectorModel]) -> tuple[Array, Array]:
    now, begin, steps = _smooth(*primals)
    found = _fit(primals[0], now)
    law = _smoothing(found, begin, steps)
    _, tangent = jax.jvp(lambda model: _expected(model, law, found.carry_trees), primals, tangents)
    nothing = jnp.full((), jnp.nan)
    return jnp.where(found.definite, found.log_likelihood, nothing), jnp.where(found.definite, tangent, nothing)


def _fit(model: VectorModel, now: Pass) -> Fit:
    finite = jnp.isfinite(jnp.sum(now.path.log_weights))
    return result(model, now, jnp.full((), PASSES, np.int32), finite & now.definite, finite & now.definite)


def _smooth(model: VectorModel) -> tuple[Pass, Expansion, Expansion]:
    """Go back around the smoothed path, and return the expansions of the start and of the steps there."""
    coordinates = model.coordinates

    def around(state: tuple[Path, Gains, Gains], _: None) -> tuple[tuple[Path, Gains, Gains], tuple]:
        # Where the path lies is of no consequence for the value, and so for its derivatives.
        path = follow(model, *lax.stop_gradient(state), jnp.ones(()))
        begin, steps = expand(model, path)
        found = back_with(begin, steps, (begin.full, steps.full), path)
        return (path, found.first, found.gains), (found, begin, steps)

    noise = jnp.zeros((model.num_steps, coordinates.step_size))
    nowhere = unmoved(model, jnp.zeros(coordinates.initial_size), noise)
    # A loop of two, for it is compiled once.
    _, found = lax.scan(around, nowhere, length=PASSES)
    return jax.tree.map(lambda x: x[-1], found)


class Smoothing(NamedTuple):
    """The smoothing law of noise and carries, and what is ahead; T in front of all but what is of the start.

    Attributes:
        initial: points (2 m_0, m_0) of the noise of the start.
        points: (T, 2 n, n) of carry and noise of each step, n = d + m.
        ahead: carry, p and P of the value function after the start and after each step, T + 1 in front.
    """

    initial: Array
    points: Array
    ahead: tuple[Array, Array, Array]


def _smoothing(found: Fit, begin: Expansion, steps: Expansion) -> Smoothing:
    """Follow the covariances forward."""
    gains, product = found.gains, algebra.product
    d, m = gains.feedback.shape[2], gains.feedback.shape[1]

    def step(covariance: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        transition, feedback, scale_tril = inputs
        closed = transition[:, :d] + product(transition[:, d:], feedback)
        own = product(transition[:, d:], scale_tril)
        after = product(closed, product(covariance, closed.T)) + product(own, own.T)
        return algebra.symmetric(after), covariance

    spread = product(begin.transition, found.initial_scale_tril)
    inputs = steps.transition, gains.feedback, gains.scale_tril
    _, covariances = scan_steps(step, product(spread, spread.T), inputs)
    values, vectors = jnp.linalg.eigh(covariances)
    of_carry = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None, :]
    of_noise = jnp.concatenate([gains.feedback @ of_carry, gains.scale_tril], axis=2)
    columns = jnp.concatenate([jnp.pad(of_carry, ((0, 0), (0, 0), (0, m))), of_noise], axis=1)
    means = jnp.concatenate([found.carries[:-1], found.mean], axis=1)

    def with_end(x: Array) -> Array:
        return jnp.concatenate([x, jnp.zeros_like(x[:1])])

    ahead = found.carries, with_end(gains.gradient), with_end(gains.curvature)
    return Smoothing(_points(found.initial_mean, found.initial_scale_tril), jax.vmap(_points)(means, columns), ahead)


def _points(mean: Array, columns: Array) -> Array:
    """Return points over which the mean of a quadratic function is its expectation."""
    away = np.sqrt(len(mean)).astype(mean.dtype) * columns.T
    return jnp.concatenate([mean + away, mean - away]) if len(mean) else mean[None]


def _expected(model: VectorModel, law: Smoothing, carries: PyTree) -> Array:
    """Compute the expectation of log weights and of what is ahead under a smoothing law that is held fixed."""
    coordinates = model.coordinates
    d = coordinates.size

    def value(carry: PyTree, log_weight: Array, ahead: tuple[Array, Array, Array]) -> Array:
        nominal, gradient, curvature = ahead
        moved = coordinates.of_carry(carry) - nominal
        return log_weight + jnp.sum(moved * (gradient - 0.5 * algebra.product(curvature, moved)))

    def start(noise: Array) -> Array:
        carry, log_weight, _ = model.start(noise)
        return value(carry, log_weight, jax.tree.map(lambda x: x[0], law.ahead))

    def step(z: Array, carry: PyTree, x: PyTree, ahead: tuple[Array, Array, Array]) -> Array:
        after, log_weight, _ = model.step(coordinates.into(carry, z[:d]), x, z[d:])
        return value(after, log_weight, ahead)

    each = jax.vmap(jax.vmap(step, in_axes=(0, None, None, None)))
    later = jax.tree.map(lambda x: x[1:], law.ahead)
    total = jnp.sum(jnp.mean(each(law.points, carries, model.xs, later), axis=1))
    return total + jnp.mean(jax.vmap(start)(law.initial))
