"""Decide what every site is, from the data flow of the staged model.

Write c for the leaves of the carry and v for the innovations of a step.

    fresh leaf        c'_k depends on some v, or on a fresh leaf (closed over steps)
    initial state     a latent site before the loop whose value enters fresh leaves of the initial carry,
                      and which reaches nothing else of the step, its inputs or the code after the loop;
                      distributions of other initial states do not count against it
    parameter         every other latent site outside the loop

A site that enters a leaf no innovation ever refreshes (passed through, rotated, decayed) acts on
every step with one value, which is what a parameter does; filtering it as a state would let the
particles forget it.  A site that reaches the start only through the distribution of other sites, such
as the probability of a first state in all elements of a plate, is a hyper-parameter: one value of it a
particle would tie the elements together, and a joint filter of many elements keeps one particle.  Only
a discrete one stays an initial state, since no engine moves discrete parameters.  In doubt: parameter.

Missing elements of observations are drawn like innovations and refresh no leaf: they are there in some
steps and not in others, and the role of a site may not change with the gaps of the data or with the
length of the loop.  The reason of each decision is kept for the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax

from ssmscan.errors import ModelError
from ssmscan.model.handlers.missing import SUFFIX
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.noise.families import MapKind
from ssmscan.model.sites import Role, Site
from ssmscan.model.staging.discovery import Plan, TracedSite


class Flow(NamedTuple):
    """What reaches what, by site name and carry leaf.

    Attributes:
        start: for each leaf of the initial carry, the outside sites it depends on.
        fresh: leaves that an innovation refreshes.
        step: outside sites that the step, its inputs or its densities depend on directly.
        post_loop: outside sites that code after the loop depends on directly.
        density: for each outside site, the outside sites its log-density depends on.
        after: outside sites whose log-density depends on the states or outputs of the loop.
        elsewhere: outside sites whose log-density depends on other loops with noise.
    """

    start: list[set[str]]
    fresh: set[int]
    step: dict[str, str]
    post_loop: set[str]
    density: dict[str, set[str]]
    after: set[str]
    elsewhere: set[str]


def data_flow(staged: Staged, plan: Plan) -> Flow:
    """Return what reaches what in the jaxpr of `functions.by_value`."""
    latents = sorted(site.name for site in plan.outside if site.latent)

    def sites(pairs) -> set[str]:
        return {latents[k] for argument, k in pairs if argument == "outside"}

    carry = jax.tree.leaves(staged.reaches("carry"))
    start = [sites(pairs) for pairs in jax.tree.leaves(staged.reaches("start"))]
    innovations = sorted(site.name for site in plan.inside if site.latent)
    refreshing = {k for k, name in enumerate(innovations) if name not in missing_elements(plan)}
    fresh: set[int] = set()
    while True:
        grown = {
            k
            for k, pairs in enumerate(carry)
            if any((a == "values" and i in refreshing) or (a == "carry" and i in fresh) for a, i in pairs)
        }
        if grown == fresh:
            break
        fresh = grown
    inputs = {name for pairs in jax.tree.leaves(staged.reaches("xs")) for name in sites(pairs)}
    step = read_directly(staged, plan, dict.fromkeys(sorted(inputs), "the inputs of the loop"))
    reached = staged.reaches("outside_log_prob")
    for name, pairs in staged.reaches("outside_log_density").items():
        reached[name] = reached[name] | pairs
    density = {name: sites(pairs) for name, pairs in reached.items()}
    elsewhere = {name for name, pairs in reached.items() if any(argument == "key" for argument, _ in pairs)}
    after = {name for name, pairs in reached.items() if any(a in ("ys", "last") for a, _ in pairs)}
    return Flow(start, fresh, step, through_post_loop(plan, density, {}), density, after, elsewhere)


def read_directly(staged: Staged, plan: Plan, inputs: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the sites outside the loop that a step depends on directly, with what reads them.

    Args:
        staged, plan: as in `data_flow`.
        inputs: the sites that the inputs of the loop depend on, where these are to be among them.
    """
    latents = sorted(site.name for site in plan.outside if site.latent)
    step = dict(inputs or {})

    def sites(pairs) -> list[str]:
        return [latents[k] for argument, k in pairs if argument == "outside"]

    for name, what in (("carry", "the transition"), ("y", "the outputs of the step")):
        for pairs in jax.tree.leaves(staged.reaches(name)):
            step = dict.fromkeys(sites(pairs), what) | step
    # A mask can take a distribution out of the density; it is still drawn from.
    for entry in ("deterministic", "replicate", "log_transition", "log_prob"):
        what = "deterministic" if entry == "deterministic" else "the distribution of"
        for site, pairs in staged.reaches(entry).items():
            step |= dict.fromkeys(sites(pairs), f"{what} '{site}'")
    return step


