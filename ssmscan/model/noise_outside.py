r"""`noise_outside`: the model whose latent states are functions of noise drawn before the loop.

A NumPyro model with x_t ~ p_theta(. | x_{t-1}) inside a scan becomes

    eps ~ N(0, I) of shape (T, ...)  before the loop,      x_t = T(p_theta(. | x_{t-1}), eps_t)  inside,

the non-centred parameterisation of Papaspiliopoulos, Roberts and Skold (Statistical Science 22, 2007),
found automatically.  The result is an ordinary NumPyro model: MCMC, SVI, Predictive, log_density and
BlackJAX take it.  Site `x` becomes `x_noise`, and `x` comes back as a deterministic.  The density is the
original's plus log |dx/deps|, and the law of every site is the original's.

Families without an exact map (Gamma, Beta, ...) are transported, see `transport` and `noise_sites`.  Where
their parameters change in the loop, what the N(0, I) density lacks is a factor `<site>_correction`.  A
continuous family without any map stays in the loop, centred.  A discrete one can be simulated; asking for
its density is an error that names it.  `ssmscan.NUTS` and `ssmscan.TemperedSMC` do sum finite discrete states
out (`enumeration`); a NumPyro model has no place for the sum.

A masked latent keeps the density of its noise, since an unobserved state has a law all the same; a
scaled one is scaled by a factor `<site>_scaled`.  Noise given for fewer steps than the loop has, as in a
forecast, is continued with fresh draws.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.extend.core import Literal
from numpyro import handlers
from numpyro.primitives import _PYRO_STACK, Messenger

from ssmscan.arguments import require_function, require_texts
from ssmscan.errors import ModelError
from ssmscan.model.handlers.messages import is_point, point_counts, with_sample_shape
from ssmscan.model.handlers.names import SiteNames, given_in_loop, prefix_of
from ssmscan.model.handlers.noise_sites import DiscreteInnovation, Moved, fixed, given, sample_loop_noise, sample_site
from ssmscan.model.handlers.scans import number_of_steps, returning_pairs
from ssmscan.model.handlers.stack import beyond, isolated
from ssmscan.model.handlers.tables import as_arrays
from ssmscan.model.noise.families import MapKind, NoiseMap, smooth_map
from ssmscan.model.noise.samplers import draw
from ssmscan.model.protocols import PyTree
from ssmscan.model.tracing import trace


def noise_outside(model: Callable, *, initial: Collection[str] | None = None) -> Callable:
    """Move the noise of every continuous latent state out of the time loop.

    Args:
        model: a NumPyro model with `numpyro.contrib.control_flow.scan`.
        initial: names of sites before the loop to move too; by default the initial states that
            `ssmscan.trace` finds at the first call, none for a model that it refuses.

    Returns:
        A NumPyro model of the same arguments and result, with a site `<name>_noise` for each latent
        state; a site that a handler conditions stays as it is.

    Raises:
        TypeError: if `initial` is no collection of names, or the model no function.
        ValueError: when called, if a name in `initial` is that of no site before the loop; if noise is given that
            does not fit the loop; or when the density of a discrete innovation is asked for.
    """
    require_function("model", model, "a NumPyro model (a function, not traced)")
    names = "names of sites before the loop, as in ('x0',), or None"
    found: list[tuple[str, ...]] = [] if initial is None else [require_texts("initial", initial, names)]

    @functools.wraps(model)
    def moved(*args, **kwargs):
        if not found:
            names = _initial_states(model, args, kwargs)
            if names is not None:
                found.append(names)
        around = _Outside(found[0] if found else ())
        with around:
            result = model(*args, **kwargs)
        if initial is not None:
            around.refuse_unmet()
        return result

    moved.noise_is_outside = True  # type: ignore[attr-defined]
    return moved


def _initial_states(model: Callable, args: tuple, kwargs: dict) -> tuple[str, ...] | None:
    # Numbers that are known are computed, also under somebody's jit.
    with isolated(), jax.ensure_compile_time_eval():
        try:
            return tuple(site.name for site in trace(model, *args, **kwargs).initial)
        except ModelError:
            return None


class _Outside(Messenger):
    """Stands around the model: moves the named initial states, and takes over every scan."""

    def __init__(self, initial: tuple[str, ...]):
        self.initial = initial
        self.met: list[str] = []
        self.renamed: dict[str, str] = {}
        super().__init__()

    def refuse_unmet(self) -> None:
        """Raise if a name is that of no site outside the loop, which would silently stay as it is."""
        if unmet := [name for name in self.initial if name not in self.met]:
            raise ValueError(
                f"initial: the model draws no site {', '.join(map(repr, unmet))} before its loop; the sites there are "
                f"{', '.join(map(repr, self.met)) or 'none'}. States in the loop are moved without being named."
            )

    def process_message(self, msg: dict) -> None:
        replayed = msg.get("_control_flow_done", False)
        if msg["type"] == "sample" and not replayed:
            self.met.append(msg["name"])
        if msg["type"] == "control_flow" and len(msg["args"]) == 5:
            self._take_over(msg)
        elif msg["type"] == "sample" and replayed:
            if msg["infer"].get("discrete_innovation") and not msg["is_observed"]:
                msg["fn"] = DiscreteInnovation(msg["name"], msg["fn"])
        elif msg["type"] == "deterministic" and replayed:
            msg["name"] = self.renamed.get(msg["name"], msg["name"])
        elif msg["type"] == "sample" and msg["value"] is None:
            self._initial_state(msg)

    def _initial_state(self, msg: dict) -> None:
        name, fn = msg["name"], with_sample_shape(msg)
        # The noise of a posterior shows which sites were moved when it was drawn.
        wanted = name in self.initial or given(f"{name}_noise")
        noise_map = smooth_map(fn) if wanted and not fixed(name) else None
        if noise_map is None:
            return
        prior = Moved(noise_map, fn if noise_map.kind is MapKind.TRANSPORT else None).prior()
        with beyond(self):
            value = noise_map.apply(fn, sample_site(f"{name}_noise", prior, msg["kwargs"]["rng_key"]))
            if msg["scale"] is not None:
                numpyro.factor(f"{name}_scaled", jnp.sum((msg["scale"] - 1.0) * fn.log_prob(value)))
        _make_deterministic(msg, value)

    def _take_over(self, msg: dict) -> None:
        original = msg["fn"]

        def run(f, init, xs, length, reverse, **rest):
            if rest.get("enum", False):
                return original(f, init, xs, length, reverse, **rest)
            init, xs = as_arrays((init, xs))
            f, length = returning_pairs(f), number_of_steps(xs, length)
            inner = _PYRO_STACK[_PYRO_STACK.index(self) + 1 :]
            prefix, scales = prefix_of("sample", inner), [h.scale for h in inner if isinstance(h, handlers.scale)]
            given = [(kind, in_loop) for kind, in_loop, *_ in given_in_loop(_PYRO_STACK, rest["substitute_stack"])]
            rest["substitute_stack"] = given
            outside = frozenset(name.removeprefix(prefix) for name in self.met if name.startswith(prefix))
            plan, taken = _plan(f, init, xs, given, outside)
            # What is moved is a deterministic in the loop, and has the name of a sample statement outside.
            self.renamed |= {prefix_of("deterministic", inner) + name: prefix + name for name in plan}

            def loop(noise: dict, known: dict | None = None, keys: Array | None = None):
                body = functools.partial(_step, f, plan, taken, scales, known)
                inputs = xs, noise, jnp.arange(length), keys
                last, (sites, (ys, extra)) = original(body, init, inputs, length, reverse, **rest)
                return (last, (sites, ys)), extra

            with beyond(self):
                noise = sample_loop_noise(
                    plan,
                    length,
                    rest.get("rng_key"),
                    lambda name: f"{prefix}{name}_noise",
                    lambda noise, known, keys: loop(noise, known, keys)[1],
                )
            result, factors = loop(noise)
            with beyond(self):
                for name, log_factor in factors.items():
                    numpyro.factor(f"{prefix}{name}", jnp.sum(log_factor))
            return result

        msg["fn"] = run


class _Body(Messenger):
    """Stands around the transition: clean unique names, and latent values from `value_of`.

    Args:
        value_of: (name, distribution, scale) -> value, or None to leave the site as it is.
        names: the names of the sites of this run.
    """

    def __init__(self, value_of: Callable[[str, dist.Distribution, Any], Array | None], names: SiteNames):
        self.value_of, self.name_of = value_of, names.numbering()
        super().__init__()

    def process_message(self, msg: dict) -> None:
        if msg["type"] not in ("sample", "deterministic") or msg.get("_control_flow_done", False):
            return
        msg["name"] = self.name_of(msg["name"])
        if msg["type"] == "sample" and msg["value"] is None:
            fn = with_sample_shape(msg)
            value = self.value_of(msg["name"], fn, msg["scale"])
            if value is not None:
                _make_deterministic(msg, value)
            elif fn.is_discrete:
                msg["infer"] = {**msg["infer"], "discrete_innovation": True}


def _make_deterministic(msg: dict, value: Array) -> None:
    kept = {key: msg[key] for key in ("name", "cond_indep_stack") if key in msg}
    msg.clear()
    msg.update(type="deterministic", value=value, **kept)


def _plan(
    f: Callable, init: PyTree, xs: PyTree, given: list[tuple[str, Any]], outside: frozenset[str]
) -> tuple[dict[str, Moved], frozenset[str]]:
    """Meet the sites of the loop.

    Args:
        f, init, xs: the loop.
        given: what handlers around it give to its sites, by the names that these have in it.
        outside: names of the sites before it.

    Returns:
        The latents that move, with which distributions do not change in it; and the plain names of its sites.
    """
    kinds = {"condition": handlers.condition, "substitute": handlers.substitute}
    active: list = [kinds[kind](data=data) for kind, data in given if kind in kinds and isinstance(data, dict)]
    names = SiteNames(outside)
    maps: dict[str, NoiseMap] = {}
    laws: dict[str, dist.Distribution] = {}

    def value_of(name: str, fn: dist.Distribution, scale: Any) -> Array:
        noise_map = None if fixed(name, active) else smooth_map(fn)
        if noise_map is not None:
            maps[name], laws[name] = noise_map, fn
        return draw(jax.random.key(0), fn)

    def transported(carry: PyTree, x: PyTree) -> dict[str, list]:
        with isolated(), handlers.seed(rng_seed=0), _Body(value_of, names):
            f(carry, x)
        return {name: jax.tree.leaves(laws[name]) for name in maps if maps[name].kind is MapKind.TRANSPORT}

    x = jax.tree.map(lambda a: jnp.asarray(a)[0], xs)
    closed, leaves = jax.make_jaxpr(lambda *args: transported(*args), return_shape=True)(init, x)
    if names.collide:
        names = SiteNames(outside | names.plain)
        maps.clear()
        closed, leaves = jax.make_jaxpr(transported, return_shape=True)(init, x)
    owners = [name for name in leaves for _ in leaves[name]]
    changing = {name for name, depends in zip(owners, _depends_on_inputs(closed.jaxpr)) if depends}
    constant = set(leaves) - changing
    if constant:
        # The same step in the caller's trace, where the parameters of the laws outlive it.
        transported(init, x)
    plan = {name: Moved(maps[name], laws[name] if name in constant else None) for name in maps}
    return plan, names.taken


def _depends_on_inputs(jaxpr: Any) -> list[bool]:
    """Return for each output whether an input may reach it."""
    reached = set(jaxpr.invars)

    def reads(variables: list) -> bool:
        return any(v in reached for v in variables if not isinstance(v, Literal))

    for eqn in jaxpr.eqns:
        if reads(eqn.invars):
            reached.update(eqn.outvars)
    return [reads([v]) for v in jaxpr.outvars]


def _step(
    f: Callable,
    plan: dict[str, Moved],
    taken: frozenset[str],
    scales: list,
    known: dict | None,
    carry: PyTree,
    inputs: tuple,
):
    """Run one step with the moved sites as functions of their noise.

    With `known` (site -> number of steps whose noise is known), noise whose law changes in the loop is
    drawn from the family at the other steps.

    Returns:
        carry and (output, extra): extra is the noise where it is drawn here, else the log factors.
    """
    x, noise, t, key = inputs
    extra: dict[str, Array] = {}

    def value_of(name: str, fn: dist.Distribution, scale: Any) -> Array | None:
        if name not in plan:
            return None
        (noise_map, _), eps = plan[name], noise.get(name)
        if known is not None and plan[name].changing:
            drawn = noise_map.draw(jax.random.fold_in(key, len(extra)), fn)
            eps = drawn if eps is None else jnp.where(t < known[name], eps, drawn)
            extra[name] = eps
        value = noise_map.apply(fn, eps)
        if known is None and plan[name].changing:
            extra[f"{name}_correction"] = noise_map.log_correction(fn, eps)
        factors = [*scales, *([] if scale is None else [scale])]
        if known is None and is_point(fn):
            if point_counts(fn):
                extra[f"{name}_log_density"] = jnp.sum(math.prod(factors) * fn.log_prob(value))
        elif known is None and factors:
            extra[f"{name}_scaled"] = jnp.sum((math.prod(factors) - 1.0) * fn.log_prob(value))
        return value

    with _Body(value_of, SiteNames(taken)):
        carry, y = f(carry, x)
    return carry, (y, extra)
