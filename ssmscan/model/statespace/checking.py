r"""Prove a trace right: what the engines evaluate, put together again, against the original.

One particle is moved through the model by base noise, at parameters theta from their prior.  At the values (s, z)
that it takes, NumPyro's own log-probability of every site is an oracle for what the engines call:

    sites        log p of every site                                    the staged densities
    prior        log p(theta)                                           `log_prior`
    transformed  log p(theta) + log |d theta / d z|                     `log_prior_unconstrained`
    law          the same without masks and scales                      `log_law_unconstrained`
    values       log p(s, z, y | theta)                                 `evaluate_start`, `evaluate`, `log_static`
    weights      log p(s, z, y | theta) - log q(s, z)                   `init`, `step`, `log_static`
    elements     the same, element by element of a panel                `elements_at`
    noise        the same, with the corrections of inexact noise maps   `log_likelihood_given_noise`
                 ... or with discrete states given, where they are      the chain of `posterior_states`
                 summed out: log p(s, z, y | theta) - log q(others)

where q is the law that states are drawn from.  The two sides share no code beyond the distributions.  Masks on
states are lifted on both: a state has its law where it is masked, see `messages`.  Values and weights are left out
where observations after the loop join its steps; noise, where a site has no smooth map and is not summed out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssmscan.errors import ModelError
from ssmscan.model.handlers.original import NoDensity, at_values
from ssmscan.model.handlers.stack import exclusive
from ssmscan.model.protocols import Model, Theta
from ssmscan.model.statespace import data
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.dynamics import draw_noise
from ssmscan.model.statespace.forward_runs import DRAWS, Evidence, compare_evidence, most_telling, simulated_arguments
from ssmscan.model.statespace.parameters import unconstrain
from ssmscan.model.statespace.paths import smooth_noise
from ssmscan.model.statespace.simulation import Outputs, joined
from ssmscan.model.statespace.site_check import compiled_quickly, names

Terms = dict[str, jax.Array]
NOT_UNDERSTOOD = "the model was not understood. Please report it with the model."


class Checked(Model, Protocol):
    """A `StateSpaceModel`, which stands above this file: what engines call, and the cores beneath it."""

    @property
    def cores(self) -> tuple[Core, ...]:
        """One for each loop."""

    @property
    def loops(self) -> tuple[Checked, ...]:
        """One model for each loop."""

    @property
    def has_gaps(self) -> bool:
        """Whether elements of observed values are missing."""

    @property
    def observed(self) -> dict[str, np.ndarray]:
        """Observed values by site."""

    def over(self, arrays: list) -> Checked:
        """Return the same program over other arrays."""

    def simulate(self, key: jax.Array, theta: Mapping[str, Any]) -> Terms:
        """Draw initial state, innovations and observations forward in time."""

    def log_law_unconstrained(self, z: Theta) -> tuple[jax.Array, jax.Array]:
        """Compute the log-density of what `sample_prior` draws, and what log p has more."""

    def log_likelihood_given_noise(self, theta: Theta, noise: Terms) -> jax.Array:
        """Compute the log-density of all data given parameters and noise."""


class Written(Protocol):
    """A model as it was written."""

    @property
    def arrays(self) -> list:
        """Its array arguments."""

    def call(self, arrays: list) -> Any:
        """Run it with others."""

    def over_arrays(self, ssm: Any) -> tuple[Any, Written]:
        """Return the traced model, and this, with arrays in the place of tables where the model takes them."""


class Factor(NamedTuple):
    """One factor of the density: what engines evaluate, and the same by NumPyro."""

    parts: float
    original: float


class Check(NamedTuple):
    """Outcome of `StateSpaceModel.check`.

    Attributes:
        parts: log-density assembled from the traced parts.
        original: log-density of the model by NumPyro, masks on states lifted.
        tolerance: largest difference that rounding explains.
        draw: the values of all latent sites at which both were computed.
        factors: the factors of the density that engines read, by name.
        sites: log-density of every site, by name.
        evidence: the comparison with forward runs, where one was asked for.
    """

    parts: float
    original: float
    tolerance: float
    draw: dict[str, np.ndarray]
    factors: dict[str, Factor]
    sites: dict[str, Factor] = {}
    evidence: Evidence | None = None

    def __str__(self) -> str:
        width = max(map(len, self.factors))
        lines = [f"  {name:<{width}}  {f.parts:14.6f}  {f.original:14.6f}" for name, f in self.factors.items()]
        title = f"log-density at one draw, tolerance {self.tolerance:.2g}"
        header = f"  {'factor':<{width}}  {'parts':>14}  {'NumPyro':>14}"
        return "\n".join([title, header, *lines, *([str(self.evidence)] if self.evidence else [])])

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the factors that differ by more than rounding."""
        wrong = {n: abs(f.parts - f.original) for n, f in self.factors.items() if f.parts != f.original}
        return tuple(n for n, difference in wrong.items() if not difference <= self.tolerance)

    @property
    def passed(self) -> bool:
        """Whether all factors agree up to rounding."""
        return not self.failed


