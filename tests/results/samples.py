"""Draws whose law is known: autoregressions with a standard normal margin, and results made of them."""

import numpy as np
from scipy.signal import lfilter

from ssmscan.results.data import Costs
from ssmscan.results.result import Result


def autoregression(rng: np.random.Generator, shape: tuple[int, ...], time: float) -> np.ndarray:
    """Draw stationary AR(1) series along the last axis: N(0, 1) margin, integrated autocorrelation `time`."""
    rho = (time - 1.0) / (time + 1.0)
    noise = rng.standard_normal(shape)
    noise[..., 1:] *= np.sqrt(1.0 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=-1)


def result(draws: dict[str, np.ndarray], **changes: object) -> Result:
    """Make a result of draws alone."""
    fields = {
        "engine": "AR(1)",
        "draws": draws,
        "states": {},
        "state_draws": np.zeros(0, int),
        "sample_stats": {},
        "independent_runs": False,
        "log_evidence": None,
        "log_evidence_error": None,
        "costs": Costs(1.0, 2.0, 3.0, 1000, 0),
        "settings": {},
        "versions": {},
        "observed": {},
    }
    return Result(**(fields | changes))
