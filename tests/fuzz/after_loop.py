"""Random code after a loop, taken apart into its steps: `python -m tests.fuzz.after_loop [programs] [first seed]`.

A program moves the elements of a path, joins them and others, and observes what it has made.  Whether it is a sum over
the steps is decided from outside, by differences: f is one if for all steps s and t, and rows in their place,

    f(both replaced) - f(s replaced) - f(t replaced) + f(neither) = 0.

A program is acceptable if this holds at three random points, of data and index arrays too.  Of one that is accepted the
parts of the steps and the rest must add up to the whole, to 1e-9 in float64.  Printed are what is accepted of the
acceptable, what is wrong (which there may not be), and the equations that are blamed for what is missing.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.model.jaxprs.axes import constants, follow_staged
from ssmscan.model.jaxprs.dataflow import Staged, stage
from ssmscan.model.jaxprs.separate import ROWS, WHOLE, Separated
from ssmscan.model.jaxprs.tracked_axis import Axis, MixesRows, Tracked, Window
from tests.fuzz.programs import D, Program, T

POINTS = 3


class Outcome(NamedTuple):
    """What became of a program.

    Attributes:
        acceptable: whether it is a sum over the steps.
        accepted: whether it was taken apart.
        as_rows: whether it was, by following one axis.
        error: largest difference of the sum of the parts from the whole, where accepted.
        blamed: the primitive, where not.
        written: what it does.
    """

    acceptable: bool
    accepted: bool
    as_rows: bool
    error: float
    blamed: str
    written: str


def judge(seed: int) -> Outcome:
    """Write a program, take it apart, and compare."""
    program = Program(seed)
    table: list = []
    random = np.random.default_rng([seed, 1])
    points = [
        {**program.draw(random), "x0": jnp.asarray(random.normal(size=D)), "theta": jnp.asarray(random.normal())}
        for _ in range(POINTS)
    ]
    names = sorted(program.data)
    data = [points[0][name] for name in names]
    table += data
    arguments = {
        "outside": {name: jax.ShapeDtypeStruct(points[0][name].shape, float) for name in ("theta", "x0")},
        "ys": jax.ShapeDtypeStruct((T, D), float),
    }

    def fn(data: list, outside: dict, ys: jax.Array) -> dict:
        return {"f": program(ys, {**dict(zip(names, data)), **outside})}

    staged = stage(fn, arguments, table, data=len(data), late=())
    known = [None if i < len(data) else np.asarray(table[i]) for i in staged.shared]
    marks = {"outside": {"theta": WHOLE, "x0": WHOLE}, "ys": ROWS}
    separated = Separated(staged, known, T, marks)
    accepted = not separated.mixing
    by_row = _by_row(staged)

    @jax.jit
    def evaluate(arrays: list, outside: dict, path: jax.Array, others: jax.Array) -> tuple:
        def f(ys: jax.Array) -> jax.Array:
            return staged(arrays, outside=outside, ys=ys)["f"]

        one = jax.vmap(lambda t: f(path.at[t].set(others[t])))(jnp.arange(T))
        pairs = jnp.array(list(combinations(range(T), 2)))
        both = jax.vmap(lambda st: f(path.at[st].set(others[st])))(pairs)
        interactions = both - one[pairs[:, 0]] - one[pairs[:, 1]] + f(path)
        sums = []
        if accepted:
            each = jax.vmap(lambda t, y: separated.terms(arrays, {"outside": outside, "ys": y}, t)["f"])
            rest = separated.terms(arrays, {"outside": outside, "ys": path[0]}, None)["f"]
            sums.append(each(jnp.arange(T), path).sum() + rest)
        if by_row is not None:
            sums.append(by_row(arrays, outside, path))
        return f(path), jnp.abs(interactions).max() / (1 + jnp.abs(both).max()), jnp.array(sums)

    acceptable, error = True, 0.0
    for point in points:
        arrays = [*(point[name] for name in names), *table[len(names) :]]
        outside = {name: point[name] for name in ("theta", "x0")}
        path, others = (jnp.asarray(random.normal(size=(T, D))) for _ in range(2))
        whole, interaction, sums = jax.device_get(evaluate(arrays, outside, path, others))
        acceptable &= bool(interaction < 1e-9)
        error = max([error, *(np.abs(sums - whole) / (1 + np.abs(whole)))])
    blamed = "" if accepted else next(iter(separated.mixing.values())).primitive
    return Outcome(acceptable, accepted, by_row is not None, error, blamed, " ".join(program.steps))


def _by_row(staged: Staged) -> Callable | None:
    """Return the sum of the windows of one axis that is followed; None where rows meet."""

    def windows(arrays: list, outside: dict, path: jax.Array) -> jax.Array:
        def part(rows: jax.Array, window: Window) -> jax.Array:
            arguments = {"outside": constants(outside), "ys": Tracked(rows, Axis(0, T))}
            return window.contribution(follow_staged(staged, arrays, arguments, window)["f"])

        each = jax.vmap(lambda t, y: part(y[None], Window(T, t)))(jnp.arange(T), path)
        return each.sum() + part(path[:0], Window(T)) + part(path[:0], Window(T, end=True))

    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in staged.jaxpr.invars[: len(staged.shared)]]
    whole = [jax.ShapeDtypeStruct((), float)] * (max(staged.shared, default=-1) + 1)
    for position, shape in zip(staged.shared, shapes):
        whole[position] = shape
    try:
        jax.eval_shape(windows, whole, staged.argument("outside"), jax.ShapeDtypeStruct((T, D), float))
    except MixesRows:
        return None
    return windows


def report(outcomes: list[Outcome]) -> str:
    """Print what was accepted."""
    acceptable = [o for o in outcomes if o.acceptable]
    accepted = [o for o in acceptable if o.accepted]
    rows = sum(o.as_rows for o in acceptable)
    unproven = [o for o in outcomes if o.accepted and not o.acceptable]
    wrong = [o for o in outcomes if not o.error <= 1e-9]
    missed = Counter(o.blamed for o in acceptable if not o.accepted)
    lines = [
        f"{len(outcomes)} programs, {len(acceptable)} acceptable",
        f"accepted of these: {len(accepted)} ({len(accepted) / max(len(acceptable), 1):.1%}); by one axis {rows}",
        f"accepted, and different steps interact: {len(unproven)}",
        f"the parts do not add up: {len(wrong)}; largest difference {max(o.error for o in outcomes):.1e}",
        f"blamed for what is missed: {dict(missed.most_common())}",
    ]
    return "\n".join([*lines, *(f"WRONG {o}" for o in (*wrong, *unproven))])


def main(programs: str = "2000", first: str = "0") -> None:
    """Judge programs and print the table."""
    jax.config.update("jax_enable_x64", True)
    start, outcomes = time.perf_counter(), []
    for seed in range(int(first), int(first) + int(programs)):
        try:
            outcomes.append(judge(seed))
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
            print("   ", " ".join(Program(seed).steps), flush=True)
            continue
        outcome = outcomes[-1]
        if (outcome.acceptable and not outcome.accepted) or not outcome.error <= 1e-9:
            print(f"seed {seed}: {outcome}", flush=True)
        jax.clear_caches() if seed % 100 == 99 else None
    print(report(outcomes), f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:3])
