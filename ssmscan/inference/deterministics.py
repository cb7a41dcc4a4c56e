"""Deterministics outside the loop, added to what an engine found.

NumPyro's samplers return every `numpyro.deterministic`.  Those that the parameters decide are computed at every
draw; those that states decide, at every path.  They are functions of what was sampled: nothing is learnt from
comparing them as well, and a theta does not hold them.
"""

from __future__ import annotations

import dataclasses

from ssmscan.inference.progress import Timed, map_draws
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.results.result import Result


def with_deterministics(ssm: StateSpaceModel, result: Result) -> Result:
    """Return the result with the deterministics outside the loop of a model.

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
    of_draws = of_paths = Timed({}, 0.0, 0.0)
    if result.draws:
        of_draws = map_draws(StateSpaceModel.deterministics, ssm, result.draws)
    late = any(core.program.computed[1].jaxpr.outvars for core in ssm.cores)
    if late and known <= set(states) and len(result.state_draws):
        theta = {name: values[:, result.state_draws] for name, values in result.draws.items()}
        of_paths = map_draws(StateSpaceModel.deterministics, ssm, theta, states)
    paths = {name: values for name, values in of_paths.value.items() if name not in of_draws.value}
    lengths = {core.num_steps for core in ssm.cores}
    untimed = [name for name, values in paths.items() if values.ndim < 3 or values.shape[2] not in lengths]
    costs = dataclasses.replace(
        result.costs,
        compile_seconds=result.costs.compile_seconds + of_draws.compile_seconds + of_paths.compile_seconds,
        run_seconds=result.costs.run_seconds + of_draws.seconds + of_paths.seconds,
    )
    return dataclasses.replace(
        result,
        deterministics=of_draws.value,
        states={**result.states, **paths},
        initial=(*result.initial, *untimed),
        costs=costs,
    )
