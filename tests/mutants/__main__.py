"""Plant mistakes in the package, one at a time, and say which test sees each.

    python -m tests.mutants [--jobs 2] [--known-right] [name ...]

A mistake is planted in a copy of the package, and the tests that cover its file are run against the copy.  The first
rows are the package as it is: it must pass them all.  Names are beginnings of names in
`tests.mutants.planted`.  The exit status is 1 if a mistake survives that is not listed there as known.

JAX's persistent compilation cache is shared by all runs: in `JAX_COMPILATION_CACHE_DIR`, or in a folder that is
removed at the end.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import Mutant
from tests.mutants.planted import KNOWN, MUTANTS

ROOT = Path(__file__).parent.parent.parent
COPIED = ("ssmscan", "tests", "benchmarks", "docs", "examples", "README.md", "pyproject.toml")
MINUTES = 10


class Verdict(NamedTuple):
    """What the tests said: the first that failed, "" if all passed, and the seconds they took."""

    killer: str
    seconds: float


def plant(mutant: Mutant, folder: Path) -> None:
    """Replace the text, which must be there exactly once.

    Raises:
        SystemExit: if it is not.
    """
    path = folder / "ssmscan" / mutant.file
    source = path.read_text()
    if (times := source.count(mutant.old)) != 1:
        sys.exit(
            f"{mutant.name}: in ssmscan/{mutant.file} the text to replace is there {times} times, not once; the code "
            f"has moved, and tests/mutants/planted.py must follow:\n{mutant.old}"
        )
    path.write_text(source.replace(mutant.old, mutant.new))


def copy_of_package() -> Path:
    """Copy what tests need."""
    folder = Path(tempfile.mkdtemp(prefix="ssmscan-mutant-"))
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def run_tests(folder: Path, tests: tuple[str, ...], marks: str, cache: str) -> Verdict:
    """Run tests with some marks against a copy, up to the first failure."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SSMSCAN_TEST_EVERY_SLOW": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-rfE",
        "--no-header",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        "-m",
        marks,
    ]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, *tests], cwd=folder, env=environment, capture_output=True, text=True, timeout=60 * MINUTES
        )
    except subprocess.TimeoutExpired:
        return Verdict(f"nothing within {MINUTES} minutes", time.perf_counter() - begin)
    seconds = time.perf_counter() - begin
    if done.returncode == 0:
        return Verdict("", seconds)
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if not found:
        sys.exit(f"pytest did not run: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return Verdict(found[1].removeprefix("tests/"), seconds)


def try_mutant(mutant: Mutant, cache: str) -> Verdict:
    """Plant one mistake in a copy of its own and run its tests."""
    folder = copy_of_package()
    try:
        plant(mutant, folder)
        return run_tests(folder, mutant.tests, mutant.marks, cache)
    finally:
        shutil.rmtree(folder)


def is_right(mutants: list[Mutant], jobs: int, cache: str) -> bool:
    """Run the same tests against the package as it is."""
    apart = {(test, m.marks) for m in mutants for test in m.tests}
    folder = copy_of_package()
    try:
        with ThreadPoolExecutor(jobs) as pool:
            found = list(pool.map(lambda one: run_tests(folder, one[:1], one[1], cache), sorted(apart)))
    finally:
        shutil.rmtree(folder)
    killers = [one.killer for one in found if one.killer]
    print(f"{'none':66s} {sum(one.seconds for one in found):7.1f}  {killers[0] if killers else '-'}", flush=True)
    return not killers


def chosen(names: list[str]) -> list[Mutant]:
    """Choose by the beginnings of names.

    Raises:
        SystemExit: if a name is that of none.
    """
    for name in names:
        if not any(mutant.name.startswith(name) for mutant in MUTANTS):
            sys.exit(f"no mistake is called {name!r}; there are:\n" + "\n".join(m.name for m in MUTANTS))
    return [m for m in MUTANTS if not names or any(m.name.startswith(name) for name in names)]


def check_texts() -> None:
    """Plant every mistake, without running anything, so that text that has moved is found at once."""
    folder = copy_of_package()
    try:
        for mutant in MUTANTS:
            path = folder / "ssmscan" / mutant.file
            before = path.read_text()
            plant(mutant, folder)
            path.write_text(before)
    finally:
        shutil.rmtree(folder)


def main(arguments: list[str]) -> int:
    """Print the table, the survivors and the count."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names; all mistakes by default")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--known-right", action="store_true", help="do not run the package as it is first")
    options = parser.parse_args(arguments)
    check_texts()
    mutants = chosen(options.names)
    own = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="ssmscan-cache-")
    cache = own or os.environ["JAX_COMPILATION_CACHE_DIR"]
    begin = time.perf_counter()
    try:
        print(f"{'mistake':66s} {'seconds':>7s}  killed by")
        if not options.known_right and not is_right(mutants, options.jobs, cache):
            return 1
        survivors = []
        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, verdict in zip(mutants, pool.map(lambda m: try_mutant(m, cache), mutants)):
                survived = "SURVIVES" + (f" (known: {KNOWN[mutant.name]})" if mutant.name in KNOWN else "")
                print(f"{mutant.name:66s} {verdict.seconds:7.1f}  {verdict.killer or survived}", flush=True)
                survivors += [] if verdict.killer else [mutant.name]
    finally:
        if own:
            shutil.rmtree(own)
    print("\nsurvivors:", "; ".join(survivors) or "none")
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} killed, {time.perf_counter() - begin:.0f} s")
    return int(any(name not in KNOWN for name in survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
