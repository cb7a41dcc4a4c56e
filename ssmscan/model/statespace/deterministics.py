"""Deterministics outside the loop: functions of the parameters, and functions of the states.

The first have a value at each draw of the parameters, the second at each path of the states; see `selections.Computed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from ssmscan.model.protocols import Theta, Values
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.paths import from_values
from ssmscan.model.statespace.simulation import known_states


def deterministics(cores: Sequence[Core], theta: Theta, states: Mapping[str, jax.Array] | None = None) -> Values:
    """Compute the deterministics outside the loops; see `StateSpaceModel.deterministics`."""
    states = None if states is None else known_states(cores, states, whole=True)
    found: dict[str, jax.Array] = {}
    for core in cores:
        early, late = core.program.computed
        found |= early(core.arrays, outside=core.outside(theta))["outside_deterministic"]
        if states is not None and late.jaxpr.outvars:
            initial = {site.name: states[site.name] for site in core.initial}
            path = from_values(core, theta, initial, {site.name: states[site.name] for site in core.innovations})
            outside = core.outside(theta, initial)
            found |= late(core.arrays, outside=outside, ys=path.ys, last=path.carry)["outside_deterministic"]
    return found
