"""The command line: `ssmscan demo`, or `python -m ssmscan demo`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import ssmscan
from ssmscan import demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named by the arguments, `sys.argv[1:]` by default; return the exit status."""
    parser = argparse.ArgumentParser(prog="ssmscan", description="Inference for state-space models in NumPyro.")
    parser.add_argument("--version", action="version", version=f"ssmscan {ssmscan.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser(
        "demo",
        help="fit a stochastic-volatility model to exchange rates by three samplers and compare them",
        description="Fit a stochastic-volatility model to GBP/USD returns by NUTS, PMMH and tempered SMC, "
        "print what was found, write figures and results. Takes under three minutes on two cores.",
    )
    show.add_argument("--output", type=Path, default=Path("ssmscan-demo"), metavar="FOLDER")
    show.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    demo.run(options.output, seed=options.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
