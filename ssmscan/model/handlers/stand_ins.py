"""Sites that have no sampler: points of their support, where a model is met and where NumPyro runs a loop itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpyro.distributions as dist
from jax import Array
from numpyro.primitives import Messenger

from ssmscan.errors import ModelError
from ssmscan.model.handlers.messages import clean_name, with_sample_shape
from ssmscan.model.handlers.noise_sites import family_name
from ssmscan.model.noise.samplers import draw, has_sampler


def placeholder(name: Any, fn: dist.Distribution) -> Array:
    """Return some value of a site.

    Raises:
        ModelError: there is no way to make one.
    """
    try:
        return draw(jax.random.key(0), fn)
    except NotImplementedError:
        raise ModelError(
            f"site '{clean_name(str(name))}' ({family_name(fn)}) has no sampler, and NumPyro no bijection to "
            "its support. Give its class a sample method, or a support of numpyro.distributions.constraints."
        ) from None


class _StandIns(Messenger):
    """Gives a value to each site that is not given one and cannot be drawn."""

    def process_message(self, msg: dict) -> None:
        if msg["type"] == "sample" and msg["value"] is None and not has_sampler(with_sample_shape(msg)):
            msg["value"] = placeholder(msg["name"], with_sample_shape(msg))


def with_stand_ins(run: Callable, f: Callable, *args, **kwargs):
    """Return `run(f, *args, **kwargs)` for a transition f, whose sites may have no sampler."""

    def standing_in(carry, x):
        with _StandIns():
            return f(carry, x)

    try:
        return run(f, *args, **kwargs)
    except NotImplementedError:
        return run(standing_in, *args, **kwargs)
