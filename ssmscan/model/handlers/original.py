"""The model as it was written: NumPyro's own log-probability of every site, at given values.

This is what `statespace.checking` compares with, and shares nothing with the engines but the distributions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions import biject_to

from ssmscan.model.handlers.messages import SiteMessage, unmasked
from ssmscan.model.handlers.names import SiteNames
from ssmscan.model.handlers.params import Constants
from ssmscan.model.handlers.running import run_model
from ssmscan.model.handlers.scans import InLoops
from ssmscan.model.handlers.stack import isolated


class Names(NamedTuple):
    """Names of the sites of a model by what they are to it.

    Attributes:
        parameters, initial: parameters and initial states.
        summed: discrete states that gradient engines sum out.
        masked: sites outside the loops whose draws a mask may leave out of the density.
        simulated: sites outside the loops that are drawn and not inferred.
    """

    parameters: Sequence[str]
    initial: Sequence[str]
    summed: Sequence[str]
    masked: frozenset[str]
    simulated: Sequence[str]


class Original:
    """NumPyro's log-probability of every site of the model as it was written, at given values.

    Attributes:
        counted: by site, as the model counts it; a state has its law where it is masked.
        law: by latent site, the log-density of what a draw is drawn from.
        jacobian: by parameter, given its unconstrained value, log |d theta / d z|.
    """

    def __init__(self, run: Callable[[], Any], sites: Names, values: Mapping[str, Any]):
        given, horizon = numpyro_names(run, dict(values)), list(sites.simulated)
        seeded = handlers.block(handlers.seed(run, 0), hide=horizon) if horizon else run
        model = handlers.substitute(
            Constants(InLoops(seeded)), data={given[name]: value for name, value in values.items()}
        )
        names = {numpyros: name for name, numpyros in given.items()}
        self.sites, flat = sites, sites.masked & set(sites.parameters)
        self.counted: dict[str, float] = {}
        self.law: dict[str, float] = {}
        self.jacobian: dict[str, Callable] = {}
        for numpyros, site in handlers.trace(model).get_trace().items():
            if site["type"] != "sample":
                continue
            name, fn, value = names.get(numpyros, numpyros), site["fn"], site["value"]
            log_prob = fn.log_prob(value)
            excess = 0.0 if site["scale"] is None else float(jnp.sum((site["scale"] - 1.0) * log_prob))
            if name in values:
                self.law[name] = float(jnp.sum(unmasked(fn).log_prob(value)))
                self.jacobian[name] = lambda z, fn=fn, value=value: _log_jacobian(fn, z, value)
            from_law = name in values and name not in flat
            self.counted[name] = (self.law[name] if from_law else float(jnp.sum(log_prob))) + excess

    @property
    def total(self) -> float:
        """Log-density of the model."""
        return sum(self.counted.values(), start=0.0)

    @property
    def size(self) -> float:
        """Sum of the sizes of all terms."""
        return sum(abs(value) for value in (*self.counted.values(), *self.law.values()))

    def factors(self, z: Mapping[str, Any] | None) -> dict[str, float]:
        """Compute what the factors must be."""
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


def _log_jacobian(fn: Any, z: Any, value: Any) -> float:
    return float(jnp.sum(biject_to(fn.support).log_abs_det_jacobian(z, value)))


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
            run, lambda name, fn: values.get(name, fn.sample(jax.random.key(0))), at_loop, names=names
        )[0]
        return len(messages)

    with isolated():
        jax.eval_shape(trace)
    renamed = {}
    for loop in loops:
        name_of = SiteNames(frozenset(names.plain)).numbering()
        renamed.update({name_of(name): name for name in loop})
    return {name: renamed.get(name, name) for name in values}
