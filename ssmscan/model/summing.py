r"""A model with its discrete states summed out: density of the data given parameters and noise.

At given parameters and noise of everything continuous, the discrete draws z of a summable model (see
`enumeration`) are a finite chain, and

    log p(y | theta, noise) = log sum_z p(z, y | theta, noise)

is its forward pass.  The weights of the chain come from the staged step, evaluated where they change and
nowhere else: a transition matrix that depends on parameters alone once, the density of an observation for
each step and value of z, a density that depends on the step and on two values for each of them.  All but
the recursion over K numbers (and over the leaves of the carry that no draw touches) is thus free of the
loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model import forward
from ssmscan.model.dataflow import UNUSED
from ssmscan.model.enumeration import Reach, Summed, joint_values, num_joint, shapes_of
from ssmscan.model.forward import Chain
from ssmscan.model.script import sum_of, zeros

if TYPE_CHECKING:
    from ssmscan.model.statespace import StateSpaceModel, Theta

PyTree = Any


class Series(NamedTuple):
    """A model at given parameters and noise.

    Attributes:
        chain: weights of its discrete draws.
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
    """

    states: dict[str, Array]
    probabilities: dict[str, Array]


def log_likelihood(ssm: StateSpaceModel, theta: Theta, noise: Mapping[str, Array]) -> Array:
    """Log-density of all data given parameters and noise, discrete draws summed out; a scalar."""
    series = bind(ssm, theta, noise)
    return series.log_rest + forward.forward(series.chain).log_evidence


def posterior(ssm: StateSpaceModel, theta: Theta, noise: Mapping[str, Array], key: Array) -> Posterior:
    """Draw the states given data, parameters and noise: forward filtering, backward sampling."""
    plan = _plan(ssm)
    chain = bind(ssm, theta, noise).chain
    filtered = forward.forward(chain)
    smoothed = forward.smooth(chain, filtered)
    start, path = forward.sample(key, chain, filtered)
    begun, stepped = joint_values(plan.initial), joint_values(plan.sites)
    initial = {name: jnp.asarray(values)[start] for name, values in begun[0].items()}
    loop = {name: jnp.asarray(values)[path] for name, values in stepped[0].items()}
    probabilities = {
        site.name: _marginal(weights, positions[site.name], site.num_values)
        for sites, (_, positions), weights in (
            (plan.initial, begun, smoothed.start),
            (plan.sites, stepped, smoothed.steps),
        )
        for site in sites
    }
    return Posterior(_run(ssm, theta, noise, initial, loop), probabilities)


def _marginal(weights: Array, positions: Any, num_values: int) -> Array:
    """Probabilities of joint values (..., K) to those of one site (..., *shape, values)."""
    return jnp.tensordot(weights, jax.nn.one_hot(jnp.asarray(positions), num_values, dtype=weights.dtype), 1)


def _run(ssm: StateSpaceModel, theta: Theta, noise: Mapping[str, Array], initial: dict, loop: dict) -> dict[str, Array]:
    """Run the loop at given noise and given discrete draws; values of all sites drawn or computed."""
    plan = _plan(ssm)
    continuous, steps = _split(ssm, noise)
    start = plan.start.select("leaves", "values").bind(ssm.arrays, theta)(continuous, initial)
    step = plan.step.select("leaves", "values").bind(ssm.arrays, theta)

    def body(leaves, inputs):
        out = step(_carry(ssm, leaves), *inputs)
        return out["leaves"], out["values"]

    _, values = lax.scan(body, start["leaves"], (ssm._inputs(theta), steps, loop))
    return {**start["values"], **values}


def bind(ssm: StateSpaceModel, theta: Theta, noise: Mapping[str, Array]) -> Series:
    """Evaluate the weights of the chain at given parameters and noise."""
    plan, length = _plan(ssm), ssm.num_steps
    continuous, steps = _split(ssm, noise)
    xs = ssm._inputs(theta)
    z0, z = joint_values(plan.initial)[0], joint_values(plan.sites)[0]
    num_starts, num_values = num_joint(plan.initial), num_joint(plan.sites)
    arrays, dtype = ssm.arrays, jnp.result_type(float)

    def each(fn: Callable, values: dict, count: int) -> Any:
        return jax.vmap(fn, axis_size=count)(values)

    # The start, for each of its values.
    start = plan.start.select("leaves", "terms").bind(arrays, theta)
    begun = each(lambda z: start(continuous, z), z0, num_starts)
    log_start = jnp.broadcast_to(sum_of(begun["terms"].values()), (num_starts,))

    # Leaves that the draws never touch, before each step.
    first_path = {k: begun["leaves"][k][0] for k in plan.path}
    paths, log_tail = _path(ssm, theta, continuous, first_path, (xs, steps))

    # Leaves that are functions of the draws of one step, after it.
    leaves = {k: plan.step.select(leaves=[k]).bind(arrays, theta) for k in plan.touched}

    def leaf(k: int, path: dict, x: PyTree, e: Any) -> Array:
        return each(lambda z: leaves[k](_carry(ssm, path), x, e, z)["leaves"][k], z, num_values)

    still = {k: leaf(k, {}, UNUSED, UNUSED) for k, reach in plan.touched.items() if not reach.time}
    moving = {
        k: jax.vmap(lambda path, x, e, k=k: leaf(k, path, x, e))(paths, xs, steps)
        for k, reach in plan.touched.items()
        if reach.time
    }

    # Densities, for each value of what they depend on.
    def total(which: Callable[[Reach], bool]) -> Callable:
        names = [name for name, reach in plan.terms.items() if which(reach)]
        if not names:
            return lambda *_: jnp.zeros((num_values,), dtype)
        rest = plan.step.select(terms=names).bind(arrays, theta)
        return lambda carry, x, e: each(
            lambda z: jnp.asarray(sum_of(rest(carry, x, e, z)["terms"].values()), dtype), z, num_values
        )

    def at(rows: slice | int) -> tuple:
        return jax.tree.map(lambda a: a[rows], (paths, xs, steps))

    alone = total(lambda reach: not reach.past and not reach.time)(_carry(ssm, {}), UNUSED, UNUSED)
    in_time = total(lambda reach: not reach.past and reach.time)
    emission = alone + jax.vmap(lambda path, x, e: in_time(_carry(ssm, path), x, e))(paths, xs, steps)

    joined = total(lambda reach: reach.past)
    path, x, e = at(0)
    before = {k: begun["leaves"][k] for k in plan.touched}
    first = jax.vmap(lambda old: joined(_carry(ssm, {**path, **old}), x, e), axis_size=num_starts)(before)

    same = total(lambda reach: reach.past and not reach.time)
    constant = jax.vmap(lambda old: same(_carry(ssm, old), UNUSED, UNUSED), axis_size=num_values)(still)
    varying = None
    if length > 1 and any(reach.past and reach.time for reach in plan.terms.values()):
        change = total(lambda reach: reach.past and reach.time)

        def pairs(now: tuple, old: dict) -> Array:
            path, x, e = now
            both = {**still, **old}
            return jax.vmap(lambda old: change(_carry(ssm, {**path, **old}), x, e), axis_size=num_values)(both)

        varying = jax.vmap(pairs)(at(slice(1, None)), {k: table[:-1] for k, table in moving.items()})
    rest = ssm.log_static(theta) + log_tail
    return Series(Chain(log_start, first, constant, varying, emission), rest)


def _plan(ssm: StateSpaceModel) -> Summed:
    assert ssm.program.summed is not None
    return ssm.program.summed


def _split(ssm: StateSpaceModel, noise: Mapping[str, Array]) -> tuple[dict, dict]:
    """Noise of the initial sites, and of the innovations."""
    initial = {n: e for n, e in noise.items() if n in ssm.program.initial}
    return initial, {n: e for n, e in noise.items() if n not in initial}


def _carry(ssm: StateSpaceModel, leaves: Mapping[int, Array]) -> PyTree:
    """A carry with some leaves, the others being placeholders that nothing reads."""
    flat, tree = jax.tree.flatten(ssm.program.plan.carry)
    return jax.tree.unflatten(tree, [leaves[k] if k in leaves else zeros(shape) for k, shape in enumerate(flat)])


def _path(ssm: StateSpaceModel, theta: Theta, initial: dict, first: dict, inputs: PyTree) -> tuple[dict, Array]:
    """Run the leaves that no draw touches: before each step (T in front), and the density of what joins steps."""
    plan, tail = _plan(ssm), ssm.program.tail.mixing
    if not first and not tail:
        return {}, jnp.zeros((), jnp.result_type(float))
    kept = plan.step.select("ys", leaves=list(first)) if tail else plan.step.select(leaves=list(first))
    step = kept.bind(ssm.arrays, theta)
    nothing = zeros(shapes_of(plan.sites))

    def body(leaves, inputs):
        out = step(_carry(ssm, leaves), *inputs, nothing)
        return out["leaves"], (leaves, out.get("ys", {}))

    last, (paths, ys) = lax.scan(body, first, inputs)
    if not tail:
        return paths, jnp.zeros((), jnp.result_type(float))
    rest = ssm.program.log_mixing.bind(ssm.arrays, ssm._outside(theta))
    stacked = jax.tree.unflatten(jax.tree.structure(ssm.program.plan.ys), [ys[k] for k in sorted(ys)])
    terms = rest(UNUSED, UNUSED, UNUSED, UNUSED, stacked, _carry(ssm, last))["outside_log_prob"]
    return paths, sum_of(terms.values())
