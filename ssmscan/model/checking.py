"""Prove a trace right: the parts, put together again, against the original.

At a draw (theta, s, z) from the model's own forward simulation,

    log p(theta) + log p(s) + sum_t log p(z_t) + sum_t log p(y_t) + log static

computed from the stored parts must equal `numpyro.infer.util.log_density` of the model as it was
written, site by site substituted.  The two share no code beyond the distributions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer.util import log_density

from ssmscan.model.constants import Constants
from ssmscan.model.dataflow import UNUSED
from ssmscan.model.paths import from_values
from ssmscan.model.records import Record, clean_name
from ssmscan.model.running import ModelError, isolated, run_model
from ssmscan.model.simulate import Outputs


class Check(NamedTuple):
    """Outcome of `StateSpaceModel.check`.

    Attributes:
        parts: log-density assembled from the traced parts.
        original: log-density of the model by NumPyro.
        tolerance: largest difference that rounding explains.
        draw: the values of all latent sites at which both were computed.
    """

    parts: float
    original: float
    tolerance: float
    draw: dict[str, np.ndarray]

    @property
    def passed(self) -> bool:
        """Whether both densities agree up to rounding."""
        return bool(abs(self.parts - self.original) <= self.tolerance)


def check(key: jax.Array, ssm: Any, source: Any) -> Check:
    """Compare both densities at one draw; missing elements of the data are filled for it.

    Raises:
        ModelError: they differ by more than rounding; the message gives both.
    """
    if ssm.has_gaps:
        ssm, source = source.filled()
        if ssm.has_gaps:
            raise ModelError(
                "check: NumPyro has no density for a loop that is conditioned on fewer values than it has steps, nor "
                "for missing values that the model reads from outside its arguments. Trace the model without the "
                "horizon, and pass its data as arguments."
            )
    prior_key, path_key = jax.random.split(key)
    theta = ssm.sample_prior(prior_key)
    simulated = ssm.simulate(path_key, theta)
    latent = {site.name: simulated[site.name] for site in (*ssm.initial, *ssm.innovations)}
    pieces = [float(v) for v in _log_prob(ssm, theta, latent).values()]

    values = {**theta, **latent}
    known = {site.name for part in ssm.parts for site in part.program.plan.inside}
    horizon = [s.name for part in ssm.parts for s in part.program.plan.outside if s.simulated and s.name not in known]
    run = handlers.block(handlers.seed(source.run, 0), hide=horizon) if horizon else source.run
    original = float(log_density(Constants(run), (), {}, numpyro_names(source.run, values))[0])
    scale = sum(abs(piece) for piece in pieces) + abs(original) + 1.0
    tolerance = 64 * float(jnp.finfo(jnp.result_type(float)).eps) * scale
    outcome = Check(sum(pieces), original, tolerance, jax.device_get(values))
    both_infinite = np.isinf(outcome.parts) and outcome.parts == outcome.original
    if not outcome.passed and not both_infinite:
        raise ModelError(
            f"the traced parts give log-density {outcome.parts:.6g} where NumPyro gives {outcome.original:.6g} "
            f"(tolerance {tolerance:.2g}); the model was not understood. Please report it with the model."
        )
    return outcome


def _log_prob(ssm: Any, theta: dict, latent: dict) -> dict[str, jax.Array]:
    """Log-probability of every site, from the parts."""
    terms: dict[str, jax.Array] = {}
    runs = []
    for number, part in enumerate(ssm.parts):
        initial = {site.name: latent[site.name] for site in part.initial}
        loop = {site.name: latent[site.name] for site in part.innovations}
        path = jax.jit(lambda part=part, initial=initial, loop=loop: from_values(part, theta, initial, loop))()
        outside = part.program.log_outside.bind(part.arrays, part._outside(theta, initial))
        found = outside(UNUSED, UNUSED, UNUSED, UNUSED, path.ys, path.carry)["outside_log_prob"]
        # The prior of the parameters is in every part.
        terms |= {n: v for n, v in found.items() if not number or n not in theta} | path.log_prob
        runs.append(Outputs({}, path.ys, path.carry))
    if len(ssm.parts) > 1:
        terms |= ssm.joined(jax.random.key(0), theta, latent, runs).get("log_prob", {})
    return terms


def numpyro_names(run, values: dict) -> dict:
    """Rename sites of the loop to the names NumPyro gives them, which may hold a traced index."""
    names: list[str] = []

    def at_loop(_, loop):
        result = loop.default()
        names.extend(result[1][0].trace)
        return result

    def trace():
        records: list[Record] = run_model(
            run, lambda name, fn: values.get(name, fn.sample(jax.random.key(0))), at_loop
        )[0]
        return len(records)

    with isolated():
        jax.eval_shape(trace)
    renamed = {clean_name(name): name for name in names}
    return {renamed.get(name, name): value for name, value in values.items()}
