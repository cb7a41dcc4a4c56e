r"""Replicates of a check: what is drawn exactly, what a method makes of it, and whether the law has changed.

A *check* is a frozen, hashable object called as ``check(operand, key) -> outputs``, one replicate.  Replicate i has the
key ``fold_in(key, i)``, and replicates are spread over the cores as points of importance sampling are, until there are
as many as were asked for or the time is out.

**Statistics.**  What is compared before and after a Markov kernel, or between two draws, are bounded functions: of
each coordinate q of the parameters (unconstrained) and of the states, standardised by medians of exact draws,

.. math::  g = \tanh(q / 2), \qquad g^2, \qquad g \, s_k,

with s_k the same function of the mean of each observed site.  The mean of a bounded difference is normal after a few
hundred replicates whatever the tails of a prior, the squares see spread, the products see a dependence on data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ssmscan.certification.certificate import z_threshold
from ssmscan.certification.exact_draws import ExactDraw, Places, draw_exactly
from ssmscan.inference.importance_points import first_numbers, in_order, num_lanes
from ssmscan.inference.progress import compile_chunk, run_chunks
from ssmscan.model.protocols import PyTree, Theta, Values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.draws import as_key
from ssmscan.particles.loop import each

PILOT = 200
"""Exact draws by which coordinates are standardised."""

MOST_FEATURES = 100
"""Elements of the data by which a statistic is fitted."""

FEW = 100
"""Replicates below which nothing is said."""


class Replicates(NamedTuple):
    """What was run: outputs on the host with the replicates in front, and what it took."""

    outputs: Any
    number: int
    seconds: float
    compile_seconds: float
    interrupted: bool

    def usable(self) -> Replicates:
        """Return those whose outputs are marked "usable"."""
        kept = np.asarray(self.outputs["usable"], bool)
        outputs = {name: leaf[kept] for name, leaf in self.outputs.items()}
        return self._replace(outputs=outputs, number=int(kept.sum()))


class Scales(NamedTuple):
    """Middle and spread of the coordinates of exact draws.

    Attributes:
        unit: spread of each unconstrained parameter, by site.
        middle: (c,) medians of the coordinates, those of the data last.
        spread: (c,) their standardised median absolute deviations.
    """

    unit: Theta
    middle: jax.Array | np.ndarray
    spread: jax.Array | np.ndarray


@dataclass(frozen=True)
class ReplicateStep:
    """The next replicates of every lane; see `ssmscan.inference.progress.Step`.  The state is their numbers."""

    check: Callable[[PyTree, jax.Array], PyTree]
    lanes: int

    def __call__(self, operand: tuple[PyTree, jax.Array], numbers: jax.Array) -> tuple[jax.Array, PyTree]:
        """Make one replicate of each lane."""
        shared, key = operand

        def one(number: jax.Array) -> PyTree:
            return self.check(shared, jax.random.fold_in(as_key(key), number))

        return numbers + self.lanes, each(one, numbers)


def run_replicates(
    check: Callable, operand: PyTree, key: jax.Array, count: int, deadline: Callable[[], float], **options: Any
) -> Replicates:
    """Run replicates of a check.

    Args:
        check: what one replicate does.
        operand: arrays that all share.
        key: PRNG key.
        count: how many.
        deadline: called once compilation is over; returns the value of `time.perf_counter` to stop at.
        options: label and progress of `run_chunks`.
    """
    lanes = num_lanes()
    step, shared = ReplicateStep(check, lanes), (operand, jax.random.key_data(key))
    first = first_numbers(0, lanes)
    chunk = compile_chunk(step, shared, first, replicates=True)
    run = run_chunks(chunk, shared, first, -(-count // lanes), deadline=deadline(), **options)
    outputs = in_order(run.outputs, count)
    return Replicates(outputs, len(jax.tree.leaves(outputs)[0]), run.seconds, chunk.compile_seconds, run.interrupted)


# ---- coordinates and statistics ------------------------------------------------------------------


def coordinates(ssm: StateSpaceModel, theta: Theta, states: Values, data: Values) -> jax.Array:
    """Return the coordinates of a draw: parameters, states, and data last; works under jit."""
    found = [ravel_pytree(ssm.unconstrain(theta))[0].astype(float)] if ssm.parameters else []
    for name in sorted(states):
        value = jnp.asarray(states[name], float)
        found += [jnp.mean(value)[None], value.reshape(-1)[-1:]] if value.ndim else [value[None]]
    return jnp.concatenate([*found, *(jnp.mean(jnp.asarray(data[name], float))[None] for name in sorted(data))])


def coordinate_names(ssm: StateSpaceModel, states: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the coordinates, data last."""
    names = []
    z = jax.eval_shape(lambda: ssm.unconstrain(ssm.sample_start(jax.random.key(0)))) if ssm.parameters else {}
    for name in sorted(z):
        size = int(np.prod(z[name].shape))
        names += [name] if size == 1 else [f"{name}[{i}]" for i in range(size)]
    for name in sorted(states):
        names += [f"mean {name}", f"last {name}"] if states[name].ndim else [name]
    return (*names, *(f"mean {name}" for name in sorted(data)))


