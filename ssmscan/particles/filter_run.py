"""A filter over a whole series, and what it found: the one program that `ParticleFilter.run` compiles.

    start -> (update, report) for every step -> what was found -> what no state reaches added to it

The pieces serve a filter that goes on step by step as well, see `ssmscan.particles.online`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp
from jax import Array

from ssmscan.model.protocols import Dynamics, Model, Theta, Values
from ssmscan.particles import filter_step
from ssmscan.particles.clouds import Cloud
from ssmscan.particles.compiled import compiled
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.filter_step import State, StepInfo
from ssmscan.particles.panels import each_filter, join_result
from ssmscan.particles.proposals import Proposal, SeriesProposal, uses_later_data
from ssmscan.particles.resampling import Resampling, multinomial
from ssmscan.particles.stores import Store
from ssmscan.particles.summaries import Summary
from ssmscan.particles.weights import CompensatedSum


class FilterSettings(Protocol):
    """What a filter reads of a front object, a frozen dataclass such as `ParticleFilter`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def num_particles(self) -> int:
        """N."""

    @property
    def resampling(self) -> Resampling:
        """Scheme that draws ancestors."""

    @property
    def threshold(self) -> float:
        """Resample when ESS < threshold * N; 1 is always."""

    @property
    def proposal(self) -> Proposal | SeriesProposal:
        """What moves and weighs, or makes it of the series."""

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """What to compute at each step."""

    @property
    def store(self) -> Store:
        """What to keep of the clouds."""


@compiled
def run_filter(key: Array, ssm: Model, theta: Theta, *, settings: FilterSettings) -> FilterResult:
    """Filter the series of a model of one loop; the elements of a panel one by one.

    Args:
        key: a key made by `as_key`.
        ssm: the model.
        theta: the parameters, canonical.
        settings: the settings; another program for others.
    """
    return whole_result(*each_filter(partial(_run, settings=settings), ssm, theta, key), ssm, theta)


def _run(key: Array, dynamics: Dynamics, *, settings: FilterSettings) -> tuple[CompensatedSum, FilterResult]:
    moving, xs = prepared(settings, dynamics)
    began = filter_step.start(moving, key, dynamics)
    first, length = Cloud(began.state.carry, began.state.log_weights, began.values), dynamics.num_steps

    def begin(values: Values) -> Any:
        return settings.store.begin(first, lambda: values, length)

    state, values, held, steps = filter_step.scan_updates(
        moving, began.state, dynamics, xs, report_of(settings), begin=begin, length=length
    )
    ends = (began.state, began.values), (state, values)
    return result_of_steps(settings, *ends, held, steps, span=(0, length), start_observed=dynamics.start_observed)


def prepared(settings: FilterSettings, dynamics: Dynamics) -> tuple[filter_step.Settings, Any]:
    """Let a proposal that needs the series look at it; return the settings and the inputs of the steps."""
    proposal: Any = settings.proposal
    if not uses_later_data(proposal):
        return settings, dynamics.xs  # type: ignore[return-value]
    own, plan = proposal.prepare(dynamics)
    return replace(settings, proposal=own), (dynamics.xs, plan)  # type: ignore[return-value, type-var]


def report_of(settings: FilterSettings) -> Callable[[Any, State, StepInfo], tuple[Any, StepInfo]]:
    """Return the function that advances the store and reports of a step what the settings want."""

    def report(held: Any, state: State, info: StepInfo) -> tuple[Any, StepInfo]:
        summaries = {summary.name: summary(info) for summary in settings.summaries}
        held, kept = settings.store.keep(held, state, info)
        return held, info.stacked(summaries, kept)

    return report


def result_of_steps(
    settings: FilterSettings,
    first: tuple[State, Values],
    last: tuple[State, Values],
    held: Any,
    steps: StepInfo,
    *,
    span: tuple[int, int],
    start_observed: bool,
) -> tuple[CompensatedSum, FilterResult]:
    """Build the result of one filter, or of one element, from its steps.

    Args:
        settings: the settings.
        first, last: the states before and after all steps, with the values of their particles.
        held: state of the store after the last step.
        steps: the reports of the steps, time in front.
        span: number of the first of the steps, and of the one after the last.
        start_observed: whether the first state has weighed the start, which then is in front of the series.

    Returns:
        The log likelihood of the steps, and all else that they tell, for `whole_result`.
    """
    before, final = (Cloud(state.carry, state.log_weights, values) for state, values in (first, last))
    history = settings.store.result(held, steps.kept, before, final, span)
    series = steps.increment, steps.ess, steps.resampled
    if start_observed:
        begun = first[0].log_likelihood.value(), first[0].ess, jnp.zeros((), bool)
        series = tuple(jnp.concatenate([jnp.asarray(a)[None], b]) for a, b in zip(begun, series))
    return last[0].log_likelihood, FilterResult(
        log_likelihood=None,  # type: ignore[arg-type]
        increments=series[0],
        ess=series[1],
        resampled=series[2],
        summaries=steps.summaries,
        final=final,
        status=last[0].status,
        failed_step=last[0].failed_step,
        failed_element=None,  # type: ignore[arg-type]
        faulty_step=last[0].faulty_step,
        sparsest=None if last[0].sparsest is None else last[0].sparsest.log_weights,
        history=history,
        observations=(),
        start_observed=start_observed,
        panel=None,
        first_step=span[0],
        proposal=type(settings.proposal).__name__,
        uses_later_data=uses_later_data(settings.proposal),
        independent_ancestors=settings.resampling is multinomial and settings.threshold == 1,
    )


def whole_result(log_likelihood: CompensatedSum, found: FilterResult, ssm: Model, theta: Theta) -> FilterResult:
    """Join the elements of a panel, and add the likelihood that no state reaches, in what `result_of_steps` made."""
    log_likelihood, found = join_result(log_likelihood, found, ssm.panel)
    return replace(
        found,
        log_likelihood=log_likelihood.add(ssm.log_static(theta)).value(),
        observations=tuple(site.name for site in ssm.observations),
    )
