"""Which discrete states can be summed out, decided from the data flow of one step.

Gradient engines see a model as a smooth function of parameters and noise.  A discrete draw is no such
function; where it has finitely many values it can be summed instead.  Write z_t for the joint value of all
discrete draws of a step, K values, and c for the leaves of the carry, everything continuous being a
function of its noise (`step_of`).  Then

    touched leaf    c'_k depends on some z_t, or on a touched leaf (closed over steps), or its start on a
                    discrete initial site
    summable        no touched leaf depends on a touched leaf: each is a function of the draws of one step,
                    c_t(k), of inputs, noise and leaves that the draws never touch

and the sum over all K^T paths is a forward pass over K values (`forward`), in which the densities of step
t are functions of (z_{t-1}, z_t).  A regime that moves a continuous state, and a counter of draws, are
not summable: their carry remembers all earlier draws.

    start_of  (theta, e, z)          leaves of the carry, log-densities, values
    step_of   (theta, c, x, e, z)    the same after one step, and the outputs

Beyond `LIMIT` joint values particles are the better engine: a forward pass costs T K^2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.model.dataflow import Staged
from ssmscan.model.discovery import Drawn
from ssmscan.model.noise import MapKind
from ssmscan.model.records import Record
from ssmscan.model.roles import LAST, YS
from ssmscan.model.running import LeaveModel, Loop
from ssmscan.model.script import Script, Shape, like, x_shapes
from ssmscan.model.staging import known_outside, noise_specs
from ssmscan.model.tail import as_output

LIMIT = 64
# Arguments of `step_of`, in order.
THETA, CARRY, X, NOISE, Z = range(5)


class Reach(NamedTuple):
    """What a result of one step depends on.

    Attributes:
        draws: on the discrete draws of the step.
        past: on the discrete draws before it, through touched leaves of the carry.
        time: on anything that differs between steps at given draws.
    """

    draws: bool
    past: bool
    time: bool


class After(NamedTuple):
    """Observations after the loop.

    Attributes:
        start: (values outside) -> {"log_prob": by site}, what weighs the start.
        step: (values outside; t, output) -> {"log_prob": by site}, what weighs a step.
        whole: densities by `staging.by_value` of what is not pointwise in time.
    """

    start: Staged
    step: Staged
    whole: Staged


class Summed(NamedTuple):
    """How the discrete draws of a model are summed out.

    Attributes:
        sites: discrete innovations.
        initial: discrete initial sites.
        start, step: see `start_of` and `step_of`.
        path: untouched leaves of the carry that a density or a touched leaf needs, by position.
        touched: leaves that the draws reach and a density needs, with what they depend on.
        terms: log-densities of the step with what they depend on.
    """

    sites: tuple[Drawn, ...]
    initial: tuple[Drawn, ...]
    start: Staged
    step: Staged
    path: tuple[int, ...]
    touched: dict[int, Reach]
    terms: dict[str, Reach]


def decide(script: Script, parameters, initial, observed, after: After) -> Summed | str:
    """Find out whether the draws without a smooth map can be summed out.

    Args:
        script: the model.
        parameters: names of the parameters.
        initial: names of the initial-state sites.
        observed: names of the observations of the start.
        after: observations after the loop.

    Returns:
        How, or the reason why not: a clause that names the site.
    """
    starts = tuple(site for name, site in script.outside.items() if name in initial and site.smooth is None)
    sites = tuple(site for site in script.innovations.values() if site.smooth is None)
    for site in (*starts, *sites):
        if not site.num_values:
            return f"'{site.name}' ({site.family}) has no finite list of values that is known at trace"
    for group, where in ((starts, "of the start"), (sites, "of a step")):
        count = num_joint(group)
        if count > LIMIT:
            return f"{_listed(group)} have {count} joint values {where}, and up to {LIMIT} are summed out"
    start = start_of(script, parameters, initial, observed, after.start, starts)
    step = step_of(script, parameters, after.step, sites)
    return _follow(script, starts, sites, start, step, after.whole)


def _follow(script: Script, starts, sites, start: Staged, step: Staged, tail: Staged) -> Summed | str:
    """Follow the draws through the carry."""
    leaves = step.reaches("leaves")
    touched = {k for k, pairs in start.reaches("leaves").items() if any(argument == 2 for argument, _ in pairs)}
    touched = _closed(leaves, touched)
    for leaf, pairs in leaves.items():
        source = sorted(k for argument, k in pairs if argument == CARRY and k in touched)
        if leaf in touched and source:
            return _remembers(script, (*starts, *sites), leaf, source[0], step, touched)
    for site, pairs in tail.reaches("outside_log_prob").items():
        outputs = step.reaches("ys")
        read = [outputs[k] for argument, k in pairs if argument == YS]
        if any(argument == LAST and k in touched for argument, k in pairs) or any(_hit(p, touched) for p in read):
            return (
                f"'{site}', observed after the loop, joins steps and reads what the draws of "
                f"{_listed((*starts, *sites))} reach; observe inside the transition to have it summed"
            )
    moving = {k for k in touched if _in_time(leaves[k], touched, frozenset())}
    reach = {k: _reach(leaves[k], touched, moving) for k in touched}
    terms = {name: _reach(pairs, touched, moving) for name, pairs in step.reaches("terms").items()}
    needed = [*step.reaches("terms").values(), *(leaves[k] for k in touched)]
    if tail.jaxpr.outvars:
        needed += [*step.reaches("ys").values(), {(CARRY, k) for k in leaves}]
    path = _read(needed) - touched
    while (more := path | (_read(leaves[k] for k in path) - touched)) != path:
        path = more
    return Summed(sites, starts, start, step, tuple(sorted(path)), dict(sorted(reach.items())), terms)


def _closed(leaves: dict[int, set], touched: set[int]) -> set[int]:
    while (grown := touched | {k for k, pairs in leaves.items() if _hit(pairs, touched)}) != touched:
        touched = grown
    return touched


def _hit(pairs: Iterable, touched: set[int]) -> bool:
    return any(argument == Z or (argument == CARRY and leaf in touched) for argument, leaf in pairs)


def _read(results: Iterable[Iterable]) -> set[int]:
    return {leaf for pairs in results for argument, leaf in pairs if argument == CARRY}


def _in_time(pairs: Iterable, touched: set[int], moving: Iterable[int]) -> bool:
    return any(a in (X, NOISE) or (a == CARRY and (k not in touched or k in moving)) for a, k in pairs)


def _reach(pairs: set, touched: set[int], moving: set[int]) -> Reach:
    draws = any(argument == Z for argument, _ in pairs)
    past = any(argument == CARRY and leaf in touched for argument, leaf in pairs)
    return Reach(draws, past, _in_time(pairs, touched, moving))


def _remembers(script: Script, sites, leaf: int, source: int, step: Staged, touched: set[int]) -> str:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(script.plan.carry)]
    values = step.reaches("values")
    through = [n for n, s in script.innovations.items() if s.smooth is not None and _hit(values[n], touched)]
    moved = f", through {', '.join(map(repr, through))}" if through else ""
    return (
        f"{_listed(sites)} cannot be summed out: carry{paths[leaf]} after a step is computed from carry{paths[source]} "
        f"before it, which their draws reach{moved}, so that the carry remembers the draws of all earlier steps and "
        "not of one"
    )


def _listed(sites: Iterable[Drawn]) -> str:
    return ", ".join(f"'{site.name}' ({site.family})" for site in sites)


def num_joint(sites: Iterable[Drawn]) -> int:
    """Count the joint values of some sites, all elements together."""
    return math.prod(site.num_values ** math.prod(site.shape) for site in sites)


def joint_values(sites: tuple[Drawn, ...]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """List the joint values of some sites.

    Returns:
        For each site its value (K, *shape) in each of the K joint values, and the position of each element
        in the list of its values, of the same shape.
    """
    sizes = [math.prod(site.shape) for site in sites]
    choices = [range(site.num_values) for site, size in zip(sites, sizes) for _ in range(size)]
    table = np.array(list(itertools.product(*choices)), dtype=np.int32).reshape(num_joint(sites), sum(sizes))
    values, positions, offset = {}, {}, 0
    for site, size in zip(sites, sizes):
        chosen = table[:, offset : offset + size].reshape(-1, *site.shape)
        positions[site.name] = chosen
        values[site.name] = np.asarray(site.values, site.dtype)[chosen]
        offset += size
    return values, positions


def start_of(script: Script, parameters, initial, observed, after: Staged, summed: tuple[Drawn, ...]) -> Staged:
    """The start at given noise of the continuous initial sites and given values of the discrete ones."""
    plan = script.plan
    given = shapes_of(summed)
    specs = noise_specs(script, [name for name in initial if name not in given], smooth=True)

    def fn(data, theta, noise, z):
        out: dict[str, Any] = {}
        corrections: dict[str, jax.Array] = {}

        def outside(name, fn):
            return theta[name] if name in theta else _value(script.outside[name], fn, noise, z, corrections)

        def at_main(loop: Loop):
            out["leaves"] = dict(enumerate(jax.tree.leaves(like(loop.init, plan.carry))))
            raise LeaveModel

        records = {r.name: r for r in script.run(data, outside, at_main)}
        drawn = {n: r for n, r in records.items() if n in initial}
        out["terms"] = _terms(drawn, z, corrections) | {n: records[n].log_prob() for n in observed}
        values = _values_outside(script, {**theta, **{n: r.value for n, r in drawn.items()}})
        out["terms"] |= after(_arrays(script, data), values)["log_prob"]
        out["values"] = {n: jnp.asarray(r.value) for n, r in drawn.items()}
        return out

    return script.stage(fn, (script.shapes(parameters), specs, given), late=1)


def step_of(script: Script, parameters, after: Staged, summed: tuple[Drawn, ...]) -> Staged:
    """One step at given noise of the continuous innovations and given values of the discrete ones."""
    plan = script.plan
    given = shapes_of(summed)
    specs = noise_specs(script, [name for name in script.innovations if name not in given], smooth=True)

    def fn(data, theta, carry, x, noise, z):
        out: dict[str, Any] = {}
        corrections: dict[str, jax.Array] = {}

        def at_main(loop: Loop):
            new, y, records = script.step(loop, carry, x, lambda site, fn: _value(site, fn, noise, z, corrections))
            drawn = {n: r for n, r in records.items() if r.latent}
            seen = {n: r for n, r in records.items() if r.observed}
            out["leaves"] = dict(enumerate(jax.tree.leaves(new)))
            out["ys"] = dict(enumerate(jax.tree.leaves(y)))
            out["terms"] = _terms(drawn, z, corrections) | {n: r.log_prob() for n, r in seen.items()}
            late = after.bind(_arrays(script, data), _values_outside(script, theta))
            out["terms"] |= late(x[0], as_output(y, plan))["log_prob"]
            out["values"] = {n: jnp.asarray(r.value) for n, r in records.items() if not r.observed}
            raise LeaveModel

        script.run(data, known_outside(script, theta), at_main)
        return out

    return script.stage(fn, (script.shapes(parameters), plan.carry, x_shapes(plan), specs, given), late=1)


def _arrays(script: Script, data: list) -> list:
    """What a staged function reads, with the data of this trace."""
    return [*data, *script.table[script.data :]]


def _values_outside(script: Script, known: dict) -> dict:
    """Values of the latent sites outside the loop, placeholders where nothing depends on them."""
    value = known_outside(script, known)
    return {name: value(name, None) for name, site in script.outside.items() if site.latent}


def shapes_of(sites: Iterable[Drawn]) -> dict[str, Shape]:
    """Shapes of the values of some sites."""
    return {site.name: Shape(site.shape, site.dtype) for site in sites}


def _value(site: Drawn, fn, noise: dict, z: dict, corrections: dict) -> jax.Array:
    if site.name in z:
        return z[site.name]
    assert site.smooth is not None
    if site.smooth.kind is MapKind.TRANSPORT:
        corrections[site.name] = site.smooth.log_correction(fn, noise[site.name])
    return jnp.asarray(site.smooth.apply(fn, noise[site.name]), site.dtype)


def _terms(drawn: dict[str, Record], z: dict, corrections: dict) -> dict[str, jax.Array]:
    """Log-densities of latent sites beyond that of their noise; sites that have none are left out."""
    terms = {}
    for name, record in drawn.items():
        if name in z:
            terms[name] = record.log_density() + record.log_excess()
        elif name in corrections or record.scale is not None:
            terms[name] = corrections.get(name, jnp.zeros(())) + record.log_excess()
    return terms
