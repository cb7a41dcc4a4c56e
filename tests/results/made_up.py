"""Made-up results of engines and filters, whose numbers are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

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
