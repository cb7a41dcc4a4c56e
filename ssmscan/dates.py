"""Dates of any kind as datetime64, and how they go on.

Dates come as indexes of pandas (with a time zone, or periods), as arrays of NumPy, or as objects of the standard
library.  Labels hold datetime64: of a period its first instant, of a time zone the time that its clocks show, so that a
day begins at midnight (UTC where clocks show a time twice).

A loop that is longer than its data has dates beyond them.  These are known where the dates follow a rule that can be
read off them: equal steps, so many months with the same day or the last day of the month, working days, or what pandas
infers; the frequency of an index of pandas goes before all.  Three dates are needed, and rules that two readings fit,
as five days of one working week, are no rule.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

_SHORTEST = 3
"""As many dates show a rule."""

_NANOSECONDS = np.array(["1677-09-22", "2262-04-11"], "datetime64[s]")
"""Dates that 64 bits hold to the nanosecond; others are held to the second."""

_DAY = np.timedelta64(1, "D")


def is_dates(value: Any) -> bool:
    """Return whether this is an array of NumPy that holds dates."""
    if not isinstance(value, np.ndarray):
        return False
    return value.dtype.kind == "M" or (value.dtype == object and value.size > 0 and all(map(_is_date, value.flat)))


def index_of(series: Any) -> Any:
    """Return the values of a Series of pandas as an index."""
    return _pandas().Index(series)


AS_THEY_COME = "a model takes the rows as they come, one a step"
"""Why dates have to be in order."""


def first_out_of_order(values: Any) -> int | None:
    """Return which of some dates is the first before its predecessor, None where there is none, or there are no dates.

    Args:
        values: an index of pandas or an array.
    """
    if getattr(values, "is_monotonic_increasing", False):  # what clocks show may go back where the time does not
        return None
    dates = as_dates(values)
    back = np.zeros(0, bool) if dates is None else dates[1:] < dates[:-1]
    return int(np.argmax(back)) + 1 if back.any() else None


def first_after_gap(dates: np.ndarray) -> int | None:
    """Return which of some dates is the first that others are left out before; None where none are, or who knows.

    It is known of dates that are months, weeks or days apart, three in four of them equally.  Of days at most four in
    five may be working days: those of an exchange have holidays.

    Args:
        dates: (T,) datetime64 in order.
    """
    months, days = dates.astype("datetime64[M]"), dates.astype("datetime64[D]")
    since = dates - months.astype(dates.dtype)
    left = (months + np.timedelta64(1, "M")).astype(dates.dtype) - dates
    if len(dates) <= _SHORTEST:
        return None
    if np.all(since == since[0]) or np.all(left == left[0]):
        steps = np.diff(months.astype(int))
    else:
        steps = np.diff(days.astype(int))
        if np.median(steps) % 7 and np.mean(np.is_busday(days)) > 0.8:
            return None
    usual = int(np.median(steps))
    late = steps != usual
    if usual <= 0 or not late.any() or np.mean(late) > 0.25 or np.any(steps % usual):
        return None
    return int(np.argmax(late)) + 1


def as_dates(values: Any) -> np.ndarray | None:
    """Return a list of dates as datetime64, None for what holds no dates or has gaps among them."""
    if _is_periods(values):
        values = values.to_timestamp()
    if getattr(values, "tz", None) is not None:
        local = values.tz_localize(None)
        values = local if local.is_unique else values.tz_convert(None)
    found = np.asarray(values)
    if not is_dates(found):
        return None
    if found.dtype == object:
        found = np.array([date.replace(tzinfo=None) if hasattr(date, "tzinfo") else date for date in found.flat])
        try:
            found = found.astype("datetime64[us]")
        except (TypeError, ValueError):  # of another calendar
            return None
    if np.isnat(found).any():
        return None
    coarse = found.astype("datetime64[s]")
    fits = len(coarse) == 0 or bool(_NANOSECONDS[0] <= coarse.min() and coarse.max() <= _NANOSECONDS[1])
    return found.astype("datetime64[ns]") if fits else coarse


def extended(values: Any, length: int) -> np.ndarray | None:
    """Return dates or numbers with those that follow by the rule they show.

    Args:
        values: an index of pandas or an array: dates or numbers, fewer than `length` of them.
        length: how many are wanted.

    Returns:
        (length,) dates or numbers, None where there is no rule.
    """
    if _is_periods(values):
        whole = _pandas().period_range(values[0], periods=length)
        return as_dates(whole) if whole[: len(values)].equals(values) else None
    if getattr(values, "freq", None) is not None:
        return _by_frequency(values, values.freq, length)
    dates = as_dates(values)
    if len(values) < _SHORTEST:
        return None
    if dates is None:
        return _equal_steps(np.asarray(values), length)
    if np.any(np.diff(dates) <= np.timedelta64(0, "D")):
        return None
    for rule in (_by_months, _by_days, _working_days):
        if (found := rule(dates, length)) is not None:
            return found
    frequency = _inferred(values)
    return None if frequency in (None, "D") else _by_frequency(values, frequency, length)


def _inferred(index: Any) -> str | None:
    """Return the frequency that pandas infers, as text in all its versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # version 3 announces what this returns in the next
        frequency = getattr(index, "inferred_freq", None)
    return getattr(frequency, "freqstr", frequency)


