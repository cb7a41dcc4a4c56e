r"""A model with its discrete states summed out: density of the data given parameters and noise.

At given parameters and noise of everything continuous, the discrete draws d of a summable model (see
`enumeration`) are a finite chain, and

    log p(y | theta, noise) = log sum_d p(d, y | theta, noise)

is its forward pass.  The weights of the chain come from the staged step, evaluated where they change and
nowhere else: a transition matrix that depends on parameters alone once, the density of an observation for
each step and value of d, a density that depends on the step and on two values for each of them.  All but
the recursion over K numbers (and over the leaves of the carry that no draw touches) is thus free of the
loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.discrete import forward_backward
from ssmscan.model.discrete.conditional import shapes_of
from ssmscan.model.discrete.enumeration import Reach, Summed
from ssmscan.model.discrete.forward_backward import Chain
from ssmscan.model.jaxprs.dataflow import UNUSED
from ssmscan.model.jaxprs.placeholders import sum_of, zeros
from ssmscan.model.noise.support import joint_values, num_joint
from ssmscan.model.protocols import Theta
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.paths import from_noise

PyTree = Any


class Series(NamedTuple):
    """A model at given parameters and noise.

    Attributes:
        chain: weights of its discrete draws; where elements are summed one by one, with elements in front.
        log_rest: log-density of the observations that no discrete draw reaches and the chain does not hold.
    """

    chain: Chain
    log_rest: Array


class Posterior(NamedTuple):
    """The states given data, parameters and noise.

    Attributes:
        states: a draw: initial sites, and innovations and deterministics of the loop with T in front.
        probabilities: site summed out -> (T, *shape, values), without T for an initial site: the smoothing
            probability of each of its values.
        log_joint: log-density of the data and of the discrete draws of the states, a scalar; None where none are drawn.
    """

    states: dict[str, Array]
    probabilities: dict[str, Array]
    log_joint: Array | None = None


def log_likelihood(ssm: Core, theta: Theta, noise: Mapping[str, Array]) -> Array:
    """Log-density of all data given parameters and noise, discrete draws summed out; a scalar."""
    if ssm.program.summed is None:
        return from_noise(ssm, theta, noise).log_likelihood
    series = bind(ssm, theta, noise)
    return series.log_rest + jnp.sum(_each(ssm, forward_backward.log_likelihood)(series.chain))


def posterior(ssm: Core, theta: Theta, noise: Mapping[str, Array], key: Array | None) -> Posterior:
    """Draw the states given data, parameters and noise: forward filtering, backward sampling."""
    if ssm.program.summed is None:
        return Posterior(from_noise(ssm, theta, noise).values, {})
    assert key is not None
    plan = _plan(ssm)
    chain, log_rest = bind(ssm, theta, noise)
    filtered = _each(ssm, forward_backward.forward)(chain)
    smoothed = _each(ssm, forward_backward.smooth)(chain, filtered)
    keys = key if plan.elements is None else jax.random.split(key, plan.elements.size)
    start, path = _each(ssm, forward_backward.sample)(keys, chain, filtered)
    draws: list[dict] = []
    probabilities: dict[str, Array] = {}
    for sites, index, weights in ((plan.initial, start, smoothed.start), (plan.sites, path, smoothed.steps)):
        one = _of_one_element(ssm, sites)
        values, positions = joint_values(one)
        draws.append({n: _whole(ssm, n, jnp.asarray(v)[index], len(v.shape) - 1) for n, v in values.items()})
        for site in one:
            marginal = _marginal(weights, positions[site.name], site.num_values)
            probabilities[site.name] = _whole(ssm, site.name, marginal, len(site.shape) + 1)
    log_joint = log_rest + jnp.sum(_each(ssm, forward_backward.log_weight)(chain, start, path))
    return Posterior(_run(ssm, theta, noise, *draws), probabilities, log_joint)


def _each(ssm: Core, fn: Callable) -> Callable:
    """Map over elements, where they are summed one by one."""
    return fn if _plan(ssm).elements is None else jax.vmap(fn)


def _of_one_element(ssm: Core, sites: tuple[TracedSite, ...]) -> tuple[TracedSite, ...]:
    elements = _plan(ssm).elements
    return sites if elements is None else elements.rows_of(sites)


def _whole(ssm: Core, name: str, values: Array, ndim: int) -> Array:
    """Put values of elements (M, ..., one element) back into the site; a value has the last `ndim` axes."""
    elements = _plan(ssm).elements
    if elements is None:
        return values
    axis = values.ndim - ndim + elements.axes[name]
    return jnp.moveaxis(jnp.squeeze(values, axis), 0, axis - 1)


def _marginal(weights: Array, positions: Any, num_values: int) -> Array:
    """Probabilities of joint values (..., K) to those of one site (..., *shape, values)."""
    return jnp.tensordot(weights, jax.nn.one_hot(jnp.asarray(positions), num_values, dtype=weights.dtype), 1)


def _run(ssm: Core, theta: Theta, noise: Mapping[str, Array], initial: dict, loop: dict) -> dict[str, Array]:
    """Run the loop at given noise and given discrete draws; values of all sites drawn or computed."""
    plan = _plan(ssm)
    continuous, steps = _split(ssm, noise)
    start = plan.start.select("leaves", "values").bind(ssm.arrays, theta)(continuous, initial)
    step = plan.step.select("leaves", "values").bind(ssm.arrays, theta)

    def body(leaves, inputs):
        out = step(_carry(ssm, leaves), *inputs)
        return out["leaves"], out["values"]

    _, values = lax.scan(body, start["leaves"], (ssm.inputs(theta), steps, loop))
    return {**start["values"], **values}


def bind(ssm: Core, theta: Theta, noise: Mapping[str, Array]) -> Series:
    """Evaluate the weights of the chain at given parameters and noise."""
    plan, elements = _plan(ssm), _plan(ssm).elements
    continuous, steps = _split(ssm, noise)
    inputs = ssm.inputs(theta), steps
    paths, rest = _path(ssm, theta, continuous, inputs)
    rest = rest + ssm.log_static(theta)
    if elements is None:
        weights = _Weights(ssm, theta, continuous, (paths, *inputs), plan.start, plan.step, ())
        return Series(weights.chain(), rest)

    def one(element: Array) -> Chain:
        return _Weights(ssm, theta, continuous, (paths, *inputs), elements.start, elements.step, (element,)).chain()

    step_rest = elements.step_rest.bind(ssm.arrays, theta)
    apart = jax.vmap(lambda path, x, e: step_rest(_carry(ssm, path), x, e)["log_prob"])(paths, *inputs)
    rest = rest + elements.start_rest.bind(ssm.arrays, theta)(continuous)["log_prob"] + jnp.sum(apart)
    return Series(jax.vmap(one)(jnp.arange(elements.size, dtype=jnp.int32)), rest)


class _Weights:
    """The weights of one chain.

    Args:
        ssm: the model.
        theta: parameters.
        noise: noise of the continuous initial sites.
        series: (leaves that no draw touches before each step, inputs, noise), T in front.
        start, step: staged, as in `conditional`; their last arguments are `element`.
        element: number of the element, or nothing.
    """

    def __init__(self, ssm: Core, theta: Theta, noise: dict, series: tuple, start, step, element: tuple):
        self.ssm, self.theta, self.noise, self.series = ssm, theta, noise, series
        self.plan, self.start, self.step, self.element = _plan(ssm), start, step, element
        self.sites, self.initial = (_of_one_element(ssm, sites) for sites in (self.plan.sites, self.plan.initial))
        self.num_values, self.num_starts = num_joint(self.sites), num_joint(self.initial)

    def chain(self) -> Chain:
        """Evaluate them where they change and nowhere else."""
        start = self.start.select("leaves", "terms").bind(self.ssm.arrays, self.theta)
        begun = _over(
            lambda draws: start(self.noise, draws, *self.element), joint_values(self.initial)[0], self.num_starts
        )
        log_start = jnp.broadcast_to(sum_of(begun["terms"].values()), (self.num_starts,))

        # The step alone: densities of the value of this step.
        alone = self._terms(lambda r: not r.past and not r.time)({}, UNUSED, UNUSED)
        in_time = self._terms(lambda r: not r.past and r.time)
        emission = alone + jax.vmap(in_time)(*self.series)

        # From the start to the first step, then from step to step.
        joined, first_series = self._terms(lambda r: r.past), self._at(0)
        path, x, e = first_series
        before = {k: begun["leaves"][k] for k in self.plan.touched}
        first = jax.vmap(lambda old: joined({**path, **old}, x, e), axis_size=self.num_starts)(before)
        still, moving = self._tables()
        same = self._terms(lambda r: r.past and not r.time)
        constant = jax.vmap(lambda old: same(old, UNUSED, UNUSED), axis_size=self.num_values)(still)
        return Chain(log_start, first, constant, self._varying(still, moving), emission)

    def _varying(self, still: dict, moving: dict) -> Array | None:
        """Densities that depend on the step and on the values of two, (T - 1, K, K)."""
        if self.ssm.num_steps == 1 or not any(reach.past and reach.time for reach in self.plan.terms.values()):
            return None
        change = self._terms(lambda r: r.past and r.time)

        def pairs(now: tuple, old: dict) -> Array:
            path, x, e = now
            both = {**still, **old}
            return jax.vmap(lambda old: change({**path, **old}, x, e), axis_size=self.num_values)(both)

        return jax.vmap(pairs)(self._at(slice(1, None)), {k: table[:-1] for k, table in moving.items()})

    def _tables(self) -> tuple[dict, dict]:
        """Leaves that are functions of the draws of one step, after it: the same at all steps, and T in front."""
        still, moving = {}, {}
        for k, reach in self.plan.touched.items():
            step = self.step.select(leaves=[k]).bind(self.ssm.arrays, self.theta)

            def leaf(path: dict, x: PyTree, e: Any, step=step, k=k) -> Array:
                return self._over_values(
                    lambda draws: step(_carry(self.ssm, path), x, e, draws, *self.element)["leaves"][k]
                )

            if reach.time:
                moving[k] = jax.vmap(leaf)(*self.series)
            else:
                still[k] = leaf({}, UNUSED, UNUSED)
        return still, moving

    def _terms(self, which: Callable[[Reach], bool]) -> Callable:
        """Sum of some densities of a step, for each value of its draws: (leaves, x, noise) -> (K,)."""
        dtype = jnp.result_type(float)
        names = [name for name, reach in self.plan.terms.items() if which(reach)]
        if not names:
            return lambda *_: jnp.zeros((self.num_values,), dtype)
        step = self.step.select(terms=names).bind(self.ssm.arrays, self.theta)

        def total(leaves: dict, x: PyTree, e: Any) -> Array:
            carry = _carry(self.ssm, leaves)
            return self._over_values(
                lambda draws: jnp.asarray(sum_of(step(carry, x, e, draws, *self.element)["terms"].values()), dtype)
            )

        return total

    def _over_values(self, fn: Callable) -> Any:
        return _over(fn, joint_values(self.sites)[0], self.num_values)

    def _at(self, rows: slice | int) -> tuple:
        return jax.tree.map(lambda a: a[rows], self.series)


def _over(fn: Callable, values: dict, count: int) -> Any:
    return jax.vmap(fn, axis_size=count)(values)


def _plan(ssm: Core) -> Summed:
    assert ssm.program.summed is not None
    return ssm.program.summed


def _split(ssm: Core, noise: Mapping[str, Array]) -> tuple[dict, dict]:
    """Noise of the initial sites, and of the innovations."""
    initial = {n: e for n, e in noise.items() if n in ssm.program.initial}
    return initial, {n: e for n, e in noise.items() if n not in initial}


def _carry(ssm: Core, leaves: Mapping[int, Array]) -> PyTree:
    """A carry with some leaves, the others being placeholders that nothing reads."""
    flat, tree = jax.tree.flatten(ssm.program.plan.carry)
    return jax.tree.unflatten(tree, [leaves[k] if k in leaves else zeros(shape) for k, shape in enumerate(flat)])


def _path(ssm: Core, theta: Theta, noise: dict, inputs: PyTree) -> tuple[dict, Array]:
    """Run the leaves that no draw touches: before each step (T in front), and the density of what joins steps."""
    plan, tail = _plan(ssm), ssm.program.tail.mixing
    if not plan.path and not tail:
        return {}, jnp.zeros((), jnp.result_type(float))
    start = plan.start.select(leaves=plan.path).bind(ssm.arrays, theta)
    first = start(noise, zeros(shapes_of(plan.initial)))["leaves"]
    kept = plan.step.select("ys", leaves=list(first)) if tail else plan.step.select(leaves=list(first))
    step = kept.bind(ssm.arrays, theta)
    nothing = zeros(shapes_of(plan.sites))

    def body(leaves, inputs):
        out = step(_carry(ssm, leaves), *inputs, nothing)
        return out["leaves"], (leaves, out.get("ys", {}))

    last, (paths, ys) = lax.scan(body, first, inputs)
    if not tail:
        return paths, jnp.zeros((), jnp.result_type(float))
    rest = ssm.program.log_mixing.bind(ssm.arrays, ssm.outside(theta))
    stacked = jax.tree.unflatten(jax.tree.structure(ssm.program.plan.ys), [ys[k] for k in sorted(ys)])
    terms = rest(UNUSED, UNUSED, UNUSED, UNUSED, stacked, _carry(ssm, last))["outside_log_prob"]
    return paths, sum_of(terms.values())
