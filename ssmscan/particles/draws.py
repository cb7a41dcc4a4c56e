"""Random numbers for clouds of particles: one key a step, one batched call a site.

All particles of a step draw from one key: element i of a site's noise is a function of (key, i),
which costs several times less than one key per particle.  The bits are those of Threefry-2x32
with 20 rounds (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3",
section 4.1), the same as JAX's own in the partitionable layout, written out round by round:
XLA compiles JAX's own as a loop that does not fuse on a CPU, while straight-line code fuses
into whatever consumes the noise.

Standard normals in float32 come from Box-Muller: with the two words (a, b) of one block,
u = (floor(a/2) + 1/2) / 2^31 and a uniform angle from b,

    eps = sqrt(-2 log u) cos(angle),    |eps| <= 6.66,

one block for each normal, so that no value depends on how many are drawn.  In float64 they are
JAX's normals (inverse error function of 53 bits) on the same bits.

Keys held inside the package carry the implementation `unrolled_threefry`: `jax.random.split`,
`fold_in`, `uniform`, ... work on them and give exactly what they give for a default key.  Only bits
are unrolled; keys are derived by JAX's own loop, since a chain of unrolled ciphers, fused into one
piece of code, takes XLA seconds to compile, or minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.extend.random as jer
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.keys import one_key

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_SINGLE_WORD_COUNTERS = 2**32


class NoiseShape(Protocol):
    """What one particle needs from one site: see `ssmscan.model.noise.NoiseSpec`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the standard normals of one particle."""

    @property
    def is_key(self) -> bool:
        """Whether the site wants one typed key per particle instead of normals."""


def threefry(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Encrypt the counters (high, low) under a raw key, 20 rounds, without a loop.

    Args:
        key: uint32[2].
        high, low: uint32 arrays of one shape.

    Returns:
        Two uint32 arrays of that shape.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    a, b = high + schedule[0], low + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            a = a + b
            b = ((b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation))) ^ a
        a = a + schedule[(group + 1) % 3]
        b = b + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


def _counters(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Number the elements of `shape` in row-major order, as two words."""
    low = lax.reshape(lax.iota(np.uint32, math.prod(shape)), shape)
    return jnp.zeros(shape, np.uint32), low


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    """Give the bits of JAX's partitionable threefry."""
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
        key: a typed key (`jax.random.key(0)`) of any implementation, or a raw uint32[2] key
            (`jax.random.PRNGKey(0)`); traced values are fine.
        argument: name of the argument in the error.

    Raises:
        TypeError: if it is not one key.
    """
    key = one_key(key, argument)
    data = jax.random.key_data(key)
    if data.shape != (2,):  # another generator, such as rbg: its first 64 bits are the key
        data = jax.random.bits(key, (2,), np.uint32)
    return jax.random.wrap_key_data(data, impl=unrolled_threefry)


def _cosine_of_uniform_angle(word: Array) -> Array:
    """Cosine of a uniform angle: two bits choose the quarter turn, 26 the place in it."""
    place = lax.bitcast_convert_type(word << np.uint32(2), np.int32) >> np.int32(6)
    angle = place.astype(np.float32) * np.float32(math.pi / 2 / 2**26)  # in [-pi/4, pi/4)
    square = angle * angle
    sine = _polynomial(square, (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1))
    sine = sine * square * angle + angle
    cosine = _polynomial(square, (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2))
    cosine = cosine * square * square - np.float32(0.5) * square + np.float32(1)
    magnitude = jnp.where((word & np.uint32(0x40000000)) != 0, sine, cosine)
    sign = word & np.uint32(0x80000000)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(magnitude, np.uint32) ^ sign, np.float32)


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Evaluate in float32 by Horner, highest power first."""
    value = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value


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
    high, low = _counters(shape)
    first, second = threefry(jax.random.key_data(key), high + np.uint32(stream), low)
    # A signed conversion is one instruction and an unsigned one is several; 2^-32 keeps u > 0.
    uniform = (first >> np.uint32(1)).astype(np.int32).astype(np.float32) * np.float32(2**-31)
    radius = jnp.sqrt(np.float32(-2) * jnp.log(uniform + np.float32(2**-32)))
    return radius * _cosine_of_uniform_angle(second)


def draw_noise(key: Array, specs: Mapping[str, NoiseShape], n: int, *, first_stream: int = 0) -> dict[str, Array]:
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
