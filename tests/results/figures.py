"""The figures on made-up results; ``python -m tests.results.figures FOLDER`` saves them to be looked at."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ssmscan.results import plots
from ssmscan.results.agreement import compare
from ssmscan.results.result import Result
from tests.results.samples import autoregression, result

STEPS = 120


def made_up(seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, Result], SimpleNamespace]:
    """Return a state (T,), data (T,), results of three engines and what a filter would report."""
    rng = np.random.default_rng(seed)
    state = 2.0 * autoregression(rng, (STEPS,), 20.0)
    data = state + 0.7 * rng.standard_normal(STEPS)
    spread = 0.2 + 0.3 * rng.random(STEPS)
    results = {
        name: result(
            {
                "phi": 0.95 + 0.02 * autoregression(rng, (4, n), time),
                "sigma": np.exp(-1.8 + 0.3 * autoregression(rng, (4, n), time)),
            },
            engine=name,
            states={"x": state + spread * rng.standard_normal((4, 100, STEPS))},
            state_draws=np.arange(100),
            observed={"y": data},
        )
        for name, n, time in (("NUTS", 4000, 2.0), ("PMMH", 20_000, 20.0), ("short", 120, 20.0))
    }
    filtered = SimpleNamespace(
        summaries={"mean": {"x": 0.8 * state}, "sd": {"x": 1.5 * spread}},
        ess=np.clip(800 - 600 * spread * rng.random(STEPS) * 3, 10, 1000),
        resampled=rng.random(STEPS) < 0.3,
        start_observed=False,
        final=SimpleNamespace(log_weights=np.zeros(1000)),
    )
    return state, data, results, filtered


def main(folder: Path) -> None:
    """Draw and save every figure."""
    _, data, results, filtered = made_up()
    drawn = {
        "smoothed": plots.states(results["NUTS"], "x", observed=data),
        "filtered": plots.states(filtered, "x", observed=10 * data, observed_on_the_right=True),
        "ess": plots.ess(filtered),
        "agreement": plots.agreement(compare(**results)),
        "posterior": plots.posterior(results, "sigma"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, ax in drawn.items():
        ax.figure.savefig(folder / f"{name}.png", dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
