"""The only file that knows ArviZ: effective sample sizes, R-hat, densities, and the DataTree it reads.

ArviZ 0.23 keeps results in `InferenceData`, ArviZ 1 in `xarray.DataTree`.  We build the tree everywhere
and hand 0.x its own type at the very end.  On plain arrays ``ess``, ``rhat`` and ``kde`` give the same
numbers on both; defaults that differ between them (intervals, tail probabilities) are never relied on.

Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), Rank-normalization, folding, and localization: an
improved R-hat, Bayesian Analysis 16(2): equations 10-14 and sections 3-4 define the diagnostics.

ArviZ and xarray are imported when a function is called, so that sampling needs neither.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ssmscan.labels import is_time

MINIMUM_DRAWS = 4
"""ArviZ computes no diagnostic of shorter chains."""

LARGEST_RHAT = 1e6
"""Beyond it the variance within chains is rounding."""


class Variable(NamedTuple):
    """An array and the names of its dimensions, one per axis."""

    dims: tuple[str, ...]
    values: np.ndarray


def ess(draws: np.ndarray, method: str, probability: float | None = None) -> float:
    """Return the effective sample size of draws (chains, draws).

    Args:
        draws: (chains, draws), finite.
        method: ArviZ's name: "bulk", "mean" or "quantile".
        probability: of the quantile, for that method.

    Returns:
        The number of independent draws with the same error; nan for fewer than four draws a chain.
    """
    if draws.shape[1] < MINIMUM_DRAWS:
        return float("nan")
    return float(_arviz().ess(draws, method=method, prob=probability))


def rhat(draws: np.ndarray) -> float:
    """Return the rank-normalised split R-hat of draws (chains, draws); one chain is compared in halves.

    Infinite for chains that stand still at different points.
    """
    chains, length = draws.shape
    if chains == 1:
        half = length // 2
        draws = np.stack([draws[0, :half], draws[0, length - half :]])
    if draws.shape[1] < MINIMUM_DRAWS:
        return float("nan")
    # Chains that never moved have no variance within, or that of rounding.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = float(_arviz().rhat(draws, method="rank"))
    return float("inf") if found > LARGEST_RHAT else found


def kde(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return grid and density (each (512,)) of all values of `draws`, without mass beyond their range."""
    grid, density = _arviz().kde(np.ravel(draws))[:2]
    return np.asarray(grid), np.asarray(density)


def datatree(
    groups: Mapping[str, Mapping[str, Variable]], attributes: Mapping[str, Any], kinds: Mapping[str, str] | None = None
) -> Any:
    """Build an `xarray.DataTree` with one node a group; empty groups are left out.

    Coordinates are those of `with_coordinates`; the attributes are those of the root and of the posterior.  Of `kinds`
    each group that is named has what it holds, in words, as its attribute `kind`.
    """
    xarray = require("xarray", "exporting results")
    nodes = {name: _dataset(xarray, variables) for name, variables in groups.items() if variables}
    tree = xarray.DataTree.from_dict(nodes)
    for node in (tree, *(tree[name] for name in ("posterior",) if name in nodes)):
        node.attrs.update(attributes)
    for name, kind in (kinds or {}).items():
        tree[name].attrs["kind"] = kind
    return tree


def export(tree: Any) -> Any:
    """Return what the installed ArviZ works with: the tree itself, or `InferenceData` before ArviZ 1."""
    arviz = _arviz()
    if arviz.__version__.startswith("0."):
        return arviz.InferenceData.from_datatree(tree)
    return tree


def with_coordinates(variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """Return the variables of a group with those that count its chains, draws and times from zero, where it has none.

    A variable named like its only dimension is the coordinate of that dimension.
    """
    sizes: dict[str, int] = {}
    for variable in variables.values():
        sizes.update(zip(variable.dims, variable.values.shape))
    counted = {
        name: Variable((name,), np.arange(size))
        for name, size in sizes.items()
        if name in ("chain", "draw") or is_time(name)
    }
    return counted | dict(variables)


def _dataset(xarray: ModuleType, variables: Mapping[str, Variable]) -> Any:
    full = with_coordinates(variables)
    coordinates = {name: variable.values for name, variable in full.items() if variable.dims == (name,)}
    data = {name: tuple(variable) for name, variable in full.items() if name not in coordinates}
    return xarray.Dataset(data, coordinates)


def _arviz() -> ModuleType:
    with warnings.catch_warnings():
        # 0.23 announces its successor once a day; nobody who calls us can act on it
        warnings.simplefilter("ignore", FutureWarning)
        return require("arviz", "computing effective sample sizes and R-hat")


def require(name: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ImportError: with what it is for and how to install it.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {name!r}: install it with `pip install {name}`") from error
