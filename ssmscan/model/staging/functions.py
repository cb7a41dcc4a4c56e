"""Stage a model: the same user function, run abstractly once for each way the engines need it.

Each function here runs the model under the handlers of `running` with another rule for the
values of its sites, and returns a dict of everything worth keeping; `dataflow.stage` turns it into
a jaxpr of data and named arguments.  With theta the parameters, s the initial-state sites, c the carry,
x = (t, user input), v the innovations, e their base noise:

    by_value     outside (theta and s), carry, x, values (v), key, ys, last   densities of all sites, and a step
    start_noise  theta, noise (e)             carry, weight and values of the start
    step_noise   theta, carry, x, noise       carry, weight and values of one step
    prior        key                          a draw of theta, or a point of its support where there is no sampler
    constrain    z, unconstrained theta       theta, log prior and law of its draws, both plus log-Jacobian
    unconstrain  theta                        z

Forward simulation is in `forward_draws`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, ExpandedDistribution, Independent, MaskedDistribution, biject_to

from ssmscan.model.handlers.messages import SiteMessage, can_be_drawn, is_factor, unmasked
from ssmscan.model.handlers.running import LeaveModel
from ssmscan.model.handlers.scans import Loop
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape, like, sum_of, zeros
from ssmscan.model.noise.families import NoiseMap
from ssmscan.model.noise.in_place import InPlace
from ssmscan.model.noise.moments import SiteMap
from ssmscan.model.noise.samplers import draw
from ssmscan.model.noise.score import is_rough
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.user_model import KEY, UserModel, x_shapes


def by_value(user_model: UserModel, *, keyed: bool = False, stage: Callable | None = None) -> Any:
    """Stage the densities and results of everything, as a function of all values.

    Args:
        user_model: the model.
        keyed: what the model gets from `numpyro.prng_key()` is made from the key, which nothing else then is.
        stage: (function, shapes of its arguments) -> what is returned, by default the function staged.
    """
    plan = user_model.plan

    def fn(data, outside, carry, x, values, key, ys, last):
        out: dict[str, Any] = {}

        def at_main(loop: Loop):
            out["start"] = like(loop.init, plan.carry)
            out["xs"] = user_model.inputs(loop)
            out["carry"], out["y"], messages = user_model.step(loop, carry, x, lambda site, _: values[site.name])
            latent = {n: m for n, m in messages.items() if m.latent}
            observed = {n: m for n, m in messages.items() if m.observed}
            out["log_transition"] = {n: m.log_density() + m.log_excess() for n, m in latent.items()}
            out["log_excess"] = {n: m.log_excess() for n, m in latent.items() if m.scale is not None}
            out["noise"] = noise_of(latent.values(), user_model.innovations)
            out["log_prob"] = {n: m.log_prob() for n, m in messages.items() if m.fn is not None}
            out["log_observation"] = {n: m.log_prob() for n, m in observed.items()}
            out["deterministic"] = {n: jnp.asarray(m.value) for n, m in messages.items() if m.fn is None}
            out["observed"] = {n: m.given for n, m in observed.items()}
            out["cdf"] = {s.name: distribution_function(messages[s.name]) for s in plan.inside if s.has_cdf}
            out["invalid"] = {n: m.invalid() for n, m in observed.items()}
            out["replicate"] = {
                n: m.fn.sample(jax.random.fold_in(key, i))
                for i, (n, m) in enumerate(observed.items())
                if can_be_drawn(m.fn)
            }
            return last, ys

        keys: dict[str, Any] = {"model_key": key} if keyed else {"key": key}
        messages = user_model.run(data, lambda name, _: outside[name], at_main, **keys)
        sample = {m.name: m for m in messages if m.fn is not None}
        out["outside_log_prob"] = {n: m.log_prob() for n, m in sample.items()}
        out["outside_log_density"] = {n: m.log_density() + m.log_excess() for n, m in sample.items() if m.latent}
        unknown = [m for m in sample.values() if m.latent]
        out["outside_log_excess"] = {m.name: m.log_excess() for m in unknown if m.scale is not None}
        out["outside_noise"] = noise_of(unknown, user_model.outside)
        out["outside_log_prior"] = out["outside_log_density"] | {
            n: m.log_prior() for n, m in sample.items() if m.reweighted
        }
        out["outside_invalid"] = {n: m.invalid() for n, m in sample.items()}
        out["outside_observed"] = {n: m.given for n, m in sample.items() if m.observed}
        out["outside_replicate"] = {
            n: m.fn.sample(jax.random.fold_in(key, i))
            for i, (n, m) in enumerate(sample.items())
            if m.observed and can_be_drawn(m.fn)
        }
        out["outside_deterministic"] = {m.name: jnp.asarray(m.value) for m in messages if m.fn is None}
        return out

    arguments = _all_values(user_model)
    return user_model.stage(fn, arguments, keep=True) if stage is None else stage(fn, arguments)


def noise_of(messages: Iterable[SiteMessage], sites: Mapping[str, TracedSite]) -> dict[str, jax.Array]:
    """Return the noise of the values of latent sites, of those with a smooth map that has an inverse."""
    found = {}
    for message in messages:
        map_ = sites[message.name].smooth
        if isinstance(map_, NoiseMap) and (noise := map_.invert(unmasked(message.fn), message.value)) is not None:
            found[message.name] = noise
    return found


def start_noise(user_model: UserModel, parameters: Collection[str], maps: Mapping[str, SiteMap]) -> Staged:
    """Stage the start of one particle as a function of base noise; `maps` of the initial-state sites."""
    plan = user_model.plan
    rough = [name for name, map_ in maps.items() if is_rough(map_)]

    def fn(data, theta, noise):
        out: dict[str, Any] = {}
        corrections, faults = Corrections(), []
        known = known_outside(user_model, theta)

        def outside(name, fn):
            if name not in maps:
                return known(name, fn)
            corrections.add(maps[name], fn, noise[name])
            faults.append(maps[name].fault(fn))
            return _draw(maps[name], fn, noise[name])

        def at_main(loop: Loop):
            out["carry"] = like(loop.init, plan.carry)
            raise LeaveModel

        messages = user_model.run(data, outside, at_main)
        out["values"] = {m.name: m.value for m in messages if m.name in maps}
        out["log_excess"] = sum_of([*(m.log_excess() for m in messages if m.name in maps), *faults])
        out["log_rough"] = sum_of(m.log_density() for m in messages if m.name in rough)
        out["log_observation"] = {m.name: m.log_prob() for m in messages if m.fn is not None and m.observed}
        out["correction"], out["law"] = sum_of(corrections.mended), sum_of(corrections.law)
        return out

    return user_model.stage(fn, {"theta": user_model.shapes(parameters), "noise": noise_shapes(maps)})


def step_noise(user_model: UserModel, parameters: Collection[str], maps: Mapping[str, SiteMap]) -> Staged:
    """Stage one step of one particle as a function of base noise; `maps` of the innovations."""
    plan = user_model.plan
    rough = [name for name, map_ in maps.items() if is_rough(map_)]

    def fn(data, theta, carry, x, noise):
        out: dict[str, Any] = {}
        corrections, faults = Corrections(), []

        def value_of(site: TracedSite, fn):
            map_, own = maps[site.name], noise[site.name]
            corrections.add(map_, fn, own)
            faults.append(map_.fault(fn))
            return jnp.asarray(_draw(map_, fn, own), site.dtype)

        def at_main(loop: Loop):
            out["carry"], out["y"], messages = user_model.step(loop, carry, x, value_of)
            observed = {n: m for n, m in messages.items() if m.observed}
            out["log_weight"] = sum_of([*(m.log_excess() for m in messages.values() if m.latent), *faults])
            out["log_weight"] = out["log_weight"] + sum_of(m.log_prob() for m in observed.values())
            out["log_rough"] = sum_of(messages[n].log_density() for n in rough)
            out["values"] = {n: jnp.asarray(m.value) for n, m in messages.items() if not m.observed}
            out["cdf"] = {s.name: distribution_function(messages[s.name]) for s in plan.inside if s.has_cdf}
            out["correction"], out["law"] = sum_of(corrections.mended), sum_of(corrections.law)
            raise LeaveModel

        user_model.run(data, known_outside(user_model, theta), at_main)
        return out

    arguments = {"theta": user_model.shapes(parameters), "carry": plan.carry, "x": x_shapes(plan)}
    return user_model.stage(fn, {**arguments, "noise": noise_shapes(maps)})


def distribution_function(message: SiteMessage) -> tuple[jax.Array, jax.Array]:
    """Compute P(Y <= y) and P(Y < y) of an observation, for the integral transform; NaN where it is missing."""
    # Some distribution functions have no derivative (Student's t in its degrees of freedom), and none is wanted.
    fn, value = jax.lax.stop_gradient((message.fn, message.value))
    upper = fn.cdf(value)
    lower = fn.cdf(value - 1) if fn.is_discrete else upper
    if message.present is None:
        return upper, lower
    return jnp.where(message.present, upper, jnp.nan), jnp.where(message.present, lower, jnp.nan)


def by_element(user_model: UserModel) -> Staged:
    """Observed values and the log-density of each of their elements: what shows where a value has which axis.

    Returns:
        A function of the arguments of `by_value`. "inside" and "outside" have by site the value, NaN where it is
        missing, and log-densities of the same shape.
    """

    def pair(message: SiteMessage) -> tuple[jax.Array, jax.Array]:
        fn: Any = message.fn
        while isinstance(fn, MaskedDistribution | Independent | ExpandedDistribution):
            fn = fn.base_dist
        log_prob = fn.log_prob(message.value)
        log_prob = jnp.expand_dims(log_prob, tuple(range(log_prob.ndim, log_prob.ndim + fn.event_dim)))
        value, log_prob = jnp.broadcast_arrays(message.given, log_prob)
        return value, log_prob

    def pairs(messages: Iterable[SiteMessage]) -> dict[str, tuple[jax.Array, jax.Array]]:
        return {m.name: pair(m) for m in messages if m.fn is not None and m.observed and not is_factor(m.fn)}

    def fn(data, outside, carry, x, values, key, ys, last):
        out: dict[str, Any] = {}

        def at_main(loop: Loop):
            out["inside"] = pairs(user_model.step(loop, carry, x, lambda site, _: values[site.name])[2].values())
            return last, ys

        out["outside"] = pairs(user_model.run(data, lambda name, _: outside[name], at_main, key=key))
        return out

    return user_model.stage(fn, _all_values(user_model))


def smooth_noise(user_model: UserModel, names: Collection[str]) -> dict[str, Shape]:
    """Return the shapes of what gradient engines move of some sites, all of which have it."""
    sites = user_model.outside | user_model.innovations
    return noise_shapes({name: map_ for name in names if (map_ := sites[name].smooth) is not None})


def noise_shapes(maps: Mapping[str, SiteMap]) -> dict[str, Shape]:
    """Return the shapes of the base noise of some sites."""
    specs = {name: map_.spec for name, map_ in maps.items()}
    return {n: KEY if s.is_key else Shape(s.shape, jnp.result_type(float)) for n, s in specs.items()}


def prior(user_model: UserModel, parameters: Collection[str]) -> Staged:
    """Stage a draw of the parameters from their prior."""

    def fn(data, key):
        def outside(name, fn):
            position = list(user_model.outside).index(name)
            return draw(jax.random.fold_in(key, position), fn)

        messages = user_model.run(data, outside, _pass_loop(user_model))
        return {"theta": {m.name: jnp.asarray(m.value) for m in messages if m.name in parameters}}

    return user_model.stage(fn, {"key": KEY})


def constrain(user_model: UserModel, parameters: Collection[str]) -> Staged:
    """Stage the parameters as a function of unconstrained values, with the density there."""
    known = {name: user_model.outside[name] for name in parameters}

    def fn(data, z):
        log_jacobian = []

        def outside(name, fn):
            if name not in known:
                return jnp.zeros(user_model.outside[name].shape, user_model.outside[name].dtype)
            transform = biject_to(fn.support)
            value = transform(z[name])
            log_jacobian.append(jnp.sum(transform.log_abs_det_jacobian(z[name], value)))
            return value

        messages = [m for m in user_model.run(data, outside, _pass_loop(user_model)) if m.name in known]
        theta = {m.name: jnp.asarray(m.value, known[m.name].dtype) for m in messages}
        law = sum_of(m.log_density() for m in messages)
        prior = sum_of(m.log_prior() for m in messages)
        return {
            "theta": theta,
            "log_prior": prior + sum_of(log_jacobian),
            "log_law": law + sum_of(log_jacobian),
            "log_reweighting": sum_of(m.log_reweighting() for m in messages),
        }

    theta = user_model.shapes(parameters)
    shapes = jax.eval_shape(partial(_unconstrain, user_model), user_model.data_shapes(), theta)
    return user_model.stage(fn, {"z": shapes})


def unconstrain(user_model: UserModel, parameters: Collection[str]) -> Staged:
    """Stage the unconstrained values of parameters."""

    def fn(data, theta):
        return {"z": _unconstrain(user_model, data, theta)}

    return user_model.stage(fn, {"theta": user_model.shapes(parameters)})


def known_outside(user_model: UserModel, theta: dict) -> Callable:
    """Return the values before the loop for functions of the step, which no initial site reaches directly."""

    def outside(name, fn):
        if name in theta:
            return theta[name]
        return jnp.zeros(user_model.outside[name].shape, user_model.outside[name].dtype)

    return outside


def _all_values(user_model: UserModel) -> dict[str, Any]:
    """Return the shapes of the arguments of `by_value`."""
    plan = user_model.plan
    latents = [site.name for site in plan.outside if site.latent]
    values = {name: Shape(site.shape, site.dtype) for name, site in user_model.innovations.items()}
    outside = {"outside": user_model.shapes(latents)}
    step = {"carry": plan.carry, "x": x_shapes(plan), "values": values}
    return {**outside, **step, "key": KEY, "ys": plan.ys, "last": plan.carry}


def _pass_loop(user_model: UserModel) -> Callable:
    return lambda loop: (zeros(user_model.plan.carry), zeros(user_model.plan.ys))


def _unconstrain(user_model: UserModel, data: list, theta: dict) -> dict:
    z = {}

    def outside(name, fn):
        if name in theta:
            z[name] = biject_to(fn.support).inv(theta[name])
            return theta[name]
        return jnp.zeros(user_model.outside[name].shape, user_model.outside[name].dtype)

    user_model.run(data, outside, _pass_loop(user_model))
    return z


class Corrections:
    """Densities of states beside N(0, I) of their noise.

    Attributes:
        mended: of transports, what N(0, I) lacks.
        law: of states that are sampled in place, the whole, see `ssmscan.model.noise.in_place`.
    """

    def __init__(self):
        self.mended: list[jax.Array] = []
        self.law: list[jax.Array] = []

    def add(self, map_: SiteMap, fn: Distribution, noise: jax.Array) -> None:
        """Add that of one state."""
        if isinstance(map_, InPlace):
            self.law.append(map_.log_density(unmasked(fn), noise))
        else:
            self.mended.append(map_.log_correction(fn, noise))


def _draw(map_: SiteMap, fn: Distribution, noise: jax.Array) -> jax.Array:
    """Compute the value of some noise, held constant where its density carries the derivative."""
    value = map_.apply(fn, noise)
    return jax.lax.stop_gradient(value) if is_rough(map_) else value
