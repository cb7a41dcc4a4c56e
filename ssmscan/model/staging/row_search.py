"""Search the sites before a loop for those that can be moved into it; see `rows`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssmscan.model.handlers.messages import SiteMessage
from ssmscan.model.handlers.moving import RowAxis, Rows, start_name
from ssmscan.model.handlers.running import run_model
from ssmscan.model.handlers.scans import Loop
from ssmscan.model.jaxprs import stepping
from ssmscan.model.jaxprs.dataflow import Staged, stage
from ssmscan.model.jaxprs.placeholders import Shape
from ssmscan.model.jaxprs.source_lines import Mixing
from ssmscan.model.jaxprs.tracked_axis import Axis, Mark, Tracked
from ssmscan.model.jaxprs.turns import in_turn
from ssmscan.model.noise.rows import DependentRows, row_of
from ssmscan.model.staging.discovery import Plan

PyTree = Any


class OutsideSite(NamedTuple):
    """A site outside loops as it was met.

    Attributes:
        name: its name.
        shape: shape and dtype of its value.
        latent: whether it is drawn.
        apart: axes whose rows are independent.
        early: whether it stands before the results of the loop are there.
        replayed: index of the NumPyro loop that it stands in, if any.
    """

    name: str
    shape: Shape
    latent: bool
    apart: tuple[int, ...]
    early: bool
    replayed: int | None


class ArithmeticModel(NamedTuple):
    """A model that may draw noise before its loop, and that loop.

    Attributes:
        call: the model as a function of its array arguments.
        arrays: those arguments.
        plan: the NumPyro loop that engines step through; None where the loop is to be arithmetic.
        value: `functions.by_value` of it, where it has such a loop.
        direct: what the transition reads of sites outside other than by its inputs, by site, in words.
    """

    call: Callable[[list], Any]
    arrays: Sequence[Any]
    plan: Plan | None
    value: Staged | None = None
    direct: Mapping[str, str] = {}

    @property
    def main(self) -> int | None:
        """Index of the loop."""
        return None if self.plan is None else self.plan.main


# ---- the model as it stands ----------------------------------------------------------------------


def _run(
    model: ArithmeticModel, data: Sequence[Any], value_of: Callable, results: Callable[[Loop], Any]
) -> list[SiteMessage]:
    """Run the model; results of the main loop from a function, of other loops as NumPyro has them."""

    def at_loop(index: int, loop: Loop) -> Any:
        return results(loop) if index == model.main else loop.default()

    messages = run_model(lambda: model.call(list(data)), value_of, at_loop)[0]
    return [m for m in messages if m.replayed is None or m.replayed != model.main]


def meet(model: ArithmeticModel) -> list[OutsideSite]:
    """Return the sites outside the loop, in order."""
    sites: list[OutsideSite] = []

    def value_of(name: str, fn: Any) -> Any:
        try:
            return fn.sample(jax.random.key(0))
        except NotImplementedError:
            return jnp.zeros(fn.shape())

    def run(data: list) -> int:
        for m in _run(model, data, value_of, lambda loop: loop.default()):
            early = model.main is not None and m.loop <= model.main
            apart = _apart(m.fn) if m.latent and m.scale is None else ()
            sites.append(OutsideSite(m.name, m.shape, m.latent, apart, early, m.replayed))
        return 0

    jax.eval_shape(run, [Shape(a.shape, a.dtype) for a in model.arrays])
    return sites


def _apart(fn: Any) -> tuple[int, ...]:
    """Return the axes of the values of a distribution whose rows are independent."""
    found = []
    for axis in range(len(fn.shape())):
        try:
            row_of(fn, axis, jnp.zeros((), jnp.int32))
        except DependentRows:
            continue
        found.append(axis)
    return tuple(found)


def stage_outside(model: ArithmeticModel, sites: Sequence[OutsideSite]) -> tuple[Staged, list]:
    """Stage everything outside the main loop: see `Rows.staged`; also "scale" and "given" values of sites."""
    plan, table = model.plan, list(model.arrays)

    def fn(data: list, outside: dict, **main: PyTree) -> dict[str, Any]:
        out: dict[str, Any] = {"xs": (), "start": ()}

        def results(loop: Loop) -> Any:
            out["xs"], out["start"] = loop.xs, loop.init
            return main["last"], main["ys"]

        messages = _run(model, data, lambda name, _: outside[name], results)
        sample = {m.name: m for m in messages if m.fn is not None}
        out["fn"] = {n: [jnp.asarray(leaf) for leaf in jax.tree.leaves(m.fn)] for n, m in sample.items()}
        out["given"] = {n: jnp.asarray(m.value) for n, m in sample.items() if m.observed}
        out["scale"] = {n: jnp.asarray(m.scale) for n, m in sample.items() if m.scale is not None}
        out["value"] = {m.name: jnp.asarray(m.value) for m in messages if m.fn is None}
        return out

    arguments: dict[str, Any] = {"outside": {s.name: s.shape for s in sites if s.latent}}
    if plan is not None:
        arguments |= {"ys": plan.ys, "last": plan.carry}
    return in_turn(stage(fn, arguments, table, data=len(model.arrays), late=()), table, len(model.arrays)), table


# ---- what can be moved ---------------------------------------------------------------------------


class RowSearch:
    """The sites with one row for each of a number of steps, and what reaches what.

    Args:
        model: the model.
        sites: its sites outside the loop.
        staged, table: see `_stage`.
        length: number of steps.
    """

    def __init__(self, model: ArithmeticModel, sites: Sequence[OutsideSite], staged: Staged, table: list, length: int):
        self.model, self.sites, self.staged, self.table, self.length = model, sites, staged, table, length
        self.names = sorted(staged.argument("outside"))
        self.law = self._reaching("fn")
        self.value = self._reaching("value")

    def _reaching(self, entry: str) -> dict[str, list[set[str]]]:
        """Return, by key of an entry of what is staged, the latent sites that reach each of its leaves."""
        found = self.staged.reaches(entry)
        return {key: [self._named(pairs) for pairs in _leaves(tree)] for key, tree in found.items()}

    def _named(self, pairs: Iterable[tuple[str, int]]) -> set[str]:
        return {self.names[k] for argument, k in pairs if argument == "outside"}

    def run(self, declared: Collection[str]) -> tuple[Rows | None, dict[str, str]]:
        """Move all that can be, less what has to stay.

        Returns:
            What is moved, None if nothing is; and by site that is not, why.
        """
        notes: dict[str, str] = {}
        candidates = [s for s in self.sites if s.latent and s.name not in declared]
        places = {s.name: self._places(s, notes) for s in candidates}
        axes = {name: found[0] for name, found in places.items() if found}
        while axes:
            rows = self._rows(axes)
            objections = ((found & axes.keys(), why) for found, why in self._objections(rows))
            names, why = next(((found, why) for found, why in objections if found), (set(), ""))
            if not names:
                return rows, notes
            notes |= dict.fromkeys(names, why)
            axes = {name: axis for name, axis in axes.items() if name not in names}
        return None, notes

    def _places(self, site: OutsideSite, notes: dict[str, str]) -> list[RowAxis]:
        """Return the axes of which the loop takes rows, those of independent rows first; note what joins others.

        A site of which it takes none is a parameter like others, and needs no word.
        """
        shape, places = site.shape.shape, list[RowAxis]()
        for place in (RowAxis(k, first) for first in (0, 1) for k, n in enumerate(shape) if n == self.length + first):
            marks, loops = self._marks(self._of({site.name: place}))
            if loops or any(isinstance(mark, Axis) for mark in marks["xs"]):
                places.append(place)
            elif joining := [mark for mark in marks["xs"] if isinstance(mark, Mixing)]:
                notes.setdefault(site.name, f"{joining[0]} joins its rows")
        return sorted(places, key=lambda place: place.axis not in site.apart)

    def _rows(self, axes: Mapping[str, RowAxis]) -> Rows:
        law = {name: tuple(k for k, by in enumerate(leaves) if by & axes.keys()) for name, leaves in self.law.items()}
        computed = {name for name, leaves in self.value.items() if leaves[0] & axes.keys()}
        reached = {name: leaves for name, leaves in law.items() if leaves and name not in axes}
        rows = self._of(axes)._replace(
            reached=reached,
            computed=computed,
            read_in={s.replayed for s in self.sites if s.name in computed or s.name in reached} - {None},
        )
        return rows._replace(loops=self._marks(rows)[1])

    def _of(self, axes: Mapping[str, RowAxis]) -> Rows:
        """Return rows, without what follows from them."""
        data = len(self.model.arrays)
        return Rows(axes, self.length, self.model.main, self.staged, self.table, data, {}, (), (), ())

    def _marks(self, rows: Rows) -> tuple[dict[str, list[Mark]], tuple[int, ...]]:
        """Return what inputs and start of the main loop are, by leaf, and which equations run over the rows."""
        found: list[Any] = []

        def run(arrays: list, outside: dict, t: Any) -> int:
            one = {name: place.row(outside[name]) for name, place in rows.axes.items()}
            start = {name: row for name, row in one.items() if rows.axes[name].first}
            first = rows.step(arrays, outside, start, None, None)
            moved = rows.step(arrays, outside, one, t, first.state)
            found.extend([{e: [a.mark for a in _leaves(moved.result[e])] for e in ("xs", "start")}, moved.loops])
            return 0

        shapes = [Shape(jnp.shape(a), jnp.result_type(a)) for a in self.table]
        jax.eval_shape(run, shapes, self.staged.argument("outside"), Shape((), jnp.int32))
        return found[0], found[1]

    def _objections(self, rows: Rows) -> Iterator[tuple[set[str], str]]:
        """Return sites that have to stay, with the reason."""
        for site in self.sites:
            if site.name in rows.axes and rows.axes[site.name].axis not in site.apart:
                yield {site.name}, "its rows depend on each other, or are scaled"
        for entry, what in (("scale", "the scale of"), ("given", "the value that is given to")):
            for name, leaves in self._reaching(entry).items():
                yield set().union(*leaves), f"it acts on {what} '{name}'"
        for site in self.sites:
            if (site.early or site.name in rows.axes) and site.name in self.law:
                yield set().union(*self.law[site.name]), f"it acts on the distribution of '{site.name}'"
        for name, what in self.model.direct.items():
            yield {name}, f"it reaches {what} otherwise than by the inputs of its step"
        (marks, _), steps = self._marks(rows), Axis(0, self.length)
        for mark, pairs in zip(marks["start"], _leaves(self.staged.reaches("start"))):
            if not stepping.is_before(mark):
                yield self._named(pairs), "rows of its steps act on the start of the loop"
        for mark, pairs in zip(marks["xs"], _leaves(self.staged.reaches("xs"))):
            if isinstance(mark, Mixing):
                yield self._named(pairs), f"{mark} joins its rows"
            elif mark is not None and not stepping.in_order(mark, steps):
                yield self._named(pairs), "the loop does not take its rows in their order, one a step"
        needed = self._named(self.staged.reaching(rows.loops))
        for late in self._late(rows):
            if late in needed:
                yield set(rows.axes), f"the loop needs '{late}', which is drawn after a site that depends on the loop"
        taken = {site.name for site in self.sites}
        yield {n for n, place in rows.axes.items() if place.first and start_name(n) in taken}, "its name is taken"

    def _late(self, rows: Rows) -> list[str]:
        """Return the latent sites that are drawn when the loop has run."""
        if rows.main is not None:
            return [site.name for site in self.sites if site.latent and not site.early]
        met = [site.name in rows.reached or site.name in rows.computed for site in self.sites]
        first = met.index(True) if True in met else len(met)
        return [site.name for site in self.sites[first:] if site.latent and site.name not in rows.axes]


def _leaves(tree: PyTree) -> list[Any]:
    """Return the leaves of a tree of tracked variables or of sets."""
    return jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, set | Tracked))
