"""The start and the step of a model at given noise of what is continuous and given values of what is discrete.

    start_at_draws  theta, noise, draws             leaves of the carry, log-densities, values
    step_at_draws   theta, carry, x, noise, draws   the same after one step, and the outputs

Noise is that of the continuous sites, draws are the values of the discrete ones.  Log-densities are by site: of the
discrete draws, of what transports and scales add to the density of noise, and of all observations, those after the
loop included that are pointwise in time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ssmscan.model.handlers.messages import SiteMessage, unmasked
from ssmscan.model.handlers.running import LeaveModel
from ssmscan.model.handlers.scans import Loop
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape, like
from ssmscan.model.noise.families import MapKind
from ssmscan.model.noise.in_place import InPlace
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.functions import known_outside, smooth_noise
from ssmscan.model.staging.post_loop import as_output
from ssmscan.model.staging.user_model import UserModel, x_shapes


def start_at_draws(
    user_model: UserModel,
    parameters: Collection[str],
    initial: Collection[str],
    observed: Collection[str],
    after: Staged,
    summed: tuple[TracedSite, ...],
) -> Staged:
    """Stage the start at given noise of the continuous initial sites and given values of the discrete ones."""
    plan = user_model.plan
    given = shapes_of(summed)
    specs = smooth_noise(user_model, [name for name in initial if name not in given])

    def fn(data, theta, noise, draws):
        out: dict[str, Any] = {}
        corrections: dict[str, jax.Array] = {}

        def outside(name, fn):
            return theta[name] if name in theta else _value(user_model.outside[name], fn, noise, draws, corrections)

        def at_main(loop: Loop):
            out["leaves"] = dict(enumerate(jax.tree.leaves(like(loop.init, plan.carry))))
            raise LeaveModel

        messages = {m.name: m for m in user_model.run(data, outside, at_main)}
        latent = {n: m for n, m in messages.items() if n in initial}
        out["terms"] = _terms(latent, draws, corrections) | {n: messages[n].log_prob() for n in observed}
        values = _values_outside(user_model, {**theta, **{n: m.value for n, m in latent.items()}})
        out["terms"] |= after(user_model.arrays(data), outside=values)["log_prob"]
        out["values"] = {n: jnp.asarray(m.value) for n, m in latent.items()}
        return out

    return user_model.stage(fn, {"theta": user_model.shapes(parameters), "noise": specs, "draws": given})


def step_at_draws(
    user_model: UserModel, parameters: Collection[str], after: Staged, summed: tuple[TracedSite, ...]
) -> Staged:
    """Stage one step at given noise of the continuous innovations and given values of the discrete ones."""
    plan = user_model.plan
    given = shapes_of(summed)
    specs = smooth_noise(user_model, [name for name in user_model.innovations if name not in given])

    def fn(data, theta, carry, x, noise, draws):
        out: dict[str, Any] = {}
        corrections: dict[str, jax.Array] = {}

        def at_main(loop: Loop):
            new, y, messages = user_model.step(
                loop, carry, x, lambda site, fn: _value(site, fn, noise, draws, corrections)
            )
            latent = {n: m for n, m in messages.items() if m.latent}
            observed = {n: m for n, m in messages.items() if m.observed}
            out["leaves"] = dict(enumerate(jax.tree.leaves(new)))
            out["ys"] = dict(enumerate(jax.tree.leaves(y)))
            out["terms"] = _terms(latent, draws, corrections) | {n: m.log_prob() for n, m in observed.items()}
            late = after.bind(user_model.arrays(data), outside=_values_outside(user_model, theta))
            out["terms"] |= late(t=x[0], y=as_output(y, plan))["log_prob"]
            out["values"] = {n: jnp.asarray(m.value) for n, m in messages.items() if not m.observed}
            raise LeaveModel

        user_model.run(data, known_outside(user_model, theta), at_main)
        return out

    arguments = {"theta": user_model.shapes(parameters), "carry": plan.carry, "x": x_shapes(plan)}
    return user_model.stage(fn, {**arguments, "noise": specs, "draws": given})


def _values_outside(user_model: UserModel, known: dict) -> dict:
    """Return the values of the latent sites outside the loop, placeholders where nothing depends on them."""
    value = known_outside(user_model, known)
    return {name: value(name, None) for name, site in user_model.outside.items() if site.latent}


def shapes_of(sites: Iterable[TracedSite]) -> dict[str, Shape]:
    """Return the shapes of the values of some sites."""
    return {site.name: Shape(site.shape, site.dtype) for site in sites}


def _value(site: TracedSite, fn, noise: dict, draws: dict, corrections: dict) -> jax.Array:
    if site.name in draws:
        return draws[site.name]
    assert site.smooth is not None
    if isinstance(site.smooth, InPlace):
        corrections[site.name] = site.smooth.log_density(unmasked(fn), noise[site.name])
    elif site.smooth.kind is MapKind.TRANSPORT:
        corrections[site.name] = site.smooth.log_correction(fn, noise[site.name])
    return jnp.asarray(site.smooth.apply(fn, noise[site.name]), site.dtype)


def _terms(latent: dict[str, SiteMessage], draws: dict, corrections: dict) -> dict[str, jax.Array]:
    """Compute the log-densities of latent sites beyond that of their noise; sites that have none are left out."""
    terms = {}
    for name, message in latent.items():
        if name in draws:
            terms[name] = message.log_density() + message.log_excess()
        elif name in corrections or message.scale is not None:
            terms[name] = corrections.get(name, jnp.zeros(())) + message.log_excess()
    return terms
