"""Going on from a result of SMC2: its clouds as plain arrays, and what else may come to a series."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ssmscan.arguments import refusal
from ssmscan.inference.going_on import origin_of, pack, require_same_settings, unpack
from ssmscan.inference.smc2_cloud import Arrays, Cloud, host
from ssmscan.inference.smc2_record import table_name
from ssmscan.inference.smc2_run import Programs, Rules, Run
from ssmscan.inference.smc2_step import parameters
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.results.result import Result


def stored(number: int, cloud: Cloud) -> Arrays:
    """Return the arrays of the cloud of a run, by names that no other run has."""
    own = {table_name(number): cloud.table, f"run_{number}_log_weights": cloud.log_weights}
    return {**own, **pack(f"run_{number}", cloud.points)}


def facts(cloud: Cloud) -> dict[str, float]:
    """Return the plain numbers of a cloud."""
    names = ("step", "num_particles", "before", "variance", "particle_steps")
    return {name: getattr(cloud, name) for name in names}


def restored(before: Result, key: jax.Array, programs: Programs, rules: Rules) -> list[Run]:
    """Return the runs of a result."""
    runs, arrays = [], before.continuation
    for number, numbers in enumerate(before.origin["runs"]):
        size = int(numbers["num_particles"])
        run = Run(jax.random.fold_in(key, number), programs, rules, size)
        points = unpack(f"run_{number}", arrays, programs.shapes(rules.num_points, size))
        run.cloud = Cloud(
            points=points,
            theta=host(parameters(programs.ssm, points.z)),
            log_weights=arrays[f"run_{number}_log_weights"],
            table=arrays[table_name(number)],
            **numbers,
        )
        runs.append(run)
    return runs


def require_goes_on(result: Any, engine: Any, ssm: StateSpaceModel, end: int) -> None:
    """Raise unless a result of SMC2 with these settings can take in the observations of a model up to number `end`.

    Raises:
        TypeError: it is no `Result`.
        ValueError: it is of another engine, other settings, another model or other observations, or is further already.
    """
    if not isinstance(result, Result):
        raise TypeError(refusal("result", "a Result of SMC2", result))
    if result.engine != "SMC2" or not result.continuation:
        raise ValueError(f"result: it is of {result.engine} and holds no clouds; update goes on from those of SMC2.run")
    require_same_settings(result.settings, engine, argument="result")
    was, now = result.origin["model"], origin_of(ssm)
    if was["sites"] != now["sites"] or was["float64"] != now["float64"]:
        raise ValueError("result: it is of another model, or of another precision of JAX; go on with the same")
    taken_in = max(run["step"] for run in result.origin["runs"])
    if taken_in > end:
        raise ValueError(f"result: it has taken in {taken_in} observations, and these are {end}; there is no way back")
    for name, x in ssm.observed.items():
        old = result.observed.get(name)
        new = x if old is None or old.shape == x.shape else x[: len(old)]
        if old is None or not np.array_equal(old, new, equal_nan=np.issubdtype(new.dtype, np.inexact)):
            raise ValueError(
                f"result: the first observations of '{name}' are not those that it has taken in; give a series that "
                "begins with them, or run it anew"
            )
