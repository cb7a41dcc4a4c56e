"""The values discrete draws can take, alone and jointly, where they are finitely many and known at trace.

A sum over a discrete state needs the list of its values before anything is compiled: the number of them
may depend on shapes and on numbers in the model's text (the length of a vector of probabilities, the
bounds of a uniform), not on parameters, states or data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from ssmscan.model.noise.families import WRAPPERS


class Finite(Protocol):
    """A site with a list of values; see `discovery.TracedSite`."""

    @property
    def name(self) -> str:
        """Name of the site."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value."""

    @property
    def dtype(self) -> Any:
        """Dtype of the value."""

    @property
    def values(self) -> tuple[float, ...]:
        """Values of one element."""

    @property
    def num_values(self) -> int:
        """Number of values of one element."""


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


def num_joint(sites: Iterable[Finite]) -> int:
    """Count the joint values of some sites, all elements together."""
    return math.prod(site.num_values ** math.prod(site.shape) for site in sites)


def joint_values(sites: Sequence[Finite]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """List the joint values of some sites.

    Returns:
        For each site its value (K, *shape) in each of the K joint values, and the position of each element
        in the list of its values, of the same shape.
    """
    sizes = [math.prod(site.shape) for site in sites]
    choices = [range(site.num_values) for site, size in zip(sites, sizes) for _ in range(size)]
    table = np.array(list(itertools.product(*choices)), dtype=np.int32).reshape(num_joint(sites), sum(sizes))
    values, positions, offset = {}, {}, 0
    for site, size in zip(sites, sizes):
        chosen = table[:, offset : offset + size].reshape(-1, *site.shape)
        positions[site.name] = chosen
        values[site.name] = np.asarray(site.values, site.dtype)[chosen]
        offset += size
    return values, positions
