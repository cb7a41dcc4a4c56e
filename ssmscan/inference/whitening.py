r"""Noise as NUTS moves it: white given the data, at parameters near the middle of the posterior.

Where data say much about the states, noise outside the loop is the wrong thing to move: a step of one number moves all
states after it, and a parameter that scales the noise moves them all at once.  The Gaussian approximation
(`ssmscan.model.gaussian`) at one :math:`z^*`, unconstrained parameters, gives a feedback law, and NUTS moves its u,

.. math::  e_t = \bar e_t + \bar e'_t \delta + K_t (c_t - c_t^* - c'_t \delta) + L_t u_t, \qquad
           \delta = r \tanh((z - z^*) / r),

which given the data is nearly N(0, I): trees of 15 steps instead of 500 on counts with a trend.  Noise e then goes to
the density that NUTS always has.  The Jacobian of the map is constant (`ssmscan.model.gaussian.feedback`), so that the
approximation decides how fast NUTS is, and never what it samples: an engine that takes its likelihood from a filter
still shares nothing that computes one.  The mean path follows the parameters to first order, e' and c' by differences
between approximations half a standard deviation to each side, not further than r = 2 of them.

z* and the standard deviations are medians over the chains of what NumPyro's adaptation holds of a first look, the
beginning of a warm-up on noise as it is; a second look, on noise that the first has made white, finds them once more.
Where there is no approximation, u is the noise.

Osmundsen, Kleppe & Liesenfeld (2021), "Importance sampling-based transport map Hamiltonian Monte Carlo for Bayesian
hierarchical models", *JCGS* 30(4), have a Gaussian approximation at every theta, whose gradient then costs its search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.infer.hmc import HMCState

from ssmscan.errors import ModelError
from ssmscan.inference.element_noise import joined_noise, split_noise
from ssmscan.inference.prior_points import prior_point, shapes_of_point
from ssmscan.model.gaussian.feedback import (
    FeedbackLaw,
    Means,
    identity_law,
    law_of,
    noise_from,
    noise_into,
    usable,
)
from ssmscan.model.gaussian.fit import fit_vectors, prior_path
from ssmscan.model.gaussian.vectors import Coordinates, VectorModel, in_vectors
from ssmscan.model.protocols import Dynamics, Model, PyTree, Theta, Values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.panels import each_filter

LOOKS = 2
"""Looks with which a warm-up begins: on noise as it is, and on noise that the first has made white."""

LOOK = 99
"""Steps of a look, a fifth of the warm-up at most: one less than NumPyro's first window of scales ends with."""

LEAST_WARMUP = 50
"""Steps of a warm-up that is worth dividing."""

MOST_ROWS, MOST_PARAMETERS = 100, 100
"""Numbers of carry and noise of a step, and of parameters, above which the algebra costs more than it saves."""

PASSES = 25
"""Passes of one search at most; the second and later ones begin near their end."""

WHITEN_STREAM = 2**32 - 3
"""What is folded into the key of a run for the chains that begin on white noise."""

SIDE, REACH = 0.5, 2.0
"""Standard deviations between the middle and the approximations beside it, and r."""

T = TypeVar("T")
Map = Callable[[VectorModel, FeedbackLaw, Array, Array], tuple[Array, Array]]


class Guide(NamedTuple):
    """What u is to the noise; p unconstrained parameters as `jax.flatten_util.ravel_pytree` has them.

    Attributes:
        center: (p,) z*.
        reach: (p,) r.
        laws: of each loop, at z*; elements of a panel in front.
        slopes: how the means of each law change with the parameters, p behind.
    """

    center: Array | np.ndarray
    reach: Array | np.ndarray
    laws: tuple[FeedbackLaw, ...]
    slopes: tuple[Means, ...]


