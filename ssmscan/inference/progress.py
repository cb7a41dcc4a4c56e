"""A Markov chain advanced from the host: compiled chunks, a progress bar, and a way to stop early.

Every sampler of this folder is a pure step ``(operand, state) -> (state, output)``.  The step is compiled
once, as a loop of a *runtime* number of iterations that writes its outputs into a buffer; the host calls it
again and again and lets each call last about half a second.  The state carries the random key, so the draws
do not depend on how the run was cut into chunks, and Control-C loses at most the chunk that was under way.

Compilation is ahead of time and timed apart from the run.  JAX keeps the executable: the same step with
other data of the same shapes does not compile again.

What is shown: on a terminal each phase has a bar, and a line while it compiles.  Off a terminal (a log file, a
notebook) a phase is silent, unless it lasts longer than `QUIET_SECONDS`: then it prints its name, once, to stderr.
With ``progress=False`` nothing is shown.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Lowered, Wrapped
from tqdm.auto import tqdm

from ssmscan.inference.interrupts import hold_interrupts, interruptible, keep_interrupt
from ssmscan.inference.spreading import mesh_for, shapes_of, spread
from ssmscan.model.protocols import Model, PyTree
from ssmscan.particles.memory import result_bytes

SECONDS_PER_CHUNK = 0.5
"""How long one call into compiled code should last: prompt to interrupt, and 0.6 % of it is overhead."""

BUFFER_BYTES = 2**25
"""Largest size of the outputs of one chunk on the device."""

LONGEST_CHUNK = 4096
"""Largest number of steps in a chunk."""

BATCH = 64
"""Draws that a method is called for side by side."""

QUIET_SECONDS = 10.0
"""Off a terminal, how long a phase may last without a word."""


class Step(Hashable, Protocol):
    """One step of a sampler: pure, and hashable because it selects the compiled program."""

    def __call__(self, operand: PyTree, state: PyTree, /) -> tuple[PyTree, PyTree]:
        """Advance the state; operand holds the arrays that do not change (the model and its data)."""


class Saving(Protocol):
    """What a run writes into now and then; see `ssmscan.inference.going_on.Checkpoint`."""

    @property
    def due(self) -> bool:
        """Whether it is time to write."""

    def write(self, state: PyTree, outputs: PyTree, /) -> None:
        """Write what there is."""


class Chunk(NamedTuple):
    """A compiled loop over steps.

    Attributes:
        advance: ``(operand, state, count) -> (state, outputs)`` with outputs padded to `capacity`.
        capacity: largest count.
        compile_seconds: time spent tracing and compiling, near zero when JAX had it already.
    """

    advance: Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, PyTree]]
    capacity: int
    compile_seconds: float


class Progress(NamedTuple):
    """What a run has done.

    Attributes:
        state: the state after the last step.
        outputs: NumPy arrays with the steps in front, `done` of them.
        done: number of steps.
        seconds: wall time of the steps.
        interrupted: whether Control-C stopped the run before its last step; one that came after it is kept for what
            comes next.
    """

    state: PyTree
    outputs: PyTree
    done: int
    seconds: float
    interrupted: bool


@partial(jax.jit, static_argnames=("step", "capacity", "mesh"))
def _advance(
    operand: PyTree, state: PyTree, count: jax.Array, *, step: Step, capacity: int, mesh: Mesh | None
) -> tuple[PyTree, PyTree]:
    """Take count steps and return the state and the outputs, zeros from count on."""
    advance = partial(_loop, step=step, capacity=capacity)
    return (advance if mesh is None else spread(advance, state, mesh))(operand, state, count)


def _loop(operand: PyTree, state: PyTree, count: jax.Array, *, step: Step, capacity: int) -> tuple[PyTree, PyTree]:
    step = jax.jit(step)  # traced once, here and in the loop
    _, output = jax.eval_shape(step, operand, state)
    buffers = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), output)

    def body(i: jax.Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        state, buffers = carry
        state, output = step(operand, state)
        return state, jax.tree.map(lambda buffer, leaf: buffer.at[i].set(leaf), buffers, output)

    return jax.lax.fori_loop(jnp.zeros_like(count), count, body, (state, buffers))


def compile_timed(function: Wrapped, *args: Any, **static: Any) -> tuple[Callable[..., Any], float]:
    """Compile a jitted function for these arguments; return it, without its static ones, and the seconds."""
    start = time.perf_counter()
    compiled = function.lower(*args, **static).compile()
    return compiled, time.perf_counter() - start


@contextmanager
def phase(text: str, *, progress: bool = True, total: int | None = None, leave: bool = True) -> Iterator[tqdm]:
    """Show what is under way, and yield the bar.

    Args:
        text: what is done, such as "PMMH: compiling".
        progress: whether to show anything.
        total: steps that the bar counts; None shows the text alone, while it lasts.
        leave: whether the bar stays on the terminal when it is full.
    """
    shape = {"total": 0, "bar_format": "{desc}", "leave": False} if total is None else {"total": total, "leave": leave}
    with tqdm(desc=text, disable=None if progress else True, **shape) as bar:
        if not (progress and bar.disable):
            yield bar
            return
        line = f"{text} ..." if total is None else f"{text}: {total} steps ..."
        timer = threading.Timer(QUIET_SECONDS, print, (line,), {"file": sys.stderr, "flush": True})
        timer.daemon = True
        timer.start()
        try:
            yield bar
        finally:
            timer.cancel()


class Timed(NamedTuple):
    """What a call gave, the seconds it took to compile, and those it took to run."""

    value: PyTree
    compile_seconds: float
    seconds: float


def call_timed(function: Wrapped, *args: Any, **static: Any) -> Timed:
    """Compile a jitted function, call it once, and time both."""
    compiled, compile_seconds = compile_timed(function, *args, **static)
    start = time.perf_counter()
    value = jax.block_until_ready(compiled(*args))
    return Timed(value, compile_seconds, time.perf_counter() - start)


@partial(jax.jit, static_argnames=("method",))
def _map_draws(ssm: Model, arguments: tuple, *, method: Callable) -> PyTree:
    return jax.lax.map(lambda one: method(ssm, *one), arguments, batch_size=BATCH)


def map_draws(method: Callable, ssm: Model, *arguments: PyTree) -> Timed:
    """Call a method of a model for every draw; leaves of arguments and value are (chains, draws, ...)."""
    lead = jax.tree.leaves(arguments)[0].shape[:2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), arguments)
    timed = call_timed(_map_draws, ssm, flat, method=method)
    return timed._replace(
        value=jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*lead, *leaf.shape[1:]), timed.value)
    )


def compile_ahead(*programs: Lowered) -> None:
    """Compile lowered programs side by side, on as many cores: JAX keeps what it makes, and compiles none again."""
    with ThreadPoolExecutor(len(programs)) as pool:
        for made in [pool.submit(program.compile) for program in programs]:
            made.result()


def compile_chunk(step: Step, operand: PyTree, state: PyTree, *, replicates: bool = False) -> Chunk:
    """Compile the loop over steps for arguments of these shapes.

    Args:
        step: what is done again and again.
        operand: arrays handed to every step.
        state: where to start.
        replicates: whether the leading axis of all leaves of the state, and of the outputs of a step, are replicates,
            which are spread over the devices; the step is called with some of them.
    """
    start = time.perf_counter()
    lowered, capacity = lower_chunk(step, operand, state, replicates=replicates)
    return Chunk(lowered.compile(), capacity, time.perf_counter() - start)


def lower_chunk(step: Step, operand: PyTree, state: PyTree, *, replicates: bool = False) -> tuple[Lowered, int]:
    """Lower the loop over steps for arguments, or shapes of them, as `compile_chunk` takes; also its capacity."""
    mesh = mesh_for(jax.tree.leaves(state)[0].shape[0]) if replicates else None
    if mesh is None:
        capacity = capacity_for(jax.eval_shape(jax.jit(step), operand, state)[1])
    else:
        (_, output), times = shapes_of(step, operand, state)
        capacity = capacity_for(output, times)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return _advance.lower(operand, state, count, step=step, capacity=capacity, mesh=mesh), capacity


def capacity_for(output: PyTree, times: int = 1) -> int:
    """Largest number of steps in a chunk, from the shapes of the outputs of one, which has so many times as much."""
    return int(np.clip(BUFFER_BYTES // max(times * result_bytes(output), 1), 1, LONGEST_CHUNK))


def run_chunks(
    chunk: Chunk,
    operand: PyTree,
    state: PyTree,
    num_steps: int,
    *,
    label: str,
    progress: bool = True,
    leave: bool = True,
    deadline: float = np.inf,
    enough: Callable[[PyTree], bool] | None = None,
    checkpoint: Saving | None = None,
) -> Progress:
    """Take num_steps steps, or as many as there were before Control-C, the deadline or enough.

    Args:
        chunk: the compiled loop.
        operand: arrays handed to every step.
        state: where to start.
        num_steps: number of steps, at least 0.
        label: text before the progress bar.
        progress: whether to show what is done, see `phase`.
        leave: whether the bar stays on the terminal when it is full.
        deadline: value of `time.perf_counter` after which no chunk is begun.
        enough: looks at the outputs of each chunk; once it returns True, no more steps are taken.
        checkpoint: is given the state and all outputs whenever it says that it is due.

    Returns:
        The `Progress`.  A run stopped before its first chunk was complete has outputs of length 0.
    """
    pieces, reached = [_empty(chunk, operand, state)], (state, 1)
    done, count, interrupted = 0, 1, False
    start = time.perf_counter()
    try:
        with phase(label, progress=progress, total=num_steps, leave=leave) as bar, interruptible() as region:
            while done < num_steps and (began := time.perf_counter()) < deadline:
                region.raise_lost()
                count = min(count, chunk.capacity, num_steps - done)
                state, outputs = jax.block_until_ready(chunk.advance(operand, state, jnp.asarray(count, jnp.int32)))
                pieces.append(_first(count, outputs))
                # One assignment, for an interrupt falls between any two: state and number of pieces belong together.
                reached = state, len(pieces)
                done += count
                bar.update(count)
                if enough is not None and enough(pieces[-1]):
                    break
                if checkpoint is not None and checkpoint.due:
                    checkpoint.write(state, _join(pieces))
                # At most a doubling, so that one quick step does not make the next chunk a long one.
                pace = count / max(time.perf_counter() - began, 1e-9)
                count = int(np.clip(pace * SECONDS_PER_CHUNK, 1, 2 * count))
    except KeyboardInterrupt:
        interrupted = True
    with hold_interrupts():
        state, count = reached
        done = sum(_length(piece) for piece in pieces[:count])
        outputs = _join(pieces[:count])
        if interrupted and done == num_steps:
            interrupted = False
            keep_interrupt()
        return Progress(state, outputs, done, time.perf_counter() - start, interrupted)


def no_steps(step: Step, operand: PyTree, state: PyTree) -> Progress:
    """Return what `run_chunks` returns of a run stopped before its step was compiled."""
    shapes = jax.eval_shape(jax.jit(step), operand, state)[1]
    outputs = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape), leaf.dtype), shapes)
    return Progress(state, outputs, 0, 0.0, True)


def _first(count: int, outputs: PyTree) -> PyTree:
    # On the host: on the device every count would compile a slice.
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[:count]), outputs)


def _join(pieces: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def _length(piece: PyTree) -> int:
    return len(jax.tree.leaves(piece)[0])


def _empty(chunk: Chunk, operand: PyTree, state: PyTree) -> PyTree:
    """Make outputs of length 0, of the right shapes."""
    _, outputs = chunk.advance(operand, state, jnp.asarray(0, jnp.int32))
    return _first(0, outputs)
