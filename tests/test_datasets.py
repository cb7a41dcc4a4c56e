"""Data sets: what ships is what was published, by sums that the publications or a second source give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssmscan import datasets

FOLDER = Path(datasets.__file__).parent
NAMES = sorted(set(datasets.__all__) - {"Dataset"})

SUMS = {
    "births": 3_333_239,
    "dippers": 519,  # captures: 22 + 60 + 78 + 80 + 88 + 98 + 93
    "dogs": 516,  # of 750 trials; 234 shocks, 7.8 a dog (Bush & Mosteller 1955)
    "epilepsy": 1948,
    "influenza": 1546,
    "nile": 91_935,
    "polio": 224,
    "thalamus": 3056,
}
"""Of data sets of whole numbers."""

M_ARRAY = [
    [11, 2, 0, 0, 0, 0],
    [0, 24, 1, 0, 0, 0],
    [0, 0, 34, 2, 0, 0],
    [0, 0, 0, 45, 1, 2],
    [0, 0, 0, 0, 51, 0],
    [0, 0, 0, 0, 0, 52],
]
"""Next recaptures of the dippers by season of release and season after, Lebreton et al. (1992)."""


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_is_complete(name):
    data = getattr(datasets, name)()
    assert data.values.dtype == np.float64 and np.isfinite(data.values).all()
    assert data.time.shape == data.values.shape[:1] and (np.diff(data.time) > 0 * np.diff(data.time)).all()
    assert data.description and data.source
    lengths = set(data.values.shape)
    assert all(covariate.shape[0] in lengths for covariate in data.covariates.values())
    assert data.values.sum() == SUMS.get(name, data.values.sum())


def test_every_file_says_where_it_comes_from():
    readme = (FOLDER / "README.md").read_text()
    files = {path.name for path in FOLDER.glob("*.csv")}
    assert {word for word in readme.split("`") if word.endswith(".csv") and "/" not in word} - {"thaldata.csv"} == files
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 300_000


def test_the_dippers_have_the_published_recaptures():
    found = np.zeros((6, 6), int)
    for history in datasets.dippers().values.T:
        seen = np.flatnonzero(history)
        for release, recapture in zip(seen[:-1], seen[1:]):
            found[release, recapture - 1] += 1
    np.testing.assert_array_equal(found, M_ARRAY)


def test_days_and_quarters_are_those_of_the_source():
    births = datasets.births()
    weekend = births.values[np.isin(births.time.astype(int) % 7, (2, 3))]  # 1 January 1970 was a Thursday
    assert weekend.mean() < 0.9 * births.values.mean()
    gnp = datasets.gnp()
    assert str(gnp.time[0]) == "1951-04" and str(gnp.time[-1]) == "1984-10"
    assert set(np.diff(gnp.time).astype(int)) == {3}
