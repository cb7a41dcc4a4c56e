"""How often the intervals of weighted points hold, over repetitions on targets and proposals that are known.

The target is N(0, 1) or Gamma(4, 1), the proposal a t with five degrees of freedom that is well placed, too wide, off
by a standard deviation, or a normal law that is too narrow; in `noisy` the weights carry the noise of an estimated
likelihood, log-normal with variance one and mean one.  The last two are bad: of the weights of a normal law of .7 sds
the variance does not exist, and k-hat is near one half or above.

Run ``python -m tests.results.weighted_coverage``; it prints one line a scenario.
"""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ssmscan.results.summary import PROBABILITIES, ScalarSummary
from ssmscan.results.weighted import effective_number, normalised, summarise_weighted
from ssmscan.tail_index import tail_index

LEVELS = (0.95, 0.999)


class Scenario(NamedTuple):
    """A target, a proposal, and the variance of the noise of the log likelihood."""

    target: Any
    proposal: Any
    noise: float = 0.0

    def draw(self, rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return points and the logarithms of their weights."""
        x = self.proposal.rvs(number, random_state=rng)
        log_weights = self.target.logpdf(x) - self.proposal.logpdf(x)
        return x, log_weights + np.sqrt(self.noise) * rng.standard_normal(number) - self.noise / 2.0

    @property
    def truth(self) -> np.ndarray:
        """Mean, sd and quantiles of the target."""
        return np.array([self.target.mean(), self.target.std(), *self.target.ppf(PROBABILITIES)])


NORMAL = stats.norm()
SCENARIOS = {
    "good": Scenario(NORMAL, stats.t(5)),
    "wide": Scenario(NORMAL, stats.t(5, scale=4.0)),
    "off": Scenario(NORMAL, stats.t(5, loc=1.0)),
    "skew": Scenario(stats.gamma(4.0), stats.t(5, loc=4.0, scale=2.2)),
    "noisy": Scenario(NORMAL, stats.t(5), noise=1.0),
    "narrow": Scenario(NORMAL, stats.norm(scale=0.8)),
    "bad": Scenario(NORMAL, stats.norm(scale=0.6)),
}


class Study(NamedTuple):
    """What repetitions found: values, errors and degrees of freedom (repetitions, 5), and diagnostics."""

    values: np.ndarray
    errors: np.ndarray
    df: np.ndarray
    rhat: np.ndarray
    effective: np.ndarray
    tail: np.ndarray

    def coverage(self, truth: np.ndarray, level: float) -> np.ndarray:
        """Return the share of t intervals that hold the truth, for each statistic."""
        half = self.errors * stats.t.isf((1.0 - level) / 2.0, self.df)
        return np.mean(np.abs(self.values - truth) <= half, axis=0)


def study(scenario: Scenario, seed: int, number: int, repeats: int, summarise: Any = summarise_weighted) -> Study:
    """Summarise points and weights drawn anew `repeats` times."""
    rng = np.random.default_rng(seed)
    summaries: list[ScalarSummary] = []
    diagnostics = []
    for _ in range(repeats):
        x, log_weights = scenario.draw(rng, number)
        summaries.append(summarise(x, normalised(log_weights)))
        diagnostics.append((effective_number(log_weights), tail_index(log_weights)))
    statistics = np.array([s.statistics for s in summaries])
    return Study(*np.moveaxis(statistics, 2, 0), np.array([s.rhat for s in summaries]), *np.array(diagnostics).T)


def main() -> None:
    """Print coverage, the error over the spread between repetitions, and the diagnostics."""
    seed, repeats = (int(argument) for argument in (*sys.argv[1:], *("0", "2000")[len(sys.argv) - 1 :]))
    print(f"seed {seed}, {repeats} repetitions; of mean, sd, 5 %, 50 %, 95 %")
    for number in (1000, 10_000):
        for name, scenario in SCENARIOS.items():
            start = time.perf_counter()
            found = study(scenario, seed, number, repeats)
            ratio = np.sqrt(np.mean(found.errors**2, axis=0)) / found.values.std(axis=0)
            bias = (found.values.mean(axis=0) - scenario.truth) / found.values.std(axis=0)
            covered = "; ".join(f"{level:.1%}: {found.coverage(scenario.truth, level).round(4)}" for level in LEVELS)
            print(
                f"{name:6s} {number:6d} points, {np.median(found.effective):6.0f} effective, "
                f"k-hat {np.median(found.tail):5.2f}; {covered}; error / spread {ratio.round(2)}; bias / spread "
                f"{bias.round(2)}; df {np.median(found.df, axis=0).round()}; R-hat {np.median(found.rhat):.4f}, "
                f"99 % {np.quantile(found.rhat, 0.99):.4f}; {time.perf_counter() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
