"""A draw of any distribution; where it has no sampler, a point of its support instead.

An improper prior has no sampler, nor has a class of the user's with a density alone.  The engines that do not draw from
it (NUTS, PMMH and maximum likelihood, of a parameter) still need its shape and a point to start at, which is NumPyro's:
uniform on (-2, 2) in unconstrained space.  Engines that do draw from it refuse it by its name.
"""

from __future__ import annotations

import jax
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import biject_to

START_RADIUS = 2.0
"""Points that stand for a draw are uniform on (-2, 2) in unconstrained space."""


def draw(key: Array, fn: dist.Distribution) -> Array:
    """Draw from a distribution, or choose a point of its support.

    Raises:
        NotImplementedError: it has no sampler, and NumPyro no bijection to its support.
    """
    try:
        return fn.sample(key)
    except NotImplementedError:
        transform = biject_to(fn.support)
        shape = transform.inverse_shape(fn.shape())
        return transform(jax.random.uniform(key, shape, minval=-START_RADIUS, maxval=START_RADIUS))


def has_sampler(fn: dist.Distribution) -> bool:
    """Return whether a distribution can be drawn from."""
    try:
        jax.eval_shape(fn.sample, jax.random.key(0))
    except NotImplementedError:
        return False
    return True
