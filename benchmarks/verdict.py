"""Time to verdict: a cold start of Python to *agree* or *disagree*, compilation included, on eight models.

    python benchmarks/verdict.py [--out benchmarks/results/verdict.json] [--models NAME ...] [--keys 0 1 2]
        [--cores 2] [--caches cold warm] [--seconds 120]

`ssmscan.cross_check` with its defaults, a fresh process each, on as many cores.  Cold: XLA's persistent cache is empty
when the process starts, and is filled by it; warm: the same key once more with what the cold one left.  The clock
begins before Python does and ends at the verdict.  Prints a line for each run and writes all there are so far, with
the verdict, when each look was and what it saw, the effective draws and the costs of both engines, and the load
average before it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
from verdict_models import MODELS

import ssmscan


def one_run(name: str, key: int, cores: int, seconds: float) -> dict[str, Any]:
    """Cross-check one model in this process."""
    ssmscan.use_cores(cores)
    warnings.simplefilter("ignore", ssmscan.ResultWarning)
    check = ssmscan.cross_check(jax.random.key(key), MODELS[name].traced(), seconds=seconds, progress=False)
    engines = {} if check.comparison is None else {report.name: report for report in check.comparison.engines}
    return {
        "ended": time.time(),
        "verdict": check.verdict.value,
        "sentences": check.sentences,
        "looks": [
            {"s": look.seconds, "draws": look.draws, "verdict": look.judgement.verdict.value} for look in check.looks
        ],
        "engines": {
            engine: {
                "effective draws": report.smallest_ess,
                "parameter": min(report.summaries, key=lambda name: report.summaries[name].ess_bulk),
                "compile s": report.costs.compile_seconds,
                "warm-up s": report.costs.warmup_seconds,
                "run s": report.costs.run_seconds,
                "concerns": report.concerns,
                "notes": check.results[engine].notes,
            }
            for engine, report in engines.items()
        },
    }


def start_process(name: str, key: int, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Run a process of its own and return what it printed."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, __file__, "--one", name, "--keys", str(key)]
    command += ["--cores", str(options.cores), "--seconds", str(options.seconds)]
    record: dict[str, Any] = {"model": name, "key": key, "load before": os.getloadavg()[0]}
    began = time.time()
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    if process.returncode:
        return {**record, "error": process.stderr.strip().splitlines()[-1:]}
    found = json.loads(process.stdout.strip().splitlines()[-1])
    return {**record, "seconds": found.pop("ended") - began, **found}


def line(record: dict[str, Any]) -> str:
    """Return a record in one line."""
    head = f"{record['model']:16s} key {record['key']} {record['cache']:4s} load {record['load before']:4.1f}  "
    if "error" in record:
        return f"{head}failed: {record['error']}"
    engines = "; ".join(
        f"{name}: {found['effective draws']:,.0f} effective ({found['parameter']}), {found['compile s']:.0f} + "
        f"{found['warm-up s']:.0f} + {found['run s']:.0f} s"
        for name, found in record["engines"].items()
    )
    return f"{head}{record['seconds']:6.1f} s {record['verdict']:11s} {len(record['looks'])} looks; {engines}"


def table(records: list[dict[str, Any]]) -> str:
    """Return the median and the longest time by model and cache, and the verdicts."""
    lines = [f"{'':16s} {'cache':5s} {'median s':>8s} {'longest':>8s}  verdicts"]
    for name, cache in dict.fromkeys((r["model"], r["cache"]) for r in records):
        own = [r for r in records if (r["model"], r["cache"]) == (name, cache)]
        times = [r["seconds"] for r in own if "seconds" in r] or [float("nan")]
        verdicts = ", ".join(r.get("verdict", "failed") for r in own)
        lines.append(f"{name:16s} {cache:5s} {statistics.median(times):8.1f} {max(times):8.1f}  {verdicts}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--keys", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--caches", nargs="+", default=["cold", "warm"], choices=["cold", "warm"])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--one", choices=list(MODELS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_run(options.one, options.keys[0], options.cores, options.seconds)))
        return
    machine = {"jax": jax.__version__, "python": platform.python_version(), "cores": options.cores}
    records: list[dict[str, Any]] = []
    for name in options.models:
        for key in options.keys:
            with tempfile.TemporaryDirectory() as cache:
                for kind in ("cold", "warm"):
                    if kind == "warm" and "warm" not in options.caches:
                        continue
                    record = {"cache": kind, **start_process(name, key, options, cache)}
                    if kind in options.caches:
                        records.append(record)
                        print(line(record), flush=True)
                        if options.out:
                            options.out.write_text(json.dumps({**machine, "runs": records}, indent=1) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
