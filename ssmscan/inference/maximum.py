r"""Maximum likelihood, or the mode of the posterior, by stochastic gradient ascent on the filter's log likelihood.

With unconstrained parameters z and a fresh key at every step,

.. math::  z_{n+1} = z_n + \text{optimizer}\left(\nabla_z \log \hat Z_n(\theta(z_n))\right), \qquad
           \hat z = \text{average of the last iterates}

(Polyak & Juditsky 1992, *SIAM J. Control Optim.* 30(4), 838-855; Poyiadjis, Doucet & Singh 2011, *Biometrika* 98(1),
for particle filters).  Several starts climb side by side, each from the best of some draws from the prior; the one
with the largest value is the estimate, and the others say whether it is alone.

At N particles the ascent maximises the mean of log Z-hat, which is log p(y | theta) minus half the variance of
log Z-hat: keep that variance below one.  `prior=True` adds log p(theta), the density of the parameters *themselves*,
without the Jacobian of z: the mode is that of p(theta | y), which does not depend on the bijectors used to climb (it
does depend on how the model is parametrised, as every mode does).

For a posterior rather than a point use NUTS or PMMH; standard errors are as in `ssmscan.inference.curvature`.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ssmscan.arguments import refusal, require_flag, require_instance, require_number
from ssmscan.inference import curvature
from ssmscan.inference.ascent import PRIOR_DRAWS, ClimbStep, Optimizer, default_optimizer, start_climbs
from ssmscan.inference.averages import BATCHES, average_error, halves, join_iterates, log_mean_exp, mean_error, sd
from ssmscan.inference.curvature import ProbeStep
from ssmscan.inference.going_on import key_of, origin_of, require_same_model, require_same_settings, words
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.prior_points import shapes_of_point
from ssmscan.inference.progress import Progress, Step, compile_chunk, compile_timed, no_steps, phase, run_chunks
from ssmscan.inference.settings import describe, gradients_required, require_counts, versions
from ssmscan.labels import labels_of
from ssmscan.model.keys import one_key
from ssmscan.model.protocols import PyTree, Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_data, require_drawn
from ssmscan.particles.estimators import Estimator, require_estimator, sized
from ssmscan.particles.filter import ParticleFilter
from ssmscan.results.data import Costs
from ssmscan.results.health import ResultWarning
from ssmscan.results.maximum import APART, Maximum

FIRST_KEYS = 16
"""Keys of the first pass for standard errors, which only chooses displacements."""


@dataclass(frozen=True, kw_only=True)
class MaximumLikelihood:
    """Maximum likelihood by stochastic gradient ascent.

    Attributes:
        num_steps: steps of each start.
        num_starts: starts, side by side.
        optimizer: an `optax.GradientTransformation`; None is Adam with a rate of 0.1 that falls as n^-0.6. A new
            object is compiled anew.
        prior: whether to add the log density of the parameters, for the mode of the posterior.
        average: the last part of the steps that is averaged, a fraction.
        num_replicates: filters at each point from which likelihood and standard errors are computed.
        estimator: of the likelihood: a `ParticleFilter` with its number of particles, `Replicates` of one, or
            `ExactLikelihood()` of a linear Gaussian model, which is evaluated once at each point.
        progress: whether to show a progress bar on a terminal.
    """

    num_steps: int = 1000
    num_starts: int = 4
    optimizer: Optimizer | None = None
    prior: bool = False
    average: float = 0.5
    num_replicates: int = 128
    estimator: Estimator = ParticleFilter(500, summaries=())
    progress: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        require_counts(self, num_steps=2 * BATCHES, num_starts=1, num_replicates=2)
        require_number("average", self.average, 0.0, 1.0)
        require_estimator("estimator", self.estimator)
        require_flag("prior", self.prior)
        require_flag("progress", self.progress)
        if self.optimizer is not None and not (hasattr(self.optimizer, "init") and hasattr(self.optimizer, "update")):
            raise TypeError(refusal("optimizer", "an optax.GradientTransformation or None", self.optimizer))

    def run(self, key: jax.Array, ssm: StateSpaceModel, *, start: Maximum | None = None) -> Maximum:
        """Climb from every start, and look around at the highest.

        Args:
            key: one PRNG key, typed or raw; of no effect on a run that goes on.
            ssm: a model from `ssmscan.trace`.
            start: a maximum for this model, to whose ascent `num_steps` steps are added: it is then that of one longer
                run, bit by bit.

        Returns:
            A `Maximum`; stopped by Control-C it holds the averages by then, and by a second one no standard errors.

        Raises:
            ModelError: if a parameter is discrete, or JAX has no gradient.
            ValueError: if there are no parameters, no draw from the prior has positive likelihood, or `start` is of
                something else.
            ImportError: if the default optimizer is wanted and optax is not installed.
            KeyboardInterrupt: if stopped before the first step.
        """
        require_data(ssm)
        require_drawn(ssm)
        if not ssm.parameters:
            raise ValueError("the model has no parameters to estimate; ParticleFilter computes its likelihood")
        with hold_interrupts():
            found = _Run(self, one_key(key), ssm, _require_continues(start, self, ssm)).result()
            if not found.converged:
                warnings.warn(f"MaximumLikelihood. {found.message()}", ResultWarning, stacklevel=2)
            return found


class _Run:
    """A run under way, and what it has cost."""

    def __init__(self, settings: MaximumLikelihood, key: jax.Array, ssm: StateSpaceModel, start: Maximum | None):
        self.settings, self.ssm, self.start = settings, ssm, start
        self.key = key if start is None else key_of(start.origin["key"], key)
        self.estimator, self.exact = settings.estimator, not settings.estimator.num_particles
        self.num_replicates = 1 if self.exact else settings.num_replicates
        before = Costs(0.0, 0.0, 0.0) if start is None else start.costs
        self.compile_seconds, self.seconds = before.compile_seconds, before.run_seconds
        self.gradients, self.particle_steps = before.gradient_evaluations, before.particle_steps
        self.interrupted = False
        self.key_start, self.key_rank, self.key_score = jax.random.split(self.key, 3)

    def result(self) -> Maximum:
        climbed = self.climb()
        path = join_iterates(climbed.outputs.z)
        kept = path[:, path.shape[1] - max(int(path.shape[1] * self.settings.average), 1) :]
        ends = kept.mean(axis=1)
        ranked = self.probe(self.key_rank, ends, self.num_replicates, gradient=False)
        height = log_mean_exp(np.asarray(ranked.objective))
        # Without a filter at the ends, for that was interrupted, those of the ascent say which is the best.
        known = height if len(ranked.objective) else np.mean(climbed.outputs.log_likelihood[-len(kept[0]) :], axis=0)
        best = int(np.argmax(np.where(np.isfinite(known), known, -np.inf)))
        spread, noise = self.errors(ends[best])
        errors = np.sqrt(np.diag(spread))
        theta, jacobian = self.to_theta(ends[best])
        log_likelihoods = np.asarray(ranked.log_likelihood, np.float64)[:, best]
        weights = np.exp(log_likelihoods - log_likelihoods.max(initial=-np.inf))
        distance = np.abs(ends - ends[best]) / errors
        return Maximum(
            theta=self.named(theta),
            standard_errors=self.named(np.sqrt(np.diag(jacobian @ spread @ jacobian.T))),
            covariance=spread,
            standard_error_noise=noise,
            log_likelihood=float(log_mean_exp(log_likelihoods)),
            log_likelihood_error=0.0 if self.exact else mean_error(weights),
            log_likelihood_sd=0.0 if self.exact else sd(log_likelihoods),
            objective="posterior density" if self.settings.prior else "likelihood",
            starts=self.constrained(ends),
            start_objective=height,
            best=best,
            agreeing=1 + int(np.sum(np.delete(np.max(distance, axis=1), best) <= APART)),
            drift=float(np.max(np.abs(halves(kept[best])) / errors)),
            noise=float(np.max(average_error(kept[best]) / errors)),
            failed_steps=float(1 - np.mean(climbed.outputs.usable)),
            faulty=float(np.mean(ranked.faulty[:, best])) if len(ranked.faulty) else 0.0,
            path=self.constrained(path),
            path_log_likelihood=climbed.outputs.log_likelihood.T,
            interrupted=self.interrupted,
            costs=Costs(
                compile_seconds=self.compile_seconds,
                warmup_seconds=0.0,
                run_seconds=self.seconds,
                particle_steps=self.particle_steps,
                gradient_evaluations=self.gradients,
            ),
            settings={**describe(self.settings), "num_steps": path.shape[1]},
            versions=versions("optax"),
            ascent=climbed,
            origin={"key": words(self.key), "model": origin_of(self.ssm)},
            labels=labels_of(self.ssm),
        )

    def climb(self) -> Progress:
        """Start, or go on, and take the steps."""
        settings = self.settings
        step = ClimbStep(self.estimator, settings.optimizer or default_optimizer(), settings.prior)
        keys = jax.random.split(self.key_start, settings.num_starts)
        if self.start is not None:
            before = self.start.ascent
            done = self.advance(step, self.ssm, before.state, settings.num_steps, settings.num_starts, "ascent")
            outputs = jax.tree.map(lambda a, b: np.concatenate([a, b]), before.outputs, done.outputs)
            return done._replace(outputs=outputs, done=before.done + done.done)
        with phase("starts: compiling", progress=settings.progress), interruptible():
            start, compile_seconds = compile_timed(start_climbs, keys, self.ssm, step=step)
            self.compile_seconds += compile_seconds
            climbs, usable = jax.block_until_ready(start(keys, self.ssm))
        self.particle_steps += settings.num_starts * PRIOR_DRAWS * self.estimator.particle_steps(self.ssm)
        if not np.all(usable):
            raise ValueError(
                f"{int(np.sum(~usable))} of {settings.num_starts} starts found no draw from the prior, out of "
                f"{PRIOR_DRAWS}, with a positive likelihood from {sized(self.estimator)}: check the data against the "
                f"support of their distribution,{'' if self.exact else ' use more particles,'} or a prior that says "
                "more"
            )
        return self.advance(step, self.ssm, climbs, settings.num_steps, settings.num_starts, "ascent")

    def probe(self, key: jax.Array, points: np.ndarray, num_keys: int, *, gradient: bool) -> curvature.Probed:
        """Run the same keys at every point."""
        step = ProbeStep(self.estimator, self.settings.prior, gradient)
        operand = (self.ssm, self.unravelled(points))
        label = "standard errors" if gradient else "likelihood"
        return self.advance(step, operand, key, num_keys, len(points), label).outputs

    def errors(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        """Covariance (d, d) at a point and the noise of its roots; NaN if stopped before the first score."""
        last = np.full(len(z), curvature.FIRST_STEP)
        found = np.full((len(z), len(z)), np.nan), np.nan
        for num_keys in (min(FIRST_KEYS, self.num_replicates), self.num_replicates):
            points = curvature.displaced(z, last)
            scores = np.asarray(self.probe(self.key_score, points, num_keys, gradient=True).gradient, np.float64)
            if not len(scores):
                break
            noise = 0.0 if self.exact else curvature.relative_noise(scores, last)
            found = curvature.covariance(curvature.information(scores, last)), noise
            last = curvature.next_steps(scores, last)
        return found

    def advance(self, step: Step, operand: PyTree, state: PyTree, num_steps: int, width: int, label: str) -> Progress:
        """Compile and take steps; an ascent without one has nothing to keep, and other stages are done without."""
        needed = isinstance(step, ClimbStep)
        try:
            compiling = phase(f"{label}: compiling", progress=self.settings.progress)
            with gradients_required("MaximumLikelihood"), compiling, interruptible():
                chunk = compile_chunk(step, operand, state, replicates=needed)
        except KeyboardInterrupt:
            if needed:
                raise
            self.interrupted = True
            return no_steps(step, operand, state)
        run = run_chunks(chunk, operand, state, num_steps, label=label, progress=self.settings.progress)
        self.compile_seconds += chunk.compile_seconds
        self.seconds += run.seconds
        self.particle_steps += run.done * width * self.estimator.particle_steps(self.ssm)
        self.gradients += 0 if isinstance(step, ProbeStep) and not step.gradient else run.done * width
        self.interrupted |= run.interrupted
        if needed and not run.done:
            raise KeyboardInterrupt
        return run

    # ---- points as arrays and as trees -----------------------------------------------------------------

    @functools.cached_property
    def example(self) -> Theta:
        """Shapes of the unconstrained parameters."""
        return shapes_of_point(self.ssm)

    def unravelled(self, points: np.ndarray) -> Theta:
        """Trees of unconstrained parameters from (..., d)."""
        leaves, tree = jax.tree.flatten(self.example)
        parts = np.split(points, np.cumsum([leaf.size for leaf in leaves])[:-1], axis=-1)
        lead = points.shape[:-1]
        shaped = [jnp.asarray(p.reshape((*lead, *leaf.shape)), leaf.dtype) for p, leaf in zip(parts, leaves)]
        return jax.tree.unflatten(tree, shaped)

    def constrained(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters by name from (..., d)."""
        flat = self.unravelled(points.reshape(-1, points.shape[-1]))
        theta = jax.jit(jax.vmap(self.ssm.constrain))(flat)
        return {name: np.asarray(leaf).reshape((*points.shape[:-1], *leaf.shape[1:])) for name, leaf in theta.items()}

    def to_theta(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Parameters (m,) at a point, and their Jacobian (m, d)."""
        flat, unravel = ravel_pytree(self.unravelled(point))
        value = jax.jit(lambda z: ravel_pytree(self.ssm.constrain(unravel(z)))[0])
        return np.asarray(value(flat), np.float64), np.asarray(jax.jacrev(value)(flat), np.float64)

    def named(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Split (m,) into the parameters by name."""
        shapes = jax.eval_shape(self.ssm.constrain, self.example)
        _, unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
        return {name: np.asarray(leaf) for name, leaf in unravel(jnp.asarray(flat, jnp.result_type(float))).items()}


def _require_continues(start: Maximum | None, engine: MaximumLikelihood, ssm: StateSpaceModel) -> Maximum | None:
    """Return the maximum to go on from; raise a sentence where it is of other settings, another model or other data."""
    if start is not None:
        require_instance("start", start, Maximum, "a Maximum of this model and data, or None")
        require_same_settings(start.settings, engine, argument="start")
        require_same_model(start.origin["model"], ssm, start.versions, argument="start")
    return start
