r"""IndependentLoops: a model of several loops, seen by engines as one model.

    log p(y | theta) = log h(theta) + sum_k log p(y_k | theta)

Each part is a `StateSpaceModel` with one loop; the parameters, their prior and their map to the
unconstrained space are common to all.  Engines filter the parts one by one and add the log likelihoods
(the variances of their estimates add too); so do gradient engines, given noise.  `partition.py` takes the model apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ssmscan.model.jaxprs.placeholders import sum_of
from ssmscan.model.keys import one_key
from ssmscan.model.protocols import NoiseSpec
from ssmscan.model.sites import Site, site_table
from ssmscan.model.statespace.deterministics import deterministics
from ssmscan.model.statespace.front import StateSpaceModel, Theta
from ssmscan.model.statespace.marginal import Posterior
from ssmscan.model.statespace.paths import require_noise
from ssmscan.model.statespace.simulation import Outputs, known_states, predict, simulate


@jax.tree_util.register_pytree_node_class
class IndependentLoops:
    """A traced model whose loops are independent given the parameters; made by `ssmscan.trace`.

    Attributes:
        parts: one model for each loop.
        source: what `trace` was given; on the host only, absent inside jit.
    """

    def __init__(self, parts: tuple[StateSpaceModel, ...], source: Any = None):
        self.parts, self.source = tuple(parts), source

    def tree_flatten(self) -> tuple[tuple, None]:
        """Split into parts."""
        return self.parts, None

    @classmethod
    def tree_unflatten(cls, _: None, parts: tuple) -> IndependentLoops:
        """Put the parts together, without the host-side source."""
        return cls(parts)

    def __repr__(self) -> str:
        steps = " and ".join(str(part.num_steps) for part in self.parts)
        lines = [f"State-space model of {len(self.parts)} independent loops of {steps} steps", site_table(self.sites)]
        return "\n".join(lines)

    def _sites_of(self, kind: str) -> tuple[Site, ...]:
        """Sites of all parts; one that several parts have, once."""
        return tuple({site.name: site for part in self.parts for site in getattr(part, kind)}.values())

    def _union(self, of: Callable[[StateSpaceModel], Mapping[str, Any]]) -> dict[str, Any]:
        return {name: value for part in self.parts for name, value in of(part).items()}

    sites = property(lambda self: self._sites_of("sites"), doc="Every site.")
    parameters = property(lambda self: self._sites_of("parameters"), doc="Sites drawn once, theta.")
    initial = property(lambda self: self._sites_of("initial"), doc="Initial-state sites of all loops.")
    innovations = property(lambda self: self._sites_of("innovations"), doc="Latent sites of all loops.")
    observations = property(lambda self: self._sites_of("observations"), doc="Observed sites that states reach.")
    deterministic = property(lambda self: self._sites_of("deterministic"), doc="Sites that are computed.")
    summed_out = property(lambda self: self._sites_of("summed_out"), doc="Discrete states that are summed out.")

    @property
    def loops(self) -> tuple[StateSpaceModel, ...]:
        """One model for each loop that data depend on."""
        return self.parts

    @property
    def num_steps(self) -> int:
        """Steps of all loops together."""
        return sum(part.num_steps for part in self.parts)

    @property
    def has_gaps(self) -> bool:
        """Whether elements of observed values are missing."""
        return any(part.has_gaps for part in self.parts)

    @property
    def missing_sites(self) -> frozenset[str]:
        """Names of the latent sites that hold missing elements of observations."""
        return frozenset().union(*(part.missing_sites for part in self.parts))

    @property
    def observed(self) -> dict[str, np.ndarray]:
        """Observed values by site; sites of a loop have its time in front."""
        return self._union(lambda part: part.observed)

    @property
    def smooth_noise(self) -> dict[str, NoiseSpec]:
        """Standard-normal noise of the whole model; see `StateSpaceModel.smooth_noise`."""
        return self._union(lambda part: part.smooth_noise)

    # ---- parameters: the same in every part -------------------------------------------------------

    def canonical(self, theta: Mapping[str, Any]) -> Theta:
        """Check parameter values and cast them; see `StateSpaceModel.canonical`."""
        return self.parts[0].canonical(theta)

    def log_prior(self, theta: Theta) -> jax.Array:
        """Log-density of the parameters; see `StateSpaceModel.log_prior`."""
        return self.parts[0].log_prior(theta)

    @property
    def reweighted(self) -> tuple[str, ...]:
        """Parameters whose prior is masked or scaled."""
        return self.parts[0].reweighted

    def sample_prior(self, key: jax.Array) -> Theta:
        """Draw the parameters from their prior, masks and scales left out."""
        return self.parts[0].sample_prior(key)

    def constrain(self, z: Theta) -> Theta:
        """Parameters from unconstrained values, by NumPyro's bijectors."""
        return self.parts[0].constrain(z)

    def unconstrain(self, theta: Theta) -> Theta:
        """Unconstrained values of the parameters."""
        return self.parts[0].unconstrain(theta)

    def log_prior_unconstrained(self, z: Theta) -> tuple[Theta, jax.Array]:
        """Parameters, and log p(theta) + log|d theta / d z|, at unconstrained values."""
        return self.parts[0].log_prior_unconstrained(z)

    def log_law_unconstrained(self, z: Theta) -> tuple[jax.Array, jax.Array]:
        """Log-density of what `sample_prior` draws; see `StateSpaceModel.log_law_unconstrained`."""
        return self.parts[0].log_law_unconstrained(z)

    def log_static(self, theta: Theta) -> jax.Array:
        """Log-likelihood of the observations and factors that no state reaches, a scalar."""
        return sum_of(part.log_static(theta) for part in self.parts)

    deterministics = deterministics

    # ---- the loops --------------------------------------------------------------------------------

    def log_likelihood_given_noise(self, theta: Theta, noise: Mapping[str, jax.Array]) -> jax.Array:
        """Log-density of all data given parameters and noise; see `StateSpaceModel.log_likelihood_given_noise`."""
        noise = require_noise(self, noise)
        return sum_of(part.log_likelihood_given_noise(theta, _of(part, noise)) for part in self.parts)

    def states_from_noise(
        self, theta: Theta, noise: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Values of all sites of the loops at given noise; see `StateSpaceModel.states_from_noise`."""
        return self.posterior_states(theta, noise, key).states

    def posterior_states(self, theta: Theta, noise: Mapping[str, jax.Array], key: jax.Array | None = None) -> Posterior:
        """States at given noise, and smoothing probabilities; see `StateSpaceModel.posterior_states`."""
        found, noise = [], require_noise(self, noise)
        for k, part in enumerate(self.parts):
            own = None if key is None else jax.random.fold_in(one_key(key), k)
            found.append(part.posterior_states(theta, _of(part, noise), own))
        states = {name: value for one in found for name, value in one.states.items()}
        return Posterior(states, {name: value for one in found for name, value in one.probabilities.items()})

    def simulate(self, key: jax.Array, theta: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Draw initial states, innovations and observations forward in time; see `StateSpaceModel.simulate`."""
        theta = self.canonical(theta)
        return self._joined(one_key(key), theta, lambda key, part: simulate(key, part, theta))

    def predict(self, key: jax.Array, theta: Theta, states: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Draw the observations again given parameters and states; see `StateSpaceModel.predict`."""
        theta, states = self.canonical(theta), known_states(self, states)

        def one(key: jax.Array, part: StateSpaceModel) -> Outputs:
            names = {site.name for site in (*part.initial, *part.innovations)}
            return predict(key, part, theta, {n: v for n, v in states.items() if n in names})

        return self._joined(one_key(key), theta, one)

    def _joined(self, key: jax.Array, theta: Theta, run: Callable) -> dict[str, jax.Array]:
        """Run every part, and what joins their outputs."""
        runs = [run(jax.random.fold_in(key, k), part) for k, part in enumerate(self.parts)]
        values = {name: value for one in runs for name, value in one.values.items()}
        out = self.joined(jax.random.fold_in(key, len(runs)), theta, values, runs)
        return {**values, **out.get("values", {})}

    def joined(self, key: jax.Array, theta: Theta, values: Mapping[str, jax.Array], runs: list) -> dict[str, Any]:
        """Sites that join the outputs of several loops.

        Args:
            key: PRNG key of the draws.
            theta: the parameters.
            values: values of the initial sites, among others.
            runs: of each part, `ys` and `last`.

        Returns:
            "values", new draws and deterministics by site, and "log_prob" of the observed ones; empty if none.
        """
        first = self.parts[0]
        if first.program.joint is None:
            return {}
        initial = {site.name: values[site.name] for site in self.initial}
        outside = first._outside(theta, initial)
        return first.program.joint(first.arrays, outside, [r.ys for r in runs], [r.last for r in runs], key)

    # ---- other data, other roles ------------------------------------------------------------------

    def with_data(self, *args: Any, **kwargs: Any) -> Any:
        """The same program over other data of the same shapes; see `ssmscan.trace`."""
        return self._source("with_data").with_data(self, *args, **kwargs)

    def with_arrays(self, data: tuple, source: Any = None) -> IndependentLoops:
        """The same program over these arrays; see `StateSpaceModel.with_arrays`."""
        return IndependentLoops(tuple(part.with_arrays(data) for part in self.parts), source)

    def with_roles(self, *, parameters: tuple[str, ...] = (), initial: tuple[str, ...] = ()) -> Any:
        """The same model with some sites outside the loops declared parameters or initial states."""
        return self._source("with_roles").with_roles(parameters, initial)

    def check(self, key: jax.Array) -> Any:
        """Put the parts together again and compare with NumPyro's `log_density` of the original."""
        from ssmscan.model.statespace.checking import check

        return check(one_key(key), self, self._source("check"))

    def _source(self, what: str) -> Any:
        if self.source is None:
            raise ValueError(f"{what} works on what ssmscan.trace returned, on the host, not inside jit or vmap.")
        return self.source


def _of(part: StateSpaceModel, noise: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The noise of one part."""
    return {name: noise[name] for name in part.smooth_noise}
