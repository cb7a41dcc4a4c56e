"""Forward simulation, and what follows from known states.

Simulation draws initial state, innovations and observations by each family's own sampler, as the
original model does under `handlers.seed`; simulated observations feed whatever the transition feeds
them to.  Prediction keeps the states that are known, feeds the transition with the data there are, draws
every observation again, and goes on by simulation where states or data end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssmscan.arguments import require_names, require_numbers
from ssmscan.model.jaxprs.dataflow import UNUSED
from ssmscan.model.statespace.parameters import of_dtype


class Outputs(NamedTuple):
    """What is drawn or computed, by site, and what code after the loop reads.

    Attributes:
        values: by site, those of the loop with time in front.
        ys: outputs of the loop, time in front.
        last: carry after the last step.
    """

    values: dict[str, jax.Array]
    ys: Any
    last: Any


@jax.jit
def simulate(key: jax.Array, ssm, theta: dict[str, jax.Array]) -> Outputs:
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
    drawn = tail(UNUSED, UNUSED, UNUSED, tail_key, ys, last)
    after = {**drawn["outside_replicate"], **drawn["outside_deterministic"]}
    return Outputs({**start["values"], **values, **after}, ys, last)


def known_states(ssm: Any, states: Mapping[str, Any], *, whole: bool = False) -> dict[str, jax.Array]:
    """Check names and shapes of states, and cast them; other sites of the model are left out.

    Args:
        ssm: the model, of one loop or of several.
        states: as in `StateSpaceModel.predict`, which starts from them.
        whole: whether the innovations must be there at all steps.

    Raises:
        TypeError: it is no mapping of names to numbers.
        ValueError: an initial site is missing, a name is no site of the model, a shape is wrong or there are more
            steps than the model has.
    """
    needed = [site.name for site in (*ssm.initial, *(ssm.innovations if whole else ()))]
    advice = "" if whole else "Innovations may end before the series."
    what = "latent sites" if whole else "initial sites"
    require_names("states", states, needed, what, optional=[s.name for s in ssm.sites], advice=advice)
    known = {}
    for part in ssm.parts:
        for site in (*part.initial, *part.innovations):
            if site.name in states:
                argument, value = f"states['{site.name}']", states[site.name]
                time = [part.num_steps if whole else None] if site.in_loop else []
                require_numbers(argument, value, (*time, *site.shape))
                if site.in_loop and np.shape(value)[0] > part.num_steps:
                    raise ValueError(f"{argument} has {np.shape(value)[0]} steps, and the model {part.num_steps}.")
                known[site.name] = of_dtype(value, site.dtype)
    return known


@jax.jit
def predict(key: jax.Array, ssm, theta: dict, states: Mapping[str, jax.Array]) -> Outputs:
    """Draw what follows from known states; see `StateSpaceModel.predict`."""
    initial = {site.name: states[site.name] for site in ssm.initial}
    loop_key, outside_key = jax.random.split(key)
    step = ssm.program.step_predict.bind(ssm.arrays, theta)
    steps = jnp.arange(ssm.num_steps, dtype=jnp.uint32)
    z, known = {}, {}
    for site in ssm.innovations:
        given = states.get(site.name, jnp.zeros((0, *site.shape), site.dtype))
        rest = jnp.zeros((ssm.num_steps - len(given), *site.shape), site.dtype)
        z[site.name], known[site.name] = jnp.concatenate([given, rest]), steps < len(given)

    def body(carry, inputs):
        x, z, known, t = inputs
        out = step(carry, x, z, known, jax.random.fold_in(loop_key, t))
        return out["carry"], (out["values"], out["y"])

    bound = ssm.at(theta)
    last, (values, ys) = lax.scan(body, bound.evaluate_start(initial).carry, (bound.xs, z, known, steps))
    outside = ssm.program.predict_outside.bind(ssm.arrays, ssm._outside(theta, initial))
    out = outside(UNUSED, UNUSED, UNUSED, outside_key, ys, last)
    drawn = {**initial, **values, **out["outside_replicate"], **out["outside_deterministic"]}
    return Outputs(drawn, ys, last)
