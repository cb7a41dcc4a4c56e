"""Arguments of `with_data` against those that a model was traced with: only data may differ.

A table of pandas or xarray may hold other values at other times.  What stands along its other axes, as the columns of a
frame, decides which value is whose, and has to be the same in the same order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ssmscan.dates import is_dates
from ssmscan.model.handlers.tables import is_like, is_table
from ssmscan.model.staging.leaves import describe, is_array, same
from ssmscan.model.staging.table_axes import labels_beside_time


def require_same_program(paths: Sequence[str], old: Sequence, new: Sequence, data: Collection[int]) -> bool:
    """Return whether a table has other values, after checking that arguments mean the program that was traced.

    Args:
        paths: printed path of each leaf of the arguments.
        old, new: the leaves as they were traced, and as they are given.
        data: positions of those that are data.

    Raises:
        ValueError: one has another shape or dtype, or other columns, or a static one changed; it is named.
    """
    tables = False
    for position, (path, before, now) in enumerate(zip(paths, old, new)):
        if (is_table(before) or is_dates(before)) and (is_table(now) or is_dates(now)):
            _require_same_axes(path, before, now)
            tables = tables or not same(before, now)
        elif position in data:
            if not is_array(now) or (now.shape, now.dtype) != (before.shape, before.dtype):
                values = " Pass its values, np.asarray(...)." if is_table(now) else ""
                raise ValueError(
                    f"with_data: {path} is {describe(now)}, the model was traced with {describe(before)}.{values} "
                    "Keep shape and dtype, or call ssmscan.trace for another program."
                )
        elif is_table(before):
            raise ValueError(
                f"with_data: {path} is {describe(now)}, the model was traced with {describe(before)}. Pass a table of "
                "the same kind, or call ssmscan.trace with what you have."
            )
        elif not same(before, now):
            raise ValueError(
                f"with_data: {path} = {describe(now)} is part of the program, which was traced with "
                f"{describe(before)}. Call ssmscan.trace for another program."
            )
    return tables


def _require_same_axes(path: str, old: Any, new: Any) -> None:
    for axis, before, now in labels_beside_time(old, new):
        if before != now:
            found = f"with_data: {path} has the {axis} {_listed(now)}, and the model was traced with {_listed(before)}."
            if sorted(map(str, now)) == sorted(map(str, before)):
                order = f"y[{before}]" if axis == "columns" else f"y.reindex({{{axis!r}: {before}}})"
                raise ValueError(f"{found} Pass them in the order of the model, as {order} does.")
            raise ValueError(f"{found} Pass a table with the same {axis}, or call ssmscan.trace with this one.")
    if not is_like(new, old):
        raise ValueError(
            f"with_data: {path} is {describe(new)}, the model was traced with {describe(old)}. Pass one of the "
            "same kind with as many rows and the same dtypes, or call ssmscan.trace for another program."
        )


def _listed(names: Sequence) -> str:
    return f"[{', '.join(map(str, names))}]"
