"""The particle filter: settings in, result out.

    result = ParticleFilter(num_particles=10_000).run(key, ssm, theta)
    result.log_evidence, result.increments, result.summaries["mean"]["x"]

One compilation serves a program, settings and shapes: other parameters, data and keys run at once.
`run` is pure and works under jit, vmap and grad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.element import element_model, elements_at
from ssmscan.model.panel import Panel
from ssmscan.model.several import IndependentLoops
from ssmscan.model.statespace import StateSpaceModel
from ssmscan.particles import panels, sequential
from ssmscan.particles.clouds import Cloud, History
from ssmscan.particles.draws import as_key
from ssmscan.particles.proposals import Bootstrap, Proposal
from ssmscan.particles.resampling import Resampling, systematic
from ssmscan.particles.sequential import FAULTY, VANISHED, Moment, State
from ssmscan.particles.several import LoopResults, run_loops
from ssmscan.particles.summaries import SD, FinalCloud, Kept, Mean, Store, Summary
from ssmscan.particles.weights import CompensatedSum

if TYPE_CHECKING:
    from ssmscan.particles.online import Online

_BOOTSTRAP = Bootstrap()


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
        history: every cloud, if the store keeps them.
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
    history: History | None
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


@dataclass(frozen=True)
class ParticleFilter:
    """Settings of a particle filter.

    Attributes:
        num_particles: N, at least 2.
        resampling: scheme, see `ssmscan.particles.resampling`.
        threshold: resample when ESS < threshold * N; 1 is at every step, 0 never.
        proposal: what moves and weighs the cloud.
        summaries: what to compute at each step.
        store: what to keep of the clouds.

    Raises:
        ValueError: for fewer than two particles or a threshold outside [0, 1].
        TypeError: for settings of the wrong kind.
    """

    num_particles: int
    _: KW_ONLY
    resampling: Resampling = systematic
    threshold: float = 0.5
    proposal: Proposal = Bootstrap()
    summaries: tuple[Summary, ...] = (Mean(), SD())
    store: Store = FinalCloud()

    def __post_init__(self) -> None:
        if not isinstance(self.num_particles, int | np.integer) or self.num_particles < 2:
            raise ValueError(f"num_particles: expected an integer of at least 2, got {self.num_particles!r}.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"threshold: expected a fraction of the particles in [0, 1], got {self.threshold!r}; "
                "1 resamples at every step, 0 never."
            )
        if not callable(self.resampling):
            raise TypeError(
                "resampling: expected a function (key, log_weights, n) -> ancestors, such as systematic; "
                f"got {self.resampling!r}."
            )
        object.__setattr__(self, "num_particles", int(self.num_particles))
        object.__setattr__(self, "summaries", tuple(self.summaries))

    def run(self, key: Array, ssm: Any, theta: Mapping[str, Any]) -> FilterResult | LoopResults:
        """Filter the data of a model at given parameters; independent loops one by one.

        Args:
            key: one PRNG key, typed or raw.
            ssm: what `ssmscan.trace` returned.
            theta: value of every parameter by name.

        Raises:
            TypeError: if key is not one PRNG key.
            ValueError: if theta lacks a parameter, has an unknown one, or a value outside its support.
        """
        key, theta, run = as_key(key), ssm.canonical(theta), partial(_run, settings=self)
        several = isinstance(ssm, IndependentLoops)
        return run_loops(run, key, ssm, theta) if several else run(key, ssm, theta)

    def start(self, key: Array, ssm: StateSpaceModel, theta: Mapping[str, Any]) -> Online:
        """Begin a filter that takes its steps when `update` is called; arguments and errors as in `run`."""
        from ssmscan.particles.online import start

        return start(key, ssm, theta, settings=self)

    def update(
        self, online: Online, ssm: StateSpaceModel, theta: Mapping[str, Any], num_steps: int = 1
    ) -> tuple[Online, Report]:
        """Take the next steps of a series: the same as in `run`, bit by bit.

        Args:
            online: what `start` or the last `update` returned.
            ssm: the model over a series that holds the data of these steps; what comes later is not looked at.
            theta: value of every parameter by name.
            num_steps: how many; one compilation serves each number.

        Returns:
            The filter after them, and their reports, time in front; elements of a panel before it.

        Raises:
            ValueError: if the series of the model has fewer steps left.
        """
        from ssmscan.particles.online import advance

        return advance(online, ssm, theta, num_steps, settings=self)


def log_evidence(
    key: Array,
    ssm: StateSpaceModel,
    theta: Mapping[str, Any],
    *,
    num_particles: int,
    resampling: Resampling = systematic,
    threshold: float = 0.5,
    proposal: Proposal = _BOOTSTRAP,
) -> Array:
    """Estimate the log evidence p(y | theta), a scalar; its exponential is unbiased.

    Arguments as in `ParticleFilter`, without summaries.
    """
    settings = ParticleFilter(
        num_particles, resampling=resampling, threshold=threshold, proposal=proposal, summaries=()
    )
    return settings.run(key, ssm, theta).log_evidence


class Report(NamedTuple):
    """What is stacked over the steps; fields as in `FilterResult`, kept as the store gives it."""

    increment: Array
    ess: Array
    resampled: Array
    summaries: dict[str, dict[str, Array]]
    kept: Kept | None


def report_of(settings: ParticleFilter) -> Callable[[State, Moment], Report]:
    """Give the function that reports of a step what the settings want."""

    def report(state: State, moment: Moment) -> Report:
        summaries = {summary.name: summary(moment) for summary in settings.summaries}
        kept = settings.store.keep(state, moment)
        return Report(moment.increment, moment.ess, moment.resampled, summaries, kept)

    return report


@partial(jax.jit, static_argnames=("settings",))
def _run(key: Array, ssm: StateSpaceModel, theta: dict[str, Array], *, settings: ParticleFilter) -> FilterResult:
    if ssm.panel is None:
        one, number = _filter(key, ssm, ssm.at(theta), settings), jnp.zeros((), np.int32)
    else:
        ssm.refuse_tail()
        model, element = element_model(ssm), elements_at(ssm, theta)

        def run_element(number: Array) -> Run:
            return _filter(jax.random.fold_in(key, number), model, element(number), settings)

        every = jax.vmap(run_element)(jnp.arange(ssm.panel.size, dtype=np.int32))
        one, number = join_elements(every, ssm.panel)
    return finish(one, number, ssm, theta)


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
    history: History | None

    @classmethod
    def of(cls, first: State, initial: dict, last: State, values: dict, steps: Report, start_observed: bool) -> Run:
        """Put together states and values before and after all steps, and the reports of the steps."""
        series = steps.increment, steps.ess, steps.resampled
        if start_observed:
            begun = first.evidence.value(), first.ess, jnp.zeros((), bool)
            series = tuple(jnp.concatenate([jnp.asarray(a)[None], b]) for a, b in zip(begun, series))
        start = Cloud(first.carry, first.log_weights, initial)
        return cls(
            evidence=last.evidence,
            increments=series[0],
            ess=series[1],
            resampled=series[2],
            summaries=steps.summaries,
            final=Cloud(last.carry, last.log_weights, values),
            status=last.status,
            failed_step=last.failed_step,
            history=None if steps.kept is None else History(start, steps.kept),
        )


def _filter(key: Array, ssm: Any, bound: Any, settings: ParticleFilter) -> Run:
    """Filter a model, or one element of a panel."""
    began = sequential.start(settings, key, ssm, bound)
    state, values, steps = sequential.scan_updates(
        settings, began.state, ssm, bound, bound.xs, report_of(settings), length=ssm.num_steps
    )
    return Run.of(began.state, began.values, state, values, steps, ssm.start_observed)


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
        history=None if every.history is None else panels.join_history(every.history, panel),
    )
    return joined, number.astype(np.int32)
