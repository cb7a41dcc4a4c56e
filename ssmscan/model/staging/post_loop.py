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
from ssmscan.model.staging.user_model import UserModel

PyTree = Any
LAST_CARRY = Mixing("the last carry of the loop")


class PostLoop(NamedTuple):
    """Staged observations after the loop.

    Attributes:
        step: outside, t, y -> "log_prob" by site, the g_t, with y the output of step t.
        rest: outside -> "log_prob" by site, h.
        observed: outside, t, y -> "value" of the row of the step by site, NaN
            where it is missing, and "log_density" of its elements; values that no latent value reaches.
        mixing: for each site that is not pointwise, what is to blame.
        direct: for each site that is, the outside sites that g depends on.
        start: for each such site, the outside sites that h depends on.
    """

    step: Staged
    rest: Staged
    observed: Staged
    mixing: dict[str, Mixing]
    direct: dict[str, set[str]]
    start: dict[str, set[str]]

    def reason(self, name: str, initial: Collection[str]) -> str:
        """Return a clause that says how a site is observed."""
        if name in self.mixing:
            return f"observed after the loop, not step by step: {self._blame(name)}"
        starts = sorted(self.start[name] & set(initial))
        rest = f"; rows that belong to no step observe the start, '{starts[0]}'" if starts else ""
        return f"observed after the loop, one row a step{rest}"

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
    plan, whole = user_model.plan, value.select(outside_log_prob=sorted(names))
    latents = sorted(site.name for site in plan.outside if site.latent)
    mixing: dict[str, Mixing] = {}

    def follow(staged: Staged, data: list, outside: dict, ys: PyTree, window: Window) -> dict[str, Any]:
        rows = jax.tree.map(lambda leaf: Tracked(leaf, Axis(0, plan.length)), ys)
        last = jax.tree.map(lambda _: Tracked(None, LAST_CARRY), plan.carry)
        # The step's own arguments do not reach code after the loop.
        arguments = {"outside": constants(outside), "key": Tracked(None, FOREIGN), "ys": rows, "last": last}
        return follow_staged(staged, user_model.arrays(data), arguments, window)

    def evaluate(data: list, outside: dict, ys: PyTree, window: Window) -> dict[str, Array]:
        parts = {}
        for name, result in follow(whole, data, outside, ys, window)["outside_log_prob"].items():
            try:
                parts[name] = window.contribution(result)
            except MixesRows as found:
                mixing[name] = found.origin or Mixing("the log-density")
        return parts

    def step(data: list, outside: dict, t: Array, y: PyTree) -> dict:
        rows = jax.tree.map(lambda a: a[None], y)
        return {"log_prob": evaluate(data, outside, rows, Window(plan.length, t))}

    def rest(data: list, outside: dict) -> dict:
        none = zeros(jax.tree.map(lambda s: Shape((0, *s.shape[1:]), s.dtype), plan.ys))
        head = evaluate(data, outside, none, Window(plan.length, constants=user_model.part.first))
        end = evaluate(data, outside, none, Window(plan.length, end=True))
        return {"log_prob": {name: head[name] + end[name] for name in head}}

    def observed(data: list, outside: dict, t: Array, y: PyTree) -> dict:
        if not names:
            return {"value": {}, "log_density": {}}
        elements, given = by_element(user_model), {n for n, p in value.reaches("outside_observed").items() if not p}
        wanted = elements.select(outside=given.intersection(names, elements.names("outside")))
        window, rows = Window(plan.length, t), jax.tree.map(lambda a: a[None], y)
        found = follow(wanted, data, outside, rows, window)["outside"]
        pairs = {n: pair for n, pair in found.items() if isinstance(pair[1].mark, Axis)}

        def row(rows: Array, axis: Axis) -> Array:
            return rows if axis.axis is None or axis.block > 1 else jnp.squeeze(rows, axis.axis)

        return {
            "value": {n: row(window.present(v.value, each.mark), each.mark) for n, (v, each) in pairs.items()},
            "log_density": {n: row(each.value, each.mark) for n, (_, each) in pairs.items()},
        }

    before = {"outside": user_model.shapes(latents)}
    arguments = {**before, "t": Shape((), "int32"), "y": step_output(plan)}
    staged_step, staged_observed = (user_model.stage(fn, arguments) for fn in (step, observed))
    staged_rest = user_model.stage(rest, before)

    def reached(staged: Staged) -> dict[str, set[str]]:
        flow = staged.reaches("log_prob")
        return {name: {latents[k] for argument, k in pairs if argument == "outside"} for name, pairs in flow.items()}

    return PostLoop(staged_step, staged_rest, staged_observed, mixing, reached(staged_step), reached(staged_rest))


def step_output(plan: Plan) -> PyTree:
    """Return the shapes of the output of one step."""
    return jax.tree.map(lambda s: Shape(s.shape[1:], s.dtype), plan.ys)


def as_output(y: PyTree, plan: Plan) -> PyTree:
    """Cast the output of a step to the dtypes that it has when stacked."""
    return like(y, step_output(plan))
