"""`Core`: one loop of a traced model, its staged functions and the arrays they read.

Everything in this room takes it.  It is a pytree: its leaves are data and lifted constants, its static part is the
interned `Program`, so that one compilation serves all data of one shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

import jax

from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import sum_of, zeros
from ssmscan.model.protocols import NoiseSpec, Panel, PyTree, Theta, Values
from ssmscan.model.sites import Role, Site, site_table, site_table_html
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.statespace.program import Program


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["program"])
@dataclass(frozen=True, eq=False)
class Core:
    """One loop of a traced model.

    Attributes:
        program: the staged functions, shared by all data of the same shapes.
        arrays: data and constants the functions read.
    """

    program: Program
    arrays: tuple[jax.Array, ...]

    def with_data(self, data: Sequence[jax.Array]) -> Core:
        """Return the same program over other data, which are taken as they are."""
        return Core(self.program, (*data, *self.arrays[len(data) :]))

    # ---- what was found -------------------------------------------------------------------------

    def with_role(self, *roles: Role) -> tuple[Site, ...]:
        """Return the sites with one of some roles."""
        return tuple(site for site in self.program.sites if site.role in roles)

    @property
    def parameters(self) -> tuple[Site, ...]:
        """Sites drawn once, theta."""
        return self.with_role(Role.PARAMETER)

    @property
    def initial(self) -> tuple[Site, ...]:
        """Initial-state sites, drawn once per particle."""
        return self.with_role(Role.INITIAL)

    @property
    def innovations(self) -> tuple[Site, ...]:
        """Latent sites of the loop."""
        return self.with_role(Role.INNOVATION)

    @property
    def summed_out(self) -> tuple[Site, ...]:
        """States that gradient engines integrate out: discrete ones summed, or all where the user asks for it."""
        return tuple(site for site in self.program.sites if site.name in self.program.marginal.integrated)

    @property
    def traced_sites(self) -> tuple[TracedSite, ...]:
        """Static facts of every site, those of the loop first."""
        return self.program.plan.inside + self.program.plan.outside

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""
        return self.program.plan.length

    @property
    def panel(self) -> Panel | None:
        """Elements that do not interact; None where there are none."""
        elements = self.program.elements
        return None if isinstance(elements, str) else elements.panel

    @property
    def initial_noise(self) -> dict[str, NoiseSpec]:
        """Base noise of the initial-state sites of one particle."""
        return {name: self.program.particles.specs[name] for name in self.program.initial}

    @property
    def step_noise(self) -> dict[str, NoiseSpec]:
        """Base noise of the innovations of one particle at one step."""
        return {site.name: self.program.particles.specs[site.name] for site in self.innovations}

    def refuse_unless_pointwise(self) -> None:
        """Raise where an engine steps through the loop and data observed after it join its steps.

        Raises:
            ModelError: the message names the sites, what joins the steps, and the line.
        """
        if refusal := self.program.post_loop.refusal():
            raise ModelError(refusal)

    def refuse_undrawable(self, *wanted: Site) -> None:
        """Raise where sites are to be drawn that have no sampler.

        Raises:
            ModelError: the message names them, and the engines that do not draw them.
        """
        without = {site.name for site in self.traced_sites if not site.drawable}
        found = [site for site in wanted if site.name in without]
        if not found:
            return
        listed = ", ".join(f"'{site.name}' ({site.family})" for site in found)
        parameters = found[0].role is Role.PARAMETER
        drawing = (
            "Tempered SMC and predictions from the prior begin there; NUTS, PMMH and MaximumLikelihood do not"
            if parameters
            else "Particles and simulations draw every state; NUTS samples such states where they are"
        )
        raise ModelError(
            f"{'parameter' if parameters else 'state'}(s) {listed} cannot be drawn, as the distribution is improper or "
            f"its class has no sample method. {drawing}. Or choose a proper distribution, or give its class a sample "
            "method."
        )

    # ---- at given parameters --------------------------------------------------------------------

    def outside(self, theta: Theta, initial: Mapping[str, jax.Array] | None = None) -> Values:
        """Return all latent sites outside the loop; placeholders for those that are not given."""
        shapes = {s.name: jax.ShapeDtypeStruct(s.shape, s.dtype) for s in self.program.plan.outside if s.latent}
        return {**zeros(shapes), **theta, **(initial or {})}

    def inputs(self, theta: Theta) -> PyTree:
        """Compute the inputs of the steps, leaves with T in front."""
        return self.program.inputs(self.arrays, outside=self.outside(theta))["xs"]

    def start(self, theta: Theta, initial: Mapping[str, jax.Array]) -> PyTree:
        """Compute the carry before the first step at given values of the initial-state sites."""
        return self.program.initial_carry(self.arrays, outside=self.outside(theta, initial))["start"]

    def total(self, staged: Staged, outside: Values) -> jax.Array:
        """Sum the log-densities that a staged function of the sites outside the loop returns, a scalar."""
        return sum_of(jax.tree.leaves(staged(self.arrays, outside=outside)))

    def log_static(self, theta: Theta) -> jax.Array:
        """Compute the log-likelihood of the observations and factors that no state reaches, a scalar."""
        outside = self.outside(theta)
        densities = self.program.densities
        return self.total(densities.static, outside) + self.total(densities.static_rows, outside)


def is_timed(site: Site, core: Core) -> bool:
    """Return whether the values of a site have the time in front."""
    if site.role in (Role.PARAMETER, Role.INITIAL):
        return False
    return site.in_loop or site.shape[:1] == (core.num_steps,)


def element_shape(site: Site, core: Core) -> tuple[int, ...]:
    """Return the shape of a site without the axis of time."""
    return site.shape[1:] if is_timed(site, core) and not site.in_loop else site.shape


def sites_of(cores: Sequence[Core], *roles: Role) -> tuple[Site, ...]:
    """Return the sites of all loops with one of some roles; one that several loops have, once."""
    return tuple({site.name: site for core in cores for site in core.with_role(*roles)}.values())


def described(cores: Sequence[Core], fixed: Sequence[str], labels: str) -> str:
    """Lay out what was found: the sites, the elements, labels, what is fixed at trace and what is summed out."""
    title, *lines = _lines(cores, fixed, labels)
    return "\n".join([title, site_table(sites_of(cores, *Role)), *lines])


def described_html(cores: Sequence[Core], fixed: Sequence[str], labels: str) -> str:
    """Lay out the same for notebooks."""
    title, *lines = _lines(cores, fixed, labels)
    below = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<div><strong>{escape(title)}</strong>{site_table_html(sites_of(cores, *Role))}{below}</div>"


def _lines(cores: Sequence[Core], fixed: Sequence[str], labels: str) -> list[str]:
    """Return the title, and the lines below the table of sites."""
    steps = " and ".join(str(core.num_steps) for core in cores)
    if len(cores) > 1:
        title = f"State-space model of {len(cores)} independent loops of {steps} steps"
        marginals = [text for core in cores if (text := core.program.marginal.describe())]
        return [title, *marginals, *labels.splitlines()]
    program = cores[0].program
    lines = [
        str(program.elements if cores[0].panel is None else cores[0].panel),
        labels,
        f"fixed at trace (the model needs their values): {', '.join(fixed)}" if fixed else "",
        program.marginal.describe(),
    ]
    return [f"State-space model of {steps} steps", *(line for line in lines if line)]
