"""The start and the step of a model at given noise of what is continuous and given values of what is discrete.

    start_of  (theta, e, z)          leaves of the carry, log-densities, values
    step_of   (theta, c, x, e, z)    the same after one step, and the outputs

With theta the parameters, c the carry, x the input of the step, e the base noise of the continuous sites
and z the discrete draws.  Log-densities are by site: of the discrete draws, of what transports and scales
add to the density of noise, and of all observations, those after the loop included that are pointwise in
time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ssmscan.model.handlers.messages import SiteMessage
from ssmscan.model.handlers.running import LeaveModel
from ssmscan.model.handlers.scans import Loop
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape, like
from ssmscan.model.noise.families import MapKind
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.functions import known_outside, noise_specs
from ssmscan.model.staging.post_loop import as_output
from ssmscan.model.staging.user_model import UserModel, x_shapes


def start_of(script: UserModel, parameters, initial, observed, after: Staged, summed: tuple[TracedSite, ...]) -> Staged:
    """The start at given noise of the continuous initial sites and given values of the discrete ones."""
    plan = script.plan
    given = shapes_of(summed)
    specs = noise_specs(script, [name for name in initial if name not in given], smooth=True)

    def fn(data, theta, noise, z):
        out: dict[str, Any] = {}
        corrections: dict[str, jax.Array] = {}

        def outside(name, fn):
            return theta[name] if name in theta else _value(script.outside[name], fn, noise, z, corrections)

        def at_main(loop: Loop):
            out["leaves"] = dict(enumerate(jax.tree.leaves(like(loop.init, plan.carry))))
            raise LeaveModel

        records = {r.name: r for r in script.run(data, outside, at_main)}
        drawn = {n: r for n, r in records.items() if n in initial}
        out["terms"] = _terms(drawn, z, corrections) | {n: records[n].log_prob() for n in observed}
        values = _values_outside(script, {**theta, **{n: r.value for n, r in drawn.items()}})
        out["terms"] |= after(script.arrays(data), values)["log_prob"]
        out["values"] = {n: jnp.asarray(r.value) for n, r in drawn.items()}
        return out

    return script.stage(fn, (script.shapes(parameters), specs, given), late=1)


def step_of(script: UserModel, parameters, after: Staged, summed: tuple[TracedSite, ...]) -> Staged:
    """One step at given noise of the continuous innovations and given values of the discrete ones."""
    plan = script.plan
    given = shapes_of(summed)
    specs = noise_specs(script, [name for name in script.innovations if name not in given], smooth=True)

    def fn(data, theta, carry, x, noise, z):
        out: dict[str, Any] = {}
        corrections: dict[str, jax.Array] = {}

        def at_main(loop: Loop):
            new, y, records = script.step(loop, carry, x, lambda site, fn: _value(site, fn, noise, z, corrections))
            drawn = {n: r for n, r in records.items() if r.latent}
            seen = {n: r for n, r in records.items() if r.observed}
            out["leaves"] = dict(enumerate(jax.tree.leaves(new)))
            out["ys"] = dict(enumerate(jax.tree.leaves(y)))
            out["terms"] = _terms(drawn, z, corrections) | {n: r.log_prob() for n, r in seen.items()}
            late = after.bind(script.arrays(data), _values_outside(script, theta))
            out["terms"] |= late(x[0], as_output(y, plan))["log_prob"]
            out["values"] = {n: jnp.asarray(r.value) for n, r in records.items() if not r.observed}
            raise LeaveModel

        script.run(data, known_outside(script, theta), at_main)
        return out

    return script.stage(fn, (script.shapes(parameters), plan.carry, x_shapes(plan), specs, given), late=1)


def _values_outside(script: UserModel, known: dict) -> dict:
    """Values of the latent sites outside the loop, placeholders where nothing depends on them."""
    value = known_outside(script, known)
    return {name: value(name, None) for name, site in script.outside.items() if site.latent}


def shapes_of(sites: Iterable[TracedSite]) -> dict[str, Shape]:
    """Shapes of the values of some sites."""
    return {site.name: Shape(site.shape, site.dtype) for site in sites}


def _value(site: TracedSite, fn, noise: dict, z: dict, corrections: dict) -> jax.Array:
    if site.name in z:
        return z[site.name]
    assert site.smooth is not None
    if site.smooth.kind is MapKind.TRANSPORT:
        corrections[site.name] = site.smooth.log_correction(fn, noise[site.name])
    return jnp.asarray(site.smooth.apply(fn, noise[site.name]), site.dtype)


def _terms(drawn: dict[str, SiteMessage], z: dict, corrections: dict) -> dict[str, jax.Array]:
    """Log-densities of latent sites beyond that of their noise; sites that have none are left out."""
    terms = {}
    for name, record in drawn.items():
        if name in z:
            terms[name] = record.log_density() + record.log_excess()
        elif name in corrections or record.scale is not None:
            terms[name] = corrections.get(name, jnp.zeros(())) + record.log_excess()
    return terms
