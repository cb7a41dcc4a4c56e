"""Filters of independent loops: one for each, log likelihoods added.

    log p_hat(y | theta) = log h(theta) + sum_k log p_hat(y_k | theta)

The estimates are independent given their keys, so the product of their exponentials is unbiased, and the variances
on the log scale add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax import Array

from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.filter_result import FilterResult, first_fault
from ssmscan.particles.printing import Card, forms, known


@partial(jax.tree_util.register_dataclass, data_fields=["parts"], meta_fields=[])
@dataclass(frozen=True)
class LoopResults:
    """What the filters of independent loops found.

    Attributes:
        parts: one `FilterResult` for each loop, in the order of the model.
    """

    parts: tuple[FilterResult, ...]

    @property
    def log_likelihood(self) -> Array:
        """() unbiased estimate of the likelihood of all data, on the log scale."""
        return sum(part.log_likelihood for part in self.parts[1:]) + self.parts[0].log_likelihood

    @property
    def status(self) -> Array:
        """int32, the worst of the loops."""
        return jax.numpy.stack([part.status for part in self.parts]).max(0)

    @property
    def faulty_step(self) -> Array:
        """int32, first step of any loop with a log weight that was NaN or +inf, -2 if there was none."""
        return first_fault(jax.numpy.stack([part.faulty_step for part in self.parts]))

    def concerns(self) -> tuple[str, ...]:
        """Return what speaks against the runs, the loop named; on the host, for one run of each."""
        return tuple(f"Loop {k}: {sentence}" for k, part in enumerate(self.parts) for sentence in part.concerns())

    def message(self) -> str:
        """Say in a sentence for each loop how its run ended; on the host, for one run."""
        return " ".join(f"Loop {k}: {part.message()}" for k, part in enumerate(self.parts))

    def card(self) -> Card:
        """Show the runs, a row each: what is printed, and what a notebook shows."""
        title = f"Particle filters of {len(self.parts)} independent loops"
        values = [part.log_likelihood for part in self.parts]
        status = [part.status for part in self.parts]
        if not known(*values, *status):
            return forms(title, {f"loop {k}": value for k, value in enumerate(values)}, "of arrays without values")
        if values[0].ndim:
            return Card(f"{title}: a batch of {values[0].shape}", (), ["Index it for one run and its message."])
        rows = [
            (f"loop {k}", f"log likelihood {part.log_likelihood:.8g}, {part.brief()}")
            for k, part in enumerate(self.parts)
        ]
        rows.insert(0, ("log likelihood", f"{self.log_likelihood:.8g}"))
        return Card(title, rows, self.concerns() or (self.message(),))

    def __repr__(self) -> str:
        return self.card().text()

    def _repr_html_(self) -> str:
        return self.card().html()


def run_loops(
    run: Callable[[Array, Any, Mapping[str, Any]], FilterResult],
    key: Array,
    ssm: StateSpaceModel,
    theta: Mapping[str, Any],
) -> LoopResults:
    """Run a filter for each loop, with keys of their own."""
    return LoopResults(tuple(run(jax.random.fold_in(key, k), loop, theta) for k, loop in enumerate(ssm.loops)))
