"""A traced model without its data: staged functions, interned so that equal programs are one object.

Two traces of the same code over other data, closures made again, or the same model under another
`handlers.condition` print the same jaxprs; they get the same `Program`, and JAX's compilation cache,
which sees the program as a static argument, serves them all.  The key of the table is everything
that the engines could tell apart: text of the jaxprs, shapes, sites and their maps, and the flags of
JAX that change meaning.  The model object is not part of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ssmscan.model.discrete import enumeration
from ssmscan.model.handlers.missing import Gaps
from ssmscan.model.handlers.scans import SeveralLoops
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.digest import digest, mentions
from ssmscan.model.sites import Role, Site
from ssmscan.model.staging import forward_draws, functions, roles
from ssmscan.model.staging.discovery import Plan, discover
from ssmscan.model.staging.hidden_noise import refuse_hidden_noise
from ssmscan.model.staging.post_loop import stage_post_loop
from ssmscan.model.staging.repeatable import refuse_changing
from ssmscan.model.staging.user_model import UserModel
from ssmscan.model.statespace import computed
from ssmscan.model.statespace.panel import find_elements

_TABLE: OrderedDict[str, Program] = OrderedDict()
_TABLE_SIZE = 256


class Program:
    """Staged functions and static facts of a model; compared by identity.

    Attributes:
        plan: what discovery found.
        sites: every site with its role, outside sites first.
        parameters: names of the parameters.
        initial: names of the initial-state sites.
        computed: deterministics outside the loop, of the parameters and of the states, see `computed`.
        unread: sites drawn at every step that nothing reads.
        value, start, step, prior, constrain, unconstrain, start_draw, step_draw, step_predict: see `staging`.
        tail: observations after the loop, see `tail`.
        joint: in the first part of a model of several loops, what joins their outputs, see `partition`; else None.
        elements: staged functions of one element of a panel, or why there is none, see `panel`.
        smooth_start, smooth_step: the same under the smooth maps, None where a site has none.
        rough: names of the sites without a smooth map.
        summed: how they are summed out for gradient engines, None where there are none or it cannot be done.
        not_summed: why not, a clause.
        reweighted: names of the parameters whose prior is masked or scaled.
        not_continuous: why the parameters have no unconstrained space, empty when they have.
    """

    def __init__(
        self,
        user_model: UserModel,
        parameters: tuple[str, ...],
        initial: tuple[str, ...],
        value: Staged,
        joint: Staged | None = None,
    ):
        plan = self.plan = user_model.plan
        self.value, self.joint = value, joint
        flow = roles.data_flow(self.value, plan)
        part = self.part = user_model.part
        if flow.elsewhere - part.foreign - part.joint:
            raise SeveralLoops(tuple(sorted({plan.main, *plan.horizons})))
        observed = {s.name for s in plan.outside if s.observed}
        self.tail = stage_post_loop(user_model, self.value, flow.after & observed)
        density = {n: sites for n, sites in flow.density.items() if n not in part.foreign}
        flow = flow._replace(post_loop=roles.through_post_loop(plan, density, self.tail.direct))
        assigned = roles.assign(flow, plan, parameters, initial)
        states = {name for name, (role, _) in assigned.items() if role is Role.INITIAL}
        for name in flow.after & observed:
            assigned[name] = (Role.TAIL_OBSERVATION, self.tail.reason(name, states))
        self.unread = roles.unread(self.value, plan)
        self.sites: tuple[Site, ...] = (
            *(
                roles.public_site(s, *assigned[s.name], in_loop=False)
                for s in plan.outside
                if s.name not in part.foreign
            ),
            *roles.inside_sites(plan, self.unread),
        )
        self.sites = _with_notes(self.sites, plan)
        self.parameters = tuple(s.name for s in self.sites if s.role is Role.PARAMETER)
        self.reweighted = tuple(n for n in self.parameters if user_model.outside[n].reweighted)
        self.initial = tuple(s.name for s in self.sites if s.role is Role.INITIAL)
        names = (self.parameters, self.initial)
        refuse_hidden_noise(user_model, self.value)
        self.start = functions.start_noise(user_model, *names, smooth=False)
        self.step = functions.step_noise(user_model, *names, smooth=False)
        latent = {
            n: s
            for n, s in (user_model.outside | user_model.innovations).items()
            if s.latent and n not in self.parameters and n not in part.foreign
        }
        self.rough = tuple(n for n, s in latent.items() if s.smooth is None)
        self.noise = {n: s.particle.spec for n, s in latent.items() if s.particle is not None}
        self.smooth_noise = {n: s.smooth.spec for n, s in latent.items() if s.smooth is not None}
        same = all(s.particle == s.smooth for s in latent.values())
        self.smooth_start = self.smooth_step = None
        if same:
            self.smooth_start, self.smooth_step = self.start, self.step
        elif not self.rough:
            self.smooth_start = functions.start_noise(user_model, *names, smooth=True)
            self.smooth_step = functions.step_noise(user_model, *names, smooth=True)
        self.prior = functions.prior(user_model, *names)
        self.not_continuous = ", ".join(repr(n) for n in self.parameters if user_model.outside[n].discrete)
        self.constrain = self.unconstrain = None
        if not self.not_continuous:
            self.constrain = functions.constrain(user_model, *names)
            self.unconstrain = functions.unconstrain(user_model, *names)
        drawable = self.value.names("outside_replicate")
        self.start_draw = forward_draws.start_draw(
            user_model, *names, [n for n in drawable if n in self.names(Role.START_OBSERVATION)]
        )
        self.step_draw = forward_draws.step_draw(user_model, *names)
        self.step_predict = forward_draws.step_predict(user_model, *names)
        self._select()
        self.summed: enumeration.Summed | None = None
        self.not_summed = ""
        if self.rough:
            after = enumeration.After(self.tail_start, self.tail.step, self.log_mixing)
            decision = enumeration.decide(user_model, *names, self.names(Role.START_OBSERVATION), after)
            if isinstance(decision, str):
                self.not_summed = decision
            else:
                self.summed = decision
        self.elements = find_elements(user_model, self)
        refuse_changing(user_model, self.value)

    def names(self, *roles: Role) -> tuple[str, ...]:
        """Names of the sites with one of some roles."""
        return tuple(site.name for site in self.sites if site.role in roles)

    def _select(self) -> None:
        """Restrict the value function to what each use needs."""
        value, part = self.value, self.part
        here = {site.name for site in self.sites} - part.joint

        def outside(entry: str) -> dict[str, list[str]]:
            return {entry: [name for name in value.names(entry) if name in here]}

        static, tail = self.names(Role.PARAMETER_LIKELIHOOD), self.names(Role.TAIL_OBSERVATION)
        start = self.names(Role.START_OBSERVATION)
        self.evaluate = value.select("carry", "y", "log_transition", "log_observation", "log_prob", "deterministic")
        self.cdf = value.select("cdf")
        self.inputs = value.select("xs")
        self.start_value = value.select("start")
        self.log_prior = value.select(outside_log_prior=self.parameters)
        self.log_initial = value.select(outside_log_density=self.initial)
        self.log_static = value.select(outside_log_prob=static)
        self.log_start = value.select(outside_log_prob=start)
        self.log_tail = value.select(outside_log_prob=[name for name in tail if name in here])
        self.joint_step = self.tail.step.select(log_prob=sorted(part.joint))
        self.joint_rest = self.tail.rest.select(log_prob=sorted(part.joint))
        self.log_mixing = value.select(outside_log_prob=self.tail.mixing)
        starting = {n for n, sites in self.tail.start.items() if sites & set(self.initial)}
        self.tail_start = self.tail.rest.select(log_prob=starting)
        self.tail_static = self.tail.rest.select(log_prob=set(self.tail.start) - starting)
        self.start_observed = bool(start or starting) or any(
            s.scaled for s in self.plan.outside if s.name in self.initial
        )
        self.log_outside = value.select(**outside("outside_log_prob"))
        self.invalid_parameters = value.select(outside_invalid=self.parameters)
        # Only validity that no latent value decides is a property of the data.
        self.invalid_step = value.select(invalid=_constant_in(value, "invalid", (roles.X,)))
        self.observed_step = value.select(observed=_constant_in(value, "observed", (roles.X,)))
        judged = (*static, *start, *tail)
        self.invalid_outside = value.select(
            outside_invalid=[n for n in _constant_in(value, "outside_invalid", ()) if n in judged]
        )
        self.observed_outside = value.select(
            outside_observed=[n for n in _constant_in(value, "outside_observed", ()) if n in here | part.joint]
        )
        self.computed = computed.select(value, self.plan, self.initial, here)
        self.predict_outside = value.select(**outside("outside_replicate"), **outside("outside_deterministic"))
        replicated = [name for name in value.names("outside_replicate") if name in here and name in tail]
        self.replicate_tail = value.select(outside_replicate=replicated, outside_deterministic=self.plan.drawn_after)

    def key(self) -> str:
        """Everything that two programs must share to be one."""
        whole = (
            *(self.value, self.start, self.step, self.smooth_start, self.smooth_step, self.prior),
            *(
                self.constrain,
                self.unconstrain,
                self.start_draw,
                self.step_draw,
                self.step_predict,
                self.tail.step,
                self.tail.rest,
                self.joint,
            ),
        )
        if self.summed is not None:
            whole = (*whole, self.summed.start, self.summed.step)
            one = self.summed.elements
            whole = whole if one is None else (*whole, one.start, one.step, one.start_rest, one.step_rest)
        staged = [fn.text() for fn in whole if fn is not None]
        flags = tuple(getattr(jax.config, name) for name in ("jax_enable_x64", "jax_default_matmul_precision"))
        part = sorted(self.part.foreign), sorted(self.part.joint), self.part.first
        return "\n".join([*staged, repr(self.plan), repr(self.sites), repr(part), repr(flags)])

    def digest(self, arrays: Sequence[str]) -> str:
        """Return a hash of what a filter runs, the same in every process that has the same versions.

        Args:
            arrays: for each array that the model reads, what tells it from others.
        """
        whole = (self.value, self.start, self.step, self.tail.step, self.tail.rest)
        return " ".join(digest(staged.jaxpr, [arrays[i] for i in staged.shared]) for staged in whole)

    def digests_without_length(self) -> list[str]:
        """Return hashes of what one particle runs that no other length of the loop changes; empty where one does."""
        near = range(self.plan.length - 1, self.plan.length + 2)
        whole = (self.start, self.step, self.tail.step)
        return ["" if mentions(staged.jaxpr, near) else digest(staged.jaxpr) for staged in whole]


def _with_notes(sites: tuple[Site, ...], plan: Plan) -> tuple[Site, ...]:
    """Add to the reasons what a mask or a scale means for a draw."""
    notes = {}
    for traced in (*plan.outside, *plan.inside):
        if traced.masked:
            notes[traced.name] = (
                "its prior is flat where it is masked",
                "where it is masked it has its law all the same",
            )
        elif traced.latent and traced.scaled:
            notes[traced.name] = "its prior is scaled", "its density is scaled"
    return tuple(
        site._replace(reason=f"{site.reason}; {notes[site.name][site.role is not Role.PARAMETER]}")
        if site.name in notes and site.role is not Role.DETERMINISTIC
        else site
        for site in sites
    )


def build(
    call: Callable[[list], Any], arrays: list, parameters: tuple, initial: tuple, gaps: frozenset[str] = frozenset()
) -> tuple[Program, list]:
    """Stage a model.

    Args:
        call: the model as a function of its array arguments.
        arrays: those arguments.
        parameters: names declared parameters.
        initial: names declared initial states.
        gaps: names of the observed sites whose NaNs are missing elements.

    Returns:
        The interned program and its shared arrays: the arguments first, then lifted constants.
    """
    user_model, value = read(call, arrays, gaps)
    return intern(Program(user_model, parameters, initial, value)), user_model.table


def read(
    call: Callable[[list], Any], arrays: list, gaps: frozenset[str], main: int | None = None
) -> tuple[UserModel, Staged]:
    """Meet a model and stage it by value; arguments as in `build`, main as in `discover`."""
    alone, (user_model, value) = main is None, _at(call, arrays, gaps, main)
    for quiet in user_model.plan.quiet:
        found = _at(call, arrays, gaps, quiet)
        if roles.forecasts(found[1], found[0].plan):
            user_model, value, main = *found, quiet
            break
    shapes = user_model.data_shapes()
    needed, after = roles.needed_missing(value, user_model.plan), roles.drawn_after(value, user_model.plan, alone=alone)
    if needed is not None or after:
        # What nothing reads is integrated out, and not drawn.
        less = user_model.gaps if needed is None else Gaps(gaps, needed)
        user_model = user_model._replace(plan=discover(call, shapes, less, main, after), gaps=less)
        value = functions.by_value(user_model)
    return user_model, value


def _at(call: Callable[[list], Any], arrays: list, gaps: frozenset[str], main: int | None) -> tuple[UserModel, Staged]:
    """Meet a model and stage it by value; arguments as in `read`."""
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
    user_model = UserModel(call, discover(call, shapes, Gaps(gaps), main), list(arrays), len(arrays), Gaps(gaps))
    return user_model, functions.by_value(user_model)


def intern(program: Program) -> Program:
    """Give the program of the table that is equal to this one, and remember it."""
    key = program.key()
    program = _TABLE.setdefault(key, program)
    _TABLE.move_to_end(key)
    if len(_TABLE) > _TABLE_SIZE:
        _TABLE.popitem(last=False)
    return program


def _constant_in(value: Staged, name: str, allowed: tuple[int, ...]) -> list[str]:
    """Entries of a result that depend on data only, directly or through the allowed arguments.

    An input of the loop that is computed from parameters is not data.
    """
    computed = {k for k, pairs in enumerate(jax.tree.leaves(value.reaches("xs"))) if pairs}

    def constant(pairs) -> bool:
        return all(argument in allowed and leaf not in computed for argument, leaf in pairs)

    return [n for n, pairs in value.reaches(name).items() if constant(pairs)]
