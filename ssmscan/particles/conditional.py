r"""`ConditionalSMC`: a new state path from an old one, exact for any number of particles.

    smc = ConditionalSMC(20)
    path = smc.run(key, ssm, theta, path).states          # again and again: draws of p(states | y, theta)

The step is in `ssmscan.particles.conditional_step`.  With ancestor or backward sampling 20 particles update all of a
long series; without, the early states of a path hardly move.  Where carries remember more than their innovations
(levels that accumulate what is drawn) there is nothing to reconnect, and a proposal that looks ahead does what more
particles would.  Prefer `Smoother` for paths at one theta, and this inside samplers of theta, `ssmscan.ParticleGibbs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.arguments import refusal, require_integer, require_names, require_numbers
from ssmscan.model.keys import loop_keys
from ssmscan.model.protocols import Dynamics, Model, Panel, Theta, Values
from ssmscan.model.statespace.element_dynamics import join_values
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.particles import settings_checks
from ssmscan.particles.compiled import compiled
from ssmscan.particles.conditional_step import Backward, Reference, Updated, update_path
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter_run import prepared
from ssmscan.particles.filter_step import NOWHERE
from ssmscan.particles.panels import each_filter, split
from ssmscan.particles.printing import known
from ssmscan.particles.proposals import Bootstrap, ConditionalProposal, SeriesProposal, uses_later_data
from ssmscan.particles.resampling import ConditionalResampling, systematic


@dataclass(frozen=True)
class Ancestral:
    """A new path is the ancestral line of a particle: it shares its early states with the reference."""

    forward = False
    back = False


@dataclass(frozen=True)
class AncestorSampling:
    """The reference gets a new parent at every step, at the cost of one evaluation of the step for each particle."""

    forward = True
    back = False


@dataclass(frozen=True)
class BackwardSampling:
    """A new path is drawn backward through all clouds, whose carries are kept: O(T N) memory."""

    forward = False
    back = True


class ConditionalPath(NamedTuple):
    """A path after one update.

    Attributes:
        states: initial site -> value; innovations and deterministics of the loop -> (T, ...); elements of a panel where
            the model has them.
        updated: (T,) share of the elements whose values at a step are of another particle than the reference, 0 or 1
            where there is no panel; the steps of several loops one after the other.
        impossible: () int32, the first step at which the path that was given has no weight, -1 the start; `NOWHERE`
            (-2) where it is as it should be.
    """

    states: Values
    updated: Array
    impossible: Array


@dataclass(frozen=True)
class ConditionalSMC:
    """Settings of conditional SMC.

    Example:
        >>> import jax, ssmscan
        >>> from ssmscan import datasets
        >>> from ssmscan.stochastic_volatility import stochastic_volatility
        >>> ssm = ssmscan.trace(stochastic_volatility, datasets.gbpusd().values[:50])
        >>> theta = {"mu": -1.0, "phi": 0.97, "sigma": 0.2}
        >>> path = ssm.simulate(jax.random.key(0), theta)
        >>> path = {"h_0": path["h_0"], "h": path["h"]}
        >>> found = ssmscan.ConditionalSMC(20).run(jax.random.key(1), ssm, theta, path)
        >>> found.states["h"].shape, found.updated.shape
        ((50,), (50,))

    Attributes:
        num_particles: N, the reference included, at least 2.
        proposal: what moves and weighs the others; `LookAhead()` where the bootstrap filter starves.
        resampling: scheme with a conditional form: systematic, stratified, multinomial, killing.
        backward: `AncestorSampling()`, `BackwardSampling()`, or `Ancestral()` for neither.

    Raises:
        ValueError: for fewer than two particles.
        TypeError: for settings of the wrong kind, a scheme or proposal that cannot keep a given particle included.
    """

    num_particles: int
    _: KW_ONLY
    proposal: ConditionalProposal | SeriesProposal = Bootstrap()
    resampling: ConditionalResampling = systematic
    backward: Backward = AncestorSampling()

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_particles", require_integer("num_particles", self.num_particles, at_least=2))
        settings_checks.scheme(self.resampling)
        if not hasattr(self.resampling, "conditional"):
            expected = "a scheme that can keep a particle, with a `conditional` form, such as systematic"
            advice = "One with a threshold has none: where a step is not resampled there is no ancestor to draw again."
            raise TypeError(refusal("resampling", expected, self.resampling, advice))
        given = () if uses_later_data(self.proposal) else ("begin_given", "propagate_given")
        settings_checks.strategy("proposal", self.proposal, given or ("prepare",), "Bootstrap()")
        settings_checks.strategy("backward", self.backward, ("forward", "back"), "AncestorSampling()")

    def run(self, key: Array, ssm: Model, theta: Mapping[str, Any], path: Mapping[str, Any]) -> ConditionalPath:
        """Draw a new path given one; works under jit and vmap.

        Args:
            key: one PRNG key, typed or raw.
            ssm: what `ssmscan.trace` returned.
            theta: value of every parameter by name.
            path: value of every initial site, and of every innovation with time in front; other states of the model may
                be there.

        Raises:
            ModelError: the proposal looks ahead, and cannot tell the noise of given values.
            TypeError: if key is not one PRNG key, or ssm was not traced.
            ValueError: if theta or path lacks a site or has a wrong shape, or the path has no density.
        """
        key = as_key(key)
        require_observed(ssm)
        require_drawn(ssm)
        theta = ssm.canonical(theta)
        found = [
            _update(own, loop, theta, _of_loop(loop, path), settings=self)
            for own, loop in zip(loop_keys(key, len(ssm.loops)), ssm.loops)
        ]
        impossible = jnp.max(jnp.stack([jnp.max(part.impossible) for part in found]))
        if known(impossible) and np.ndim(impossible) == 0 and int(impossible) != NOWHERE:
            where = "at the start" if int(impossible) < 0 else f"at step {int(impossible)}"
            raise ValueError(
                f"path: it has no density {where} at these parameters: a value is outside the support of its site, or "
                "the data are impossible there. Start from a path of a filter, such as trace_ancestry gives."
            )
        states = {name: value for part in found for name, value in part.values.items()}
        return ConditionalPath(states, jnp.concatenate([part.updated.astype(float) for part in found]), impossible)


@compiled
def _update(key: Array, ssm: Model, theta: Theta, path: Values, *, settings: ConditionalSMC) -> Updated:
    """Update the path of one loop, of the elements of a panel one by one."""
    initial = [site.name for site in ssm.initial]

    def one(key: Array | None, dynamics: Dynamics, values: Values) -> Updated:
        assert key is not None
        moving, proposed = prepared(settings, dynamics)  # type: ignore[arg-type]
        reference = Reference(
            {name: values[name] for name in initial}, {n: x for n, x in values.items() if n not in initial}
        )
        return update_path(moving, key, dynamics, (dynamics.xs, proposed), reference)  # type: ignore[arg-type]

    if ssm.panel is None:
        return each_filter(partial(one, values=path), ssm, theta, key)
    found = each_filter(one, ssm, theta, key, _split(path, ssm.panel))
    return Updated(join_values(found.values, ssm.panel), found.updated.mean(0), jnp.max(found.impossible))


def _split(path: Values, panel: Panel) -> Values:
    """Return the path of each element, elements in front."""
    places = dict(panel.values)
    return {name: split(value, places[name], panel.size) for name, value in path.items()}


def _of_loop(loop: Model, path: Mapping[str, Any]) -> Values:
    """Check the path of one loop, and cast it."""
    sites = {site.name: site for site in (*loop.initial, *loop.innovations)}
    own = {name: path[name] for name in path if name in sites} if isinstance(path, Mapping) else path
    advice = "Sites of the loop have time in front; other states are not needed."
    require_names("path", own, sites, "states", advice=advice)
    for name, site in sites.items():
        time = (loop.num_steps,) if site.in_loop else ()
        require_numbers(f"path['{name}']", own[name], (*time, *site.shape))
    return {name: jnp.asarray(own[name], site.dtype) for name, site in sites.items()}
