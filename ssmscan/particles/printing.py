"""How results of filters are shown to people: a title, a few named rows, and what speaks against the run.

`print` and a notebook show the same rows.  What is not one run on the host (a batch, shapes, arrays of a trace) is
shown by its shapes.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Card(NamedTuple):
    """What is shown of a result.

    Attributes:
        title: one line.
        rows: (name, value) each.
        sentences: below them, a line each.
    """

    title: str
    rows: Sequence[tuple[str, str]] = ()
    sentences: Sequence[str] = ()

    def text(self) -> str:
        """Return the lines that are printed."""
        width = max((len(name) for name, _ in self.rows), default=0)
        return "\n".join([self.title, *(f"  {name:{width}}  {value}" for name, value in self.rows), *self.sentences])

    def html(self) -> str:
        """Return an HTML table, for notebooks."""
        cells = [f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in self.rows]
        table = f"<table>{''.join(cells)}</table>" if cells else ""
        below = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences)
        return f"<div><strong>{html.escape(self.title)}</strong>{table}{below}</div>"


def known(*arrays: Any) -> bool:
    """Return whether these are arrays with values, on the host or a device: no tracers, no shapes."""
    return all(
        isinstance(a, jax.Array | np.ndarray | np.generic) and not isinstance(a, jax.core.Tracer) for a in arrays
    )


def form(leaf: Any) -> str:
    """Return type and shape of an array, and the type of anything else."""
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    return type(leaf).__name__ if shape is None else f"{dtype}[{', '.join(map(str, shape))}]"


def forms(name: str, fields: dict[str, Any], why: str) -> Card:
    """Build the card of what has shapes and no values; `why` says why."""
    return Card(f"{name}, {why}", [(field, form(value)) for field, value in fields.items()])


def listed(names: Iterable[str], most: int = 6) -> str:
    """Return names with commas, the first few of many."""
    names = list(names)
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
