r"""Where chains of NUTS start, and the unit of each parameter.

NumPyro's kernel begins with unit mass and shrinks each variance that it learns towards 1e-3, which is too much for a
parameter that is small by nature, a daily return.  Noise has sd 1 in the prior; an unconstrained parameter z moves
as :math:`u = z / s`, where s is its sd in the prior,

.. math:: \log s = E \log |z - z'| + \gamma / 2, \quad z, z' \text{ independent draws of the prior,}

or 1 if that is less: data may say much about a parameter with a wide prior, and the shrinkage would be too much in a
large unit.  This is exact for a normal prior, and finite with heavy tails (:math:`\gamma`, Euler's constant).  It is
rounded to a power of two, so that a product with it has no rounding error.

A chain starts at the point with the highest density among `CANDIDATES`: every other one has parameters in the middle of
the prior, each the median of three draws, and the rest have them uniform on (-2, 2) in unconstrained space, as
NumPyro's, since a wide prior says hardly where to start.  So few leave chains spread more widely than the posterior.
Further candidates follow while none has a finite density and gradient.  Noise is small.

Units and candidates are made on the host, of prior draws that are the same at every call: nothing is compiled for them
but the sampler of the prior.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import ParamInfo

from ssmscan.inference.going_on import words
from ssmscan.inference.posterior import sample_noise, start_noise
from ssmscan.inference.prior_points import prior_points, shapes_of_point
from ssmscan.inference.progress import compile_timed
from ssmscan.model.protocols import Theta, Values
from ssmscan.model.statespace.front import StateSpaceModel

CANDIDATES = 8
INIT_ATTEMPTS = 100
INIT_RADIUS = 2.0
PRIOR_DRAWS = 256
MOST_HALVINGS = 60
"""A unit is at least 1 / 2 to this power: single precision holds its square."""


class Beginning(NamedTuple):
    """What there is before the first density.

    Attributes:
        candidates: unconstrained parameters, (chains, `INIT_ATTEMPTS`, ...).
        unit: of each parameter.
        noise: (chains, ...) by site, of the points to go on from.
        goes_on: () bool, whether the first candidate and that noise are the point, whatever its density.
    """

    candidates: Theta
    unit: Theta
    noise: Values
    goes_on: jax.Array | np.ndarray


def beginning(key: jax.Array, ssm: StateSpaceModel, num_chains: int) -> tuple[Beginning, float]:
    """Choose units and candidates; also returns the seconds that compiling took."""
    candidates, units, seconds = candidates_and_units(key, ssm, num_chains)
    return Beginning(candidates, units, _no_noise(ssm, num_chains), np.asarray(False)), seconds


def candidates_and_units(key: jax.Array, ssm: StateSpaceModel, num_chains: int) -> tuple[Theta, Theta, float]:
    """Choose candidates of each chain, and the unit of each parameter; also returns the seconds that compiling took."""
    keys = jax.random.split(jax.random.key(0), PRIOR_DRAWS)
    draw, seconds = compile_timed(prior_points, keys, ssm)
    draws = jax.tree.map(np.asarray, draw(keys, ssm))
    candidates = partial(_candidates, np.random.default_rng(words(key)), num_chains)
    return jax.tree.map(candidates, draws), jax.tree.map(_unit, draws), seconds


def at_points(z: Theta, noise: Values, unit: Theta) -> Beginning:
    """Begin at points that there are, unconstrained parameters and noise of each chain."""

    def all_of_them(leaf: np.ndarray) -> np.ndarray:
        return np.repeat(np.asarray(leaf)[:, None], INIT_ATTEMPTS, axis=1)

    return Beginning(jax.tree.map(all_of_them, z), unit, noise, np.asarray(True))


def _no_noise(ssm: StateSpaceModel, num_chains: int) -> Values:
    shapes = jax.eval_shape(partial(sample_noise, ssm=ssm), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros((num_chains, *leaf.shape), leaf.dtype), shapes)


def shapes_of_beginning(ssm: StateSpaceModel, num_chains: int) -> Beginning:
    """Return the shapes of `beginning`, for which nothing is compiled."""
    candidates, unit = shapes_of_candidates(ssm, num_chains)
    return Beginning(candidates, unit, _no_noise(ssm, num_chains), np.asarray(False))


def shapes_of_candidates(ssm: StateSpaceModel, num_chains: int) -> tuple[Theta, Theta]:
    """Return the shapes of candidates and units, for which nothing is compiled."""
    one = shapes_of_point(ssm)

    def many(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_chains, INIT_ATTEMPTS, *leaf.shape), leaf.dtype)

    return jax.tree.map(many, one), one


def _candidates(rng: np.random.Generator, num_chains: int, draws: np.ndarray) -> np.ndarray:
    """Choose for one site: from the prior and uniform, by turns."""
    shape = (num_chains, INIT_ATTEMPTS // 2)
    middle = np.median(draws[rng.integers(PRIOR_DRAWS, size=(3, *shape))], axis=0)
    uniform = rng.uniform(-INIT_RADIUS, INIT_RADIUS, middle.shape)
    both = np.stack([middle, uniform], axis=2)
    return both.reshape(num_chains, -1, *draws.shape[1:]).astype(draws.dtype)


def _unit(draws: np.ndarray) -> np.ndarray:
    """Return the sd of each coordinate of one site, as a power of two; 1 if it is more or all draws are the same."""
    with np.errstate(all="ignore"):
        logs = np.log(np.abs(draws[::2].astype(float) - draws[1::2]))
    usable = np.isfinite(logs)
    mean = np.where(usable, logs, 0.0).sum(0) / np.maximum(usable.sum(0), 1)
    doublings = np.round((mean + np.euler_gamma / 2) / np.log(2))
    doublings = np.where(usable.any(0), np.clip(doublings, -MOST_HALVINGS, 0.0), 0.0)
    return np.exp2(doublings).astype(draws.dtype)


def in_units(u: Theta, unit: Theta) -> Theta:
    """Return the unconstrained parameters that are u in these units."""
    return jax.tree.map(jnp.multiply, u, unit)


def starting_point(
    key: jax.Array, ssm: StateSpaceModel, potential: Callable[[dict], jax.Array], begun: Beginning
) -> tuple[ParamInfo, jax.Array]:
    """Find a point to start a chain at.

    Args:
        key: of the chain.
        ssm: the model.
        potential: of the point {"parameters": in units, "noise": ...}.
        begun: the candidates of this chain, and the units.

    Returns:
        The point with its potential energy and gradient, and whether one was found.
    """

    def evaluate(key: jax.Array, number: jax.Array) -> ParamInfo:
        z = jax.tree.map(lambda leaf: leaf[number], begun.candidates)
        u = jax.tree.map(jnp.divide, z, begun.unit)
        noise = jax.tree.map(partial(jnp.where, begun.goes_on), begun.noise, start_noise(key, ssm, z))
        position = {"parameters": u, "noise": noise}
        return ParamInfo(position, *jax.value_and_grad(potential)(position))

    def attempt(carry: tuple) -> tuple:
        key, best, found, attempts = carry
        key, key_noise = jax.random.split(key)
        new = evaluate(key_noise, attempts)
        checks = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((new.potential_energy, new.z_grad))]
        usable = jnp.stack(checks).all()
        better = usable & (~found | (new.potential_energy < best.potential_energy))
        best = jax.tree.map(partial(jnp.where, better), new, best)
        return key, best, found | usable, attempts + 1

    def unfinished(carry: tuple) -> jax.Array:
        _, _, found, attempts = carry
        return attempts < jnp.where(begun.goes_on, 1, jnp.where(found, CANDIDATES, INIT_ATTEMPTS))

    attempts = jnp.array(0, jnp.int32)
    shapes = jax.eval_shape(evaluate, key, attempts)
    nowhere = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    _, point, found, _ = jax.lax.while_loop(unfinished, attempt, (key, nowhere, jnp.array(False), attempts))
    return point, found
