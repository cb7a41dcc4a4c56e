r"""Guided filters: a cloud that moves by the user's own distributions.

    def propose(theta, carry, y):                       # one particle, one step
        precision = 1 / theta["sx"] ** 2 + 1 / theta["sy"] ** 2
        mean = (theta["rho"] * carry / theta["sx"] ** 2 + y["y"] / theta["sy"] ** 2) / precision
        return dist.Normal(mean, precision**-0.5)       # or {"x": dist.Normal(...), ...}

    ParticleFilter(1000, proposal=Guided(propose))

Innovations v are drawn from q(v | c, y), which `propose` returns, and weighed from the densities that tracing found,

.. math::  \log p(v | c) + \log p(y | v, c) - \log q(v | c, y)

(Doucet, Godsill & Andrieu 2000; Chopin & Papaspiliopoulos 2020, section 10.3), so that the estimate of the likelihood
is unbiased whatever q is, as long as it can draw all that the model can.  The best q is p(v | c, y): the weight is
then p(y | c), the same for all draws.  Use it where observations are precise, or now and then far out, and such a q,
or a heavier-tailed one near it, can be written down.

Gradients: where the draw is a smooth map of base noise (`ssmscan.model.noise`) v moves with theta.  Where it is not, v
is held fixed and q's score is in the weight, whose derivative is then that of log p(v | c) + log p(y | v, c) alone: the
score takes away that of - log q.

A user's function sees one particle.  `theta` are all parameters by site, `carry` is the model's own,
`y` what is observed at the step, by site, NaN where it is missing: decide what to draw there, for example with
`jnp.where(jnp.isnan(y), 0.0, y)`.  In a panel it is one element, whose axis `carry`, `y` and the distribution keep at
size one, so that code that works for all elements works for one; theta stays whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.arguments import refusal, require_function
from ssmscan.model.noise.families import NoiseMap, particle_map
from ssmscan.model.noise.score import is_rough
from ssmscan.model.protocols import Dynamics, Values
from ssmscan.model.sites import Site
from ssmscan.particles.draws import START_STREAM, draw_noise
from ssmscan.particles.loop import keep_for_gradient
from ssmscan.particles.proposals import Bootstrap, Move, entry, with_particle
from ssmscan.particles.proposed_laws import Laws, checked_laws

Propose = Callable[[dict[str, Array], Any, dict[str, Array]], Any]
Initial = Callable[[dict[str, Array], dict[str, Array]], Any]


@dataclass(frozen=True)
class Guided:
    """Draw innovations from the user's distributions; weigh them by the model's densities.

    A pytree: a function that is one (`jax.tree_util.Partial(f, arrays)`) has its arrays as leaves, which are arguments
    of the compiled program and not constants of it.

    Attributes:
        propose: (theta, carry, y) -> a NumPyro distribution for each innovation of one particle, by site; the
            distribution alone where there is one site.
        initial: (theta, y) -> the same for the initial-state sites, with y of the first step; None draws them from
            the model.  What is observed of the start is weighed, but not in y.

    Raises:
        TypeError: one is not a function of these arguments.
    """

    propose: Propose
    initial: Initial | None = None

    def __post_init__(self) -> None:
        _require_arguments("propose", self.propose, ("theta", "carry", "y"))
        if self.initial is not None:
            _require_arguments("initial", self.initial, ("theta", "y"))

    def begin(self, key: Array, dynamics: Dynamics, n: int) -> Move:
        """Draw the initial sites."""
        if self.initial is None or not dynamics.initial:
            return Bootstrap().begin(key, dynamics, n)
        y = dynamics.observed(jax.tree.map(lambda leaf: leaf[0], dynamics.xs))
        laws_of = partial(_laws, "initial", dynamics.initial, partial(self.initial, dynamics.theta, y))
        maps = _maps(laws_of)
        noise = draw_noise(key, {name: found.spec for name, found in maps.items()}, n, first_stream=START_STREAM)

        def draw(noise: dict[str, Array]) -> Move:
            values, log_q = _draw(laws_of(), maps, noise, dynamics.initial)
            start = dynamics.evaluate_start(values)
            return _weighed(start.carry, start.log_initial, start.log_observation, log_q, values, {})

        return jax.vmap(draw, axis_size=n)(noise)

    def log_auxiliary(self, dynamics: Dynamics, carry: Any, x: Any, n: int) -> None:
        """Return None: ancestors are drawn with the weights themselves."""

    def propagate(self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int) -> Move:
        """Move n particles."""
        y = dynamics.observed(x)

        def laws_of(carry: Any) -> Laws:
            return _laws("propose", dynamics.innovations, partial(self.propose, dynamics.theta, carry, y))

        maps = _maps(lambda: laws_of(jax.tree.map(lambda leaf: leaf[0], carry)))
        noise = keep_for_gradient(draw_noise(key, {name: found.spec for name, found in maps.items()}, n))

        def move(carry: Any, noise: dict[str, Array]) -> Move:
            values, log_q = _draw(laws_of(carry), maps, noise, dynamics.innovations)
            step = dynamics.evaluate(carry, x, values)
            values = {**values, **step.deterministics}
            return _weighed(step.carry, step.log_transition, step.log_observation, log_q, values, step.cdf)

        return jax.vmap(move, axis_size=n)(carry, noise)

    def begin_given(self, key: Array, dynamics: Dynamics, n: int, values: Values, slot: Array) -> Move:
        """Draw the initial sites, but for one particle."""
        if self.initial is None or not dynamics.initial:
            return Bootstrap().begin_given(key, dynamics, n, values, slot)
        y = dynamics.observed(jax.tree.map(lambda leaf: leaf[0], dynamics.xs))
        laws = _laws("initial", dynamics.initial, partial(self.initial, dynamics.theta, y))
        start = dynamics.evaluate_start(values)
        found = _weighed(start.carry, start.log_initial, start.log_observation, _log_q(laws, values), values, {})
        return with_particle(self.begin(key, dynamics, n), slot, found.carry, found.log_weight, values)

    def propagate_given(
        self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int, values: Values, slot: Array
    ) -> Move:
        """Move n particles, but for one."""
        own, y = entry(carry, slot), dynamics.observed(x)
        laws = _laws("propose", dynamics.innovations, partial(self.propose, dynamics.theta, own, y))
        step = dynamics.evaluate(own, x, values)
        found = _weighed(step.carry, step.log_transition, step.log_observation, _log_q(laws, values), values, {})
        values = {**values, **step.deterministics}
        return with_particle(self.propagate(key, dynamics, carry, x, n), slot, found.carry, found.log_weight, values)


def _log_q(laws: Laws, values: Values) -> Array:
    return sum((jnp.sum(law.log_prob(values[name])) for name, law in laws.items()), jnp.zeros(()))


def _flatten(guided: Guided) -> tuple[tuple, tuple]:
    functions = (guided.propose, guided.initial)
    plain = tuple(f if jax.tree_util.all_leaves([f]) else None for f in functions)
    return tuple(f if p is None else None for f, p in zip(functions, plain)), plain


def _unflatten(plain: tuple, children: tuple) -> Guided:
    guided = object.__new__(Guided)  # not checked again: JAX puts other things than functions in their places
    for name, p, child in zip(("propose", "initial"), plain, children):
        object.__setattr__(guided, name, child if p is None else p)
    return guided


jax.tree_util.register_pytree_node(Guided, _flatten, _unflatten)


def _require_arguments(argument: str, value: Any, names: Sequence[str]) -> None:
    expected = f"a function ({', '.join(names)}) -> NumPyro distributions by site"
    require_function(argument, value, expected)
    try:
        inspect.signature(value).bind(*names)
    except TypeError as error:
        raise TypeError(refusal(argument, expected, value, f"{error}.".capitalize())) from None
    except ValueError:  # some functions of C have no signature
        return


def _laws(argument: str, sites: Sequence[Site], propose: Callable[[], Any]) -> Laws:
    """Call the user's function, and check what it returns."""
    return checked_laws(argument, propose(), sites)


