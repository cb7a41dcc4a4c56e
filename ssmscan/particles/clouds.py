"""Weighted particles, and what a run keeps of its clouds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array


class Cloud(NamedTuple):
    """Weighted particles, N in front.

    Attributes:
        carry: carries of the model's loop.
        log_weights: (N,) normalised.
        values: values by site.
    """

    carry: Any
    log_weights: Array
    values: dict[str, Array]


class Kept(NamedTuple):
    """Clouds of consecutive steps; leaves are (steps, N, ...).

    Attributes:
        carry, values: after each step.
        log_weights: (steps, N) normalised.
        ancestors: (steps, N) int32, parents in the cloud of the step before (of the start, for t = 0).
    """

    carry: Any
    values: dict[str, Array]
    log_weights: Array
    ancestors: Array


class History(NamedTuple):
    """Consecutive clouds of a run up to its last: the one before the first of their steps, and those after each.

    Attributes:
        initial: of the start, or of the step before; then without values.
        steps: all later clouds.
        first: () int32, number of the first of the steps.
    """

    initial: Cloud
    steps: Kept
    first: Array


class Origins(NamedTuple):
    """From which particle of the start each particle of the last cloud descends.

    Attributes:
        eves: (N,) int32, its number.
        log_weights: (N,) normalised, of the last cloud.
    """

    eves: Array
    log_weights: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["initial", "parents", "values", "log_weights", "last", "lost"],
    meta_fields=["num_steps"],
)
@dataclass(frozen=True)
class Tree:
    """Ancestral paths of the particles of a run's last cloud; room for M nodes, one for a particle and step.

    The particles of the start are the roots.

    Attributes:
        initial: values of the start by site, N in front.
        parents: (M,) int32, node of the parent; -1 - i for the root of particle i.
        values: values by site, (M, ...).
        log_weights: (N,) normalised, of the last cloud.
        last: () int32, node of its first particle; the others follow.
        lost: () int32, step at which the room was too little, -1 if it was enough.
        num_steps: steps from the start to the last cloud.
    """

    initial: dict[str, Array]
    parents: Array
    values: dict[str, Array]
    log_weights: Array
    last: Array
    lost: Array
    num_steps: int
