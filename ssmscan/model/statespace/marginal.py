r"""What is integrated out of a loop at given parameters and noise.

Gradient engines move parameters theta and the base noise e of some sites.  What has no smooth map from noise, a
discrete state, must not be moved: it is integrated out,

.. math::  p(y | \theta, e) = \int p(v, y | \theta, e) \, dv,

and drawn from p(v | y, theta, e) afterwards.  How, is a `Marginal`, chosen once for a program:

    NothingIntegrated          every site keeps its noise: the loop runs once, and v is empty
    discrete_sum.DiscreteSum   finite discrete states, by a forward pass
    normal_integral.NormalIntegral  all states of a linear Gaussian model, where the user asks for it
    Refused                    neither is possible, and each use says why

Another way to integrate, of a part of the states for instance, is one more class: callers know the protocol alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.placeholders import sum_of
from ssmscan.model.protocols import NoiseSpec, Theta
from ssmscan.model.sites import Role, Site
from ssmscan.model.staging.post_loop import as_output
from ssmscan.model.statespace.loop_functions import LoopFunctions
from ssmscan.model.statespace.one_particle import OfNoise
from ssmscan.model.time_loops import scan_steps

PyTree = Any


class LoopWithData(Protocol):
    """What a marginal needs of a loop beside its functions: the data, and what is computed before the loop."""

    @property
    def arrays(self) -> tuple:
        """Data and constants that staged functions read."""

    def outside(self, theta: Theta, initial: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Return all latent values outside the loop, placeholders for what is not given."""

    def inputs(self, theta: Theta) -> PyTree:
        """Compute the inputs of all steps."""

    def log_static(self, theta: Theta) -> Array:
        """Compute the log-likelihood of the observations that no state reaches, a scalar."""


class Posterior(NamedTuple):
    """The states given data, parameters and noise.

    Attributes:
        states: a draw: initial sites, and innovations and deterministics of the loop with T in front.
        probabilities: discrete site that was integrated out -> (T, *shape, values), without T for an initial site: the
            smoothing probability of each of its values.
        log_joint: log-density of the data and of the draws, given the values of all other states, a scalar; None where
            the marginal is not separable.
    """

    states: dict[str, Array]
    probabilities: dict[str, Array]
    log_joint: Array | None = None


class Marginal(Protocol):
    """How some states of a loop are integrated out, given parameters and noise of the others."""

    @property
    def integrated(self) -> tuple[str, ...]:
        """Names of the sites that are integrated out; to draw them takes a key."""

    @property
    def noise(self) -> Mapping[str, NoiseSpec]:
        """Base noise of the sites that keep it: of an initial site, and of one step of an innovation."""

    @property
    def separable(self) -> bool:
        """Whether densities can be told from the corrections of noise maps, so that `Posterior.log_joint` is there."""

    @property
    def has_law(self) -> bool:
        """Whether there are such laws; draws from them are made by simulation."""

    def describe(self) -> str:
        """Say in a line what is integrated out, empty for nothing."""

    def log_densities(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array]) -> Densities:
        """Compute the log-densities of the noise and of all data given parameters and noise."""

    def posterior(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array], key: Array | None) -> Posterior:
        """Compute the states given data, parameters and noise; those that are integrated out are drawn."""


class Densities(NamedTuple):
    """Log-densities at given parameters and noise, scalars.

    Attributes:
        law: of states that are sampled in place, whose "noise" is not N(0, I).
        likelihood: of all data, corrections of noise maps included.
    """

    law: Array
    likelihood: Array


class AtNoise(NamedTuple):
    """The loop run at given noise.

    Attributes:
        densities: of the noise and of the data.
        values: of all sites drawn or computed.
        correction: what inexact noise maps add to the log-likelihood.
    """

    densities: Densities
    values: dict[str, Array]
    correction: Array


