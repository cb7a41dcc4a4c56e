"""Stage forward simulation: the start and the steps of a model, drawn by its families' own samplers.

With theta the parameters, c the carry, x = (t, user input), z the innovations:

    start_draw   (theta, key)                           the start
    step_draw    (theta, c, x, key)                     a step
    step_predict (theta, c, x, z, known, key)           a step at known innovations, the rest drawn

Arguments from the carry on are late, as in `staging.py`.
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


def start_draw(script: UserModel, parameters, initial, observed) -> Staged:
    """Forward simulation of the start with the families' own samplers, its observations drawn too."""

    def fn(data, theta, key):
        out: dict[str, Any] = {}

        def outside(name, fn):
            if name in theta:
                return theta[name]
            return fn.sample(jax.random.fold_in(key, list(script.outside).index(name)))

        def at_main(loop: Loop):
            out["carry"] = like(loop.init, script.plan.carry)
            raise LeaveModel

        records = script.run(data, outside, at_main, observed)
        out["values"] = {r.name: jnp.asarray(r.value) for r in records if r.name in (*initial, *observed)}
        return out

    return script.stage(fn, (script.shapes(parameters), KEY), late=1)


def step_draw(script: UserModel, parameters, initial) -> Staged:
    """Forward simulation of one step, observations drawn too and fed to the carry."""
    plan = script.plan

    def fn(data, theta, carry, x, key):
        out: dict[str, Any] = {}

        def at_main(loop: Loop):
            t, user_x = x
            position = iter(range(len(plan.inside)))

            def draw(fn):
                return fn.sample(jax.random.fold_in(key, next(position)))

            simulated = loop._replace(draw_observed=draw)
            new, y, records = run_step(simulated, t, carry, user_x, lambda i, _, fn: draw(fn))
            out["carry"], out["y"] = like(new, plan.carry), y
            out["values"] = {
                s.name: jnp.asarray(r.value) for s, r in zip(plan.inside, records) if r.fn is None or can_be_drawn(r.fn)
            }
            raise LeaveModel

        script.run(data, known_outside(script, theta), at_main)
        return out

    return script.stage(fn, (script.shapes(parameters), plan.carry, x_shapes(plan), KEY), late=1)


def step_predict(script: UserModel, parameters, initial) -> Staged:
    """One step with the innovations that are known, the others drawn, and the observations drawn again.

    An observation feeds the carry where it is there; where it is missing, what was drawn for it does.
    """
    plan = script.plan
    z = {name: Shape(site.shape, site.dtype) for name, site in script.innovations.items()}
    known = dict.fromkeys(z, Shape((), jnp.bool_))

    def fn(data, theta, carry, x, z, known, key):
        out: dict[str, Any] = {}
        position = iter(range(2 * len(plan.inside)))

        def draw(fn):
            return fn.sample(jax.random.fold_in(key, next(position)))

        def value_of(site: TracedSite, fn):
            return jnp.where(known[site.name], z[site.name], jnp.asarray(draw(fn), site.dtype))

        def again(name, r: SiteMessage):
            if r.latent or r.fn is None:
                return jnp.asarray(r.value)
            drawn = draw(unmasked(r.fn))
            return jnp.where(r.present, drawn, r.value) if script.gaps.drawn(name) and r.present is not None else drawn

        def at_main(loop: Loop):
            out["carry"], out["y"], records = script.step(loop, carry, x, value_of)
            hidden = {s.name for s in plan.inside if s.latent and s.gaps}
            kept = {n: r for n, r in records.items() if n not in hidden and (r.fn is None or can_be_drawn(r.fn))}
            out["values"] = {n: again(n, r) for n, r in kept.items()}
            raise LeaveModel

        script.run(data, known_outside(script, theta), at_main)
        return out

    return script.stage(fn, (script.shapes(parameters), plan.carry, x_shapes(plan), z, known, KEY), late=1)
