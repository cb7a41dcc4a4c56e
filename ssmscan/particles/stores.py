r"""What a run keeps of its clouds.

=================  ======================  ============================================================
store              memory                  paths
=================  ======================  ============================================================
`FinalCloud()`     O(N)                    none
`Eves()`           O(N)                    none; from which particles of the start the last descend
`LastSteps(k)`     O(k N)                  ancestral and backward, of the last k steps
`Ancestry()`       O(T + N log N)          ancestral, of all steps
`FullHistory()`    O(T N)                  ancestral and backward, of all steps
=================  ======================  ============================================================

A store is a recursion beside that of the filter: `begin` makes its state before the first step, `keep` advances it
by one and returns what the loop stacks of that step, `result` makes of both what paths are drawn from.

`LastSteps` writes the cloud of step t over that of step t - k - 1: backward sampling reaches from the first of k steps
to the cloud before it.  `Ancestry` is described in `ssmscan.particles.ancestry_tree`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.arguments import require_integer, require_number
from ssmscan.particles import ancestry_tree
from ssmscan.particles.ancestry_tree import GrowingTree
from ssmscan.particles.clouds import Cloud, History, Kept, Origins, Tree
from ssmscan.particles.filter_step import State, StepInfo

Values = dict[str, Array]


class Store(Protocol):
    """Which part of each step's cloud is kept; frozen and hashable."""

    @property
    def copies(self) -> int:
        """The number of times the device holds what the result has of the clouds, the work of making it included."""

    def begin(self, first: Cloud, values: Callable[[], Values], num_steps: int) -> Any:
        """Return the state of the store before the first step.

        Args:
            first: the cloud of the start.
            values: returns zeros of the shapes of the values of a step, N in front.
            num_steps: T.
        """

    def keep(self, held: Any, state: State, info: StepInfo) -> tuple[Any, Any]:
        """Return the state of the store after a step, and what the loop stacks of the step."""

    def result(self, held: Any, stacked: Any, first: Cloud, last: Cloud, span: tuple[int, int]) -> Any:
        """Return what paths are drawn from.

        Args:
            held: state of the store after the last step.
            stacked: what `keep` returned of the steps, (steps, ...).
            first, last: clouds before the first of these steps and after the last.
            span: number of the first of these steps, and of the one after the last.
        """


@dataclass(frozen=True)
class FinalCloud:
    """Keep the last cloud alone: O(N) memory."""

    copies = 1

    def begin(self, first: Cloud, values: Callable[[], Values], num_steps: int) -> None:
        """Return None."""

    def keep(self, held: None, state: State, info: StepInfo) -> tuple[None, None]:
        """Return None twice."""
        return None, None

    def result(self, held: None, stacked: None, first: Cloud, last: Cloud, span: tuple[int, int]) -> None:
        """Return None."""


@dataclass(frozen=True)
class Eves:
    """Keep from which particle of the start each particle descends: O(N) memory; see `ssmscan.particles.ancestors`."""

    copies = 1

    def begin(self, first: Cloud, values: Callable[[], Values], num_steps: int) -> Array:
        """Return that each particle of the start is its own."""
        return lax.iota(np.int32, len(first.log_weights))

    def keep(self, held: Array, state: State, info: StepInfo) -> tuple[Array, None]:
        """Hand them on from parents."""
        return held[info.ancestors], None

    def result(self, held: Array, stacked: None, first: Cloud, last: Cloud, span: tuple[int, int]) -> Origins:
        """Return them, with the weights of the last cloud."""
        return Origins(held, last.log_weights)


@dataclass(frozen=True)
class FullHistory:
    """Keep every cloud and its ancestry: O(T N) memory."""

    copies = 1

    def begin(self, first: Cloud, values: Callable[[], Values], num_steps: int) -> None:
        """Return None: the loop stacks."""

    def keep(self, held: None, state: State, info: StepInfo) -> tuple[None, Kept]:
        """Return carries, values, weights and ancestors, to be stacked."""
        return None, _kept(state, info)

    def result(self, held: None, stacked: Kept, first: Cloud, last: Cloud, span: tuple[int, int]) -> History:
        """Return all clouds, the first in front."""
        return History(first, stacked, jnp.asarray(span[0], np.int32))