def missing_elements(plan: Plan) -> set[str]:
    """Return the sites of the loop that hold missing elements of observations: of NaN, or of NumPyro's `obs_mask`."""
    seen = {site.name for site in plan.inside if site.observed}
    masked = {name.removesuffix("_observed") + "_unobserved" for name in seen if name.endswith("_observed")}
    return {site.name for site in plan.inside if site.latent and (site.gaps or site.name in masked)}


def through_post_loop(plan: Plan, density: dict[str, set[str]], direct: dict[str, set[str]]) -> set[str]:
    """Return the outside sites that act on code after the loop.

    Args:
        plan: the sites.
        density: for each outside site, the outside sites its log-density depends on.
        direct: the same for sites observed step by step, at one step: what only the rows of the start depend on
            acts on the start.
    """
    later = {site.name for site in plan.outside if site.loop > plan.main and site.name in density}
    return {other for name in later for other in direct.get(name, density[name]) - {name}}


def assign(
    flow: Flow, plan: Plan, parameters: tuple[str, ...], initial: tuple[str, ...]
) -> dict[str, tuple[Role, str]]:
    """Return the role of every site outside the loop, with the reason.

    Args:
        flow: the data flow.
        plan: the sites.
        parameters: names that the user declares parameters.
        initial: names that the user declares initial states.

    Raises:
        ModelError: a declared name is unknown or cannot have the role, or a parameter depends on the states.
    """
    _check_declared(flow, plan, parameters, initial)
    before = [s.name for s in plan.outside if s.latent and s.loop <= plan.main]
    reasons = {name: _reason_parameter(name, flow) for name in before}
    states = {n for n in before if not reasons[n] and n not in parameters} | set(initial)
    while True:
        kept = {n for n in states if n in initial or not _reason_hyperparameter(n, flow, plan, states)}
        if kept == states:
            break
        states = kept
    reasons |= {n: _reason_hyperparameter(n, flow, plan, states) for n in before if not reasons[n]}
    roles: dict[str, tuple[Role, str]] = {}
    for site in plan.outside:
        roles[site.name] = _role(site, flow, plan, states, reasons, parameters, initial)
    return roles


def _reason_hyperparameter(name: str, flow: Flow, plan: Plan, states: set[str]) -> str:
    """Return why a site that reaches only the start is still a parameter; empty for an initial state.

    Observed sites before the loop do not count against it: they weigh the particles at time 0.
    """
    latents = {site.name: site for site in plan.outside if site.latent}
    users = [other for other in flow.density if other in latents and name in flow.density[other] - {other}]
    starts = any(name in sites for k, sites in enumerate(flow.start) if k in flow.fresh)
    if users and (not set(users) <= states or not (starts or latents[name].discrete)):
        return f"acts on the distribution of '{sorted(users, key=lambda n: n in states)[0]}'"
    return "" if starts or users else "reaches no state that innovations refresh"


def starting(flow: Flow) -> set[str]:
    """Return the sites that reach the start of the loop, by their values or through the distribution of such sites."""
    found = set().union(*flow.start)
    while grown := set().union(*(flow.density.get(name, set()) for name in found)) - found:
        found |= grown
    return found


def _reason_parameter(name: str, flow: Flow) -> str:
    if name in flow.step:
        return f"acts on every step: {flow.step[name]}"
    if name in flow.post_loop:
        return "acts on the code after the loop"
    for k, sites in enumerate(flow.start):
        if name in sites and k not in flow.fresh:
            return f"enters carry leaf {k}, which no innovation refreshes"
    return ""


