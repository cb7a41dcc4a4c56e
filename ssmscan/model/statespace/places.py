"""Where states are that gradient engines sample in place: forward simulation, written in unconstrained values.

See `ssmscan.model.noise.in_place`.  Data that the transition reads are kept, so that the draw has the law that
`marginal.Densities` speaks of, in the order of time: that of each state given those before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jax import lax

from ssmscan.model.protocols import Theta, Values
from ssmscan.model.statespace.core import Core


def put_in_place(key: jax.Array, core: Core, theta: Theta, noise: Mapping[str, jax.Array]) -> Values:
    """Draw the unconstrained values of states that are sampled in place, given the noise of the others.

    Args:
        key: PRNG key.
        core: the loop.
        theta: the parameters.
        noise: noise of the others, T in front.
    """
    places, arrays = core.program.places, core.arrays
    if places is None:
        return {}
    fixed = {n: noise[n] for n in places.start.argument("noise")}
    start = places.start(arrays, theta=theta, noise=fixed, key=jax.random.fold_in(key, 0))
    step = places.step.bind(arrays, theta=theta)

    def body(carry, inputs):
        x, e, own = inputs
        out = step(carry=carry, x=x, noise=e, key=own)
        return out["carry"], out["noise"]

    keys = jax.random.split(jax.random.fold_in(key, 1), core.num_steps)
    moving = {n: noise[n] for n in places.step.argument("noise")}
    drawn = lax.scan(body, start["carry"], (core.inputs(theta), moving, keys))[1]
    return {**start["noise"], **drawn}
