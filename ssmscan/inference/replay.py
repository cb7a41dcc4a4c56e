"""State paths of accepted filter runs, made again from their keys.

A chain of PMMH keeps of each accepted run its key, 8 bytes, instead of its particles.  The same key, parameters
and settings give the same run; with its history stored, one particle is drawn from the *final* weights and its
ancestors are followed to the start (Andrieu, Doucet & Holenstein 2010, section 2.4.2).  The draw of the particle
is a function of the key as well: a draw repeated by a rejection keeps its path.

The draws of the parameters exist when this begins, and nothing here may lose them: Control-C and failures, such as
too little memory for a history, leave the paths made by then.  They are made in an order that is spread over
the draws at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.inference.interrupts import interruptible
from ssmscan.inference.progress import compile_chunk, phase, run_chunks
from ssmscan.inference.settings import doubts_of_paths
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.genealogy import trace_ancestry
from ssmscan.particles.loop import each, filters_at_once
from ssmscan.particles.stores import FullHistory

PATH_STREAM = 2**32 - 1
"""What is folded into the key of the run to draw its path; the run itself uses the small numbers."""

GOLDEN = (5**0.5 - 1) / 2


class Runs(NamedTuple):
    """Accepted filter runs, all leaves with (chains, draws) in front: the keys, as uint32[2], and the parameters."""

    filter_key: np.ndarray
    theta: dict[str, np.ndarray]


@dataclass(frozen=True)
class Replayed:
    """What was made again.

    Attributes:
        made: (paths,) which of the wanted draws have a path, in increasing order.
        log_likelihood: (chains, paths) of the runs.
        states: site of the loop -> (chains, paths, T, ...), initial site -> (chains, paths, ...).
        compile_seconds, seconds: what it took.
        interrupted: whether Control-C ended it.
        failure: what ended it otherwise, empty if nothing did.
    """

    made: np.ndarray
    log_likelihood: np.ndarray
    states: dict[str, np.ndarray]
    compile_seconds: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False
    failure: str = ""

    def doubts(self, wanted: int) -> tuple[str, ...]:
        """Return what to say of paths that were wanted and not made."""
        return doubts_of_paths(
            len(self.made),
            wanted,
            interrupted=self.interrupted and len(self.made) < wanted,
            failure=self.failure,
            advice="Use fewer particles or num_paths=0.",
        )


def replay(
    filter_key: jax.Array, ssm: Any, theta: Any, particle_filter: ParticleFilter
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Make one filter run again.

    Args:
        filter_key: uint32[2], as in `ssmscan.inference.pmmh_chain.PMMHState`.
        ssm: the model.
        theta: the parameters of the run.
        particle_filter: its settings.

    Returns:
        Its log likelihood, and a path: site of the loop -> (T, ...), initial site -> value.
    """
    key = as_key(filter_key)
    stored = replace(particle_filter, store=FullHistory(), summaries=())
    result = stored.run(key, ssm, theta)
    paths = trace_ancestry(jax.random.fold_in(key, PATH_STREAM), result, num_paths=1)
    return result.log_likelihood, jax.tree.map(lambda leaf: leaf[0], paths)


@dataclass(frozen=True)
class ReplayStep:
    """The runs of one batch; the operand is the model and `Runs` in batches, the state the number of the batch."""

    particle_filter: ParticleFilter

    def __call__(self, operand: tuple[Any, Runs], number: jax.Array) -> tuple[jax.Array, Any]:
        """Make the runs of a batch again."""
        ssm, runs = operand
        batch = jax.tree.map(lambda leaf: leaf[number], runs)
        return number + 1, each(lambda run: replay(run.filter_key, ssm, run.theta, self.particle_filter), batch)


def replay_paths(runs: Runs, ssm: Any, particle_filter: ParticleFilter, *, room: int, progress: bool) -> Replayed:
    """Make runs again, as many of them as Control-C and the machine allow.

    Args:
        runs: what to make again.
        ssm: the model.
        particle_filter: the settings of the runs.
        room: number of paths a chain that the program is compiled for, at least that of the runs.
        progress: whether to show what is done.
    """
    chains, wanted = runs.filter_key.shape[:2]
    size = filters_at_once() or 1
    # The i-th path in this order is spread over the draws whenever it ends; all chains of a path come together.
    order = np.argsort(np.arange(wanted) * GOLDEN % 1.0)
    flat = (np.arange(chains)[None, :] * wanted + order[:, None]).ravel()
    batches = -(-max(room, 1) * chains // size)
    filled = np.resize(flat, batches * size) if wanted else np.zeros(batches * size, int)

    def batched(leaf: np.ndarray) -> jax.Array:
        leaf = leaf.reshape(chains * wanted, *leaf.shape[2:])
        leaf = leaf[filled] if wanted else np.zeros((len(filled), *leaf.shape[1:]), leaf.dtype)
        return jnp.asarray(leaf.reshape(batches, size, *leaf.shape[1:]))

    operand, first = (ssm, jax.tree.map(batched, runs)), jnp.zeros((), jnp.int32)
    step = ReplayStep(particle_filter)
    found = Replayed(np.zeros(0, int), np.zeros((chains, 0)), {})
    try:
        with interruptible():
            shapes = jax.eval_shape(step, operand, first)[1]
        none = jax.tree.map(lambda leaf: np.zeros((chains, 0, *leaf.shape[1:]), leaf.dtype), shapes)
        found = replace(found, log_likelihood=none[0], states=none[1])
        if not wanted:
            return found
        with phase("PMMH: compiling the state paths", progress=progress), interruptible():
            chunk = compile_chunk(step, operand, first)
        steps = -(-chains * wanted // size)
        run = run_chunks(chunk, operand, first, steps, label="PMMH state paths", progress=progress)
    except KeyboardInterrupt:
        return replace(found, interrupted=True)
    except Exception as error:  # whatever it is: the draws are worth more than the paths
        return replace(found, failure=f"{type(error).__name__}: {error}".rstrip("."))
    made = min(run.done * size // chains, wanted)
    rising = np.argsort(order[:made])

    def unbatched(leaf: np.ndarray) -> np.ndarray:
        leaf = leaf.reshape(-1, *leaf.shape[2:])[: made * chains].reshape(made, chains, *leaf.shape[2:])
        return np.swapaxes(leaf[rising], 0, 1)

    log_likelihood, states = jax.tree.map(unbatched, run.outputs)
    seconds = chunk.compile_seconds, run.seconds
    return Replayed(order[:made][rising], log_likelihood, states, *seconds, interrupted=run.interrupted)
