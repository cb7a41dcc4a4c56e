"""The catalogue of refusals in `docs/refusals.md`: read it, run an example.

An entry is a third-level heading, a block of Python and a block of text, which is what the example raises:
the type, a colon and the whole message, line breaks and runs of blanks counted as one blank.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DOCUMENT = Path(__file__).parents[2] / "docs" / "refusals.md"
_BLOCK = r"```{}\n(.*?)```"


class Entry(NamedTuple):
    """One refusal: its heading, the code that is refused and what it raises."""

    title: str
    code: str
    message: str


def read() -> tuple[str, list[Entry]]:
    """The code that the examples share, and the entries."""
    preamble, *sections = re.split(r"^### ", DOCUMENT.read_text(), flags=re.MULTILINE)
    entries = []
    for section in sections:
        code = re.search(_BLOCK.format("python"), section, re.DOTALL)
        message = re.search(_BLOCK.format("text"), section, re.DOTALL)
        title = section.splitlines()[0]
        assert code and message, f"the entry '{title}' of {DOCUMENT.name} has no example or no message"
        entries.append(Entry(title, code[1], one_line(message[1])))
    shared = re.search(_BLOCK.format("python"), preamble, re.DOTALL)
    assert shared
    return shared[1], entries


def raised(shared: str, code: str) -> BaseException:
    """What an example raises."""
    scope: dict = {}
    exec(compile(shared, "shared.py", "exec"), scope)
    try:
        exec(compile(code, "example.py", "exec"), scope)
    except Exception as error:
        return error
    raise AssertionError("nothing was refused")


def sentence(error: BaseException) -> str:
    """Type and message of an error on one line."""
    return one_line(f"{type(error).__name__}: {error}")


def one_line(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())
