"""Weighted particles, and all clouds of a run."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array

from ssmscan.particles.summaries import Kept


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


class History(NamedTuple):
    """Every cloud of a run: the one before the first step, and those after each."""

    initial: Cloud
    steps: Kept
