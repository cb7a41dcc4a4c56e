"""Whole paths: the loop run at given values of its sites, and the noise that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ssmscan.arguments import require_names, require_numbers
from ssmscan.model.protocols import NoiseSpec, PyTree, Theta
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.parameters import of_dtype


class Path(NamedTuple):
    """The loop run at given values of its sites.

    Attributes:
        carry: carry after the last step.
        ys: outputs, T in front.
        log_prob: for each site of the loop, its log-probability as NumPyro counts it, summed over steps.
    """

    carry: PyTree
    ys: PyTree
    log_prob: dict[str, jax.Array]


def smooth_noise(core: Core) -> dict[str, NoiseSpec]:
    """Return the standard-normal noise of the whole loop: initial sites, then loop sites with T in front.

    Raises:
        ModelError: there is none, see `marginal.Refused`.
    """
    specs, steps = core.program.marginal.noise, (core.num_steps,)
    loop = {s.name: NoiseSpec(steps + specs[s.name].shape, False) for s in core.innovations if s.name in specs}
    return {**{name: specs[name] for name in core.program.initial if name in specs}, **loop}


def require_noise(specs: Mapping[str, NoiseSpec], noise: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Check names and shapes of base noise, and cast it.

    Raises:
        TypeError: it is not a mapping of names to numbers.
        ValueError: a name is missing or unknown, or a shape is wrong.
    """
    advice = "ssm.smooth_noise has the shapes."
    for name in require_names("noise", noise, specs, "sites with noise", advice=advice):
        require_numbers(f"noise['{name}']", noise[name], specs[name].shape)
    return {name: of_dtype(noise[name], jnp.result_type(float)) for name in specs}


def from_values(core: Core, theta: Theta, initial: Mapping[str, jax.Array], loop: Mapping[str, jax.Array]) -> Path:
    """Run the loop at given values of initial sites and innovations (T in front)."""
    xs = core.inputs(theta)
    step = core.program.evaluate.bind(core.arrays, outside=core.outside(theta))

    def body(carry, inputs):
        x, values = inputs
        out = step(carry=carry, x=x, values=values)
        return out["carry"], (out["y"], out["log_prob"])

    last, (ys, log_prob) = lax.scan(body, core.start(theta, initial), (xs, dict(loop)))
    return Path(last, ys, jax.tree.map(jnp.sum, log_prob))
