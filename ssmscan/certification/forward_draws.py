r"""Are states drawn from the law that the model says?  Three ways to run it forward, at the same parameters.

    noise       `init` and `step`, which move particles by base noise
    simulate    `StateSpaceModel.simulate`, from which exact draws and data come
    NumPyro     the model as it was written, run forward by NumPyro

The second and the first share the staged model, the third nothing but the distributions.  The second is left out
where states depend on data, for it has others.  The mean of every statistic
is compared with that of the third.  Of each latent site these are, standardised and bounded as in `replicates`, the
first and the last value, the mean over time, the logarithm of the mean square of its steps, and the squares of all:
places, spreads and moves.  The evidence of the same runs (`densities`) weighs them by the data and sees much less.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssmscan.certification.certificate import visible, z_threshold
from ssmscan.certification.exact_draws import draw_exactly, find_places
from ssmscan.errors import ModelError
from ssmscan.model.handlers import original
from ssmscan.model.handlers.stack import exclusive
from ssmscan.model.protocols import PyTree, Theta, Values
from ssmscan.model.statespace import data
from ssmscan.model.statespace.dynamics import draw_noise
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.site_check import names

BATCH, THETAS = 500, 3


class ForwardDraws(NamedTuple):
    """The statistic that is furthest off.

    Attributes:
        name: of the statistic, and which way differs.
        site: whose statistic it is.
        z: the difference in standard errors.
        threshold: what |z| may be.
        compared: comparisons.
        visible: the smallest shift of a statistic, in its sds, that would be seen.
        ways: which were compared with NumPyro.
    """

    name: str
    site: str
    z: float
    threshold: float
    compared: int
    visible: float
    ways: tuple[str, ...]


@exclusive
def compare_draws(key: jax.Array, ssm: StateSpaceModel, num_runs: int, error_rate: float) -> ForwardDraws:
    """Compare states that are drawn in three ways, at a few draws of the parameters.

    Args:
        key: PRNG key.
        ssm: a model of few steps.
        num_runs: runs of each way at each draw.
        error_rate: of all comparisons together.

    Raises:
        ModelError: there are no states, or NumPyro does not run the model forward.
    """
    labels = _labels(ssm)
    if not labels:
        raise ModelError("the model has no states, so there is nothing to draw forward.")
    source = ssm.source
    assert source is not None
    arrays = data.filled(source.arrays) if ssm.has_gaps else source.arrays
    sites, latent = names(ssm.cores), {site for site, _ in labels}

    def by_numpyro(theta: Theta, key: jax.Array) -> Values:
        found = original.forward(key, lambda: source.call(arrays), sites, theta).values
        return {name: found[name] for name in latent}

    ways: dict[str, Callable] = {"noise": partial(_by_noise, ssm)}
    if not _reads_data(jax.random.fold_in(key, THETAS), ssm):
        ways["simulate"] = partial(_simulated, ssm, latent)
    z, every = [], []
    compiled = {name: jax.jit(partial(_many, way)) for name, way in {**ways, "NumPyro": by_numpyro}.items()}
    for number in range(THETAS):
        own = jax.random.split(jax.random.fold_in(key, number), 2 + len(compiled))
        theta = ssm.sample_prior(own[0])
        try:
            found = {
                name: np.asarray(run(theta, jax.random.split(k, num_runs)), float)
                for (name, run), k in zip(compiled.items(), own[1:])
            }
        except original.NoDensity as error:
            raise ModelError(f"NumPyro does not run the model forward over its data ({error}).") from None
        middle = np.median(found["NumPyro"], axis=0)
        spread = 1.4826 * np.median(np.abs(found["NumPyro"] - middle), axis=0)
        spread = np.where(spread > 0, spread, np.where((sd := found["NumPyro"].std(axis=0)) > 0, sd, 1.0))
        bounded = {name: np.tanh((values - middle) / (2 * spread)) for name, values in found.items()}
        both = {name: np.concatenate([g, g**2], axis=1) for name, g in bounded.items()}
        for way in ways:
            z.append(_z(both[way], both["NumPyro"]))
            every += [(f"{what} of '{site}' by {way}", site) for what, site in _doubled(labels)]
    flat = np.concatenate(z)
    threshold = z_threshold(len(flat), error_rate)
    worst = int(np.argmax(np.abs(flat)))
    smallest = float(visible(np.sqrt(2 / num_runs), threshold))
    return ForwardDraws(*every[worst], float(flat[worst]), threshold, len(flat), smallest, tuple(ways))


def _z(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the differences of means in standard errors; statistics that are no numbers on one side differ."""
    bad = ~np.isfinite(ours).all(axis=0) ^ ~np.isfinite(theirs).all(axis=0)
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    error = np.sqrt((ours.var(axis=0, ddof=1) + theirs.var(axis=0, ddof=1)) / len(ours))
    same = np.abs(difference) <= 1e-6
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.where(same, 0.0, difference / error)
    return np.where(bad, np.inf, np.nan_to_num(z, nan=0.0, posinf=np.inf, neginf=-np.inf))


