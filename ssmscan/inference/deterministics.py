"""Deterministics outside the loop, added to what an engine found.

NumPyro's samplers return every `numpyro.deterministic`.  Those that the parameters decide are computed at every
draw; those that states decide, at every path.  They are functions of what was sampled: nothing is learnt from
comparing them as well, and a theta does not hold them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from ssmscan.inference.progress import call_timed
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.results.result import Result

BATCH = 64


def with_deterministics(ssm: StateSpaceModel, result: Result) -> Result:
    """The same result with the deterministics outside the loop of a model.

    Those of the parameters become `deterministics`; those of the states become `states`, which have time in front
    if their first axis is as long as the loop.  Control-C leaves them out.
    """
    if result.num_draws == 0 or not any(fn.jaxpr.outvars for core in ssm.cores for fn in core.program.computed):
        return result
    try:
        return _computed(ssm, result)
    except KeyboardInterrupt:
        return dataclasses.replace(result, interrupted=True)


def _computed(ssm: StateSpaceModel, result: Result) -> Result:
    known = {site.name for site in (*ssm.initial, *ssm.innovations)}
    states = {name: values for name, values in result.states.items() if name in known}
    of_draws = call_timed(_of_draws, ssm, jax.tree.map(_flat, result.draws)) if result.draws else None
    found = {} if of_draws is None else _shaped(of_draws.value, (result.num_chains, result.num_draws))
    seconds = 0.0 if of_draws is None else of_draws.seconds
    compile_seconds = 0.0 if of_draws is None else of_draws.compile_seconds
    paths: dict[str, np.ndarray] = {}
    late = any(core.program.computed[1].jaxpr.outvars for core in ssm.cores)
    if late and known <= set(states) and len(result.state_draws):
        theta = {name: values[:, result.state_draws] for name, values in result.draws.items()}
        of_paths = call_timed(_of_paths, ssm, *jax.tree.map(_flat, (theta, states)))
        paths = _shaped(of_paths.value, (result.num_chains, len(result.state_draws)))
        paths = {name: values for name, values in paths.items() if name not in found}
        seconds, compile_seconds = seconds + of_paths.seconds, compile_seconds + of_paths.compile_seconds
    lengths = {core.num_steps for core in ssm.cores}
    untimed = [name for name, values in paths.items() if values.ndim < 3 or values.shape[2] not in lengths]
    costs = dataclasses.replace(
        result.costs,
        compile_seconds=result.costs.compile_seconds + compile_seconds,
        run_seconds=result.costs.run_seconds + seconds,
    )
    return dataclasses.replace(
        result,
        deterministics=found,
        states={**result.states, **paths},
        initial=(*result.initial, *untimed),
        costs=costs,
    )


@jax.jit
def _of_draws(ssm: StateSpaceModel, theta: Any) -> dict[str, jax.Array]:
    return jax.lax.map(ssm.deterministics, theta, batch_size=BATCH)


@jax.jit
def _of_paths(ssm: StateSpaceModel, theta: Any, states: Any) -> dict[str, jax.Array]:
    return jax.lax.map(lambda one: ssm.deterministics(*one), (theta, states), batch_size=BATCH)


def _flat(leaf: np.ndarray) -> np.ndarray:
    return leaf.reshape(-1, *leaf.shape[2:])


def _shaped(values: dict[str, Any], lead: tuple[int, int]) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf).reshape(*lead, *leaf.shape[1:]) for name, leaf in values.items()}
