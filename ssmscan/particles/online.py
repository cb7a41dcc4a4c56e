r"""Filters that go on: one observation at a time, in chunks, interrupted and resumed.

A filter is a recursion on a state of size O(N),

    (state_t, report_t) = update(state_{t-1}, x_t),

and a run over a whole series is this update in a loop.  Here the loop stops wherever the caller wants: `take`
takes the next `num_steps` steps of the series that a model holds, and its results are those of the whole run, bit
by bit, because the number of steps is not known when the loop is compiled.  Which step is next is counted in the
state.  What the model holds after that step is not looked at, so an observation that arrives is written into the
series at its place (`ssm.with_data`), and the rest may be anything valid.

One step costs the same however long the series has become.  For a whole series at once use `ParticleFilter.run`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.errors import ModelError
from ssmscan.model.protocols import Dynamics, Model, Theta, Values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_traced
from ssmscan.particles import filter_step, online_file
from ssmscan.particles.clouds import Cloud
from ssmscan.particles.compiled import compiled
from ssmscan.particles.concerns import when
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.filter_run import FilterSettings, prepared, report_of, result_of_steps, whole_result
from ssmscan.particles.filter_step import NOWHERE, VANISHED, State, StepInfo
from ssmscan.particles.online_origin import Origin, record
from ssmscan.particles.panels import each_element, each_filter
from ssmscan.particles.printing import Card, forms, known, listed
from ssmscan.particles.proposals import uses_later_data
from ssmscan.particles.weights import CompensatedSum


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["state", "values", "held"],
    meta_fields=[],
    drop_fields=["origin"],
)
@dataclass(frozen=True, eq=False, repr=False)
class Online:
    """A filter between two steps; with the elements of a panel in front of every leaf.

    Attributes:
        state: what the next step needs; `state.step` is its number, `state.log_likelihood` the log likelihood so
            far, without what no state reaches.
        values: values of the particles by site: of the initial state before the first step, then of the last one.
        held: what the store of the filter holds.
        origin: what it was made with; on the host only, absent inside jit.
    """

    state: State
    values: Values
    held: Any
    origin: Origin | None = None

    @property
    def step(self) -> int:
        """The number of steps taken; on the host."""
        return int(np.max(self.state.step))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a file, in one step, with a record of what it belongs to; `ssmscan.resume` reads it.

        Raises:
            FileNotFoundError: if its folder does not exist.
            OSError: if it cannot be written; the file that was there before is untouched.
        """
        of = None if self.origin is None else record(self.origin, self.step)
        return online_file.write(path, jax.tree.leaves(self), of)

    def card(self) -> Card:
        """Build what is printed, and what a notebook shows."""
        state = self.state
        if not known(state.step, state.ess, state.status):
            return forms("Online", {"step": state.step, "ess": state.ess}, "of arrays without values")
        n, ess = state.log_weights.shape[-1], np.asarray(state.ess)
        elements = f", {ess.size} elements" if ess.ndim else ""
        rows = [
            ("log likelihood so far", f"{np.sum(state.log_likelihood.value()):.8g}, without what no state reaches"),
            ("effective particles", f"{ess.min():.1f} of {n}" + (", the least of the elements" if elements else "")),
            ("sites", listed(self.values)),
        ]
        ended = [
            f"{words}, first {when(np.asarray(step)[np.asarray(step) != NOWHERE].min())}."
            for words, step, met in (
                ("Every particle had weight zero", state.failed_step, state.status == VANISHED),
                ("Log weights were NaN or +inf", state.faulty_step, state.faulty_step != NOWHERE),
            )
            if np.any(met)
        ]
        return Card(f"Particle filter between steps, {n} particles, {self.step} steps taken{elements}", rows, ended)

    def __repr__(self) -> str:
        return self.card().text()

    def _repr_html_(self) -> str:
        return self.card().html()


@compiled
def draw_start(key: Array, ssm: Model, theta: Theta, *, settings: FilterSettings) -> Online:
    """Return the filter before its first step; arguments as of `ssmscan.particles.filter_run.run_filter`."""

    def one(key: Array, dynamics: Dynamics) -> Online:
        moving, xs = prepared(settings, dynamics)
        began = filter_step.start(moving, key, dynamics)

        def step(state: State) -> Values:
            x = jax.tree.map(lambda a: a[0], xs)
            return filter_step.update(moving, state, dynamics, x)[1].moved.values

        def zeros() -> Values:
            return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(step, began.state))

        first = Cloud(began.state.carry, began.state.log_weights, began.values)
        return Online(began.state, began.values, settings.store.begin(first, zeros, dynamics.num_steps))

    return each_filter(one, ssm, theta, key, together=True)


