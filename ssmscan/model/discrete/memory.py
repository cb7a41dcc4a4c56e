"""What the carry remembers of the discrete draws: a finite automaton, found at trace.

The sum over paths runs over what later steps know of all draws so far.  Call it the memory m: where every leaf of the
carry that draws reach is a function of the draws of one step, it is these draws.  Else it is found by running the step
from the start over all draws, abstractly.  An element of a touched leaf is

    a number   if all it is computed from are draws, numbers and constants of the program: a regime, a window of
               regimes, a count that is cut off, whatever its type;
    a term     (element; draws and elements that it is computed from) if parameters, data, noise or inputs reach it
               too: a level that belongs to a regime, its value at the step before.  Equal terms are equal numbers,
               whatever parameters and data are.

Values of the memory are the different joint values of all these.  They are finitely many if numbers take finitely many
values and no term holds itself; `element_reach` answers what each element is computed from.

The search knows nothing of probabilities: a move that never happens is in the sum with weight zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmscan.model.discrete.carried_elements import CarriedElements, Endless
from ssmscan.model.discrete.forward_backward import Moves, plain_moves
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.user_model import UserModel

SEARCHED = 256
"""Up to this many values of the memory are looked for, so that a refusal can say how many there are."""


@dataclass(frozen=True, eq=False)
class Memory:
    """The automaton, of S values of the memory, K draws and J starts.

    Attributes:
        moves: where the draws lead.
        origins: (S, 2) for each value a move that leads to it, from the starts or the values: source and draw.
        numbers: for each leaf that is searched (S, *shape) its numbers, and whether an element is one.
        untouched: for each such leaf (*shape), which elements no draw reaches.
        rounds: how many steps back the terms go.
        value_labels, draw_labels: (S,), (K,) moves with equal labels have equal densities, of those that vary in time
            and know the past.
        largest: the most values that the memory can have after one step.
        digest: a hash of all these.
    """

    moves: Moves
    origins: np.ndarray
    numbers: dict[int, tuple[np.ndarray, np.ndarray]]
    untouched: dict[int, np.ndarray]
    rounds: int
    value_labels: np.ndarray
    draw_labels: np.ndarray
    largest: int
    digest: str

    @property
    def plain(self) -> bool:
        """Whether the memory is the draws of the last step."""
        return not self.numbers

    @property
    def mixed(self) -> set[int]:
        """Leaves with elements that no draw reaches beside others."""
        return {leaf for leaf, elements in self.untouched.items() if elements.any()}


@dataclass(frozen=True)
class TooMany:
    """How many values the memory has, more than can be summed; `more` if the count was given up there."""

    count: int
    more: bool


def of_last_draws(num_starts: int, num_draws: int) -> Memory:
    """Return the memory of a model whose carry knows the draws of one step."""
    draws = np.arange(num_draws)
    origins = np.stack([np.zeros_like(draws), draws], 1)
    return Memory(plain_moves(num_starts, num_draws), origins, {}, {}, 1, draws, draws, num_draws, "the last draws")


def search(
    user_model: UserModel,
    starts: Sequence[TracedSite],
    sites: Sequence[TracedSite],
    touched: set[int],
    start: Staged,
    step: Staged,
    whole: tuple[Staged, Staged],
    terms: Iterable[str],
    limit: int,
) -> Memory | Endless | TooMany:
    """Find the memory.

    Args:
        user_model: the model.
        starts: discrete initial sites.
        sites: discrete innovations.
        touched: leaves of the carry that draws reach, closed over steps.
        start, step: as in `conditional`, of one element where elements are summed one by one.
        whole: the same of the whole model.
        terms: log-densities of the step that vary in time and know the past.
        limit: the most values.
    """
    carry = CarriedElements(user_model, starts, sites, sorted(touched), start, step, whole)
    endless = carry.endless()
    return endless or _Search(carry).run(list(terms), limit)


class _Search:
    """Runs the step from every start and from every value of the memory that it leads to.

    A value is a tuple of identifiers, one for each element of the touched leaves; equal numbers and equal terms have
    equal identifiers.
    """

    def __init__(self, carry: CarriedElements):
        self.carry = carry
        self.identifiers: dict[tuple, int] = {}
        self.ages: list[int] = []
        self.is_number: list[bool] = []
        self.draws = _rows(carry.draws, carry.num_draws)
        self.step = carry.step_function()
        self.values: dict[tuple[int, ...], int] = {}
        self.numbers: list[dict] = []
        self.origins: list[tuple[int, int]] = []

    def run(self, terms: list[str], limit: int) -> Memory | TooMany:
        """Search."""
        carry, steps = self.carry, self.carry.user_model.plan.length
        begun = [self._start(j, leaves) for j, leaves in enumerate(_unstacked(carry.run_start(), carry.num_starts))]
        first = [self._after(value, numbers, j) for j, (value, numbers) in enumerate(begun)]
        layer = {s for row in first for s in row}
        largest, seen = len(layer), set()
        after: dict[int, list[int]] = {}
        for _ in range(steps - 1):
            if len(self.values) > SEARCHED:
                return TooMany(SEARCHED, more=True)
            if (state := frozenset(layer)) in seen:
                break
            seen.add(state)
            keys = list(self.values)
            for s in layer - after.keys():
                after[s] = self._after(keys[s], self.numbers[s], len(begun) + s)
            layer = {s for before in layer for s in after[before]}
            largest = max(largest, len(layer))
        if largest > limit:
            return TooMany(largest, more=False)
        # No step begins with a value that the last step alone leads to.
        moves = [after.get(s, [-1] * carry.num_draws) for s in range(len(self.values))]
        return self._memory(np.array(first), np.array(moves), largest, terms)

    def _start(self, number: int, leaves: dict) -> tuple[tuple[int, ...], dict]:
        """Return the value at a start, and its numbers."""
        carry = self.carry
        draws = _rows(carry.starts, carry.num_starts)[number]
        value = []
        for e, element in enumerate(_flat(leaves)):
            if not carry.kept[e]:
                value.append(self._identify(("aside", e), 0))
            elif carry.unknown_start[e]:
                value.append(self._identify(("start", e, *draws[carry.begun_with[e]].tolist()), 0))
            else:
                value.append(self._identify((element.dtype.str, element.tobytes()), 0, number=True))
        return tuple(value), leaves

    def _after(self, value: tuple[int, ...], numbers: dict, source: int) -> list[int]:
        """Return the values after a step from one value, for each draw."""
        carry, reached = self.carry, []
        for k, leaves in enumerate(_unstacked(self.step(numbers), carry.num_draws)):
            new = []
            for e, element in enumerate(_flat(leaves)):
                read = [value[i] for i in np.flatnonzero(carry.from_carry[e])]
                if not carry.kept[e]:
                    new.append(value[e])
                elif carry.kinds[e].any() or not all(self.is_number[i] for i in read):
                    term = ("term", e, *self.draws[k][carry.drawn[e]].tolist(), *read)
                    new.append(self._identify(term, 1 + max((self.ages[i] for i in read), default=0)))
                else:
                    new.append(self._identify((element.dtype.str, element.tobytes()), 0, number=True))
            if (after := tuple(new)) not in self.values:
                self.values[after] = len(self.values)
                self.numbers.append(leaves)
                self.origins.append((source, k))
            reached.append(self.values[after])
        return reached

    def _identify(self, what: tuple, age: int, *, number: bool = False) -> int:
        if what not in self.identifiers:
            self.identifiers[what] = len(self.identifiers)
            self.ages.append(age)
            self.is_number.append(number)
        return self.identifiers[what]

    def _memory(self, first: np.ndarray, after: np.ndarray, largest: int, terms: list[str]) -> Memory:
        carry, values = self.carry, np.array(list(self.values))
        is_number = np.array(self.is_number)[values]
        numbers, untouched = {}, {}
        for leaf, begin, end in zip(carry.touched, carry.ends, carry.ends[1:]):
            shape = carry.shapes[leaf]
            table = np.stack([np.asarray(found[leaf]) for found in self.numbers])
            numbers[leaf] = table, is_number[:, begin:end].reshape(-1, *shape)
            untouched[leaf] = (carry.is_read & ~carry.is_touched)[begin:end].reshape(shape)
        drawn, carried = carry.terms(terms)
        labels = _numbered(values[:, carried]), _numbered(self.draws[:, drawn])
        arrays = [first, after, np.array(self.origins), *labels, *(a for pair in numbers.values() for a in pair)]
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()
        moves = Moves(first, after)
        return Memory(moves, arrays[2], numbers, untouched, max(self.ages), *labels, largest, digest)


def _numbered(rows: np.ndarray) -> np.ndarray:
    """Number the different rows of a matrix."""
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1) if rows.shape[1] else np.zeros(len(rows), int)


def _rows(draws: dict[str, np.ndarray], count: int) -> np.ndarray:
    """Return the elements of joint draws side by side, in the order in which a staged function has them."""
    return np.concatenate([np.zeros((count, 0)), *(draws[name].reshape(count, -1) for name in sorted(draws))], axis=1)


def _unstacked(leaves: dict, count: int) -> Iterator[dict]:
    """Yield rows of stacked leaves."""
    arrays = {k: np.asarray(leaf) for k, leaf in leaves.items()}
    for row in range(count):
        yield {k: array[row] for k, array in arrays.items()}


def _flat(leaves: dict) -> Iterator[Any]:
    """Yield the elements of leaves."""
    for k in sorted(leaves):
        yield from np.asarray(leaves[k]).reshape(-1)
