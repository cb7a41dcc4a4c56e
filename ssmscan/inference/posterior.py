r"""The posterior with the noise outside the loop: what gradient engines sample.

With unconstrained parameters z and base noise e of all innovations and initial states, the model is

.. math:: \pi(z, e) \propto p(\theta(z)) \, |d\theta/dz| \; \prod_i N(e_i; 0, 1) \; L(\theta, e),

a *reference* (prior of the parameters, standard normal noise) times a likelihood L that includes the observed
sites the loop does not reach, the corrections of inexact noise maps, and what a mask or a scale makes of a prior:
the reference is the law that prior draws have.  NUTS samples the product; tempering
raises L alone to a power.  A point is the pair ``Position(parameters, noise)``.

The "noise" of a state without a smooth map is the unconstrained value of the state, and its density in the reference
that of the state given those before it (`ssmscan.model.noise.in_place`).  Where discrete states are summed out, which
its law may depend on, it is N(0, 1) in the reference, and the law is part of L.

Papaspiliopoulos, Roberts, Skoeld (2007), *Statistical Science* 22(1), 59-73, on why non-centring mixes well
where data are weak; with very informative observations the states are better sampled as they are.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from ssmscan.model.jaxprs.placeholders import sum_of
from ssmscan.model.protocols import Theta, Values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.marginal import Densities
from ssmscan.model.statespace.paths import smooth_noise
from ssmscan.model.statespace.places import put_in_place


class Position(NamedTuple):
    """A point of the noise-outside space.

    Attributes:
        parameters: site name -> unconstrained value.
        noise: site name -> standard normal base noise, or the unconstrained value, (T, ...) for sites in the loop.
    """

    parameters: Theta
    noise: Values


def log_reference(ssm: StateSpaceModel, position: Position) -> jax.Array:
    """Evaluate the log density of what `sample_reference` draws, normalised."""
    reference = _log_normal(ssm, position) + _log_normal_in_place(ssm, position)
    return reference + _densities(ssm, position).law if _has_law(ssm) else reference


def log_likelihood(ssm: StateSpaceModel, position: Position) -> jax.Array:
    """Evaluate log L, everything that is not the reference."""
    _, reweighting = ssm.log_law_unconstrained(position.parameters)
    return _densities(ssm, position).likelihood + reweighting - _log_normal_in_place(ssm, position)


def log_posterior(ssm: StateSpaceModel, position: Position) -> jax.Array:
    """Evaluate the unnormalised log density of the posterior: the sum of the two, without what cancels."""
    _, reweighting = ssm.log_law_unconstrained(position.parameters)
    densities = _densities(ssm, position)
    return _log_normal(ssm, position) + densities.likelihood + reweighting + densities.law


def _log_normal(ssm: StateSpaceModel, position: Position) -> jax.Array:
    """Evaluate the law of the parameters, and N(0, I) of noise."""
    log_law, _ = ssm.log_law_unconstrained(position.parameters)
    placed = {name for core in ssm.cores if (places := core.program.places) for name in places.sites}
    noise = [leaf for name, leaf in position.noise.items() if name not in placed]
    return log_law + sum((norm.logpdf(leaf).sum() for leaf in noise), jnp.zeros_like(log_law))


def _log_normal_in_place(ssm: StateSpaceModel, position: Position) -> jax.Array:
    """Evaluate N(0, I) of the states in place that have it in the reference."""
    without = [core.program.places for core in ssm.cores if not core.program.marginal.has_law]
    names = [name for places in without if places for name in places.sites]
    return sum_of(norm.logpdf(position.noise[name]).sum() for name in names)


def _densities(ssm: StateSpaceModel, position: Position) -> Densities:
    theta = ssm.constrain(position.parameters)
    found = []
    for core in ssm.cores:
        noise = {name: position.noise[name] for name in smooth_noise(core)}
        found.append(core.program.marginal.log_densities(core, theta, noise))
    return found[0] if len(found) == 1 else Densities(*map(sum_of, zip(*found)))


def _has_law(ssm: StateSpaceModel) -> bool:
    return any(core.program.marginal.has_law for core in ssm.cores)


def sample_noise(key: jax.Array, ssm: StateSpaceModel) -> Values:
    """Draw the base noise of one whole series."""
    specs = ssm.smooth_noise
    keys = jax.random.split(key, max(len(specs), 1))
    return {name: jax.random.normal(k, spec.shape) for k, (name, spec) in zip(keys, specs.items())}


def num_coordinates(ssm: StateSpaceModel) -> int:
    """Count the coordinates of a point; none are left where a model has no parameters and its states are summed out."""
    shapes = jax.eval_shape(lambda: sample_reference(jax.random.key(0), ssm))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def sample_reference(key: jax.Array, ssm: StateSpaceModel) -> Position:
    """Draw from the prior of z and the noise."""
    key_parameters, key_noise = jax.random.split(key)
    theta, noise = ssm.sample_prior(key_parameters), sample_noise(key_noise, ssm)
    for number, core in enumerate(ssm.cores):
        if core.program.marginal.has_law:
            noise |= put_in_place(jax.random.fold_in(key_noise, number), core, theta, noise)
    return Position(ssm.unconstrain(theta), noise)


def start_noise(key: jax.Array, ssm: StateSpaceModel, z: Theta) -> Values:
    """Choose noise to start a chain at: small, and states in place near the middle of their law.

    The middle is the ninther of nine paths, coordinate by coordinate, the median of the medians of three (Tukey 1978):
    heavy tails do not move it, and nothing is sorted, which takes long to compile.
    """
    noise, theta = jax.tree.map(lambda e: 0.1 * e, sample_noise(key, ssm)), ssm.constrain(z)
    for number, core in enumerate(ssm.cores):
        if core.program.places is not None:
            keys = jax.random.split(jax.random.fold_in(key, number), 9)
            # One after the other, which is compiled in half the time.
            drawn = jax.lax.map(partial(put_in_place, core=core, theta=theta, noise=noise), keys)
            noise |= jax.tree.map(_ninther, drawn)
    return noise


def _ninther(values: jax.Array) -> jax.Array:
    return _median_of_three(_median_of_three(values.reshape(3, 3, *values.shape[1:])))


def _median_of_three(values: jax.Array) -> jax.Array:
    a, b, c = values
    return jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