@partial(compiled, static=("capacity",))
def take(
    online: Online, ssm: Model, theta: Theta, count: Any, *, settings: FilterSettings, capacity: int
) -> tuple[Online, StepInfo]:
    """Take `count` steps; reports have room for `capacity`, zeros from `count` on; `online.values` are not read.

    In a panel the reports are those of each element, elements in front.
    """
    report = report_of(settings)

    def one(_: None, dynamics: Dynamics, online: Online) -> tuple[Online, StepInfo]:
        moving, xs = prepared(settings, dynamics)

        def step(online: Online) -> tuple[Online, StepInfo]:
            x = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, online.state.step, keepdims=False), xs)
            state, info = filter_step.update(moving, online.state, dynamics, x)
            held, found = report(online.held, state, info)
            return Online(state, info.moved.values, held), found

        def body(i: Array, carry: tuple[Online, StepInfo]) -> tuple[Online, StepInfo]:
            online, found = step(carry[0])
            return online, jax.tree.map(lambda room, new: room.at[i].set(new), carry[1], found)

        shapes = jax.eval_shape(step, online)
        values, room = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (shapes[0].values, shapes[1]))
        room = jax.tree.map(lambda a: jnp.zeros((capacity, *a.shape), a.dtype), room)
        return lax.fori_loop(jnp.zeros_like(count), count, body, (replace(online, values=values), room))

    return each_filter(one, ssm, theta, None, online)


def result_of(
    first: Online, last: Online, reports: StepInfo, ssm: StateSpaceModel, theta: Theta, *, settings: FilterSettings
) -> FilterResult:
    """Build the result of a whole run from the reports of all its steps.

    Args:
        first: the filter before the first of these steps.
        last: the filter after the last one.
        reports: of all steps, time in front (after the elements of a panel).
        ssm, theta, settings: as in `take`.
    """
    start_observed, span = ssm.start_observed and first.step == 0, (first.step, last.step)

    def one(
        _: None, number: Any, first: Online, last: Online, reports: StepInfo
    ) -> tuple[CompensatedSum, FilterResult]:
        ends = (first.state, first.values), (last.state, last.values)
        return result_of_steps(settings, *ends, last.held, reports, span=span, start_observed=start_observed)

    return whole_result(*each_element(one, ssm.panel, None, first, last, reports, together=True), ssm, theta)


def refuse_other(online: Any, ssm: StateSpaceModel, settings: FilterSettings, *, argument: str = "online") -> None:
    """Raise unless this is a filter of this model and these settings, as far as it shows.

    Args:
        online: what was given.
        ssm: the model to go on with.
        settings: the settings to go on with.
        argument: name of the argument that was given.

    Raises:
        TypeError: it is something else, or traced.
        ValueError: it has another number of particles, another store, or is of another model; or the settings cannot
            go on.
        ModelError: the model has several loops.
    """
    refuse_later_data(settings)
    require_traced(ssm)
    if not isinstance(online, Online):
        given = type(online).__name__
        raise TypeError(
            f"{argument}: expected what start, update or ssmscan.resume returned, got {given}"
            + (": read the file with ssmscan.resume first." if isinstance(online, str | os.PathLike) else ".")
        )
    if isinstance(online.state.step, jax.core.Tracer):
        raise TypeError(f"{argument}: it is traced, and its steps are counted on the host; under jit use run.")
    refuse_several(ssm)
    n = online.state.log_weights.shape[-1]
    if n != settings.num_particles:
        raise ValueError(
            f"{argument}: it has {n} particles, and this filter {settings.num_particles}; go on with the same."
        )
    before = online.origin
    if before is None or before.ssm.program is ssm.program and before.settings is settings:
        return
    if before.settings.store != settings.store:
        raise ValueError(
            f"{argument}: it was started with store={before.settings.store!r}, and this filter has {settings.store!r}; "
            "go on with the same."
        )
    was, now = (
        {(s.name, s.role, s.shape, str(s.dtype)) for s in model.sites if s.name not in model.missing_sites}
        for model in (before.ssm, ssm)
    )
    if was != now:
        names = ", ".join(sorted({repr(site[0]) for site in was ^ now}))
        raise ValueError(
            f"{argument}: it is a filter of another model, whose sites differ in {names}; go on with the same."
        )


def refuse_later_data(settings: FilterSettings) -> None:
    """Raise ValueError for a proposal whose particles know data of later steps, which one who goes on has not."""
    if uses_later_data(settings.proposal):
        raise ValueError(
            f"proposal: {settings.proposal!r} looks at the whole series before its first step, and a filter that goes "
            "on step by step has not seen the rest. Use Bootstrap() or Guided(...), or run the series as it is with "
            "ParticleFilter.run."
        )


def refuse_several(ssm: Model) -> None:
    """Raise ModelError for a model of several loops, which have no steps in common."""
    if len(ssm.loops) > 1:
        raise ModelError(
            f"the model has {len(ssm.loops)} independent loops, each with its own time; filter each online by itself: "
            "ssm.loops[0], ssm.loops[1], ..."
        )
