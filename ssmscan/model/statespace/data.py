"""What depends on data alone: the observed values, and whether they are possible at all.

A value is judged only where no latent value decides (the bound of a Uniform may move with the state;
that is a likelihood of zero, not a fault in the data).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval as pe

from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.parameters import sample_start
from ssmscan.model.statespace.paths import from_values
from ssmscan.model.statespace.simulation import simulate


@jax.jit
def observed(core: Core) -> dict[str, jax.Array]:
    """Compute the observed values by site, loop sites with time in front."""
    return _over_data(core, core.program.data.observed_step, core.program.data.observed_outside, "observed")


def constants(cores: Sequence[Core], named: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays that no observed site has its data from: covariates, masks, times.

    Args:
        cores: the loops of a model.
        named: its data by argument, in the order of the arrays.
    """
    read = {i for core in cores for i in _read_by_observed(core)}
    rest = {name: x for i, (name, x) in enumerate(named.items()) if i not in read}
    return {name: np.asarray(x) for name, x in rest.items() if jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool}


def _read_by_observed(core: Core) -> list[int]:
    """Return which of the arrays of a model the data of observed sites are computed from."""
    written = jax.make_jaxpr(lambda arrays: observed(Core(core.program, arrays)))(core.arrays)
    _, read = pe.dce_jaxpr(written.jaxpr, [True] * len(written.jaxpr.outvars))
    return [i for i, is_read in enumerate(read) if is_read]


@jax.jit
def invalid(core: Core) -> dict[str, jax.Array]:
    """Judge each observed site whose validity data decide: is it invalid (per step, in the loop)?"""
    return _over_data(core, core.program.data.invalid_step, core.program.data.invalid_outside, "invalid")


def with_missing(core: Core) -> frozenset[str]:
    """Return the names of the sites whose observed values hold NaN, or may where data do not show it."""
    shown = jax.device_get(observed(core))
    arrays = [a for a in core.arrays if jnp.issubdtype(a.dtype, jnp.floating)]
    suspect = any(bool(jnp.isnan(a).any()) for a in arrays)
    sites = [s for s in core.traced_sites if s.observed and s.family != "Unit"]
    return frozenset(
        s.name
        for s in sites
        if (np.isnan(shown[s.name]).any() if s.name in shown else suspect) and jnp.issubdtype(s.dtype, jnp.floating)
    )


def filled(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Fill the missing elements of arrays of data by the first of each that is not."""

    def fill(array: jax.Array) -> jax.Array:
        missing = np.isnan(array) if np.issubdtype(array.dtype, np.floating) else np.zeros(array.shape, bool)
        return jnp.where(missing, array[~missing][0], array) if missing.any() and not missing.all() else array

    return [fill(array) for array in arrays]


def refuse_gaps(core: Core) -> None:
    """Refuse missing elements that cannot be integrated out: a part of a joint value, and NaN read around its site.

    The second shows in the density of one forward simulation that is put through the model again.

    Raises:
        ModelError: there are such; the message names the site.
    """
    drawn = {s.name: s for s in core.traced_sites if s.observed and s.gaps}
    if not drawn:
        return
    shown = jax.device_get(observed(core))
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
        theta = sample_start(core, key)
        bad = jax.device_get(_not_a_number(core, theta, simulate(path_key, core, theta).values))
        if not any(bad.values()):
            return
    name = next(site.name for site in core.program.plan.inside if bad.get(site.name))
    raise ModelError(
        f"the density of site '{name}' is NaN: a missing value (NaN) of the data reaches it without passing through "
        "its own sample statement, as y[t - 1] read from the closure does. Carry what numpyro.sample returns to the "
        "next step instead: where the value is missing it is drawn. A covariate may not be missing."
    )


@jax.jit
def _not_a_number(core: Core, theta: dict, values: dict) -> dict[str, jax.Array]:
    initial = {s.name: values[s.name] for s in core.initial}
    path = from_values(core, theta, initial, {s.name: values[s.name] for s in core.innovations})
    # NumPyro gives a draw that is NaN the log-density -inf.
    drawn = {s.name: jnp.isnan(values[s.name]).any() for s in core.innovations if not s.discrete}
    return {name: jnp.isnan(value) | drawn.get(name, False) for name, value in path.log_prob.items()}


def _over_data(core: Core, step: Staged, outside: Staged, name: str) -> dict[str, jax.Array]:
    """Evaluate results that depend on data alone, over all steps and outside the loop."""
    fixed = outside(core.arrays)[f"outside_{name}"] if outside.jaxpr.outvars else {}
    if not step.jaxpr.outvars:
        return dict(fixed)
    rest = step.bind(core.arrays)
    each: Callable = jax.vmap(lambda x: rest(x=x)[name])
    return {**fixed, **each(core.inputs({}))}
