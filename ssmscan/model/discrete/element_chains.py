"""Discrete states of elements that do not interact: one chain for each, instead of one for all.

A plate of M animals with two states each has 2^M joint values, and so has the sum over their paths; but
where no equation joins two animals it is a product of M sums over two values.  The draws and the leaves
of the carry that they touch are followed along the element axis through the staged start and step
(`axes`).  If every density comes out as a sum over elements, and every touched leaf with the axis,
they are staged again for one element; what the draws do not touch, common to all elements, is cut where
an element meets it.  Constants in the densities are counted once, apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.model.discrete.conditional import shapes_of
from ssmscan.model.jaxprs.axes import constants, follow_staged
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape, sum_of, zeros
from ssmscan.model.jaxprs.source_lines import Mixing
from ssmscan.model.jaxprs.tracked_axis import Axis, Mark, MixesRows, Sum, Tracked, Window
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.user_model import UserModel

PyTree = Any
ELEMENT = Shape((), "int32")
_LATER = Mixing("a state that is read before it is made")
_WHOLE = Mixing("a state that all elements share")
_CHOICES = 16
"""How many choices of axes are tried for leaves that are computed from themselves."""


class ElementChains(NamedTuple):
    """The start and the step of one element; arguments as in `conditional`, and the number of the element.

    Attributes:
        size: M, number of elements.
        axes: for each discrete site, the axis of its value that counts elements.
        start, step: discrete values and touched leaves have one row along that axis.
        start_rest, step_rest: log-densities that belong to no element, a scalar.
    """

    size: int
    axes: dict[str, int]
    start: Staged
    step: Staged
    start_rest: Staged
    step_rest: Staged

    def rows_of(self, sites: Sequence[TracedSite]) -> tuple[TracedSite, ...]:
        """Return the sites of one element."""
        return tuple(site._replace(shape=_with_rows(site.shape, self.axes[site.name])) for site in sites)


def split(
    user_model: UserModel,
    starts: Sequence[TracedSite],
    sites: Sequence[TracedSite],
    touched: set[int],
    start: Staged,
    step: Staged,
) -> ElementChains | Mixing | None:
    """Split a model into elements.

    Args:
        user_model: the model.
        starts: discrete initial sites.
        sites: discrete innovations.
        touched: leaves of the carry that they reach and densities read.
        start, step: of the whole model.

    Returns:
        The chains of the elements; or what joins them; or None where the sites have no axis in common.
    """
    found: Mixing | None = None
    for size, axes in _candidates((*starts, *sites)):
        try:
            return _Splitter(user_model, size, axes, touched, start, step).split(starts, sites)
        except MixesRows as mixes:
            found = found or mixes.origin
    return found


def _candidates(sites: Sequence[TracedSite]) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield choices of an axis for each site, all of one size, the largest first."""
    common = set.intersection(*(set(site.shape) for site in sites))
    for size in sorted(common - {0, 1}, reverse=True):
        places = [[k for k, n in enumerate(site.shape) if n == size] for site in sites]
        for choice in itertools.product(*places):
            yield size, {site.name: k for site, k in zip(sites, choice)}


