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

from ssmscan.arguments import require_names, require_numbers
from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.keys import one_key
from ssmscan.model.protocols import Theta
from ssmscan.model.statespace.core import Core

ADVICE = "print(ssm) shows every site."


def canonical(core: Core, theta: Mapping[str, Any]) -> Theta:
    """Check parameter values and cast them; see `StateSpaceModel.canonical`."""
    named = require_names("theta", theta, core.program.parameters, "parameters", advice=ADVICE)
    if any(isinstance(value, jax.core.Tracer) for value in (*named.values(), *core.arrays)):
        return cast(core, named)
    # What is known is checked now, also while somebody's jit is being traced.
    with jax.ensure_compile_time_eval():
        values = cast(core, named)
        _check_support(core, values)
    return values


def log_prior(core: Core, theta: Mapping[str, Any]) -> jax.Array:
    """Compute the log-density of the parameters; see `StateSpaceModel.log_prior`."""
    return core.total(core.program.densities.prior, core.outside(cast(core, theta)))


def sample_prior(core: Core, key: Any) -> Theta:
    """Draw the parameters from their prior, masks and scales left out.

    Raises:
        ModelError: one has no sampler.
    """
    core.refuse_undrawable(*core.parameters)
    return sample_start(core, key)


def sample_start(core: Core, key: Any) -> Theta:
    """Draw parameters to start at; see `StateSpaceModel.sample_start`."""
    return core.program.prior(core.arrays, key=one_key(key))["theta"]


def at_unconstrained(core: Core, z: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate what there is at unconstrained values: "theta", "log_prior", "log_law" and "log_reweighting"."""
    staged = _continuous(core, core.program.constrain)
    shapes = staged.argument("z")
    for name in require_names("z", z, shapes, "unconstrained values", advice="ssm.unconstrain(theta) gives them."):
        require_numbers(f"z['{name}']", z[name], shapes[name].shape)
    return staged(core.arrays, z={name: of_dtype(z[name], shape.dtype) for name, shape in shapes.items()})


def unconstrain(core: Core, theta: Theta) -> Theta:
    """Compute unconstrained values of parameters that were checked."""
    return _continuous(core, core.program.unconstrain)(core.arrays, theta=theta)["z"]


def _continuous(core: Core, staged: Staged | None) -> Staged:
    if staged is None:
        raise ModelError(
            f"parameter(s) {core.program.not_continuous} are discrete and have no unconstrained space; gradient "
            "engines and random walks cannot move them. Sum them out, or fix them with handlers.condition."
        )
    return staged


def cast(core: Core, theta: Mapping[str, Any]) -> Theta:
    """Check names, shapes and types of parameter values, and cast them; they may be outside the support."""
    named = require_names("theta", theta, core.program.parameters, "parameters", advice=ADVICE)
    values = {}
    for site in core.parameters:
        value = named[site.name]
        require_numbers(f"theta['{site.name}']", value, site.shape)
        if jnp.issubdtype(site.dtype, jnp.integer) and not isinstance(value, jax.core.Tracer):
            _check_integer(site.name, np.asarray(value, np.float64), site.dtype)
        values[site.name] = of_dtype(value, site.dtype)
    return values


def _check_integer(name: str, value: np.ndarray, dtype: Any) -> None:
    held = np.iinfo(dtype)
    if not np.all((value >= held.min) & (value <= held.max) & (value == np.round(value))):
        raise ValueError(
            f"theta['{name}'] = {value} is not of type {dtype}; give integers from {held.min} to {held.max}."
        )


def of_dtype(value: Any, dtype: Any) -> jax.Array:
    """Return a number or an array as JAX holds it, of a dtype."""
    if isinstance(value, float | int):
        return _number(value, dtype)
    if isinstance(value, jax.Array) and value.dtype == dtype and not value.weak_type:
        return value
    return lax.convert_element_type(jnp.asarray(value), dtype)


@lru_cache(maxsize=256)
def _number(value: float, dtype: Any) -> jax.Array:
    """Move a number to the device, and keep it: anew, it would be most of an online update's cost beside the step."""
    # Kept for other traces and for none, so it must not belong to the one that is under way.
    with jax.ensure_compile_time_eval():
        return lax.convert_element_type(jnp.asarray(value), dtype)


def _check_support(core: Core, theta: Theta) -> None:
    invalid = jax.device_get(_invalid(core, theta))
    for site in core.parameters:
        if invalid[site.name]:
            raise ValueError(
                f"theta['{site.name}'] = {np.asarray(theta[site.name])} is outside the support of its prior "
                f"{site.family} ({site.support}); give a finite value inside it."
            )


@jax.jit
def _invalid(core: Core, theta: Theta) -> dict[str, jax.Array]:
    return core.program.data.invalid_parameters(core.arrays, outside=core.outside(theta))["outside_invalid"]
