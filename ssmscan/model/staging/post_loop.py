r"""Observations after the loop, one step at a time.

Where the log-density of what is observed after the loop is pointwise in the outputs :math:`y_t` of the steps,

.. math::  \log p(\text{data} | y_{1:T}, x_0, \theta) = h(x_0, \theta) + \sum_t g_t(y_t, \theta),

:math:`g_t` weighs the particles at step t as an observation inside the transition would, and h, which
rows before the first step and after the last contribute, weighs them at time 0, or belongs to the
parameters where no initial site reaches it.  `jaxprs.axes` takes the sum apart.  Where it cannot, the reason
is kept: particle engines refuse the model by it, gradient engines evaluate the whole path at once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.model.jaxprs.axes import constants, follow_staged
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape, like, zeros
from ssmscan.model.jaxprs.source_lines import FOREIGN, Mixing
from ssmscan.model.jaxprs.tracked_axis import Axis, MixesRows, Tracked, Window
from ssmscan.model.staging.discovery import Plan
from ssmscan.model.staging.functions import by_element
from ssmscan.model.staging.other_layouts import OtherLayouts
from ssmscan.model.staging.user_model import UserModel

PyTree = Any
LAST_CARRY = Mixing("the last carry of the loop")


class PostLoop(NamedTuple):
    """Staged observations after the loop.

    Attributes:
        step: outside, t, y -> "log_prob" by site, the g_t, with y the output of step t.
        rest: outside -> "log_prob" by site, h.
        observed: outside, t, y -> "value", see `stage_observed`.
        mixing: for each site that is not pointwise, what is to blame.
        direct: for each site that is, the outside sites that g depends on.
        start: for each such site, the outside sites that h depends on.
        layouts: for each such site that is not one row a step, a clause that says how it is observed.
    """

    step: Staged
    rest: Staged
    observed: Staged
    mixing: dict[str, Mixing]
    direct: dict[str, set[str]]
    start: dict[str, set[str]]
    layouts: dict[str, str]

    def reason(self, name: str, initial: Collection[str]) -> str:
        """Return a clause that says how a site is observed."""
        if name in self.mixing:
            return f"observed after the loop, not step by step: {self._blame(name)}"
        starts = sorted(self.start[name] & set(initial))
        rest = f"; rows that belong to no step observe the start, '{starts[0]}'" if starts else ""
        return f"observed after the loop, {self.layouts.get(name, 'one row a step')}{rest}"

    def _blame(self, name: str) -> str:
        found = self.mixing[name]
        return f"it reads {found.primitive}" if found == LAST_CARRY else f"{found} joins different steps"

    def refusal(self) -> str:
        """Return why particles cannot be weighed step by step; empty if they can."""
        if not self.mixing:
            return ""
        blamed = "; ".join(f"site '{name}': {self._blame(name)}" for name in self.mixing)
        return (
            f"observations after the loop cannot be taken apart into steps, so particles cannot be weighed: {blamed}. "
            "Observe inside the transition (data as xs), or use NUTS or TemperedSMC, which take the model as it is."
        )


def stage_post_loop(user_model: UserModel, value: Staged, names: Collection[str]) -> PostLoop:
    """Take the observations after the loop apart.

    Args:
        user_model: the model.
        value: `functions.by_value` of it.
        names: observed sites that the outputs or the last carry of the loop reach.
    """
    plan, joint, by_row = user_model.plan, user_model.part.joint, sorted(names)
    latents = sorted(site.name for site in plan.outside if site.latent)
    others: dict[str, Mixing] = {}
    apart: OtherLayouts | None = None

    def evaluate(data: list, outside: dict, ys: PyTree, window: Window) -> dict[str, Array]:
        parts = {}
        # What no loop reaches of a site that several loops share counts in the first of them.
        for shared, constants_count in ((False, True), (True, user_model.part.first)):
            staged = value.select(outside_log_prob=[name for name in by_row if (name in joint) is shared])
            counting = window._replace(constants=constants_count)
            for name, result in _follow(user_model, staged, data, outside, ys, counting)["outside_log_prob"].items():
                try:
                    parts[name] = counting.contribution(result)
                except MixesRows as found:
                    others[name] = found.origin or Mixing("the log-density")
        return parts

    def step(data: list, outside: dict, t: Array, y: PyTree) -> dict:
        parts = evaluate(data, outside, jax.tree.map(lambda a: a[None], y), Window(plan.length, t))
        return {"log_prob": parts if apart is None else {**parts, **apart.terms(data, outside, t, y)}}

    def rest(data: list, outside: dict) -> dict:
        none = zeros(jax.tree.map(lambda s: Shape((0, *s.shape[1:]), s.dtype), plan.ys))
        head = evaluate(data, outside, none, Window(plan.length))
        end = evaluate(data, outside, none, Window(plan.length, end=True))
        parts = {name: head[name] + end[name] for name in head}
        return {"log_prob": parts if apart is None else {**parts, **apart.terms(data, outside)}}

    before = {"outside": user_model.shapes(latents)}
    with_step = {**before, "t": Shape((), "int32"), "y": step_output(plan)}
    staged_step = user_model.stage(step, with_step)
    if others:
        by_row = sorted(set(names) - others.keys())
        reached_by = value.reaches("outside_log_prob")
        alone = sorted(n for n in others if all(argument != "key" for argument, _ in reached_by[n]))
        apart = OtherLayouts(user_model, value, alone, LAST_CARRY)
        staged_step = user_model.stage(step, with_step)
    staged_rest = user_model.stage(rest, before)
    # Why rows of several loops mix, following an axis has told.
    layouts = {} if apart is None else apart.layouts
    mixing = {n: apart.mixing.get(n, blamed) for n, blamed in others.items() if n not in layouts} if apart else {}

    def reached(staged: Staged) -> dict[str, set[str]]:
        flow = staged.reaches("log_prob")
        return {name: {latents[k] for argument, k in pairs if argument == "outside"} for name, pairs in flow.items()}

    own = user_model.with_own_table()
    observed = user_model.with_constants_of(own, stage_observed(own, value, names).select("value"))
    return PostLoop(staged_step, staged_rest, observed, mixing, reached(staged_step), reached(staged_rest), layouts)


def stage_observed(apart: UserModel, value: Staged, names: Collection[str]) -> Staged:
    """Find the row observed after the loop that belongs to a step: the output of the step reaches its density.

    Args:
        apart: the model, with a table of its own.
        value, names: as in `stage_post_loop`.

    Returns:
        outside, t, y -> by site, where data alone decide the value, "value" of the row, NaN where it is missing, and
        "log_density" of its elements; y is the output of step t.
    """
    plan, latents = apart.plan, sorted(site.name for site in apart.plan.outside if site.latent)
    elements = by_element(apart) if names else None

    def observed(data: list, outside: dict, t: Array, y: PyTree) -> dict:
        if elements is None:
            return {"value": {}, "log_density": {}}
        given = {n for n, pairs in value.reaches("outside_observed").items() if not pairs}
        found = sorted(given.intersection(names, elements.names("outside")))
        window, rows = Window(plan.length, t), jax.tree.map(lambda a: a[None], y)
        arguments = data, outside, rows, window
        whole = _follow(apart, value.select(outside_observed=found), *arguments)["outside_observed"]
        pairs = _follow(apart, elements.select(outside=found), *arguments)["outside"]
        out: dict[str, dict] = {"value": {}, "log_density": {}}
        for name, (like_value, log_density) in pairs.items():
            if isinstance(axis := log_density.mark, Axis):
                value_here = window.present(jnp.broadcast_to(whole[name].value, jnp.shape(like_value.value)), axis)
                gone = axis.axis is None or axis.block > 1
                for entry, rows in (("value", value_here), ("log_density", log_density.value)):
                    out[entry][name] = rows if gone else jnp.squeeze(rows, axis.axis)
        return out

    arguments = {"outside": apart.shapes(latents), "t": Shape((), "int32"), "y": step_output(plan)}
    return apart.stage(observed, arguments)


def _follow(user_model: UserModel, staged: Staged, data: list, outside: dict, ys: PyTree, window: Window) -> Any:
    """Follow the outputs of the loop through what is staged by value."""
    rows = jax.tree.map(lambda leaf: Tracked(leaf, Axis(0, user_model.plan.length)), ys)
    last = jax.tree.map(lambda _: Tracked(None, LAST_CARRY), user_model.plan.carry)
    # The step's own arguments do not reach code after the loop.
    arguments = {"outside": constants(outside), "key": Tracked(None, FOREIGN), "ys": rows, "last": last}
    return follow_staged(staged, user_model.arrays(data), arguments, window)


def step_output(plan: Plan) -> PyTree:
    """Return the shapes of the output of one step."""
    return jax.tree.map(lambda s: Shape(s.shape[1:], s.dtype), plan.ys)


def as_output(y: PyTree, plan: Plan) -> PyTree:
    """Cast the output of a step to the dtypes that it has when stacked."""
    return like(y, step_output(plan))