def statistics(at: jax.Array, scales: Scales, num_data: int) -> jax.Array:
    """Return bounded functions of coordinates, see the header; (c - d) (2 + d) of them, d coordinates of data."""
    g = jnp.tanh((at - scales.middle) / (2 * scales.spread))
    own, data = (g[: len(g) - num_data], g[len(g) - num_data :])
    return jnp.concatenate([own, own**2, (own[:, None] * data).ravel()])


def statistic_names(names: tuple[str, ...], num_data: int) -> tuple[str, ...]:
    """Return the names of `statistics`."""
    own, data = names[: len(names) - num_data], names[len(names) - num_data :]
    return (*own, *(f"square of {name}" for name in own), *(f"{a} times {b}" for a in own for b in data))


def names_of_statistics(ssm: StateSpaceModel, places: Places, count: int) -> tuple[str, ...]:
    """Return the names of as many statistics: of parameters and states, or of parameters alone."""
    shapes = {s.name: np.zeros((2, *s.shape) if s.in_loop else s.shape) for s in (*ssm.initial, *ssm.innovations)}
    found = [
        statistic_names(coordinate_names(ssm, states, places.missing), len(places.missing)) for states in (shapes, {})
    ]
    return next(names for names in found if len(names) == count)


@partial(jax.jit, static_argnames=("places",))
def _pilot(keys: jax.Array, ssm: StateSpaceModel, *, places: Places) -> tuple[Theta, jax.Array, jax.Array]:
    def one(key: jax.Array) -> tuple[Theta, jax.Array, jax.Array]:
        draw = draw_exactly(key, ssm, places)
        return ssm.unconstrain(draw.theta), coordinates(ssm, draw.theta, draw.states, draw.data), draw.usable

    return jax.lax.map(one, keys)


def find_scales(key: jax.Array, ssm: StateSpaceModel, places: Places) -> tuple[Scales, float]:
    """Find the middle and spread of all coordinates by exact draws; also the share of draws with finite data."""
    z, at, usable = jax.device_get(_pilot(jax.random.split(key, PILOT), ssm, places=places))
    if not usable.any():
        return Scales(z, at[0], at[0]), 0.0

    def spread(x: np.ndarray) -> np.ndarray:
        away = 1.4826 * np.median(np.abs(x[usable] - np.median(x[usable], axis=0)), axis=0)
        sd = np.std(np.clip(x[usable], -1e6, 1e6), axis=0)
        return np.where(away > 0, away, np.where(sd > 0, sd, 1.0)).astype(x.dtype)

    unit = jax.tree.map(spread, z)
    return Scales(unit, np.median(at[usable], axis=0).astype(at.dtype), spread(at)), float(usable.mean())


