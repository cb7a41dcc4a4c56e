r"""Threefry-2x32 written out, and what its words become: uniform, exponential, normal.

The cipher is that of Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", section 4.1,
with 20 rounds, the one of JAX.  XLA compiles JAX's as a loop that does not fuse on a CPU; straight-line code fuses into
whatever consumes the words.

A float32 normal is made by Box-Muller from the two words (a, b) of one block: u = (floor(a/2) + 1/2) / 2^31 and b,
as a signed integer, give

    eps = sqrt(-2 log u) sin(pi b / 2^32),    |eps| <= sqrt(64 log 2) = 6.66.

The sine of an angle in half a circle has the law of the cosine in a whole one.  Both functions are polynomials of
least relative error, 5e-9 and 2e-7 before rounding, for these arguments alone: half the work of the general ones.

For keys and streams see `ssmscan.particles.draws`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)

# Highest power first: -2 log(1 + m) / m in m, and sin(x) / x in x^2.
_MINUS_TWICE_LOG = (
    *(0.202138314, -0.324451899, 0.345016584, -0.398003275),
    *(0.499398179, -0.66670118, 1.0000073, -1.99999989),
)
_SINE = (2.60190228e-06, -1.98074184e-4, 8.33302513e-3, -0.166666567, 0.999999995)


def threefry(key: Array | Sequence[Array], high: Array, low: Array) -> tuple[Array, Array]:
    """Encrypt the counters (high, low) under a raw key, 20 rounds, without a loop.

    Args:
        key: uint32[2], or two uint32 arrays of the shape of the counters.
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


def open_uniform(word: Array) -> Array:
    """Turn words into float32 uniforms in (0, 1]: the upper 31 bits, in the middle of their cell."""
    # A signed conversion is one instruction and an unsigned one is several; 2^-32 keeps u > 0.
    uniform = (word >> np.uint32(1)).astype(np.int32).astype(np.float32) * np.float32(2**-31)
    return uniform + np.float32(2**-32)


def _minus_twice_log(u: Array) -> Array:
    """-2 log u for float32 u in (0, 1], positive and normal: u = 2^e m with m in [sqrt(1/2), sqrt(2))."""
    bits = lax.bitcast_convert_type(u, np.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    rest = lax.bitcast_convert_type(bits - (exponent << np.int32(23)), np.float32) - np.float32(1)
    value = rest * _polynomial(rest, _MINUS_TWICE_LOG)
    return value - exponent.astype(np.float32) * np.float32(2 * math.log(2))


def _sine_of_half_circle(word: Array) -> Array:
    """Sine of pi b / 2^32, b the word as a signed integer."""
    angle = lax.bitcast_convert_type(word, np.int32).astype(np.float32) * np.float32(math.pi / 2**32)
    return angle * _polynomial(angle * angle, _SINE)


def _polynomial(argument: Array, coefficients: tuple[float, ...]) -> Array:
    """Evaluate in float32 by Horner, highest power first."""
    value = jnp.full_like(argument, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * argument + np.float32(coefficient)
    return value


def normal_of_words(first: Array, second: Array) -> Array:
    """Turn the two words of a block into one float32 normal."""
    return jnp.sqrt(_minus_twice_log(open_uniform(first))) * _sine_of_half_circle(second)


def double_of_words(first: Array, second: Array) -> Array:
    """Turn the two words of a block into a float64 uniform in (0, 1), in the middle of its cell of 2^-52."""
    high, low = first.astype(np.float64), (second >> np.uint32(12)).astype(np.float64)
    return (high * 2.0**20 + low + 0.5) * 2.0**-52


def normal_and_exponential(key: Sequence[Array], low: Array, number: Array, dtype: np.dtype) -> tuple[Array, Array]:
    """Make a standard normal and an independent standard exponential of each key, in float32 or float64.

    Args:
        key: two uint32 arrays; low: uint32 array, a third word of the key.
        number: uint32 array or scalar, which of the key's pairs.
    """
    high = jnp.broadcast_to(number * np.uint32(4), low.shape)
    first, second, third = (threefry(key, high + np.uint32(block), low) for block in range(3))
    if dtype == np.float64:
        radius = jnp.sqrt(-2.0 * jnp.log(double_of_words(*first)))
        return radius * jnp.cos(2.0 * math.pi * double_of_words(*second)), -jnp.log(double_of_words(*third))
    return normal_of_words(*first), -jnp.log(open_uniform(second[0]))
