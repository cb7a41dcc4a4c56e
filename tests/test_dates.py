"""Dates of any kind as datetime64, and the rules by which they go on; pandas' own calendars are the truth."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from ssmscan.dates import as_dates, extended, first_after_gap, is_dates

pandas = pytest.importorskip("pandas")

RULES = {
    "day": ("2024-02-26", 9, "D"),
    "hour": ("2024-02-28 20:00", 6, "h"),
    "week": ("2024-02-01", 5, "W-THU"),
    "working day": ("2024-02-28", 6, "B"),
    "month": ("2023-11-01", 4, "MS"),
    "end of the month": ("2023-11-30", 4, "ME"),
    "31 days twice": ("2024-07-01", 3, "MS"),
    "quarter": ("2023-01-01", 5, "QS"),
    "end of the quarter": ("2023-03-31", 5, "QE"),
    "year": ("2023-05-01", 3, "YS-MAY"),
    "end of the year": ("2021-12-31", 3, "YE"),
}


def long_and_short(rule, ahead=7):
    start, number, frequency = RULES[rule]
    whole = pandas.date_range(start, periods=number + ahead, freq=frequency)
    return whole.to_numpy(), whole[:number]


@pytest.mark.parametrize("rule", RULES)
def test_dates_go_on_by_the_rule_that_they_follow(rule):
    whole, index = long_and_short(rule)
    known = index.to_numpy()
    for dates in (known, known.astype("datetime64[s]"), pandas.DatetimeIndex(known), index, known.tolist()):
        found = extended(np.asarray(dates, "M8[ns]") if isinstance(dates, list) else dates, len(whole))
        np.testing.assert_array_equal(found, whole)


def test_what_only_pandas_infers_goes_on_too():
    whole = pandas.date_range("2023-01-31", periods=9, freq="BME")
    np.testing.assert_array_equal(extended(pandas.DatetimeIndex(whole[:6].to_numpy()), 9), whole.to_numpy())


def test_holidays_of_a_frequency_are_kept():
    frequency = pandas.offsets.CustomBusinessDay(holidays=["2024-05-01"])
    whole = pandas.date_range("2024-04-24", periods=8, freq=frequency)
    assert np.datetime64("2024-05-01") not in whole
    np.testing.assert_array_equal(extended(whole[:4], 8), whole.to_numpy())


@pytest.mark.parametrize(
    "dates",
    [
        ["2024-01-01", "2024-01-05", "2024-01-09", "2024-02-01"],
        ["2024-01-01", "2024-01-02"],  # a day, or a month in a leap year of another calendar
        ["2024-07-01", "2024-07-02", "2024-07-03", "2024-07-04", "2024-07-05"],  # days, or working days
        ["2024-01-30", "2024-03-30", "2024-05-30"],  # February has none
        ["2024-01-03", "2024-01-02", "2024-01-01"],
        ["2024-04-29", "2024-04-30", "2024-05-02", "2024-05-03", "2024-05-06"],  # a holiday
    ],
)
def test_where_no_rule_is_certain_there_is_none(dates):
    assert extended(np.array(dates, "M8[D]"), 9) is None
    assert extended(pandas.DatetimeIndex(dates), 9) is None


@pytest.mark.parametrize(
    ("frequency", "known"),
    [
        ("MS", True),
        ("ME", True),
        ("QE", True),
        ("YS-MAY", True),
        ("W-THU", True),
        ("D", True),
        ("B", False),
        ("h", False),
    ],
)
def test_a_date_that_is_left_out_is_found_where_it_cannot_be_a_holiday(frequency, known):
    whole = pandas.date_range("2023-01-01", periods=24, freq=frequency).to_numpy()
    assert first_after_gap(whole) is None
    for left_out in ([9], [9, 10], [9, 15]):
        assert first_after_gap(np.delete(whole, left_out)) == (9 if known else None)


def test_dates_of_which_few_follow_a_rule_have_no_gap():
    for days in ([0, 1, 2], [0, 1, 5, 6, 9, 14, 15], [0, 0, 0, 1, 1, 3], range(0, 900, 45)):
        assert first_after_gap(np.datetime64("2024-01-01", "ns") + np.array(days).astype("m8[D]")) is None


def test_periods_begin_where_they_begin():
    quarters = pandas.period_range("2023Q2", periods=6, freq="Q")
    np.testing.assert_array_equal(as_dates(quarters)[:2], np.array(["2023-04-01", "2023-07-01"], "M8[ns]"))
    np.testing.assert_array_equal(extended(quarters[:3], 6), as_dates(quarters))
    assert extended(quarters[[0, 2, 3]], 6) is None


def test_a_time_zone_shows_what_its_clocks_show():
    days = pandas.date_range("2024-10-25", periods=6, freq="D", tz="Europe/Berlin")  # clocks change on the 27th
    midnights = np.arange("2024-10-25", "2024-10-31", dtype="M8[D]").astype("M8[ns]")
    np.testing.assert_array_equal(as_dates(days), midnights)
    np.testing.assert_array_equal(extended(days[:3], 6), midnights)
    hours = pandas.date_range("2024-10-27 00:00", periods=5, freq="h", tz="Europe/Berlin")  # one hour comes twice
    np.testing.assert_array_equal(as_dates(hours), hours.tz_convert(None).to_numpy())


def test_objects_of_the_standard_library_are_dates():
    days = [datetime.date(1600, 1, 1), datetime.date(1600, 1, 2)]
    assert is_dates(np.array(days, object)) and not is_dates(np.array([1.0])) and not is_dates(days)
    assert str(as_dates(days)[1])[:10] == "1600-01-02"
    assert as_dates(np.array(["2024-01-01", "NaT"], "M8[D]")) is None and as_dates(["a", "b"]) is None


def test_numbers_go_on_by_equal_steps():
    np.testing.assert_array_equal(extended(np.array([1871, 1872, 1873]), 5), [1871, 1872, 1873, 1874, 1875])
    assert extended(np.array([1871, 1872, 1874]), 5) is None
    assert extended(np.array(["a", "b", "c"]), 5) is None
