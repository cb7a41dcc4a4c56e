"""How `cross_check` judges faults of known size, on the eight models of `benchmarks.verdict_models`.

    python -m tests.inference.planted_verdicts [--sizes 0.05 0.15 0.3 0.5 1] [--models NAME ...] [--keys 0]
        [--seconds 120] [--out FILE]

The right posterior is sampled first, by a long run whose draws are kept for all sizes, and the tilt is solved for
(`tests.inference.planted`): the shift of every statistic is known before an engine is wrong.  Then a cross-check of the
two engines that it takes by itself, the second one wrong.  Prints a line a run, and the share of each verdict by size.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ssmscan
from benchmarks.verdict_models import MODELS
from tests.inference.planted import planted, tilted, wrong

QUIET: dict[str, Any] = {"num_paths": 0, "progress": False}
MANY = ("three regimes",)
"""Too many parameters for the importance sampler."""


def particle_engine(name: str) -> Any:
    """Return the engine on particles that a cross-check takes."""
    return ssmscan.PMMH(**QUIET) if name in MANY else ssmscan.ImportanceSampler(**QUIET)


def engines(name: str, bad: ssmscan.StateSpaceModel) -> dict[str, Any]:
    """Return the pair, the one on particles wrong; where NUTS does not run, PMMH is the other."""
    other = {"PMMH": ssmscan.PMMH(**QUIET)} if name == "SIR" else {"NUTS": ssmscan.NUTS(**QUIET)}
    return {**other, "wrong": wrong(particle_engine(name), bad)}


def right_draws(name: str, ssm: ssmscan.StateSpaceModel) -> tuple[np.ndarray, float]:
    """Return draws (S,) of the right posterior of the parameter, and how many independent ones they are worth."""
    parameter = MODELS[name].parameter
    engine = (
        ssmscan.PMMH(num_samples=20_000, **QUIET)
        if name in MANY
        else ssmscan.ImportanceSampler(target_ess=20_000, **QUIET)
    )
    result = engine.run(jax.random.key(1000), ssm)
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
                check = ssmscan.cross_check(
                    jax.random.key(key), ssm, seconds=options.seconds, engines=engines(name, bad), progress=False
                )
                row = {
                    "model": name,
                    "size": size,
                    "key": key,
                    "shift": shift.statistics,
                    "error": shift.error,
                    "verdict": check.verdict.value,
                    "looks": len(check.looks),
                    "seconds": time.perf_counter() - start,
                    "sentences": check.sentences,
                }
                rows.append(row)
                print(
                    f"{name:16s} key {key}  {shift}: {row['verdict']}, {row['looks']} looks, {row['seconds']:.0f} s. "
                    f"{check.sentences[0]}",
                    flush=True,
                )
                if options.out:
                    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    for size in options.sizes:
        print(f"{size:5.2f} sd: {dict(Counter(row['verdict'] for row in rows if row['size'] == size))}")


if __name__ == "__main__":
    main()
