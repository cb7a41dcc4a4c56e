"""From draws and state paths to the `Result` of a sampler: what NUTS, PMMH and TemperedSMC report alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmscan.health import Reason
from ssmscan.inference.deterministics import with_deterministics
from ssmscan.inference.edge import edge_advice
from ssmscan.inference.paths import Paths
from ssmscan.inference.settings import describe, versions
from ssmscan.inference.spreading import idle_cores
from ssmscan.model.statespace.data import constants
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.results.data import Costs
from ssmscan.results.result import Result


def result_of(
    engine: Any,
    ssm: StateSpaceModel,
    *,
    draws: Mapping[str, np.ndarray],
    paths: Paths,
    wanted: int,
    sample_stats: Mapping[str, np.ndarray],
    costs: Costs,
    interrupted: bool,
    notes: tuple[str, ...],
    doubts: tuple[Reason, ...],
    independent_runs: bool = False,
    log_evidence: tuple[float, float] | None = None,
    used: Any = None,
    package: str = "numpyro",
    continuation: Mapping[str, np.ndarray] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Result:
    """Build the result of a sampler, deterministics of the model included.

    Args:
        engine: the settings.
        ssm: the model.
        draws: parameters, (chains, draws, ...).
        paths: state paths of some of the draws.
        wanted: number of paths that were wanted in each chain.
        sample_stats: what the engine says of each draw, (chains, draws, ...).
        costs: of the draws; those of the paths are added.
        interrupted: whether Control-C ended the draws.
        notes: what the engine chose, in sentences.
        doubts: why the draws are not to be trusted, and what to do; those of the paths are added.
        independent_runs: see `Result`.
        log_evidence: estimate and standard error, None where there is none.
        used: what the engine chose in place of a setting, added to the settings.
        package: whose kernels did the work.
        continuation, origin: what it takes to go on, and what the run belongs to; see `ssmscan.inference.going_on`.
    """
    estimate, error = (None, None) if log_evidence is None else log_evidence
    result = Result(
        engine=type(engine).__name__,
        draws=dict(draws),
        states=paths.states,
        state_draws=paths.draws,
        sample_stats=dict(sample_stats),
        independent_runs=independent_runs,
        log_evidence=estimate,
        log_evidence_error=error,
        costs=dataclasses.replace(
            costs,
            compile_seconds=costs.compile_seconds + paths.compile_seconds,
            run_seconds=costs.run_seconds + paths.seconds,
        ),
        settings=describe(engine) if used is None else {**describe(engine), "used": describe(used)},
        versions=versions(package),
        observed=ssm.observed,
        interrupted=interrupted or paths.interrupted,
        notes=(*notes, *idle_cores(0 if independent_runs else len(next(iter(sample_stats.values()))))),
        doubts=(*doubts, *paths.doubts(wanted), *edge_advice(ssm.parameters, draws)),
        initial=tuple(site.name for site in ssm.initial if site.name in paths.states),
        state_probabilities=paths.probabilities,
        continuation=dict(continuation or {}),
        origin=dict(origin or {}),
        labels=ssm.labels,
        constants={} if ssm.source is None else constants(ssm.cores, ssm.source.named_data()),
    )
    return with_deterministics(ssm, result)
