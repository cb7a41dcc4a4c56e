r"""`evidence`: the evidence p(y) from the draws of any engine, by importance sampling of the parameters.

    nuts = NUTS().run(key, ssm)
    found = evidence(other_key, ssm, nuts)
    found.log_evidence, found.error

A chain gives draws from the posterior and not its constant.  With a proposal q fitted to the draws
(`ssmscan.inference.importance_proposal`: a mixture of t laws in unconstrained space, and a share of the prior as a
defence), fresh points :math:`z_i \sim q` and an unbiased estimate :math:`\hat Z_i` of the likelihood at each,

.. math::  w_i = \frac{p(\theta_i) |d\theta/dz| \, \hat Z_i}{q(z_i)}, \qquad \hat p(y) = \frac1n \sum_i w_i

is unbiased *whatever the draws are*: of a chain that has not converged q is bad, the weights vary, and the error, the
index of their tail and `concerns` say so (Tran, Scharth, Pitt & Kohn 2014, arXiv:1309.3339; for the mixture Ardia,
Basturk, Hoogerheide & van Dijk 2012, *Comput. Stat. Data Anal.* 56(11)).  A harmonic mean of the likelihoods of the
draws, which needs no further point, has infinite variance.

`TemperedSMC`, `ImportanceSampler` and `SMC2` have an evidence of their own.  Prefer `TemperedSMC` for more than about
ten parameters: a few points then carry all weight.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ssmscan.arguments import require_flag, require_instance, require_integer, require_number
from ssmscan.errors import ModelError
from ssmscan.health import Condition, Health, Reason, Section
from ssmscan.inference.at_draws import require_draws_of
from ssmscan.inference.common_doubts import stopped
from ssmscan.inference.default_estimator import begin_with, why
from ssmscan.inference.importance_adapt import Adaptation, Aim
from ssmscan.inference.importance_doubts import faults
from ssmscan.inference.importance_points import first_numbers, lawless, make_points
from ssmscan.inference.importance_proposal import fit, nearest
from ssmscan.inference.importance_weights import combine, effective
from ssmscan.inference.interrupts import hold_interrupts
from ssmscan.inference.settings import spread
from ssmscan.model.protocols import Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import Estimator, require_estimator, sized
from ssmscan.particles.printing import Card
from ssmscan.results.data import Costs
from ssmscan.results.health import ResultWarning
from ssmscan.results.result import Result
from ssmscan.results.verdicts import find_fault_of_weights
from ssmscan.tail_index import tail_index

MOST_FITTED, LEAST_FITTED = 1000, 20
"""Draws that the proposal is fitted to: at most, and at least for each parameter and one more."""

FEW_EFFECTIVE = 100
"""Fewer effective points than these say little."""

_WAYS = "Give more num_points, or a longer run for the proposal; TemperedSMC has an evidence of its own."


@dataclass(frozen=True, eq=False, repr=False)
class EvidenceEstimate:
    """An estimate of the evidence.

    Attributes:
        log_evidence: log p(y), parameters and states integrated out.
        error: its standard error, from the weights.
        log_weights: (points,) of the points.
        estimator: what estimated the likelihood, in words.
        doubts: what speaks against it beside the weights, and what to do.
        costs: what it took.
    """

    log_evidence: float
    error: float
    log_weights: np.ndarray
    estimator: str
    doubts: tuple[Reason, ...]
    costs: Costs

    @property
    def effective_points(self) -> float:
        """Number of points of equal weight that are worth as much."""
        return effective(self.log_weights)

    @property
    def tail_index(self) -> float:
        """k-hat, the tail index of the weights: the error is not to be relied on above 0.7."""
        return tail_index(self.log_weights)

    def health(self) -> Health:
        """Return whether the estimate can be used, why not and what to do."""
        found, size = list(self.doubts), self.effective_points
        number = len(self.log_weights)
        if not size:
            sentence = "No point has any weight: the draws are not of this model, or the proposal missed them."
            found.append(Reason(sentence, "Check the model and its data.", Section.POINTS, Condition.UNUSABLE))
        elif fault := find_fault_of_weights(self.log_weights, {}):
            sentence = f"The proposal does not cover the posterior ({fault.reason}): do not rely on the error."
            found.append(Reason(sentence, _WAYS, Section.POINTS, Condition.UNUSABLE))
        elif size < FEW_EFFECTIVE:
            found.append(Reason(f"Only {size:.0f} of {number:,} points are effective.", _WAYS, Section.POINTS))
        index = [("tail index of the weights", f"{self.tail_index:.2f}")] if number else []
        return Health.of(found, [("effective points", f"{size:,.0f} of {number:,}"), *index])

    def concerns(self) -> tuple[str, ...]:
        """Return the sentences of `health`; nothing if all is well."""
        return self.health().sentences

    def __repr__(self) -> str:
        size = f"{len(self.log_weights):,} points, {self.effective_points:,.0f} effective, with {self.estimator}"
        rows = [
            ("health", self.health().line),
            ("log evidence", f"{self.log_evidence:.4f} +- {self.error:.4f}"),
            ("from", size),
        ]
        return Card("Evidence by importance sampling", rows, self.concerns()).text()


def evidence(
    key: jax.Array,
    ssm: StateSpaceModel,
    result: Result,
    *,
    num_points: int = 2000,
    estimator: Estimator | None = None,
    num_particles: int | None = None,
    target_sd: float = 1.0,
    max_particles: int = 2**14,
    progress: bool = True,
) -> EvidenceEstimate:
    """Estimate the evidence from the draws of an engine.

    Args:
        key: one PRNG key, typed or raw.
        ssm: the model of the result.
        result: what NUTS, PMMH, or any other engine returned; only its draws are used.
        num_points: fresh points to weigh.
        estimator: of the likelihood, as in `ssmscan.PMMH`; None chooses one, with so many particles that the standard
            deviation of log estimates at a central draw is near target_sd.
        num_particles: of the estimator; None takes those of the one that is given, or finds them.
        target_sd: what to aim at.
        max_particles: no more than these are chosen.
        progress: whether to show a progress bar on a terminal.

    Warns:
        ResultWarning: of whatever `EvidenceEstimate.concerns` returns.

    Raises:
        ModelError: the model has no parameters, or a prior that is no law, so that there is nothing to integrate.
        ValueError: the result has no draws, or of other parameters than the model.
    """
    require_observed(ssm)
    require_drawn(ssm)
    _require_law(ssm)
    key, num_points = as_key(key), require_integer("num_points", num_points, at_least=2)
    require_instance("result", result, Result, "a Result, as engines return it")
    target_sd = require_number("target_sd", target_sd, 0.0, 5.0)
    max_particles = require_integer("max_particles", max_particles, at_least=16)
    if num_particles is not None:
        num_particles = require_integer("num_particles", num_particles, at_least=2)
    if estimator is not None:
        require_estimator("estimator", estimator)
    progress = require_flag("progress", progress)
    z = _fitted_draws(ssm, result)

    began = time.perf_counter()
    with hold_interrupts():
        given = estimator
        if given is None:
            estimator = begin_with(ssm, None, num_particles=num_particles, most=max_particles)
        elif num_particles is not None:
            estimator = given.with_num_particles(num_particles)
        assert estimator is not None
        proposal = fit(z, np.zeros(len(z)), prior=True)
        free = given is None and num_particles is None
        aim = Aim(target_sd, free, given is None and not why(given, estimator), max_particles)
        run = Adaptation(key, ssm, estimator, aim, np.inf, progress=progress)
        run.compile()
        if given is None:
            _size(run, z[nearest(z, proposal)])
        spent = time.perf_counter() - began - run.compile_seconds
        assert run.chunk is not None
        made = make_points(
            run.chunk,
            run.operand(proposal),
            first_numbers(0, run.lanes),
            num_points,
            label="evidence",
            progress=progress,
        )
    log_weights = made.points.log_weights(proposal)
    log_evidence, error = combine(log_weights) if len(log_weights) else (np.nan, np.nan)
    steps = run.particle_steps + len(log_weights) * run.estimator.particle_steps(ssm)
    found = EvidenceEstimate(
        log_evidence=log_evidence,
        error=error,
        log_weights=log_weights,
        estimator=sized(run.estimator),
        doubts=(*(stopped("points"),) * made.interrupted, *faults(made.points, log_weights, ssm, run.estimator)),
        costs=Costs(run.compile_seconds, spent, made.seconds, steps),
    )
    if concerns := found.concerns():
        warnings.warn(f"Evidence. {' '.join(concerns)}", ResultWarning, stacklevel=2)
    return found


def _require_law(ssm: StateSpaceModel) -> None:
    """Raise where there is no law of parameters to average the likelihood over."""
    if not ssm.parameters:
        raise ModelError(
            "the model has no parameters, so that its evidence is its likelihood: ssmscan.log_likelihood estimates it."
        )
    if names := lawless(ssm):
        listed = ", ".join(repr(name) for name in names)
        raise ModelError(
            f"the prior of {listed} is masked, scaled or without a sampler, so that it is no law and there is no "
            "evidence: give the parameters a proper prior."
        )


@jax.jit
def _unconstrained(ssm: StateSpaceModel, theta: Theta) -> jax.Array:
    return jax.vmap(lambda one: ravel_pytree(ssm.unconstrain(one))[0])(theta)


def _fitted_draws(ssm: StateSpaceModel, result: Result) -> np.ndarray:
    """Return the draws that a proposal is fitted to, unconstrained and flat (n, d), about as many as are effective."""
    require_draws_of(ssm, result)
    total = result.num_chains * result.num_draws
    theta = {name: jnp.asarray(values.reshape(total, *values.shape[2:])) for name, values in result.draws.items()}
    z = np.asarray(_unconstrained(ssm, theta), np.float64)
    z = z[np.isfinite(z).all(1)]
    if not len(z):
        raise ValueError("result: no draw of its parameters is inside their support; give the model of the result.")
    sizes = [summary.ess_bulk for summary in result.summaries.values()]
    independent = min((size for size in sizes if np.isfinite(size)), default=MOST_FITTED)
    wanted = int(np.clip(independent, LEAST_FITTED * (z.shape[1] + 1), MOST_FITTED))
    return z[spread(len(z), wanted)]


def _size(run: Adaptation, centre: np.ndarray) -> None:
    """Choose the proposal of the filter and the number of particles at a central draw."""
    run.measure(centre)
    if run.aim.proposal:
        run.choose(centre)
    if run.aim.size and run.estimator.num_particles:
        run.search(centre)
