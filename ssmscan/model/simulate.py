"""Forward simulation and in-sample replication.

Simulation draws initial state, innovations and observations by each family's own sampler, as the
original model does under `handlers.seed`; simulated observations feed whatever the transition feeds
them to.  Replication keeps the states and the carry of the data and draws only y again.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from ssmscan.model.dataflow import UNUSED
from ssmscan.model.paths import from_values


@jax.jit
def simulate(key: jax.Array, ssm, theta: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Draw states and observations; see `StateSpaceModel.simulate`."""
    start_key, loop_key, tail_key = jax.random.split(key, 3)
    start = ssm.program.start_draw.bind(ssm.arrays, theta)(start_key)
    step = ssm.program.step_draw.bind(ssm.arrays, theta)

    def body(carry, inputs):
        x, t = inputs
        out = step(carry, x, jax.random.fold_in(loop_key, t))
        return out["carry"], (out["values"], out["y"])

    steps = jnp.arange(ssm.num_steps, dtype=jnp.uint32)
    last, (values, ys) = lax.scan(body, start["carry"], (ssm.at(theta).xs, steps))
    initial = {site.name: start["values"][site.name] for site in ssm.initial}
    tail = ssm.program.replicate_tail.bind(ssm.arrays, ssm._outside(theta, initial))
    drawn = tail(UNUSED, UNUSED, UNUSED, tail_key, ys, last)["outside_replicate"]
    return {**start["values"], **values, **drawn}


def replicate(key: jax.Array, ssm, theta: dict, states: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Draw the observations again at given states; see `StateSpaceModel.replicate`."""
    bound = ssm.at(theta)
    initial = {site.name: states[site.name] for site in ssm.initial}
    loop = {site.name: states[site.name] for site in ssm.innovations}
    loop_key, outside_key = jax.random.split(key)

    def body(carry, inputs):
        x, values, t = inputs
        draws = bound.replicate(jax.random.fold_in(loop_key, t), carry, x, values)
        return bound.evaluate(carry, x, values).carry, draws

    steps = jnp.arange(ssm.num_steps, dtype=jnp.uint32)
    _, draws = lax.scan(body, bound.start_from(initial), (bound.xs, loop, steps))
    path = from_values(ssm, theta, initial, loop)
    outside = ssm.program.replicate_outside.bind(ssm.arrays, ssm._outside(theta, initial))
    return {**draws, **outside(UNUSED, UNUSED, UNUSED, outside_key, path.ys, path.carry)["outside_replicate"]}