class _Splitter:
    """Follows one choice of axes; `MixesRows` where elements meet."""

    def __init__(
        self, user_model: UserModel, size: int, axes: dict[str, int], touched: set[int], start: Staged, step: Staged
    ):
        self.user_model, self.size, self.axes, self.touched = user_model, size, axes, touched
        self.start, self.step = start.select("leaves", "terms"), step.select("leaves", "terms")
        self.leaf_axes: dict[int, Axis] = {}

    def split(self, starts: Sequence[TracedSite], sites: Sequence[TracedSite]) -> ElementChains:
        user_model, plan = self.user_model, self.user_model.plan
        theta, carry, x = (self.step.argument(name) for name in ("theta", "carry", "x"))
        start_noise, noise = self.start.argument("noise"), self.step.argument("noise")
        self._find_leaf_axes(sites)
        one_start, one_step = (self._draw_shapes(group, 1) for group in (starts, sites))
        one_carry = jax.tree.unflatten(jax.tree.structure(plan.carry), self._carry_shapes(jax.tree.leaves(carry), 1))

        def start_fn(data, theta, noise, draws, element):
            window = Window(self.size, element)
            args = {"theta": constants(theta), "noise": constants(noise), "draws": self._track_draws(draws)}
            return self._results(self._follow(self.start, data, args, window), window)

        def step_fn(data, theta, carry, x, noise, draws, element):
            window = Window(self.size, element)
            args = {"theta": constants(theta), "noise": constants(noise), "draws": self._track_draws(draws)}
            args |= {"carry": self._track_carry(carry), "x": constants(x)}
            return self._results(self._follow(self.step, data, args, window), window)

        def start_rest(data, theta, noise):
            window = Window(self.size)
            none_drawn = self._track_draws(zeros(self._draw_shapes(starts, 0)))
            args = {"theta": constants(theta), "noise": constants(noise), "draws": none_drawn}
            return {"log_prob": sum_of(self._terms(self._follow(self.start, data, args, window), window).values())}

        def step_rest(data, theta, carry, x, noise):
            window = Window(self.size)
            none = self._carry_shapes(jax.tree.leaves(carry), 0)
            leaves = [
                zeros(s) if k in self.touched else a for k, (a, s) in enumerate(zip(jax.tree.leaves(carry), none))
            ]
            none_drawn = self._track_draws(zeros(self._draw_shapes(sites, 0)))
            args = {"theta": constants(theta), "noise": constants(noise), "draws": none_drawn}
            args |= {"carry": self._track_carry(leaves), "x": constants(x)}
            return {"log_prob": sum_of(self._terms(self._follow(self.step, data, args, window), window).values())}

        start: dict[str, PyTree] = {"theta": theta, "noise": start_noise}
        step: dict[str, PyTree] = {"theta": theta, "carry": plan.carry, "x": x, "noise": noise}
        return ElementChains(
            self.size,
            self.axes,
            user_model.stage(start_fn, {**start, "draws": one_start, "element": ELEMENT}),
            user_model.stage(step_fn, {**step, "carry": one_carry, "draws": one_step, "element": ELEMENT}),
            user_model.stage(start_rest, start),
            user_model.stage(step_rest, step),
        )

    def _find_leaf_axes(self, sites: Sequence[TracedSite]) -> None:
        """Find the axis of each touched leaf, before and after a step.

        A leaf that is computed from draws has theirs; one that is computed from these leaves follows.  For one that is
        computed from itself, a duration, every axis of the right size is tried.
        """
        axes: dict[int, Axis] = {}
        for _ in range(len(self.touched) + 1):
            marks = self._marks_after(sites, axes)
            found = {k: mark for k, mark in marks.items() if self._is_whole(mark)}
            if found.keys() == axes.keys():
                break
            axes = found
        rest = sorted(self.touched - axes.keys())
        shapes = jax.tree.leaves(self.step.argument("carry"))
        places = [[n for n, size in enumerate(shapes[k].shape) if size == self.size] for k in rest]
        for choice in itertools.islice(itertools.product(*places), _CHOICES):
            guess = axes | {k: Axis(n, self.size) for k, n in zip(rest, choice)}
            marks = self._marks_after(sites, guess)
            if marks == guess:
                self.leaf_axes = guess
                return
        for mark in (marks[k] for k in rest):
            self._axis(mark)
        raise MixesRows(_WHOLE)

    def _marks_after(self, sites: Sequence[TracedSite], axes: dict[int, Axis]) -> dict[int, Mark]:
        """Follow one step: the marks of the touched leaves after it, from those of some before it."""
        self.leaf_axes, marks = axes, {}

        def fn(data, theta, carry, x, noise, draws):
            leaves = [
                Tracked(None, _LATER) if k in self.touched and k not in axes else Tracked(leaf, axes.get(k))
                for k, leaf in enumerate(carry)
            ]
            args = {"theta": constants(theta), "noise": constants(noise), "draws": self._track_draws(draws)}
            args |= {"carry": leaves, "x": constants(x)}
            results = self._follow(self.step, data, args, Window(self.size, jnp.zeros((), jnp.int32)))
            marks.update({k: results["leaves"][k].mark for k in self.touched})
            return 0

        given = {name: self.step.argument(name) for name in ("theta", "carry", "x", "noise")}
        given["carry"] = self._carry_shapes(jax.tree.leaves(given["carry"]), 1)
        jax.eval_shape(fn, self.user_model.data_shapes(), *given.values(), self._draw_shapes(sites, 1))
        return marks

    def _is_whole(self, mark: Mark) -> TypeGuard[Axis]:
        """Return whether a variable has the axis, with all its rows in their place."""
        return isinstance(mark, Axis) and mark.axis is not None and mark == Axis(mark.axis, self.size)

    def _axis(self, mark: Mark) -> Axis:
        if self._is_whole(mark):
            return mark
        raise MixesRows(mark if isinstance(mark, Mixing) else mark.origin if isinstance(mark, Sum) else _WHOLE)

    def _follow(self, staged: Staged, data: list, args: dict, window: Window) -> PyTree:
        return follow_staged(staged, self.user_model.arrays(data), args, window)

    def _results(self, results: PyTree, window: Window) -> dict:
        leaves = {}
        for k in sorted(self.touched):
            leaf, axis = results["leaves"][k], self.leaf_axes[k]
            if leaf.mark is None:
                # A start that no draw reaches is common to the elements; each begins with its row.
                if leaf.value.shape[axis.axis or 0] != self.size:
                    raise MixesRows(_WHOLE)
                leaves[k] = window.rows(leaf.value, axis)
            elif self._axis(leaf.mark) == axis:
                leaves[k] = leaf.value
            else:
                raise MixesRows(_WHOLE)
        return {"leaves": leaves, "terms": self._terms(results, window)}

    def _terms(self, results: PyTree, window: Window) -> dict[str, Array]:
        return {name: window.contribution(term) for name, term in results["terms"].items()}

    def _track_draws(self, draws: dict[str, Array]) -> list[Tracked]:
        return [Tracked(draws[name], Axis(self.axes[name], self.size)) for name in sorted(draws)]

    def _track_carry(self, carry: PyTree) -> list[Tracked]:
        return [Tracked(leaf, self.leaf_axes.get(k)) for k, leaf in enumerate(jax.tree.leaves(carry))]

    def _draw_shapes(self, sites: Sequence[TracedSite], rows: int) -> dict[str, Shape]:
        return {n: Shape(_with_rows(s.shape, self.axes[n], rows), s.dtype) for n, s in shapes_of(sites).items()}

    def _carry_shapes(self, carry: list, rows: int) -> list[Shape]:
        """Return the shapes of the leaves of a carry whose touched leaves have a number of rows."""
        shapes = [Shape(leaf.shape, leaf.dtype) for leaf in carry]
        for k, axis in self.leaf_axes.items():
            assert axis.axis is not None
            shapes[k] = Shape(_with_rows(shapes[k].shape, axis.axis, rows), shapes[k].dtype)
        return shapes


def _with_rows(shape: tuple[int, ...], axis: int, rows: int = 1) -> tuple[int, ...]:
    return (*shape[:axis], rows, *shape[axis + 1 :])
