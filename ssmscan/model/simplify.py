r"""Algebra that a compiler may not do: logarithms of exponentials.

Densities take the logarithm of a scale that models write as an exponential, :math:`\sigma_t = e^{h_t / 2}`.  For
every a and q, infinities and signs included,

.. math:: \log e^q = q, \qquad \log(a \, e^q) = \log a + q,

up to rounding, and without the overflow of :math:`e^q` in between.  It saves a logarithm per particle and step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp


def producers(eqns: Iterable) -> dict:
    """Map each variable to the equation that writes it."""
    return {variable: eqn for eqn in eqns for variable in eqn.outvars}


def simplified(eqn: Any, produced: Mapping, read: Callable[[Any], Any]) -> Any:
    """Give the value of an equation by a shorter way, or None if there is none.

    Args:
        eqn: the equation.
        produced: `producers` of it and all before it.
        read: gives the value of a variable or literal.
    """
    if eqn.primitive.name != "log":
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


def _producer(variable: Any, produced: Mapping) -> Any:
    return None if hasattr(variable, "val") else produced.get(variable)


def _is(eqn: Any, name: str) -> bool:
    return eqn is not None and eqn.primitive.name == name