@dataclass(frozen=True, eq=False)
class NothingIntegrated:
    """Every site is a smooth function of noise, or sampled in place, and the loop is run there.

    With a correction for each map that is a transport and not exact, and a law for each site that is in place, the
    log-density in (theta, noise) is

        log p(theta) + [ log N(noise of the others) + laws ] + [ log p(y | theta, noise) + corrections ].

    The second bracket is what gradient engines call the likelihood, and the first what forward simulation draws.

    Attributes:
        loop: the functions of the loop.
        smooth: its start and its step under the smooth maps.
    """

    loop: LoopFunctions
    smooth: OfNoise
    integrated: tuple[str, ...] = ()
    separable: bool = True

    @property
    def noise(self) -> Mapping[str, NoiseSpec]:
        """Base noise of all sites."""
        return self.smooth.specs

    @property
    def has_law(self) -> bool:
        """Whether a site is sampled in place."""
        return self.loop.places is not None

    def describe(self) -> str:
        """Say nothing."""
        return ""

    def log_densities(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array]) -> Densities:
        """Compute the log-densities of the noise and of all data."""
        return self.run(core, theta, noise).densities

    def posterior(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array], key: Array | None) -> Posterior:
        """Compute the states; without a key, as nothing is drawn."""
        found = self.run(core, theta, noise)
        return Posterior(found.values, {}, found.densities.likelihood - found.correction)

    def run(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array]) -> AtNoise:
        """Run the loop at given noise."""
        loop, initial = self.loop, self.loop.initial
        start = self.smooth.start(core.arrays, theta=theta, noise={n: noise[n] for n in initial})
        step = self.smooth.step.bind(core.arrays, theta=theta)
        log_start = sum_of(start["log_observation"][n] for n in loop.names(Role.START_OBSERVATION))
        log_start = log_start + start["log_excess"]
        loop_noise = {n: e for n, e in noise.items() if n not in initial}

        def body(carry: PyTree, inputs: tuple) -> tuple[PyTree, tuple]:
            x, e = inputs
            out = step(carry=carry, x=x, noise=e)
            return out["carry"], (out["log_weight"], out["correction"], out["law"], out["values"], out["y"])

        last, (weights, corrections, laws, values, ys) = scan_steps(
            body, start["carry"], (core.inputs(theta), loop_noise)
        )
        static = loop.densities.static(core.arrays, outside=core.outside(theta))["outside_log_prob"]
        log_static, correction = sum_of(static.values()), start["correction"] + jnp.sum(corrections)
        log_likelihood = log_static + log_start + jnp.sum(weights) + correction
        outside = core.outside(theta, start["values"])
        after = loop.densities.post_loop(core.arrays, outside=outside, ys=ys, last=last)["outside_log_prob"]
        log_likelihood = log_likelihood + sum_of(after.values()) + self._joint(core, outside, ys)
        densities = Densities(start["law"] + jnp.sum(laws), log_likelihood)
        return AtNoise(densities, {**start["values"], **values}, correction)

    def _joint(self, core: LoopWithData, outside: dict[str, Array], ys: PyTree) -> Array:
        """Compute the log-density of the rows of this loop of what several loops share."""
        plan, densities = self.loop.plan, self.loop.densities
        if not self.loop.part.joint:
            return jnp.zeros((), jnp.result_type(float))
        rows = densities.joint_step.bind(core.arrays, outside=outside)
        each = jax.vmap(lambda t, y: sum_of(rows(t=t, y=as_output(y, plan))["log_prob"].values()))
        rest = densities.joint_rest(core.arrays, outside=outside)["log_prob"]
        return jnp.sum(each(jnp.arange(plan.length), ys)) + sum_of(rest.values())


@dataclass(frozen=True, eq=False)
class Refused:
    """Some sites have no smooth map from noise and cannot be integrated out.

    Attributes:
        sites: these sites.
        why: why they cannot be integrated out, a clause.
    """

    sites: tuple[Site, ...]
    why: str
    integrated: tuple[str, ...] = ()
    separable: bool = False
    has_law: bool = False

    def _refuse(self) -> NoReturn:
        listed = ", ".join(f"'{site.name}' ({site.family})" for site in self.sites)
        raise ModelError(
            f"site(s) {listed} cannot be written as a smooth function of noise, so NUTS and other gradient "
            f"engines cannot sample this model: {self.why}. Use a particle engine (ParticleFilter, PMMH), "
            "or replace the distribution by a continuous one."
        )

    @property
    def noise(self) -> Mapping[str, NoiseSpec]:
        """Raise the refusal."""
        self._refuse()

    def describe(self) -> str:
        """Say nothing."""
        return ""

    def log_densities(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array]) -> Densities:
        """Raise the refusal."""
        self._refuse()

    def posterior(self, core: LoopWithData, theta: Theta, noise: Mapping[str, Array], key: Array | None) -> Posterior:
        """Raise the refusal."""
        self._refuse()
