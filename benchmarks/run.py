"""All workloads, ssmscan beside its peers, one after the other on one CPU.

    python benchmarks/run.py --out benchmarks/results/cpu.json \\
        --peer cuthbert=PYTHON genjax=PYTHON smcx=PYTHON pypomp=PYTHON [--device gpu] [--quick] [--only A B]

Workload A is `workload_a.py`; B to G are described in `workloads.py`.  Prints medians of wall and CPU seconds, the
ratio to the fastest peer, what the first call took beyond them with all cores (tracing and compiling, in a process of
its own), and the mean of what was computed, which says whether the libraries computed the same thing; writes
everything as JSON, each line as soon as it is measured.  PYTHON is an interpreter that has the peer.  Needs neither
ArviZ nor BlackJAX.  Excluded: imports, making the data, tracing the NumPyro model (`ssmscan.trace`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from records import save, use_device
from workload_a import THRESHOLD, compile_reference, data, measure, table, timed_run
from workload_a_runners import FILTERS
from workloads import DOES, exact_tracking

HERE = Path(__file__).parent
SLOW = "FG"  # at most three runs: peers take minutes
CORES: set[int] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def timed(name: str, python: str, workload: str, runs: int, quick: bool) -> dict[str, Any]:
    """Run one workload of one library and reduce its times."""
    command = [python, str(HERE / "workloads.py"), name, workload]
    record = {"library": name, "workload": workload, **timed_run([*command, str(runs), str(int(quick))])}
    if "error" in record:
        return record
    record["value"] = statistics.mean(record["values"])
    one = pin(CORES)
    record["compile"] = timed_run([*command, "1", str(int(quick))])["compile"]
    pin(one)
    return record


def pin(cores: set[int]) -> set[int]:
    """Let this process and its children run on these cores; say on which they ran."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, cores)
    return before


def workload_table(records: list[dict[str, Any]]) -> str:
    """Lay the medians out with their ratios."""
    lines = [
        f"{'':3s}{'':10s} {'wall s':>8s} {'CPU s':>8s} {'fastest peer / this':>20s} {'compile s':>9s} "
        f"{'mean value':>11s} {'load':>5s}"
    ]
    for record in records:
        if "error" in record:
            lines.append(f"{record['workload']:3s}{record['library']:10s} failed: {record['error']}")
            continue
        peers = [
            r["cpu"]
            for r in records
            if r["workload"] == record["workload"] and r["library"] != "ssmscan" and "cpu" in r
        ]
        ratio = f"{min(peers) / record['cpu']:20.2f}" if peers else f"{'':20s}"
        lines.append(
            f"{record['workload']:3s}{record['library']:10s} {record['wall']:8.3f} {record['cpu']:8.3f} {ratio} "
            f"{record['compile']:9.2f} {record['value']:11.4f} {record['load_before']:5.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", nargs="+", default=[], metavar="NAME=PYTHON", help=", ".join(DOES) + " or genjax")
    parser.add_argument("--device", default="cpu", help="gpu, or a platform of JAX")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", default=list("ABCDEFG"), help="workloads")
    parser.add_argument("--quick", action="store_true", help="a tenth of the particles, to see that all runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    use_device(options.device)  # of the children too
    pin(set(sorted(CORES)[-1:]))  # children inherit: one thread for all
    pythons = {"ssmscan": sys.executable} | dict(argument.split("=", 1) for argument in options.peer)
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}, load average {os.getloadavg()}", flush=True)
    written: dict[str, Any] = {"machine": machine, "A": [], "workloads": []}
    if "A" in options.only:
        sizes = [n for n in options.sizes if n <= 10_000] if options.quick else options.sizes
        with tempfile.TemporaryDirectory() as folder:
            series = Path(folder) / "y.f32"
            data().tofile(series)
            runner = str(HERE / "workload_a_runners.py")
            programs = {name: [python, runner, name] for name, python in pythons.items() if name in FILTERS}
            if reference := compile_reference(Path(folder)):
                programs = {"C++": reference, **programs}
            for n, mode, name in product(sizes, THRESHOLD, programs):
                written["A"].append(measure(name, programs[name], series, n, mode, options.runs))
                print(json.dumps(written["A"][-1]), flush=True)
                save(options.out, written)
        print(f"A: nanoseconds per particle and step\n{table(written['A'])}", flush=True)
    for workload in [w for w in options.only if w != "A"]:
        for name in [name for name in pythons if workload in DOES.get(name, "")]:
            runs = options.runs if workload not in SLOW else min(options.runs, 3)
            written["workloads"].append(timed(name, pythons[name], workload, runs, options.quick))
            print(json.dumps(written["workloads"][-1]), flush=True)
            save(options.out, written)
    print(f"\n{workload_table(written['workloads'])}")
    if "B" in options.only:
        print(f"B: exact log-likelihood {exact_tracking():.3f}")
    print(f"load average {os.getloadavg()}")


if __name__ == "__main__":
    main()
