"""A model of which nothing is left to sample: the likelihood is the evidence, and draws of the states are exact.

Without parameters, with every state summed out or given by the others, no coordinate is left to move.  The forward pass
gives log p(y); paths of the states are drawn independently by its backward half.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from ssmscan.inference.interrupts import interruptible
from ssmscan.inference.paths import STATES_STREAM, paths_from_noise
from ssmscan.inference.progress import compile_timed, phase
from ssmscan.inference.reporting import result_of
from ssmscan.inference.settings import spread
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.results.data import Costs
from ssmscan.results.result import Result

_log_likelihood = jax.jit(lambda ssm: ssm.log_likelihood_given_noise({}, {}))


def exact_result(
    engine: Any,
    key: jax.Array,
    ssm: StateSpaceModel,
    *,
    num_runs: int,
    num_draws: int,
    num_paths: int,
    progress: bool,
) -> Result:
    """Compute the evidence and draw the states of a model without coordinates.

    Args:
        engine: the settings of whoever was asked.
        key: one PRNG key.
        ssm: the model.
        num_runs: runs of the result.
        num_draws: draws of each.
        num_paths: paths kept of each.
        progress: whether progress is shown.

    Raises:
        ValueError: if the data are impossible.
    """
    name = type(engine).__name__
    with phase(f"{name}: compiling", progress=progress), interruptible():
        run, compile_seconds = compile_timed(_log_likelihood, ssm)
        began = time.perf_counter()
        log_evidence = float(run(ssm))
    if not np.isfinite(log_evidence):
        raise ValueError(
            f"the log likelihood is {log_evidence}: look for data outside the support of their distribution or a model "
            "without a value"
        )
    costs = Costs(
        compile_seconds=compile_seconds,
        warmup_seconds=0.0,
        run_seconds=time.perf_counter() - began,
        gradient_evaluations=0,
    )
    kept = spread(num_draws, num_paths)
    states_key = jax.random.fold_in(key, STATES_STREAM)
    paths = paths_from_noise(states_key, ssm, {}, {}, kept, num_chains=num_runs, progress=progress)
    return result_of(
        engine,
        ssm,
        draws={},
        paths=paths,
        wanted=len(kept),
        sample_stats={"log_evidence": np.full((num_runs, num_draws), log_evidence)},
        independent_runs=True,
        log_evidence=(log_evidence, 0.0),
        costs=costs,
        interrupted=False,
        notes=("the model has no parameters and its states are integrated out: evidence and paths are exact",),
        doubts=(),
    )