class _Ring(NamedTuple):
    """The last clouds, step t in row t mod k + 1.

    Attributes:
        start: the first cloud.
        rows: (k + 1, N, ...).
    """

    start: Cloud
    rows: Kept


@dataclass(frozen=True)
class LastSteps:
    """Keep the clouds of the last steps: O(k N) memory, fixed-lag paths.

    Paths are of those steps alone, and have the initial sites only if they reach the start.

    Attributes:
        num_steps: k, at least 1.

    Raises:
        TypeError: for something else.
        ValueError: for a smaller number.
    """

    num_steps: int
    copies = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_steps", require_integer("num_steps", self.num_steps, at_least=1))

    def begin(self, first: Cloud, values: Callable[[], Values], num_steps: int) -> _Ring:
        """Return room for k clouds and the one before them."""
        n = len(first.log_weights)
        one = Kept(first.carry, values(), first.log_weights, jnp.zeros(n, np.int32))
        room = min(self.num_steps, num_steps) + 1
        return _Ring(first, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (room, *leaf.shape)), one))

    def keep(self, held: _Ring, state: State, info: StepInfo) -> tuple[_Ring, None]:
        """Write over the oldest cloud."""
        row = (state.step - np.int32(1)) % np.int32(len(held.rows.log_weights))
        new = _kept(state, info)
        rows = jax.tree.map(lambda rows, new: lax.dynamic_update_index_in_dim(rows, new, row, 0), held.rows, new)
        return held._replace(rows=rows), None

    def result(self, held: _Ring, stacked: None, first: Cloud, last: Cloud, span: tuple[int, int]) -> History:
        """Return the clouds in order."""
        room = len(held.rows.log_weights)
        begin = max(span[1] - (room - 1), 0)
        rows = jax.tree.map(lambda leaf: leaf[np.arange(begin, span[1]) % room], held.rows)
        before = held.start
        if begin:
            carry, log_weights = jax.tree.map(
                lambda leaf: leaf[(begin - 1) % room], (held.rows.carry, held.rows.log_weights)
            )
            before = Cloud(carry, log_weights, {})
        return History(before, rows, jnp.asarray(begin, np.int32))


@dataclass(frozen=True)
class Ancestry:
    """Keep the ancestral paths of the particles that are left: O(T + N log N) memory.

    How many nodes that takes is random: the more, the less often and the more evenly the filter resamples.  A run
    that needs more than there is room for has no paths, and says so; all else of it is right.

    Attributes:
        room: nodes there is room for after pruning, less T, in units of N log N.

    Raises:
        TypeError: for something else.
        ValueError: unless it is a positive number.
    """

    room: float = 16.0
    copies = 3

    def __post_init__(self) -> None:
        expected, advice = "a positive number of times N log N", "It is less than a million; 16 is the default."
        require_number("room", self.room, 0, 1e6, expected=expected, advice=advice)

    def begin(self, first: Cloud, values: Callable[[], Values], num_steps: int) -> GrowingTree:
        """Return the tree of the start, with room to grow."""
        return ancestry_tree.begin(first, values(), ancestry_tree.sizes(self.room, len(first.log_weights), num_steps))

    def keep(self, held: GrowingTree, state: State, info: StepInfo) -> tuple[GrowingTree, None]:
        """Add the particles as nodes, and prune when there are many."""
        return ancestry_tree.add(held, state.step - np.int32(1), info.ancestors, info.moved.values), None

    def result(self, held: GrowingTree, stacked: None, first: Cloud, last: Cloud, span: tuple[int, int]) -> Tree:
        """Return the paths, with the weights that choose their ends."""
        return ancestry_tree.finish(held, last.log_weights, span[1])


def _kept(state: State, info: StepInfo) -> Kept:
    return Kept(state.carry, info.moved.values, state.log_weights, info.ancestors)
