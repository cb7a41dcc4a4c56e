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
        num_particles=1000,
        starving_limit=10.0,
    )
    return state, data, results, filtered


def categories(seed: int = 0) -> dict[str, Result]:
    """Return results whose state z has two values, or three."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, num_values, time in (("two", 2, 40.0), ("three", 3, 30.0), ("three again", 3, 30.0)):
        level = autoregression(np.random.default_rng(seed + num_values), (STEPS,), time)
        z = np.digitize(
            level + 0.5 * rng.standard_normal((4, 100, STEPS)), np.linspace(-0.7, 0.7, num_values + 1)[1:-1]
        )
        draws = {"phi": autoregression(rng, (4, 100), 1.0)}
        found[name] = result(draws, engine=name, states={"z": z}, state_draws=np.arange(100))
    return found


def main(folder: Path) -> None:
    """Draw and save every figure."""
    _, data, results, filtered = made_up()
    regimes = categories()
    days = np.datetime64("1997-01-02") + np.arange(STEPS)
    two = plots.states(results["NUTS"], "x", times=days, observed=data)
    plots.states(results["PMMH"], "x", times=days, ax=two)
    two_regimes = plots.states(regimes["three"], "z")
    plots.states(regimes["three again"], "z", ax=two_regimes)
    starved = SimpleNamespace(**{**vars(filtered), "ess": np.where(np.arange(STEPS) % 40 == 20, 1.0, filtered.ess)})
    drawn = {
        "two engines": two,
        "two values": plots.states(regimes["two"], "z", times=days),
        "three values": two_regimes,
        "starved": plots.ess(starved),
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
