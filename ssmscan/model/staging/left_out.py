"""Sites that take no part in inference, from the data flow of the staged model.

Forecasts, draws after the loop that no data depend on, missing elements that nothing reads, and draws of a step that
nothing reads: they are integrated out or simulated, and are no states.
"""

from __future__ import annotations

import jax

from ssmscan.model.handlers.missing import SUFFIX
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.staging.discovery import Plan
from ssmscan.model.staging.roles import data_flow


def forecasts(staged: Staged, plan: Plan) -> bool:
    """Return whether data are observed in or from the loop of the plan, and the loops with noise only go on from there.

    Exponential smoothing draws nothing in the sample; its forecast, a second scan, does.  What the forecast draws is
    no state of the model, whose parts have the same roles with it and without.
    """
    flow = data_flow(staged, plan)
    observed = {s.name for s in plan.outside if s.observed}
    return bool(observed & flow.after or any(s.observed for s in plan.inside)) and not observed & flow.elsewhere


def drawn_after(staged: Staged, plan: Plan, *, alone: bool) -> frozenset[str]:
    """Return the sites drawn after the loop from its states, which act on no other density than each other's.

    Where data depend on this loop alone, those drawn from the other loops, which are forecasts, are among them.
    """
    later = {s.name for s in plan.outside if s.latent and s.loop > plan.main}
    if not later:
        return frozenset()
    flow = data_flow(staged, plan)
    found = later & (flow.after | flow.elsewhere if alone else flow.after)
    while grown := {n for n in later - found if flow.density[n] & (found - {n})}:
        found |= grown
    while acting := {n for n in found for user, sites in flow.density.items() if n in sites and user not in found}:
        found -= acting
    return frozenset(found)


def needed_missing(staged: Staged, plan: Plan) -> frozenset[str] | None:
    """Return the observed sites whose missing elements the model reads.

    They act on the carry, on another site, or through the outputs on an observation after the loop.

    Returns:
        Their names; None where every site with missing elements is one, or none has any.
    """
    latents = sorted(site.name for site in plan.outside if site.latent)
    innovations = sorted(site.name for site in plan.inside if site.latent)
    hidden = {name: ("outside", k) for k, name in enumerate(latents)} | {
        n: ("values", k) for k, n in enumerate(innovations)
    }
    hidden = {s.name: hidden[s.name] for s in (*plan.outside, *plan.inside) if s.latent and s.gaps}
    if not hidden:
        return None
    densities = [staged.reaches(entry) for entry in ("log_prob", "replicate", "outside_log_prob")]
    acts = [pairs for entry in ("start", "xs", "carry") for pairs in jax.tree.leaves(staged.reaches(entry))]
    if any(argument == "ys" for pairs in densities[-1].values() for argument, _ in pairs):
        acts += jax.tree.leaves(staged.reaches("y"))
    needed = set()
    for name, position in hidden.items():
        own = {name, name.removesuffix(SUFFIX)}
        others = [pairs for entry in densities for site, pairs in entry.items() if site not in own]
        if any(position in pairs for pairs in (*acts, *others)):
            needed.add(name.removesuffix(SUFFIX))
    return frozenset(needed) if len(needed) < len(hidden) else None


def unread(staged: Staged, plan: Plan) -> tuple[str, ...]:
    """Return the sites drawn at every step that nothing reads, as an observation whose data were forgotten.

    They reach neither the carry nor another site of the step, nor outputs that a site after the loop reads.
    """
    innovations = sorted((site.name, site.gaps) for site in plan.inside if site.latent)
    unused = {k: name for k, (name, gaps) in enumerate(innovations) if not gaps}

    def without(uses: list[tuple[str, set]]) -> dict[int, str]:
        return {k: n for k, n in unused.items() if not any(("values", k) in pairs for user, pairs in uses if user != n)}

    unused = without([("", pairs) for pairs in jax.tree.leaves(staged.reaches("carry"))])
    for entry in ("log_prob", "replicate", "deterministic"):
        unused = without(list(staged.reaches(entry).items())) if unused else {}
    after = [staged.reaches(entry).values() for entry in ("outside_log_prob", "outside_deterministic") if unused]
    read = {leaf for found in after for pairs in found for argument, leaf in pairs if argument == "ys"}
    outputs = jax.tree.leaves(staged.reaches("y")) if read else []
    found = without([("", pairs) for leaf, pairs in enumerate(outputs) if leaf in read]).values()
    return tuple(site.name for site in plan.inside if site.name in found)
