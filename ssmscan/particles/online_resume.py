"""Go on with a saved filter, if it is one of this model, these parameters, data and settings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_traced
from ssmscan.particles import online_file
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter, require_filter
from ssmscan.particles.online import Online, draw_start, refuse_later_data, refuse_several, take
from ssmscan.particles.online_origin import Origin, differences, plain, record


def resume(
    path: str | os.PathLike[str], ssm: StateSpaceModel, theta: Mapping[str, Any], *, particle_filter: ParticleFilter
) -> Online:
    """Read a filter that `Online.save` wrote, and go on with `ParticleFilter.update`.

    What it was saved with and what is given here are compared, the data as far as they have been seen; see
    `ssmscan.particles.online_origin`.  What is to change from here on, such as the parameters, is given to `update`.

    Args:
        path: the file.
        ssm: the model that was filtered, of any length that holds the steps taken.
        theta: the parameters of the last step.
        particle_filter: the settings.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is of something else, damaged, or of a filter with another model, other parameters, data
            or settings; the message says which.
        TypeError: if ssm is not a traced model, or particle_filter not a `ParticleFilter`.
    """
    require_traced(ssm)
    refuse_several(ssm)
    refuse_later_data(require_filter(particle_filter))
    theta = ssm.canonical(theta)
    leaves, of = online_file.read(path)
    given = Origin(ssm, theta, particle_filter)
    wanted = f"{path} does not hold a filter of this model with {particle_filter.num_particles} particles"
    if of is not None and (found := differences(of, record(given, of.facts["step"], like=of))):
        raise ValueError(
            f"{wanted}, at these parameters and data: {'; '.join(found)}. Give what it was saved with; what is to "
            "change from here on is given to update."
        )
    begun = jax.eval_shape(partial(draw_start, settings=particle_filter), as_key(jax.random.key(0)), ssm, theta)
    taking = partial(take, settings=particle_filter, capacity=1)
    gone_on = jax.eval_shape(taking, begun, ssm, theta, jax.ShapeDtypeStruct((), np.int32))[0]
    for shapes in (gone_on, begun):
        stored = jax.tree.leaves(jax.eval_shape(partial(jax.tree.map, plain), shapes))
        if [(leaf.shape, leaf.dtype) for leaf in stored] == [(leaf.shape, leaf.dtype) for leaf in leaves]:
            break
    else:
        raise ValueError(
            f"{wanted}: its arrays have other shapes. Give the model and the settings it was saved with; where values "
            "have come to be missing since, the series as it was then, and the new one to update."
        )
    if of is None:
        warnings.warn(
            f"{path} has no record of the model, the parameters and the data its filter was made with, so they could "
            "not be compared with those given.",
            stacklevel=2,
        )
    likes, tree = jax.tree.flatten(shapes)
    return replace(jax.tree.unflatten(tree, map(online_file.typed, leaves, likes)), origin=given)
