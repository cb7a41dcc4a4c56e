r"""Algebra that a compiler does not do: logarithms of exponentials, sums of few terms.

Densities take the logarithm of a scale that models write as an exponential, :math:`\sigma_t = e^{h_t / 2}`.  For
all real a and q, infinities and signs included,

.. math:: \log e^q = q, \qquad \log(a \, e^q) = \log a + q,

up to rounding, and without the overflow of :math:`e^q` in between.  It saves a logarithm per particle and step.

A slice of parts that were joined, if it lies within one of them, is a slice of this part, which does not depend on the
others: `x[0]` of `concatenate([x0[None], path])` is known before the path.

A vector of two to four coordinates, summed or multiplied by a matrix, is a few additions.  Over a cloud XLA makes of
them reductions and products of matrices with one long side, on a CPU calls of a library: 12 ns a particle instead of 2
for a sum of two, and nothing around them can be fused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# Up to this many terms, additions were faster than XLA's reductions and products of 10,000 particles on a CPU.
_FEW_TERMS, _FEW_PRODUCTS = 32, 8


def producers(eqns: Iterable) -> dict:
    """Map each variable to the equation that writes it."""
    return {variable: eqn for eqn in eqns for variable in eqn.outvars}


def simplified(eqn: Any, read: Callable[[Any], Any], *, produced: Mapping) -> Any:
    """Return the value of an equation computed in a shorter way, or None if there is none.

    Args:
        eqn: the equation.
        read: gives the value of a variable or literal.
        produced: `producers` of it and all before it.
    """
    if eqn.primitive.name == "slice":
        return _slice_of_part(eqn, read, _producer(eqn.invars[0], produced))
    # Of complex numbers the logarithm of an exponential is another branch.
    if eqn.primitive.name != "log" or not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
        return None
    source = _producer(eqn.invars[0], produced)
    if _is(source, "exp"):
        return read(source.invars[0])
    if _is(source, "mul"):
        for one, other in (source.invars, source.invars[::-1]):
            inner = _producer(one, produced)
            if _is(inner, "exp"):
                return jnp.log(read(other)) + read(inner.invars[0])
    return None


def _slice_of_part(eqn: Any, read: Callable[[Any], Any], joined: Any) -> Any:
    """Return a slice of the one part that it lies in, or None if there is none."""
    if not _is(joined, "concatenate") or eqn.params["strides"] is not None:
        return None
    along, first = joined.params["dimension"], 0
    starts, limits = list(eqn.params["start_indices"]), list(eqn.params["limit_indices"])
    for part in joined.invars:
        size = part.aval.shape[along]
        if first <= starts[along] and limits[along] <= first + size:
            starts[along], limits[along] = starts[along] - first, limits[along] - first
            return lax.slice(read(part), starts, limits)
        first += size
    return None


def written_out(eqn: Any, read: Callable[[Any], Any]) -> Array | None:
    """Return a sum or a matrix product of few terms computed by additions, or None if it is neither.

    Args:
        eqn: the equation.
        read: gives the value of a variable or literal.
    """
    if eqn.primitive.name == "reduce_sum":
        terms = _in_front(read(eqn.invars[0]), eqn.params["axes"])
        return _sum(terms) if 0 < len(terms) <= _FEW_TERMS else None
    if eqn.primitive.name != "dot_general":
        return None
    axes, batch = eqn.params["dimension_numbers"]
    left, right = map(_in_front, map(read, eqn.invars), axes)
    out = eqn.outvars[0].aval
    if batch != ((), ()) or not left.dtype == right.dtype == out.dtype:
        return None
    if not len(left) or max(len(left), out.size) > _FEW_PRODUCTS:
        return None
    return _sum(jax.vmap(jnp.multiply.outer)(left, right))


def _sum(terms: Array) -> Array:
    return reduce(operator.add, (terms[k] for k in range(len(terms))))


def _in_front(array: Array, axes: tuple[int, ...]) -> Array:
    """Bring what is summed over to the front, as one axis."""
    count = math.prod(array.shape[axis] for axis in axes)
    return jnp.moveaxis(array, axes, range(len(axes))).reshape(count, *np.delete(array.shape, axes))


def _producer(variable: Any, produced: Mapping) -> Any:
    return None if hasattr(variable, "val") else produced.get(variable)


def _is(eqn: Any, name: str) -> bool:
    return eqn is not None and eqn.primitive.name == name
