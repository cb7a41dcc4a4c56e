"""The user's line that an equation came from, for messages.

JAX keeps with each equation the stack of calls that made it.  The innermost frame that belongs neither to JAX nor
to NumPyro nor to this package is the line that the user wrote.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jax.extend import source_info_util


def _folder_of(package: str) -> str:
    spec = find_spec(package)
    return "" if spec is None or spec.origin is None else f"{Path(spec.origin).parent}/"


_HIDDEN = tuple(map(_folder_of, ("jax", "numpyro", "ssmscan")))
_BESIDE = Path(_folder_of("numpy")).parent  # where pandas and xarray are, if they are
_CALLED = (f"{sysconfig.get_path('stdlib')}/", *(f"{_BESIDE}/{name}/" for name in ("numpy", "pandas", "xarray")))


class Mixing(NamedTuple):
    """What joins different rows: the name of a primitive and the user's line, empty inside a log-density."""

    primitive: str
    line: str = ""

    def __str__(self) -> str:
        return f"{self.primitive} ({self.line or 'in the log-density'})"


FOREIGN = Mixing("another loop with noise")
"""Mark of what depends on the noise of another loop; it may stand beside rows of this one, not meet them."""


def user_line(source_info: Any) -> str:
    """Print file, line and function of the innermost frame that the user wrote, empty if there is none."""
    for frame in reversed(source_info_util.summarize(source_info, num_frames=200).splitlines()):
        found = re.fullmatch(r"(.*?):(\d+)(?::\d+)? \((.*)\)", frame)
        if found and not found[1].startswith(_HIDDEN):
            return f"{Path(found[1]).name}:{found[2]}, in {found[3].rpartition('.')[2]}"
    return ""


def raised_at(error: BaseException) -> str:
    """Print file, line and function of the innermost frame of an exception that the user wrote, empty if there is none.

    Frames of the standard library, of installed packages that take part in a call, and of this package are none of it.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_HIDDEN, *_CALLED, "<frozen")):
            return f"{Path(frame.filename).name}:{frame.lineno}, in {frame.name}"
    return ""


def blame(eqn: Any) -> Mixing:
    """Name an equation: its primitive and the user's line."""
    return Mixing(eqn.primitive.name, user_line(eqn.source_info))
