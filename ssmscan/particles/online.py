r"""Filters that go on: one observation at a time, in chunks, interrupted and resumed.

A filter is a recursion on a state of size O(N),

    (state_t, report_t) = update(state_{t-1}, x_t),

and a run over a whole series is this update in a loop.  Here the loop stops wherever the caller wants: `advance`
takes the next `num_steps` steps of the series that a model holds, and its results are those of the whole run, bit
by bit, because the number of steps is not known when the loop is compiled.  Which step is next is counted in the
state.  What the model holds after that step is not looked at, so an observation that arrives is written into the
series at its place (`ssm.with_data`), and the rest may be anything valid.

One step costs the same however long the series has become.  For a whole series at once use `ParticleFilter.run`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.arguments import require_integer
from ssmscan.errors import ModelError
from ssmscan.model.protocols import Dynamics
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.panel_element import elements_at
from ssmscan.model.statespace.requirements import require_observed, require_traced
from ssmscan.model.statespace.several import IndependentLoops
from ssmscan.particles import kernel, origin, saved
from ssmscan.particles.clouds import Cloud
from ssmscan.particles.concerns import when
from ssmscan.particles.draws import as_key, unrolled_threefry
from ssmscan.particles.filter import ParticleFilter, report_of, require_filter
from ssmscan.particles.filter_result import FilterResult, Report, Run, finish, join_elements
from ssmscan.particles.kernel import NOWHERE, VANISHED, State
from ssmscan.particles.loop import each
from ssmscan.particles.origin import Origin
from ssmscan.particles.printing import Card, forms, known, listed

Theta = dict[str, Array]


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
    values: dict[str, Array]
    held: Any
    origin: Origin | None = None

    @property
    def step(self) -> int:
        """Number of steps taken; on the host."""
        return int(np.max(self.state.step))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a file, in one step, with a record of what it belongs to; `ssmscan.resume` reads it.

        Raises:
            FileNotFoundError: if its folder does not exist.
            OSError: if it cannot be written; the file that was there before is untouched.
        """
        leaves = [_plain(leaf) for leaf in jax.tree.leaves(self)]
        of = None if self.origin is None else origin.record(self.origin, self.step)
        return saved.write(path, jax.device_get(leaves), of)

    def card(self) -> Card:
        """Show the filter: what is printed, and what a notebook shows."""
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


def start(key: Array, ssm: StateSpaceModel, theta: Mapping[str, Any], *, settings: ParticleFilter) -> Online:
    """Draw the first cloud, weighed where the model observes its start; see `ParticleFilter.start`."""
    key = as_key(key)
    require_observed(ssm)
    _refuse_several(ssm)
    theta = ssm.canonical(theta)
    return replace(_start(key, ssm, theta, settings=settings), origin=Origin(ssm, theta, settings))


def advance(
    online: Online, ssm: StateSpaceModel, theta: Mapping[str, Any], num_steps: int = 1, *, settings: ParticleFilter
) -> tuple[Online, Report]:
    """Take the next steps; see `ParticleFilter.update`."""
    refuse_other(online, ssm, settings)
    num_steps, first = require_integer("num_steps", num_steps, at_least=1), online.step
    if first + num_steps > ssm.num_steps:
        raise ValueError(
            f"num_steps is {num_steps}, after {first} steps of a series of {ssm.num_steps}: there are "
            f"{ssm.num_steps - first} steps left. For more, trace the model with a longer series."
        )
    theta = ssm.canonical(theta)
    after, reports = take(online, ssm, theta, np.int32(num_steps), settings=settings, capacity=num_steps)
    return replace(after, origin=Origin(ssm, theta, settings)), reports


@partial(jax.jit, static_argnames=("settings",))
def _start(key: Array, ssm: StateSpaceModel, theta: Theta, *, settings: ParticleFilter) -> Online:
    def one(key: Array, dynamics: Dynamics) -> Online:
        began = kernel.start(settings, key, dynamics)

        def step(state: State) -> dict[str, Array]:
            x = jax.tree.map(lambda a: a[0], dynamics.xs)
            return kernel.update(settings, state, dynamics, x)[1].moved.values

        def zeros() -> dict[str, Array]:
            return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(step, began.state))

        first = Cloud(began.state.carry, began.state.log_weights, began.values)
        return Online(began.state, began.values, settings.store.begin(first, zeros, ssm.num_steps))

    if ssm.panel is None:
        return one(key, ssm.at(theta))
    element = elements_at(ssm, theta)
    numbers = jnp.arange(ssm.panel.size, dtype=np.int32)
    return jax.vmap(lambda m: one(jax.random.fold_in(key, m), element(m)))(numbers)


@partial(jax.jit, static_argnames=("settings", "capacity"))
def take(
    online: Online, ssm: StateSpaceModel, theta: Theta, count: Any, *, settings: ParticleFilter, capacity: int
) -> tuple[Online, Report]:
    """Take `count` steps; reports have room for `capacity`, zeros from `count` on; `online.values` are not read.

    In a panel the reports are those of each element, elements in front.
    """
    report = report_of(settings)

    def one(online: Online, dynamics: Dynamics) -> tuple[Online, Report]:
        def step(online: Online) -> tuple[Online, Report]:
            x = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, online.state.step, keepdims=False), dynamics.xs)
            state, moment = kernel.update(settings, online.state, dynamics, x)
            held, found = report(online.held, state, moment)
            return Online(state, moment.moved.values, held), found

        def body(i: Array, carry: tuple[Online, Report]) -> tuple[Online, Report]:
            online, found = step(carry[0])
            return online, jax.tree.map(lambda room, new: room.at[i].set(new), carry[1], found)

        shapes = jax.eval_shape(step, online)
        values, room = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (shapes[0].values, shapes[1]))
        room = jax.tree.map(lambda a: jnp.zeros((capacity, *a.shape), a.dtype), room)
        return lax.fori_loop(jnp.zeros_like(count), count, body, (replace(online, values=values), room))

    if ssm.panel is None:
        return one(online, ssm.at(theta))
    ssm.refuse_tail()
    element = elements_at(ssm, theta)
    numbers = jnp.arange(ssm.panel.size, dtype=np.int32)
    return each(lambda pair: one(pair[1], element(pair[0])), (numbers, online))


