"""What a user passes as theta: every parameter by name, of its shape, in its support, cast once.

Shapes and names are checked always, values where they are known, so before anything is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssmscan.model.dataflow import UNUSED
from ssmscan.model.sites import Site
from ssmscan.model.statespace import StateSpaceModel, Theta


def canonical(ssm: StateSpaceModel, theta: Mapping[str, Any]) -> Theta:
    """Check parameter values and cast them; see `StateSpaceModel.canonical`."""
    sites = {site.name: site for site in ssm.parameters}
    if not isinstance(theta, Mapping):
        raise TypeError(
            f"theta: expected a mapping from the parameters {sorted(sites)} to values, got {type(theta).__name__}."
        )
    missing, unknown = sorted(set(sites) - set(theta)), sorted(set(theta) - set(sites), key=str)
    if missing or unknown:
        raise ValueError(
            f"theta must have exactly the parameters {sorted(sites)}; "
            f"missing: {missing or 'none'}, unknown: {unknown or 'none'}. print(ssm) shows every site."
        )
    if any(isinstance(value, jax.core.Tracer) for value in (*theta.values(), *ssm.arrays)):
        return _cast(sites, theta)
    # What is known is checked now, also while somebody's jit is being traced.
    with jax.ensure_compile_time_eval():
        cast = _cast(sites, theta)
        _check_support(ssm, cast)
    return cast


def _cast(sites: Mapping[str, Site], theta: Mapping[str, Any]) -> Theta:
    cast = {}
    for name, site in sites.items():
        if np.shape(theta[name]) != site.shape:
            raise ValueError(f"theta['{name}'] has shape {np.shape(theta[name])}, expected {site.shape}.")
        if not isinstance(theta[name], jax.core.Tracer):
            _check_number(name, np.asarray(theta[name]), site.dtype)
        cast[name] = _of_dtype(theta[name], site.dtype)
    return cast


def _check_number(name: str, value: np.ndarray, dtype: Any) -> None:
    if value.dtype.kind not in "biuf" and not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"theta['{name}'] = {value} is of type {value.dtype}; give real numbers.")
    if not jnp.issubdtype(dtype, jnp.integer):
        return
    held = np.iinfo(dtype)
    if not np.all((value >= held.min) & (value <= held.max) & (value == np.round(value))):
        raise ValueError(
            f"theta['{name}'] = {value} is not of type {dtype}; give integers from {held.min} to {held.max}."
        )


def _of_dtype(value: Any, dtype: Any) -> jax.Array:
    if isinstance(value, float | int):
        return _number(value, dtype)
    if isinstance(value, jax.Array) and value.dtype == dtype and not value.weak_type:
        return value
    return lax.convert_element_type(jnp.asarray(value), dtype)


@lru_cache(maxsize=256)
def _number(value: float, dtype: Any) -> jax.Array:
    """Put a number on the device: most of what an online update would cost beside the step."""
    # Kept for other traces and for none, so it must not belong to the one that is under way.
    with jax.ensure_compile_time_eval():
        return lax.convert_element_type(jnp.asarray(value), dtype)


def _check_support(ssm: StateSpaceModel, theta: Theta) -> None:
    invalid = jax.device_get(_invalid(ssm, theta))
    for site in ssm.parameters:
        if invalid[site.name]:
            raise ValueError(
                f"theta['{site.name}'] = {np.asarray(theta[site.name])} is outside the support of its prior "
                f"{site.family} ({site.support}); give a finite value inside it."
            )


@jax.jit
def _invalid(ssm: StateSpaceModel, theta: Theta) -> dict[str, jax.Array]:
    rest = ssm.program.invalid_parameters.bind(ssm.arrays, ssm._outside(theta))
    return rest(*[UNUSED] * 6)["outside_invalid"]