@exclusive
def check(key: jax.Array, ssm: Checked, written: Written, simulate: int, theta: Mapping[str, Any] | None) -> Check:
    """Compare every factor at one draw, and the evidence with that of forward runs.

    Args:
        key: PRNG key of the draw.
        ssm, written: the model, missing elements of its data filled; the model as it was written.
        simulate: number of forward runs, 0 for none.
        theta: parameters of the forward runs; None for the most telling of a few draws of the prior.

    Raises:
        ModelError: some differ by more than rounding; the message gives both.
    """
    outcome = compare_factors(key, ssm, written)
    if not outcome.passed:
        name = outcome.failed[0]
        parts, original = outcome.factors[name]
        raise ModelError(
            f"the traced parts give log-density {parts:.6g} where NumPyro gives {original:.6g} "
            f"(factor '{name}', tolerance {outcome.tolerance:.2g}); {NOT_UNDERSTOOD}"
        )
    if not simulate:
        return outcome
    found = compare_forward_runs(jax.random.fold_in(key, 1), ssm, written, simulate, theta)
    if not found.passed:
        raise ModelError(f"{found}; {NOT_UNDERSTOOD}")
    return outcome._replace(evidence=found)


@exclusive
def compare_factors(key: jax.Array, ssm: Checked, written: Written) -> Check:
    """Compare every factor and every site at one draw; arguments and errors as of `check`."""
    arrays, ssm, written = _complete(ssm, written)
    prior_key, path_key = jax.random.split(key)
    theta, z = ssm.sample_start(prior_key), None
    if not any(core.program.not_continuous for core in ssm.cores):
        z = unconstrain(ssm.cores[0], theta)  # a draw of the prior, which rounding may have put on the edge
        theta = ssm.constrain(z)
    factors, moved, smooth = compiled_quickly(_evaluate, path_key, ssm, theta, z)
    pieces = {name: float(piece) for name, piece in factors.pop("sites").items()}
    sites = names(ssm.cores)

    def as_written(values: Terms, z: Theta | None, arrays: list) -> tuple[dict, dict, jax.Array, jax.Array]:
        found = at_values(lambda: written.call(arrays), sites, values)
        return found.factors(z), found.counted, found.total, found.size

    try:
        expected, counted, total, size = compiled_quickly(as_written, {**theta, **moved}, z, arrays)
    except NoDensity as error:
        raise ModelError(
            f"check: NumPyro itself cannot evaluate the density of the model: {error}. The class of a distribution in "
            "a scan needs arg_constraints, which name its arrays, and these need one batch shape. Engines take the "
            "model as it is."
        ) from None
    compared = {"sites": Factor(sum(pieces.values()), float(total))}
    compared |= {name: Factor(float(value), float(expected[name])) for name, value in factors.items()}
    if smooth is not None:
        log_likelihood, values = smooth
        values = {n: v for n, v in values.items() if n in moved}
        there = compiled_quickly(as_written, {**theta, **values}, z, arrays)[0]["noise"]
        compared["noise"] = Factor(float(log_likelihood), float(there))
    scale = sum(map(abs, pieces.values())) + abs(float(total)) + float(size) + 1.0
    tolerance = 64 * float(jnp.finfo(jnp.result_type(float)).eps) * scale
    by_site = {name: Factor(piece, float(counted[name])) for name, piece in pieces.items() if name in counted}
    return Check(*compared["sites"], tolerance, jax.device_get({**theta, **moved}), compared, by_site)


