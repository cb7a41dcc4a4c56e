"""Stage forward simulation: the start and the steps of a model, drawn by its families' own samplers.

With theta the parameters, x = (t, user input):

    start_draw    theta, key                            the start
    step_draw     theta, carry, x, key                  a step
    step_predict  theta, carry, x, values, known, key   a step at known innovations, the rest drawn
    start_places  theta, noise, key                     the start at given noise, what has none drawn
    step_places   theta, carry, x, noise, key           a step at given noise, what has none drawn

The last two find where states are that gradient engines move as they are (`noise.in_place`): "noise" is their
unconstrained values.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from ssmscan.model.handlers.messages import SiteMessage, can_be_drawn, unmasked
from ssmscan.model.handlers.running import LeaveModel, run_step
from ssmscan.model.handlers.scans import Loop
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape, like
from ssmscan.model.noise.families import NoiseMap
from ssmscan.model.noise.samplers import draw
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.functions import known_outside, smooth_noise
from ssmscan.model.staging.user_model import KEY, UserModel, x_shapes


def start_draw(
    user_model: UserModel, parameters: Collection[str], initial: Collection[str], observed: Collection[str]
) -> Staged:
    """Stage forward simulation of the start with the families' own samplers, its observations drawn too."""

    def fn(data, theta, key):
        out: dict[str, Any] = {}

        def outside(name, fn):
            if name in theta:
                return theta[name]
            return draw(jax.random.fold_in(key, list(user_model.outside).index(name)), fn)

        def at_main(loop: Loop):
            out["carry"] = like(loop.init, user_model.plan.carry)
            raise LeaveModel

        messages = user_model.run(data, outside, at_main, observed)
        out["values"] = {m.name: jnp.asarray(m.value) for m in messages if m.name in (*initial, *observed)}
        return out

    return user_model.stage(fn, {"theta": user_model.shapes(parameters), "key": KEY})


def step_draw(user_model: UserModel, parameters: Collection[str]) -> Staged:
    """Stage forward simulation of one step, observations drawn too and fed to the carry."""
    plan = user_model.plan

    def fn(data, theta, carry, x, key):
        out: dict[str, Any] = {}

        def at_main(loop: Loop):
            t, user_x = x
            position = iter(range(len(plan.inside)))

            def drawn(fn):
                return draw(jax.random.fold_in(key, next(position)), fn)

            simulated = loop._replace(draw_observed=drawn)
            new, y, messages = run_step(simulated, t, carry, user_x, lambda i, _, fn: drawn(fn))
            out["carry"], out["y"] = like(new, plan.carry), y
            out["values"] = {
                s.name: jnp.asarray(m.value, s.dtype if s.latent else None)
                for s, m in zip(plan.inside, messages)
                if m.fn is None or can_be_drawn(m.fn)
            }
            raise LeaveModel

        user_model.run(data, known_outside(user_model, theta), at_main)
        return out

    arguments = {"theta": user_model.shapes(parameters), "carry": plan.carry, "x": x_shapes(plan), "key": KEY}
    return user_model.stage(fn, arguments)


def step_predict(user_model: UserModel, parameters: Collection[str]) -> Staged:
    """Stage a step with the innovations that are known, the others drawn, and the observations drawn again.

    An observation feeds the carry where it is there; where it is missing, what was drawn for it does.
    """
    plan = user_model.plan
    values = {name: Shape(site.shape, site.dtype) for name, site in user_model.innovations.items()}
    known = dict.fromkeys(values, Shape((), jnp.bool_))

    def fn(data, theta, carry, x, values, known, key):
        out: dict[str, Any] = {}
        position = iter(range(2 * len(plan.inside)))

        def drawn(fn):
            return draw(jax.random.fold_in(key, next(position)), fn)

        def value_of(site: TracedSite, fn):
            return jnp.where(known[site.name], values[site.name], jnp.asarray(drawn(fn), site.dtype))

        def again(name, m: SiteMessage):
            if m.latent or m.fn is None:
                return jnp.asarray(m.value)
            value = drawn(unmasked(m.fn))
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


def start_places(user_model: UserModel, parameters: Collection[str], initial: Collection[str]) -> Staged:
    """Stage the start at given noise, what is sampled in place or summed out drawn from its law."""

    def fn(data, theta, noise, key):
        out: dict[str, Any] = {"noise": {}}
        known = known_outside(user_model, theta)

        def outside(name, fn):
            own = jax.random.fold_in(key, list(user_model.outside).index(name))
            return (
                _place(user_model.outside[name], fn, noise, own, out["noise"]) if name in initial else known(name, fn)
            )

        def at_main(loop: Loop):
            out["carry"] = like(loop.init, user_model.plan.carry)
            raise LeaveModel

        user_model.run(data, outside, at_main)
        return out

    noise = _given_noise(user_model, initial)
    return user_model.stage(fn, {"theta": user_model.shapes(parameters), "noise": noise, "key": KEY})


def step_places(user_model: UserModel, parameters: Collection[str]) -> Staged:
    """Stage one step at given noise, what is sampled in place or summed out drawn from its law."""
    plan = user_model.plan

    def fn(data, theta, carry, x, noise, key):
        out: dict[str, Any] = {"noise": {}}
        position = iter(range(len(plan.inside)))

        def value_of(site: TracedSite, fn):
            own = jax.random.fold_in(key, next(position))
            return jnp.asarray(_place(site, fn, noise, own, out["noise"]), site.dtype)

        def at_main(loop: Loop):
            out["carry"] = user_model.step(loop, carry, x, value_of)[0]
            raise LeaveModel

        user_model.run(data, known_outside(user_model, theta), at_main)
        return out

    arguments = {"theta": user_model.shapes(parameters), "carry": plan.carry, "x": x_shapes(plan)}
    noise = _given_noise(user_model, user_model.innovations)
    return user_model.stage(fn, {**arguments, "noise": noise, "key": KEY})


def _given_noise(user_model: UserModel, names: Collection[str]) -> dict[str, Shape]:
    """Return the shapes of the base noise of the sites that have it."""
    sites = user_model.outside | user_model.innovations
    return smooth_noise(user_model, [n for n in names if isinstance(sites[n].smooth, NoiseMap)])


def _place(site: TracedSite, fn: Any, noise: dict, key: jax.Array, found: dict) -> jax.Array:
    """Compute the value of a site from its noise or draw it, and keep the unconstrained values of one in place."""
    if isinstance(site.smooth, NoiseMap):
        return site.smooth.apply(fn, noise[site.name])
    if site.smooth is None:
        return draw(key, fn)
    found[site.name] = site.smooth.draw(key, unmasked(fn))
    return site.smooth.apply(fn, found[site.name])
