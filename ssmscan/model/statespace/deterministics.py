"""Deterministics outside the loop: functions of the parameters, and functions of the states.

The first have a value at each draw of the parameters, the second at each path of the states.  What a forecast or
another simulated site reaches is neither: `ssm.predict` draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from ssmscan.model.jaxprs.dataflow import UNUSED, Staged
from ssmscan.model.staging.roles import KEY, LAST, OUTSIDE, YS
from ssmscan.model.statespace.paths import from_values
from ssmscan.model.statespace.simulation import known_states

if TYPE_CHECKING:
    from ssmscan.model.statespace.program import Program


def select(program: Program, names: set[str]) -> tuple[Staged, Staged]:
    """Restrict the value function to some deterministics that parameters decide, and to those that states do."""
    latents = sorted(site.name for site in program.plan.outside if site.latent)
    reached = {n: pairs for n, pairs in program.value.reaches("outside_deterministic").items() if n in names}
    drawn = {n for n, pairs in reached.items() if any(argument == KEY for argument, _ in pairs)}

    def of_state(argument: int, leaf: int) -> bool:
        return argument in (YS, LAST) or (argument == OUTSIDE and latents[leaf] in program.initial)

    states = {n for n, pairs in reached.items() if any(of_state(*pair) for pair in pairs)} - drawn
    return (
        program.value.select(outside_deterministic=[n for n in reached if n not in drawn | states]),
        program.value.select(outside_deterministic=[n for n in reached if n in states]),
    )


def deterministics(
    ssm: Any, theta: Mapping[str, jax.Array], states: Mapping[str, jax.Array] | None = None
) -> dict[str, jax.Array]:
    """Compute the deterministics outside the loop.

    Args:
        ssm: a traced model.
        theta: value of every parameter; checked as in `canonical`.
        states: values of the initial sites and, with time in front, of the innovations; without them only what
            parameters decide is computed.

    Returns:
        Values by name.
    """
    theta = ssm.canonical(theta)
    states = None if states is None else known_states(ssm, states, whole=True)
    found: dict[str, jax.Array] = {}
    for part in ssm.parts:
        early, late = part.program.computed
        found |= early.bind(part.arrays, part._outside(theta))(*[UNUSED] * 6)["outside_deterministic"]
        if states is not None and late.jaxpr.outvars:
            initial = {site.name: states[site.name] for site in part.initial}
            path = from_values(part, theta, initial, {site.name: states[site.name] for site in part.innovations})
            rest = late.bind(part.arrays, part._outside(theta, initial))
            found |= rest(UNUSED, UNUSED, UNUSED, UNUSED, path.ys, path.carry)["outside_deterministic"]
    return found
