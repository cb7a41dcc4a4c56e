"""Dates and names of axes in files and in ArviZ's containers, read back by xarray alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray

from ssmscan.labels import Labels
from ssmscan.results.agreement import compare
from ssmscan.results.result import load
from tests.results.samples import result

RNG = np.random.default_rng(0)
COUNTRIES = ["España", "Portugal"]
RESOLUTIONS = {
    "days": np.array(["1871-01-01", "2024-01-02", "2024-01-05"], "M8[ns]"),
    "hours": np.array(["2024-01-01T01", "2024-01-01T02", "2024-01-01T04"], "M8[ns]"),
    "milliseconds": np.array(["2024-01-01T00:00:00.001", "2024-01-01T00:00:01", "2024-01-01T00:00:02"], "M8[ns]"),
    "nanoseconds": np.datetime64("2024-01-01T00:00:00.000000001", "ns") + np.arange(3).astype("m8[ns]"),
    "numbers": np.array([1.5, 2.5, 4.0]),
    "text": np.array(["spring", "summer", "été"]),
}


def labelled(time=RESOLUTIONS["hours"]):
    labels = Labels(
        {"time": time, "country": COUNTRIES, "time_1": [7, 8]}, dict.fromkeys(("beta", "x", "y"), ("country",))
    )
    return result(
        {"beta": RNG.normal(size=(2, 10, 2)), "q": RNG.normal(size=(2, 10))},
        states={"late": RNG.normal(size=(2, 10, 2)), "x": RNG.normal(size=(2, 10, 3, 2))},
        state_draws=np.arange(10),
        observed={"y": RNG.normal(size=(3, 2))},
        state_probabilities={"x": np.full((3, 2, 4), 0.25)},
        labels=labels,
    )


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_file_gives_back_what_stands_along_an_axis(resolution, tmp_path):
    one = labelled(RESOLUTIONS[resolution])
    again = load(one.save(tmp_path / "one.nc"))
    assert again.labels == one.labels
    np.testing.assert_array_equal(again.labels.coords["time"], RESOLUTIONS[resolution])
    with xarray.open_datatree(tmp_path / "one.nc") as tree:
        for group in ("states", "observed_data", "state_probabilities"):
            np.testing.assert_array_equal(tree[group]["time"].values, RESOLUTIONS[resolution])
        assert tree["posterior"]["country"].values.tolist() == COUNTRIES


def test_dates_of_other_centuries_are_held_to_the_second(tmp_path):
    leap = np.array(["1600-02-28", "1600-02-29", "1600-03-01"], "M8[s]")
    np.testing.assert_array_equal(load(labelled(leap).save(tmp_path / "old.nc")).labels.coords["time"], leap)


def test_arviz_has_the_names_of_all_axes():
    exported = labelled().to_arviz()
    posterior, states = exported["posterior"], exported["states"]
    assert posterior["beta"].dims == ("chain", "draw", "country") and posterior["q"].dims == ("chain", "draw")
    assert states["x"].dims == ("chain", "draw", "time", "country")
    assert states["late"].dims == ("chain", "draw", "time_1") and states["time_1"].values.tolist() == [7, 8]
    assert exported["observed_data"]["y"].dims == ("time", "country")
    assert exported["observed_data"]["y"].sel(country="Portugal").shape == (3,)
    assert exported["state_probabilities"]["x"].dims == ("time", "country", "x_value")
    assert states["x"].sel(time="2024-01-01T02").shape == (2, 10, 2)


def test_without_labels_axes_are_counted():
    posterior = dataclasses.replace(labelled(), labels=Labels()).to_arviz()["posterior"]
    assert posterior["beta"].dims == ("chain", "draw", "beta_dim_0")


def test_tables_name_elements_by_what_they_are():
    one, names = labelled(), ["beta[España]", "beta[Portugal]", "q"]
    assert [row[0] for row in one.summary().rows] == names
    other = dataclasses.replace(labelled(), observed=one.observed, labels=Labels())
    assert list(other.summaries) == ["beta[0]", "beta[1]", "q"]
    compared = compare(other=other, one=one)
    assert all(list(engine.summaries) == names for engine in compared.engines)
    assert compared.engines[1].summaries == one.summaries


def test_elements_that_are_labelled_alike_are_counted():
    labels = Labels({"country": ["ES", "ES"]}, {"beta": ("country",)})
    assert labels.elements("beta", (2, 1)) == [("beta[0,0]", (0, 0)), ("beta[1,0]", (1, 0))]
    assert Labels({"country": ["ES", "PT"]}, labels.dims).elements("beta", (2,)) == [
        ("beta[ES]", (0,)),
        ("beta[PT]", (1,)),
    ]


def test_labels_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="labels of a Result must be ssmscan.Labels, got"):
        dataclasses.replace(labelled(), labels={"time": [1, 2, 3]})
