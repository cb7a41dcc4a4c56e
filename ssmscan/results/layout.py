"""Where the arrays of a result are in groups of variables, for ArviZ and for files, and back.

The groups are ArviZ's: posterior, sample_stats, observed_data.  What the model computes of its parameters is in the
posterior; state paths are when every draw has one, otherwise they are in a group `states`, whose draw coordinate says
which draw each path belongs to.

What no reader but this package needs stands beside them: weighted points, their weights, and what it takes to go on,
whose names, which an engine chose, are in the header and need not be those of variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmscan.results.containers import Variable
from ssmscan.results.data import ARRAYS, ResultData
from ssmscan.results.plain_values import variable_name


def groups(result: ResultData) -> dict[str, dict[str, Variable]]:
    """Return the variables of each group."""
    states = variables(result, result.states, ("chain", "draw"))
    found = {
        "posterior": variables(result, {**result.draws, **result.deterministics}, ("chain", "draw"), timed=False),
        "states": states,
        "sample_stats": variables(result, result.sample_stats, ("chain", "draw")),
        "observed_data": variables(result, result.observed, ()),
        "state_probabilities": variables(result, result.state_probabilities, ()),
    }
    if np.array_equal(result.state_draws, np.arange(result.num_draws)):
        found["posterior"] |= found.pop("states")
    elif states:
        states["draw"] = Variable(("draw",), result.state_draws)
    return found


def own_groups(result: ResultData) -> dict[str, dict[str, Variable]]:
    """Return the variables of the groups that only a file of this package has."""
    going_on = {_numbered(i): values for i, values in enumerate(result.continuation.values())}
    found = {
        "paths": {"state_draws": Variable(("path",), result.state_draws)},
        "points": variables(result, result.points, ("point",), timed=False),
        "continuation": variables(result, going_on, (), timed=False),
    }
    return found | ({"weights": {"log_weights": Variable(("point",), result.log_weights)}} if result.points else {})


def variables(
    result: ResultData, arrays: Mapping[str, np.ndarray], leading: tuple[str, ...], *, timed: bool = True
) -> dict[str, Variable]:
    """Return arrays as variables with named dimensions: the leading ones, the time, and one for each other axis.

    Args:
        result: the result whose loops have the times.
        arrays: site -> array.
        leading: names of the first dimensions.
        timed: whether an axis after those that is as long as a loop is its time.
    """
    times = _times(result)
    found = {}
    for site, values in arrays.items():
        name = variable_name(site)
        rest = values.shape[len(leading) :]
        in_time = timed and site not in result.initial and rest[:1] and rest[0] in times
        dims = [*leading, *([times[rest[0]]] if in_time else [])]
        dims += [f"{name}_dim_{i}" for i in range(values.ndim - len(dims))]
        found[name] = Variable(tuple(dims), values)
    return found


def arrays(groups: Mapping[str, Mapping[str, Any]], sites: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the array fields of a result from groups in a file and the names of the sites in each field.

    Raises:
        KeyError: if a group or a variable is missing.
    """
    states = "states" if "states" in groups else "posterior"
    places = ("posterior", states, "sample_stats", "observed_data", "state_probabilities", "posterior", "points")
    found = {
        field: {site: groups[place][variable_name(site)] for site in sites.get(field, ())}
        for field, place in zip(ARRAYS, places)
    }
    found["continuation"] = {
        name: groups["continuation"][_numbered(i)] for i, name in enumerate(sites.get("continuation", ()))
    }
    weights = groups["weights"]["log_weights"] if found["points"] else np.zeros(0)
    return {**found, "log_weights": weights, "state_draws": groups["paths"]["state_draws"]}


def _numbered(i: int) -> str:
    return f"array_{i}"


def _times(result: ResultData) -> dict[int, str]:
    """Name the time axis of each length: loops of one model may have several."""
    lengths = dict.fromkeys(x.shape[2] for name, x in result.states.items() if name not in result.initial)
    return {length: f"time_{k}" if k else "time" for k, length in enumerate(lengths)}
