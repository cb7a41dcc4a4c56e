"""The command line: `ssmscan demo`, or `python -m ssmscan demo`; what the commands do is in `command_line/`."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

import ssmscan
from ssmscan import demo
from ssmscan.command_line import commands

GUIDE = """
Bayesian inference in state-space models that are written as ordinary NumPyro functions.

  ssmscan demo                             two samplers on exchange rates, and a verdict (two minutes)
  ssmscan selftest                         numbers with an exact value, computed on your machine
  ssmscan trace model.py                   what ssmscan finds in your model, or why it refuses it
  ssmscan check model.py --data data.csv   data, model, prior and engines, before the first long run

A model file has a function `model`:

  def model(y):
      sd = numpyro.sample("sd", dist.HalfNormal(1.0))

      def transition(x, y):
          x = numpyro.sample("x", dist.Normal(x, sd))
          numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
          return x, None

      numpyro.contrib.control_flow.scan(transition, 0.0, y)

and the data a line of names, dates if there are any, and a column `y`.

Say `ssmscan COMMAND --help` for what a command prints and needs.
"""

DEMO = """
For a first look. Fit a stochastic-volatility model to a year of GBP/USD returns by NUTS and by importance sampling on a
particle filter until there is a verdict, print what was found, and write figures and results into a folder. Takes about
two minutes on two idle cores, five of sampling at most, less the second time: compiled programs are kept.
"""

SELFTEST = """
After an installation, or on a new device. Compute on it what has an answer known to many digits: Gaussian likelihoods
and their gradients, sums over all paths of a Markov chain, the evidence of a volatility model, offspring and random
bits. Print the exact value, what was found, and whether rounding or chance explains the difference.
"""

TRACE = """
For whoever wrote a model and wonders whether ssmscan takes it. Import the file, call its model once, and print the
table of its sites: which are parameters, which are drawn at every step, which are observed, and why. A model that
cannot be taken apart is refused with the site and what to write instead. Nothing is compiled; it takes a few seconds.

The model is called with `model_args` and `model_kwargs` of the file, if it has them; or with --data, whose columns go
to the arguments of the same name. A model of one argument takes the one column there is, or those of --columns.
"""

CHECK = """
Before the first long run. Print what is to know of the data (dates, gaps, columns that do not vary), of the model (the
table of `ssmscan trace`; its parts against NumPyro's own density), of the prior (whether it makes data like those
observed; whether a filter starves at its draws), and of the engines (which run the model, and which to start with).
Takes a minute, most of it compilation. With --certify the kernels of engines are then tested on this model, and with
--cross-check two engines run until they agree.

A table is a CSV file with a line of names. The first column of dates is the time; the others go to the arguments of
the same name. Empty cells, NA and NaN are missing, and are observed by nobody.
"""

STATUS = """
Exit status: 0 where nothing speaks against the model, 1 where something does, 2 where a file or a column is amiss.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named by the arguments, `sys.argv[1:]` by default; return the exit status."""
    parser = _parser()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        print(GUIDE.strip(), file=sys.stderr)
        raise SystemExit(2)
    options = parser.parse_args(given)
    # Called by a program in which JAX has started, a command runs on the devices that there are.
    with suppress(RuntimeError):
        ssmscan.use_cores()
    keep_programs()
    return commands.exit_status(options.run, options)


def _parser() -> argparse.ArgumentParser:
    raw: Any = argparse.RawDescriptionHelpFormatter
    usage = "ssmscan COMMAND ..."
    parser = argparse.ArgumentParser(prog="ssmscan", description=GUIDE, formatter_class=raw, usage=usage)
    parser.add_argument("--version", action="version", version=f"ssmscan {ssmscan.__version__}")
    added = parser.add_subparsers(required=True, metavar="COMMAND", prog="ssmscan")

    def command(name: str, run: Callable[[Any], int], summary: str, text: str, example: str) -> argparse.ArgumentParser:
        epilog = f"Example: {example}\n\n{_filled(STATUS)}"
        description = _filled(text)
        one = added.add_parser(name, help=summary, description=description, epilog=epilog, formatter_class=raw)
        one.set_defaults(run=run)
        return one

    example = "ssmscan demo --output here"
    show = command("demo", _demo, "two samplers on exchange rates, until they agree", DEMO, example)
    show.add_argument("--output", type=Path, default=Path("ssmscan-demo"), metavar="FOLDER", help="where files go")
    show.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")

    example = "ssmscan selftest"
    tested = command("selftest", commands.selftest, "exact oracles on your machine", SELFTEST, example)
    tested.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")

    example = "ssmscan trace model.py"
    _add_model(command("trace", commands.trace, "what ssmscan finds in your model", TRACE, example))

    example = "ssmscan check model.py --data flows.csv"
    checked = command("check", commands.check, "data, model, prior and engines", CHECK, example)
    _add_model(checked)
    checked.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    checked.add_argument("--certify", action="store_true", help="test the kernels of engines on this model")
    checked.add_argument("--cross-check", action="store_true", help="run two engines until they agree")
    seconds = "time for each of --certify and --cross-check (default: 120)"
    checked.add_argument("--seconds", type=_seconds, default=120.0, metavar="S", help=seconds)
    return parser


def _filled(text: str) -> str:
    """Return paragraphs in lines that a terminal shows whole."""
    return "\n\n".join(textwrap.fill(" ".join(one.split()), 80) for one in text.strip().split("\n\n"))


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a model and its data."""
    parser.add_argument("model", type=Path, metavar="MODEL.py", help="file with the model")
    parser.add_argument("--name", default="model", metavar="NAME", help="its function (default: model)")
    parser.add_argument("--data", type=Path, metavar="FILE.csv", help="table of the data")
    parser.add_argument(
        "--columns",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[],
        metavar="NAME,NAME",
        help="columns for a model of one argument, side by side as (T, n)",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text}")
    return value


def _demo(options: argparse.Namespace) -> int:
    demo.run(options.output, seed=options.seed)
    return commands.FINE


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
