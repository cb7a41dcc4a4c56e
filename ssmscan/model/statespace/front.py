"""`StateSpaceModel`: what a user holds after `ssmscan.trace`, and what engines are given; see `protocols.Model`.

    log p(y | theta) = log h(theta) + sum_k log p(y_k | theta)

A model has one loop or several that share nothing but the parameters, a `Core` for each.  Engines filter the loops
one by one and add the log-likelihoods (the variances of their estimates add too); so do gradient engines, given noise.

The user's Python does not run again after `trace`: every function works under jit, vmap and grad.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from ssmscan.labels import Labels
from ssmscan.model.jaxprs.placeholders import sum_of
from ssmscan.model.keys import loop_keys, one_key
from ssmscan.model.protocols import NoiseSpec, Panel, Theta, Values
from ssmscan.model.sites import Role, Site
from ssmscan.model.statespace import checking, data, deterministics, parameters, paths, simulation
from ssmscan.model.statespace.core import Core, described, described_html, sites_of
from ssmscan.model.statespace.dynamics import LoopDynamics
from ssmscan.model.statespace.element_dynamics import ElementDynamics, elements_at
from ssmscan.model.statespace.marginal import Posterior
from ssmscan.model.statespace.program import Program
from ssmscan.model.statespace.retracing import Retraceable


@partial(jax.tree_util.register_dataclass, data_fields=["cores"], meta_fields=[], drop_fields=["source"])
@dataclass(frozen=True, eq=False, repr=False)
class StateSpaceModel:
    """A traced model; made by `ssmscan.trace`.

    Attributes:
        cores: for each loop that data depend on, its staged functions and the arrays they read.
        source: what `trace` was given; on the host only, absent inside jit.
    """

    cores: tuple[Core, ...]
    source: Retraceable[StateSpaceModel] | None = None

    def __repr__(self) -> str:
        return described(self.cores, () if self.source is None else self.source.fixed, str(self.labels))

    def _repr_html_(self) -> str:
        return described_html(self.cores, () if self.source is None else self.source.fixed, str(self.labels))

    # ---- what was found -------------------------------------------------------------------------

    @property
    def loops(self) -> tuple[StateSpaceModel, ...]:
        """One model for each loop that data depend on; the model itself where there is one."""
        return (self,) if len(self.cores) == 1 else tuple(StateSpaceModel((core,)) for core in self.cores)

    @property
    def core(self) -> Core:
        """The one loop.

        Raises:
            ValueError: there are several.
        """
        if len(self.cores) > 1:
            raise ValueError(f"the model has {len(self.cores)} independent loops; take one of ssm.loops.")
        return self.cores[0]

    @property
    def program(self) -> Program:
        """Staged functions of the one loop, shared by all data of the same shapes."""
        return self.core.program

    def _sites(self, *roles: Role) -> tuple[Site, ...]:
        """Sites of all loops with one of some roles; one that several loops have, once."""
        return sites_of(self.cores, *roles)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site, those outside the loop first."""
        return self._sites(*Role)

    @property
    def parameters(self) -> tuple[Site, ...]:
        """Sites drawn once, theta."""
        return self._sites(Role.PARAMETER)

    @property
    def initial(self) -> tuple[Site, ...]:
        """Initial-state sites, drawn once per particle."""
        return self._sites(Role.INITIAL)

    @property
    def innovations(self) -> tuple[Site, ...]:
        """Latent sites of the loop."""
        return self._sites(Role.INNOVATION)

    @property
    def observations(self) -> tuple[Site, ...]:
        """Observed sites that the states reach."""
        return self._sites(Role.OBSERVATION, Role.START_OBSERVATION, Role.POST_LOOP_OBSERVATION)

    @property
    def deterministic(self) -> tuple[Site, ...]:
        """Sites that are computed."""
        return self._sites(Role.DETERMINISTIC)

    @property
    def summed_out(self) -> tuple[Site, ...]:
        """States that gradient engines integrate out: discrete ones, or all of `integrate_states`."""
        return tuple(site for core in self.cores for site in core.summed_out)

    @property
    def num_steps(self) -> int:
        """T, the number of steps; of all loops together where there are several."""
        return sum(core.num_steps for core in self.cores)

    @property
    def panel(self) -> Panel | None:
        """Elements that do not interact, which particle engines filter one by one; None where there are none."""
        return self.cores[0].panel if len(self.cores) == 1 else None

    @property
    def start_observed(self) -> bool:
        """Whether an observation before the loop, rows after it or a scaled density weigh the initial state."""
        return any(core.program.start_observed for core in self.cores)

    @property
    def has_gaps(self) -> bool:
        """Whether elements of observed values are missing."""
        return any(site.gaps for core in self.cores for site in core.traced_sites)

    @property
    def missing_sites(self) -> frozenset[str]:
        """Names of the latent sites that hold missing elements of observations."""
        return frozenset(s.name for core in self.cores for s in core.traced_sites if s.gaps and s.latent)

    @property
    def observed(self) -> dict[str, np.ndarray]:
        """Observed values by site; sites of a loop have time in front."""
        return _union(jax.device_get(data.observed(core)) for core in self.cores)

    @property
    def labels(self) -> Labels:
        """Names of the axes and what stands along them, found and declared; empty inside jit."""
        return Labels() if self.source is None else self.source.labels

    # ---- parameters: the same in every loop -----------------------------------------------------

    def canonical(self, theta: Mapping[str, Any]) -> Theta:
        """Check parameter values and cast them to the dtypes of their sites.

        Args:
            theta: value of every parameter. Concrete values are checked against the support.

        Raises:
            ValueError: a name is missing or unknown, a shape is wrong, a value is not finite or not in the support.
        """
        return parameters.canonical(self.cores[0], theta)

    def log_prior(self, theta: Theta) -> jax.Array:
        """Compute the log-density of the parameters as NumPyro counts it, a scalar; -inf outside the support."""
        return parameters.log_prior(self.cores[0], theta)

    def log_static(self, theta: Theta) -> jax.Array:
        """Compute the log-likelihood of the observations and factors that no state reaches, a scalar."""
        theta = self.canonical(theta)
        return self._total(core.log_static(theta) for core in self.cores)

    @property
    def reweighted(self) -> tuple[str, ...]:
        """Parameters whose prior is masked or scaled: it is no law, and no evidence is an integral over it."""
        return self.cores[0].program.reweighted

    def sample_prior(self, key: jax.Array) -> Theta:
        """Draw the parameters from their prior, masks and scales left out."""
        return parameters.sample_prior(self.cores[0], key)

    def sample_start(self, key: jax.Array) -> Theta:
        """Draw parameters to start at: from their prior where it has a sampler, else from near zero in z."""
        return parameters.sample_start(self.cores[0], key)

    def constrain(self, z: Theta) -> Theta:
        """Compute parameters from unconstrained values, by NumPyro's bijectors."""
        return parameters.at_unconstrained(self.cores[0], z)["theta"]

    def unconstrain(self, theta: Theta) -> Theta:
        """Compute unconstrained values of the parameters."""
        return parameters.unconstrain(self.cores[0], self.canonical(theta))

    def log_prior_unconstrained(self, z: Theta) -> tuple[Theta, jax.Array]:
        """Compute the parameters, and log p(theta) + log|d theta / d z|, at unconstrained values."""
        out = parameters.at_unconstrained(self.cores[0], z)
        return out["theta"], out["log_prior"]

    def log_law_unconstrained(self, z: Theta) -> tuple[jax.Array, jax.Array]:
        """Compute the log-density of what `sample_prior` draws, and what log p has more: 0 unless masked or scaled."""
        out = parameters.at_unconstrained(self.cores[0], z)
        return out["log_law"], out["log_reweighting"]

    # ---- the loop, one particle at a time -------------------------------------------------------

    def at(self, theta: Theta) -> LoopDynamics:
        """Compute everything outside the one loop once, in the caller's trace."""
        return LoopDynamics(self.core, parameters.cast(self.core, theta))

    def elements_at(self, theta: Theta) -> Callable[[jax.Array], ElementDynamics]:
        """Compute what all elements of a panel share once; return the dynamics of element number m."""
        return elements_at(self.core, parameters.cast(self.core, theta))

    # ---- whole paths ----------------------------------------------------------------------------

    @property
    def smooth_noise(self) -> dict[str, NoiseSpec]:
        """Noise of the whole model: initial sites, then loop sites with T in front.

        What is summed out has none; that of a state sampled in place is its unconstrained value.

        Raises:
            ModelError: a site has no smooth map from noise and cannot be summed out.
        """
        return _union(paths.smooth_noise(core) for core in self.cores)

    def log_likelihood_given_noise(self, theta: Theta, noise: Mapping[str, jax.Array]) -> jax.Array:
        """Compute the log-density of all data given parameters and noise, a scalar; discrete states are summed out.

        Families whose map from noise is a transport contribute their density correction.
        """
        theta = self.canonical(theta)
        found = (core.program.marginal.log_densities(core, theta, own) for core, own in self._each_noise(noise))
        return self._total(densities.likelihood for densities in found)

    def states_from_noise(self, theta: Theta, noise: Mapping[str, jax.Array], key: jax.Array | None = None) -> Values:
        """Compute values of initial sites, innovations and deterministics of the loop at given noise.

        Discrete states that are summed out are drawn given data, parameters and noise, which takes a key.
        """
        return self.posterior_states(theta, noise, key).states

    def posterior_states(self, theta: Theta, noise: Mapping[str, jax.Array], key: jax.Array | None = None) -> Posterior:
        """Compute states as in `states_from_noise`, and the smoothing probabilities of the discrete ones.

        Raises:
            ValueError: states are to be drawn and there is no key.
        """
        theta = self.canonical(theta)
        if key is None and self.summed_out:
            names = ", ".join(repr(site.name) for site in self.summed_out)
            raise ValueError(f"the states {names} are integrated out; pass a PRNG key to draw them.")
        keys = [None] * len(self.cores) if key is None else loop_keys(one_key(key), len(self.cores))
        pairs = zip(keys, self._each_noise(noise))
        found = [core.program.marginal.posterior(core, theta, own, k) for k, (core, own) in pairs]
        return Posterior(_union(p.states for p in found), _union(p.probabilities for p in found))

    def _total(self, terms: Iterator[jax.Array]) -> jax.Array:
        """Sum over loops, where there are several."""
        return next(terms) if len(self.cores) == 1 else sum_of(terms)

    def _each_noise(self, noise: Mapping[str, jax.Array]) -> list[tuple[Core, Values]]:
        """Pair each loop with its own noise, checked and cast."""
        checked = paths.require_noise(self.smooth_noise, noise)
        return [(core, {name: checked[name] for name in paths.smooth_noise(core)}) for core in self.cores]

    def deterministics(self, theta: Theta, states: Mapping[str, jax.Array] | None = None) -> Values:
        """Compute the deterministics outside the loop, by name.

        Args:
            theta: value of every parameter; checked as in `canonical`.
            states: values of the initial sites and, with time in front, of the innovations; without them only what
                parameters decide is computed.
        """
        return deterministics.deterministics(self.cores, self.canonical(theta), states)

    def simulate(self, key: jax.Array, theta: Mapping[str, Any]) -> Values:
        """Draw initial state, innovations and observations forward in time.

        Returns:
            Values by site; sites of the loop have time in front, (T, ...).
        """
        return simulation.simulate_all(one_key(key), self.cores, self.canonical(theta))

    def predict(self, key: jax.Array, theta: Theta, states: Mapping[str, jax.Array]) -> Values:
        """Draw the observations again, given parameters and states, and go on where the states end.

        Args:
            key: PRNG key.
            theta: parameters.
            states: values of the initial sites and, with time in front, of the innovations; for fewer steps than the
                model has, the rest is simulated.

        Returns:
            Values by site, states and deterministics included; sites of the loop have time in front, (T, ...).
            An observation within the data is a new draw; beyond them it is what the simulation drew.
        """
        theta, known = self.canonical(theta), simulation.known_states(self.cores, states)
        return simulation.predict_all(one_key(key), self.cores, theta, known)

    # ---- other data, other roles ----------------------------------------------------------------

    def with_data(self, *args: Any, **kwargs: Any) -> StateSpaceModel:
        """Return the same program over other data of the same shapes; see `ssmscan.trace`."""
        return self._source("with_data").with_data(self, *args, **kwargs)

    def with_roles(self, *, parameters: tuple[str, ...] = (), initial: tuple[str, ...] = ()) -> StateSpaceModel:
        """Return the same model with some sites outside the loop declared parameters or initial states."""
        return self._source("with_roles").with_roles(parameters, initial)

    def with_labels(self, *, time: Any = None, dims: Any = None, coords: Any = None) -> StateSpaceModel:
        """Return the same model with dates and names for its axes, which results, figures and ArviZ show.

        Args:
            time: dates, numbers or text, one a step of the loop of that length; fewer dates where a rule tells the
                rest, as the last day of every month.
            dims: site -> names of its axes without those of chains, draws and time; in place of those of plates.
            coords: dimension -> what stands along it; "time_1" is the time of another loop.

        Raises:
            TypeError: names are not text, or values neither dates nor numbers nor text.
            ValueError: a site or dimension is unknown, a length differs, or a value is there twice.
        """
        return self._source("with_labels").with_labels(self, time, dims, coords)

    def over(self, arrays: list) -> StateSpaceModel:
        """Return the same program over other arrays, which are taken as they are."""
        return StateSpaceModel(tuple(core.with_data(arrays) for core in self.cores))

    def check(self, key: jax.Array, *, simulate: int = 0, theta: Theta | None = None) -> checking.Check:
        """Compare the parts, put together again, with NumPyro's density of the model as it was written.

        Args:
            key: PRNG key.
            simulate: number of NumPyro's forward runs to compare the evidence with, such as 1000; 0 for none.
            theta: parameters of these runs, by default the most telling of a few draws of the prior.

        Raises:
            ModelError: they differ by more than rounding, or by more than chance; the message has both numbers.
        """
        return checking.check(one_key(key), self, self._source("check"), simulate, theta)

    def _source(self, what: str) -> Retraceable[StateSpaceModel]:
        if self.source is None:
            raise ValueError(f"{what} works on what ssmscan.trace returned, on the host, not inside jit or vmap.")
        return self.source


def _union(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}
