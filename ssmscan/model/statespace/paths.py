"""Whole paths: the loop run at given noise, or at given values of its sites.

At given noise the model is deterministic, and its log-density in (theta, noise) is

    log p(theta) + log N(noise) + [ log p(y | theta, noise) + corrections ]

where a correction makes up for a map that is a transport and not exact.  The bracket is what
gradient engines call the likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ssmscan.arguments import require_names, require_numbers
from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.dataflow import UNUSED, Staged
from ssmscan.model.jaxprs.placeholders import sum_of
from ssmscan.model.protocols import NoiseSpec, PyTree, Theta
from ssmscan.model.sites import Role
from ssmscan.model.staging.post_loop import as_output
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.parameters import of_dtype


class Path(NamedTuple):
    """The loop run at given values of its sites.

    Attributes:
        carry: carry after the last step.
        ys: outputs, T in front.
        log_prob: for each site of the loop, its log-probability as NumPyro counts it, summed over steps.
    """

    carry: PyTree
    ys: PyTree
    log_prob: dict[str, jax.Array]


class AtNoise(NamedTuple):
    """The loop run at given noise.

    Attributes:
        log_likelihood: log-density of the data, corrections included, a scalar.
        values: of all sites drawn or computed.
        correction: what inexact noise maps add to the log-likelihood.
    """

    log_likelihood: jax.Array
    values: dict[str, jax.Array]
    correction: jax.Array


def smooth(core: Core) -> tuple[Staged, Staged]:
    """Start and step under the smooth maps of a model whose sites all have one."""
    refuse_rough(core)
    assert core.program.smooth_start is not None and core.program.smooth_step is not None
    return core.program.smooth_start, core.program.smooth_step


def refuse_rough(core: Core) -> None:
    """Raise where gradient engines cannot see the model.

    Raises:
        ModelError: a site has no smooth map from noise and cannot be summed out; the message says why.
    """
    program = core.program
    if program.rough and program.summed is None:
        sites = {site.name: site for site in program.sites}
        listed = ", ".join(f"'{name}' ({sites[name].family})" for name in program.rough)
        raise ModelError(
            f"site(s) {listed} cannot be written as a smooth function of noise, so NUTS and other gradient "
            f"engines cannot sample this model: {program.not_summed}. Use a particle engine (ParticleFilter, PMMH), "
            "or replace the distribution by a continuous one."
        )


def smooth_noise(core: Core) -> dict[str, NoiseSpec]:
    """Return the standard-normal noise of the whole loop: initial sites, then loop sites with T in front.

    Raises:
        ModelError: there is none, see `refuse_rough`.
    """
    refuse_rough(core)
    specs, steps = core.program.smooth_noise, (core.num_steps,)
    loop = {s.name: NoiseSpec(steps + specs[s.name].shape, False) for s in core.innovations if s.name in specs}
    return {**{name: specs[name] for name in core.program.initial if name in specs}, **loop}


def require_noise(specs: Mapping[str, NoiseSpec], noise: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Check names and shapes of base noise, and cast it.

    Raises:
        TypeError: it is no mapping of names to numbers.
        ValueError: a name is missing or unknown, or a shape is wrong.
    """
    advice = "ssm.smooth_noise has the shapes."
    for name in require_names("noise", noise, specs, "sites with noise", advice=advice):
        require_numbers(f"noise['{name}']", noise[name], specs[name].shape)
    return {name: of_dtype(noise[name], jnp.result_type(float)) for name in specs}


def from_noise(core: Core, theta: Theta, noise: Mapping[str, jax.Array]) -> AtNoise:
    """Run the loop at given noise."""
    program, names = core.program, set(core.program.initial)
    smooth_start, smooth_step = smooth(core)
    start = smooth_start.bind(core.arrays, theta)({n: noise[n] for n in program.initial})
    step = smooth_step.bind(core.arrays, theta)
    observed = [start["log_observation"][n] for n in program.names(Role.START_OBSERVATION)]
    log_start = sum_of(observed) + start["log_excess"]
    loop_noise = {n: e for n, e in noise.items() if n not in names}

    def body(carry, inputs):
        x, e = inputs
        out = step(carry, x, e)
        return out["carry"], (out["log_weight"], out["correction"], out["values"], out["y"])

    last, (weights, corrections, values, ys) = lax.scan(body, start["carry"], (core.inputs(theta), loop_noise))
    log_static = core.total(program.log_static, core.outside(theta))
    correction = start["correction"] + jnp.sum(corrections)
    log_likelihood = log_static + log_start + jnp.sum(weights) + correction
    if program.names(Role.TAIL_OBSERVATION):
        outside = core.outside(theta, start["values"])
        tail = program.log_tail.bind(core.arrays, outside)(*[UNUSED] * 4, ys, last)["outside_log_prob"]
        log_likelihood = log_likelihood + sum_of(tail.values())
    if program.part.joint:
        outside = core.outside(theta, start["values"])
        rows = program.joint_step.bind(core.arrays, outside)
        each = jax.vmap(lambda t, y: sum_of(rows(t, as_output(y, program.plan))["log_prob"].values()))
        rest = program.joint_rest(core.arrays, outside)["log_prob"]
        log_likelihood = log_likelihood + jnp.sum(each(jnp.arange(core.num_steps), ys)) + sum_of(rest.values())
    return AtNoise(log_likelihood, {**start["values"], **values}, correction)


def from_values(core: Core, theta: Theta, initial: Mapping[str, jax.Array], loop: Mapping[str, jax.Array]) -> Path:
    """Run the loop at given values of initial sites and innovations (T in front)."""
    xs = core.inputs(theta)
    step = core.program.evaluate.bind(core.arrays, core.outside(theta))

    def body(carry, inputs):
        x, values = inputs
        out = step(carry, x, values, UNUSED, UNUSED, UNUSED)
        return out["carry"], (out["y"], out["log_prob"])

    last, (ys, log_prob) = lax.scan(body, core.start(theta, initial), (xs, dict(loop)))
    return Path(last, ys, jax.tree.map(jnp.sum, log_prob))