@exclusive
def compare_forward_runs(
    key: jax.Array, ssm: Checked, written: Written, num_runs: int, theta: Mapping[str, Any] | None = None
) -> Evidence:
    """Compare the evidence with that of forward runs, on simulated data; arguments as of `check`."""
    arrays, ssm, written = _complete(ssm, written)
    prior_key, data_key, pilot_key, run_key = jax.random.split(key, 4)
    candidates: list[tuple] = []
    for own in jax.random.split(prior_key, DRAWS):
        at = ssm.sample_prior(own) if theta is None else ssm.canonical(theta)
        new = simulated_arguments(ssm.observed, ssm.simulate(jax.random.fold_in(data_key, len(candidates)), at), arrays)
        candidates.append((at, new, ssm.over(new).cores))
    at, arrays, cores = candidates[most_telling(pilot_key, candidates, num_runs)]
    return compare_evidence(run_key, cores, written.call, arrays, at, num_runs)


def _complete(ssm: Checked, written: Written) -> tuple[list, Checked, Written]:
    """Return the arguments, missing elements filled, and the model over them, traced and as it was written."""
    ssm, written = written.over_arrays(ssm)
    arrays = data.filled(written.arrays) if ssm.has_gaps else written.arrays
    ssm = ssm.over(arrays) if ssm.has_gaps else ssm
    if ssm.has_gaps and any(map(data.with_missing, ssm.cores)):
        raise ModelError(
            "check: NumPyro has no density for a loop that is conditioned on fewer values than it has steps, nor "
            "for missing values that the model reads from outside its arguments. Trace the model without the "
            "horizon, and pass its data as arguments."
        )
    return arrays, ssm, written


# ---- what the engines evaluate ------------------------------------------------------------------


def _evaluate(key: jax.Array, ssm: Checked, theta: dict, z: dict | None) -> tuple[dict, dict, tuple | None]:
    """Compute the factors, by the functions that engines call.

    Returns:
        The factors, "sites" by site; values of the states; and, where noise maps of gradient engines are not those of
        particles, the log-likelihood at noise without its corrections, and values of the states there.
    """
    sites: Terms = {}
    moved: Terms = {}
    runs, views = [], []
    for number, part in enumerate(ssm.loops):
        terms, values, view, run = _move(jax.random.fold_in(key, number), part, theta)
        # The prior of the parameters is in every part.
        sites |= {n: v for n, v in terms.items() if not number or n not in theta}
        moved |= values
        runs.append(run)
        views.append(view)
    sites |= joined(key, ssm.cores, theta, moved, runs)["log_prob"]
    factors: dict[str, Any] = {
        name: sum(view[name] for view in views) for name in views[0] if all(name in view for view in views)
    }
    factors |= {"sites": sites, "prior": ssm.log_prior(theta)}
    if z is not None:
        law, reweighting = ssm.log_law_unconstrained(z)
        factors |= {"transformed": ssm.log_prior_unconstrained(z)[1], "law": law, "reweighted": law + reweighting}
    if "noise" in factors or not all(core.program.marginal.separable for core in ssm.cores):
        return factors, moved, None
    ends = [_by_noise(jax.random.fold_in(key, number), core, theta) for number, core in enumerate(ssm.cores)]
    return factors, moved, (sum(end[0] for end in ends), {n: v for end in ends for n, v in end[1].items()})


