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

from ssmscan.model.protocols import Panel
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles import concerns, panels
from ssmscan.particles.clouds import Cloud, History, Kept, Tree
from ssmscan.particles.kernel import COMPLETE, FAULTY, NOWHERE, VANISHED, State
from ssmscan.particles.printing import Card, forms, known, listed
from ssmscan.particles.weights import CompensatedSum


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "log_likelihood",
        "increments",
        "ess",
        "resampled",
        "summaries",
        "final",
        "status",
        "failed_step",
        "failed_element",
        "faulty_step",
        "history",
    ],
    meta_fields=["observations", "start_observed", "panel", "first_step"],
)
@dataclass(frozen=True)
class FilterResult:
    """What a particle filter found.

    With a model that observes its start the series have T + 1 entries, the start first, else T.

    The M elements of a panel are filtered one by one: log likelihood and increments are sums over them; ess and
    resampled have an axis of length M after time, weights and ancestors one before that of the particles. Values and
    carries have the shapes of the model, each element with weights and ancestors of its own.

    Attributes:
        log_likelihood: () unbiased estimate of the likelihood, on the log scale, everything observed included.
        increments: one-step-ahead log predictive densities; with the part of the likelihood that no
            state reaches they sum to log_likelihood.
        ess: effective sample size after weighing.
        resampled: bool, whether the cloud was resampled before the step.
        summaries: by summary and site, (T, ...).
        final: the last cloud.
        status: int32, see `message`.
        failed_step: int32, step of the event that `status` tells of, -1 the start, -2 none.
        failed_element: int32, the element of a panel it happened to, else 0.
        faulty_step: int32, first step with a log weight that was NaN or +inf, -1 the start, -2 none.
        history: what the store kept to draw paths from; the tree of each element of a panel by itself, in front.
        observations: names of the observed sites.
        start_observed: whether the series begin with the start.
        panel: where the elements of a panel are, None for one filter.
        first_step: number of the first of the steps, above 0 where an earlier run went on.
    """

    log_likelihood: Array
    increments: Array
    ess: Array
    resampled: Array
    summaries: dict[str, dict[str, Array]]
    final: Cloud
    status: Array
    failed_step: Array
    failed_element: Array
    faulty_step: Array
    history: History | Tree | None
    observations: tuple[str, ...]
    start_observed: bool
    panel: Panel | None = None
    first_step: int = 0

    @property
    def num_particles(self) -> int:
        """N."""
        return self.final.log_weights.shape[-1]

    @property
    def starving_limit(self) -> float:
        """Effective sample size below which a step starves."""
        return concerns.starving_limit(self.num_particles)

    def concerns(self) -> tuple[str, ...]:
        """Return what speaks against the run, a sentence each; on the host, for one run.

        Nothing if all is well; else that weights vanished or were not numbers, that the filter starved, or that paths
        were lost.  The rules are in `ssmscan.particles.concerns`.

        Raises:
            ValueError: for a batch of runs, as made by vmap, and for traced values.
        """
        self._refuse_many()
        return concerns.concerns(self)

    def message(self) -> str:
        """Say how the run ended, and what speaks against it; on the host, for one run.

        Raises:
            ValueError: as for `concerns`.
        """
        self._refuse_many()
        return concerns.message(self)

    def _refuse_many(self) -> None:
        if not known(self.status):
            raise ValueError("the run has no values while it is traced: return it from jit, and look at it then.")
        if self.status.ndim:
            raise ValueError(
                "message() and concerns() describe one run; index the batch first, e.g. "
                "jax.tree.map(lambda x: x[0], r)."
            )

    def card(self) -> Card:
        """Show the run: what is printed, and what a notebook shows."""
        series = {name: getattr(self, name) for name in ("log_likelihood", "increments", "ess", "resampled", "status")}
        if not known(*series.values()):
            return forms("FilterResult", series, "of arrays without values")
        title = f"Particle filter, {self.brief()}"
        if self.log_likelihood.ndim:
            return Card(f"{title}: a batch of {self.log_likelihood.shape}", self._of_batch(), [_INDEX])
        rows = [
            ("log likelihood", f"{float(self.log_likelihood):.8g}"),
            *self._of_steps(),
            ("sites", listed(self.final.values)),
            ("summaries", listed(self.summaries) or "none"),
            ("kept", "the last cloud" if self.history is None else f"{type(self.history).__name__} of clouds"),
        ]
        return Card(title, rows, [self.message()])

    def _of_steps(self) -> list[tuple[str, str]]:
        ess = np.asarray(self.ess)
        if not ess.size:
            return []
        where = np.unravel_index(np.argmin(ess), ess.shape)
        step = self.first_step + int(where[0]) - self.start_observed
        return [
            ("effective particles", f"least {ess[where]:.1f} {concerns.when(step)}, median {np.median(ess):.1f}"),
            ("resampled", f"before {np.mean(self.resampled):.0%} of the steps"),
        ]

    def brief(self) -> str:
        """Print the size of the run."""
        size = f"{self.num_particles} particles, {self.increments.shape[-1] - self.start_observed} steps"
        if self.panel is None:
            return size
        return size + f", {self.panel.size} elements of " + (f"'{self.panel.name}'" if self.panel.name else "a panel")

    def _of_batch(self) -> list[tuple[str, str]]:
        values, status = np.asarray(self.log_likelihood), np.asarray(self.status)
        ended = [f"{np.sum(status == code)} {words}" for code, words in _ENDED.items() if np.any(status == code)]
        return [
            ("log likelihood", f"{values.min():.8g} to {values.max():.8g}" if values.size else "none"),
            ("effective particles", f"least {np.min(self.ess, initial=np.inf):.1f}"),
            ("ended", ", ".join(ended)),
        ]

    def __repr__(self) -> str:
        return self.card().text()

    def _repr_html_(self) -> str:
        return self.card().html()


