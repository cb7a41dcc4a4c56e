r"""Forecasts from every origin at one draw of the parameters: densities of what came, and draws of what might have.

From each origin t the carries of a filter (`ssmscan.particles.before_steps`) go on by the model's own dynamics, K of
them, with observations drawn where they are not known yet and fed to whatever reads them.  h steps ahead,

.. math::  \log p(y_{t+h} | y_{1:t}, \theta) \approx \log \frac1K \sum_k p(y_{t+h} | c^{(k)}_{t+h-1}, \theta),

with the innovations of step t + h drawn and integrated out by the same mean, whose exponential is unbiased.  One step
ahead it is the increment of the filter, which has all its particles, or is exact.

The work is (2 + H K / N) times that of a filter of N particles, H being the largest number of steps ahead; the device
holds T K carries, and what is returned of one draw is m T (1 + K) numbers for each element of an observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.protocols import Dynamics, Theta, Values
from ssmscan.model.statespace.dynamics import LoopDynamics
from ssmscan.model.statespace.element_dynamics import join_values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.before_steps import Filter, before_steps
from ssmscan.particles.draws import draw_noise
from ssmscan.particles.exact_likelihood import ExactLikelihood
from ssmscan.particles.panels import each_filter, split
from ssmscan.particles.weights import without_faults


class Forecasts(NamedTuple):
    """Forecasts at one draw; T steps, n origins, m horizons.

    Attributes:
        increments: (T,) log p(y_t | y_{1:t-1}, theta).
        weighing: (T,) the same by another filter; see `ssmscan.inference.reweighting`.
        log_densities: (m, n) log p(y_{t+h} | y_{1:t}, theta).
        site_log_densities: site -> (m, n); see `ForecastScores.site_log_scores`.
        cdf: site -> (m, n, *shape) twice, P(Y <= y) and P(Y < y).
        draws: site -> (m, n, K, *shape).
    """

    increments: Array
    weighing: Array
    log_densities: Array
    site_log_densities: Values
    cdf: dict[str, tuple[Array, Array]]
    draws: Values


class _Seen(NamedTuple):
    """What came, as the carries predicted it; as in `Forecasts`."""

    log_density: Array
    by_site: Values
    cdf: dict[str, tuple[Array, Array]]


@dataclass(frozen=True)
class Forecaster:
    """The function of a draw; see `ssmscan.inference.at_draws`.

    Attributes:
        estimator: what filters.
        first: number of the first origin, which is that of its first step.
        horizons: steps ahead, in increasing order.
        num_paths: K.
        sites: the observed sites whose densities are told apart.
        drawn: the observed sites that are drawn.
        rows: those of them that are observed after the loop, and the row of the first step.
    """

    estimator: Filter
    first: int
    horizons: tuple[int, ...]
    num_paths: int
    sites: tuple[str, ...]
    drawn: tuple[str, ...]
    rows: tuple[tuple[str, int], ...]

    def __call__(self, ssm: StateSpaceModel, key: Array, theta: Theta) -> Forecasts:
        """Predict at one draw."""
        theta, most = ssm.canonical(theta), self.horizons[-1]
        known = before_steps(key, ssm, theta, estimator=self.estimator, num_kept=self.num_paths)
        begin = jax.tree.map(lambda leaf: leaf[self.first :], known.carry)
        draw, xs = ssm.program.step_draw.bind(ssm.core.arrays, theta=theta), ssm.core.inputs(theta)
        again, ahead_key = jax.random.split(jax.random.fold_in(key, most))
        own, weighing = jax.random.split(ahead_key, (most, 3)), known.increments
        if not isinstance(self.estimator, ExactLikelihood):
            weighing = self.estimator.one_step_ahead(again, ssm, theta).increments[-ssm.num_steps :]
        origins = jnp.arange(self.first, ssm.num_steps)

        def ahead(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, tuple[_Seen, Values]]:
            steps, keys = inputs
            rows = origins + steps
            x = jax.tree.map(lambda leaf: leaf[jnp.minimum(rows, ssm.num_steps - 1)], xs)
            seen = self._seen(keys[0], ssm, theta, carry, x)
            after = jax.vmap(jax.vmap(lambda c, x, key: draw(carry=c, x=x, key=key), (0, None, 0)))(
                carry, x, _keys(keys[1], len(origins), self.num_paths)
            )
            return after["carry"], (seen, {**after["values"], **self._after_loop(keys[2], ssm, theta, after, rows)})

        _, (seen, draws) = lax.scan(ahead, begin, (jnp.arange(most), own))
        wanted = jnp.asarray(self.horizons) - 1
        seen, draws = jax.tree.map(lambda leaf: leaf[wanted], (seen, draws))
        log_densities = seen.log_density
        if self.horizons[0] == 1:
            log_densities = log_densities.at[0].set(known.increments[self.first :])
        kept = {name: draws[name] for name in self.drawn}
        return Forecasts(known.increments, weighing, log_densities, seen.by_site, seen.cdf, kept)

    def _seen(self, key: Array, ssm: StateSpaceModel, theta: Theta, carry: Any, x: Any) -> _Seen:
        """Weigh what came; carries (n, K, ...), inputs (n, ...)."""
        several = len(self.sites) > 1 and ssm.panel is None
        count = len(jax.tree.leaves(x)[0])

        def weigh(key: Array, dynamics: Dynamics, carry: Any) -> _Seen:
            noise = draw_noise(key, dynamics.step_noise, count * self.num_paths)
            noise = jax.tree.map(lambda leaf: leaf.reshape(count, self.num_paths, *leaf.shape[1:]), noise)
            step = _over_paths(dynamics.step)(carry, x, noise)
            by_site: Values = {}
            if several and isinstance(dynamics, LoopDynamics):
                values = {site.name: step.values[site.name] for site in dynamics.innovations}
                by_site = _over_paths(dynamics.evaluate_by_site)(carry, x, values)[2]
            told = {name: _log_mean(by_site[name]) for name in self.sites if name in by_site}
            return _Seen(_log_mean(step.log_weight), told, jax.tree.map(lambda leaf: leaf.mean(1), step.cdf))

        panel = ssm.panel
        if panel is None:
            return each_filter(weigh, ssm, theta, key, carry)
        leaves, tree = jax.tree.flatten(carry)
        apart = jax.tree.unflatten(tree, [split(x, back, panel.size) for x, back in zip(leaves, panel.carry)])
        found = each_filter(weigh, ssm, theta, key, apart)
        at = join_values({name: pair[0] for name, pair in found.cdf.items()}, panel)
        below = join_values({name: pair[1] for name, pair in found.cdf.items()}, panel)
        return _Seen(found.log_density.sum(0), {}, {name: (at[name], below[name]) for name in at})

    def _after_loop(self, key: Array, ssm: StateSpaceModel, theta: Theta, after: dict, rows: Array) -> Values:
        """Draw what is observed after the loop, each origin in the row of its step, from outputs (n, K, ...)."""
        if not self.rows:
            return {}
        core = ssm.core
        simulated = core.program.replicates.simulated

        def one(key: Array, y: Any, last: Any) -> Values:
            ys = jax.tree.map(lambda leaf: _placed(leaf, rows, core.num_steps), y)
            return simulated(core.arrays, outside=core.outside(theta), key=key, ys=ys, last=last)["outside_replicate"]

        last = jax.tree.map(lambda leaf: leaf[-1], after["carry"])
        found = jax.vmap(one, (0, 1, 0))(_keys(key, self.num_paths), after["y"], last)
        return {
            name: jnp.swapaxes(found[name][:, jnp.minimum(rows + first, found[name].shape[1] - 1)], 0, 1)
            for name, first in self.rows
        }


def _over_paths(function: Callable) -> Callable:
    """Map a function of (carry, x, rest) over origins, and over paths that share x."""
    return jax.vmap(jax.vmap(function, in_axes=(0, None, 0)))


def _log_mean(log_densities: Array) -> Array:
    """Return the log of the mean density over paths (n, K); what is not a number is no density."""
    return jax.nn.logsumexp(without_faults(log_densities), axis=1) - math.log(log_densities.shape[1])


def _placed(values: Array, rows: Array, length: int) -> Array:
    """Put values at rows of an array of zeros; rows beyond its end are dropped."""
    return jnp.zeros((length, *values.shape[1:]), values.dtype).at[rows].set(values, mode="drop")


def _keys(key: Array, *shape: int) -> Array:
    """Return keys of JAX's own generator, which staged functions take."""
    data = jax.random.key_data(jax.random.split(key, shape))
    return jax.random.wrap_key_data(data, impl="threefry2x32")
