"""Tables of a CSV file: columns by name, numbers when they are asked for, dates where there are any.

The first line has the names of the columns; they are separated by commas, semicolons or tabs.  An empty cell, NA and
NaN are missing.  The first column may be without a name, as pandas writes an index, and is read if it has dates.  The
first column of dates is the time of the rows:

    2024-05-01, 2024-05-01T06:30, 2024-05      dates as ISO 8601 writes them
    2024Q2, 2024-Q2                            quarters, read as the months they begin with
    1871                                       years, in a column that is called year, date or time

A column is read when something asks for it, so that words in a column that no model reads do no harm.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MISSING = {"", "na", "nan"}

INDEX = "index"
"""Name of a first column that has none."""

_DATE = re.compile(r"\d{4}-\d{2}(-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?)?")
_QUARTER = re.compile(r"(\d{4})-?[Qq]([1-4])")
_YEAR = re.compile(r"\d{4}")
_NAMES_OF_YEARS = {"year", "years", "date", "dates", "time"}


class UsageError(Exception):
    """What was asked cannot be done as it was asked; the message says what to change."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The cells of a CSV file.

    Attributes:
        path: the file.
        cells: name -> (T,) words of the column.
        lines: (T,) line of the file that each row begins at.
        time_name: name of the column of dates, empty if there is none.
        time: (T,) datetime64 of the rows, None if there are no dates.
    """

    path: Path
    cells: dict[str, list[str]]
    lines: list[int]
    time_name: str
    time: np.ndarray | None

    @property
    def names(self) -> list[str]:
        """Names of the columns but that of the dates."""
        return [name for name in self.cells if name != self.time_name]

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as numbers (T,): integers if all are whole and none is missing, else float64 with NaN.

        Raises:
            UsageError: if a cell is no number; it is named by file, line and column.
        """
        found = np.empty(len(self.lines))
        whole = True
        for i, (cell, line) in enumerate(zip(self.cells[name], self.lines)):
            if cell.lower() in MISSING:
                found[i], whole = np.nan, False
                continue
            try:
                found[i] = float(cell)
            except ValueError:
                raise UsageError(
                    f"{self.path}, line {line}, column {name!r}: expected a number, or an empty cell where it is "
                    f"missing, got {cell!r}"
                ) from None
            whole = whole and re.fullmatch(r"[+-]?\d+", cell) is not None
        return found.astype(np.int64) if whole else found


def read(path: Path) -> Columns:
    """Read a CSV file with a line of names.

    Raises:
        UsageError: if there is no such file, it has no names or no rows, or a row has another number of cells.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read, {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected text in UTF-8, got other bytes at position {error.start}") from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=separator)
    rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        raise UsageError(f"{path}: expected a line of names and rows of numbers, got an empty file")
    (_, names), *body = rows
    has_index = len(names) > 1 and not names[0]
    names = [INDEX, *names[1:]] if has_index else names
    _require_names(path, names)
    if not body:
        raise UsageError(f"{path}: expected rows of numbers below the names, got none")
    for line, row in body:
        if len(row) != len(names):
            raise UsageError(f"{path}, line {line}: expected {len(names)} cells, as many as names, got {len(row)}")
    cells = {name: [row[i] for _, row in body] for i, name in enumerate(names)}
    if has_index and _dates(INDEX, cells[INDEX]) is None:
        del cells[INDEX]
    times = {name: dates for name in cells if (dates := _dates(name, cells[name])) is not None}
    time_name = next(iter(times), "")
    return Columns(path, cells, [line for line, _ in body], time_name, times.get(time_name))


def _require_names(path: Path, names: list[str]) -> None:
    """Raise UsageError unless these are the names of columns."""
    if all(_is_number(name) for name in names):
        raise UsageError(f"{path}, line 1: expected the names of the columns, got numbers: write a line of names first")
    for name in names:
        if not name:
            raise UsageError(
                f"{path}, line 1: expected a name for each column, got none for column {names.index(name) + 1}"
            )
        if names.count(name) > 1:
            raise UsageError(f"{path}, line 1: expected a name for each column, got {name!r} twice")


def _dates(name: str, cells: list[str]) -> np.ndarray | None:
    """Return the dates of a column, None if it is of something else."""
    if all(_QUARTER.fullmatch(cell) for cell in cells):
        months = [f"{year}-{3 * int(quarter) - 2:02d}" for year, quarter in (_split(cell) for cell in cells)]
        return np.array(months, "datetime64[M]")
    years = name.lower() in _NAMES_OF_YEARS and all(_YEAR.fullmatch(cell) for cell in cells)
    if not (years or all(_DATE.fullmatch(cell) for cell in cells)):
        return None
    try:
        return np.array(cells, "datetime64")
    except ValueError:
        return None


def _split(quarter: str) -> tuple[str, str]:
    found = _QUARTER.fullmatch(quarter)
    assert found is not None
    return found[1], found[2]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
