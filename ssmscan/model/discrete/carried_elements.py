"""What each element of the carry is computed from: draws, elements before the step, or what no trace can know.

The leaves of the carry that discrete draws reach are taken element by element (`element_reach`), since a leaf can hold
a window of several steps, or a regime beside a count.  Of an element that densities read, at once or later, it is found
which draws and which elements before the step reach it, and whether anything reaches it that is no number at trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.element_reach import Elements, element_reach, known, uniform
from ssmscan.model.jaxprs.placeholders import zeros
from ssmscan.model.noise.support import joint_values, num_joint
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.user_model import UserModel

WORDS = {"theta": "parameters", "data": "data", "carry": "other states", "x": "inputs", "noise": "noise"}
WORDS |= {"element": "what differs between elements"}
_KINDS = tuple(WORDS)


class Endless(NamedTuple):
    """A term that holds itself.

    Attributes:
        leaf, source: a leaf of the carry, and one before the step that it is computed from.
        reached: by what it is no number, of `WORDS`.
    """

    leaf: int
    source: int
    reached: tuple[str, ...]


class CarriedElements:
    """What each element of the touched leaves is computed from, and numbers of it."""

    def __init__(
        self,
        user_model: UserModel,
        starts: Sequence[TracedSite],
        sites: Sequence[TracedSite],
        touched: list[int],
        start: Staged,
        step: Staged,
        whole: tuple[Staged, Staged],
    ):
        self.user_model, self.touched, self.start, self.step = user_model, touched, start, step
        self.starts, self.num_starts = joint_values(starts)[0], num_joint(starts)
        self.draws, self.num_draws = joint_values(sites)[0], num_joint(sites)
        shapes = jax.tree.leaves(step.argument("carry"))
        self.shapes = {k: tuple(shapes[k].shape) for k in touched}
        self.ends = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes.values())])
        self.fixed = self._passed_on(*whole)
        self.begun_with, self.unknown_start = self._at_start()
        reached = self._followed(step.select(leaves=touched))["leaves"]
        self.drawn, self.from_carry, self.kinds = self._of_step([reached[k] for k in touched])
        self.is_touched = self._closed(_any(self.begun_with, 1) | _any(self.drawn, 1))
        self.is_read = self._read_later(self.terms(step.names("terms"))[1])
        self.kept = self.is_touched & self.is_read
        # Elements that are terms after some step.
        self.no_number = self._closed(_any(self.kinds, 1) | self.unknown_start | ~self.kept)

    def _passed_on(self, start: Staged, step: Staged) -> dict[int, np.ndarray]:
        """Return the leaves that start with numbers and never change."""
        names = list(step.in_trees)
        first = len(step.shared) + sum(step.in_trees[n].num_leaves for n in names[: names.index("carry")])
        positions = jax.tree.unflatten(step.out_tree, range(step.out_tree.num_leaves))["leaves"]
        same = [k for k, i in positions.items() if step.jaxpr.outvars[i] is step.jaxpr.invars[first + k]]
        begun = self._followed(start.select(leaves=same))["leaves"]
        return {k: leaf.value for k, leaf in begun.items() if leaf.value is not None}

    def _followed(self, staged: Staged) -> Any:
        """Follow a start or a step; atoms are elements of draws, then of touched leaves, then the kinds of the rest."""
        draws = jax.tree.leaves(staged.argument("draws"))
        sizes = [int(np.prod(shape.shape)) for shape in draws]
        carried = self.ends[-1] if "carry" in staged.in_trees else 0
        num_atoms = sum(sizes) + carried + len(_KINDS)

        def single(shape: tuple[int, ...], first: int) -> Elements:
            size = int(np.prod(shape))
            return Elements(np.eye(num_atoms, dtype=bool)[first : first + size].reshape(*shape, num_atoms))

        def kind(name: str, shape: tuple[int, ...]) -> Elements:
            mask = np.zeros(num_atoms, bool)
            mask[num_atoms - len(_KINDS) + _KINDS.index(name)] = True
            return uniform(shape, mask)

        arguments: dict[str, list[Elements]] = {}
        for name in staged.in_trees:
            leaves = jax.tree.leaves(staged.argument(name))
            if name == "draws":
                firsts = np.cumsum([0, *sizes])
                arguments[name] = [single(leaf.shape, firsts[i]) for i, leaf in enumerate(leaves)]
            elif name == "carry":
                arguments[name] = [kind("carry", leaf.shape) for leaf in leaves]
                for k, end in zip(self.touched, self.ends):
                    arguments[name][k] = single(leaves[k].shape, sum(sizes) + end)
                for k, value in self.fixed.items():
                    arguments[name][k] = known(value, num_atoms)
            else:
                arguments[name] = [kind(name, leaf.shape) for leaf in leaves]
        table, data = self.user_model.table, self.user_model.data
        shared = [
            kind("data", table[i].shape) if i < data or _is_key(table[i]) else known(table[i], num_atoms)
            for i in staged.shared
        ]
        return element_reach(staged, num_atoms, shared, arguments)

    def _at_start(self) -> tuple[np.ndarray, np.ndarray]:
        """Return for each touched element which draws reach it at the start, and whether anything else does."""
        leaves = self._followed(self.start.select(leaves=self.touched))["leaves"]
        rows = np.concatenate([leaves[k].reach.reshape(-1, leaves[k].reach.shape[-1]) for k in self.touched])
        return rows[:, : -len(_KINDS)], _any(rows[:, -len(_KINDS) :], 1)

    def _of_step(self, results: Sequence[Elements]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each element of results which draws, which elements before the step, which kinds reach it."""
        num_drawn = sum(int(np.prod(shape.shape)) for shape in jax.tree.leaves(self.step.argument("draws")))
        num_atoms = num_drawn + self.ends[-1] + len(_KINDS)
        rows = np.concatenate(
            [np.zeros((0, num_atoms), bool), *(leaf.reach.reshape(-1, num_atoms) for leaf in results)]
        )
        first, last = num_drawn, num_drawn + self.ends[-1]
        return rows[:, :first], rows[:, first:last], rows[:, last:]

    def _closed(self, reached: np.ndarray) -> np.ndarray:
        while (grown := reached | (self.from_carry & reached).any(1)).sum() > reached.sum():
            reached = grown
        return reached

    def _read_later(self, found: np.ndarray) -> np.ndarray:
        """Return the elements that some are computed from over any number of steps, these included."""
        while (grown := found | self.from_carry[found].any(0)).sum() > found.sum():
            found = grown
        return found

    def endless(self) -> Endless | None:
        """Find a term that holds itself."""
        left = self.no_number & self.kept
        within = self.from_carry & left & left[:, None]
        while left.any() and not (within.any(1) == left).all():
            left = within.any(1)
            within = within & left & left[:, None]
        if not left.any():
            return None
        element = int(np.argmax(left))
        before = self._read_later(np.arange(len(left)) == element)
        words = [WORDS[name] for name, flag in zip(_KINDS, self.kinds[before].any(0)) if flag]
        if not words:
            words = ["a start that is known only when the model is run"]
        return Endless(self.leaf_of(element), self.leaf_of(int(np.argmax(within[element]))), tuple(words))

    def leaf_of(self, element: int) -> int:
        """Return the leaf that an element belongs to."""
        return self.touched[int(np.searchsorted(self.ends, element, side="right")) - 1]

    def terms(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return which draws and which elements of the carry reach any of some log-densities of the step."""
        found = self._followed(self.step.select(terms=names))["terms"]
        drawn, carried, _ = self._of_step([found[name] for name in names])
        return _any(drawn, 0), _any(carried, 0)

    def run_start(self) -> dict[int, jax.Array]:
        """Evaluate the start for each of its draws, anything unknown a placeholder: leaves, J in front."""
        start = self.start.select(leaves=self.touched)
        given = {n: zeros(start.argument(n)) for n in start.in_trees if n != "draws"}

        def one(draws: dict) -> dict:
            return start(self.user_model.table, draws=draws, **given)["leaves"]

        return jax.jit(jax.vmap(one, axis_size=self.num_starts))(self.starts)

    def step_function(self) -> Any:
        """Make a function of touched leaves that evaluates the step for each draw, placeholders for the unknown."""
        step = self.step.select(leaves=self.touched)
        given = {n: zeros(step.argument(n)) for n in step.in_trees if n not in ("draws", "carry")}
        shapes, tree = jax.tree.flatten(step.argument("carry"))

        def each(leaves: dict) -> dict:
            filled = [
                jnp.asarray(leaves.get(k, self.fixed.get(k, zeros(shape))), shape.dtype)
                for k, shape in enumerate(shapes)
            ]
            carry = jax.tree.unflatten(tree, filled)

            def one(draws: dict) -> dict:
                return step(self.user_model.table, carry=carry, draws=draws, **given)["leaves"]

            return jax.vmap(one, axis_size=self.num_draws)(self.draws)

        return jax.jit(each)


def _any(flags: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(flags.any(axis))


def _is_key(array: Any) -> bool:
    return jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended)
