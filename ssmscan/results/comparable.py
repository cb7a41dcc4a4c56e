"""May these results be compared?  Only draws of the same parameters, given the same data, made apart from each other.

Two posteriors are compared, not two programs: the parameters must have the same names and shapes, and the data,
which every result holds, the same values where both are finite and gaps at the same places.  Data given in two
precisions are the same if they are so in the coarser one.  Two engines that made the same draws are one engine: such a
comparison always agrees and says nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ssmscan.results.result import Result

_HOW = "as in compare(nuts=..., pmmh=...)"


def require_comparable(unnamed: tuple[Any, ...], results: Mapping[str, Any]) -> None:
    """Raise unless these are at least two results of one posterior, each with draws of its own.

    Raises:
        TypeError: if something is not a `Result` with a name.
        ValueError: if it cannot be compared; the message names the engines and the site.
    """
    if unnamed:
        raise TypeError(f"compare takes results by name, {_HOW}, got {len(unnamed)} without a name")
    for name, result in results.items():
        if not isinstance(result, Result):
            raise TypeError(f"compare takes results by name: {name} must be a Result, got {type(result).__name__}")
    if len(results) < 2:
        raise ValueError(f"compare needs two results, {_HOW}, got {len(results)}")
    if empty := [name for name, result in results.items() if result.num_draws == 0]:
        raise ValueError(f"{', '.join(empty)} has no draws: let it run longer before comparing")
    if not any(result.draws for result in results.values()):
        raise ValueError("compare is about parameters, and the model has none: compare the states of the results")
    (reference, first), *others = results.items()
    for name, result in others:
        _require_same_parameters(reference, first, name, result)
        _require_same_data(reference, first, name, result)
    for (one, x), (other, y) in itertools.combinations(results.items(), 2):
        if x is y or _share_draws(x, y):
            raise ValueError(
                f"{one} and {other} hold the same draws: a run always agrees with itself. Give compare two runs, of "
                "two engines or with two keys"
            )


def named_alike(results: Mapping[str, Result]) -> dict[str, Result]:
    """Return the results with the labels of the first that has any: elements are compared by their names."""
    known = next((result.labels for result in results.values() if result.labels.dims), None)
    return {
        name: result if known is None or result.labels == known else replace(result, labels=known)
        for name, result in results.items()
    }


def different_states(results: Mapping[str, Result]) -> tuple[str, ...]:
    """Return a sentence for each result whose states are not those of the first: the same model may be written twice.

    A result without states says nothing.
    """
    with_states = [(name, result) for name, result in results.items() if result.states]
    return tuple(
        f"{name} has states {sorted(result.states)} and {with_states[0][0]} {sorted(with_states[0][1].states)}: is it "
        "the same model?"
        for name, result in with_states[1:]
        if result.states.keys() != with_states[0][1].states.keys()
    )


def _require_same_parameters(reference: str, first: Result, name: str, result: Result) -> None:
    expected, found = ({k: x.shape[2:] for k, x in r.draws.items()} for r in (first, result))
    differing = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    if differing:
        details = "; ".join(f"{k}: {_shape(reference, expected, k)}, {_shape(name, found, k)}" for k in differing)
        raise ValueError(f"engines must have sampled the same parameters, but {details}")


def _require_same_data(reference: str, first: Result, name: str, result: Result) -> None:
    expected, found = first.observed, result.observed
    details = []
    for site in sorted(expected.keys() | found.keys()):
        one, other = expected.get(site), found.get(site)
        if one is None or other is None or one.shape != other.shape:
            shapes = ({k: x.shape for k, x in data.items()} for data in (expected, found))
            details.append(f"{site}: {', '.join(map(_shape, (reference, name), shapes, (site, site)))}")
        elif difference := _difference(one, other):
            details.append(f"{site}: {difference}")
    if details:
        raise ValueError(
            f"{reference} and {name} are posteriors given different data, and their difference would say nothing of "
            f"the engines: {'; '.join(details)}"
        )


def _difference(one: np.ndarray, other: np.ndarray) -> str | None:
    """Return in words how two arrays of one shape differ, None if they do not."""
    coarser = min((one.dtype, other.dtype), key=lambda dtype: dtype.itemsize)
    if one.dtype.kind == other.dtype.kind == "f":
        with np.errstate(over="ignore"):
            one, other = one.astype(coarser), other.astype(coarser)
    gaps = [np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, bool) for x in (one, other)]
    if (only := gaps[0] ^ gaps[1]).any():
        return f"{_counted(only)} missing (NaN) in one and not in the other"
    if (unlike := (one != other) & ~gaps[0]).any():
        first = tuple(map(int, np.argwhere(unlike)[0]))
        return f"{_counted(unlike)} different, the first at {list(first)}: {one[first]:.6g} and {other[first]:.6g}"
    return None


def _counted(differs: np.ndarray) -> str:
    count = int(differs.sum())
    return f"{count:,} of {differs.size:,} values {'is' if count == 1 else 'are'}"


def _share_draws(x: Result, y: Result) -> bool:
    """Return whether some chain of one begins as one of the other, as that of a longer run with the same key does."""
    made = [{name: v[None] for name, v in r.points.items()} or r.draws for r in (x, y)]
    length = min(next(iter(arrays.values())).shape[1] for arrays in made)
    one, other = (
        np.concatenate([np.reshape(v[:, :length], (len(v), length, -1)) for _, v in sorted(arrays.items())], axis=2)
        for arrays in made
    )
    varies = np.any(one != one[:, :1], axis=(1, 2))
    return any(np.array_equal(a, b) for a, moves in zip(one, varies) if moves for b in other)


def _shape(engine: str, shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return f"shape {shapes[name]} in {engine}" if name in shapes else f"absent from {engine}"
