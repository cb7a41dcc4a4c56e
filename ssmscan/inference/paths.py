"""State paths of some draws, made in batches when the draws of the parameters are there.

Gradient engines have the noise of every draw: its path is a function of that, apart from discrete states that are
summed out, which are drawn.  A chain of PMMH keeps of each accepted run its key, 8 bytes, instead of its particles:
the run is made again, and the path is drawn as a function of the key as well, so that a draw repeated by a rejection
keeps its path (Andrieu, Doucet & Holenstein 2010, section 2.4.2).

Nothing here may lose draws: Control-C and failures, such as too little memory, leave the paths made by then.  One batch
is made at a time, for all at once would hold every carry of every draw.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.health import Reason, Section
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.progress import compile_chunk, phase, run_chunks
from ssmscan.model.protocols import Model
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import Estimator
from ssmscan.particles.loop import each, filters_at_once

STATES_STREAM = 2**32 - 1
"""What is folded into the key of a run to draw discrete states; the run itself uses the small numbers."""

BATCH = 64
"""Paths from noise that are made side by side."""

GOLDEN = (5**0.5 - 1) / 2

Arrays = dict[str, np.ndarray]


class Paths(NamedTuple):
    """State paths of some draws.

    Attributes:
        states: site of the loop -> (chains, paths, T, ...), initial site -> (chains, paths, ...).
        draws: (paths,) the draws they belong to.
        probabilities: discrete site that is summed out -> (T, *shape, values), or (*shape, values) for an
            initial site: the posterior probability of each of its values, averaged over these draws.
        log_likelihood: (chains, paths) estimates of the runs that were made again, None where there are none.
        compile_seconds: time spent tracing and compiling.
        seconds: time spent making them.
        interrupted: whether Control-C came before all were made.
        failure: what else ended it, empty if nothing did.
    """

    states: Arrays
    draws: np.ndarray
    probabilities: Arrays
    log_likelihood: np.ndarray | None
    compile_seconds: float
    seconds: float
    interrupted: bool
    failure: str

    def doubts(self, wanted: int) -> tuple[Reason, ...]:
        """Return what to say of paths that were wanted in each chain and not made."""
        made = len(self.draws)
        there = f"{made} of {wanted} state paths a chain are there, and the draws of the parameters are whole"
        if self.interrupted and made < wanted:
            sentence = f"The run was stopped while the state paths were made: {there}."
            return (Reason(sentence, section=Section.STOPPED),)
        if not self.failure:
            return ()
        sentence = f"The state paths could not be made ({self.failure}): {there}."
        remedy = "Use fewer of them, num_paths, or fewer particles where there are any."
        return (Reason(sentence, remedy, Section.PATHS),)


@dataclass(frozen=True, eq=False)
class Batches:
    """Draws (chains, draws, ...) cut into batches (number, size, ...), all chains of a draw one after the other.

    Attributes:
        num_chains: number of chains.
        order: (draws,) the draws in the order in which they are made.
        size: paths in a batch.
        number: batches that are compiled for, at least those that are needed.
    """

    num_chains: int
    order: np.ndarray
    size: int
    number: int

    @property
    def needed(self) -> int:
        """Number of batches that hold all draws."""
        return -(-self.num_chains * len(self.order) // self.size)

    @property
    def real(self) -> np.ndarray:
        """Which elements of the batches are draws, (number, size)."""
        return np.arange(self.number * self.size).reshape(self.number, -1) < self.num_chains * len(self.order)

    def first(self, done: int) -> np.ndarray:
        """Return the draws of which every chain is in the first batches, in the order in which they are made."""
        return self.order[: done * self.size // self.num_chains]

    def split(self, leaf: np.ndarray) -> jax.Array:
        """Cut draws into batches, filled up with the last draw, or zeros where there is none."""
        filled = np.zeros((self.number * self.size, *leaf.shape[2:]), leaf.dtype)
        if len(self.order):
            at = np.minimum(np.arange(len(filled)), self.num_chains * len(self.order) - 1)
            filled[:] = leaf[at % self.num_chains, self.order[at // self.num_chains]]
        return jnp.asarray(filled.reshape(self.number, self.size, *leaf.shape[2:]))

    def join(self, leaf: np.ndarray) -> np.ndarray:
        """Join the first batches (done, size, ...) into draws again, (chains, draws, ...) in increasing order."""
        made = self.first(len(leaf))
        leaf = leaf.reshape(-1, *leaf.shape[2:])[: len(made) * self.num_chains]
        return np.swapaxes(leaf.reshape(len(made), self.num_chains, *leaf.shape[1:])[np.argsort(made)], 0, 1)


def whole_draws(num_chains: int, num_draws: int) -> Batches:
    """Cut into batches of about `BATCH` paths, each of whole draws of all chains, the first draws first."""
    draws_each = max(min(BATCH // num_chains, num_draws), 1)
    number = max(-(-num_draws // draws_each), 1)
    return Batches(num_chains, np.arange(num_draws), draws_each * num_chains, number)


def spread_draws(num_chains: int, num_draws: int, *, room: int) -> Batches:
    """Cut into batches of as many filters as run side by side; what is made is spread over the draws at any time.

    Args:
        num_chains: number of chains.
        num_draws: number of draws.
        room: number of draws that the program is compiled for, at least num_draws.
    """
    size = filters_at_once() or 1
    order = np.argsort(np.arange(num_draws) * GOLDEN % 1.0)
    return Batches(num_chains, order, size, -(-max(room, 1) * num_chains // size))


class Batch(NamedTuple):
    """What is made of one batch.

    Attributes:
        log_likelihood: (size,), None where no run is made again.
        states: of each draw, leaves (size, ...).
        sums: sums over the draws of the batch: of the probabilities of discrete states, and the number of draws.
    """

    log_likelihood: jax.Array | None
    states: dict[str, jax.Array]
    sums: tuple[dict[str, jax.Array], jax.Array] | None = None


def from_noise(ssm: StateSpaceModel, inputs: tuple) -> Batch:
    """Compute the paths of one batch from (keys, theta, noise, weights): a weight is 0 for what fills the batch up."""
    keys, theta, noise, weights = inputs
    found = jax.vmap(lambda key, *point: ssm.posterior_states(point[0], point[1], key))(keys, theta, noise)
    sums = jax.tree.map(lambda p: jnp.tensordot(weights, p, 1), found.probabilities)
    return Batch(None, found.states, (sums, weights.sum()))


@dataclass(frozen=True)
class FromKeys:
    """Paths of runs that are made again; inputs are (keys as uint32[2], theta)."""

    estimator: Estimator

    def __call__(self, ssm: Model, inputs: tuple) -> Batch:
        """Make the runs of one batch again."""
        found = each(lambda one: self.estimator.sample_path(as_key(one[0]), ssm, one[1]), inputs)
        return Batch(found.log_likelihood, found.states)


@dataclass(frozen=True)
class BatchStep:
    """One batch; see `ssmscan.inference.progress.Step`.  The operand is (ssm, batches), the state its number."""

    make: Callable[[Any, tuple], Batch]

    def __call__(self, operand: tuple[Model, tuple], number: jax.Array) -> tuple[jax.Array, Batch]:
        """Make the paths of one batch."""
        ssm, batches = operand
        return number + 1, self.make(ssm, jax.tree.map(lambda leaf: leaf[number], batches))


def paths_from_noise(
    key: jax.Array,
    ssm: StateSpaceModel,
    draws: Arrays,
    noise: Arrays,
    kept: np.ndarray,
    *,
    num_chains: int,
    progress: bool = False,
) -> Paths:
    """Compute the state paths of some draws; discrete states that are summed out are drawn.

    Args:
        key: typed PRNG key of the discrete states.
        ssm: the model.
        draws: parameters, (chains, draws, ...).
        noise: base noise, (chains, draws, ...).
        kept: (paths,) the draws wanted.
        num_chains: the number of chains, which a model without parameters and noise does not show.
        progress: whether to show what is under way.
    """
    batches = whole_draws(num_chains, len(kept))
    inputs = jax.tree.map(lambda leaf: batches.split(np.asarray(leaf)[:, kept]), (draws, noise))
    weights = jnp.asarray(batches.real, jnp.result_type(float))
    numbers = np.broadcast_arrays(np.arange(num_chains, dtype=np.uint32)[:, None], kept.astype(np.uint32))
    inputs = (_own_keys(key, *map(batches.split, numbers)), *inputs, weights)
    return _make(from_noise, ssm, inputs, batches, kept, progress=progress)


@jax.jit
def _own_keys(key: jax.Array, chains: jax.Array, draws: jax.Array) -> jax.Array:
    """Return a key for each draw of each chain, which is the same in a longer run."""
    own = jax.vmap(lambda chain, draw: jax.random.fold_in(jax.random.fold_in(key, chain), draw))
    return own(chains.ravel(), draws.ravel()).reshape(chains.shape)


def paths_from_keys(
    keys: np.ndarray, ssm: Model, draws: Arrays, kept: np.ndarray, estimator: Estimator, *, room: int, progress: bool
) -> Paths:
    """Draw the state paths of some accepted runs, which are made again.

    Args:
        keys: the keys of the runs, uint32 (chains, draws, 2).
        ssm: the model.
        draws: parameters, (chains, draws, ...).
        kept: (paths,) the draws wanted.
        estimator: what made the runs.
        room: number of paths a chain that the program is compiled for, at least that of the draws wanted.
        progress: whether to show what is under way.
    """
    batches = spread_draws(len(keys), len(kept), room=room)
    inputs = jax.tree.map(lambda leaf: batches.split(leaf[:, kept]), (keys, draws))
    return _make(FromKeys(estimator), ssm, inputs, batches, kept, progress=progress)


def _make(
    make: Callable[[Any, tuple], Batch],
    ssm: Model,
    inputs: tuple,
    batches: Batches,
    kept: np.ndarray,
    *,
    progress: bool,
) -> Paths:
    """Make batches until all are made, Control-C comes, or one fails."""
    step, operand, first = BatchStep(make), (ssm, inputs), jnp.zeros((), jnp.int32)
    began = time.perf_counter()

    def nothing(shapes: Batch, *, interrupted: bool = False, failure: str = "") -> Paths:
        none = jax.tree.map(lambda leaf: np.zeros((batches.num_chains, 0, *leaf.shape[1:]), leaf.dtype), shapes)
        spent = time.perf_counter() - began
        return Paths(none.states, kept[:0], {}, none.log_likelihood, spent, 0.0, interrupted, failure)

    shapes = Batch(None, {})
    with hold_interrupts():
        try:
            with interruptible():
                shapes = jax.eval_shape(jax.jit(step), operand, first)[1]._replace(sums=None)
            if not len(kept):
                return nothing(shapes)
            with phase("state paths: compiling", progress=progress), interruptible():
                chunk = compile_chunk(step, operand, first)
            run = run_chunks(chunk, operand, first, batches.needed, label="state paths", progress=progress, leave=False)
        except KeyboardInterrupt:
            return nothing(shapes, interrupted=True)
        except Exception as error:  # whatever it is: the draws are worth more than the paths
            return nothing(shapes, failure=f"{type(error).__name__}: {error}".rstrip("."))
        made: Any = jax.tree.map(batches.join, run.outputs._replace(sums=None))
        probabilities = {}
        if run.outputs.sums is not None and run.done:
            sums, count = run.outputs.sums
            probabilities = {name: values.sum(0) / count.sum() for name, values in sums.items()}
        return Paths(
            states=made.states,
            draws=kept[np.sort(batches.first(run.done))],
            probabilities=probabilities,
            log_likelihood=made.log_likelihood,
            compile_seconds=chunk.compile_seconds,
            seconds=run.seconds,
            interrupted=run.interrupted,
            failure="",
        )
