"""Forward simulation, and what follows from known states.

Simulation draws initial state, innovations and observations by each family's own sampler, as the
original model does under `handlers.seed`; simulated observations feed whatever the transition feeds
them to.  Prediction keeps the states that are known, feeds the transition with the data there are, draws
every observation again, and goes on by simulation where states or data end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssmscan.arguments import require_names, require_numbers
from ssmscan.model.keys import loop_keys
from ssmscan.model.protocols import PyTree, Theta, Values
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.parameters import of_dtype


class Outputs(NamedTuple):
    """What is drawn or computed, by site, and what code after the loop reads.

    Attributes:
        values: by site, those of the loop with time in front.
        ys: outputs of the loop, time in front.
        last: carry after the last step.
    """

    values: Values
    ys: PyTree
    last: PyTree


@jax.jit
def simulate(key: jax.Array, core: Core, theta: Theta) -> Outputs:
    """Draw states and observations; see `StateSpaceModel.simulate`."""
    program, arrays = core.program, core.arrays
    start_key, loop_key, tail_key = jax.random.split(key, 3)
    start = program.start_draw(arrays, theta=theta, key=start_key)
    step = program.step_draw.bind(arrays, theta=theta)

    def body(carry, inputs):
        x, t = inputs
        out = step(carry=carry, x=x, key=jax.random.fold_in(loop_key, t))
        return out["carry"], (out["values"], out["y"])

    steps = jnp.arange(core.num_steps, dtype=jnp.uint32)
    last, (values, ys) = lax.scan(body, start["carry"], (core.inputs(theta), steps))
    initial = {site.name: start["values"][site.name] for site in core.initial}
    outside = core.outside(theta, initial)
    drawn = program.replicates.simulated(arrays, outside=outside, key=tail_key, ys=ys, last=last)
    after = {**drawn["outside_replicate"], **drawn["outside_deterministic"]}
    return Outputs({**start["values"], **values, **after}, ys, last)


@jax.jit
def predict(key: jax.Array, core: Core, theta: Theta, states: Values) -> Outputs:
    """Draw what follows from known states; see `StateSpaceModel.predict`."""
    program, arrays = core.program, core.arrays
    initial = {site.name: states[site.name] for site in core.initial}
    loop_key, outside_key = jax.random.split(key)
    step = program.step_predict.bind(arrays, theta=theta)
    steps = jnp.arange(core.num_steps, dtype=jnp.uint32)
    kept, known = {}, {}
    for site in core.innovations:
        given = states.get(site.name, jnp.zeros((0, *site.shape), site.dtype))
        rest = jnp.zeros((core.num_steps - len(given), *site.shape), site.dtype)
        kept[site.name], known[site.name] = jnp.concatenate([given, rest]), steps < len(given)

    def body(carry, inputs):
        x, values, known, t = inputs
        out = step(carry=carry, x=x, values=values, known=known, key=jax.random.fold_in(loop_key, t))
        return out["carry"], (out["values"], out["y"])

    xs = core.inputs(theta)
    last, (values, ys) = lax.scan(body, core.start(theta, initial), (xs, kept, known, steps))
    outside = core.outside(theta, initial)
    out = program.replicates.predicted(arrays, outside=outside, key=outside_key, ys=ys, last=last)
    drawn = {**initial, **values, **out["outside_replicate"], **out["outside_deterministic"]}
    return Outputs(drawn, ys, last)


def known_states(cores: Sequence[Core], states: Mapping[str, Any], *, whole: bool = False) -> Values:
    """Check names and shapes of states, and cast them; other sites of the model are left out.

    Args:
        cores: the loops of the model.
        states: as in `StateSpaceModel.predict`, which starts from them.
        whole: whether the innovations must be there at all steps.

    Raises:
        TypeError: it is not a mapping of names to numbers.
        ValueError: an initial site is missing, a name is no site of the model, a shape is wrong or there are more
            steps than the model has.
    """
    initial = [site.name for core in cores for site in core.initial]
    loop = [site.name for core in cores for site in core.innovations]
    advice = "" if whole else "Innovations may end before the series."
    what = "latent sites" if whole else "initial sites"
    every = {site.name: None for core in cores for site in core.program.sites}
    require_names("states", states, [*initial, *(loop if whole else ())], what, optional=list(every), advice=advice)
    known = {}
    for core in cores:
        for site in (*core.initial, *core.innovations):
            if site.name in states:
                argument, value = f"states['{site.name}']", states[site.name]
                time = [core.num_steps if whole else None] if site.in_loop else []
                require_numbers(argument, value, (*time, *site.shape))
                if site.in_loop and np.shape(value)[0] > core.num_steps:
                    raise ValueError(f"{argument} has {np.shape(value)[0]} steps, and the model {core.num_steps}.")
                known[site.name] = of_dtype(value, site.dtype)
    return known


# ---- several loops ------------------------------------------------------------------------------


def simulate_all(key: jax.Array, cores: Sequence[Core], theta: Theta) -> Values:
    """Draw states and observations of every loop; see `StateSpaceModel.simulate`."""
    for core in cores:
        core.refuse_undrawable(*core.initial, *core.innovations)
    runs = [simulate(own, core, theta) for own, core in zip(loop_keys(key, len(cores)), cores)]
    return _with_joined(key, cores, theta, runs)


def predict_all(key: jax.Array, cores: Sequence[Core], theta: Theta, states: Values) -> Values:
    """Draw what follows from known states of every loop; see `StateSpaceModel.predict`."""
    runs = []
    for own, core in zip(loop_keys(key, len(cores)), cores):
        core.refuse_undrawable(*(s for s in core.innovations if len(states.get(s.name, ())) < core.num_steps))
        names = {site.name for site in (*core.initial, *core.innovations)}
        runs.append(predict(own, core, theta, {n: v for n, v in states.items() if n in names}))
    return _with_joined(key, cores, theta, runs)


def _with_joined(key: jax.Array, cores: Sequence[Core], theta: Theta, runs: Sequence[Outputs]) -> Values:
    """Collect the outputs of all loops, and draw what joins them."""
    values = {name: value for one in runs for name, value in one.values.items()}
    if cores[0].program.joint is None:
        return values
    return values | joined(jax.random.fold_in(key, len(runs)), cores, theta, values, runs)["values"]


def joined(
    key: jax.Array, cores: Sequence[Core], theta: Theta, values: Values, runs: Sequence[Outputs]
) -> dict[str, Values]:
    """Compute the sites that join the outputs of several loops.

    Args:
        key: PRNG key of the draws.
        cores: the loops.
        theta: the parameters.
        values: values of the initial sites, among others.
        runs: outputs of each loop.

    Returns:
        "values", new draws and deterministics by site, and "log_prob" of the observed ones.
    """
    first = cores[0]
    if first.program.joint is None:
        return {"values": {}, "log_prob": {}}
    outside = first.outside(theta, {site.name: values[site.name] for core in cores for site in core.initial})
    ys, last = [run.ys for run in runs], [run.last for run in runs]
    return first.program.joint(first.arrays, outside=outside, ys=ys, last=last, key=key)
