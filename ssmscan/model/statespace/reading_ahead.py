"""Whether forecasts of more than one step would see data of the steps between.

A forecast draws the observations of the steps that have not come, and what the transition is fed by its own sites is
what was drawn.  A lag that is read from the data around the site, as `y[t - 1]` from the closure or from xs, is not
drawn: it would be the datum itself.  Other values are put in the place of all data that are observed, and the steps of
a simulation are drawn again with the same keys: where one comes out different, it has read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssmscan.errors import ModelError
from ssmscan.model.protocols import Theta
from ssmscan.model.statespace import data
from ssmscan.model.statespace.core import Core


def refuse_reading_ahead(core: Core, theta: Mapping[str, jax.Array]) -> None:
    """Raise where simulated steps read data that are observed.

    Args:
        core: the loop.
        theta: parameters at which a path is simulated.

    Raises:
        ModelError: they do; the message names the sites that come out different.
    """
    other = _with_other_observations(core)
    found = jax.device_get(_read(jax.random.key(0), core, other, dict(theta)))
    if not any(found.values()):
        return
    names = ", ".join(f"'{name}'" for name, differs in found.items() if differs and name)
    raise ModelError(
        f"more than one step ahead cannot be predicted: {names or 'the carry'} would come out otherwise if other "
        "values were observed, as the transition reads observed data around the sample statement that observes them. A "
        "lag such as y[t - 1] from the closure or from xs is known only up to the origin. Carry what numpyro.sample "
        "returns to the next step instead, which a forecast draws; pass covariates as an argument of their own; or ask "
        "for horizons=(1,)."
    )


def _with_other_observations(core: Core) -> Core:
    """Return the loop over other values of all arrays that observed values depend on."""
    shown, other = jax.device_get(data.observed(core)), []
    for i, array in enumerate(core.arrays):
        moved = _moved(array)
        if moved is not None:
            arrays = [*core.arrays[:i], moved, *core.arrays[i + 1 :]]
            now = jax.device_get(data.observed(Core(core.program, tuple(arrays))))
            if all(np.array_equal(now[name], x, equal_nan=x.dtype.kind == "f") for name, x in shown.items()):
                moved = None
        other.append(array if moved is None else moved)
    return Core(core.program, tuple(other))


def _moved(array: jax.Array) -> jax.Array | None:
    """Return other values of an array; None where it is not of numbers.  What is missing stays missing."""
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array + (1 + 0.5 * jnp.abs(array))
    return array + 1 if jnp.issubdtype(array.dtype, jnp.integer) else None


@partial(jax.jit)
def _read(key: jax.Array, core: Core, other: Core, theta: Theta) -> dict[str, jax.Array]:
    """Tell for each site of the loop, and for the carry under "", whether a step differs with other data."""
    start_key, loop_key = jax.random.split(key)
    begin = core.program.start_draw(core.arrays, theta=theta, key=start_key)["carry"]
    draw, again = (core.program.step_draw.bind(one.arrays, theta=theta) for one in (core, other))

    def differ(a: jax.Array, b: jax.Array) -> jax.Array:
        same = (a == b) | (jnp.isnan(a) & jnp.isnan(b)) if jnp.issubdtype(a.dtype, jnp.floating) else a == b
        return ~jnp.all(same)

    def step(carry, inputs):
        x, other_x, t = inputs
        own = jax.random.fold_in(loop_key, t)
        out, then = draw(carry=carry, x=x, key=own), again(carry=carry, x=other_x, key=own)
        told = {name: differ(value, then["values"][name]) for name, value in out["values"].items()}
        ends = zip(jax.tree.leaves((out["carry"], out["y"])), jax.tree.leaves((then["carry"], then["y"])))
        told[""] = jnp.any(jnp.asarray([differ(a, b) for a, b in ends] or [False]))
        return out["carry"], told

    steps = jnp.arange(core.num_steps, dtype=jnp.uint32)
    _, told = lax.scan(step, begin, (core.inputs(theta), other.inputs(theta), steps))
    return jax.tree.map(jnp.any, told)
