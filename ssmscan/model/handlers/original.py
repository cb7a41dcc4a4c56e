"""The model as it was written: NumPyro's own log-probability of every site, at given values or in a forward run.

This is what `statespace.checking`, `site_check` and `forward_runs` compare with, and shares nothing with the engines
but the distributions.  All of it works under jit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer import init_to_uniform

from ssmscan.model.handlers.messages import SiteMessage, clean_name, unmasked
from ssmscan.model.handlers.moving import RowAxis, start_name
from ssmscan.model.handlers.names import SiteNames
from ssmscan.model.handlers.params import Constants
from ssmscan.model.handlers.running import run_model
from ssmscan.model.handlers.scans import InLoops
from ssmscan.model.handlers.stack import isolated
from ssmscan.model.noise.samplers import draw


class NoDensity(Exception):
    """NumPyro cannot run the model over its data or evaluate a site, so that there is no density to compare with."""


class Names(NamedTuple):
    """Names of the sites of a model by what they are to it.

    Attributes:
        parameters, initial: parameters and initial states.
        summed: discrete states that gradient engines sum out.
        masked: sites outside the loops whose draws a mask may leave out of the density.
        simulated: sites outside the loops that are drawn and not inferred.
        latent: sites that are drawn: parameters, initial states and latent sites of the loops.
        rows: latent sites of the loops whose rows the user draws before them; the row before the first step is a site
            of its own to engines and a part of the user's.
    """

    parameters: Sequence[str]
    initial: Sequence[str]
    summed: Sequence[str]
    masked: frozenset[str]
    simulated: Sequence[str]
    latent: frozenset[str]
    rows: Mapping[str, RowAxis] = {}


class Original:
    """NumPyro's log-probability of every site of the model as it was written.

    Attributes:
        values: by latent site of the engines, its value.
        counted: by site, as the model counts it; a state has its law where it is masked.
        law: by latent site, the log-density of what a draw is drawn from.
        sizes: by site, the sum of the sizes of its terms.
        jacobian: by parameter, given its unconstrained value, log |d theta / d z|.
    """

    def __init__(self, sites: Names, names: Mapping[str, str], trace: Mapping[str, dict]):
        """Read a trace of NumPyro; `names` are those of this package by those of NumPyro, where they differ."""
        self.sites, flat = sites, sites.masked & set(sites.parameters)
        self.values: dict[str, Any] = {}
        self.counted: dict[str, Any] = {}
        self.law: dict[str, Any] = {}
        self.sizes: dict[str, Any] = {}
        self.jacobian: dict[str, Callable] = {}
        for numpyros, site in trace.items():
            if site["type"] != "sample":
                continue
            name, fn, value = names.get(numpyros, numpyros), site["fn"], site["value"]
            try:
                log_prob = fn.log_prob(value)
            except Exception as error:
                # Distributions leave NumPyro's loop as pytrees, which not all survive.
                raise NoDensity(f"site '{name}', {type(error).__name__}: {error}") from error
            excess = 0.0 if site["scale"] is None else jnp.sum((site["scale"] - 1.0) * log_prob)
            if name in sites.latent:
                self.values |= _apart(sites, name, value)
                self.law[name] = jnp.sum(unmasked(fn).log_prob(value))
                self.jacobian[name] = lambda z, fn=fn, value=value: _log_jacobian(fn, z, value)
            from_law = name in sites.latent and name not in flat
            self.counted[name] = (self.law[name] if from_law else jnp.sum(log_prob)) + excess
            self.sizes[name] = jnp.sum(jnp.abs(log_prob)) + jnp.abs(excess)

    @property
    def total(self) -> Any:
        """Log-density of the model."""
        return sum(self.counted.values(), start=jnp.zeros(()))

    @property
    def size(self) -> Any:
        """Sum of the sizes of all sites."""
        return sum((abs(value) for value in (*self.counted.values(), *self.law.values())), start=jnp.zeros(()))

    def factors(self, z: Mapping[str, Any] | None) -> dict[str, Any]:
        """Compute what the factors must be, see `statespace.checking`."""
        prior, law = (sum(of[n] for n in self.sites.parameters) for of in (self.counted, self.law))
        jacobian = 0.0 if z is None else sum(self.jacobian[n](z[n]) for n in self.sites.parameters)
        likelihood = self.total - prior
        # The weight of the start has what a scale adds to its law, which its density has too.
        twice = sum(self.counted[n] - self.law[n] for n in self.sites.initial)
        weights = likelihood - (sum(self.law.values()) - law)
        summed = sum(self.law[n] for n in self.sites.summed)
        return {
            "prior": prior,
            "transformed": prior + jacobian,
            "law": law + jacobian,
            "reweighted": prior + jacobian,
            "values": likelihood + twice,
            "weights": weights,
            "elements": weights,
            "noise": weights + summed,
        }


def at_values(run: Callable[[], Any], sites: Names, values: Mapping[str, Any]) -> Original:
    """Evaluate the model as it was written at values of the latent sites of the engines."""
    drawn = {**values}
    for name, place in sites.rows.items():
        drawn[name] = place.whole(drawn[name], drawn.pop(start_name(name), None))
    given = numpyro_names(run, drawn)
    model = handlers.substitute(_seeded(run, sites, jax.random.key(0)), data={given[n]: v for n, v in drawn.items()})
    with isolated():
        trace = handlers.trace(model).get_trace()
    return Original(sites, {numpyros: name for name, numpyros in given.items()}, trace)


def forward(
    key: jax.Array, run: Callable[[], Any], sites: Names, theta: Mapping[str, Any], *, simple: bool = False
) -> Original:
    """Run the model as it was written, its latent sites drawn by NumPyro but for those that are given.

    Args:
        key: PRNG key.
        run: runs the model.
        sites: its sites.
        theta: the sites that are given.
        simple: draw continuous sites uniformly in their unconstrained space, which compiles much faster.

    Raises:
        NoDensity: it fails on its data, as NaN may make it.
    """
    model = handlers.substitute(_seeded(run, sites, key), data=dict(theta))
    if simple:
        model = handlers.substitute(model, substitute_fn=init_to_uniform(radius=1.0))
    with isolated():
        try:
            trace = handlers.trace(model).get_trace()
        except Exception as error:
            raise NoDensity(str(error)) from error
    name_of = SiteNames(frozenset(name for name in trace if clean_name(name) == name)).numbering()
    return Original(sites, {numpyros: name_of(numpyros) for numpyros in trace}, trace)


def _apart(sites: Names, name: str, value: Any) -> dict[str, Any]:
    """Return the value of a site as the sites of the engines have it."""
    if name not in sites.rows:
        return {name: value}
    rows, before = sites.rows[name].apart(value)
    return {name: rows} if before is None else {name: rows, start_name(name): before}


def _seeded(run: Callable[[], Any], sites: Names, key: jax.Array) -> Callable[[], Any]:
    seeded, horizon = handlers.seed(run, key), list(sites.simulated)
    return Constants(InLoops(handlers.block(seeded, hide=horizon) if horizon else seeded))


def _log_jacobian(fn: Any, z: Any, value: Any) -> jax.Array:
    return jnp.sum(biject_to(fn.support).log_abs_det_jacobian(z, value))


def numpyro_names(run: Callable, values: dict) -> dict[str, str]:
    """Return, by site, the name NumPyro gives it, which in the loop may hold a traced index."""
    loops: list[list[str]] = []
    names = SiteNames()

    def at_loop(_, loop):
        result = loop.default()
        sites = result[1][0].trace.items()
        kinds = ("sample", "deterministic")
        loops.append([loop.prefixes[site["type"]] + name for name, site in sites if site["type"] in kinds])
        return result

    def trace():
        messages: list[SiteMessage] = run_model(
            run, lambda name, fn: values[name] if name in values else draw(jax.random.key(0), fn), at_loop, names=names
        )[0]
        return len(messages)

    with isolated():
        jax.eval_shape(trace)
    renamed = {}
    for loop in loops:
        name_of = SiteNames(frozenset(names.plain)).numbering()
        renamed.update({name_of(name): name for name in loop})
    return {name: renamed.get(name, name) for name in values}
