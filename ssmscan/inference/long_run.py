"""A long filter run from the host: progress, Control-C, and going on from where it stopped.

The series is filtered in compiled chunks by `ssmscan.particles.online`, so that the result is that of
`ParticleFilter.run` bit by bit, however often it was stopped, saved and read again.  What a store keeps of the
clouds moves to the host after each chunk: the device holds O(N) and one chunk, whatever the store.  Prefer
`ParticleFilter.run` where a run takes seconds, and inside jit, vmap and grad.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.arguments import require_flag, require_number
from ssmscan.inference.going_on import Checkpoint, other_run, words
from ssmscan.inference.interrupts import hold_interrupts
from ssmscan.inference.progress import Chunk, capacity_for, phase, run_chunks
from ssmscan.labels import labels_of
from ssmscan.model.protocols import Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_observed
from ssmscan.particles import online
from ssmscan.particles.concerns import warn_of
from ssmscan.particles.filter import ParticleFilter, require_filter
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.filter_step import StepInfo
from ssmscan.particles.online import Online
from ssmscan.particles.online_origin import Origin
from ssmscan.particles.online_resume import resume
from ssmscan.particles.printing import Card


class LongRun(NamedTuple):
    """What a long run came to.

    Attributes:
        result: of the steps taken in this call; the log likelihood and the status are those since the first step.
        online: the filter after them: save it, or hand it to the next call.
        interrupted: whether Control-C stopped it before the end of the series.
    """

    result: FilterResult
    online: Online
    interrupted: bool

    def card(self) -> Card:
        """Show the run: what is printed, and what a notebook shows."""
        shown = self.result.card()
        if not self.interrupted:
            return shown
        stopped = f"Control-C stopped it after step {self.online.step - 1}: go on with start=run.online."
        return shown._replace(sentences=(*shown.sentences, stopped))

    def __repr__(self) -> str:
        return self.card().text()

    def _repr_html_(self) -> str:
        return self.card().html()


def long_run(
    key: jax.Array,
    ssm: StateSpaceModel,
    theta: Mapping[str, Any],
    *,
    particle_filter: ParticleFilter,
    start: Online | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 60.0,
    progress: bool = True,
) -> LongRun:
    """Filter a series in chunks, with a progress bar on a terminal; Control-C keeps the steps taken.

    It ends with a warning for each thing that speaks against the run, see `FilterResult.concerns`.

    Args:
        key: one PRNG key, typed or raw; of no effect on a run that goes on.
        ssm: a model from `ssmscan.trace`.
        theta: value of every parameter by name.
        particle_filter: the settings.
        start: where to go on; from the start by default.
        checkpoint: a file that holds the filter, as `Online.save` writes it, now and then; a run that was killed goes
            on from it when it is called again in the same words, and its result is of the steps taken since.
        every: seconds between two writings.
        progress: whether to show the bar.

    Raises:
        ValueError: if the series has no steps left, theta is not valid, or `start` or `checkpoint` is of something
            else.
        ModelError: if the model has several independent loops.
    """
    require_observed(ssm)
    require_filter(particle_filter)
    require_flag("progress", progress)
    require_number("every", every, 0.0, np.inf)
    first = particle_filter.start(key, ssm, theta) if start is None else start
    online.refuse_other(first, ssm, particle_filter, argument="start")
    saving = Checkpoint(None if checkpoint is None else Path(checkpoint), every)
    theta = ssm.canonical(theta)
    begun = "start"
    if saving.path is not None and saving.path.exists():
        first, begun = _read(saving.path, first, ssm, theta, particle_filter), f"checkpoint {saving.path}"
    origin, left = Origin(ssm, theta, particle_filter), ssm.num_steps - first.step
    if left < 1:
        raise ValueError(f"{begun} has taken all {ssm.num_steps} steps of the series: nothing is left to do.")
    chunk = _chunk(first, ssm, theta, particle_filter)
    with phase("filter: compiling", progress=progress):
        jax.block_until_ready(chunk.advance((ssm, theta), first, jnp.zeros((), jnp.int32)))
    with hold_interrupts():
        saved = saving.of(lambda state, _: replace(state, origin=origin))
        done = run_chunks(chunk, (ssm, theta), first, left, label="filter", progress=progress, checkpoint=saved)
        axes = (lambda leaf: np.moveaxis(leaf, 0, 1)) if ssm.panel is not None else np.asarray
        reports = jax.tree.map(axes, done.outputs)
        result = online.result_of(first, done.state, reports, ssm, theta, settings=particle_filter)
        result = replace(result, labels=labels_of(ssm))
    warn_of(result.concerns(), stacklevel=3)
    return LongRun(result, replace(done.state, origin=origin), done.interrupted)


def _read(path: Path, first: Online, ssm: StateSpaceModel, theta: Theta, settings: ParticleFilter) -> Online:
    """Read the filter that a run with this beginning has saved."""
    found = resume(path, ssm, theta, particle_filter=settings)
    if words(found.state.key) != words(first.state.key) or found.step < first.step:
        raise other_run(path)
    return found


def _chunk(first: Online, ssm: StateSpaceModel, theta: Theta, settings: ParticleFilter) -> Chunk:
    """Build the loop over a chunk of as many steps as there is room for their reports; its first call compiles it."""
    count = jax.ShapeDtypeStruct((), jnp.int32)
    one = partial(online.take, settings=settings, capacity=1)
    capacity = capacity_for(jax.eval_shape(one, first, ssm, theta, count)[1])

    def advance(operand: tuple[StateSpaceModel, Theta], state: Online, count: jax.Array) -> tuple[Online, StepInfo]:
        after, reports = online.take(state, *operand, count, settings=settings, capacity=capacity)
        time_first = (lambda leaf: jnp.moveaxis(leaf, 1, 0)) if ssm.panel is not None else (lambda leaf: leaf)
        return after, jax.tree.map(time_first, reports)

    return Chunk(advance, capacity, 0.0)
