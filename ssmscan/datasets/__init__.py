"""Small data sets that ship with the package, as published, with where they come from.

* `births`: births in the United States on each day of 1978; season, holidays, forecast by date.
* `dippers`: which of 294 marked birds were seen in 1981-1987; capture-recapture.
* `dogs`: which of 25 shocks 30 dogs avoided; a learning model whose loop has no noise.
* `epilepsy`: seizures of 59 patients in four visits; a panel of counts.
* `fur_seal`: where satellites saw one fur seal in the winter of 2005; tracking.
* `gbpusd`: 750 daily returns of the exchange rate of pounds for dollars, in per cent; stochastic volatility.
* `gnp`: 135 quarterly growth rates of the real GNP of the United States; regime switching.
* `influenza`: boys in bed on each day of an epidemic at a boarding school; an epidemic.
* `nile`: annual flow of the Nile at Aswan, 1871-1970; local level, the exact answer is a Kalman filter's.
* `polio`: monthly cases of poliomyelitis in the United States, 1970-1983; counts with trend.
* `sp500`: 100 daily log returns of the S&P 500 around March 2020; stochastic volatility, a hard posterior.
* `thalamus`: how often a neuron fired in each of 3,000 milliseconds; spike counts.

The CSV files hold what the source published (rates, volumes, closing prices, counts); the functions transform.
The README of this folder says where each file was taken from.  Nothing here imports JAX.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

__all__ = [
    "Dataset",
    "births",
    "dippers",
    "dogs",
    "epilepsy",
    "fur_seal",
    "gbpusd",
    "gnp",
    "influenza",
    "nile",
    "polio",
    "sp500",
    "thalamus",
]


class Dataset(NamedTuple):
    """One time series, or several side by side.

    Attributes:
        values: (T,) or (T, series) float64, what a model observes.
        time: (T,) datetime64, when each value was observed; integers where there is no calendar.
        description: what the values are, with their unit.
        source: where the numbers were published.
        covariates: name -> (series,) or (T,) what is known of each series, or at each time.
    """

    values: np.ndarray
    time: np.ndarray
    description: str
    source: str
    covariates: Mapping[str, np.ndarray] = MappingProxyType({})


def births() -> Dataset:
    """Return the number of births in the United States on each of the 365 days of 1978."""
    dates, numbers = _read("births.csv")
    return Dataset(
        values=numbers,
        time=dates,
        description="Births in the United States, a day",
        source="National Center for Health Statistics, through the R package mosaicData 0.20.4 (Births78)",
    )


def dippers() -> Dataset:
    """Return which of 294 European dippers were caught in each breeding season, (7, 294) of 0 and 1, and their sex."""
    columns = _columns("dipper.csv")
    years = np.arange(1981, 1988)
    return Dataset(
        values=np.array([columns[str(year)] for year in years], np.float64),
        time=np.array([f"{year}" for year in years], "datetime64[Y]"),
        description="Whether each marked dipper was caught in the season",
        source="Marzolin (1988); Lebreton, Burnham, Clobert & Anderson (1992), Ecological Monographs 62(1), 67-118",
        covariates={"sex": np.array(columns["sex"])},
    )


def dogs() -> Dataset:
    """Return which shocks each of 30 dogs avoided in 25 trials, (25, 30) of 0 and 1."""
    columns = _columns("dogs.csv")
    return Dataset(
        values=np.array([columns[str(trial)] for trial in range(25)], np.float64),
        time=np.arange(25),
        description="Whether the dog jumped the barrier before the shock",
        source="Solomon & Wynne (1953), Psychological Monographs 67(4); Bush & Mosteller (1955), table 11.1",
    )


def epilepsy() -> Dataset:
    """Return the seizures of 59 patients in the two weeks before each of four visits, (4, 59).

    Covariates are `treatment` ("placebo" or "progabide"), `baseline` (seizures in the eight weeks before the trial) and
    `age` (years), all (59,).
    """
    columns = _columns("epilepsy.csv")
    return Dataset(
        values=np.array([columns[f"visit_{visit}"] for visit in range(1, 5)], np.float64),
        time=np.arange(1, 5),
        description="Seizures in two weeks",
        source="Thall & Vail (1990), Biometrics 46(3), 657-671, through statsmodels",
        covariates={
            "treatment": np.array(columns["treatment"]),
            "baseline": np.array(columns["baseline"], np.float64),
            "age": np.array(columns["age"], np.float64),
        },
    )


def fur_seal() -> Dataset:
    """Return 795 fixes of a northern fur seal pup, (795, 2) of longitude and latitude in degrees, and their quality.

    The covariate `class` is that of the Argos satellites, from best to worst "3", "2", "1", "0", "A".
    """
    columns = _columns("fur_seal.csv")
    return Dataset(
        values=np.array([columns["longitude"], columns["latitude"]], np.float64).T,
        time=np.array(columns["time"], "datetime64[s]"),
        description="Longitude and latitude of a northern fur seal, degrees",
        source="Johnson, London, Lea & Durban (2008), Ecology 89(5), 1208-1215; Marine Mammal Laboratory, NOAA",
        covariates={"class": np.array(columns["class"])},
    )


def gbpusd() -> Dataset:
    """Return 750 daily log returns, times 100, of the rate in pounds per US dollar, 1997 to 1999."""
    dates, rates = _read("gbpusd.csv")
    return Dataset(
        values=100 * np.diff(np.log(rates)),
        time=dates[1:],
        description="Pounds per US dollar, daily log returns, per cent",
        source="PACIFIC Exchange Rate Service (W. Antweiler, University of British Columbia), through particles 0.4",
    )


def gnp() -> Dataset:
    """Return the growth of the real GNP of the United States, 135 quarters from 1951-04 to 1984-10, in per cent."""
    months, growth = _read("gnp.csv")
    return Dataset(
        values=growth,
        time=months,
        description="Growth of US real GNP, per cent a quarter",
        source="Hamilton (1989), Econometrica 57(2), 357-384, through statsmodels",
    )


def influenza() -> Dataset:
    """Return how many of 763 boys were in bed on each of 14 days, 22 January to 4 February 1978."""
    dates, numbers = _read("influenza.csv")
    return Dataset(
        values=numbers,
        time=dates,
        description="Boys of 763 confined to bed by influenza",
        source="Influenza in a boarding school (1978), British Medical Journal 1(6112), 587",
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


def polio() -> Dataset:
    """Return the cases of poliomyelitis in the United States in each of 168 months, 1970 to 1983."""
    months, cases = _read("polio.csv")
    return Dataset(
        values=cases,
        time=months,
        description="Cases of poliomyelitis in the United States, a month",
        source="US Centers for Disease Control; Zeger (1988), Biometrika 75(4), 621-629",
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


def thalamus() -> Dataset:
    """Return in how many of 50 repetitions a neuron fired in each of 3,000 milliseconds."""
    columns = _columns("thalamus.csv")
    return Dataset(
        values=np.array(columns["spikes"], np.float64),
        time=np.array(columns["millisecond"], np.int64),
        description="Spikes of a thalamic neuron in 50 repetitions of a stimulus, a millisecond",
        source="Temereanca, Brown & Simons (2008), Journal of Neuroscience 28(44), 11153-11164, through particles 0.4",
    )


def _columns(filename: str) -> dict[str, list[str]]:
    """Read a CSV file of this folder: name of a column -> its entries as text."""
    with (resources.files(__name__) / filename).open(encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    return dict(zip(names, map(list, zip(*rows))))


def _read(filename: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a two-column CSV file of this folder: times (T,) datetime64 and numbers (T,) float64."""
    times, numbers = _columns(filename).values()
    return np.array(times, dtype="datetime64"), np.array(numbers, dtype=np.float64)
