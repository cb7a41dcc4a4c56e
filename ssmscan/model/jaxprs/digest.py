"""A hash of what a program computes, the same in every process.

The text of a jaxpr is not: where a library walks through a set of names, equations that do not depend on each other
come in an order that changes with Python's hash seed.  Here the hash of a variable is that of its primitive, of the
parameters, and of the hashes of what it is computed from.  The hash of the outputs then depends on neither order nor
names, and what no output needs does not count.

Parameters that are no jaxprs count as they print, without addresses.  Within one
process `text` tells more apart, and costs less.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxprs_in_params

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_INTEGER = re.compile(r"(?<![\w.])\d+(?![\w.])")


def digest(jaxpr: Jaxpr, inputs: Sequence[str] = ()) -> str:
    """Return the hash of the outputs of a jaxpr as functions of its inputs.

    Args:
        jaxpr: pure equations.
        inputs: what the first inputs are called; the others are called by their number, counted after these.
    """
    variables = (*jaxpr.constvars, *jaxpr.invars)
    rest = (f"input {i}" for i in range(len(variables) - len(inputs)))
    known = {variable: f"{name} {variable.aval}" for variable, name in zip(variables, (*inputs, *rest))}

    def of(atom: Any) -> str:
        return f"{atom.val!r} {atom.aval}" if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        parameters = [f"{name} {_parameter(value)}" for name, value in sorted(eqn.params.items())]
        made = _hash([eqn.primitive.name, *parameters, *map(of, eqn.invars)])
        known.update({variable: f"{made} {i}" for i, variable in enumerate(eqn.outvars)})
    return _hash(map(of, jaxpr.outvars))


def mentions(jaxpr: Jaxpr, numbers: Collection[int]) -> bool:
    """Return whether one of some integers is a size, a parameter or a literal anywhere in a jaxpr."""
    texts = [str(variable.aval) for variable in (*jaxpr.constvars, *jaxpr.invars)]
    for eqn in jaxpr.eqns:
        texts += [str(atom) for atom in eqn.invars if isinstance(atom, Literal)]
        texts += [printed(value) for value in eqn.params.values() if not _inner(value)]
        if any(mentions(inner, numbers) for value in eqn.params.values() for inner in _inner(value)):
            return True
    return any(int(found) in numbers for text in texts for found in _INTEGER.findall(text))


def _inner(value: Any) -> list[Jaxpr]:
    """Return the jaxprs in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr | Jaxpr):
        return [value.jaxpr if isinstance(value, ClosedJaxpr) else value]
    return [jaxpr for entry in value for jaxpr in _inner(entry)] if isinstance(value, tuple | list) else []


def printed(value: Any) -> str:
    """Print a value without addresses."""
    return _ADDRESS.sub("", repr(value))


def _parameter(value: Any) -> str:
    if isinstance(value, ClosedJaxpr):
        return _hash([digest(value.jaxpr), *map(_constant, value.consts)])
    if isinstance(value, Jaxpr):
        return digest(value)
    if isinstance(value, tuple | list):
        return _hash(map(_parameter, value))
    if isinstance(value, set | frozenset):
        return _hash(sorted(map(_parameter, value)))
    return printed(value)


def _constant(value: Any) -> str:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return _hash([f"{array.dtype}{array.shape}", array.tobytes().hex()])


def _hash(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def text(jaxpr: Jaxpr) -> str:
    """Print a jaxpr without anything that differs between two traces of the same code, and with all it means."""
    return f"{_ADDRESS.sub('', str(jaxpr))}|{list(_unprinted(jaxpr))}"


def _unprinted(jaxpr) -> Iterable[Any]:
    """Yield what decides the meaning of a jaxpr and is not in its text.

    Constants that a nested jaxpr holds, by their bytes.  Host callbacks, and derivative rules from
    outside JAX and NumPyro, by address: two may differ while they print the same, so programs that
    hold them are never shared.
    """
    for eqn in jaxpr.eqns:
        if "custom_jvp" in eqn.primitive.name or "custom_vjp" in eqn.primitive.name:
            source = str(getattr(eqn.params["call_jaxpr"], "jaxpr", eqn.params["call_jaxpr"]).debug_info.func_src_info)
            if "/jax/" not in source and "/numpyro/" not in source:
                yield id(eqn.params["call_jaxpr"])
        if "callback" in eqn.params:
            yield id(getattr(eqn.params["callback"], "callback_func", eqn.params["callback"]))
        for closed in _closed(tuple(eqn.params.values())):
            yield from map(_identity, closed.consts)
        for inner in jaxprs_in_params(eqn.params):
            yield from _unprinted(inner)


def _closed(param: Any) -> Iterable[Any]:
    """Yield the jaxprs with their constants among the parameters of an equation."""
    if hasattr(param, "jaxpr") and hasattr(param, "consts"):
        yield param
    elif isinstance(param, tuple | list):
        for entry in param:
            yield from _closed(entry)


def _identity(const: Any) -> Any:
    if isinstance(const, jax.core.Tracer):
        return id(const)
    if jax.dtypes.issubdtype(const.dtype, jax.dtypes.prng_key):
        return _identity(jax.random.key_data(const))
    return const.dtype, const.shape, np.asarray(const).tobytes()
