"""Filters of independent loops: one for each, evidences added.

    log p_hat(y | theta) = log h(theta) + sum_k log p_hat(y_k | theta)

The estimates are independent given their keys, so the product of their exponentials is unbiased, and the variances
on the log scale add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
from jax import Array

from ssmscan.model.several import IndependentLoops

if TYPE_CHECKING:
    from ssmscan.particles.found import FilterResult


@partial(jax.tree_util.register_dataclass, data_fields=["parts"], meta_fields=[])
@dataclass(frozen=True)
class LoopResults:
    """What the filters of independent loops found.

    Attributes:
        parts: one `FilterResult` for each loop, in the order of the model.
    """

    parts: tuple[FilterResult, ...]

    @property
    def log_evidence(self) -> Array:
        """() unbiased estimate of the evidence of all data, on the log scale."""
        return sum(part.log_evidence for part in self.parts[1:]) + self.parts[0].log_evidence

    @property
    def status(self) -> Array:
        """int32, the worst of the loops."""
        return jax.numpy.stack([part.status for part in self.parts]).max(0)

    def message(self) -> str:
        """Say in a sentence for each loop how its run ended; on the host, for one run."""
        return " ".join(f"Loop {k}: {part.message()}" for k, part in enumerate(self.parts))


def run_loops(
    run: Callable[[Array, Any, Mapping[str, Any]], FilterResult],
    key: Array,
    ssm: IndependentLoops,
    theta: Mapping[str, Any],
) -> LoopResults:
    """Run a filter for each loop, with keys of their own."""
    return LoopResults(tuple(run(jax.random.fold_in(key, k), part, theta) for k, part in enumerate(ssm.parts)))
