"""Everything that is staged of one loop of a model, and what is known of it, without its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ssmscan.model.handlers.moving import RowAxis, start_name
from ssmscan.model.handlers.scans import SeveralLoops
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.noise.in_place import InPlace
from ssmscan.model.sites import Role, Site
from ssmscan.model.staging import forward_draws, functions, left_out, roles
from ssmscan.model.staging.discovery import Plan
from ssmscan.model.staging.hidden_noise import refuse_hidden_noise
from ssmscan.model.staging.post_loop import PostLoop, stage_post_loop, step_output
from ssmscan.model.staging.user_model import Part, UserModel
from ssmscan.model.statespace import selections
from ssmscan.model.statespace.one_particle import OfNoise, OneParticle, latent_sites, stage_maps, stage_surrogate
from ssmscan.model.statespace.selections import Computed, DataFacts, Densities, Replicates, names_of


class Places(NamedTuple):
    """Forward simulation of the states that gradient engines sample in place.

    Attributes:
        sites: names of these states.
        start: theta, noise, key -> see `forward_draws.start_places`.
        step: theta, carry, x, noise, key -> see `forward_draws.step_places`.
    """

    sites: tuple[str, ...]
    start: Staged
    step: Staged


@dataclass(frozen=True, eq=False, kw_only=True)
class LoopFunctions:
    """Staged functions and static facts of one loop; results are dicts, by the names in `staging.functions`.

    Attributes:
        plan: what discovery found.
        part: what of the model belongs to this loop.
        rows: by site whose rows the user draws before the loop, where they are.
        sites: every site with its role, outside sites first.
        unread: sites drawn at every step that nothing reads.
        reweighted: names of the parameters whose prior is masked or scaled.
        not_continuous: names of the discrete parameters, quoted; where there are none, the parameters have an
            unconstrained space.
        start_observed: whether an observation before the loop, rows after it or a scaled density weigh the start.
        value: everything by value, see `functions.by_value`.
        joint: in the first part of a model of several loops, what joins their outputs, see `partition`; else None.
        post_loop: observations after the loop, one step at a time.
        initial_carry: outside -> "start".
        inputs: outside -> "xs", the inputs of all steps.
        evaluate: outside, carry, x, values -> "carry", "y", the densities of the step, its deterministics.
        noise_of: outside, carry, x, values -> "noise" of the values, of those sites whose smooth map has an inverse.
        start_noise_of: outside -> "outside_noise", the same of the initial states.
        cdf: outside, carry, x, values -> "cdf".
        particles: the start and a step under the maps for particles.
        smooth: the same under the smooth maps, the same object where the maps are; None where a site has none.
        guided: the same under the smooth maps of the sites that have one from noise, of the others those for particles.
        surrogate: the same, smooth stand-ins in the place of the others, and everything that they make real.
        places: where the states are that gradient engines sample in place; None where there are none.
        prior: key -> "theta".
        constrain, unconstrain: between z and theta; None where parameters are discrete.
        start_draw, step_draw, step_predict: forward simulation, see `forward_draws`.
        densities, data, replicates, computed: selections of `value` and `post_loop`.
    """

    plan: Plan
    part: Part
    rows: Mapping[str, RowAxis]
    sites: tuple[Site, ...]
    unread: tuple[str, ...]
    reweighted: tuple[str, ...]
    not_continuous: str
    start_observed: bool
    value: Staged
    joint: Staged | None
    post_loop: PostLoop
    initial_carry: Staged
    inputs: Staged
    evaluate: Staged
    noise_of: Staged
    start_noise_of: Staged
    cdf: Staged
    particles: OfNoise
    smooth: OfNoise | None
    guided: OfNoise
    surrogate: OneParticle
    places: Places | None
    prior: Staged
    constrain: Staged | None
    unconstrain: Staged | None
    start_draw: Staged
    step_draw: Staged
    step_predict: Staged
    densities: Densities
    data: DataFacts
    replicates: Replicates
    computed: Computed

    def names(self, *roles: Role) -> tuple[str, ...]:
        """Return the names of the sites with one of some roles."""
        return names_of(self.sites, *roles)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return self.names(Role.PARAMETER)

    @property
    def initial(self) -> tuple[str, ...]:
        """Names of the initial-state sites."""
        return self.names(Role.INITIAL)

    def one_particle(self, maps: OfNoise) -> OneParticle:
        """Return what moves and weighs one particle under some maps whose values are those of the model."""
        output = step_output(self.plan)
        return OneParticle(maps, self.post_loop.step, self.densities.start_rows, self.plan.carry, output, {})

    @property
    def invertible(self) -> tuple[str, ...]:
        """Names of the latent sites whose values tell their noise."""
        return (*self.start_noise_of.names("outside_noise"), *self.noise_of.names("noise"))

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the latent sites with a smooth map from noise, initial ones first."""
        stand_ins = {site.name for site in (*self.plan.outside, *self.plan.inside) if site.stand_in is not None}
        return tuple(name for name in (*self.initial, *self.names(Role.INNOVATION)) if name not in stand_ins)


