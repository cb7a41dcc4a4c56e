"""The values a discrete draw can take, where they are finitely many and known at trace.

A sum over a discrete state needs the list of its values before anything is compiled: the number of them
may depend on shapes and on numbers in the model's text (the length of a vector of probabilities, the
bounds of a uniform), not on parameters, states or data.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ssmscan.model.noise import WRAPPERS


def finite_support(fn: Any) -> tuple[float, ...]:
    """List the values of one element of a distribution, empty where they are not known.

    Args:
        fn: a NumPyro distribution, whose parameters may be tracers.

    Returns:
        The support of each element, the same for all, in the order of NumPyro's `enumerate_support`.
    """
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    if not fn.is_discrete or fn.event_shape or not fn.has_enumerate_support:
        return ()
    try:
        # Tracing would stage the list of values too; it is a constant.
        with jax.ensure_compile_time_eval():
            values = fn.enumerate_support(expand=False)
        return tuple(np.asarray(values).ravel().tolist())
    except (NotImplementedError, jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        return ()
