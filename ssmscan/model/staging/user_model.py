"""The user's function: run it, one step of it, and the shapes of what goes in.

`functions` runs the same model many times under different rules; what those runs share is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro

from ssmscan.errors import ModelError
from ssmscan.model.handlers.messages import SiteMessage, clean_name, simulated
from ssmscan.model.handlers.missing import Gaps
from ssmscan.model.handlers.moving import RowAxis
from ssmscan.model.handlers.names import SiteNames
from ssmscan.model.handlers.params import Constants
from ssmscan.model.handlers.running import LeaveModel, run_model, run_step
from ssmscan.model.handlers.scans import Loop, Simulated
from ssmscan.model.jaxprs.dataflow import Staged, stage
from ssmscan.model.jaxprs.placeholders import Shape, like, zeros
from ssmscan.model.noise.samplers import draw
from ssmscan.model.staging.discovery import Plan, TracedSite, family_of

PyTree = Any
_HORIZONS, _DRAWN_AFTER = 2**30, 2**31
"""First numbers folded into a key for loops and sites that are simulated; observations drawn again use small ones."""

_BEFORE_THE_LOOP = {"outside", "theta", "z"}
"""Arguments of staged functions that are known before the loop: values outside it, constrained or not."""

NOT_REPEATABLE = (
    "A trace runs the model several times and keeps constants, so do not draw with numpy.random, count calls or read a "
    "clock in it: do so outside and pass the values as arguments, or sample with numpyro.sample."
)


class Part(NamedTuple):
    """What of a model of several loops one of its parts has; the whole of a model of one loop.

    Attributes:
        foreign: sites outside the loop that belong to other parts.
        joint: observed sites after the loops whose rows belong to several parts.
        first: whether what no loop reaches is counted here.
    """

    foreign: frozenset[str] = frozenset()
    joint: frozenset[str] = frozenset()
    first: bool = True


class UserModel(NamedTuple):
    """What every staged function needs.

    Attributes:
        call: the model as a function of its array arguments.
        plan: what `discovery` found.
        table: shared arrays, the model's array arguments first.
        data: number of array arguments.
        gaps: which observed sites have missing elements.
        part: what of the model belongs to the loop of the plan.
        rows: by site of the loop whose rows the user draws before it, where they are.
        notes: by parameter with rows that are not noise of the loop, why.
    """

    call: Callable[[list], Any]
    plan: Plan
    table: list
    data: int
    gaps: Gaps = Gaps()
    part: Part = Part()
    rows: Mapping[str, RowAxis] = {}
    notes: Mapping[str, str] = {}

    @property
    def outside(self) -> dict[str, TracedSite]:
        """Sites outside loops by name."""
        return {site.name: site for site in self.plan.outside}

    @property
    def innovations(self) -> dict[str, TracedSite]:
        """Latent sites of the main loop by name."""
        return {site.name: site for site in self.plan.inside if site.latent}

    def shapes(self, names) -> dict[str, Shape]:
        """Return the shapes of the values of some outside sites."""
        return {name: Shape(self.outside[name].shape, self.outside[name].dtype) for name in names}

    def known(self, values: dict) -> dict:
        """Return the values of all latent sites outside the loop, placeholders for what is not given."""
        return {**zeros(self.shapes(site.name for site in self.plan.outside if site.latent)), **values}

    def data_shapes(self) -> list[Shape]:
        """Return the shapes of the array arguments."""
        return [Shape(a.shape, a.dtype) for a in self.table[: self.data]]

    def arrays(self, data: list) -> list:
        """Return what a staged function reads, with the data of this trace."""
        return [*data, *self.table[self.data :]]

    def with_own_table(self) -> UserModel:
        """Return the same model with a table of its own, for functions whose constants the first one must not hold."""
        return self._replace(table=list(self.table))

    def with_constants_of(self, own: UserModel, staged: Staged) -> Staged:
        """Return what was staged over the table of a copy, whose constants that it reads are then in this one too."""
        self.table.extend(own.table[len(self.table) : max(staged.shared, default=-1) + 1])
        return staged

    def stage(self, fn: Callable[..., dict], arguments: Mapping[str, PyTree], *, keep: bool = False) -> Staged:
        """Stage a function over the shared arrays of this model; arguments as in `dataflow.stage`."""
        late = arguments.keys() - _BEFORE_THE_LOOP
        return stage(fn, arguments, self.table, data=self.data, late=late, keep=keep)

    def run(
        self,
        data,
        outside: Callable,
        at_main: Callable[[Loop], tuple],
        redrawn: Collection[str] = (),
        key=None,
        model_key=None,
    ) -> list[SiteMessage]:
        """Run the model; the other loops run as NumPyro runs them, with `key` where they draw.

        The model is given keys made from `model_key` where it asks for them.
        """

        expected = dict(self.outside)

        def at_loop(index: int, loop: Loop):
            if index in self.plan.horizons:
                return Simulated(loop.default(None if key is None else jax.random.fold_in(key, _HORIZONS + index)))
            if index != self.plan.main:
                return loop.default()
            try:
                return at_main(loop)
            except LeaveModel:
                expected.clear()
                raise

        def value_of(name: str, fn):
            if name not in self.plan.drawn_after:
                _refuse_other(self.outside.get(name), name, fn)
                return outside(name, fn)
            number = _DRAWN_AFTER + sorted(self.plan.drawn_after).index(name)
            return draw(jax.random.fold_in(jax.random.key(0) if key is None else key, number), fn)

        constants, names = Constants(key=model_key), SiteNames(self.plan.taken)
        # Sites that the wanted results do not depend on are placeholders, which no distribution needs to allow.
        with numpyro.validation_enabled(False):
            messages, _ = run_model(lambda: self.call(data), value_of, at_loop, redrawn, self.gaps, constants, names)
        kept = [message for message in messages if message.replayed != self.plan.main]
        for name in expected.keys() - {message.name for message in kept}:
            _refuse_other(expected[name], name, None)
        return simulated(kept, self.plan.drawn_after)

    def step(self, loop: Loop, carry, x, value_of: Callable) -> tuple[PyTree, PyTree, dict[str, SiteMessage]]:
        """Run one step with `value_of(site, fn)` for the innovations; messages by clean name."""
        new, y, messages = self.step_as_written(loop, carry, x, value_of)
        return like(new, self.plan.carry), y, messages

    def step_as_written(
        self, loop: Loop, carry, x, value_of: Callable
    ) -> tuple[PyTree, PyTree, dict[str, SiteMessage]]:
        """Run one step; the carry has the dtypes that the model gives it."""
        t, user_x = x
        sites = self.plan.inside

        def value_at(position: int, name: str, fn):
            site = sites[position] if position < len(sites) and sites[position].latent else None
            _refuse_other(site, name, fn)
            return value_of(site, fn)

        new, y, messages = run_step(loop, t, carry, user_x, value_at)
        for k in range(max(len(sites), len(messages))):
            message = messages[k] if k < len(messages) else None
            name = sites[k].name if message is None else message.name
            _refuse_other(sites[k] if k < len(sites) else None, name, message and (message.fn or ""))
        named = {site.name: message for site, message in zip(sites, messages)}
        return new, y, named

    def inputs(self, loop: Loop) -> PyTree:
        """Return the inputs x of the steps, time in front."""
        user = jax.tree.map(lambda a, s: jnp.asarray(a, s.dtype), loop.xs, self.plan.x)
        return jnp.arange(self.plan.length, dtype=jnp.int32), user


def _refuse_other(site: TracedSite | None, name: str, fn) -> None:
    """Refuse a site that was not there, or was another, when the model was met.

    Args:
        site: what was met.
        name: name of the site.
        fn: its distribution; None where it is not there now, empty for a deterministic.
    """
    families = None if fn is None else fn and family_of(fn), None if site is None else site.family
    if families[0] != families[1]:
        now, before = ("nothing" if f is None else f"'{f}'" if f else "a deterministic" for f in families)
        raise ModelError(
            f"the model is not a function of its arguments: run again, it has {now} at site '{clean_name(name)}' in "
            f"the place of {before}. {NOT_REPEATABLE}"
        )


def x_shapes(plan: Plan) -> PyTree:
    """Return the shapes of the input of one step."""
    return Shape((), jnp.int32), plan.x


KEY = Shape((), jax.eval_shape(jax.random.key, 0).dtype)  # makes no array, which would start JAX
