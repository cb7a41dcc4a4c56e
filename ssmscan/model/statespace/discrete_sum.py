r"""Discrete states that are summed out: density of the data given parameters and noise of everything continuous.

At given parameters and noise the discrete draws d of a summable model (see `enumeration`) are a finite chain, and

    log p(y | theta, noise) = log sum_d p(d, y | theta, noise)

is its forward pass.  The weights of the chain come from the staged step (`chain_weights`).  All but the recursion over
S numbers (and over the leaves of the carry that no draw touches) is thus free of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.discrete import forward_backward
from ssmscan.model.discrete.conditional import shapes_of
from ssmscan.model.discrete.enumeration import Summed
from ssmscan.model.discrete.forward_backward import Chain
from ssmscan.model.jaxprs.placeholders import sum_of, zeros
from ssmscan.model.noise.families import MapKind
from ssmscan.model.noise.support import joint_values
from ssmscan.model.protocols import NoiseSpec, Theta
from ssmscan.model.statespace.chain_weights import ChainWeights, filled
from ssmscan.model.statespace.loop_functions import LoopFunctions
from ssmscan.model.statespace.marginal import Densities, LoopWithData, Posterior
from ssmscan.model.time_loops import scan_steps

PyTree = Any


class Series(NamedTuple):
    """A model at given parameters and noise.

    Attributes:
        chain: weights of its discrete draws; where elements are summed one by one, with elements in front.
        log_rest: log-density of the observations that no discrete draw reaches and the chain does not hold.
    """

    chain: Chain
    log_rest: Array


@dataclass(frozen=True, eq=False)
class DiscreteSum:
    """The discrete states of a loop, summed out.

    Attributes:
        loop: the functions of the loop.
        summed: what is summed, and the start and the step at given draws.
        noise: base noise of the continuous sites.
    """

    loop: LoopFunctions
    summed: Summed
    noise: Mapping[str, NoiseSpec]
    has_law: bool = False

    @property
    def integrated(self) -> tuple[str, ...]:
        """Names of the discrete sites."""
        return tuple(site.name for site in (*self.summed.initial, *self.summed.sites))

    @property
    def separable(self) -> bool:
        """Whether no noise map has a correction, which the weights of the chain hold."""
        sites = (*self.loop.plan.outside, *self.loop.plan.inside)
        smooth = [site.smooth for site in sites if site.name in self.noise]
        return all(noise_map is not None and noise_map.kind is MapKind.EXACT for noise_map in smooth)

    def describe(self) -> str:
        """Return a clause that says what is summed out."""
        return f"summed out by gradient engines: {self.summed.describe()}"

    def log_densities(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array]) -> Densities:
        """Compute the log-density of all data given parameters and noise, discrete draws summed out.

        The law of a state in place may depend on discrete draws: the weights of the chain hold it.
        """
        series = self.series(core, theta, noise)
        log_sum = jnp.sum(self._each(forward_backward.log_likelihood)(series.chain))
        return Densities(jnp.zeros_like(log_sum), series.log_rest + log_sum)

    def posterior(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array], key: Array | None) -> Posterior:
        """Draw the states given data, parameters and noise: forward filtering, backward sampling."""
        assert key is not None
        summed = self.summed
        chain, log_rest = self.series(core, theta, noise)
        filtered = self._each(forward_backward.forward)(chain)
        smoothed = self._each(forward_backward.smooth)(chain, filtered)
        keys = key if summed.elements is None else jax.random.split(key, summed.elements.size)
        start, path = self._each(forward_backward.sample)(keys, chain, filtered)
        draws: list[dict] = []
        probabilities: dict[str, Array] = {}
        for sites, index, weights in ((summed.initial, start, smoothed.start), (summed.sites, path, smoothed.steps)):
            one = summed.of_one(sites)
            values, positions = joint_values(one)
            draws.append({n: self._whole(n, jnp.asarray(v)[index], len(v.shape) - 1) for n, v in values.items()})
            for site in one:
                found = _of_one_site(weights, positions[site.name], site.num_values)
                probabilities[site.name] = self._whole(site.name, found, len(site.shape) + 1)
        log_joint = log_rest + jnp.sum(self._each(forward_backward.log_weight)(chain, start, path))
        states = self._run(core, theta, noise, *draws)
        return Posterior(states, probabilities, log_joint if self.separable else None)

    def _each(self, fn: Callable) -> Callable:
        """Map a function of a chain and its moves over elements, where they are summed one by one."""

        def of_chain(*args: Any) -> Any:
            return fn(*args, moves=self.summed.memory.moves)

        return of_chain if self.summed.elements is None else jax.vmap(of_chain)

    def _whole(self, name: str, values: Array, ndim: int) -> Array:
        """Return values of a site from those of its elements, (M, ..., one element); `ndim` axes are of one value."""
        if self.summed.elements is None:
            return values
        axis = values.ndim - ndim + self.summed.elements.axes[name]
        return jnp.moveaxis(jnp.squeeze(values, axis), 0, axis - 1)

    def _run(
        self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array], initial: dict, draws: dict
    ) -> dict[str, Array]:
        """Run the loop at given noise and given discrete draws; values of all sites drawn or computed."""
        continuous, steps = self._split(noise)
        start = self.summed.start.select("leaves", "values")(core.arrays, theta=theta, noise=continuous, draws=initial)
        step = self.summed.step.select("leaves", "values").bind(core.arrays, theta=theta)

        def body(leaves, inputs):
            x, e, draws = inputs
            out = step(carry=self._carry(leaves), x=x, noise=e, draws=draws)
            return out["leaves"], out["values"]

        _, values = lax.scan(body, start["leaves"], (core.inputs(theta), steps, draws))
        return {**start["values"], **values}

    def series(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array]) -> Series:
        """Evaluate the weights of the chain at given parameters and noise."""
        summed, elements = self.summed, self.summed.elements
        continuous, steps = self._split(noise)
        inputs = core.inputs(theta), steps
        paths, rest = self._path(core, theta, continuous, inputs)
        rest = rest + core.log_static(theta)
        if elements is None:
            return Series(self._weights(core, theta, continuous, (paths, *inputs), summed.start, summed.step, {}), rest)

        def one(element: Array) -> Chain:
            of_element = elements.start, elements.step, {"element": element}
            return self._weights(core, theta, continuous, (paths, *inputs), *of_element)

        step_rest = elements.step_rest.bind(core.arrays, theta=theta)
        each = jax.vmap(lambda path, x, e: step_rest(carry=self._carry(path), x=x, noise=e)["log_prob"])
        apart = jnp.sum(each(paths, *inputs))
        start_rest = elements.start_rest(core.arrays, theta=theta, noise=continuous)["log_prob"]
        return Series(jax.vmap(one)(jnp.arange(elements.size, dtype=jnp.int32)), rest + start_rest + apart)

    def _carry(self, leaves: Mapping[int, Array]) -> PyTree:
        return filled(self.loop.plan.carry, leaves)

    def _weights(self, core: LoopWithData, theta: Theta, noise: dict, series: tuple, *chain: Any) -> Chain:
        return ChainWeights(self.summed, core, self.loop.plan.carry, theta, noise, series, *chain).chain()

    def _split(self, noise: Mapping[str, Array]) -> tuple[dict, dict]:
        """Return the noise of the initial sites, and of the innovations."""
        initial = {n: e for n, e in noise.items() if n in self.loop.initial}
        return initial, {n: e for n, e in noise.items() if n not in initial}

    def _path(self, core: LoopWithData, theta: Theta, noise: dict, inputs: PyTree) -> tuple[dict, Array]:
        """Run the leaves that no draw touches: before each step (T in front), and the density of what joins steps."""
        summed, joins = self.summed, self.loop.post_loop.mixing
        if not summed.path and not joins:
            return {}, jnp.zeros((), jnp.result_type(float))
        start = summed.start.select(leaves=summed.path)
        nothing = zeros(shapes_of(summed.initial))
        first = start(core.arrays, theta=theta, noise=noise, draws=nothing)["leaves"]
        kept = summed.step.select("ys", leaves=list(first)) if joins else summed.step.select(leaves=list(first))
        step = kept.bind(core.arrays, theta=theta)
        nothing = zeros(shapes_of(summed.sites))

        def body(leaves, inputs):
            x, e = inputs
            out = step(carry=self._carry(leaves), x=x, noise=e, draws=nothing)
            return out["leaves"], (leaves, out.get("ys", {}))

        last, (paths, ys) = scan_steps(body, first, inputs)
        if not joins:
            return paths, jnp.zeros((), jnp.result_type(float))
        stacked = jax.tree.unflatten(jax.tree.structure(self.loop.plan.ys), [ys[k] for k in sorted(ys)])
        outside = core.outside(theta)
        terms = self.loop.densities.mixing(core.arrays, outside=outside, ys=stacked, last=self._carry(last))
        return paths, sum_of(terms["outside_log_prob"].values())


def _of_one_site(weights: Array, positions: Any, num_values: int) -> Array:
    """Turn probabilities of joint values (..., K) into those of one site (..., *shape, values)."""
    return jnp.tensordot(weights, jax.nn.one_hot(jnp.asarray(positions), num_values, dtype=weights.dtype), 1)
