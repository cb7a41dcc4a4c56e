"""The weights of a chain of discrete draws, from the staged start and step at given parameters and noise.

They are evaluated where they change and nowhere else: a transition matrix that depends on parameters alone once, the
density of an observation for each step and draw, a density that depends on the step and on the past for each step and
each pair of a value of the memory and a draw between which it differs.  What the carry holds at a value of the memory
is either known (`memory`: numbers) or computed by the moves that lead to it, as many rounds of them as it goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.model.discrete.enumeration import Reach, Summed
from ssmscan.model.discrete.forward_backward import Chain
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import sum_of, zeros
from ssmscan.model.noise.support import joint_values, num_joint
from ssmscan.model.protocols import Theta
from ssmscan.model.statespace.marginal import LoopWithData

PyTree = Any


def filled(carry: PyTree, leaves: Mapping[int, Array]) -> PyTree:
    """Return a carry with some leaves, the others being placeholders that nothing reads."""
    flat, tree = jax.tree.flatten(carry)
    return jax.tree.unflatten(tree, [leaves[k] if k in leaves else zeros(shape) for k, shape in enumerate(flat)])


class ChainWeights:
    """The weights of one chain.

    Args:
        summed: what is summed.
        core: the loop with its data.
        carry: the shapes of the carry.
        theta: parameters.
        noise: noise of the continuous initial sites.
        series: (leaves that no draw touches before each step, inputs, noise), T in front.
        start, step: staged, as in `conditional`.
        element: the argument that says which element it is, or none.
    """

    def __init__(
        self,
        summed: Summed,
        core: LoopWithData,
        carry: PyTree,
        theta: Theta,
        noise: dict,
        series: tuple,
        start: Staged,
        step: Staged,
        element: dict[str, Array],
    ):
        self.summed, self.core, self.carry, self.theta = summed, core, carry, theta
        self.noise, self.series, self.start, self.step, self.element = noise, series, start, step, element
        self.sites, self.initial = summed.of_one(summed.sites), summed.of_one(summed.initial)
        self.num_draws, self.num_starts = num_joint(self.sites), num_joint(self.initial)
        self.memory, self.steps = summed.memory, len(jax.tree.leaves(series)[0])

    def chain(self) -> Chain:
        """Evaluate them where they change and nowhere else."""
        start = self.start.select("leaves", "terms").bind(self.core.arrays, theta=self.theta)
        draws = joint_values(self.initial)[0]
        begun = _for_all(lambda d: start(noise=self.noise, draws=d, **self.element), draws, self.num_starts)
        log_start = jnp.broadcast_to(sum_of(begun["terms"].values()), (self.num_starts,))

        # The step alone: densities of the draws of this step.
        alone = self._terms(lambda r: not r.past and not r.time)()
        in_time = self._terms(lambda r: not r.past and r.time)
        emission = alone + jax.vmap(in_time)(*self.series)

        # From the start to the first step, then from step to step.
        joined, (path, x, e) = self._terms(lambda r: r.past), self._at(0)
        before = {k: begun["leaves"][k] for k in self.summed.touched}
        first = jax.vmap(lambda old: joined(self._filled(path, old), x, e), axis_size=self.num_starts)(before)
        still, moving = self._tables(before)
        same = self._terms(lambda r: r.past and not r.time)
        constant = jax.vmap(same, axis_size=len(self.memory.moves.after))(still)
        return Chain(log_start, first, constant, self._varying(still, moving), emission)

    def _varying(self, still: dict, moving: dict) -> Array | None:
        """Evaluate the densities that depend on the step and on the past, (T - 1, S, K)."""
        memory = self.memory
        if self.steps == 1 or not any(reach.past and reach.time for reach in self.summed.terms.values()):
            return None
        (values, of_value), (draws, of_draw) = map(_examples, (memory.value_labels, memory.draw_labels))
        change = self._terms(lambda r: r.past and r.time, draws)

        def labelled(now: tuple, leaves: dict) -> Array:
            path, x, e = now
            each = jax.vmap(lambda old: change(self._filled(path, old), x, e), axis_size=len(values))
            return each({k: leaf[values] for k, leaf in leaves.items()})

        def moves(now: tuple, old: dict) -> Array:
            return labelled(now, {**still, **old})[of_value][:, of_draw]

        return jax.vmap(moves)(self._at(slice(1, None)), {k: table[:-1] for k, table in moving.items()})

    def _filled(self, path: dict, leaves: dict) -> dict:
        """Return all leaves before a step, from those that no draw touches and those of a value of the memory."""
        touched = {k: self._pick(k, path[k], leaf) if k in self.memory.mixed else leaf for k, leaf in leaves.items()}
        return {**path, **touched}

    def _pick(self, k: int, path: Array, leaf: Array) -> Array:
        """Choose between elements of a leaf that no draw touches, and the others."""
        return jnp.where(self.memory.untouched[k], path, leaf)

    def _tables(self, begun: dict) -> tuple[dict, dict]:
        """Compute leaves for each value of the memory, after a step: the same at all steps, and T in front.

        Args:
            begun: the leaves at each start.
        """
        still = {k: self._begin(k, leaf) for k, leaf in begun.items() if not self.summed.touched[k].time}
        moving = {k: self._begin(k, leaf) for k, leaf in begun.items() if self.summed.touched[k].time}
        after = self._after_moves(begun, list(still))
        for _ in range(self.memory.rounds):
            still = after(still)
        after = self._after_moves(begun, list(moving))
        rows = {k: jnp.broadcast_to(table, (self.steps, *table.shape)) for k, table in moving.items()}
        for _ in range(self.memory.rounds):
            before = {k: jnp.concatenate([moving[k][None], table[:-1]]) for k, table in rows.items()}
            rows = jax.vmap(lambda now, old: after({**still, **old}, *now))(self.series, before)
        return still, rows

    def _begin(self, k: int, leaf: Array) -> Array:
        """Return the numbers of a leaf for each value of the memory, (S, ...); what is no number is as at a start."""
        first = jnp.broadcast_to(leaf[0], (len(self.memory.moves.after), *leaf.shape[1:]))
        return self._with_numbers(k, first)

    def _with_numbers(self, k: int, table: Array) -> Array:
        if k not in self.memory.numbers:
            return table
        numbers, is_number = self.memory.numbers[k]
        return jnp.where(is_number, jnp.asarray(numbers, table.dtype), table)

    def _after_moves(self, begun: dict, wanted: list[int]) -> Callable[..., dict]:
        """Make a function of (leaves, path, x, noise) that computes leaves after the moves to each value."""
        numbers = self.memory.numbers
        terms = [k for k in wanted if k not in numbers or not (numbers[k][1] | self.memory.untouched[k]).all()]
        step = self.step.select(leaves=terms).bind(self.core.arrays, theta=self.theta)
        source, draw = self.memory.origins.T
        draws = {name: jnp.asarray(values)[draw] for name, values in joint_values(self.sites)[0].items()}

        def after(leaves: dict, path: dict | None = None, x: PyTree = None, noise: PyTree = None) -> dict:
            here = {} if noise is None else {"x": x, "noise": noise}
            old = {k: jnp.concatenate([begun[k], leaf])[source] for k, leaf in leaves.items()}

            def one(old: dict, d: dict) -> dict:
                carry = filled(self.carry, self._filled(path or {}, old))
                return step(carry=carry, draws=d, **here, **self.element)["leaves"]

            new = jax.vmap(one, axis_size=len(draw))(old, draws) if terms else {}
            return {k: self._with_numbers(k, new.get(k, leaves[k])) for k in wanted}

        return after

    def _terms(self, which: Callable[[Reach], bool], rows: np.ndarray | None = None) -> Callable:
        """Sum some densities of a step, for each value of its draws or some of them: (leaves, x, noise) -> (K,)."""
        dtype = jnp.result_type(float)
        draws = joint_values(self.sites)[0]
        count = self.num_draws if rows is None else len(rows)
        if rows is not None:
            draws = {name: values[rows] for name, values in draws.items()}
        names = [name for name, reach in self.summed.terms.items() if which(reach)]
        if not names:
            return lambda *_: jnp.zeros((count,), dtype)
        bound = self.step.select(terms=names).bind(self.core.arrays, theta=self.theta)

        def evaluate(leaves: Mapping[int, Array] | None = None, x: PyTree = None, noise: PyTree = None) -> Array:
            # What differs between steps is left out where the result is the same at all.
            here, carry = {} if noise is None else {"x": x, "noise": noise}, filled(self.carry, leaves or {})

            def one(d: dict) -> Array:
                terms = bound(carry=carry, draws=d, **here, **self.element)["terms"]
                return jnp.asarray(sum_of(terms.values()), dtype)

            return _for_all(one, draws, count)

        return evaluate

    def _at(self, rows: slice | int) -> tuple:
        return jax.tree.map(lambda a: a[rows], self.series)


def _for_all(fn: Callable, values: dict, count: int) -> Any:
    return jax.vmap(fn, axis_size=count)(values)


def _examples(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each label stands first, and the labels."""
    return np.unique(labels, return_index=True)[1], labels
