"""Stage forward simulation: the start and the steps of a model, drawn by its families' own samplers.

With theta the parameters, x = (t, user input):

    start_draw    theta, key                            the start
    step_draw     theta, carry, x, key                  a step
    step_predict  theta, carry, x, values, known, key   a step at known innovations, the rest drawn
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ssmscan.model.handlers.messages import SiteMessage, can_be_drawn, unmasked
from ssmscan.model.handlers.running import LeaveModel, run_step
from ssmscan.model.handlers.scans import Loop
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape, like
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.functions import known_outside
from ssmscan.model.staging.user_model import KEY, UserModel, x_shapes


def start_draw(user_model: UserModel, parameters, initial, observed) -> Staged:
    """Stage forward simulation of the start with the families' own samplers, its observations drawn too."""

    def fn(data, theta, key):
        out: dict[str, Any] = {}

        def outside(name, fn):
            if name in theta:
                return theta[name]
            return fn.sample(jax.random.fold_in(key, list(user_model.outside).index(name)))

        def at_main(loop: Loop):
            out["carry"] = like(loop.init, user_model.plan.carry)
            raise LeaveModel

        messages = user_model.run(data, outside, at_main, observed)
        out["values"] = {m.name: jnp.asarray(m.value) for m in messages if m.name in (*initial, *observed)}
        return out

    return user_model.stage(fn, {"theta": user_model.shapes(parameters), "key": KEY})


def step_draw(user_model: UserModel, parameters, initial) -> Staged:
    """Stage forward simulation of one step, observations drawn too and fed to the carry."""
    plan = user_model.plan

    def fn(data, theta, carry, x, key):
        out: dict[str, Any] = {}

        def at_main(loop: Loop):
            t, user_x = x
            position = iter(range(len(plan.inside)))

            def draw(fn):
                return fn.sample(jax.random.fold_in(key, next(position)))

            simulated = loop._replace(draw_observed=draw)
            new, y, messages = run_step(simulated, t, carry, user_x, lambda i, _, fn: draw(fn))
            out["carry"], out["y"] = like(new, plan.carry), y
            out["values"] = {
                s.name: jnp.asarray(m.value)
                for s, m in zip(plan.inside, messages)
                if m.fn is None or can_be_drawn(m.fn)
            }
            raise LeaveModel

        user_model.run(data, known_outside(user_model, theta), at_main)
        return out

    arguments = {"theta": user_model.shapes(parameters), "carry": plan.carry, "x": x_shapes(plan), "key": KEY}
    return user_model.stage(fn, arguments)


def step_predict(user_model: UserModel, parameters, initial) -> Staged:
    """Stage a step with the innovations that are known, the others drawn, and the observations drawn again.

    An observation feeds the carry where it is there; where it is missing, what was drawn for it does.
    """
    plan = user_model.plan
    values = {name: Shape(site.shape, site.dtype) for name, site in user_model.innovations.items()}
    known = dict.fromkeys(values, Shape((), jnp.bool_))

    def fn(data, theta, carry, x, values, known, key):
        out: dict[str, Any] = {}
        position = iter(range(2 * len(plan.inside)))

        def draw(fn):
            return fn.sample(jax.random.fold_in(key, next(position)))

        def value_of(site: TracedSite, fn):
            return jnp.where(known[site.name], values[site.name], jnp.asarray(draw(fn), site.dtype))

        def again(name, m: SiteMessage):
            if m.latent or m.fn is None:
                return jnp.asarray(m.value)
            value = draw(unmasked(m.fn))
            imputed = user_model.gaps.imputes(name) and m.present is not None
            return jnp.where(m.present, value, m.value) if imputed else value

        def at_main(loop: Loop):
            out["carry"], out["y"], messages = user_model.step(loop, carry, x, value_of)
            hidden = {s.name for s in plan.inside if s.latent and s.gaps}
            kept = {n: m for n, m in messages.items() if n not in hidden and (m.fn is None or can_be_drawn(m.fn))}
            out["values"] = {n: again(n, m) for n, m in kept.items()}
            raise LeaveModel

        user_model.run(data, known_outside(user_model, theta), at_main)
        return out

    arguments = {"theta": user_model.shapes(parameters), "carry": plan.carry, "x": x_shapes(plan)}
    return user_model.stage(fn, {**arguments, "values": values, "known": known, "key": KEY})
