"""How `cross_check` judges faults of known size, on the eight models of `benchmarks.verdict_models`.

    python -m tests.inference.planted_verdicts [--sizes 0.05 0.15 0.3 0.5 1] [--models NAME ...] [--keys 0]
        [--seconds 120] [--out FILE]

The right posterior is sampled first, by a long run whose draws are kept for all sizes, and the tilt is solved for
(`tests.inference.planted`): the shift of every statistic is known before an engine is wrong.  Then `cross_check` runs
with the engines that it chooses by itself, of which the one on particles that it asks first is wrong.  Prints a line a
run, and the share of each verdict by size.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

import ssmscan
from benchmarks.verdict_models import MODELS
from ssmscan.inference.engines import Engaged, choices
from tests.inference.planted import planted, tilted, wrong


def with_a_fault(bad: ssmscan.StateSpaceModel) -> Callable[..., list[list[Engaged]]]:
    """Return `choices` in which the first engine on particles runs another model."""

    def rows(ssm: ssmscan.StateSpaceModel, progress: bool) -> list[list[Engaged]]:
        gradients, (first, *others) = choices(ssm, progress)
        return [gradients, [first._replace(engine=wrong(first.engine, bad)), *others]]

    return rows


def right_draws(name: str, ssm: ssmscan.StateSpaceModel) -> tuple[np.ndarray, float]:
    """Return draws (S,) of the right posterior of the parameter, and how many independent ones they are worth."""
    parameter, engine = MODELS[name].parameter, choices(ssm, False)[1][0].engine
    more = {"target_ess": 20_000} if isinstance(engine, ssmscan.ImportanceSampler) else {"num_samples": 20_000}
    result = dataclasses.replace(engine, **more).run(jax.random.key(1000), ssm)
    return result.draws[parameter].ravel(), result.summaries[parameter].ess_bulk


def main() -> None:
    """Print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.05, 0.15, 0.3, 0.5, 1.0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--keys", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ssmscan.ResultWarning)
    rows: list[dict[str, Any]] = []
    for name in options.models:
        ssm = MODELS[name].traced()
        draws, effective = right_draws(name, ssm)
        for size in options.sizes:
            shift = planted(MODELS[name].parameter, draws, size, effective)
            bad = ssmscan.trace(tilted(MODELS[name].model, shift.fault), MODELS[name].data())
            for key in options.keys:
                start = time.perf_counter()
                with mock.patch("ssmscan.inference.cross_check.choices", with_a_fault(bad)):
                    check = ssmscan.cross_check(jax.random.key(key), ssm, seconds=options.seconds, progress=False)
                row = {
                    "model": name,
                    "size": size,
                    "key": key,
                    "shift": shift.statistics,
                    "error": shift.error,
                    "engines": list(check.results),
                    "verdict": check.verdict.value,
                    "looks": len(check.looks),
                    "seconds": time.perf_counter() - start,
                    "sentences": check.sentences,
                }
                rows.append(row)
                print(
                    f"{name:16s} key {key}  {shift}; {' and '.join(row['engines'])}: {row['verdict']}, "
                    f"{row['looks']} looks, {row['seconds']:.0f} s. {check.sentences[0]}",
                    flush=True,
                )
                if options.out:
                    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    for size in options.sizes:
        print(f"{size:5.2f} sd: {dict(Counter(row['verdict'] for row in rows if row['size'] == size))}")


if __name__ == "__main__":
    main()
