"""What figures are drawn of, and the time axis that it brings with it.

The results of particle filters come from a room that `results` does not know, so that they are described here by what
is read of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ssmscan.results.result import Result


class Filtered(Protocol):
    """What a particle filter reports, and all that is needed of it here."""

    @property
    def summaries(self) -> Mapping[str, Mapping[str, Any]]:
        """Summary -> site -> array: "mean" and "sd" (T, *shape), or "quantiles" (T, levels, *shape)."""

    @property
    def ess(self) -> Any:
        """Effective sample size after each weighing, (T,), or (T + 1,) if the start is observed."""

    @property
    def resampled(self) -> Any:
        """Whether the particles were resampled before the step, same shape."""

    @property
    def start_observed(self) -> bool:
        """Whether the series begin with the start."""

    @property
    def num_particles(self) -> int:
        """N."""

    @property
    def starving_limit(self) -> float:
        """Effective sample size below which the filter says that it starves."""


class Smoothed(Protocol):
    """What a smoother reports at fixed parameters."""

    @property
    def paths(self) -> Mapping[str, Any]:
        """Site -> (paths, T, *shape), of the last steps alone where no more are kept; initial sites without T."""

    @property
    def mean(self) -> Mapping[str, Any]:
        """Site -> (T, *shape)."""

    @property
    def sd(self) -> Mapping[str, Any]:
        """Site -> (T, *shape)."""

    @property
    def exact(self) -> tuple[str, ...]:
        """Sites whose mean and sd are those of the exact law."""


def is_smoothed(source: Any) -> bool:
    """Return whether this is the result of a smoother."""
    return not isinstance(source, Result) and all(hasattr(source, name) for name in ("paths", "mean", "sd", "exact"))


def is_filtered(source: Any) -> bool:
    """Return whether this is the result of a filter."""
    return not isinstance(source, Result) and isinstance(getattr(source, "summaries", None), Mapping)


def require_one_run(source: Any) -> None:
    """Raise ValueError if this is a batch of runs of a filter or a smoother."""
    shape = np.shape(getattr(source, "status", getattr(source, "log_likelihood", 0.0)))
    if not isinstance(source, Result) and shape:
        raise ValueError(f"source: expected one run of a filter, got {shape} of them: choose one.")


def time_coordinate(source: Any, num_steps: int) -> Any:
    """Return the times of a source's steps, (num_steps,) numbers or dates, None if there are none or they are words."""
    labels = getattr(source, "labels", None)
    values = None if labels is None else labels.times(num_steps)
    return None if values is None or values.dtype.kind not in "iufM" else values
