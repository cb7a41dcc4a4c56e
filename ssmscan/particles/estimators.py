r"""Estimators of the likelihood: what a sampler of the parameters needs of particles.

An estimate :math:`\hat Z(\theta, u) \ge 0`, u the random numbers of its key, is unbiased: :math:`E_u \hat Z = p(y |
\theta)`.  `ParticleFilter` is an `Estimator`, with any proposal and for panels and several loops, and `DiscreteFilter`,
for states of finitely many values; so is `Replicates`,

.. math:: \hat Z = \frac1R \sum_r \hat Z_r,

the mean of R independent ones.  Samplers never ask which they have.  What is needed to draw a state path later is the
key alone: the same key, model and parameters make the same run again.

**The path of a mean.**  A path comes from replicate k, drawn with probability :math:`\hat Z_k / \sum_r \hat Z_r`.  On
the space of :math:`(\theta, u_{1:R}, k)` and a path x drawn from run k, pseudo-marginal Metropolis-Hastings has the
stationary law

.. math:: p(\theta) \prod_r \psi(u_r) \; \hat Z(\theta, u_{1:R}) \; \frac{\hat Z_k}{R \hat Z(\theta, u_{1:R})}
          \; \pi_k(x | u_k) \; = \; \frac1R \; p(\theta) \psi(u_k) \hat Z_k \, \pi_k(x | u_k) \prod_{r \ne k} \psi(u_r),

up to a constant.  The others integrate to one, and what is left is the extended target of one run, of which
:math:`(\theta, x)` has the law :math:`p(\theta, x | y)` (Andrieu, Doucet & Holenstein 2010, *JRSS B* 72(3), theorem 4):
the path is an exact draw.  That of the first replicate always is not.

A mean of R estimates has 1/R of the variance of one, as one filter of R times as many particles has, nearly: prefer
that one where replicates run one after the other, replicates where they run side by side (Sherlock, Thiery & Lee 2017,
*Biometrika* 104(3), 727-734).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.arguments import refusal, require_integer
from ssmscan.model.protocols import Model, Theta, Values
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter_step import FAULTY
from ssmscan.particles.loop import each

PATH_STREAM = 2**32 - 1
"""What is folded into the key of a run to draw its path; the run itself uses the small numbers."""


class LikelihoodEstimate(NamedTuple):
    """An unbiased estimate of the likelihood.

    Attributes:
        log_likelihood: () its logarithm.
        status: () int32, how the run ended, see `ssmscan.FilterResult`; FAULTY wherever a log weight was not a number,
            also where no weight is left.
    """

    log_likelihood: Array
    status: Array


class OneStepAhead(NamedTuple):
    """How well each observation was predicted from those before it, by one run.

    Attributes:
        increments: (S,) log p(y_t | y_1:t-1, theta), or an estimate: T numbers of each loop, one loop after the other,
            those of a start that is observed before its steps.
        ess: (S,) effective particles after each, the least of the elements of a panel; inf where nothing is drawn.
        status: () int32, how the run ended, as in `LikelihoodEstimate`.
    """

    increments: Array
    ess: Array
    status: Array


class SampledPath(NamedTuple):
    """A state path of a run that was made again.

    Attributes:
        log_likelihood: () the estimate of the run.
        states: site of the loop -> (T, ...), initial site -> value.
    """

    log_likelihood: Array
    states: Values


class Spread(NamedTuple):
    """What independent estimates of one likelihood say of their own error.

    Attributes:
        log_likelihood: () logarithm of their mean.
        error: () standard error of that, from their spread.
        sd: () standard deviation of the logarithm of one of them, inf where one is zero.
    """

    log_likelihood: Array
    error: Array
    sd: Array


class Estimator(Hashable, Protocol):
    """An unbiased estimator of p(y | theta): settings that can be hashed, and pure functions of one typed key."""

    @property
    def num_particles(self) -> int:
        """N, of each replicate where there are several; what a pilot changes; 0 of one that is exact."""

    @property
    def uses_later_data(self) -> bool:
        """Whether particles at a step know data of later steps, so that single increments mean nothing."""

    def with_num_particles(self, num_particles: int) -> Self:
        """Return the same estimator with another number of particles."""

    def particle_steps(self, ssm: Model) -> int:
        """Count the particles that one estimate moves by one step each."""

    def estimate(self, key: Array, ssm: Model, theta: Theta) -> LikelihoodEstimate:
        """Estimate the likelihood."""

    def sample_path(self, key: Array, ssm: Model, theta: Theta) -> SampledPath:
        """Make the run of `estimate` with this key again, and draw a state path of it; a function of the key too."""

    def describe(self, key: Array, ssm: Model, theta: Theta) -> str:
        """Return how the run of `estimate` with this key ended, in a sentence; on the host."""


def require_estimator(argument: str, estimator: Any) -> Any:
    """Return an estimator.

    Raises:
        TypeError: it is something else, such as the number of particles.
    """
    methods = ("with_num_particles", "particle_steps", "estimate", "sample_path", "describe")
    if isinstance(estimator, type) or not all(hasattr(estimator, name) for name in methods):
        expected = "an estimator of the likelihood such as ParticleFilter(1000)"
        raise TypeError(refusal(argument, expected, estimator))
    return estimator


def sized(estimator: Estimator) -> str:
    """Return how large an estimator is, for messages."""
    return f"{estimator.num_particles} particles" if estimator.num_particles else "the exact likelihood"


@dataclass(frozen=True)
class Replicates:
    """The mean of independent estimates of one likelihood.

    Attributes:
        estimator: what makes each of them.
        num_replicates: how many, R.

    Raises:
        TypeError: for an estimator that is none.
        ValueError: for fewer than one replicate.
    """

    estimator: Estimator
    num_replicates: int

    def __post_init__(self) -> None:
        require_estimator("estimator", self.estimator)
        require_integer("num_replicates", self.num_replicates, at_least=1)

    @property
    def num_particles(self) -> int:
        """N of each replicate."""
        return self.estimator.num_particles

    @property
    def uses_later_data(self) -> bool:
        """Whether the replicates do."""
        return self.estimator.uses_later_data

    def with_num_particles(self, num_particles: int) -> Replicates:
        """Return as many replicates of another number of particles."""
        return replace(self, estimator=self.estimator.with_num_particles(num_particles))

    def particle_steps(self, ssm: Model) -> int:
        """Count the particle steps of all replicates."""
        return self.num_replicates * self.estimator.particle_steps(ssm)

    def _estimates(self, key: Array, ssm: Model, theta: Theta) -> tuple[Array, LikelihoodEstimate]:
        keys = jax.random.split(key, self.num_replicates)
        return keys, each(lambda own: self.estimator.estimate(own, ssm, theta), keys)

    def estimate(self, key: Array, ssm: Model, theta: Theta) -> LikelihoodEstimate:
        """Estimate the likelihood by the mean; -inf where every replicate is."""
        return self._mean(self._estimates(key, ssm, theta)[1])

    def _mean(self, found: LikelihoodEstimate) -> LikelihoodEstimate:
        total = jax.nn.logsumexp(found.log_likelihood)
        status = jnp.where(jnp.any(found.status == FAULTY), np.int32(FAULTY), found.status.min())
        return LikelihoodEstimate(total - np.log(self.num_replicates).astype(total.dtype), status)

    def spread(self, key: Array, ssm: Model, theta: Theta) -> Spread:
        """Estimate the likelihood by the mean, and how far the estimates spread; two replicates at the least.

        Args:
            key: one PRNG key.
            ssm: the model.
            theta: value of every parameter by name.

        Raises:
            ValueError: for one replicate.
        """
        if self.num_replicates < 2:
            raise ValueError("num_replicates is 1, and a spread is between two or more: Replicates(estimator, 32).")
        logs = self._estimates(as_key(key), ssm, ssm.canonical(theta))[1].log_likelihood
        mean = jax.nn.logsumexp(logs) - np.log(self.num_replicates).astype(logs.dtype)
        relative = jnp.exp(logs - mean)
        sd = jnp.where(jnp.all(jnp.isfinite(logs)), jnp.std(logs, ddof=1), jnp.inf)
        return Spread(mean, jnp.std(relative, ddof=1) / np.sqrt(self.num_replicates).astype(logs.dtype), sd)

    def sample_path(self, key: Array, ssm: Model, theta: Theta) -> SampledPath:
        """Draw a path of one replicate, which is chosen with probability proportional to its estimate."""
        keys, found = self._estimates(key, ssm, theta)
        chosen = jax.random.categorical(jax.random.fold_in(key, PATH_STREAM), found.log_likelihood)
        path = self.estimator.sample_path(keys[chosen], ssm, theta)
        return SampledPath(self._mean(found).log_likelihood, path.states)

    def describe(self, key: Array, ssm: Model, theta: Theta) -> str:
        """Return how the replicate with the status of the mean ended, in a sentence."""
        keys, found = self._estimates(key, ssm, theta)
        worst = int(jnp.argmax(found.status == self._mean(found).status))
        return f"Replicate {worst}: {self.estimator.describe(keys[worst], ssm, theta)}"