def _by_frequency(index: Any, frequency: Any, length: int) -> np.ndarray | None:
    """Return the dates that pandas makes of a frequency, if they begin with those there are."""
    if not len(index):
        return None
    whole = _pandas().date_range(index[0], periods=length, freq=frequency)
    return as_dates(whole) if whole[: len(index)].equals(index) else None


def _equal_steps(numbers: np.ndarray, length: int) -> np.ndarray | None:
    if numbers.dtype.kind not in "iuf":
        return None
    step = numbers[1] - numbers[0]
    if not step > 0:
        return None
    whole = numbers[0] + step * np.arange(length, dtype=numbers.dtype)
    close = np.allclose if numbers.dtype.kind == "f" else np.array_equal
    return whole if close(whole[: len(numbers)], numbers) else None


def _by_months(dates: np.ndarray, length: int) -> np.ndarray | None:
    """Continue dates that are a number of months apart: the same day of each month, or the last."""
    months = dates.astype("datetime64[M]")
    every = np.diff(months.astype(int))
    if every[0] == 0 or np.any(every != every[0]):
        return None
    whole = months[0] + (every[0] * np.arange(length)).astype("timedelta64[M]")
    first, last = (
        whole.astype(dates.dtype),
        (whole + np.timedelta64(1, "M")).astype("datetime64[D]").astype(dates.dtype) - _DAY,
    )
    for start, most in ((last, 1), (first, 28)):  # every month has a 28th
        since = dates - start[: len(dates)]
        if np.all(since == since[0]) and np.timedelta64(0, "D") <= since[0] < most * _DAY:
            return start + since[0]
    return None


def _by_days(dates: np.ndarray, length: int) -> np.ndarray | None:
    """Continue dates with equal steps; days that are none of a weekend may be working days as well."""
    steps = np.diff(dates)
    if np.any(steps != steps[0]):
        return None
    if steps[0] == _DAY and np.all(np.is_busday(dates.astype("datetime64[D]"))):
        return None
    return dates[0] + steps[0] * np.arange(length)


def _working_days(dates: np.ndarray, length: int) -> np.ndarray | None:
    """Continue the days from Monday to Friday, none of which is left out, across a weekend at least."""
    days = dates.astype("datetime64[D]")
    since = dates - days
    if np.any(since != since[0]) or not np.all(np.is_busday(days)) or np.all(np.diff(days) == _DAY):
        return None
    whole = np.busday_offset(days[0], np.arange(length))
    return whole.astype(dates.dtype) + since[0] if np.array_equal(whole[: len(days)], days) else None


def _is_periods(values: Any) -> bool:
    return str(getattr(values, "dtype", "")).startswith("period[")


def _is_date(value: Any) -> bool:
    return hasattr(value, "isoformat") and hasattr(value, "year")


def _pandas() -> Any:
    import pandas  # its index is here, so that it is installed

    return pandas
