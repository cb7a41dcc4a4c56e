"""Where a program runs, and the time loops that gradients go back through.

What a step of such a loop computes on a GPU is a few kernels of one number for each chain; a trip of the loop costs
about 10 microseconds beside them.  There several steps are written out in one trip: a leapfrog step of NUTS on
stochastic volatility, T = 200 and 64 chains on an H200, takes 0.5 ms with ten in a trip and 5.4 ms one by one, and the
first call 3.5 s instead of 2.3.  XLA's time grows with what is written out, so that large steps are fewer in a trip.
On a CPU a trip costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.extend import core as jex

MOST_STEPS = 10
"""Largest number of steps in a trip; 20 take three quarters of the time of 10 and compile in 4.3 s instead of 3.5."""
MOST_OPERATIONS = 1500
"""Largest number of operations in a trip of several steps."""


def on_cpu() -> bool:
    """Return whether what is traced now will run on a CPU: where `jax.default_device` says, else on JAX's backend.

    It decides how replicates and steps are laid out, when they are traced.  Single operations, of which each kind of
    device has its own, leave the choice to `lax.platform_dependent`, which is made when they are lowered.
    """
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return (jax.default_backend() if device is None else getattr(device, "platform", device)) == "cpu"


def scan_steps(step: Callable, carry: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """Scan; arguments and results as of `lax.scan`.  On a GPU a trip has several steps."""
    if on_cpu():
        return lax.scan(step, carry, xs, reverse=reverse)
    rows = jax.eval_shape(lambda xs: jax.tree.map(lambda leaf: leaf[0], xs), xs)
    written = jax.make_jaxpr(step)(carry, rows).jaxpr
    unroll = steps_in_a_trip(len(jax.tree.leaves(xs)[0]), count_operations(written))
    return lax.scan(step, carry, xs, reverse=reverse, unroll=unroll)


def steps_in_a_trip(length: int, operations: int) -> int:
    """Choose the number of steps in a trip from the length of a loop and the operations of a step.

    A rest is compiled apart: a number that leaves little is better than the largest.
    """
    most = max(1, min(MOST_STEPS, length, MOST_OPERATIONS // max(operations, 1)))
    return min(range((most + 1) // 2, most + 1), key=lambda steps: (length % steps, -steps))


def count_operations(jaxpr: Any) -> int:
    """Count the operations of a jaxpr, calls and those of what they call."""
    return len(jaxpr.eqns) + sum(count_operations(inner) for inner in jex.subjaxprs(jaxpr))
