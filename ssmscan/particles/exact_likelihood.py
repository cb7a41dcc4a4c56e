r"""`ExactLikelihood`: the likelihood of a linear Gaussian model, as an estimator that needs no particles.

    PMMH(estimator=ExactLikelihood())                  random-walk Metropolis on the exact likelihood
    MaximumLikelihood(estimator=ExactLikelihood())     maximum likelihood without noise

It is what `ssmscan.integrate_states` gives to gradient engines: one pass of the Kalman filter and smoother in another
form, `ssmscan.model.gaussian`.  Where a model is not linear and Gaussian it is refused; a particle filter that looks
ahead is nearly as good there, and exact in law.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.arguments import refusal
from ssmscan.model.gaussian.predictive import one_step_ahead
from ssmscan.model.gaussian.vectors import in_vectors
from ssmscan.model.protocols import Dynamics, Model, Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.tracing import integrate_states
from ssmscan.particles.estimators import PATH_STREAM, LikelihoodEstimate, OneStepAhead, SampledPath
from ssmscan.particles.filter_step import COMPLETE, FAULTY, VANISHED
from ssmscan.particles.panels import each_filter


@dataclass(frozen=True)
class ExactLikelihood:
    """The exact likelihood of a linear Gaussian model; an `Estimator` without noise.

    Example:
        >>> import jax, ssmscan
        >>> from ssmscan import datasets
        >>> pmmh = ssmscan.PMMH(estimator=ssmscan.ExactLikelihood(), progress=False)
    """

    @property
    def num_particles(self) -> int:
        """Return 0: there are none."""
        return 0

    @property
    def uses_later_data(self) -> bool:
        """Whether single increments mean nothing: there are none."""
        return True

    def with_num_particles(self, num_particles: int) -> ExactLikelihood:
        """Return the same estimator, which has no particles.

        Raises:
            ValueError: it is asked to have some.
        """
        if num_particles:
            raise ValueError(refusal("num_particles", "None, as ExactLikelihood() has no particles", num_particles))
        return self

    def particle_steps(self, ssm: Model) -> int:
        """Return 0: nothing is moved."""
        return 0

    def estimate(self, key: Array, ssm: Model, theta: Theta) -> LikelihoodEstimate:
        """Compute the likelihood; the key is not used.

        Raises:
            ModelError: the model is not linear and Gaussian in its states.
        """
        return _of(_integrated(ssm).log_likelihood_given_noise(theta, {}))

    def one_step_ahead(self, key: Array, ssm: Model, theta: Theta) -> OneStepAhead:
        """Compute the predictive density of each observation given those before it; the key is not used.

        Raises:
            ModelError: the model is not linear and Gaussian in its states.
        """
        _integrated(ssm)
        theta = ssm.canonical(theta)
        found = []
        for loop in ssm.loops:
            each = each_filter(_predicted, loop, theta, None, together=True)
            found.append(each if loop.panel is None else each.sum(0))
        increments = jnp.concatenate(found)
        impossible = jnp.where(jnp.any(increments == -jnp.inf), np.int32(VANISHED), np.int32(COMPLETE))
        status = jnp.where(jnp.any(jnp.isnan(increments)), np.int32(FAULTY), impossible)
        return OneStepAhead(increments, jnp.full_like(increments, jnp.inf), status)

    def sample_path(self, key: Array, ssm: Model, theta: Theta) -> SampledPath:
        """Draw the states given data and parameters, independently of all other draws."""
        own = jax.random.fold_in(key, PATH_STREAM)
        return SampledPath(
            self.estimate(key, ssm, theta).log_likelihood, _integrated(ssm).states_from_noise(theta, {}, own)
        )

    def describe(self, key: Array, ssm: Model, theta: Theta) -> str:
        """Return what was found, in a sentence; on the host."""
        found = self.estimate(key, ssm, theta)
        return {
            COMPLETE: "The likelihood is exact.",
            VANISHED: "The data are impossible at these parameters.",
            FAULTY: "The log likelihood is not a number: the model has no value at these parameters, or a factor in it "
            "outweighs the law of the states.",
        }[int(found.status)]


def _integrated(ssm: Model) -> StateSpaceModel:
    if not isinstance(ssm, StateSpaceModel):
        raise TypeError(refusal("ssm", "what ssmscan.trace returned", ssm))
    return integrate_states(ssm)


def _predicted(_: Array | None, dynamics: Dynamics) -> Array:
    found = one_step_ahead(in_vectors(dynamics))
    return found if dynamics.start_observed else found[1:]


def _of(log_likelihood: Array) -> LikelihoodEstimate:
    status = jnp.where(log_likelihood == -jnp.inf, np.int32(VANISHED), np.int32(COMPLETE))
    return LikelihoodEstimate(log_likelihood, jnp.where(jnp.isnan(log_likelihood), np.int32(FAULTY), status))
