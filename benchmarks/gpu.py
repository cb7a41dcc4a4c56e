"""What ssmscan does on a GPU, in five minutes at most, the most important first.

    PYTHONPATH=$PWD python benchmarks/gpu.py --output gpu.jsonl [--device cpu] [--quick] [--only PART ...]

Parts, in this order (`gpu_parts.py` says what each measures, on stochastic volatility with T = 200 unless it says
otherwise):

    filter    a filter with default summaries, N = 1e3 to 1.6e7, resampling at every step and when ESS < N/2
    kernels   kernels that a GPU starts for one step of these filters, counted in the compiled text
    nuts      one leapfrog step of 64 chains, with several steps of the time loop in a trip and with one
    vectors   1,000 parameter vectors with 1,000 particles each, T = 100
    gradient  of the log-likelihood estimate
    pmmh      one iteration of 64 chains, N = 500
    tempered  a small run of tempered SMC, where BlackJAX is installed
    paths     100 backward paths

Each line is printed, and appended to the output, as it is measured; times are medians in seconds, the first call apart.
A part that fails or cannot run writes a line that says why.  No part begins, and no further line of one, after
--seconds.  `--quick` has small sizes: with `--device cpu` it shows in a minute or two that all runs.
"""

from __future__ import annotations

import argparse
import time
import traceback
from pathlib import Path
from typing import Any

from records import append, use_device


def keep_text(folder: Path | None, record: dict[str, Any]) -> None:
    """Take the compiled text out of a record, and write it where it is wanted."""
    text = record.pop("text", None)
    if folder and text:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"filter_{record['N']}_{record['resampling'].split()[0]}.txt").write_text(text)


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="file of JSON lines; they are added to it")
    parser.add_argument("--device", default="gpu", help="gpu, or a platform of JAX")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART")
    parser.add_argument("--texts", type=Path, help="folder for the compiled texts of the kernels that are counted")
    parser.add_argument("--seconds", type=float, default=285.0)
    options = parser.parse_args()
    began = time.monotonic()
    use_device(options.device)
    # JAX reads the platform when it is imported.
    from gpu_parts import PARTS, machine

    append(options.output, {"part": "machine", "seconds": time.monotonic() - began, **machine()})
    for name, part in PARTS.items():
        if options.only and name not in options.only:
            continue
        try:
            records = part(options.quick)
            while time.monotonic() - began < options.seconds and (record := next(records, None)):
                keep_text(options.texts, record)
                append(options.output, {"part": name, **record, "at": round(time.monotonic() - began, 1)})
        except Exception as error:
            # The other parts are worth having.
            traceback.print_exc()
            append(options.output, {"part": name, "skipped": f"{type(error).__name__}: {error}"[:300]})
    append(options.output, {"part": "end", "seconds": round(time.monotonic() - began, 1)})


if __name__ == "__main__":
    main()
