"""State paths of accepted filter runs, made again from their keys.

A chain of PMMH keeps of each accepted run its key, 8 bytes, instead of its particles.  The same key, parameters
and settings give the same run; with its history stored, one particle is drawn from the *final* weights and its
ancestors are followed to the start (Andrieu, Doucet & Holenstein 2010, section 2.4.2).  The draw of the particle
is a function of the key as well: a draw repeated by a rejection keeps its path.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from ssmscan.inference.progress import Timed, call_timed
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.genealogy import trace_ancestry
from ssmscan.particles.loop import filters_at_once
from ssmscan.particles.stores import FullHistory

PATH_STREAM = 2**32 - 1
"""What is folded into the key of the run to draw its path; the run itself uses the small numbers."""


def replay(
    filter_key: jax.Array, ssm: Any, theta: Any, particle_filter: ParticleFilter
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Make one filter run again.

    Args:
        filter_key: uint32[2], as in `ssmscan.inference.marginal.PMMHState`.
        ssm: the model.
        theta: the parameters of the run.
        particle_filter: its settings.

    Returns:
        Its log evidence, and a path: site of the loop -> (T, ...), initial site -> value.
    """
    key = as_key(filter_key)
    stored = replace(particle_filter, store=FullHistory(), summaries=())
    result = stored.run(key, ssm, theta)
    paths = trace_ancestry(jax.random.fold_in(key, PATH_STREAM), result, num_paths=1)
    return result.log_evidence, jax.tree.map(lambda leaf: leaf[0], paths)


@partial(jax.jit, static_argnames=("particle_filter",))
def _replay_all(keys: jax.Array, ssm: Any, theta: Any, *, particle_filter: ParticleFilter) -> Any:
    def one(pair: tuple[jax.Array, Any]) -> Any:
        return replay(pair[0], ssm, pair[1], particle_filter)

    return jax.lax.map(one, (keys, theta), batch_size=filters_at_once())


def replay_paths(
    filter_keys: np.ndarray, ssm: Any, theta: dict[str, np.ndarray], particle_filter: ParticleFilter
) -> Timed:
    """Make many runs again: log evidence and paths, timed; all arrays have (chains, paths) in front."""
    lead = filter_keys.shape[:2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (filter_keys, theta))
    timed = call_timed(_replay_all, flat[0], ssm, flat[1], particle_filter=particle_filter)
    shaped = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*lead, *leaf.shape[1:]), timed.value)
    return timed._replace(value=shaped)
