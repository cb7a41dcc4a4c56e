"""Where the arrays of a result are in groups of variables, for ArviZ and for files, and back.

The groups are those of ArviZ's schema: posterior, sample_stats, observed_data, constant_data; and one more, `states`.
State paths are in `states`, whichever engine made them and however many there are: its draw coordinate says which draw
each path belongs to.  So `arviz.summary` and `plot_trace` show the parameters, and not a row for each of T states, and
code that reads states works on the results of all engines.  What the model computes of its parameters is in the
posterior.

Dimensions have the names of the labels, and coordinates their values; a time dimension that has none is counted.

What no reader but this package needs stands beside them: labels, weighted points, their weights, and what it takes to
go on, whose names need not be those of variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ssmscan.labels import Labels, is_time
from ssmscan.results.containers import Variable
from ssmscan.results.data import ARRAYS, ResultData
from ssmscan.results.plain_values import variable_name

Group = dict[str, Variable]


class Axes(NamedTuple):
    """What the axes of arrays are called.

    Attributes:
        labels: names of axes and what stands along them.
        times: name of the time dimension of loops of each length.
        untimed: sites whose first axis is no time, whatever its length.
    """

    labels: Labels
    times: dict[int, str]
    untimed: tuple[str, ...] = ()

    @classmethod
    def of(cls, labels: Labels, lengths: Iterable[int], untimed: tuple[str, ...] = ()) -> Axes:
        """Name the time dimensions of loops of these lengths, and of those that labels have a time for."""
        known = (len(values) for name, values in labels.coords.items() if is_time(name))
        return cls(labels, labels.time_names([*known, *lengths]), untimed)

    @classmethod
    def of_result(cls, result: ResultData) -> Axes:
        """Name the axes of a result."""
        lengths = [x.shape[2] for name, x in result.states.items() if name not in result.initial]
        return cls.of(result.labels, lengths, result.initial)


def groups(result: ResultData) -> dict[str, Group]:
    """Return the variables of each group."""
    axes, each = Axes.of_result(result), ("chain", "draw")
    found = {
        "posterior": variables(axes, {**result.draws, **result.deterministics}, each, timed=False),
        "states": variables(axes, result.states, each),
        "sample_stats": variables(axes, result.sample_stats, each),
        "observed_data": variables(axes, result.observed, ()),
        "constant_data": variables(axes, result.constants, ()),
        "state_probabilities": variables(axes, result.state_probabilities, (), last="value"),
    }
    if found["states"]:
        found["states"] |= of_draws(result.state_draws)
    return found


def of_draws(numbers: np.ndarray) -> Group:
    """Return the coordinate that says which draws these are."""
    return {"draw": Variable(("draw",), numbers)}


def own_groups(result: ResultData) -> dict[str, Group]:
    """Return the variables of the groups that only a file of this package has."""
    found = {
        "paths": {"state_draws": Variable(("path",), result.state_draws)},
        "points": variables(Axes.of_result(result), result.points, ("point",), timed=False),
        "continuation": numbered(result.continuation.values()),
        "labels": numbered(result.labels.coords.values()),
    }
    return found | ({"weights": {"log_weights": Variable(("point",), result.log_weights)}} if result.points else {})


def variables(
    axes: Axes,
    arrays: Mapping[str, np.ndarray],
    leading: tuple[str, ...],
    *,
    timed: bool = True,
    last: str = "",
) -> Group:
    """Return arrays as variables with named dimensions: the leading ones, the time, and those of each site.

    Args:
        axes: what they are called.
        arrays: site -> array.
        leading: names of the first dimensions.
        timed: whether an axis after those that is as long as a loop is its time.
        last: end of the name of the last axis, where it is none of the site.

    Returns:
        The variables, and the coordinates of their dimensions as far as labels have them.
    """
    found = {}
    for site, values in arrays.items():
        name = variable_name(site)
        rest = values.shape[len(leading) :]
        in_time = timed and site not in axes.untimed and rest[:1] and rest[0] in axes.times
        dims = (*leading, *([axes.times[rest[0]]] if in_time else []))
        own = values.shape[len(dims) : values.ndim - bool(last)]
        dims = (*dims, *axes.labels.axes(site, name, own), *([f"{name}_{last}"] if last else []))
        found[name] = Variable(dims, values)
    return found | _coordinates(axes.labels, found)


def cut(variables: Group, start: Mapping[str, int | None], end: Mapping[str, int | None]) -> Group:
    """Return the part of variables between two places along some dimensions; a time that has no labels is counted."""
    sizes = {dim: size for one in variables.values() for dim, size in zip(one.dims, one.values.shape)}
    counted = {dim: Variable((dim,), np.arange(sizes[dim])) for dim in start if dim in sizes}

    def part(variable: Variable) -> Variable:
        inside = tuple(slice(start.get(dim), end.get(dim)) for dim in variable.dims)
        return Variable(variable.dims, variable.values[inside])

    return {name: part(variable) for name, variable in (counted | variables).items()}


def _coordinates(labels: Labels, variables: Group) -> Group:
    sizes = {dim: size for one in variables.values() for dim, size in zip(one.dims, one.values.shape)}
    return {
        dim: Variable((dim,), values)
        for dim, values in labels.coords.items()
        if sizes.get(dim) == len(values) and dim not in variables
    }


def arrays(groups: Mapping[str, Mapping[str, Any]], sites: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the array fields of a result from groups in a file and the names of the sites in each field.

    Raises:
        KeyError: if a group or a variable is missing.
    """
    found: dict[str, Any] = {
        field: {site: groups[place][variable_name(site)] for site in sites.get(field, ())}
        for field, place in PLACES.items()
    }
    found["continuation"] = unnumbered(groups, "continuation", sites)
    weights = groups["weights"]["log_weights"] if found["points"] else np.zeros(0)
    return {**found, "log_weights": weights, "state_draws": groups["paths"]["state_draws"]}


PLACES = {
    "draws": "posterior",
    "states": "states",
    "sample_stats": "sample_stats",
    "observed": "observed_data",
    "constants": "constant_data",
    "state_probabilities": "state_probabilities",
    "deterministics": "posterior",
    "points": "points",
}
"""Field of a result -> the group of its arrays; `continuation` is the one whose arrays have numbers for names."""

assert {*PLACES, "continuation"} == {*ARRAYS}


def numbered(arrays: Iterable[np.ndarray]) -> Group:
    """Return arrays as variables that have numbers for names."""
    return {
        (name := f"array_{i}"): Variable(tuple(f"{name}_dim_{axis}" for axis in range(values.ndim)), values)
        for i, values in enumerate(arrays)
    }


def unnumbered(
    groups: Mapping[str, Mapping[str, Any]], group: str, names: Mapping[str, list[str]]
) -> dict[str, np.ndarray]:
    """Return the arrays of a group of `numbered` ones by their names, which the header has in order."""
    return {name: groups[group][f"array_{i}"] for i, name in enumerate(names.get(group, ()))}