def _role(site: TracedSite, flow: Flow, plan: Plan, states, reasons, parameters, initial) -> tuple[Role, str]:
    name, later = site.name, site.loop > plan.main
    if name in plan.drawn_after:
        return Role.DETERMINISTIC, "drawn after the loop from its states, and simulated: nothing observed depends on it"
    if not site.latent and not site.observed:
        return Role.DETERMINISTIC, "computed or simulated after the loop" if later else "computed before the loop"
    if site.latent:
        if later and name in flow.after:
            raise ModelError(
                f"site '{name}' is drawn after the loop and depends on the states; a parameter may not. Draw it inside "
                "the transition if it belongs to the state, or remove the dependence."
            )
        if name in states:
            where = ", ".join(str(k) for k, sites in enumerate(flow.start) if name in sites)
            feeds = (
                f"starts carry leaf {where}, refreshed by innovations" if where else "discrete, feeds the initial state"
            )
            return Role.INITIAL, "declared by with_roles" if name in initial else feeds
        if name in parameters:
            return Role.PARAMETER, "declared by with_roles"
        if later:
            return Role.PARAMETER, "drawn after the loop"
        return Role.PARAMETER, reasons[name]
    if name in flow.after:
        return Role.POST_LOOP_OBSERVATION, "observed after the loop, from its outputs"
    reached = sorted(flow.density[name] & states)
    if reached and not later:
        return Role.START_OBSERVATION, f"depends on initial state '{reached[0]}'"
    return Role.PARAMETER_LIKELIHOOD, "no state reaches it"


def _check_declared(flow: Flow, plan: Plan, parameters: tuple[str, ...], initial: tuple[str, ...]) -> None:
    latents = {site.name: site for site in plan.outside if site.latent}
    for name in (*parameters, *initial):
        if name not in latents:
            raise ModelError(
                f"with_roles names '{name}', which is not a latent site outside the loop; "
                f"choose from {sorted(latents)}."
            )
    for name in initial:
        if name in flow.step or name in flow.post_loop or latents[name].loop > plan.main:
            where = flow.step.get(name, "the code after the loop")
            raise ModelError(
                f"site '{name}' cannot be an initial state: it reaches {where} directly, at every step. "
                "Pass it to the transition through the carry only, or leave it a parameter."
            )
        if name in parameters:
            raise ModelError(f"with_roles declares '{name}' both parameter and initial state.")


def inside_sites(plan: Plan, unread: tuple[str, ...]) -> list[Site]:
    """Describe the sites of the loop with their roles; `unread` as found by the function of this name."""
    sites = []
    for site in plan.inside:
        if site.latent and site.gaps:
            whose = site.name.removesuffix(SUFFIX)
            role, why = Role.INNOVATION, f"missing elements of '{whose}', which the model reads"
        elif site.latent:
            role, why = Role.INNOVATION, "drawn at every step"
            why += "; nothing observes or reads it (obs= forgotten?)" if site.name in unread else ""
        elif site.observed and site.gaps:
            role, why = Role.OBSERVATION, "observed where data are; missing elements carry no weight"
        elif site.observed:
            role, why = Role.OBSERVATION, "observed at every step"
        else:
            role, why = Role.DETERMINISTIC, "computed at every step"
        sites.append(public_site(site, role, why, in_loop=True))
    return sites


def public_site(site: TracedSite, role: Role, why: str, *, in_loop: bool) -> Site:
    """Return the user's view of a site."""
    drives = role in (Role.INNOVATION, Role.INITIAL)
    label = site.particle.kind.value if drives and site.particle is not None else ""
    if label and site.smooth is not None and site.smooth.kind is MapKind.IN_PLACE:
        label = f"{label}, in place" if site.drawable else site.smooth.kind.value
    seen = site.name, role, site.family, site.shape, site.dtype, site.support, site.discrete
    return Site(*seen, label, why, in_loop, site.values)
