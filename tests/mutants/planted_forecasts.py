"""Mistakes in scores of forecasts: the rules, the weights that take the future away, and what is known at an origin."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

RULES = ("tests/results/test_scores.py",)
EXACT = ("tests/inference/test_forecast_scores.py",)
SHAPES = ("tests/inference/test_forecasts.py",)

FORECASTS = [
    Mutant(
        "CRPS: pairs of a draw with itself",
        "results/scoring_rules.py",
        "spread = (every - same) / others",
        "spread = every",
        RULES,
    ),
    Mutant(
        "CRPS: forecasts of one draw taken for independent",
        "results/scoring_rules.py",
        "spread = (every - same) / others",
        "spread = every * count * repeats / (count * repeats - 1)",
        RULES,
    ),
    Mutant(
        "PIT: no observation among the draws",
        "results/scoring_rules.py",
        "return (number * (below + same) + 1.0) / (number + 1.0), number * below / (number + 1.0)",
        "return below + same, below + same",
        RULES,
    ),
    Mutant(
        "errors of sums: scores taken for independent",
        "results/scoring_rules.py",
        "variance += 2.0 * (1.0 - lag / (most + 1)) * float(away[lag:] @ away[:-lag])",
        "variance += 0.0",
        RULES,
    ),
    Mutant(
        "smoothed weights: quantiles of another place",
        "tail_index.py",
        "(np.arange(size) + 0.5) / size",
        "(np.arange(size) + 0.1) / size",
        ("tests/test_tail_index.py",),
    ),
    Mutant(
        "scores: draws have seen the future",
        "inference/reweighting.py",
        "    return smoothed(np.where(there, log_ratios, -np.inf))",
        "    return Smoothed(np.full(len(log_ratios), -np.log(len(log_ratios))), -np.inf)",
        EXACT,
    ),
    Mutant(
        "scores: weights the wrong way",
        "inference/reweighting.py",
        "before[:, origins] - before[:, [seen]]",
        "before[:, [seen]] - before[:, origins]",
        EXACT,
    ),
    Mutant(
        "scores: weights from the filters that are scored",
        "inference/leave_future_out.py",
        "AtDraws.of(steps[0], steps[-1],",
        "AtDraws.of(steps[0], steps[0],",
        EXACT,
    ),
    Mutant(
        "scores: draws of the first observations weighed as of all",
        "inference/reweighting.py",
        "        seen = min(seen, ssm.num_steps - (len(all_) - len(given)))",
        "        seen = ssm.num_steps",
        EXACT,
    ),
    Mutant(
        "scores: sampled anew at the first bad origin",
        "inference/reweighting.py",
        "first = int(bad[-1]) + 1",
        "first = int(bad[0]) + 1",
        EXACT,
    ),
    Mutant(
        "scores: another observation than the one predicted",
        "inference/forecast_mixture.py",
        "step = int(self.origins[row]) + h - 1",
        "step = int(self.origins[row]) + h",
        EXACT,
    ),
    Mutant(
        "forecasts: the cloud has seen the observation",
        "particles/before_steps.py",
        "return chosen(state), (info.increment, held)",
        "return chosen(state), (info.increment, chosen(state))",
        SHAPES,
    ),
    Mutant(
        "forecasts: the law of the carry has seen the observation",
        "model/gaussian/predictive.py",
        "return (after, columns), (increment, carry, before)",
        "return (after, columns), (increment, after, columns)",
        EXACT,
    ),
    Mutant(
        "forecasts: lags are read from the data",
        "model/statespace/reading_ahead.py",
        "    if not any(found.values()):\n        return",
        "    return",
        SHAPES,
    ),
]