def _move(key: jax.Array, part: Checked, theta: dict) -> tuple[Terms, Terms, Terms, Outputs]:
    """Move one particle through a loop: log-density of its sites, values, factors, and outputs of the loop."""
    core, bound = part.cores[0], part.at(theta)
    program = core.program
    start_key, step_key = jax.random.split(key)
    start_noise, step_noise = (
        draw_noise(start_key, bound.initial_noise),
        draw_noise(step_key, bound.step_noise, core.num_steps),
    )
    by_value = program.evaluate.bind(core.arrays, outside=core.outside(theta))
    by_noise = program.particles.step.select("values").bind(core.arrays, theta=theta)
    weighed = not program.post_loop.mixing

    def body(carry, inputs):
        x, e = inputs
        drawn = by_noise(carry=carry, x=x, noise=e)["values"]
        values = {site.name: drawn[site.name] for site in part.innovations}
        out = by_value(carry=carry, x=x, values=values)
        weight = bound.step(carry, x, e).log_weight if weighed else jnp.zeros(())
        seen = bound.evaluate(carry, x, values)
        density = seen.log_transition + seen.log_observation
        return out["carry"], (values, out["y"], out["log_prob"] | out["log_transition"], weight, density)

    start = bound.init(start_noise)
    again = bound.evaluate_start(start.values)
    last, (values, ys, log_prob, weights, densities) = lax.scan(body, again.carry, (bound.xs, step_noise))
    rest = program.value.select(
        outside_log_prob=program.densities.everything.names("outside_log_prob"),
        outside_log_density=program.initial,
        outside_log_prior=program.parameters,
    )
    found = rest(core.arrays, outside=core.outside(theta, start.values), ys=ys, last=last)
    terms = found["outside_log_prob"] | jax.tree.map(jnp.sum, log_prob)
    terms |= found["outside_log_density"] | found["outside_log_prior"]
    factors, static = {}, part.log_static(theta)
    if weighed:
        weight = static + start.log_weight
        factors["values"] = weight + again.log_initial + jnp.sum(densities)
        factors["weights"] = weight + jnp.sum(weights)
    if part.panel is not None:
        factors["elements"] = static + _by_element(part, theta, start_noise, step_noise)
    if program.smooth is program.particles and not program.marginal.integrated:
        factors["noise"] = part.log_likelihood_given_noise(theta, {**start_noise, **step_noise})
    return terms, {**start.values, **values}, factors, Outputs({}, ys, last)


def _by_noise(key: jax.Array, core: Core, theta: dict) -> tuple[jax.Array, Terms]:
    """Compute the log-density of data and states that are integrated out, at noise, and the values of all states.

    Corrections of the maps from noise are left out.
    """
    found = core.program.marginal.posterior(core, theta, draw_noise(key, smooth_noise(core)), key)
    assert found.log_joint is not None
    return found.log_joint, found.states


def _by_element(part: Checked, theta: dict, start_noise: Terms, step_noise: Terms) -> jax.Array:
    """Sum the weights of the elements of a panel, moved one by one by their rows of the noise; a scalar."""
    panel, at = part.panel, part.elements_at(theta)
    assert panel is not None
    axes = dict(panel.noise)

    def weight(number: jax.Array) -> jax.Array:
        element = at(number)

        def rows(noise: Terms, lead: int = 0) -> Terms:
            return {n: lax.dynamic_slice_in_dim(e, number, 1, lead + axes[n]) for n, e in noise.items()}

        def body(carry, inputs):
            moved = element.step(carry, *inputs)
            return moved.carry, moved.log_weight

        start = element.init(rows(start_noise))
        weights = lax.scan(body, start.carry, (element.xs, rows(step_noise, 1)))[1]
        return start.log_weight + jnp.sum(weights)

    return jnp.sum(jax.vmap(weight)(jnp.arange(panel.size, dtype=jnp.int32)))
