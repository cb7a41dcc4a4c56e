"""Going on from a result: the same engine, model and data, the state of its chains, and files written meanwhile.

    more = NUTS(num_samples=1000).run(key, ssm, start=result)      adds 1,000 draws to each chain, without warm-up
    NUTS().run(key, ssm, checkpoint="nuts.nc", every=60)           the same call again goes on where it was killed

A result carries the state of what made it, `Result.continuation`, as plain arrays, and in `Result.origin` what it
belongs to: hashes of the staged program and of every array that the model reads.  All randomness of a run comes from
its state, so that the draws are those of one longer run, bit by bit, and the key of a run that goes on has no effect.

A checkpoint is a result too: the draws made by then, without state paths.  `ssmscan.load` opens it, and it can be given
as `start`.  A run that is killed before the first was written begins anew, with the same draws.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.arguments import refusal, require_number
from ssmscan.inference.settings import describe
from ssmscan.model.protocols import PyTree
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.estimators import Estimator
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.look_ahead import LookAhead
from ssmscan.particles.online_origin import plain
from ssmscan.results.result import Result, load

FREE = (
    *("num_samples", "num_points", "num_runs", "num_paths", "num_steps", "target_ess", "average", "num_replicates"),
    *("progress", "num_warmup", "rewarm", "pilot_seconds"),
)
"""Settings that a run that goes on may have changed: they say how much, and what was over when it stopped."""

Arrays = dict[str, np.ndarray]


def pack(prefix: str, tree: PyTree) -> Arrays:
    """Return the leaves of a tree as plain arrays under numbered names; typed keys as their words."""
    return {f"{prefix}_{i}": np.asarray(plain(leaf)) for i, leaf in enumerate(jax.tree.leaves(tree))}


def unpack(prefix: str, stored: Arrays, like: PyTree) -> PyTree:
    """Return the tree that was packed.

    Args:
        prefix: what its leaves were packed under.
        stored: arrays by name.
        like: a tree of the same structure, of arrays or of their shapes.

    Raises:
        ValueError: if the arrays are not those of such a tree.
    """
    likes, tree = jax.tree.flatten(like)
    leaves = []
    for i, leaf in enumerate(likes):
        found, words = stored.get(f"{prefix}_{i}"), jax.eval_shape(plain, leaf)
        if found is None or found.shape != words.shape or found.dtype != words.dtype:
            raise ValueError(
                "start: its state does not fit this engine and model, as one of another version or of other settings; "
                "run without start"
            )
        value = jnp.asarray(found)
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaves.append(jax.random.wrap_key_data(value, impl=leaf.dtype._impl) if is_key else value)
    return jax.tree.unflatten(tree, leaves)


def origin_of(ssm: StateSpaceModel) -> dict[str, Any]:
    """Return what tells this model and its data from others, as JSON can hold it."""
    cores = []
    for core in ssm.cores:
        arrays = [np.asarray(jax.device_get(plain(array))) for array in core.arrays]
        sums = [f"{array.dtype}{list(array.shape)} {_checksum(array)}" for array in arrays]
        names = [f"argument {i}" for i in range(len(arrays))]
        cores.append({"program": core.program.digest(names), "arrays": sums})
    sites = [[site.name, site.role.name, list(site.shape), str(site.dtype)] for site in ssm.sites]
    return {"sites": sites, "cores": cores, "float64": bool(jnp.zeros(()).dtype == np.float64)}


def require_continues(start: Any, engine: Any, ssm: StateSpaceModel, *, argument: str = "start") -> Result:
    """Return the result to go on from.

    Raises:
        TypeError: if it is no `Result`.
        ValueError: if it is of another engine, other settings, another model or other data, or cannot be gone on with.
    """
    if not isinstance(start, Result):
        raise TypeError(refusal(argument, "a Result of this engine, model and data", start))
    name = type(engine).__name__
    if start.engine != name:
        raise ValueError(f"{argument}: it is a result of {start.engine}, and {name} goes on from its own only")
    if not start.continuation:
        raise ValueError(
            f"{argument}: it does not hold the state of its chains, as one stopped before there was any; run without it"
        )
    require_same_settings(start.settings, engine, argument=argument)
    require_same_model(start.origin["model"], ssm, start.versions, argument=argument)
    return start


def require_same_settings(was: Mapping[str, Any], engine: Any, *, argument: str) -> None:
    """Raise a ValueError unless an engine has the settings that there were, but for those in `FREE`."""
    now = describe(engine)
    if changed := [k for k in now if k not in FREE and k in was and was[k] != now[k]]:
        said = "; ".join(f"{k} was {_shown(was[k])} and is {_shown(now[k])}" for k in changed)
        raise ValueError(f"{argument}: {said}. Go on with the same settings, or run without it")


def require_same_model(
    was: Mapping[str, Any], ssm: StateSpaceModel, versions: Mapping[str, str], *, argument: str
) -> None:
    """Raise a ValueError unless a model is the one of which `origin_of` returned this, under these versions."""
    now = origin_of(ssm)
    if was["float64"] != now["float64"]:
        raise ValueError(f"{argument}: it was made with another precision of JAX (jax_enable_x64); go on with the same")
    if was["sites"] != now["sites"]:
        other = sorted(
            {site[0] for site in (*was["sites"], *now["sites"]) if (site in was["sites"]) != (site in now["sites"])}
        )
        raise ValueError(f"{argument}: it is a result of another model: site {', '.join(map(repr, other))} differs")
    if [core["arrays"] for core in was["cores"]] != [core["arrays"] for core in now["cores"]]:
        raise ValueError(
            f"{argument}: it is a result of other data, or of other arrays that the model reads; trace the model with "
            "what it was made with, or run without it"
        )
    if was["cores"] != now["cores"]:
        made = ", ".join(f"{k} {v}" for k, v in versions.items() if k in ("jax", "numpyro", "ssmscan"))
        raise ValueError(
            f"{argument}: it is a result of a model that has the same sites and computes something else, or that other "
            f"versions have traced (it was made with {made})"
        )


class Savable(Protocol):
    """What a checkpoint writes: a `Result`, or a filter."""

    def save(self, path: Path) -> Any:
        """Write to a file in one step."""


@dataclass
class Checkpoint:
    """A file that a run writes what it has into, now and then.

    Attributes:
        path: the file; None writes nothing.
        every: seconds between two writings.
        build: makes what is written of what there is, of a state and outputs as `run_chunks` has them.
    """

    path: Path | None
    every: float
    build: Callable[[Any, Any], Savable] | None = None
    written: float = field(default_factory=time.perf_counter)

    def of(self, build: Callable[[Any, Any], Savable]) -> Checkpoint | None:
        """Return a checkpoint whose file is due at the same time and holds what `build` makes; None without a file."""
        return None if self.path is None else Checkpoint(self.path, self.every, build, self.written)

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return time.perf_counter() - self.written >= self.every

    def write(self, state: Any, outputs: Any) -> None:
        """Write what there is."""
        assert self.build is not None and self.path is not None
        self.build(state, outputs).save(self.path)
        self.written = time.perf_counter()


def begin(
    engine: Any,
    key: jax.Array,
    ssm: StateSpaceModel,
    start: Result | None,
    checkpoint: str | os.PathLike[str] | None,
    every: float,
) -> tuple[Result | None, int, Checkpoint]:
    """Decide where a run begins.

    Returns:
        The result to go on from, None for a new run; the draws of `start`, to which those that are asked for are added;
        and the checkpoint.

    Raises:
        TypeError, ValueError: see `require_continues`; or if the file is not of this run.
    """
    require_number("every", every, 0.0, np.inf)
    before = None if start is None else require_continues(start, engine, ssm)
    added_to = 0 if before is None else _size(before)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        found = require_continues(load(path), engine, ssm, argument=f"checkpoint {path}")
        if found.origin["key"] != words(key) and before is None or _size(found) < added_to:
            raise other_run(path)
        before = found
    return before, added_to, Checkpoint(path, every)


def other_run(path: Path) -> ValueError:
    """Return the error for a file that is not of this run."""
    return ValueError(
        f"checkpoint {path}: it is of another run, with another key or another start. Give another path, or remove "
        "the file"
    )


def record_of(estimator: Estimator) -> dict[str, Any]:
    """Return what `estimator_again` needs to know of an estimator, for JSON."""
    looks_ahead = bool(estimator.uses_later_data and estimator.num_particles)
    return {"num_particles": estimator.num_particles, "looks_ahead": looks_ahead}


def estimator_again(before: Result, given: Estimator | None, default: Estimator) -> Estimator:
    """Return the estimator that a result was made with.

    Args:
        before: the result, whose origin has `record_of` its estimator.
        given: what the user said, None where the engine chose.
        default: where the choice began.

    Raises:
        ValueError: if it cannot be made again from the settings.
    """
    used = before.origin["estimator"]
    if given is None and used["looks_ahead"]:
        default = ParticleFilter(used["num_particles"], proposal=LookAhead(), summaries=())
    estimator = (given or default).with_num_particles(used["num_particles"])
    if describe(estimator) != before.settings["used"]:
        raise ValueError(
            "start: it was made with an estimator of the likelihood that this engine would not choose again; give "
            "the same one as estimator="
        )
    return estimator


def words(key: jax.Array) -> list[int]:
    """Return the words of a key, for JSON."""
    return np.asarray(plain(key)).ravel().tolist()


def key_of(stored: list[int], like: jax.Array) -> jax.Array:
    """Return the key that has these words, of the generator of another."""
    data = jnp.asarray(np.asarray(stored, np.uint32))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(like))


def strided(num_draws: int, most: int, least: int = 1) -> np.ndarray:
    """Choose at most `most` draws a power of two apart, at least `least`: those of a longer run are among them."""
    stride = least
    while most and -(-num_draws // stride) > most:
        stride *= 2
    return np.arange(0, num_draws if most else 0, stride)


def _size(result: Result) -> int:
    """Return the length of a result: points, runs or draws."""
    if result.points:
        return len(result.log_weights)
    return result.num_chains if result.independent_runs else result.num_draws


def _checksum(array: np.ndarray) -> int:
    if np.issubdtype(array.dtype, np.inexact):
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return zlib.crc32(np.ascontiguousarray(array))


def _shown(value: Any) -> str:
    return value["type"] if isinstance(value, dict) and "type" in value else str(value)
