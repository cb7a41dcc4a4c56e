"""Values by name, as pure functions of a model take them: names, shapes and kinds are checked, numbers are not.

That costs nothing in a trace, where the engines call these functions.  What a number may be is checked where a user
enters, by `parameters.canonical`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


def require_values(argument: str, values: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse what does not hold numbers of these shapes under exactly these names.

    Args:
        argument: its name in the error.
        values: what was given; may be traced.
        shapes: by name.

    Raises:
        TypeError: it is no mapping, or a value is not of numbers.
        ValueError: a name is missing or unknown, or a shape is wrong.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{argument}: expected a mapping from {sorted(shapes)} to arrays, got {type(values).__name__}.")
    missing, unknown = sorted(set(shapes) - set(values)), sorted(set(values) - set(shapes), key=str)
    if missing or unknown:
        raise ValueError(
            f"{argument} must have exactly the names {sorted(shapes)}; missing: {missing or 'none'}, unknown: "
            f"{unknown or 'none'}."
        )
    for name, shape in shapes.items():
        value = values[name]
        dtype = getattr(value, "dtype", np.asarray(value).dtype if isinstance(value, int | float) else None)
        if dtype is None or not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)):
            raise TypeError(f"{argument}['{name}']: expected real numbers of shape {shape}, got {value!r}.")
        if np.shape(value) != shape:
            raise ValueError(f"{argument}['{name}'] has shape {np.shape(value)}, expected {shape}.")


def require_point(ssm: Any, theta: Any, noise: Any) -> None:
    """Refuse parameters and noise that are not those of a model; errors as of `require_values`."""
    require_values("theta", theta, {site.name: site.shape for site in ssm.parameters})
    require_values("noise", noise, {name: spec.shape for name, spec in ssm.smooth_noise.items()})
