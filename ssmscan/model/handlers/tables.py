"""Tables of pandas and the like, where NumPyro and JAX want arrays.

A model may turn a table into arrays itself, read its index or its columns by name, and so it is handed on as it is.
Where the model hands it to a scan or observes it, its values are taken; JAX would refuse it there.  pandas is not
imported: a table is what can be made an array and is none.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.dates import is_dates

A_TABLE = "a table"
"""What messages call one."""


def is_table(value: Any) -> bool:
    """Return whether a value is not an array and can be made one, such as a table of pandas or xarray."""
    return hasattr(value, "__array__") and not isinstance(value, jax.Array | np.ndarray | np.generic)


def is_like(new: Any, old: Any) -> bool:
    """Return whether a table, or an array of dates, has the class, the shape and the dtypes of another."""

    def facts(table: Any) -> tuple:
        dtypes = getattr(table, "dtypes", getattr(table, "dtype", None))
        return type(table), getattr(table, "shape", None), [str(d) for d in np.ravel(np.asarray(dtypes, object))]

    return (is_table(new) or is_dates(new)) and facts(new) == facts(old)


def as_arrays(tree: Any) -> Any:
    """Return the same with tables as arrays of their values; those that no array of JAX can hold stay."""

    def array(leaf: Any) -> Any:
        if not is_table(leaf):
            return leaf
        values = np.asarray(leaf)
        if values.dtype == object and hasattr(leaf, "to_numpy"):
            try:
                values = leaf.to_numpy(dtype=float, na_value=np.nan)
            except (TypeError, ValueError):
                return leaf
        return as_jax(values, A_TABLE) if values.dtype.kind in "biufc" else leaf

    return jax.tree.map(array, tree)


def filled(table: Any) -> Any:
    """Return a table with its missing numbers filled, each by the first of its column that is not missing.

    Where a column has none, and in what is neither of pandas nor of xarray, they stay.
    """
    if not hasattr(table, "fillna"):
        return table
    if hasattr(table, "columns"):
        known = {name: _first_known(table[name]) for name in table.columns[table.isna().any()]}
        return table.fillna({name: value for name, value in known.items() if value is not None})
    value = _first_known(table)
    return table if value is None else table.fillna(value)


def _first_known(series: Any) -> Any:
    """Return the first number of a Series or DataArray that is not missing, None where there is none or no numbers."""
    numbers = as_arrays(series)
    known = [] if is_table(numbers) else np.asarray(numbers)[~np.asarray(series.isnull())]
    return known[0].item() if len(known) else None


def as_jax(array: jax.Array | np.ndarray, path: str) -> jax.Array:
    """Return an array as JAX holds it.

    Args:
        array: the array.
        path: what messages call it.

    Raises:
        TypeError: it is a masked array.
        ValueError: integers that JAX's integer type does not hold; they would wrap around.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{path} is a masked array, which JAX has not: pass its .filled(np.nan), NaN where one is missing."
        )
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.size:
        held = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype))
        if array.min() < held.min or array.max() > held.max:
            raise ValueError(
                f"{path} holds integers from {array.min()} to {array.max()}, which {held.dtype} cannot hold. Pass them "
                "in other units or relative to the first, or enable 64 bits with numpyro.enable_x64()."
            )
    return array if isinstance(array, jax.core.Tracer) else jnp.asarray(array)
