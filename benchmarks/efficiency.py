"""Effective draws a second of each engine of the parameters, on five models, on one core and on two.

    python benchmarks/efficiency.py [--out benchmarks/results/efficiency.json] [--models NAME ...] [--engines NAME ...]
        [--cores 1 2]

A fresh process for each engine and number of cores, pinned to as many; four chains, or as many lanes as the engine
has.  Effective draws are those of the parameter that has fewest.  Per second: of the draws alone, with the warm-up
(pilot and adaptation), and of all, with compilation.  CPU seconds are those of the whole process.  The last column is
how many times faster the draws were than on one core.  Prints a line for each run and writes all there are so far.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from verdict_models import MODELS

import ssmscan

FIVE = ["demonstration", "log_sp500_small", "Nile", "Poisson trend", "panel of 10"]


def pmmh(proposal: ssmscan.Proposal) -> ssmscan.PMMH:
    """Return PMMH with one proposal, whose number of particles the pilot chooses."""
    return ssmscan.PMMH(estimator=ssmscan.ParticleFilter(64, proposal=proposal, summaries=()), **QUIET)


QUIET: dict[str, Any] = {"num_paths": 0, "progress": False}
ENGINES: dict[str, Callable[[], Any]] = {
    "PMMH, bootstrap": lambda: pmmh(ssmscan.Bootstrap()),
    "PMMH, look-ahead": lambda: pmmh(ssmscan.LookAhead()),
    "ImportanceSampler": lambda: ssmscan.ImportanceSampler(**QUIET),
    "NUTS": lambda: ssmscan.NUTS(**QUIET),
    "TemperedSMC": lambda: ssmscan.TemperedSMC(num_particles=500, num_runs=4, **QUIET),
}


def one_run(name: str, engine: str, cores: int) -> dict[str, Any]:
    """Run one engine in this process."""
    ssmscan.use_cores(cores)
    warnings.simplefilter("ignore", ssmscan.ResultWarning)
    result = ENGINES[engine]().run(jax.random.key(0), MODELS[name].traced())
    costs, found = result.costs, result.summaries
    parameter = min(found, key=lambda name: found[name].ess_bulk)
    effective = found[parameter].ess_bulk
    drawing, warmup = costs.run_seconds, costs.warmup_seconds
    return {
        "effective": effective,
        "parameter": parameter,
        "R-hat": max(s.rhat for s in found.values()),
        "compile s": costs.compile_seconds,
        "warm-up s": warmup,
        "run s": drawing,
        "a second of draws": effective / drawing,
        "with warm-up": effective / (drawing + warmup),
        "of all": effective / (drawing + warmup + costs.compile_seconds),
        "CPU s": time.process_time(),
        "notes": result.notes,
        "concerns": result.concerns(),
    }


def start_process(name: str, engine: str, cores: int) -> dict[str, Any]:
    """Run a process of its own, on its own cores."""
    command = [sys.executable, __file__, "--one", "--models", name, "--engines", engine, "--cores", str(cores)]
    chosen = sorted(os.sched_getaffinity(0))[:cores] if hasattr(os, "sched_getaffinity") else []
    if chosen:
        command = ["taskset", "-c", ",".join(map(str, chosen)), *command]
    record: dict[str, Any] = {"model": name, "engine": engine, "cores": cores, "load before": os.getloadavg()[0]}
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        return {**record, "error": f"{process.returncode}: {process.stderr.strip()[-300:]}"}
    return {**record, **json.loads(process.stdout.strip().splitlines()[-1])}


def line(record: dict[str, Any], on_one: float | None) -> str:
    """Return a record in one line."""
    head = f"{record['model']:16s} {record['engine']:18s} {record['cores']} cores, load {record['load before']:4.1f}  "
    if "error" in record:
        return f"{head}failed: {record['error']}"
    faster = f"{on_one / record['run s']:5.2f} times one core" if on_one and record["cores"] > 1 else ""
    rates = [record[name] for name in ("a second of draws", "with warm-up", "of all")]
    spent = [record[name] for name in ("compile s", "warm-up s", "run s", "CPU s")]
    return (
        f"{head}{record['effective']:7,.0f} effective ({record['parameter']}); a second {rates[0]:.1f} of draws, "
        f"{rates[1]:.1f} with warm-up, {rates[2]:.1f} of all; {spent[0]:.0f} + {spent[1]:.0f} + {spent[2]:.1f} s, "
        f"CPU {spent[3]:.0f} s  {faster}"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", nargs="+", default=FIVE, choices=list(MODELS))
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_run(options.models[0], options.engines[0], options.cores[0])))
        return
    records: list[dict[str, Any]] = []
    for name in options.models:
        for engine in options.engines:
            on_one = None
            for cores in options.cores:
                records.append(start_process(name, engine, cores))
                print(line(records[-1], on_one), flush=True)
                on_one = records[-1].get("run s") if cores == 1 else on_one
                if options.out:
                    options.out.write_text(json.dumps({"jax": jax.__version__, "runs": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
