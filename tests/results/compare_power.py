"""How often `compare` is right, over 200 comparisons of autoregressions with a known margin.

Each engine is four chains of three independent parameters, AR(1) with integrated autocorrelation time 50
and a standard normal margin; or weighted points of one standard normal parameter, from a proposal that is off by an sd
against one with the noise of an estimated likelihood.  Run ``python -m tests.results.compare_power``; it prints one
line a scenario, the weighted ones first since they take seconds.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import numpy as np

from ssmscan.results.agreement import PairReport, compare
from ssmscan.results.verdicts import Verdict
from ssmscan.results.weighted import normalised
from tests.results.samples import autoregression, result
from tests.results.weighted_coverage import SCENARIOS

AUTOCORRELATION_TIME = 50.0
NAMES = ("phi", "mu", "sigma")


def one_comparison(rng: np.random.Generator, num_draws: int, shift: float) -> PairReport:
    """Compare two engines of four chains; the first parameter of the second is shifted by `shift` sds."""
    first, second = autoregression(rng, (2, len(NAMES), 4, num_draws), AUTOCORRELATION_TIME)
    second[0] += shift
    engines = [result(dict(zip(NAMES, draws))) for draws in (first, second)]
    return compare(first=engines[0], second=engines[1]).pairs[0]


def one_weighted_comparison(rng: np.random.Generator, num_points: int, shift: float) -> PairReport:
    """Compare two sets of weighted points; those of the second are shifted."""
    engines = []
    for name, moved in (("off", 0.0), ("noisy", shift)):
        x, log_weights = SCENARIOS[name].draw(rng, num_points)
        draws = rng.choice(x + moved, (1, 100), p=normalised(log_weights))
        engines.append(result({NAMES[0]: draws}, points={NAMES[0]: x + moved}, log_weights=log_weights))
    return compare(first=engines[0], second=engines[1]).pairs[0]


def weighted_scenario(seed: int, num_points: int, shift: float, repeats: int = 500) -> list[PairReport]:
    """Repeat one comparison of weighted points."""
    rng = np.random.default_rng([seed, num_points, round(1000 * shift)])
    return [one_weighted_comparison(rng, num_points, shift) for _ in range(repeats)]


def scenario(seed: int, num_draws: int, shift: float, repeats: int = 200) -> list[PairReport]:
    """Repeat one comparison."""
    rng = np.random.default_rng([seed, num_draws, round(1000 * shift)])
    return [one_comparison(rng, num_draws, shift) for _ in range(repeats)]


def share(pairs: list[PairReport], verdict: Verdict) -> float:
    """Return the fraction of comparisons with this verdict."""
    return sum(pair.verdict is verdict for pair in pairs) / len(pairs)


def main() -> None:
    """Print the shares of the verdicts, and how often the simultaneous intervals hold."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    for shift in (0.0, 0.05, 0.15, 0.3, 0.5):
        pairs = weighted_scenario(seed, 10_000, shift)
        held = sum(covers(pair, shift) for pair in pairs if np.isfinite(pair.differences[0].low))
        verdicts = Counter(pair.verdict.value for pair in pairs)
        print(
            f"10000 weighted points, shift {shift:.2f} sd: {dict(verdicts)}; all 5 intervals hold in {held}", flush=True
        )
    print(f"autocorrelation time {AUTOCORRELATION_TIME:.0f}, 4 chains, {len(NAMES)} parameters, seed {seed}")
    for name, num_draws, shift in (("null", 25_000, 0.0), ("shift", 25_000, 0.3), ("short", 100, 0.0)):
        start = time.perf_counter()
        pairs = scenario(seed, num_draws, shift)
        verdicts = Counter(pair.verdict.value for pair in pairs)
        judged = [pair for pair in pairs if np.isfinite(pair.differences[0].low)]
        held = [covers(pair, shift) for pair in judged]
        print(
            f"{name:5s} {num_draws:6d} draws, shift {shift:.1f} sd: {dict(verdicts)}; "
            f"judged {len(judged)}, all 15 intervals hold in {sum(held)}; {time.perf_counter() - start:.0f} s"
        )


def covers(pair: PairReport, shift: float) -> bool:
    """Whether every interval holds the true difference, in units of the sample's sd."""
    moved = {"mean", "5 %", "50 %", "95 %"}
    truth = [-shift if d.parameter == NAMES[0] and d.statistic in moved else 0.0 for d in pair.differences]
    return all(d.low <= value <= d.high for d, value in zip(pair.differences, truth))


if __name__ == "__main__":
    main()
