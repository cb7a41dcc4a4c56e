"""Stage a model: the same user function, run abstractly once for each way the engines need it.

Each function here runs the model under the handlers of `running.py` with another rule for the
values of its sites, and returns a dict of everything worth keeping; `dataflow.stage` turns it into
a jaxpr of (data, arguments).  With theta the parameters, s the initial-state sites, c the carry,
x = (t, user input), z the innovations, e their base noise:

    by_value     (theta and s, c, x, z, key, ys, last)  densities of all sites, step, tail
    start_noise  (theta, e)                             carry, weight and values of the start
    step_noise   (theta, c, x, e)                       carry, weight and values of one step
    prior        (key,)                                 a draw of theta
    constrain    (unconstrained theta,)                 theta, log prior and law of its draws, both plus log-Jacobian
    unconstrain  (theta,)                               unconstrained theta

Forward simulation is in `drawing.py`.  Arguments from the carry on are late: they change inside the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, ExpandedDistribution, Independent, MaskedDistribution, biject_to

from ssmscan.model.handlers.messages import SiteMessage, can_be_drawn, is_factor
from ssmscan.model.handlers.running import LeaveModel
from ssmscan.model.handlers.scans import Loop
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape, like, sum_of, zeros
from ssmscan.model.noise.families import NoiseMap
from ssmscan.model.noise.score import is_rough
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.user_model import KEY, UserModel, x_shapes


def by_value(script: UserModel, *, keyed: bool = False, stage: Callable | None = None) -> Any:
    """Densities and results of everything, as a function of all values.

    Args:
        script: the model.
        keyed: what the model gets from `numpyro.prng_key()` is made from the key, which nothing else then is.
        stage: (function, shapes of its arguments) -> what is returned, by default the function staged.
    """
    plan = script.plan

    def fn(data, outside, carry, x, z, key, ys, last):
        out: dict[str, Any] = {}

        def at_main(loop: Loop):
            out["start"] = like(loop.init, plan.carry)
            out["xs"] = script.inputs(loop)
            out["carry"], out["y"], records = script.step(loop, carry, x, lambda site, _: z[site.name])
            drawn = {n: r for n, r in records.items() if r.latent}
            seen = {n: r for n, r in records.items() if r.observed}
            out["log_transition"] = {n: r.log_density() + r.log_excess() for n, r in drawn.items()}
            out["log_prob"] = {n: r.log_prob() for n, r in records.items() if r.fn is not None}
            out["log_observation"] = {n: r.log_prob() for n, r in seen.items()}
            out["deterministic"] = {n: jnp.asarray(r.value) for n, r in records.items() if r.fn is None}
            out["observed"] = {n: r.given for n, r in seen.items()}
            out["cdf"] = {s.name: distribution_function(records[s.name]) for s in plan.inside if s.has_cdf}
            out["invalid"] = {n: r.invalid() for n, r in seen.items()}
            out["replicate"] = {
                n: r.fn.sample(jax.random.fold_in(key, i))
                for i, (n, r) in enumerate(seen.items())
                if can_be_drawn(r.fn)
            }
            return last, ys

        keys: dict[str, Any] = {"model_key": key} if keyed else {"key": key}
        records = script.run(data, lambda name, _: outside[name], at_main, **keys)
        sample = {r.name: r for r in records if r.fn is not None}
        out["outside_log_prob"] = {n: r.log_prob() for n, r in sample.items()}
        out["outside_log_density"] = {n: r.log_density() + r.log_excess() for n, r in sample.items() if r.latent}
        out["outside_log_prior"] = out["outside_log_density"] | {
            n: r.log_prior() for n, r in sample.items() if r.reweighted
        }
        out["outside_invalid"] = {n: r.invalid() for n, r in sample.items()}
        out["outside_observed"] = {n: r.given for n, r in sample.items() if r.observed}
        out["outside_replicate"] = {
            n: r.fn.sample(jax.random.fold_in(key, i))
            for i, (n, r) in enumerate(sample.items())
            if r.observed and can_be_drawn(r.fn)
        }
        out["outside_deterministic"] = {r.name: jnp.asarray(r.value) for r in records if r.fn is None}
        return out

    arguments = _all_values(script)
    return script.stage(fn, arguments, late=1, keep=True) if stage is None else stage(fn, arguments)


def start_noise(script: UserModel, parameters, initial, smooth: bool) -> Staged:
    """The start of one particle as a function of base noise."""
    plan, specs = script.plan, noise_specs(script, initial, smooth)
    rough = [name for name in initial if is_rough(_map(script.outside[name], smooth))]

    def fn(data, theta, noise):
        out: dict[str, Any] = {}
        correction, faults = [], []
        known = known_outside(script, theta)

        def outside(name, fn):
            if name not in initial:
                return known(name, fn)
            map_ = _map(script.outside[name], smooth)
            correction.append(map_.log_correction(fn, noise[name]))
            faults.append(map_.fault(fn))
            return _draw(map_, fn, noise[name])

        def at_main(loop: Loop):
            out["carry"] = like(loop.init, plan.carry)
            raise LeaveModel

        records = script.run(data, outside, at_main)
        out["values"] = {r.name: r.value for r in records if r.name in initial}
        out["log_excess"] = sum_of([*(r.log_excess() for r in records if r.name in initial), *faults])
        out["log_rough"] = sum_of(r.log_density() for r in records if r.name in rough)
        out["log_observation"] = {r.name: r.log_prob() for r in records if r.fn is not None and r.observed}
        out["correction"] = sum_of(correction)
        return out

    return script.stage(fn, (script.shapes(parameters), specs), late=1)


def step_noise(script: UserModel, parameters, initial, smooth: bool) -> Staged:
    """One step of one particle as a function of base noise."""
    plan = script.plan
    specs = noise_specs(script, script.innovations, smooth)
    rough = [name for name, site in script.innovations.items() if is_rough(_map(site, smooth))]

    def fn(data, theta, carry, x, noise):
        out: dict[str, Any] = {}
        correction, faults = [], []

        def value_of(site: TracedSite, fn):
            map_ = _map(site, smooth)
            correction.append(map_.log_correction(fn, noise[site.name]))
            faults.append(map_.fault(fn))
            return jnp.asarray(_draw(map_, fn, noise[site.name]), site.dtype)

        def at_main(loop: Loop):
            out["carry"], out["y"], records = script.step(loop, carry, x, value_of)
            seen = {n: r for n, r in records.items() if r.observed}
            out["log_weight"] = sum_of([*(r.log_excess() for r in records.values() if r.latent), *faults])
            out["log_weight"] = out["log_weight"] + sum_of(r.log_prob() for r in seen.values())
            out["log_rough"] = sum_of(records[n].log_density() for n in rough)
            out["values"] = {n: jnp.asarray(r.value) for n, r in records.items() if not r.observed}
            out["cdf"] = {s.name: distribution_function(records[s.name]) for s in plan.inside if s.has_cdf}
            out["correction"] = sum_of(correction)
            raise LeaveModel

        script.run(data, known_outside(script, theta), at_main)
        return out

    return script.stage(fn, (script.shapes(parameters), plan.carry, x_shapes(plan), specs), late=1)


def distribution_function(record: SiteMessage) -> tuple[jax.Array, jax.Array]:
    """P(Y <= y) and P(Y < y) of an observation, for probability integral transforms; NaN where it is missing."""
    # Some distribution functions have no derivative (Student's t in its degrees of freedom), and none is wanted.
    fn, value = jax.lax.stop_gradient((record.fn, record.value))
    upper = fn.cdf(value)
    lower = fn.cdf(value - 1) if fn.is_discrete else upper
    if record.present is None:
        return upper, lower
    return jnp.where(record.present, upper, jnp.nan), jnp.where(record.present, lower, jnp.nan)


def by_element(script: UserModel) -> Staged:
    """Observed values and the log-density of each of their elements: what shows where a value has which axis.

    Returns:
        A function of the arguments of `by_value`. "inside" and "outside" have by site the value, NaN where it is
        missing, and log-densities of the same shape.
    """

    def pair(record: SiteMessage) -> tuple[jax.Array, jax.Array]:
        fn: Any = record.fn
        while isinstance(fn, MaskedDistribution | Independent | ExpandedDistribution):
            fn = fn.base_dist
        log_prob = fn.log_prob(record.value)
        log_prob = jnp.expand_dims(log_prob, tuple(range(log_prob.ndim, log_prob.ndim + fn.event_dim)))
        value, log_prob = jnp.broadcast_arrays(record.given, log_prob)
        return value, log_prob

    def pairs(records: Iterable[SiteMessage]) -> dict[str, tuple[jax.Array, jax.Array]]:
        return {r.name: pair(r) for r in records if r.fn is not None and r.observed and not is_factor(r.fn)}

    def fn(data, outside, carry, x, z, key, ys, last):
        out: dict[str, Any] = {}

        def at_main(loop: Loop):
            out["inside"] = pairs(script.step(loop, carry, x, lambda site, _: z[site.name])[2].values())
            return last, ys

        out["outside"] = pairs(script.run(data, lambda name, _: outside[name], at_main, key=key))
        return out

    return script.stage(fn, _all_values(script), late=1)


def noise_specs(script: UserModel, names, smooth: bool) -> dict[str, Shape]:
    """Shapes of the base noise of some sites."""
    sites = script.outside | script.innovations
    specs = {name: _map(sites[name], smooth).spec for name in names}
    return {n: KEY if s.is_key else Shape(s.shape, jnp.result_type(float)) for n, s in specs.items()}


def prior(script: UserModel, parameters, initial) -> Staged:
    """Draw the parameters from their prior."""

    def fn(data, key):
        def outside(name, fn):
            position = list(script.outside).index(name)
            return fn.sample(jax.random.fold_in(key, position))

        records = script.run(data, outside, _pass_loop(script))
        return {"theta": {r.name: jnp.asarray(r.value) for r in records if r.name in parameters}}

    return script.stage(fn, (KEY,), late=1)


def constrain(script: UserModel, parameters, initial) -> Staged:
    """Parameters from the unconstrained space, with the density there."""
    known = {name: script.outside[name] for name in parameters}

    def fn(data, z):
        log_jacobian = []

        def outside(name, fn):
            if name not in known:
                return jnp.zeros(script.outside[name].shape, script.outside[name].dtype)
            transform = biject_to(fn.support)
            value = transform(z[name])
            log_jacobian.append(jnp.sum(transform.log_abs_det_jacobian(z[name], value)))
            return value

        records = [r for r in script.run(data, outside, _pass_loop(script)) if r.name in known]
        theta = {r.name: jnp.asarray(r.value, known[r.name].dtype) for r in records}
        law = sum_of(r.log_density() for r in records)
        prior = sum_of(r.log_prior() for r in records)
        return {
            "theta": theta,
            "log_prior": prior + sum_of(log_jacobian),
            "log_law": law + sum_of(log_jacobian),
            "log_reweighting": sum_of(r.log_reweighting() for r in records),
        }

    shapes = jax.eval_shape(lambda data, theta: _unconstrain(script, data, theta, initial), *_theta(script, parameters))
    return script.stage(fn, (shapes,), late=1)


def unconstrain(script: UserModel, parameters, initial) -> Staged:
    """Parameters taken to the unconstrained space."""

    def fn(data, theta):
        return {"z": _unconstrain(script, data, theta, initial)}

    return script.stage(fn, (script.shapes(parameters),), late=1)


def known_outside(script: UserModel, theta: dict) -> Callable:
    """Values before the loop for functions of the step, which no initial site reaches directly."""

    def outside(name, fn):
        if name in theta:
            return theta[name]
        return jnp.zeros(script.outside[name].shape, script.outside[name].dtype)

    return outside


def _all_values(script: UserModel) -> tuple:
    plan = script.plan
    latents = [site.name for site in plan.outside if site.latent]
    z = {name: Shape(site.shape, site.dtype) for name, site in script.innovations.items()}
    return script.shapes(latents), plan.carry, x_shapes(plan), z, KEY, plan.ys, plan.carry


def _pass_loop(script: UserModel) -> Callable:
    return lambda loop: (zeros(script.plan.carry), zeros(script.plan.ys))


def _theta(script: UserModel, parameters) -> tuple:
    data = script.data_shapes()
    return data, script.shapes(parameters)


def _unconstrain(script: UserModel, data, theta: dict, initial) -> dict:
    z = {}

    def outside(name, fn):
        if name in theta:
            z[name] = biject_to(fn.support).inv(theta[name])
            return theta[name]
        return jnp.zeros(script.outside[name].shape, script.outside[name].dtype)

    script.run(data, outside, _pass_loop(script))
    return z


def _map(site: TracedSite, smooth: bool):
    return site.smooth if smooth else site.particle


def _draw(map_: NoiseMap, fn: Distribution, noise: jax.Array) -> jax.Array:
    """The value of some noise, held constant where its density carries the derivative."""
    value = map_.apply(fn, noise)
    return jax.lax.stop_gradient(value) if is_rough(map_) else value
