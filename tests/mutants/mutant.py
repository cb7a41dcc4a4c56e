"""One planted mistake."""

from __future__ import annotations

from typing import NamedTuple

NOT_HEAVY, ALL = "not heavy", ""
"""Which of the tests of a file are run, by their marks."""


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
        name: what is wrong, in a few words that can be given on the command line.
        file: path inside the package.
        old, new: the text that is replaced, and by what.
        tests: files, or tests in them, that are run; the first of them that fails kills it.
        marks: which of them, by their marks; by default those that CI runs.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    marks: str = NOT_HEAVY
