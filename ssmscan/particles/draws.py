"""Random numbers for clouds of particles: one key a step, one batched call a site.

All particles of a step draw from one key: element i of a site's noise is a function of (key, i),
which costs several times less than one key per particle.  The bits are those of Threefry-2x32, the
same as JAX's own in the partitionable layout, from straight-line code (`ssmscan.model.threefry`).

Standard normals in float32 come from Box-Muller, one block of the cipher for each, so that no value
depends on how many are drawn; |eps| <= 6.66.  In float64 they are JAX's normals (inverse error
function of 53 bits) on the same bits.

Keys held inside the package carry the implementation `unrolled_threefry`: `jax.random.split`,
`fold_in`, `uniform`, ... work on them and give exactly what they give for a default key.  Only bits
are unrolled; keys are derived by JAX's own loop, since a chain of unrolled ciphers, fused into one
piece of code, takes XLA seconds to compile, or minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.extend.random as jer
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.keys import one_key
from ssmscan.model.protocols import NoiseSpec
from ssmscan.model.threefry import normal_of_words, threefry

T = TypeVar("T")

_SINGLE_WORD_COUNTERS = 2**32

START_STREAM = 2**31
"""First stream of the start, which draws from the key of the run itself; the keys of the steps are its stream 0."""


def _counters(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Number the elements of `shape` in row-major order, as two words."""
    low = lax.reshape(lax.iota(np.uint32, math.prod(shape)), shape)
    return jnp.zeros(shape, np.uint32), low


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    """Return the bits of JAX's partitionable threefry."""
    if math.prod(shape) >= _SINGLE_WORD_COUNTERS:
        return jer.threefry_prng_impl.random_bits(key, bit_width, shape)
    a, b = threefry(key, *_counters(shape))
    if bit_width == 64:
        return (a.astype(np.uint64) << np.uint64(32)) | b.astype(np.uint64)
    return (a ^ b).astype(np.dtype(f"uint{bit_width}"))


unrolled_threefry = jer.define_prng_impl(
    key_shape=(2,),
    seed=jer.threefry_prng_impl.seed,
    split=jer.threefry_prng_impl.split,
    random_bits=_random_bits,
    fold_in=jer.threefry_prng_impl.fold_in,
    name="ssmscan_unrolled_threefry",
    tag="ssmscan",
)


def as_key(key: Any, argument: str = "key") -> Array:
    """Turn what a user calls one PRNG key into a typed key of `unrolled_threefry`.

    Args:
        key: a typed key (`jax.random.key(0)`) of any generator, or a raw one (`jax.random.PRNGKey(0)`); traced values
            are fine.
        argument: name of the argument in the error.

    Raises:
        TypeError: if it is not one key.
    """
    return jax.random.wrap_key_data(jax.random.key_data(one_key(key, argument)), impl=unrolled_threefry)


def standard_normal(key: Array, shape: tuple[int, ...], stream: int = 0) -> Array:
    """Draw standard normals of the default real dtype.

    Args:
        key: a key made by `as_key` or derived from one.
        shape: shape of the array; element i, in row-major order, depends on (key, stream, i) alone.
        stream: number of an independent sequence under the same key.
    """
    dtype = jnp.zeros(()).dtype
    if dtype != np.float32 or math.prod(shape) >= _SINGLE_WORD_COUNTERS:
        return jax.random.normal(jax.random.fold_in(key, stream) if stream else key, shape, dtype)
    data = jax.random.key_data(key)

    def whole(data: Array) -> Array:
        high, low = _counters(shape)
        return normal_of_words(*threefry(data, high + np.uint32(stream), low))

    columns = math.prod(shape[1:])
    if columns < 2:
        return whole(data)
    return lax.platform_dependent(data, cpu=partial(_by_columns, shape=shape, stream=stream), default=whole)


def _by_columns(data: Array, *, shape: tuple[int, ...], stream: int) -> Array:
    """Draw the same numbers column by column, each column in one piece of memory.

    What reads single elements of a particle's noise then reads whole columns: read from one array of n rows, XLA on a
    CPU computes the cipher for every reader anew, one number at a time, at 30 ns instead of 4.
    """
    count, columns = shape[0], math.prod(shape[1:])
    first = lax.iota(np.uint32, count) * np.uint32(columns)
    high = jnp.full((count,), stream, np.uint32)

    def column(number: Array, _: None) -> tuple[Array, Array]:
        return number + np.uint32(1), normal_of_words(*threefry(data, high, first + number))

    _, drawn = lax.scan(column, jnp.zeros((), np.uint32), None, length=columns)
    return jnp.moveaxis(drawn, 0, -1).reshape(shape)


_GOLDEN = np.uint32(2654435769)
"""2^32 over the golden ratio: its multiples spread evenly, those of consecutive numbers too."""


def spread_choice(key: Array, probability: float, n: int, stream: int) -> Array:
    """Choose each of n particles with one probability, evenly spread over the cloud.

    They are chosen by one uniform number and not independently: as many as on average, and as many of each family,
    since particles of one ancestor are neighbours.

    Args:
        key: as in `standard_normal`.
        probability: in [0, 1), known.
        n: number of particles.
        stream: number of a sequence under this key that nothing else uses.

    Returns:
        (n,) bool.
    """
    a, b = threefry(jax.random.key_data(key), jnp.full((1,), stream, np.uint32), jnp.zeros(1, np.uint32))
    return lax.iota(np.uint32, n) * _GOLDEN + (a ^ b) < np.uint32(round(probability * 2.0**32))


def independent_choice(key: Array, probability: float, n: int, stream: int) -> Array:
    """Choose each of n particles with one probability, independently; arguments as of `spread_choice`.

    It has twice the noise, and stays what it is when one particle is given.
    """
    return jax.random.uniform(jax.random.fold_in(key, stream), (n,)) < probability


def drawn_once(draw: Callable[[], T]) -> T:
    """Draw, and have the numbers in memory.

    Where filters are vmapped, XLA on a CPU else computes the cipher anew inside of all that reads its numbers, which
    takes minutes to compile.  A loop of one round it would unroll.
    """
    _, rounds = lax.scan(lambda nothing, _: (nothing, draw()), None, None, length=2)
    return jax.tree.map(lambda leaf: leaf[0], rounds)


def draw_noise(key: Array, specs: Mapping[str, NoiseSpec], n: int, *, first_stream: int = 0) -> dict[str, Array]:
    """Draw the base noise of n particles for every site.

    Args:
        key: one key for the step.
        specs: what each site needs, by name; sites draw from separate streams, in this order.
        n: number of particles.
        first_stream: number of the first site's stream.

    Returns:
        By name: standard normals (n,) + shape, or n typed keys of JAX's default threefry where
        the site has only its family's own sampler.
    """
    noise = {}
    for stream, (name, spec) in enumerate(specs.items(), first_stream):
        if spec.is_key:
            data = jax.random.key_data(jax.random.split(jax.random.fold_in(key, stream), n))
            noise[name] = jax.random.wrap_key_data(data, impl="threefry2x32")
        else:
            noise[name] = standard_normal(key, (n, *spec.shape), stream)
    return noise