_INDEX = "For one run and its message index it, e.g. jax.tree.map(lambda x: x[0], r)."

_ENDED = {COMPLETE: "complete", FAULTY: "with log weights that are not numbers", VANISHED: "without any weight left"}


class Report(NamedTuple):
    """What is stacked over the steps; fields as in `FilterResult`, kept as the store gives it."""

    increment: Array
    ess: Array
    resampled: Array
    summaries: dict[str, dict[str, Array]]
    kept: Kept | None


class Run(NamedTuple):
    """What one filter found; fields as in `FilterResult`."""

    log_likelihood: CompensatedSum
    increments: Array
    ess: Array
    resampled: Array
    summaries: dict[str, dict[str, Array]]
    final: Cloud
    status: Array
    failed_step: Array
    faulty_step: Array
    history: History | Tree | None

    @classmethod
    def of(cls, first: State, last: State, final: Cloud, steps: Report, history: Any, start_observed: bool) -> Run:
        """Put together the states before and after all steps, the last cloud, and the reports of the steps."""
        series = steps.increment, steps.ess, steps.resampled
        if start_observed:
            begun = first.log_likelihood.value(), first.ess, jnp.zeros((), bool)
            series = tuple(jnp.concatenate([jnp.asarray(a)[None], b]) for a, b in zip(begun, series))
        return cls(
            log_likelihood=last.log_likelihood,
            increments=series[0],
            ess=series[1],
            resampled=series[2],
            summaries=steps.summaries,
            final=final,
            status=last.status,
            failed_step=last.failed_step,
            faulty_step=last.faulty_step,
            history=history,
        )


def join_elements(every: Run, panel: Panel) -> tuple[Run, Array]:
    """Put the elements of a panel together, and say which failed, the first that failed worst."""
    status = jnp.max(every.status)
    number = jnp.argmin(jnp.where(every.status == status, every.failed_step, every.failed_step.max() + 1))
    values = jax.vmap(CompensatedSum.value)(every.log_likelihood)
    log_likelihood, _ = lax.scan(lambda total, value: (total.add(value), None), CompensatedSum.zero(), values)
    joined = Run(
        log_likelihood=log_likelihood,
        increments=every.increments.sum(0),
        ess=every.ess.T,
        resampled=every.resampled.T,
        summaries={name: panels.join_values(by_site, panel) for name, by_site in every.summaries.items()},
        final=panels.join_cloud(every.final, panel),
        status=status,
        failed_step=every.failed_step[number],
        faulty_step=first_fault(every.faulty_step),
        history=panels.join_history(every.history, panel) if isinstance(every.history, History) else every.history,
    )
    return joined, number.astype(np.int32)


def first_fault(steps: Array) -> Array:
    """Return the first step of those at which runs met a fault, NOWHERE if none did."""
    met = jnp.where(steps == NOWHERE, np.iinfo(np.int32).max, steps).min(0)
    return jnp.where(met == np.iinfo(np.int32).max, NOWHERE, met).astype(np.int32)


def finish(one: Run, number: Array, ssm: StateSpaceModel, theta: dict[str, Array]) -> FilterResult:
    """Say what a filter found in terms of the model; number is the element of a panel that failed."""
    return FilterResult(
        log_likelihood=one.log_likelihood.add(ssm.log_static(theta)).value(),
        increments=one.increments,
        ess=one.ess,
        resampled=one.resampled,
        summaries=one.summaries,
        final=one.final,
        status=one.status,
        failed_step=one.failed_step,
        failed_element=number,
        faulty_step=one.faulty_step,
        history=one.history,
        observations=tuple(site.name for site in ssm.observations),
        start_observed=ssm.start_observed,
        panel=ssm.panel,
    )
