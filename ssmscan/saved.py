"""`load`: what was saved, whatever it was."""

from __future__ import annotations

import os

from ssmscan import storage
from ssmscan.particles import filter_file
from ssmscan.particles.filter_result import FilterResult
from ssmscan.results import result
from ssmscan.results.result import Result


def load(path: str | os.PathLike[str]) -> Result | FilterResult:
    """Load what `Result.save` or `FilterResult.save` wrote, in this or another process; nothing is left open.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
        ValueError: if the file is of something else, is damaged, or has the format of another version of the package.
    """
    groups, header = storage.read(path)
    if header.get("kind") != filter_file.KIND:
        return result.restored(path, groups, header)
    loops, labels = filter_file.restored(path, groups, header)
    return FilterResult.of_loops([FilterResult(**fields) for fields in loops], labels)