def result_of(
    first: Online, last: Online, reports: Report, ssm: StateSpaceModel, theta: Theta, *, settings: ParticleFilter
) -> FilterResult:
    """Put the reports of all steps together into what a whole run returns.

    Args:
        first: the filter before the first of these steps.
        last: the filter after the last one.
        reports: of all steps, time in front (after the elements of a panel).
        ssm, theta, settings: as in `take`.
    """
    start_observed = ssm.start_observed and first.step == 0
    span = first.step, last.step

    def of(first: Online, last: Online, reports: Report) -> Run:
        before, final = (Cloud(o.state.carry, o.state.log_weights, o.values) for o in (first, last))
        history = settings.store.result(last.held, reports.kept, before, final, span)
        return Run.of(first.state, last.state, final, reports, history, start_observed)

    run = of if ssm.panel is None else jax.vmap(of)
    one = run(first, last, reports)
    number = jnp.zeros((), np.int32)
    if ssm.panel is not None:
        one, number = join_elements(one, ssm.panel)
    return replace(finish(one, number, ssm, theta), start_observed=start_observed, first_step=first.step)


def resume(
    path: str | os.PathLike[str], ssm: StateSpaceModel, theta: Mapping[str, Any], *, particle_filter: ParticleFilter
) -> Online:
    """Read a filter that `Online.save` wrote, and go on with `ParticleFilter.update`.

    What it was saved with and what is given here are compared, the data as far as they have been seen; see
    `ssmscan.particles.origin`.  What is to change from here on, such as the parameters, is given to `update`.

    Args:
        path: the file.
        ssm: the model that was filtered, of any length that holds the steps taken.
        theta: the parameters of the last step.
        particle_filter: the settings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of something else, damaged, or of a filter with another model, other parameters, data
            or settings; the message says which.
        TypeError: if ssm is not a traced model, or particle_filter not a `ParticleFilter`.
    """
    require_traced(ssm)
    _refuse_several(ssm)
    require_filter(particle_filter)
    theta = ssm.canonical(theta)
    leaves, of = saved.read(path)
    given = Origin(ssm, theta, particle_filter)
    wanted = f"{path} does not hold a filter of this model with {particle_filter.num_particles} particles"
    if of is not None and (found := origin.differences(of, origin.record(given, of.facts["step"], like=of))):
        raise ValueError(
            f"{wanted}, at these parameters and data: {'; '.join(found)}. Give what it was saved with; what is to "
            "change from here on is given to update."
        )
    begun = jax.eval_shape(partial(_start, settings=particle_filter), as_key(jax.random.key(0)), ssm, theta)
    taking = partial(take, settings=particle_filter, capacity=1)
    gone_on = jax.eval_shape(taking, begun, ssm, theta, jax.ShapeDtypeStruct((), np.int32))[0]
    for shapes in (gone_on, begun):
        likes, tree = jax.tree.flatten(shapes)
        if [_stored(leaf) for leaf in likes] == [(leaf.shape, leaf.dtype) for leaf in leaves]:
            break
    else:
        raise ValueError(
            f"{wanted}: its arrays have other shapes. Give the model and the settings it was saved with; where values "
            "have come to be missing since, the series as it was then, and the new one to update."
        )
    if of is None:
        warnings.warn(
            f"{path} has no record of the model, the parameters and the data its filter was made with, so they could "
            "not be compared with those given.",
            stacklevel=2,
        )
    online = jax.tree.unflatten(tree, [_typed(leaf, like) for leaf, like in zip(leaves, likes)])
    return replace(online, origin=given)


def refuse_other(online: Any, ssm: Any, settings: ParticleFilter, *, argument: str = "online") -> None:
    """Refuse to go on with something else than a filter of this model and these settings, as far as it shows."""
    require_traced(ssm)
    if not isinstance(online, Online):
        given = type(online).__name__
        raise TypeError(
            f"{argument}: expected what start, update or ssmscan.resume returned, got {given}"
            + (": read the file with ssmscan.resume first." if isinstance(online, str | os.PathLike) else ".")
        )
    if isinstance(online.state.step, jax.core.Tracer):
        raise TypeError(f"{argument}: it is traced, and its steps are counted on the host; under jit use run.")
    _refuse_several(ssm)
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


def _refuse_several(ssm: Any) -> None:
    if isinstance(ssm, IndependentLoops):
        raise ModelError(
            f"the model has {len(ssm.parts)} independent loops, each with its own time; filter each online by itself: "
            "ssm.parts[0], ssm.parts[1], ..."
        )


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _stored(leaf: Any) -> tuple:
    return (*leaf.shape, 2) if _is_key(leaf) else leaf.shape, np.dtype(np.uint32) if _is_key(leaf) else leaf.dtype


def _typed(leaf: np.ndarray, like: Any) -> Any:
    array = jnp.asarray(leaf)
    return jax.random.wrap_key_data(array, impl=unrolled_threefry) if _is_key(like) else array
