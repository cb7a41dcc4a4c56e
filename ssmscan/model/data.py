"""What depends on data alone: the observed values, and whether they are possible at all.

A value is judged only where no latent value decides (the bound of a Uniform may move with the state;
that is a likelihood of zero, not a fault in the data).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax

from ssmscan.model.dataflow import UNUSED
from ssmscan.model.script import zeros

if TYPE_CHECKING:
    from ssmscan.model.statespace import StateSpaceModel


@jax.jit
def observed(ssm: StateSpaceModel) -> dict[str, jax.Array]:
    """Observed values by site, loop sites with time in front."""
    return _over_data(ssm, ssm.program.observed_step, ssm.program.observed_outside, "observed")


@jax.jit
def invalid(ssm: StateSpaceModel) -> dict[str, jax.Array]:
    """For each observed site whose validity data decide, whether it is invalid (per step, in the loop)."""
    return _over_data(ssm, ssm.program.invalid_step, ssm.program.invalid_outside, "invalid")


def _over_data(ssm: StateSpaceModel, step, outside, name: str) -> dict[str, jax.Array]:
    """Evaluate results that depend on data alone, over all steps and outside the loop."""
    nothing = [UNUSED] * 7
    fixed = outside(ssm.arrays, *nothing)[f"outside_{name}"] if outside.jaxpr.outvars else {}
    if not step.jaxpr.outvars:
        return dict(fixed)
    rest = step.bind(ssm.arrays, UNUSED)
    xs = ssm.program.inputs.bind(ssm.arrays, _zeros_outside(ssm))(*[UNUSED] * 6)["xs"]
    each: Callable = jax.vmap(lambda x: rest(UNUSED, x, *[UNUSED] * 4)[name])
    return {**fixed, **each(xs)}


def _zeros_outside(ssm: StateSpaceModel) -> dict[str, jax.Array]:
    """Placeholders for every latent site outside the loop."""
    return zeros({s.name: jax.ShapeDtypeStruct(s.shape, s.dtype) for s in (*ssm.parameters, *ssm.initial)})
