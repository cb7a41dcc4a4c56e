"""States with finitely many values: whether the states of a model are such, and all their joint values at a step.

The values of a site are those of its support at trace, `Site.values`.  Elements of a panel, which do not interact,
are counted one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ssmscan.errors import ModelError
from ssmscan.model.protocols import Model, Values
from ssmscan.model.sites import Site

LIMIT = 64
"""No more joint values than this are tried for each particle."""


def can_enumerate(ssm: Model) -> bool:
    """Tell whether there are states, all of finitely many values, of which few are possible at once."""
    return bool(ssm.initial or ssm.innovations) and not _refusal(ssm)


def require_finite(ssm: Model) -> None:
    """Raise unless all joint values of the states can be tried.

    Raises:
        ModelError: the message names the sites that have too many, or a continuum, and what to use.
    """
    if refusal := _refusal(ssm):
        raise ModelError(refusal)


def _refusal(ssm: Model) -> str:
    for loop in ssm.loops:
        for sites, where in ((loop.initial, "before the first step"), (loop.innovations, "at a step")):
            for site in sites:
                if not site.values:
                    return (
                        f"DiscreteFilter tries every value of the states, and '{site.name}' ({site.family}) has no "
                        "finite list of values that is known at trace. Use ParticleFilter(1000), which draws the "
                        "states, as the estimator."
                    )
            if (count := num_joint(loop, sites)) > LIMIT:
                listed = ", ".join(f"'{site.name}' ({site.family})" for site in sites)
                return (
                    f"DiscreteFilter tries every joint value of the states, and {listed} can have {count} of them "
                    f"{where}; up to {LIMIT} are tried. Use ParticleFilter(1000), which draws the states, as the "
                    "estimator."
                )
    return ""


def num_joint(loop: Model, sites: Sequence[Site]) -> int:
    """Count the joint values of some sites of a model of one loop, of one element where it is a panel."""
    axes = dict(loop.panel.values) if loop.panel else {}
    own = [math.prod(site.shape) // (loop.panel.size if loop.panel and axes[site.name] else 1) for site in sites]
    return math.prod(len(site.values) ** size for site, size in zip(sites, own))


def joint_values(sites: Sequence[Site]) -> Values:
    """List the joint values of some sites: for each its value in each of them, (K, *shape)."""
    if not sites:
        return {}
    sizes = [math.prod(site.shape) for site in sites]
    radices = [len(site.values) for site, size in zip(sites, sizes) for _ in range(size)]
    digits = np.indices(radices).reshape(len(radices), -1).T
    parts = np.split(digits, np.cumsum(sizes)[:-1], axis=1)
    return {
        site.name: jnp.asarray(np.asarray(site.values, site.dtype)[part].reshape(-1, *site.shape))
        for site, part in zip(sites, parts)
    }
