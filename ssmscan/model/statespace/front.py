"""StateSpaceModel: the pure functions that engines use, and nothing else.

    theta ~ p(theta)                         parameters
    s ~ p(s | theta),  c_0 = g(s, theta)     initial state and carry
    z_t ~ p(z | c_{t-1}, x_t, theta)         innovations
    c_t = h(c_{t-1}, x_t, z_t, theta)        carry
    y_t ~ p(y | c_{t-1}, x_t, z_t, theta)    observations

Every function evaluates a jaxpr stored at `trace`; the user's Python does not run again, so all of
them work under jit, vmap and grad.  A model is a pytree: its leaves are data and lifted constants,
its static part is the interned `Program`, so one compilation serves all data of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.dataflow import UNUSED
from ssmscan.model.jaxprs.placeholders import sum_of, zeros
from ssmscan.model.keys import one_key
from ssmscan.model.protocols import NoiseSpec, Panel
from ssmscan.model.sites import Role, Site, site_table
from ssmscan.model.statespace import data, deterministics, marginal, parameters, paths
from ssmscan.model.statespace.dynamics import LoopDynamics
from ssmscan.model.statespace.panel_element import ElementDynamics, elements_at
from ssmscan.model.statespace.program import Program

PyTree = Any
Theta = dict[str, jax.Array]


@jax.tree_util.register_pytree_node_class
class StateSpaceModel:
    """A traced model; made by `ssmscan.trace`.

    Attributes:
        program: the staged functions, shared by all data of the same shapes.
        arrays: data and constants the functions read, as a tuple.
        source: what `trace` was given; on the host only, absent inside jit.
    """

    def __init__(self, program: Program, arrays: tuple, source: Any = None):
        self.program, self.arrays, self.source = program, tuple(arrays), source

    def tree_flatten(self) -> tuple[tuple, Program]:
        """Split into leaves and the static program."""
        return self.arrays, self.program

    @classmethod
    def tree_unflatten(cls, program: Program, arrays: tuple) -> StateSpaceModel:
        """Put the parts together, without the host-side source."""
        return cls(program, arrays)

    def __repr__(self) -> str:
        fixed = () if self.source is None else self.source.fixed
        summed = self.program.summed
        lines = [
            f"State-space model of {self.num_steps} steps",
            site_table(self.program.sites),
            str(self.program.elements if self.panel is None else self.panel),
            f"fixed at trace (the model needs their values): {', '.join(fixed)}" if fixed else "",
            "" if summed is None else f"summed out by gradient engines: {summed.describe()}",
        ]
        return "\n".join(line for line in lines if line)

    # ---- what was found -------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[StateSpaceModel, ...]:
        """One for each loop that data depend on; here the model itself, see `IndependentLoops`."""
        return (self,)

    @property
    def loops(self) -> tuple[StateSpaceModel, ...]:
        """One model for each loop that data depend on; the model itself where there is one."""
        return self.parts

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site, those outside the loop first."""
        return self.program.sites

    def _with_role(self, *roles: Role) -> tuple[Site, ...]:
        return tuple(site for site in self.program.sites if site.role in roles)

    @property
    def parameters(self) -> tuple[Site, ...]:
        """Sites drawn once, theta."""
        return self._with_role(Role.PARAMETER)

    @property
    def initial(self) -> tuple[Site, ...]:
        """Initial-state sites, drawn once per particle."""
        return self._with_role(Role.INITIAL)

    @property
    def innovations(self) -> tuple[Site, ...]:
        """Latent sites of the loop."""
        return self._with_role(Role.INNOVATION)

    @property
    def observations(self) -> tuple[Site, ...]:
        """Observed sites that the states reach."""
        return self._with_role(Role.OBSERVATION, Role.START_OBSERVATION, Role.TAIL_OBSERVATION)

    @property
    def deterministic(self) -> tuple[Site, ...]:
        """Sites that are computed."""
        return self._with_role(Role.DETERMINISTIC)

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""
        return self.program.plan.length

    @property
    def panel(self) -> Panel | None:
        """Elements that do not interact, which particle engines filter one by one; None where there are none."""
        elements = self.program.elements
        return None if isinstance(elements, str) else elements.panel

    @property
    def start_observed(self) -> bool:
        """Whether an observation before the loop, rows after it or a scaled density weigh the initial state."""
        return self.program.start_observed

    @property
    def has_gaps(self) -> bool:
        """Whether elements of observed values are missing."""
        return any(drawn.gaps for drawn in self.program.plan.inside + self.program.plan.outside)

    @property
    def missing_sites(self) -> frozenset[str]:
        """Names of the latent sites that hold missing elements of observations."""
        return frozenset(s.name for s in self.program.plan.inside + self.program.plan.outside if s.gaps and s.latent)

    @property
    def initial_noise(self) -> dict[str, NoiseSpec]:
        """Base noise of the initial-state sites of one particle."""
        return {name: self.program.noise[name] for name in self.program.initial}

    @property
    def step_noise(self) -> dict[str, NoiseSpec]:
        """Base noise of the innovations of one particle at one step."""
        return {site.name: self.program.noise[site.name] for site in self.innovations}

    def refuse_tail(self) -> None:
        """Raise where an engine steps through the loop and data observed after it join its steps.

        Raises:
            ModelError: the message names the sites, what joins the steps, and the line.
        """
        if refusal := self.program.tail.refusal():
            raise ModelError(refusal)

    # ---- parameters -----------------------------------------------------------------------------

    def canonical(self, theta: Mapping[str, Any]) -> Theta:
        """Check parameter values and cast them to the dtypes of their sites.

        Args:
            theta: value of every parameter. Concrete values are checked against the support.

        Raises:
            ValueError: a name is missing or unknown, a shape is wrong, a value is not finite or not in the support.
        """
        return parameters.canonical(self, theta)

    def _outside(self, theta: Theta, initial: Mapping[str, jax.Array] | None = None) -> dict[str, jax.Array]:
        """All latent sites outside the loop; placeholders where a result does not depend on the initial state."""
        shapes = {s.name: jax.ShapeDtypeStruct(s.shape, s.dtype) for s in self.program.plan.outside if s.latent}
        return {**zeros(shapes), **theta, **(initial or {})}

    def _sum(self, staged, name: str, outside: dict) -> jax.Array:
        return sum_of(staged.bind(self.arrays, outside)(*[UNUSED] * 6)[name].values())

    def log_prior(self, theta: Theta) -> jax.Array:
        """Log-density of the parameters as NumPyro counts it, a scalar: normalised unless masked or scaled.

        Outside the support it is -inf.
        """
        return self._sum(self.program.log_prior, "outside_log_prior", self._outside(parameters.cast(self, theta)))

    def log_static(self, theta: Theta) -> jax.Array:
        """Log-likelihood of the observations and factors that no state reaches, a scalar."""
        outside = self._outside(self.canonical(theta))
        tail = self.program.tail_static(self.arrays, outside)["log_prob"]
        return self._sum(self.program.log_static, "outside_log_prob", outside) + sum_of(tail.values())

    @property
    def reweighted(self) -> tuple[str, ...]:
        """Parameters whose prior is masked or scaled: it is no law, and no evidence is an integral over it."""
        return self.program.reweighted

    def sample_prior(self, key: jax.Array) -> Theta:
        """Draw the parameters from their prior, masks and scales left out."""
        return self.program.prior(self.arrays, one_key(key))["theta"]

    def constrain(self, z: Theta) -> Theta:
        """Parameters from unconstrained values, by NumPyro's bijectors."""
        return parameters.at_unconstrained(self, z)["theta"]

    def unconstrain(self, theta: Theta) -> Theta:
        """Unconstrained values of the parameters."""
        return parameters.unconstrain(self, self.canonical(theta))

    def log_prior_unconstrained(self, z: Theta) -> tuple[Theta, jax.Array]:
        """Parameters, and log p(theta) + log|d theta / d z|, at unconstrained values."""
        out = parameters.at_unconstrained(self, z)
        return out["theta"], out["log_prior"]

    def log_law_unconstrained(self, z: Theta) -> tuple[jax.Array, jax.Array]:
        """Log-density of what `sample_prior` draws, and what log p has more, zero unless masked or scaled."""
        out = parameters.at_unconstrained(self, z)
        return out["log_law"], out["log_reweighting"]

    deterministics = deterministics.deterministics

    # ---- the loop -------------------------------------------------------------------------------

    def at(self, theta: Theta) -> LoopDynamics:
        """Compute everything outside the loop once, in the caller's trace."""
        return LoopDynamics(self, parameters.cast(self, theta))

    def elements_at(self, theta: Theta) -> Callable[[jax.Array], ElementDynamics]:
        """Compute what all elements of a panel share; return the dynamics of element number m."""
        return elements_at(self, parameters.cast(self, theta))

    def simulate(self, key: jax.Array, theta: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Draw initial state, innovations and observations forward in time.

        Returns:
            Values by site; sites of the loop have time in front, (T, ...).
        """
        from ssmscan.model.statespace.simulation import simulate

        return simulate(one_key(key), self, self.canonical(theta)).values

    @property
    def observed(self) -> dict[str, np.ndarray]:
        """Observed values by site; sites of the loop have time in front."""
        return jax.device_get(data.observed(self))

    # ---- the noise-outside view -----------------------------------------------------------------

    @property
    def smooth_noise(self) -> dict[str, NoiseSpec]:
        """Standard-normal noise of the whole model: initial sites, then loop sites with T in front.

        Discrete states that are summed out have none.

        Raises:
            ModelError: a site has no smooth map from noise and cannot be summed out.
        """
        paths.refuse_rough(self)
        specs = self.program.smooth_noise
        moved = [s.name for s in self.innovations if s.name in specs]
        loop = {name: NoiseSpec((self.num_steps, *specs[name].shape), False) for name in moved}
        return {**{name: specs[name] for name in self.program.initial if name in specs}, **loop}

    @property
    def summed_out(self) -> tuple[Site, ...]:
        """Discrete states that gradient engines sum out."""
        found = self.program.summed
        names = () if found is None else [site.name for site in (*found.initial, *found.sites)]
        return tuple(site for site in self.sites if site.name in names)

    def log_likelihood_given_noise(self, theta: Theta, noise: Mapping[str, jax.Array]) -> jax.Array:
        """Log-density of all data given parameters and noise, a scalar; finite discrete states are summed out.

        Families whose map from noise is a transport contribute their density correction.
        """
        theta, noise = self.canonical(theta), paths.require_noise(self, noise)
        if self.program.summed is not None:
            return marginal.log_likelihood(self, theta, noise)
        return paths.from_noise(self, theta, noise).log_likelihood

    def states_from_noise(
        self, theta: Theta, noise: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Values of initial sites, innovations and deterministics of the loop at given noise.

        Discrete states that are summed out are drawn given data, parameters and noise, which takes a key.
        """
        return self.posterior_states(theta, noise, key).states

    def posterior_states(
        self, theta: Theta, noise: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> marginal.Posterior:
        """States at given noise as in `states_from_noise`, and the smoothing probabilities of the discrete ones.

        Raises:
            ValueError: discrete states are to be drawn and there is no key.
        """
        theta, noise = self.canonical(theta), paths.require_noise(self, noise)
        if self.program.summed is None:
            return marginal.Posterior(paths.from_noise(self, theta, noise).values, {})
        if key is None:
            names = ", ".join(repr(site.name) for site in self.summed_out)
            raise ValueError(f"the discrete states {names} are summed out; pass a PRNG key to draw them.")
        return marginal.posterior(self, theta, noise, one_key(key))

    def _inputs(self, theta: Theta) -> PyTree:
        rest = self.program.inputs.bind(self.arrays, self._outside(theta))
        return rest(*[UNUSED] * 6)["xs"]

    def predict(self, key: jax.Array, theta: Theta, states: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
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
        from ssmscan.model.statespace.simulation import known_states, predict

        key, theta = one_key(key), self.canonical(theta)
        return predict(key, self, theta, known_states(self, states)).values

    # ---- other data, other roles ----------------------------------------------------------------

    def with_data(self, *args: Any, **kwargs: Any) -> StateSpaceModel:
        """The same program over other data of the same shapes; see `ssmscan.trace`."""
        return self._source("with_data").with_data(self, *args, **kwargs)

    def with_arrays(self, data: tuple, source: Any = None) -> StateSpaceModel:
        """The same program over these arrays, which are taken as they are; for `with_data`."""
        return StateSpaceModel(self.program, (*data, *self.arrays[len(data) :]), source)

    def with_roles(self, *, parameters: tuple[str, ...] = (), initial: tuple[str, ...] = ()) -> StateSpaceModel:
        """The same model with some sites outside the loop declared parameters or initial states."""
        return self._source("with_roles").with_roles(parameters, initial)

    def check(self, key: jax.Array) -> Any:
        """Put the parts together again and compare with NumPyro's `log_density` of the original."""
        from ssmscan.model.statespace.checking import check

        return check(one_key(key), self, self._source("check"))

    def _source(self, what: str):
        if self.source is None:
            raise ValueError(f"{what} works on what ssmscan.trace returned, on the host, not inside jit or vmap.")
        return self.source
