"""Tables one can read in a terminal and paste into a paper, and numbers rounded to what is known.

A number is printed to the second significant digit of its error, so that the digits shown are the
digits the draws support.
"""

from __future__ import annotations

import math
import textwrap
from html import escape
from typing import Any, NamedTuple

MISSING = "-"
"""What stands where there is no number."""

WIDTH = 110
"""Characters in a line of sentences."""


class Table(NamedTuple):
    """A titled table of strings; `print` aligns it, `to_markdown` is for documents.

    Attributes:
        title: one line above the table.
        columns: the header, one string a column.
        rows: one tuple of strings a row, as long as the header.
        labels: how many leading columns are text, aligned left; numbers are aligned right.
        notes: sentences below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        notes = ["", *map(wrapped, self.notes)] if self.notes else []
        return "\n".join([self.title, "", self.grid(), *notes])

    def to_markdown(self) -> str:
        """Return the table in Markdown, the title as a bold line above it."""
        rule = ["---" if i < self.labels else "---:" for i in range(len(self.columns))]
        body = ["| " + " | ".join(map(_escape, row)) + " |" for row in (self.columns, *self.rows)]
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([f"**{self.title}**", "", body[0], "|" + "|".join(rule) + "|", *body[1:], *notes])

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`: numbers as numbers, rounded as printed, labels as the index.

        What stands for no number is NaN.  The title and the notes are in `attrs`.

        Raises:
            ImportError: if pandas is not installed.
        """
        try:
            pandas = __import__("pandas")
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: install it with `pip install pandas`") from error
        columns = [_numbers([row[i] for row in self.rows]) for i in range(self.labels, len(self.columns))]
        names = [[row[i] for row in self.rows] for i in range(self.labels)]
        match names:
            case []:
                index = pandas.RangeIndex(len(self.rows))
            case [only]:
                index = pandas.Index(only, name=self.columns[0])
            case _:
                index = pandas.MultiIndex.from_arrays(names, names=self.columns[: self.labels])
        frame = pandas.DataFrame(dict(enumerate(columns)), index=index)
        frame.columns = list(self.columns[self.labels :])
        frame.attrs = {"title": self.title, "notes": list(self.notes)}
        return frame

    def _repr_html_(self) -> str:
        notes = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in self.notes)}</ul>" if self.notes else ""
        return f"<p><b>{escape(self.title)}</b></p>{self.grid_html()}{notes}"

    def grid_html(self) -> str:
        """Return header and rows in HTML, without title and notes."""

        def row(cells: tuple[str, ...], kind: str) -> str:
            sides = ["left" if i < self.labels else "right" for i in range(len(cells))]
            shown = (f'<{kind} style="text-align: {side}">{escape(c)}</{kind}>' for side, c in zip(sides, cells))
            return f"<tr>{''.join(shown)}</tr>"

        body = "".join(row(cells, "td") for cells in self.rows)
        return f"<table><thead>{row(self.columns, 'th')}</thead><tbody>{body}</tbody></table>"

    def grid(self) -> str:
        """Return header and rows as `print` aligns them, without title and notes."""
        rule = "  ".join("-" * width for width in self._widths())
        return "\n".join([self._line(self.columns), rule, *map(self._line, self.rows)])

    def _widths(self) -> list[int]:
        return [max(len(row[i]) for row in (self.columns, *self.rows)) for i in range(len(self.columns))]

    def _line(self, row: tuple[str, ...]) -> str:
        cells = [
            cell.ljust(width) if i < self.labels else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, self._widths()))
        ]
        return "  ".join(cells).rstrip()


def _numbers(cells: list[str]) -> list[Any]:
    """Return cells as numbers where all are, NaN where there is none; as text otherwise."""
    try:
        found = [math.nan if cell in (MISSING, "") else float(cell.replace(",", "")) for cell in cells]
    except ValueError:
        return list(cells)
    return [int(x) for x in found] if all(cell.replace(",", "").lstrip("-").isdigit() for cell in cells) else found


def wrapped(sentence: str, indent: str = "  ") -> str:
    """Break a sentence into lines that a terminal shows whole, all but the first indented."""
    return textwrap.fill(sentence, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def rounded(value: float, error: float) -> str:
    """Print `value` to the second significant digit of `error`; four digits where the error says nothing."""
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else f"{value:g}"
    if not math.isfinite(error) or error <= 0.0:
        return f"{value:.4g}"
    decimals = 1 - math.floor(math.log10(error))
    size = max(abs(value), error)
    if size >= 1e6 or size < 1e-4:
        digits = math.floor(math.log10(size)) + decimals
        return f"{value:.{min(max(digits, 1), 15)}e}"
    return f"{value:.{min(max(decimals, 0), 15)}f}"


def significant(value: float, digits: int = 2) -> str:
    """Print `value` to a number of significant digits, without an exponent where it is short enough."""
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else f"{value:g}"
    if value == 0.0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if -5 < power < 6:
        return f"{value:.{max(digits - 1 - power, 0)}f}"
    return f"{value:.{digits - 1}e}"


def count(value: float) -> str:
    """Print a count: whole below a million, in powers of ten from there."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:.0f}" if abs(value) < 1e6 else f"{value:.2e}"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")
