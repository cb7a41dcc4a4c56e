"""Deterministics outside the loop: which of them are functions of the parameters, and which of the states.

What a forecast or another simulated site reaches is neither: `ssm.predict` draws it.
"""

from __future__ import annotations

from collections.abc import Collection

from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.staging.discovery import Plan
from ssmscan.model.staging.roles import KEY, LAST, OUTSIDE, YS


def select(value: Staged, plan: Plan, initial: Collection[str], names: Collection[str]) -> tuple[Staged, Staged]:
    """Restrict the value function to some deterministics that parameters decide, and to those that states do."""
    latents = sorted(site.name for site in plan.outside if site.latent)
    reached = {n: pairs for n, pairs in value.reaches("outside_deterministic").items() if n in names}
    drawn = {n for n, pairs in reached.items() if any(argument == KEY for argument, _ in pairs)}

    def of_state(argument: int, leaf: int) -> bool:
        return argument in (YS, LAST) or (argument == OUTSIDE and latents[leaf] in initial)

    states = {n for n, pairs in reached.items() if any(of_state(*pair) for pair in pairs)} - drawn
    return (
        value.select(outside_deterministic=[n for n in reached if n not in drawn | states]),
        value.select(outside_deterministic=[n for n in reached if n in states]),
    )