def stage_loop(
    user_model: UserModel, declared: tuple[str, ...], initial: tuple[str, ...], value: Staged, joint: Staged | None
) -> LoopFunctions:
    """Decide the roles of the sites, and stage everything.

    Args:
        user_model: the model, its plan of this loop.
        declared: names declared parameters.
        initial: names declared initial states.
        value: `functions.by_value` of the model.
        joint: see `LoopFunctions`.
    """
    plan = user_model.plan
    flow = roles.data_flow(value, plan)
    if flow.elsewhere - user_model.part.foreign - user_model.part.joint:
        raise SeveralLoops(tuple(sorted({plan.main, *plan.horizons})))
    after = flow.after & {s.name for s in plan.outside if s.observed}
    post_loop = stage_post_loop(user_model, value, after)
    unread = left_out.unread(value, plan)
    sites = _sites(user_model, flow, post_loop, declared, initial, unread)
    parameters, initial = names_of(sites, Role.PARAMETER), names_of(sites, Role.INITIAL)
    refuse_hidden_noise(user_model, value)
    particles, smooth, guided = stage_maps(user_model, parameters, initial)
    prior = functions.prior(user_model, parameters)
    discrete = ", ".join(repr(n) for n in parameters if user_model.outside[n].discrete)
    starting = {n for n, reached in post_loop.start.items() if reached & set(initial)}
    observed_start = names_of(sites, Role.START_OBSERVATION)
    densities = selections.densities(value, user_model.part, sites, post_loop, starting)
    own = OneParticle(guided, post_loop.step, densities.start_rows, plan.carry, step_output(plan), {})
    scaled = any(s.scaled for s in plan.outside if s.name in initial)
    return LoopFunctions(
        plan=plan,
        part=user_model.part,
        rows=user_model.rows,
        sites=sites,
        unread=unread,
        reweighted=tuple(n for n in parameters if user_model.outside[n].reweighted),
        not_continuous=discrete,
        start_observed=bool(observed_start or starting) or scaled,
        value=value,
        joint=joint,
        post_loop=post_loop,
        initial_carry=value.select("start"),
        inputs=value.select("xs"),
        evaluate=value.select(
            "carry", "y", "log_transition", "log_excess", "log_observation", "log_prob", "deterministic"
        ),
        noise_of=value.select("noise"),
        start_noise_of=value.select(outside_noise=[n for n in value.names("outside_noise") if n in initial]),
        cdf=value.select("cdf"),
        particles=particles,
        smooth=smooth,
        guided=guided,
        surrogate=stage_surrogate(user_model, parameters, initial, own, after),
        places=_places(user_model, parameters, initial),
        prior=prior,
        constrain=None if discrete else functions.constrain(user_model, parameters),
        unconstrain=None if discrete else functions.unconstrain(user_model, parameters),
        start_draw=forward_draws.start_draw(
            user_model, parameters, initial, [n for n in value.names("outside_replicate") if n in observed_start]
        ),
        step_draw=forward_draws.step_draw(user_model, parameters),
        step_predict=forward_draws.step_predict(user_model, parameters),
        densities=densities,
        data=selections.data_facts(value, user_model.part, sites),
        replicates=selections.replicates(value, plan, user_model.part, sites),
        computed=selections.computed(value, plan, user_model.part, sites),
    )


def _sites(
    user_model: UserModel,
    flow: roles.Flow,
    post_loop: PostLoop,
    parameters: tuple[str, ...],
    initial: tuple[str, ...],
    unread: tuple[str, ...],
) -> tuple[Site, ...]:
    """Return every site with its role."""
    plan, foreign = user_model.plan, user_model.part.foreign
    density = {n: sites for n, sites in flow.density.items() if n not in foreign}
    flow = flow._replace(post_loop=roles.through_post_loop(plan, density, post_loop.direct))
    assigned = roles.assign(flow, plan, parameters, initial)
    states = {name for name, (role, _) in assigned.items() if role is Role.INITIAL}
    for name in flow.after & {s.name for s in plan.outside if s.observed}:
        assigned[name] = (Role.POST_LOOP_OBSERVATION, post_loop.reason(name, states))
    outside = [s for s in plan.outside if s.name not in foreign]
    sites = [roles.public_site(s, *assigned[s.name], in_loop=False) for s in outside]
    return _with_notes((*sites, *roles.inside_sites(plan, unread)), user_model)


def _with_notes(sites: tuple[Site, ...], user_model: UserModel) -> tuple[Site, ...]:
    """Add to the reasons what a mask or a scale means for a draw, and what is known of rows drawn before the loop."""
    notes: dict[str, tuple[str, str]] = {}
    for traced in (*user_model.plan.outside, *user_model.plan.inside):
        if traced.masked:
            notes[traced.name] = (
                "its prior is flat where it is masked",
                "where it is masked it has its law all the same",
            )
        elif traced.latent and traced.scaled:
            notes[traced.name] = "its prior is scaled", "its density is scaled"

    starts = {start_name(name): f"row 0 of '{name}', " for name, place in user_model.rows.items() if place.first}

    def with_note(site: Site) -> Site:
        why = "one row a step of what is drawn before the loop" if site.name in user_model.rows else site.reason
        why = starts.get(site.name, "") + why
        if site.name in user_model.notes:
            why += f"; its rows are not noise of the loop: {user_model.notes[site.name]}"
        if site.name in notes and site.role is not Role.DETERMINISTIC:
            why += f"; {notes[site.name][site.role is not Role.PARAMETER]}"
        return site._replace(reason=why)

    return tuple(map(with_note, sites))


def _places(user_model: UserModel, parameters: tuple[str, ...], initial: tuple[str, ...]) -> Places | None:
    latent = latent_sites(user_model, parameters)
    if not (sites := tuple(name for name, site in latent.items() if isinstance(site.smooth, InPlace))):
        return None
    start = forward_draws.start_places(user_model, parameters, initial)
    return Places(sites, start, forward_draws.step_places(user_model, parameters))
