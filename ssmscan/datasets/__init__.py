"""Three small series that ship with the package, as published, with where they come from.

* `gbpusd`: 750 daily returns of the exchange rate of pounds for dollars, in per cent; stochastic volatility.
* `nile`: annual flow of the Nile at Aswan, 1871-1970; local level, the exact answer is a Kalman filter's.
* `sp500`: 100 daily log returns of the S&P 500 around March 2020; stochastic volatility, a hard posterior.

The CSV files hold what the source published (rates, volumes, closing prices); the functions transform.
The README of this folder says where each file was taken from.  Nothing here imports JAX.
"""

from __future__ import annotations

import csv
from importlib import resources
from typing import NamedTuple

import numpy as np

__all__ = ["Dataset", "gbpusd", "nile", "sp500"]


class Dataset(NamedTuple):
    """One time series.

    Attributes:
        values: (T,) float64, what a model observes.
        time: (T,) datetime64, when each value was observed.
        description: what the values are, with their unit.
        source: where the numbers were published.
    """

    values: np.ndarray
    time: np.ndarray
    description: str
    source: str


def gbpusd() -> Dataset:
    """Return 750 daily log returns, times 100, of the rate in pounds per US dollar, 1997 to 1999."""
    dates, rates = _read("gbpusd.csv")
    return Dataset(
        values=100 * np.diff(np.log(rates)),
        time=dates[1:],
        description="Pounds per US dollar, daily log returns, per cent",
        source="PACIFIC Exchange Rate Service (W. Antweiler, University of British Columbia), through particles 0.4",
    )


def nile() -> Dataset:
    """Return the annual flow of the Nile at Aswan, 1871 to 1970, in 1e8 cubic metres."""
    years, volumes = _read("nile.csv")
    return Dataset(
        values=volumes,
        time=years,
        description="Annual flow of the Nile at Aswan, 1e8 cubic metres",
        source="Cobb (1978), Biometrika 65(2), 243-251, through statsmodels; public domain",
    )


def sp500() -> Dataset:
    """Return the last 100 daily log returns of the S&P 500 up to 24 June 2020, minus their mean."""
    dates, prices = _read("sp500.csv")
    returns = np.diff(np.log(prices))
    return Dataset(
        values=returns - returns.mean(),
        time=dates[1:],
        description="S&P 500 daily log returns, centred",
        source="Yahoo Finance, through inference-gym 0.0.5 (log_sp500_small)",
    )


def _read(filename: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a two-column CSV file of this folder: times (T,) datetime64 and numbers (T,) float64."""
    with (resources.files(__name__) / filename).open(encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    times, numbers = zip(*rows)
    return np.array(times, dtype="datetime64"), np.array(numbers, dtype=np.float64)
