"""Draws of equal weight from the clouds of SMC2, and their state paths, whose filters are run again."""

from __future__ import annotations

import numpy as np

from ssmscan.inference.paths import Paths, paths_from_keys
from ssmscan.inference.smc2_cloud import Arrays, Cloud
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.filter import ParticleFilter


def draws_of(ssm: StateSpaceModel, clouds: list[Cloud], chosen: list[np.ndarray]) -> tuple[Arrays, Arrays]:
    """Return parameters and statistics of draws, (runs, M, ...); of one run without any where there is no cloud.

    Args:
        ssm: the model.
        clouds: one of each run.
        chosen: (M,) the points of each that are draws.
    """
    if not clouds:
        names: Arrays = {site.name: np.zeros((1, 0, *site.shape), site.dtype) for site in ssm.parameters}
        estimates: Arrays = {name: np.zeros((1, 0)) for name in ("log_evidence", "log_likelihood_estimate")}
        keys: Arrays = {"filter_key": np.zeros((1, 0, 2), np.uint32), "filter_status": np.zeros((1, 0), np.int8)}
        return names, {**estimates, **keys, "point": np.zeros((1, 0), np.int32)}
    pairs = list(zip(clouds, chosen))
    theta = {name: np.stack([cloud.theta[name][index] for cloud, index in pairs]) for name in clouds[0].theta}
    stats = {
        "log_evidence": np.stack([np.full(cloud.size, cloud.log_evidence) for cloud in clouds]),
        "log_likelihood_estimate": np.stack([np.asarray(c.points.log_likelihood)[index] for c, index in pairs]),
        "filter_key": np.stack([np.asarray(cloud.points.filter_key)[index] for cloud, index in pairs]),
        "filter_status": np.stack([np.asarray(cloud.points.status)[index] for cloud, index in pairs]).astype(np.int8),
        "point": np.stack(chosen).astype(np.int32),
    }
    return theta, stats


def paths_of(
    ssm: StateSpaceModel,
    theta: Arrays,
    keys: np.ndarray,
    kept: np.ndarray,
    filters: list[ParticleFilter],
    *,
    room: int,
    progress: bool,
) -> Paths:
    """Draw state paths of some draws; of runs with the same filters together.

    Args:
        ssm: the model.
        theta: parameters, (runs, draws, ...).
        keys: the keys of the filters, (runs, draws, 2).
        kept: (paths,) the draws wanted.
        filters: of each run.
        room, progress: as in `paths_from_keys`.
    """
    made: list[tuple[list[int], Paths]] = []
    for settings in dict.fromkeys(filters):
        rows = [number for number, own in enumerate(filters) if own == settings]
        own = {name: x[rows] for name, x in theta.items()}
        made.append((rows, paths_from_keys(keys[rows], ssm, own, kept, settings, room=room, progress=progress)))
    if len(made) == 1:
        return made[0][1]
    common = np.array(sorted(set.intersection(*(set(paths.draws.tolist()) for _, paths in made))), np.int64)
    every = [paths for _, paths in made]

    def joined(name: str) -> np.ndarray:
        like = every[0].states[name]
        out = np.zeros((len(filters), len(common), *like.shape[2:]), like.dtype)
        for rows, paths in made:
            out[rows] = paths.states[name][:, np.searchsorted(paths.draws, common)]
        return out

    return Paths(
        states={name: joined(name) for name in every[0].states},
        draws=common,
        probabilities={},
        log_likelihood=None,
        compile_seconds=sum(paths.compile_seconds for paths in every),
        seconds=sum(paths.seconds for paths in every),
        interrupted=any(paths.interrupted for paths in every),
        failure=next((paths.failure for paths in every if paths.failure), ""),
    )