def steps_of_a_look(num_warmup: int) -> int:
    """Return how many steps of a warm-up are spent on each look."""
    return min(LOOK, num_warmup // 5) if num_warmup >= LEAST_WARMUP else 0


def adaptation(num_warmup: int, look: int) -> int:
    """Return how many steps of a warm-up come after looks of so many steps."""
    return num_warmup - LOOKS * look


def identity(ssm: StateSpaceModel) -> Guide | None:
    """Return the guide under which u is the noise; nothing is compiled for it.

    None where some of the noise that NUTS moves is not that of a Gaussian approximation, or there is too much of it.
    """
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes_of_point(ssm)))
    if parameters > MOST_PARAMETERS or any(core.program.places is not None for core in ssm.cores):
        return None
    noise = {name: tuple(spec.shape) for name, spec in ssm.smooth_noise.items()}
    found: dict[str, tuple[int, ...]] = {}
    laws = []
    for loop in ssm.loops:
        try:
            model, shapes = _in_vectors(loop)
        except ModelError:
            return None
        if model.replaced or model.coordinates.size + model.coordinates.step_size > MOST_ROWS:
            return None
        found |= shapes
        laws.append(_identity_law(model, () if loop.panel is None else (loop.panel.size,)))
    if found != noise:
        return None
    zeros = np.zeros(parameters, jnp.result_type(float))
    slopes = [jax.tree.map(lambda leaf: np.zeros((*leaf.shape, parameters), leaf.dtype), law.means) for law in laws]
    return Guide(zeros, zeros + 1, tuple(laws), tuple(slopes))


def _in_vectors(loop: StateSpaceModel) -> tuple[VectorModel, dict[str, tuple[int, ...]]]:
    """Return a loop in vectors, and the shapes of its noise as the model has them; nothing is computed."""
    kept: list[VectorModel] = []

    def write(key: Array) -> Values:
        def run(_: None, dynamics: Dynamics) -> Values:
            kept.append(in_vectors(dynamics))
            return kept[-1].by_site(*identity_law(kept[-1]).means[:2])

        found = each_filter(run, loop, loop.sample_start(key), None, together=True)
        return joined_noise(found, loop, kept[-1].coordinates)

    shapes = jax.eval_shape(write, jax.random.key(0))
    return kept[-1], {name: leaf.shape for name, leaf in shapes.items()}


def _identity_law(model: VectorModel, lead: tuple[int, ...]) -> FeedbackLaw:
    """Return the law under which u is the noise, on the host, with elements in front."""
    shapes = jax.eval_shape(lambda: identity_law(model))
    law = jax.tree.map(lambda leaf: np.zeros((*lead, *leaf.shape), leaf.dtype), shapes)

    def unit(leaf: np.ndarray) -> np.ndarray:
        return leaf + np.eye(leaf.shape[-1], dtype=leaf.dtype)

    return law._replace(initial_scale_tril=unit(law.initial_scale_tril), scale_tril=unit(law.scale_tril))


def noise_of(ssm: StateSpaceModel, guide: Guide, z: Theta, u: Values) -> Values:
    """Return noise by site from u by site."""
    return _through(noise_from, ssm, guide, z, u)


def white_of(ssm: StateSpaceModel, guide: Guide, z: Theta, noise: Values) -> Values:
    """Return u by site from noise by site; undoes `noise_of`."""
    return _through(noise_into, ssm, guide, z, noise)


def log_determinant(guide: Guide) -> Array:
    """Return the log of the constant Jacobian of the noise in u, a scalar."""
    return sum((law.log_determinant for law in guide.laws), jnp.zeros(()))


def _through(function: Map, ssm: StateSpaceModel, guide: Guide, z: Theta, noise: Values) -> Values:
    theta = ssm.constrain(z)
    change = guide.reach * jnp.tanh((ravel_pytree(z)[0] - guide.center) / guide.reach)
    out: Values = {}
    for loop, law, slopes in zip(ssm.loops, guide.laws, guide.slopes):
        means = jax.tree.map(lambda mean, slope: mean + jnp.sum(slope * change, axis=-1), law.means, slopes)
        own = {site.name: noise[site.name] for site in (*loop.initial, *loop.innovations)}
        out |= _through_one(function, loop, theta, law._replace(means=means), own)
    return out


def _through_one(function: Map, loop: Model, theta: Theta, law: FeedbackLaw, noise: Values) -> Values:
    kept: list[Coordinates] = []

    def run(_: None, dynamics: Dynamics, law: FeedbackLaw, noise: Values) -> Values:
        model = in_vectors(dynamics)
        kept.append(model.coordinates)
        return model.by_site(*function(model, law, *model.in_order(noise)))

    if loop.panel is None:
        return each_filter(partial(run, law=law, noise=noise), loop, theta, None)
    found = each_filter(run, loop, theta, None, law, split_noise(noise, loop), together=True)
    return joined_noise(found, loop, kept[-1])