def _many(way: Callable[[Theta, jax.Array], Values], theta: Theta, keys: jax.Array) -> jax.Array:
    return lax.map(lambda key: _statistics(way(theta, key)), keys, batch_size=BATCH)


def _by_noise(ssm: StateSpaceModel, theta: Theta, key: jax.Array) -> Values:
    """Move one particle through every loop."""
    values: Values = {}
    for number, loop in enumerate(ssm.loops):
        start_key, step_key = jax.random.split(jax.random.fold_in(key, number))
        bound = loop.at(theta)

        def body(carry: PyTree, inputs: tuple, bound: Any = bound) -> tuple[PyTree, Values]:
            moved = bound.step(carry, *inputs)
            return moved.carry, {site.name: moved.values[site.name] for site in bound.innovations}

        start = bound.init(draw_noise(start_key, bound.initial_noise))
        noise = draw_noise(step_key, bound.step_noise, bound.num_steps)
        values |= {site.name: start.values[site.name] for site in loop.initial}
        values |= lax.scan(body, start.carry, (bound.xs, noise))[1]
    return values


def _reads_data(key: jax.Array, ssm: StateSpaceModel) -> bool:
    """Return whether states depend on data, as where a model reads y[t - 1]: simulated ones then have other data."""
    places = find_places(ssm)
    if places.reason:
        return True

    @jax.jit
    def both(key: jax.Array, ssm: StateSpaceModel) -> tuple[Values, Values]:
        draw = draw_exactly(key, ssm, places)
        return _by_noise(ssm, draw.theta, key), _by_noise(draw.ssm, draw.theta, key)

    first, second = both(key, ssm)
    return not all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)


def _simulated(ssm: StateSpaceModel, latent: set[str], theta: Theta, key: jax.Array) -> Values:
    drawn = ssm.simulate(key, theta)
    return {name: drawn[name] for name in latent}


def _statistics(values: Values) -> jax.Array:
    """Return the statistics of one run, in the order of `_labels`."""
    found = []
    for name in sorted(values):
        value = jnp.asarray(values[name], float)
        found.append(value.reshape(-1)[0])
        if value.ndim and value.size > 1:
            moves = jnp.mean(jnp.diff(value, axis=0) ** 2) if value.shape[0] > 1 else jnp.zeros(())
            found += [value.reshape(-1)[-1], jnp.mean(value), jnp.log(moves + 1e-30)]
    return jnp.stack(found)


def _labels(ssm: StateSpaceModel) -> list[tuple[str, str]]:
    """Return (site, statistic) for each statistic."""
    found = []
    lengths = {site.name: core.num_steps for core in ssm.cores for site in core.innovations}
    for site in sorted((*ssm.initial, *ssm.innovations), key=lambda site: site.name):
        size = int(np.prod(site.shape)) * lengths.get(site.name, 1)
        whats = ["first value"]
        if size > 1:
            whats += ["last value", "mean", "log mean square move"]
        found += [(site.name, what) for what in whats]
    return found


def _doubled(labels: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (statistic, site), the squares last."""
    return [(what, site) for site, what in labels] + [(f"square of the {what}", site) for site, what in labels]
