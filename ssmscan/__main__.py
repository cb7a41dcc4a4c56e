"""The command line: `ssmscan demo`, or `python -m ssmscan demo`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

import ssmscan
from ssmscan import demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named by the arguments, `sys.argv[1:]` by default; return the exit status."""
    parser = argparse.ArgumentParser(prog="ssmscan", description="Inference for state-space models in NumPyro.")
    parser.add_argument("--version", action="version", version=f"ssmscan {ssmscan.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser(
        "demo",
        help="fit a stochastic-volatility model to exchange rates by two samplers and compare them",
        description="Fit a stochastic-volatility model to GBP/USD returns by NUTS and by importance sampling on "
        "a particle filter until they agree, print what was found, write figures and results. Takes under two minutes "
        "on two cores, less the second time: compiled programs are kept.",
    )
    show.add_argument("--output", type=Path, default=Path("ssmscan-demo"), metavar="FOLDER")
    show.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    ssmscan.use_cores()
    keep_programs()
    demo.run(options.output, seed=options.seed)
    return 0


def keep_programs() -> None:
    """Let XLA keep what it compiles in the user's cache for the next start, unless a folder was chosen."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "ssmscan" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def cache_folder() -> Path:
    """Return the folder for caches of this user, as the platform has it."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


if __name__ == "__main__":
    raise SystemExit(main())
