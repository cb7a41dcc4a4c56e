"""One planted mistake."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
        name: what is wrong, in a few words that can be given on the command line.
        file: path inside the package.
        old, new: the text that is replaced, and by what.
        tests: files, or tests in them, that are run; the first of them that fails kills it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
