r"""Exact draws of a posterior: parameters from the prior, states given them, and data made of both.

.. math::  \theta \sim p(\theta), \quad x \sim p(x | \theta), \quad y \sim p(y | x, \theta)
           \qquad \Longrightarrow \qquad (\theta, x) \sim p(\theta, x | y)

so that (theta, x) is one draw of the posterior given *these* data, and nothing else is needed to know one (Cook,
Gelman & Rubin 2006; Geweke 2004, *JASA* 99, section 3).  Data that are not finite are left out, which is allowed: given
the data nothing else is selected.  The draws come from `StateSpaceModel.simulate`, the model run forward as it was
written; what is tested against them moves by noise.

**New data in old arguments.**  Which element of which argument is observed where is found by running the model's own
data code over numbered arguments: an observed element that carries the number of an argument's element is that element.
A model that computes what it observes from its arguments has no such places, and says so.  Missing elements stay
missing.  What is drawn for them, and under a mask, follows the states and is not among the data that a kernel is given:
a statistic of it would change with the states though their law does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.inference.importance_points import lawless
from ssmscan.model.protocols import Theta, Values
from ssmscan.model.sites import Role
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.filter import ParticleFilter

OBSERVED = (Role.OBSERVATION, Role.START_OBSERVATION, Role.POST_LOOP_OBSERVATION, Role.PARAMETER_LIKELIHOOD)

TWO_PATHS = ParticleFilter(2, summaries=())
DRAWS = 3
"""Draws at which the likelihood depends on an element that is observed."""


class Place(NamedTuple):
    """Where elements of an argument are observed.

    Attributes:
        argument: number of the array argument.
        site: the site that observes them.
        to: (n,) flat numbers of the elements of the argument.
        of: (n,) flat numbers of the elements of the site.
    """

    argument: int
    site: str
    to: np.ndarray
    of: np.ndarray


@dataclass(frozen=True, eq=False)
class Places:
    """How simulated data enter a model; each is itself alone, so that it can select a compiled program.

    Attributes:
        places: where.
        missing: by site, which of its elements have no value in the data, of the shape of the site.
        silent: by site, which of its elements say nothing of the states: missing ones, and those under a mask.
        reason: why there are none, a clause; empty where all that is observed has its place.
    """

    places: tuple[Place, ...]
    missing: dict[str, np.ndarray]
    reason: str
    silent: dict[str, np.ndarray] = field(default_factory=dict)


class ExactDraw(NamedTuple):
    """One exact draw of the posterior of the data that it comes with.

    Attributes:
        theta: the parameters.
        states: the latent sites.
        data: observed sites, zero where a value is missing or masked.
        ssm: the model over these data.
        usable: whether the data, and the draw in unconstrained space, are finite.
    """

    theta: Theta
    states: Values
    data: Values
    ssm: StateSpaceModel
    usable: jax.Array


def find_places(ssm: StateSpaceModel) -> Places:
    """Find which elements of the arguments are observed, and whether the model can be run forward at all."""
    sites = [site for core in ssm.cores for site in core.traced_sites]
    if names := lawless(ssm):
        return Places((), {}, f"the prior of {_quoted(names)} is no law to draw from")
    if names := [site.name for site in sites if site.scaled and (site.latent or site.observed)]:
        return Places((), {}, f"a handler scales the density of {_quoted(names)}, which is then no law of data")
    if names := [site.name for site in sites if site.latent and not site.drawable]:
        return Places((), {}, f"{_quoted(names)} cannot be drawn")
    if names := [site.name for site in sites if site.observed and site.family == "Unit"]:
        return Places((), {}, f"{_quoted(names)} is a factor, which is no law of data")
    observed = ssm.observed
    wanted = {site.name for site in ssm.sites if site.role in OBSERVED}
    if names := sorted(wanted - observed.keys()):
        return Places((), {}, f"the model computes what {_quoted(names)} observes")
    places, seen = [], {name: np.zeros(observed[name].shape, bool) for name in wanted}
    for argument, site, to, of in _moved(ssm):
        if site in wanted:
            places.append(Place(argument, site, to, of))
            seen[site].ravel()[of] = True
    missing = {name: _missing(observed[name]) for name in wanted}
    if names := sorted(name for name in wanted if not (seen[name] | missing[name]).all()):
        return Places((), {}, f"the model computes what {_quoted(names)} observes from its arguments")
    found = Places(tuple(places), missing, "", missing)
    masked = {site.name for site in sites if site.masked_data} & wanted
    silent = {name: _silent(ssm, found, name) if name in masked else missing[name] for name in wanted}
    return replace(found, silent=silent)


def draw_exactly(key: jax.Array, ssm: StateSpaceModel, places: Places) -> ExactDraw:
    """Draw parameters, states and data, and put the data into the model; works under jit and vmap.

    Args:
        key: PRNG key.
        ssm: the model.
        places: of `find_places`.
    """
    key_theta, key_path = jax.random.split(key)
    theta = ssm.sample_prior(key_theta)
    drawn = ssm.simulate(key_path, theta)
    data = {name: drawn[name] for name in places.missing}
    over = with_simulated(ssm, places, data)
    data = {name: jnp.where(places.silent[name], jnp.zeros_like(drawn), drawn) for name, drawn in data.items()}
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((ssm.unconstrain(theta), data))]
    states = {site.name: drawn[site.name] for site in (*ssm.initial, *ssm.innovations)}
    return ExactDraw(theta, states, data, over, jnp.stack(finite).all())


def with_simulated(ssm: StateSpaceModel, places: Places, data: Values) -> StateSpaceModel:
    """Put data by site into the model; elements that are missing stay so."""
    count = 1 + max((place.argument for place in places.places), default=-1)
    arrays = list(ssm.cores[0].arrays[:count])
    for number, site, to, of in places.places:
        value = jnp.asarray(data[site])
        if places.missing[site].any():
            value = jnp.where(places.missing[site], jnp.nan, value)
        flat = arrays[number].reshape(-1).at[to].set(value.reshape(-1)[of].astype(arrays[number].dtype))
        arrays[number] = flat.reshape(arrays[number].shape)
    return ssm.over(arrays)


def _silent(ssm: StateSpaceModel, places: Places, site: str) -> np.ndarray:
    """Return which elements of a masked site the likelihood does not depend on, at some draw of all else.

    A derivative of the estimate of a filter tells, with as few particles as it takes.  Whole numbers have none, and
    all of them count as silent.
    """
    dtype = ssm.observed[site].dtype
    if not jnp.issubdtype(dtype, jnp.inexact):
        return np.ones(places.missing[site].shape, bool)

    def log_likelihood(value: jax.Array, key: jax.Array, draw: ExactDraw) -> jax.Array:
        over = with_simulated(ssm, places, {**draw.data, site: value})
        return TWO_PATHS.run(key, over, draw.theta).log_likelihood

    @jax.jit
    def depends(key: jax.Array) -> jax.Array:
        draw = draw_exactly(key, ssm, places)
        slope = jax.grad(log_likelihood)(draw.data[site], key, draw)
        return jnp.isfinite(slope) & (slope != 0)

    keys = jax.random.split(jax.random.key(0), DRAWS)
    return ~np.logical_and.reduce([np.asarray(depends(key)) for key in keys])


def _moved(ssm: StateSpaceModel) -> list[tuple[int, str, np.ndarray, np.ndarray]]:
    """Return (argument, site, elements of the argument, elements of the site) for all that is observed as it is."""
    arrays = list(ssm.source.arrays) if ssm.source is not None else []
    found = []
    for number, array in enumerate(arrays):
        if not (jnp.issubdtype(array.dtype, jnp.number) and array.size):
            continue
        # Two numberings, so that what happens to be equal to a number is not taken for it.
        first, second = (
            ssm.over([*arrays[:number], _numbered(array, shift), *arrays[number + 1 :]]).observed
            for shift in (1, array.size + 1)
        )
        for site, value in first.items():
            tag = np.asarray(value, np.float64).ravel() - 1
            again = np.asarray(second[site], np.float64).ravel() - array.size - 1
            of = np.flatnonzero((tag == again) & (tag >= 0) & (tag < array.size) & (tag == np.round(tag)))
            if of.size:
                found.append((number, site, tag[of].astype(int), of))
    return found


def _numbered(array: jax.Array, first: int) -> jax.Array:
    return (jnp.arange(array.size) + first).reshape(array.shape).astype(array.dtype)


def _missing(value: np.ndarray) -> np.ndarray:
    return np.isnan(value) if np.issubdtype(value.dtype, np.floating) else np.zeros(value.shape, bool)


def _quoted(names: object) -> str:
    return ", ".join(f"'{name}'" for name in dict.fromkeys(names))  # type: ignore[call-overload]
