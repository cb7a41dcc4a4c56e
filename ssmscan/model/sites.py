"""What a model is made of: sites, their roles, and the table a user reads.

A state-space model has parameters theta, an initial state, innovations z_t drawn at every step and
observations y_t.  `trace` decides which site is which from the data flow; every decision carries
its reason, and the printed table shows it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np


class Role(enum.Enum):
    """What a site is to the inference engines."""

    PARAMETER = "parameter"
    INITIAL = "initial state"
    INNOVATION = "innovation"
    OBSERVATION = "observation"
    START_OBSERVATION = "observation of the start"
    POST_LOOP_OBSERVATION = "observation after the loop"
    PARAMETER_LIKELIHOOD = "parameter likelihood"
    DETERMINISTIC = "deterministic"


class Site(NamedTuple):
    """One named site of the model.

    Attributes:
        name: the name in the model, without the traced index of an f-string.
        role: what the site is to the engines.
        family: name of the distribution class, empty for a deterministic.
        shape: shape of one value (one step, for sites in the loop).
        dtype: dtype of the value.
        support: NumPyro's constraint, printed.
        discrete: whether the values are discrete.
        map: how base noise becomes the value, empty where nothing is drawn.
        reason: why the site has its role, one clause.
        in_loop: whether the site stands inside the scan.
        values: all that one element of a latent site can be, empty where they are not finitely many or not known.
    """

    name: str
    role: Role
    family: str
    shape: tuple[int, ...]
    dtype: np.dtype
    support: str
    discrete: bool
    map: str
    reason: str
    in_loop: bool
    values: tuple[float, ...] = ()


HEADER = ("site", "role", "distribution", "shape", "noise", "why")
"""Columns of the table of sites."""


def site_rows(sites: Sequence[Site]) -> list[tuple[str, ...]]:
    """Return what the table of sites has under `HEADER`, one row a site."""
    return [
        (
            site.name,
            site.role.value,
            site.family,
            str(site.shape) if site.shape else "",
            site.map,
            site.reason,
        )
        for site in sites
    ]


def site_table(sites: Sequence[Site]) -> str:
    """Lay the sites out as a plain-text table, one line a site."""
    rows = [HEADER, *site_rows(sites)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    rule = "  ".join("-" * w for w in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def site_table_html(sites: Sequence[Site]) -> str:
    """Lay the sites out as a table of HTML."""

    def row(cells: Sequence[str], kind: str) -> str:
        shown = (f'<{kind} style="text-align: left">{escape(cell)}</{kind}>' for cell in cells)
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row(cells, "td") for cells in site_rows(sites))
    return f"<table><thead>{row(HEADER, 'th')}</thead><tbody>{body}</tbody></table>"
