"""Workload A: stochastic volatility, bootstrap filter, 1000 steps (fewer above N = 30,000), float32, one thread.

    python benchmarks/workload_a.py --out workload_a.json \\
        --peer cuthbert=PATH/TO/python --peer genjax=PATH/TO/python

Runs ssmscan, the C++ filter beside this file (compiled here, if there is a g++) and the peers whose
interpreters are given, one after the other on one CPU, at N = 1e4 and 1e5, resampling at every step
and at ESS < N/2.  Prints medians in nanoseconds per particle and step, of wall and CPU time, ratios
of CPU times to C++ and to the fastest peer, and writes everything as JSON.  On a quiet machine wall and
CPU time are the same; on a busy one neither is worth much, and the load average beside them says so.

Compilation is excluded and reported apart.  ssmscan computes filtering means and standard deviations
as by default; C++ and genjax compute the log-likelihood alone, cuthbert stores all particles.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from records import save

HERE = Path(__file__).parent
STEPS = 1000
MOST_UPDATES = 30_000_000  # fewer steps for many particles
THRESHOLD = {"every": "1", "ess": "0.5"}


def data() -> np.ndarray:
    """Simulate the observations."""
    rng = np.random.default_rng(20261121)
    x, y = -1.0 + 0.2 / np.sqrt(1 - 0.97**2) * rng.standard_normal(), np.empty(STEPS)
    for t in range(STEPS):
        x = -1.0 + 0.97 * (x + 1.0) + 0.2 * rng.standard_normal() if t else x
        y[t] = np.exp(x / 2) * rng.standard_normal()
    return y.astype(np.float32)


def compile_reference(folder: Path) -> list[str] | None:
    """Compile the C++ filter for this machine."""
    if shutil.which("g++") is None:
        return None
    binary = folder / "workload_a"
    flags = ["-O3", "-march=native", "-ffast-math", "-std=c++17"]
    source = str(HERE / "workload_a.cpp")
    subprocess.run(["g++", *flags, source, "-o", str(binary), "-lmvec", "-lm"], check=True)
    return [str(binary)]


def timed_run(command: list[str]) -> dict[str, Any]:
    """Run a program that prints its times as JSON; medians of wall and CPU seconds, and what the first call adds."""
    record: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        return {**record, "error": process.stderr.strip().splitlines()[-1:]}
    record |= json.loads(process.stdout.strip().splitlines()[-1])
    record["wall"], record["cpu"] = (statistics.median(record[name]) for name in ("seconds", "cpu_seconds"))
    record["compile"] = max(0.0, record["first"] - record["wall"]) if "first" in record else None
    return record


def measure(name: str, program: list[str], series: Path, n: int, mode: str, runs: int) -> dict[str, Any]:
    """Run one program and reduce its times."""
    steps = max(30, min(STEPS, MOST_UPDATES // n))
    arguments = [str(series), str(n), str(steps), THRESHOLD[mode] if name == "C++" else mode, str(runs)]
    record = {"library": name, "N": n, "T": steps, "mode": mode, **timed_run([*program, *arguments])}
    if "error" in record:
        return record
    record["wall_ns"] = 1e9 * record["wall"] / (n * steps)
    record["ns"] = 1e9 * record["cpu"] / (n * steps)
    record["mean_log_likelihood"] = statistics.mean(record["log_likelihood"])
    return record


def table(records: list[dict[str, Any]]) -> str:
    """Lay the medians out with their ratios."""
    lines = [
        f"{'':10s} {'N':>7s} {'resampling':10s} {'wall ns':>8s} {'CPU ns':>7s} {'/ C++':>6s} {'/ fastest peer':>14s} "
        f"{'compile s':>9s} {'log Z':>9s} {'load':>5s}"
    ]
    for record in records:
        if "error" in record:
            lines.append(f"{record['library']:10s} {record['N']:7d} {record['mode']:10s} failed: {record['error']}")
            continue
        alike = [r for r in records if (r["N"], r["mode"]) == (record["N"], record["mode"]) and "ns" in r]
        reference = [r["ns"] for r in alike if r["library"] == "C++"]
        peers = [r["ns"] for r in alike if r["library"] not in ("C++", "ssmscan")]
        ratio = f"{record['ns'] / reference[0]:6.2f}" if reference else f"{'':6s}"
        speed = f"{record['ns'] / min(peers):14.2f}" if peers else f"{'':14s}"
        seconds = f"{record['compile']:9.1f}" if record["compile"] is not None else f"{'':9s}"
        lines.append(
            f"{record['library']:10s} {record['N']:7d} {record['mode']:10s} {record['wall_ns']:8.1f} "
            f"{record['ns']:7.1f} {ratio} {speed} {seconds} {record['mean_log_likelihood']:9.2f} "
            f"{record['load_before']:5.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="cuthbert or genjax")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # children inherit: one thread for all
    runner = str(HERE / "workload_a_runners.py")
    peers = dict(argument.split("=", 1) for argument in options.peer)
    programs = {"ssmscan": [sys.executable, runner, "ssmscan"]}
    programs |= {name: [python, runner, name] for name, python in peers.items()}
    print(f"{platform.processor() or platform.machine()}, load average {os.getloadavg()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        series = Path(folder) / "y.f32"
        data().tofile(series)
        if reference := compile_reference(Path(folder)):
            programs = {"C++": reference, **programs}
        records = []
        for n in options.sizes:
            for mode in THRESHOLD:
                for name, program in programs.items():
                    records.append(measure(name, program, series, n, mode, options.runs))
                    print(json.dumps(records[-1]), flush=True)
                    save(options.out, records)
    print(f"{table(records)}\nload average {os.getloadavg()}")


if __name__ == "__main__":
    main()
