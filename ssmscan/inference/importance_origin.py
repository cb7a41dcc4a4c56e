"""What a result of the importance sampler belongs to, so that it is gone on from by the same sampler and model alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ssmscan.inference.settings import describe
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.results.result import Result


def origin_of(engine: Any, ssm: StateSpaceModel) -> dict[str, Any]:
    """Return what a result belongs to: the engine, a digest of the model and one of its data."""
    digest = hashlib.sha256(repr(ssm).encode())
    for leaf in jax.tree.leaves(ssm):
        digest.update(np.asarray(leaf).tobytes())
    return {"engine": type(engine).__name__, "model": digest.hexdigest(), "given": describe(engine.estimator)}


def require_continues(start: Result, engine: Any, ssm: StateSpaceModel) -> None:
    """Raise unless a result can be gone on from.

    Raises:
        ValueError: it is of another engine, model or data, or has nothing to go on from.
    """
    if not isinstance(start, Result):
        raise TypeError(f"start: expected a Result of ImportanceSampler, got {type(start).__name__}")
    origin: Mapping[str, Any] = start.origin
    if origin.get("engine") != type(engine).__name__:
        raise ValueError(
            f"start is a result of {start.engine} and cannot be gone on from by {type(engine).__name__}, which makes "
            "more points from a proposal of its own: give a result of it that has points"
        )
    here = origin_of(engine, ssm)
    if origin["model"] != here["model"]:
        raise ValueError("start is a result of another model or of other data: give the model that it was made with")
    if origin["given"] != here["given"]:
        raise ValueError("start was made with another estimator: give the sampler the same one")