# ---- the test --------------------------------------------------------------------------------


class Shift(NamedTuple):
    """Whether bounded statistics have the same mean before and after.

    Attributes:
        name: the statistic that is furthest off, in standard errors.
        z: how far.
        threshold: what |z| may be.
        compared: comparisons made.
        visible: of the coordinates that at which the law that is approached may be off furthest without being seen,
            in posterior sds, see `compare_before_and_after`; nan where nothing moved.
        moved: share of the replicates in which something changed.
    """

    name: str
    z: float
    threshold: float
    compared: int
    visible: float
    moved: float

    @property
    def passed(self) -> bool:
        """Whether no statistic is further off than chance has it."""
        return bool(abs(self.z) <= self.threshold)


def compare_before_and_after(
    before: np.ndarray, after: np.ndarray, data: np.ndarray, names: tuple[str, ...], error_rate: float, quantile: float
) -> Shift:
    """Compare the means of statistics before and after a kernel; the differences are paired.

    A kernel that goes a part 1 - r of the way to its law in K steps moves the mean by (1 - r) b where its law is off
    by b, and a statistic of posterior sd s changes with a variance of 2 (1 - r) s^2.  So b is seen where (1 - r) b is
    threshold and quantile in standard errors, and b / s is in proportion to s / sd(change).  As s stands what is left
    of the statistic before when it was fitted by the data: no function of data leaves less than the posterior does.

    Args:
        before, after: (replicates, statistics).
        data: (replicates, features) of the data.
        names: of the statistics.
        error_rate: of all of them together.
        quantile: of the normal, to be added to the threshold.
    """
    before, change = np.asarray(before, np.float64), np.asarray(after, np.float64) - before
    sd = change.std(axis=0, ddof=1)
    moving = sd > 1e-12
    if not moving.any():
        return Shift("", 0.0, np.inf, 0, np.nan, 0.0)
    compared = int(moving.sum())
    threshold = z_threshold(compared, error_rate)
    z = np.where(moving, change.mean(axis=0) / np.where(moving, sd / np.sqrt(len(change)), 1.0), 0.0)
    worst = int(np.argmax(np.abs(z)))
    own = moving & np.array([" of " not in name and " times " not in name for name in names])
    spread = _unexplained(before[:, own], np.asarray(data, np.float64))
    reach = (threshold + quantile) * 2 * spread / (np.sqrt(len(change)) * sd[own])
    visible = float(reach.max()) if own.any() else np.nan
    return Shift(names[worst], float(z[worst]), threshold, compared, visible, float((change != 0).any(axis=1).mean()))


def _unexplained(statistics: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Return the sd of what is left of each statistic after a linear fit by bounded functions of the data."""
    middle = np.median(data, axis=0)
    spread = np.median(np.abs(data - middle), axis=0)
    bounded = np.tanh((data - middle) / (3 * np.where(spread > 0, spread, 1.0)))
    # Each feature costs a degree of freedom: with few replicates the first ones only.
    most = max(len(data) // 20, 1)
    features = np.column_stack([np.ones(len(data)), bounded[:, :most], bounded[:, :most] ** 2])
    left = statistics - features @ np.linalg.lstsq(features, statistics, rcond=1e-6)[0]
    return left.std(axis=0) * np.sqrt(len(data) / max(len(data) - features.shape[1], 1))


def usable_pairs(draw: ExactDraw, before: jax.Array, after: jax.Array) -> dict[str, jax.Array]:
    """Return what a replicate of a kernel keeps; statistics that are no numbers are an error, and count as large."""
    lost = ~jnp.isfinite(after).all()
    data = [jnp.nan_to_num(jnp.asarray(draw.data[name], float)).ravel() for name in sorted(draw.data)]
    return {
        "before": before,
        "after": jnp.where(lost, 1e6, after),
        "data": jnp.concatenate(data)[:MOST_FEATURES],
        "usable": draw.usable,
    }