def middle(states: HMCState, unit: Theta) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle of the parameters and their standard deviations, (p,) each, over the chains of a first look.

    NumPyro's adaptation holds mean and sum of squares of the draws in the present window; before the first window there
    are the points alone.
    """
    units = np.asarray(ravel_pytree(unit)[0], float)
    parameters = [np.asarray(leaf, float) for leaf in jax.tree.leaves(states.z["parameters"])]
    now = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in parameters] or [np.zeros((1, 0))], axis=1)
    mean, squares, count = (np.asarray(leaf, float) for leaf in states.adapt_state.mm_state)
    first = mean.shape[1] - now.shape[1]
    held = count[:, None] > 1
    mean = np.where(held, mean[:, first:], now)
    within = np.where(held, squares[:, first:] / np.maximum(count[:, None], 1), 0.0)
    center = np.median(mean, axis=0)
    sd = np.sqrt(np.median(within, axis=0) + np.median((mean - center) ** 2, axis=0))
    return center * units, np.where(sd > 0, sd, 0.1) * units


@jax.jit
def guide_at(ssm: StateSpaceModel, center: Array, sd: Array) -> Guide:
    """Build the guide around a middle, from approximations there and to both sides of it in every parameter."""
    unravel, p = ravel_pytree(prior_point(ssm, jax.random.key(0)))[1], len(center)
    aside = SIDE * jnp.diag(sd)
    points = center + jnp.concatenate([jnp.zeros((1, p)), aside, -aside])
    found = [_laws(loop, points, lambda z: ssm.constrain(unravel(z))) for loop in ssm.loops]
    slopes = tuple(_slopes(law.means, good, 2.0 * SIDE * sd) for law, good in found)
    return Guide(center, REACH * sd, jax.tree.map(lambda leaf: leaf[0], tuple(law for law, _ in found)), slopes)


def _laws(loop: Model, points: Array, theta_of: Callable[[Array], Theta]) -> tuple[FeedbackLaw, Array]:
    """Approximate a loop at many points; also returns which of the laws are approximations."""

    def at(z: Array, function: Callable[..., T], *of_element: PyTree) -> T:
        def run(_: None, dynamics: Dynamics, *rest: PyTree) -> T:
            return function(in_vectors(dynamics), *rest)

        if loop.panel is None:
            return each_filter(lambda _, dynamics: run(_, dynamics, *of_element), loop, theta_of(z), None)
        return each_filter(run, loop, theta_of(z), None, *of_element, together=True)

    def one(begin: Values, z: Array) -> tuple[Values, tuple[FeedbackLaw, Array]]:
        return at(z, _law, begin)

    # One after the other, each from the path before it: a search goes on until the last side by side has settled.
    return jax.lax.scan(one, at(points[0], prior_path), points)[1]


def _law(model: VectorModel, begin: Values) -> tuple[Values, tuple[FeedbackLaw, Array]]:
    """Approximate one element; also returns where the next search may begin, and whether there is a law."""
    found = fit_vectors(model, start=begin, max_passes=PASSES)
    law = law_of(found)
    good = found.finite & usable(law)
    law = jax.tree.map(partial(jnp.where, good), law, identity_law(model))
    path = model.by_site(found.initial_mean, found.mean)
    return jax.tree.map(partial(jnp.where, good), path, begin), (law, good)


def _slopes(means: Means, good: Array, distance: Array) -> Means:
    """Return differences between the two sides; zero where one of the three is no approximation.

    Args:
        means: (1 + 2 p, ...) at the middle, above it in every parameter, and below.
        good: (1 + 2 p,) or, for a panel, (1 + 2 p, M) which are approximations.
        distance: (p,) between the two sides.
    """
    p = len(distance)
    both = good[:1] & good[1 : p + 1] & good[p + 1 :]

    def one(leaf: Array) -> Array:
        fits = both.reshape(*both.shape, *(1,) * (leaf.ndim - both.ndim))
        slope = (leaf[1 : p + 1] - leaf[p + 1 :]) / distance.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.moveaxis(jnp.where(fits, slope, 0.0), 0, -1)

    return jax.tree.map(one, means)


def units_of(sd: np.ndarray, like: Theta) -> Theta:
    """Return units near the standard deviations, powers of two so that nothing is rounded."""
    flat, unravel = ravel_pytree(like)
    return unravel(jnp.asarray(np.exp2(np.round(np.log2(sd))), flat.dtype))


@jax.jit
def rewhitened(ssm: StateSpaceModel, before: Guide, after: Guide, z: Theta, u: Values) -> Values:
    """Return u by site of every chain under another guide; chains in front."""
    return jax.vmap(lambda z, u: white_of(ssm, after, z, noise_of(ssm, before, z, u)))(z, u)
