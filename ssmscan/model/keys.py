"""What counts as one PRNG key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def one_key(key: Any, argument: str = "key") -> jax.Array:
    """Turn what a user calls one PRNG key into a typed key.

    Args:
        key: a typed key (`jax.random.key(0)`) or a raw uint32[2] key (`jax.random.PRNGKey(0)`); may be traced.
        argument: name of the argument in the error.

    Raises:
        TypeError: it is not one key.
    """
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
        return key
    if dtype == np.uint32 and shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    given = type(key).__name__ if dtype is None else f"an array of {dtype} with shape {shape}"
    raise TypeError(
        f"{argument}: expected one PRNG key, jax.random.key(seed) or a raw uint32[2] key; "
        f"got {given}. For a batch of keys use jax.vmap over the call."
    )
