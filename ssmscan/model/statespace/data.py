"""What depends on data alone: the observed values, and whether they are possible at all.

A value is judged only where no latent value decides (the bound of a Uniform may move with the state;
that is a likelihood of zero, not a fault in the data).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.dataflow import UNUSED
from ssmscan.model.statespace.paths import from_values
from ssmscan.model.statespace.simulation import simulate

if TYPE_CHECKING:
    from ssmscan.model.statespace.front import StateSpaceModel


@jax.jit
def observed(ssm: StateSpaceModel) -> dict[str, jax.Array]:
    """Observed values by site, loop sites with time in front."""
    return _over_data(ssm, ssm.program.observed_step, ssm.program.observed_outside, "observed")


@jax.jit
def invalid(ssm: StateSpaceModel) -> dict[str, jax.Array]:
    """For each observed site whose validity data decide, whether it is invalid (per step, in the loop)."""
    return _over_data(ssm, ssm.program.invalid_step, ssm.program.invalid_outside, "invalid")


def with_missing(ssm: StateSpaceModel) -> frozenset[str]:
    """Names of the sites whose observed values hold NaN; where data do not show it, whether any array does."""
    shown = jax.device_get(observed(ssm))
    arrays = [a for a in ssm.arrays if jnp.issubdtype(a.dtype, jnp.floating)]
    suspect = any(bool(jnp.isnan(a).any()) for a in arrays)
    sites = [s for s in ssm.program.plan.inside + ssm.program.plan.outside if s.observed and s.family != "Unit"]
    return frozenset(
        s.name
        for s in sites
        if (np.isnan(shown[s.name]).any() if s.name in shown else suspect) and jnp.issubdtype(s.dtype, jnp.floating)
    )


def refuse_gaps(ssm: StateSpaceModel) -> None:
    """Refuse missing elements that cannot be integrated out: a part of a joint value, and NaN read around its site.

    The second shows in the density of one forward simulation that is put through the model again.

    Raises:
        ModelError: there are such; the message names the site.
    """
    plan = ssm.program.plan
    drawn = {s.name: s for s in plan.inside + plan.outside if s.observed and s.gaps}
    if not drawn:
        return
    shown = jax.device_get(observed(ssm))
    for name, site in drawn.items():
        axes = tuple(range(-site.joint, 0))
        gone = np.isnan(shown[name]) if name in shown else np.zeros(site.shape, bool)
        if site.joint and np.any(gone.any(axes) != gone.all(axes)):
            raise ModelError(
                f"observed site '{name}' ({site.family}) is partly missing (NaN) in one value. Its elements are "
                "dependent, and what is left has no density known here; only a MultivariateNormal or independent "
                "elements may be missing in part. Make the whole value NaN, or model the present elements."
            )
    for seed in range(3):
        key, path_key = jax.random.split(jax.random.key(seed))
        theta = ssm.sample_prior(key)
        bad = jax.device_get(_not_a_number(ssm, theta, simulate(path_key, ssm, theta).values))
        if not any(bad.values()):
            return
    name = next(site.name for site in plan.inside if bad.get(site.name))
    raise ModelError(
        f"the density of site '{name}' is NaN: a missing value (NaN) of the data reaches it without passing through "
        "its own sample statement, as y[t - 1] read from the closure does. Carry what numpyro.sample returns to the "
        "next step instead: where the value is missing it is drawn. A covariate may not be missing."
    )


@jax.jit
def _not_a_number(ssm: StateSpaceModel, theta: dict, values: dict) -> dict[str, jax.Array]:
    initial = {s.name: values[s.name] for s in ssm.initial}
    path = from_values(ssm, theta, initial, {s.name: values[s.name] for s in ssm.innovations})
    # NumPyro gives a draw that is NaN the log-density -inf.
    drawn = {s.name: jnp.isnan(values[s.name]).any() for s in ssm.innovations if not s.discrete}
    return {name: jnp.isnan(value) | drawn.get(name, False) for name, value in path.log_prob.items()}


def _over_data(ssm: StateSpaceModel, step, outside, name: str) -> dict[str, jax.Array]:
    """Evaluate results that depend on data alone, over all steps and outside the loop."""
    nothing = [UNUSED] * 7
    fixed = outside(ssm.arrays, *nothing)[f"outside_{name}"] if outside.jaxpr.outvars else {}
    if not step.jaxpr.outvars:
        return dict(fixed)
    rest = step.bind(ssm.arrays, UNUSED)
    xs = ssm.program.inputs.bind(ssm.arrays, ssm._outside({}))(*[UNUSED] * 6)["xs"]
    each: Callable = jax.vmap(lambda x: rest(UNUSED, x, *[UNUSED] * 4)[name])
    return {**fixed, **each(xs)}
