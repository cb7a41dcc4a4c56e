"""The same model over arrays in the place of tables, so that checks can replace its data and fill what is missing.

The values of a table are constants of the program, as the model may read its index or its columns by name.  One that
takes arrays in their place is the same model over data.  One that does not has its tables back, missing values filled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np

from ssmscan.model.handlers.tables import as_arrays, filled, is_table
from ssmscan.model.staging.leaves import changed_tables
from ssmscan.model.statespace.checking import Checked

M = TypeVar("M", bound=Checked)


def over_arrays(
    ssm: M, leaves: Sequence, data: Collection[int], again: Callable[[tuple, tuple[int, ...]], M]
) -> M | None:
    """Return a model without tables that miss values, None where there are no tables or nothing else is the same model.

    Args:
        ssm: the model.
        leaves, data: leaves of its arguments, and positions of those that are data.
        again: traces it again over other ones.
    """
    for change in (as_arrays, filled) if any(map(is_table, leaves)) else ():
        try:
            other = again(*changed_tables(leaves, data, change))
        except Exception:
            # Whatever it raises, the model does not take them.
            continue
        if _is_same(other, ssm):
            return other
    return None


def _is_same(one: Checked, other: Checked) -> bool:
    """Return whether two models have the same sites, and observe the same where nothing is missing in either."""
    sites = [[site._replace(reason="") for core in ssm.cores for site in core.program.sites] for ssm in (one, other)]
    first, second = one.observed, other.observed
    if sites[0] != sites[1] or first.keys() != second.keys():
        return False
    there = {name: ~(np.isnan(first[name]) | np.isnan(second[name])) for name in first}
    return all(np.array_equal(first[name][known], second[name][known]) for name, known in there.items())
