"""What is to know of data before any model sees them, in sentences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ssmscan.command_line.columns import Columns
from ssmscan.dates import AS_THEY_COME
from ssmscan.results.table import significant

CALENDAR = {"Y": "year", "M": "month", "D": "day", "h": "hour", "m": "minute", "s": "second"}
"""Units of dates, from the longest."""


def facts(data: Columns, used: Iterable[str]) -> list[str]:
    """Return sentences on the rows of a table, and on each column that the model is given."""
    number = len(data.lines)
    found = [f"{data.path}: {number} rows{'' if data.time is None else ', ' + _times(data.time)}."]
    if data.time is None:
        found[0] = found[0][:-1] + ", without dates."
    else:
        found += _spacing(data.time, data.lines)
    for name in dict.fromkeys(used):
        found += _column(name, data.numbers(name), data.lines)
    return found


def _times(time: np.ndarray) -> str:
    return f"{time[0]} to {time[-1]}" if len(time) > 1 else str(time[0])


def _spacing(time: np.ndarray, lines: list[int]) -> list[str]:
    """Return whether the steps between dates are equally long; the model takes one step a row."""
    if len(time) < 2:
        return []
    steps = np.diff(time.astype("datetime64[s]")).astype(np.int64)
    if (steps <= 0).any():
        line = lines[int(np.argmax(steps <= 0)) + 1]
        return [f"The dates are not in order, first in line {line}: {AS_THEY_COME}. Sort them."]
    for unit, name in CALENDAR.items():
        whole = time.astype(f"datetime64[{unit}]")
        again = whole.astype("datetime64[s]") + (time[0].astype("datetime64[s]") - whole[0].astype("datetime64[s]"))
        if (again == time.astype("datetime64[s]")).all():
            return [_in_units(np.diff(whole).astype(np.int64), name, time)]
    return []


def _in_units(steps: np.ndarray, unit: str, time: np.ndarray) -> str:
    """Return the spacing of dates that are whole units apart."""
    usual = int(np.bincount(steps).argmax()) if steps.max() < 1e6 else int(np.median(steps))
    one = f"{usual} {unit}s" if usual > 1 else f"one {unit}"
    other = np.flatnonzero(steps != usual)
    if not len(other):
        return f"The rows are {one} apart throughout."
    longest = int(np.argmax(steps))
    return (
        f"The rows are {one} apart but at {len(other)} of {len(steps)} steps, the longest {steps[longest]} {unit}s "
        f"after {time[longest]}: the model takes one step a row, whatever the dates say. Where that matters write the "
        "missing dates as rows with empty cells, or let the transition read how long its step is."
    )


def _column(name: str, values: np.ndarray, lines: list[int]) -> list[str]:
    """Return what is to know of one column."""
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    missing = len(values) - len(known)
    if not len(known):
        return [f"{name}: every value is missing, so that nothing is observed."]
    kind = "whole numbers" if values.dtype.kind == "i" else "numbers"
    found = [f"{name}: {len(known)} {kind} from {known.min():.6g} to {known.max():.6g}, {missing or 'none'} missing."]
    if missing:
        gap, start = _longest_run(np.isnan(values))
        found.append(
            f"{name}: the longest gap is of {gap} row{'s' * (gap > 1)}, from line {lines[start]}; what is missing has "
            "no weight, and the states there are forecast from both sides."
        )
    if np.isinf(known).any():
        found.append(f"{name}: has infinite values, which no density allows; leave such cells empty.")
    elif known.min() == known.max():
        found.append(f"{name}: is the same number throughout, from which no variance can be learnt.")
    elif (kept := len(np.unique(known.astype(np.float32)))) < (all_of := len(np.unique(known))):
        found.append(
            f"{name}: 32-bit numbers, which JAX uses by default, keep {kept} of its {all_of} different values apart: "
            f"take away a constant such as {significant(float(np.median(known)))}, or set JAX_ENABLE_X64=1."
        )
    return found


def _longest_run(where: np.ndarray) -> tuple[int, int]:
    """Return length and first index of the longest run of True."""
    ends = np.diff(np.concatenate([[0], where.astype(int), [0]]))
    starts, stops = np.flatnonzero(ends == 1), np.flatnonzero(ends == -1)
    longest = int(np.argmax(stops - starts))
    return int(stops[longest] - starts[longest]), int(starts[longest])
