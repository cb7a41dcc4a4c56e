"""Error rates of `cross_check` itself, looks and all: `python -m tests.inference.cross_check_power [REPETITIONS]`.

Engines draw a known law, an autoregression against weighted points (`tests.inference.synthetic`), with one parameter
of one of them moved by so many posterior sds.  At shift 0 no more than one in a hundred may be *disagree*; at .5 sd
all should be.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import jax
import numpy as np

import ssmscan
from tests.inference.synthetic import Chains, Points, traced

SHIFTS = (0.0, 0.05, 0.15, 0.3, 0.5)


def verdicts(shift: float, repetitions: int) -> tuple[Counter, list[int]]:
    """Count the verdicts at a shift, and the looks that each took."""
    ssm, found, looks = traced(), Counter(), []
    for seed in range(repetitions):
        engines = {"chains": Chains(shift=shift), "points": Points()}
        check = ssmscan.cross_check(jax.random.key(seed), ssm, seconds=60.0, engines=engines, progress=False)
        found[check.verdict] += 1
        looks.append(len(check.looks))
    return found, looks


def main() -> None:
    """Print a line for each shift."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    print(
        "shift  n    "
        + "  ".join(f"{verdict.value:>11}" for verdict in ssmscan.Verdict)
        + "  looks (mean, most)  seconds"
    )
    for shift in SHIFTS:
        began = time.perf_counter()
        found, looks = verdicts(shift, repetitions)
        shares = "  ".join(f"{found[verdict] / repetitions:11.3f}" for verdict in ssmscan.Verdict)
        seconds = time.perf_counter() - began
        print(
            f"{shift:5.2f}  {repetitions:3d}  {shares}  {np.mean(looks):.2f}, {max(looks)}  {seconds:.0f}", flush=True
        )


if __name__ == "__main__":
    main()
