"""What a filter found: from the reports of its steps to one result.

A run of T steps stacks a `Report` of each.  `Run` puts them together with the states before and after; the M elements
of a panel have a `Run` each, which `join_elements` makes one; `finish` adds what no state reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.panel import Panel
from ssmscan.model.statespace import StateSpaceModel
from ssmscan.particles import panels
from ssmscan.particles.clouds import Cloud, History, Kept, Tree
from ssmscan.particles.sequential import FAULTY, VANISHED, State
from ssmscan.particles.weights import CompensatedSum


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "log_evidence",
        "increments",
        "ess",
        "resampled",
        "summaries",
        "final",
        "status",
        "failed_step",
        "failed_element",
        "history",
    ],
    meta_fields=["observations", "start_observed", "panel"],
)
@dataclass(frozen=True)
class FilterResult:
    """What a particle filter found.

    With a model that observes its start the series have T + 1 entries, the start first, else T.

    The M elements of a panel are filtered one by one: evidence and increments are sums over them; ess and resampled
    have an axis of length M after time, weights and ancestors one before that of the particles. Values and carries
    have the shapes of the model, each element with weights and ancestors of its own.

    Attributes:
        log_evidence: () unbiased estimate of the evidence, on the log scale, everything observed included.
        increments: one-step-ahead log predictive densities; with the part of the evidence that no
            state reaches they sum to log_evidence.
        ess: effective sample size after weighing.
        resampled: bool, whether the cloud was resampled before the step.
        summaries: by summary and site, (T, ...).
        final: the last cloud.
        status: int32, see `message`.
        failed_step: int32, step of the event that `status` tells of, -1 the start, -2 none.
        failed_element: int32, the element of a panel it happened to, else 0.
        history: what the store kept to draw paths from; the tree of each element of a panel by itself, in front.
        observations: names of the observed sites.
        start_observed: whether the series begin with the start.
        panel: where the elements of a panel are, None for one filter.
    """

    log_evidence: Array
    increments: Array
    ess: Array
    resampled: Array
    summaries: dict[str, dict[str, Array]]
    final: Cloud
    status: Array
    failed_step: Array
    failed_element: Array
    history: History | Tree | None
    observations: tuple[str, ...]
    start_observed: bool
    panel: Panel | None = None

    def message(self) -> str:
        """Say in a sentence how the run ended; on the host, for one run.

        Raises:
            ValueError: for a batch of runs, as made by vmap.
        """
        if jnp.ndim(self.status):
            raise ValueError(
                "message() describes one run; index the batch first, e.g. jax.tree.map(lambda x: x[0], r)."
            )
        return self._ended() + self._paths()

    def _ended(self) -> str:
        step = int(self.failed_step)
        where = "at the start" if step < 0 else f"at step {step} (counting from 0)"
        if self.panel is not None:
            where += f" in element {int(self.failed_element)}"
            where += f" of '{self.panel.name}'" if self.panel.name else ""
        sites = ", ".join(f"'{name}'" for name in self.observations)
        if self.status == VANISHED:
            return (
                f"Every particle has weight zero {where}: none can produce the observation of {sites}. "
                "The log evidence is -inf; results before that step stand. Check that observation and the "
                "parameters, or use more particles."
            )
        if self.status == FAULTY:
            return (
                f"The run is complete, but log weights were NaN or +inf, first {where}: the density of "
                f"{sites} is not a number there. Such particles counted as impossible."
            )
        return "The run is complete."

    def _paths(self) -> str:
        """Say whether paths are missing."""
        tree = self.history
        if not isinstance(tree, Tree) or int(jnp.max(tree.lost)) < 0:
            return ""
        step = int(jnp.min(jnp.where(tree.lost < 0, jnp.iinfo(np.int32).max, tree.lost)))
        return (
            f" Its ancestral paths are not: at step {step} (counting from 0) the particles had more ancestors than "
            "there was room for. Give Ancestry(room=...) more room; everything else is right."
        )


class Report(NamedTuple):
    """What is stacked over the steps; fields as in `FilterResult`, kept as the store gives it."""

    increment: Array
    ess: Array
    resampled: Array
    summaries: dict[str, dict[str, Array]]
    kept: Kept | None


class Run(NamedTuple):
    """What one filter found; fields as in `FilterResult`."""

    evidence: CompensatedSum
    increments: Array
    ess: Array
    resampled: Array
    summaries: dict[str, dict[str, Array]]
    final: Cloud
    status: Array
    failed_step: Array
    history: History | Tree | None

    @classmethod
    def of(cls, first: State, last: State, final: Cloud, steps: Report, history: Any, start_observed: bool) -> Run:
        """Put together the states before and after all steps, the last cloud, and the reports of the steps."""
        series = steps.increment, steps.ess, steps.resampled
        if start_observed:
            begun = first.evidence.value(), first.ess, jnp.zeros((), bool)
            series = tuple(jnp.concatenate([jnp.asarray(a)[None], b]) for a, b in zip(begun, series))
        return cls(
            evidence=last.evidence,
            increments=series[0],
            ess=series[1],
            resampled=series[2],
            summaries=steps.summaries,
            final=final,
            status=last.status,
            failed_step=last.failed_step,
            history=history,
        )


def join_elements(every: Run, panel: Panel) -> tuple[Run, Array]:
    """Put the elements of a panel together, and say which failed, the first that failed worst."""
    status = jnp.max(every.status)
    number = jnp.argmin(jnp.where(every.status == status, every.failed_step, every.failed_step.max() + 1))
    values = jax.vmap(CompensatedSum.value)(every.evidence)
    evidence, _ = lax.scan(lambda total, value: (total.add(value), None), CompensatedSum.zero(), values)
    joined = Run(
        evidence=evidence,
        increments=every.increments.sum(0),
        ess=every.ess.T,
        resampled=every.resampled.T,
        summaries={name: panels.join_values(by_site, panel) for name, by_site in every.summaries.items()},
        final=panels.join_cloud(every.final, panel),
        status=status,
        failed_step=every.failed_step[number],
        history=panels.join_history(every.history, panel) if isinstance(every.history, History) else every.history,
    )
    return joined, number.astype(np.int32)


def finish(one: Run, number: Array, ssm: StateSpaceModel, theta: dict[str, Array]) -> FilterResult:
    """Say what a filter found in terms of the model; number is the element of a panel that failed."""
    return FilterResult(
        log_evidence=one.evidence.add(ssm.log_static(theta)).value(),
        increments=one.increments,
        ess=one.ess,
        resampled=one.resampled,
        summaries=one.summaries,
        final=one.final,
        status=one.status,
        failed_step=one.failed_step,
        failed_element=number,
        history=one.history,
        observations=tuple(site.name for site in ssm.observations),
        start_observed=ssm.start_observed,
        panel=ssm.panel,
    )
