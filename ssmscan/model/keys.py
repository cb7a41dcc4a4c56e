"""What counts as one PRNG key: any of JAX's, and all become keys of JAX's own threefry.

Keys of other generators are seeds and no more.  `rbg` and `unsafe_rbg` draw, under vmap, every replicate of a batch
from its *first* key (JAX documents that their vmap is no loop), so that filters which should be independent would hang
on one key.  Here the words of each key are hashed, by arithmetic that vmap takes replicate by replicate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.model.threefry import threefry

_THREEFRY = "threefry2x32"
_RAW = ((2,), (4,))
"""Shapes of a raw key: of threefry, and of rbg."""


def one_key(key: Any, argument: str = "key") -> jax.Array:
    """Turn what a user calls one PRNG key into a typed key of threefry, a function of its own words alone.

    Args:
        key: a typed key (`jax.random.key(0)`) of any generator, or a raw one (`jax.random.PRNGKey(0)`); may be traced.
        argument: name of the argument in the error.

    Raises:
        TypeError: it is not one key.
    """
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
        words = jax.random.key_data(key)
    elif dtype == np.uint32 and shape in _RAW:
        words = jnp.asarray(key)
    else:
        given = type(key).__name__ if dtype is None else f"an array of {dtype} with shape {shape}"
        raise TypeError(
            f"{argument}: expected one PRNG key, jax.random.key(seed) or a raw uint32[2] key; "
            f"got {given}. For a batch of keys use jax.vmap over the call."
        )
    return jax.random.wrap_key_data(_two_words(words), impl=_THREEFRY)


def loop_keys(key: jax.Array, count: int) -> Iterator[jax.Array]:
    """Yield a key for each of independent loops, each made when it is asked for; a single loop has the key itself."""
    yield from (jax.random.fold_in(key, k) for k in range(count)) if count > 1 else (key,)


def _two_words(words: jax.Array) -> jax.Array:
    """Return two words as they are, and a hash of others."""
    return words if words.shape == (2,) else _hash(words)


@jax.jit
def _hash(words: jax.Array) -> jax.Array:
    """Encrypt each further pair of words under those before it, by threefry."""
    flat = jnp.zeros(2 * math.ceil(words.size / 2), np.uint32).at[: words.size].set(words.reshape(-1))
    pairs = flat.reshape(-1, 2)
    found = pairs[0]
    for pair in pairs[1:]:
        found = jnp.stack(threefry(found, *pair))
    return found
