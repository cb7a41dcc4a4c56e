"""Selections of what is staged by value: what one use needs, with no more equations than that.

"key" in the descriptions is an entry of the result, a dict by site.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.sites import Role, Site
from ssmscan.model.staging.discovery import Plan
from ssmscan.model.staging.post_loop import PostLoop
from ssmscan.model.staging.user_model import Part


class Densities(NamedTuple):
    """Log-densities of what stands outside the loop, at given values.

    Attributes:
        prior: outside -> "outside_log_prior", the parameters.
        initial: outside -> "outside_log_density", the initial-state sites.
        initial_excess: outside -> "outside_log_excess", what scaling adds to them beside the law of their draws.
        start: outside -> "outside_log_prob", observations of the start.
        static: the same, observations that no state reaches.
        post_loop: outside, ys, last -> "outside_log_prob", observations after the loop, as a whole.
        mixing: the same, those of them that are not pointwise in time.
        everything: the same, all sites outside the loop.
        start_rows: outside -> "log_prob", rows of observations after the loop that weigh the start.
        static_rows: outside -> "log_prob", rows that no state reaches.
        joint_step: outside, t, y -> "log_prob", rows of one step of what several loops share.
        joint_rest: outside -> "log_prob", rows of it that belong to no step.
    """

    prior: Staged
    initial: Staged
    initial_excess: Staged
    start: Staged
    static: Staged
    post_loop: Staged
    mixing: Staged
    everything: Staged
    start_rows: Staged
    static_rows: Staged
    joint_step: Staged
    joint_rest: Staged


class DataFacts(NamedTuple):
    """What depends on data alone, or on data and parameters.

    Attributes:
        observed_step, invalid_step: x -> "observed", "invalid": values of a step, and whether one cannot be.
        observed_outside, invalid_outside: -> "outside_observed", "outside_invalid": the same outside the loop.
        invalid_parameters: outside -> "outside_invalid", whether parameters are outside their support.
    """

    observed_step: Staged
    invalid_step: Staged
    observed_outside: Staged
    invalid_outside: Staged
    invalid_parameters: Staged


class Replicates(NamedTuple):
    """What is drawn outside the loop after a run of it.

    Attributes:
        simulated: outside, key, ys, last -> "outside_replicate" of observations after the loop and
            "outside_deterministic" of what is drawn there.
        predicted: the same of all sites outside the loop.
    """

    simulated: Staged
    predicted: Staged


class Computed(NamedTuple):
    """Deterministics outside the loop.

    Attributes:
        of_parameters: outside -> "outside_deterministic", what parameters decide.
        of_states: outside, ys, last -> "outside_deterministic", what states decide.
    """

    of_parameters: Staged
    of_states: Staged


def names_of(sites: tuple[Site, ...], *roles: Role) -> tuple[str, ...]:
    """Return the names of the sites with one of some roles."""
    return tuple(site.name for site in sites if site.role in roles)


def densities(value: Staged, part: Part, sites: tuple[Site, ...], post_loop: PostLoop, starting: set[str]) -> Densities:
    """Select log-densities; `starting` are the observations after the loop whose rows weigh the start."""
    here, rows = _here(sites, part), post_loop.rest
    after = [name for name in names_of(sites, Role.POST_LOOP_OBSERVATION) if name in here]
    return Densities(
        prior=value.select(outside_log_prior=names_of(sites, Role.PARAMETER)),
        initial=value.select(outside_log_density=names_of(sites, Role.INITIAL)),
        initial_excess=value.select(
            outside_log_excess=_those(value, "outside_log_excess", set(names_of(sites, Role.INITIAL)))
        ),
        start=value.select(outside_log_prob=names_of(sites, Role.START_OBSERVATION)),
        static=value.select(outside_log_prob=names_of(sites, Role.PARAMETER_LIKELIHOOD)),
        post_loop=value.select(outside_log_prob=after),
        mixing=value.select(outside_log_prob=post_loop.mixing),
        everything=value.select(outside_log_prob=_those(value, "outside_log_prob", here)),
        start_rows=rows.select(log_prob=starting),
        static_rows=rows.select(log_prob=set(post_loop.start) - starting),
        joint_step=post_loop.step.select(log_prob=sorted(part.joint)),
        joint_rest=rows.select(log_prob=sorted(part.joint)),
    )


def data_facts(value: Staged, part: Part, sites: tuple[Site, ...]) -> DataFacts:
    """Select what depends on data."""
    # Only validity that no latent value decides is a property of the data.
    judged = names_of(sites, Role.PARAMETER_LIKELIHOOD, Role.START_OBSERVATION, Role.POST_LOOP_OBSERVATION)
    here = _here(sites, part) | part.joint
    invalid, observed = _of_data(value, "outside_invalid"), _of_data(value, "outside_observed")
    return DataFacts(
        observed_step=value.select(observed=_of_data(value, "observed", "x")),
        invalid_step=value.select(invalid=_of_data(value, "invalid", "x")),
        observed_outside=value.select(outside_observed=[n for n in observed if n in here]),
        invalid_outside=value.select(outside_invalid=[n for n in invalid if n in judged]),
        invalid_parameters=value.select(outside_invalid=names_of(sites, Role.PARAMETER)),
    )


def replicates(value: Staged, plan: Plan, part: Part, sites: tuple[Site, ...]) -> Replicates:
    """Select what is drawn outside the loop."""
    here, after = _here(sites, part), names_of(sites, Role.POST_LOOP_OBSERVATION)
    replicated = _those(value, "outside_replicate", here)
    return Replicates(
        simulated=value.select(
            outside_replicate=[n for n in replicated if n in after], outside_deterministic=plan.drawn_after
        ),
        predicted=value.select(
            outside_replicate=replicated, outside_deterministic=_those(value, "outside_deterministic", here)
        ),
    )


def computed(value: Staged, plan: Plan, part: Part, sites: tuple[Site, ...]) -> Computed:
    """Select what is computed outside the loop."""
    here = _here(sites, part)
    latents, initial = sorted(s.name for s in plan.outside if s.latent), names_of(sites, Role.INITIAL)

    def of_state(argument: str, leaf: int) -> bool:
        return argument in ("ys", "last") or (argument == "outside" and latents[leaf] in initial)

    reached = {n: pairs for n, pairs in value.reaches("outside_deterministic").items() if n in here}
    drawn = {n for n, pairs in reached.items() if any(argument == "key" for argument, _ in pairs)}
    states = {n for n, pairs in reached.items() if any(of_state(*pair) for pair in pairs)} - drawn
    return Computed(
        of_parameters=value.select(outside_deterministic=[n for n in reached if n not in drawn | states]),
        of_states=value.select(outside_deterministic=[n for n in reached if n in states]),
    )


def _here(sites: tuple[Site, ...], part: Part) -> set[str]:
    """Return the names of the sites of this loop alone."""
    return {site.name for site in sites} - part.joint


def _those(value: Staged, entry: str, names: set[str]) -> list[str]:
    return [name for name in value.names(entry) if name in names]


def _of_data(value: Staged, entry: str, *allowed: str) -> list[str]:
    """Return the keys of an entry that depend on data only, directly or through the allowed arguments.

    An input of the loop that is computed from parameters is not data.
    """
    computed = {k for k, pairs in enumerate(jax.tree.leaves(value.reaches("xs"))) if pairs}

    def of_data(pairs: set) -> bool:
        return all(argument in allowed and leaf not in computed for argument, leaf in pairs)

    return [n for n, pairs in value.reaches(entry).items() if of_data(pairs)]
