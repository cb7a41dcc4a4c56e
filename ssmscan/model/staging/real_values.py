"""The plan of a model in which counts are real, for the Gaussian approximation, where they have smooth stand-ins.

A model that keeps counts in its carry has integers there, through which no derivative flows.  Its text does not say so:
run with real numbers in their place it is as a rule the same model, S - infected is.  Which leaves of the carry are
real then is a fixpoint: those that real values enter, at the start or after a step from such a carry.

Some models cannot be run so, for they index an array with a count.  Then the counts that the model needs as integers
are held at one value, and it is said why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ssmscan.model.handlers.running import LeaveModel
from ssmscan.model.handlers.scans import Loop
from ssmscan.model.jaxprs.placeholders import Shape
from ssmscan.model.noise.moments import Matched, SiteMap
from ssmscan.model.staging.discovery import Plan, TracedSite
from ssmscan.model.staging.functions import known_outside, noise_shapes
from ssmscan.model.staging.user_model import UserModel, x_shapes

PyTree = Any
AS_INTEGER = "the model cannot be run with real values of it"


def with_real_counts(
    user_model: UserModel, parameters: Collection[str], maps: Mapping[str, SiteMap]
) -> tuple[UserModel, tuple[str, ...]]:
    """Return the model with real counts, and the names of the counts that it needs as integers.

    Args:
        user_model: the model.
        parameters: names of the parameters.
        maps: of all other latent sites of the loop.
    """
    if not (counts := counts_of(user_model, maps)):
        return user_model, ()
    if (plan := _attempt(user_model, parameters, maps, counts)) is not None:
        return user_model._replace(plan=plan), ()
    best, real = user_model.plan, tuple[str, ...]()
    for name in counts if len(counts) > 1 else ():
        integer = [n for n in counts if n not in (*real, name)]
        tried = _attempt(user_model, parameters, as_for_particles(user_model, maps, integer), (*real, name))
        if tried is not None:
            best, real = tried, (*real, name)
    return user_model._replace(plan=best), tuple(n for n in counts if n not in real)


def counts_of(user_model: UserModel, maps: Mapping[str, SiteMap]) -> tuple[str, ...]:
    """Return the sites whose stand-ins are real where the values of the model are integers."""
    sites = user_model.outside | user_model.innovations
    return tuple(n for n, map_ in maps.items() if isinstance(map_, Matched) and not _is_real(sites[n].dtype))


def as_for_particles(user_model: UserModel, maps: Mapping[str, SiteMap], names: Collection[str]) -> dict[str, SiteMap]:
    """Return the maps, those of some sites as for particles."""
    sites = user_model.outside | user_model.innovations
    return {**maps, **{n: map_ for n in names if (map_ := sites[n].particle) is not None}}


def _attempt(
    user_model: UserModel, parameters: Collection[str], maps: Mapping[str, SiteMap], counts: Collection[str]
) -> Plan | None:
    """Return the plan in which some counts are real, None where the model fails with them."""
    try:
        return _real_plan(user_model, parameters, maps, counts)
    except Exception:  # The model runs with integers, and may fail in any way where they are not.
        return None


def _real_plan(
    user_model: UserModel, parameters: Collection[str], maps: Mapping[str, SiteMap], counts: Collection[str]
) -> Plan:
    real, plan = jnp.result_type(float), user_model.plan

    def described(site: TracedSite) -> TracedSite:
        return site._replace(dtype=real) if site.name in counts else site

    def promoted(shape: Shape, *found: Any) -> Shape:
        grown = any(_is_real(value.dtype) for value in found)
        return Shape(shape.shape, real) if grown and not _is_real(shape.dtype) else shape

    def once(data, theta, carry, x, noise):
        known, found = known_outside(user_model, theta), list[Any]()

        def value_of(name, fn):
            return maps[name].apply(fn, noise[name]) if name in maps else known(name, fn)

        def at_main(loop: Loop):
            found.extend(user_model.step_as_written(loop, carry, x, lambda site, fn: value_of(site.name, fn)))
            found.append(loop.init)
            raise LeaveModel

        user_model.run(data, value_of, at_main)
        carry, y, _, init = found
        return init, carry, y

    theta, x, noise = user_model.shapes(parameters), x_shapes(plan), noise_shapes(maps)
    plan = plan._replace(outside=tuple(map(described, plan.outside)), inside=tuple(map(described, plan.inside)))
    while True:
        init, carry, y = jax.eval_shape(once, user_model.data_shapes(), theta, plan.carry, x, noise)
        grown = jax.tree.map(promoted, plan.carry, init, carry)
        if grown == plan.carry:
            return plan._replace(ys=jax.tree.map(promoted, plan.ys, y))
        plan = plan._replace(carry=grown)


def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)
