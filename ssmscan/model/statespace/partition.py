r"""A model of several independent loops, taken apart into one part for each.

Given the parameters the loops share nothing, so that

.. math::  p(y | \theta) = h(\theta) \prod_k p(y^{(k)} | \theta),

and each factor is the likelihood of a state-space model with one loop.  Part k steps through loop k; the
other loops run as NumPyro runs them, with draws from the key of `functions.by_value`, and what that key
reaches belongs to other parts.  A site is

    initial state of k   if it starts loop k and nothing of another
    observed in k        if only loop k or its initial states reach it
    joint                if it is observed after the loops, row by row, each row from one of them
    static               if no state reaches it; it counts in the first part

Loops that depend on each other are refused: the filter of one would need the particles of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssmscan.errors import ModelError
from ssmscan.model.handlers.messages import can_be_drawn
from ssmscan.model.handlers.names import SiteNames
from ssmscan.model.handlers.running import run_model
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape
from ssmscan.model.sites import Role
from ssmscan.model.staging import roles
from ssmscan.model.staging.post_loop import PostLoop, stage_post_loop
from ssmscan.model.staging.user_model import KEY, Part, UserModel
from ssmscan.model.statespace.program import Program, stage_by_value, stage_program

OBSERVED = (Role.START_OBSERVATION, Role.POST_LOOP_OBSERVATION)


class _Loop(NamedTuple):
    """One loop of the model and what reaches what in the part that steps through it."""

    user_model: UserModel
    value: Staged
    flow: roles.Flow
    post_loop: PostLoop
    roles: dict[str, Role]

    def with_role(self, *wanted: Role) -> set[str]:
        return {name for name, role in self.roles.items() if role in wanted}


def build_parts(
    call: Callable[[list], Any],
    arrays: list,
    loops: tuple[int, ...],
    parameters: tuple[str, ...],
    initial: tuple[str, ...],
    gaps: frozenset[str],
) -> list[tuple[Program, list]]:
    """Stage a model of several loops; arguments as in `program.build`.

    Args:
        call, arrays, parameters, initial, gaps: as there.
        loops: indices of the loops with noise.

    Returns:
        For each loop the interned program and its shared arrays.

    Raises:
        ModelError: the loops are not independent, or joint observations cannot be taken apart; the message names them.
    """
    found = [stage_by_value(call, arrays, gaps, main) for main in loops]
    flows = [_flow(user_model, value) for user_model, value in found]
    for (user_model, value), (flow, _) in zip(found, flows):
        _refuse_dependent(user_model, value, flow)
    declared = set(parameters)
    while True:
        parts = [
            _Loop(user_model, value, flow, post_loop, _assign(user_model, flow, declared, initial))
            for (user_model, value), (flow, post_loop) in zip(found, flows)
        ]
        shared = {name for k in range(len(parts)) for name in _shared(parts, k)}
        if not shared:
            break
        declared |= shared
    owners = _owners(parts)
    joint = frozenset(name for name, ks in owners.items() if len(ks) > 1)
    observed = frozenset(s.name for s in parts[0].user_model.plan.outside if s.observed)
    together = _stage_joint(parts, loops, joint) if joint else None
    programs = []
    for k, part in enumerate(parts):
        plan = part.user_model.plan
        others = {name for j, other in enumerate(parts) if j != k for name in other.with_role(Role.INITIAL)}
        away = {name for name, ks in owners.items() if k not in ks or len(ks) > 1} - (joint & observed)
        foreign = frozenset(others | away | {s.name for s in plan.outside if s.simulated})
        user_model = part.user_model._replace(part=Part(foreign, joint & observed, first=k == 0))
        declared_here = tuple(sorted(declared & set(part.roles)))
        starts = tuple(name for name in initial if part.roles.get(name) is Role.INITIAL)
        _refuse_joint(part.post_loop, joint & observed, others)
        program = stage_program(user_model, declared_here, starts, part.value, together if k == 0 else None)
        programs.append((program, user_model.table))
    return programs


def _flow(user_model: UserModel, value: Staged) -> tuple[roles.Flow, PostLoop]:
    """Return what reaches what, observations after the loops by the rows of this one."""
    flow = roles.data_flow(value, user_model.plan)
    observed = {s.name for s in user_model.plan.outside if s.observed}
    post_loop = stage_post_loop(user_model, value, flow.after & observed)
    return flow._replace(post_loop=roles.through_post_loop(user_model.plan, flow.density, post_loop.direct)), post_loop


def _assign(user_model: UserModel, flow: roles.Flow, parameters: set[str], initial: tuple[str, ...]) -> dict[str, Role]:
    starting = roles.starting(flow)
    mine = tuple(name for name in initial if name in starting)
    latent = {site.name for site in user_model.plan.outside if site.latent}
    assigned = roles.assign(flow, user_model.plan, tuple(sorted(parameters & latent)), mine)
    return {name: role for name, (role, _) in assigned.items()}


def _shared(parts: list[_Loop], k: int) -> set[str]:
    """Initial states of loop k that act on another loop too, which makes them parameters."""
    acting = set()
    for j, part in enumerate(parts):
        if j != k:
            acting |= set(part.flow.step).union(*part.flow.start) | part.with_role(Role.INITIAL)
    return parts[k].with_role(Role.INITIAL) & acting


def _owners(parts: list[_Loop]) -> dict[str, list[int]]:
    """Return the parts to which each observed or computed site outside the loops belongs."""
    owners: dict[str, list[int]] = {}
    computed = [_computed(part) for part in parts]
    for site in parts[0].user_model.plan.outside:
        if site.latent or site.simulated:
            continue
        if site.observed:
            owners[site.name] = [k for k, part in enumerate(parts) if part.roles.get(site.name) in OBSERVED]
        else:
            owners[site.name] = [k for k, names in enumerate(computed) if site.name in names]
        owners[site.name] = owners[site.name] or [0]
    return owners


def _computed(part: _Loop) -> set[str]:
    """Deterministics outside the loops that outputs or initial states of this one reach."""
    latents = sorted(site.name for site in part.user_model.plan.outside if site.latent)
    initial = part.with_role(Role.INITIAL)

    def mine(argument: str, leaf: int) -> bool:
        return argument in ("ys", "last") or (argument == "outside" and latents[leaf] in initial)

    return {n for n, pairs in part.value.reaches("outside_deterministic").items() if any(mine(*p) for p in pairs)}


def _stage_joint(parts: list[_Loop], loops: tuple[int, ...], names: frozenset[str]) -> Staged:
    """(values outside the loops, outputs and last carries of all loops, key) -> what joins them, by site."""
    user_model = parts[0].user_model

    def fn(data: list, outside: dict, ys: list, last: list, key: jax.Array) -> dict[str, Any]:
        def at_loop(index: int, loop: Any) -> Any:
            if index in loops:
                return last[loops.index(index)], ys[loops.index(index)]
            return loop.default()

        known = SiteNames(user_model.plan.taken)
        messages, _ = run_model(
            lambda: user_model.call(data), lambda name, _: outside[name], at_loop, (), user_model.gaps, names=known
        )
        here = {m.name: m for m in messages if m.name in names}
        seen = {n: m for n, m in here.items() if m.fn is not None}
        draws = {
            n: m.fn.sample(jax.random.fold_in(key, i)) for i, (n, m) in enumerate(seen.items()) if can_be_drawn(m.fn)
        }
        return {
            "values": {**draws, **{n: jnp.asarray(m.value) for n, m in here.items() if m.fn is None}},
            "log_prob": {n: m.log_prob() for n, m in seen.items()},
        }

    latents = {s.name: Shape(s.shape, s.dtype) for s in user_model.plan.outside if s.latent}
    plans = [part.user_model.plan for part in parts]
    arguments = {"outside": latents, "ys": [p.ys for p in plans], "last": [p.carry for p in plans], "key": KEY}
    return user_model.stage(fn, arguments)


def _refuse_dependent(user_model: UserModel, value: Staged, flow: roles.Flow) -> None:
    plan = user_model.plan
    innovation = next(site.name for site in plan.inside if site.latent)
    entries = ("start", "xs", "carry", "log_transition", "log_observation", "deterministic")
    reached = [pairs for entry in entries for pairs in jax.tree.leaves(value.reaches(entry), is_leaf=_is_pairs)]
    starts = [site.name for site in plan.outside if site.latent and site.name in flow.elsewhere]
    if starts or any(argument == "key" for pairs in reached for argument, _ in pairs):
        what = f"site '{starts[0]}'" if starts else f"the scan of site '{innovation}'"
        raise ModelError(
            f"the model has several scans with noise that data depend on, and {what} depends on the draws of another "
            "scan. Only independent scans can be filtered one by one: join these into one transition."
        )


def _refuse_joint(post_loop: PostLoop, names: frozenset[str], others: set[str]) -> None:
    """Refuse joint observations that are not rows, each of one loop."""
    for name in names:
        reached = post_loop.direct.get(name, set()) | post_loop.start.get(name, set())
        why = str(post_loop.mixing[name]) if name in post_loop.mixing else ""
        if crossing := sorted(reached & others):
            why = f"it reads '{crossing[0]}', the start of another scan"
        if why:
            raise ModelError(
                f"site '{name}' is observed after several scans with noise and is not a row of one of them at a time: "
                f"{why} joins them. Observe inside each transition, or concatenate the paths and observe row by row."
            )


def _is_pairs(leaf: Any) -> bool:
    return isinstance(leaf, set)