def _maps(laws_of: Callable[[], Laws]) -> dict[str, NoiseMap]:
    """Find how each site is drawn from noise, which depends on the families alone."""
    maps: dict[str, NoiseMap] = {}

    def look() -> None:
        maps.update({name: particle_map(law) for name, law in laws_of().items()})

    jax.eval_shape(look)
    return maps


def _draw(
    laws: Laws, maps: Mapping[str, NoiseMap], noise: dict[str, Array], sites: Sequence[Site]
) -> tuple[dict[str, Array], Array]:
    """Map noise to values; and log q of all sites, a scalar, without a derivative where the map has none."""
    values, log_q = {}, jnp.zeros(())
    for site in sites:
        law, found = laws[site.name], maps[site.name]
        value = found.apply(law, noise[site.name])
        density = jnp.sum(law.log_prob(value)) + found.fault(law)
        if is_rough(found):
            value, density = lax.stop_gradient((value, density))
        values[site.name], log_q = jnp.asarray(value, site.dtype), log_q + density
    return values, log_q


def _weighed(
    carry: Any, log_p: Array, log_observation: Array, log_q: Array, values: dict[str, Array], cdf: dict
) -> Move:
    """Weigh one particle; what the model cannot draw has weight zero, whatever its observations are.

    A law whose own draw has no density, such as one whose parameters are NaN, is a fault.
    """
    impossible = log_p == -jnp.inf
    log_q = jnp.where(log_q > -jnp.inf, log_q, jnp.nan)
    log_prediction = jnp.where(impossible, -jnp.inf, log_p) - log_q
    log_weight = jnp.where(impossible, 0.0, log_observation) + log_prediction
    return Move(carry, log_weight, log_prediction, values, cdf)
