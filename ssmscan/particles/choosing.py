r"""Which proposal, at given parameters: the bootstrap filter or the one that looks ahead; measured on the host.

    proposal, reason = choose_proposal(key, ssm, theta)

Both make independent estimates of the likelihood with the same number of particles, and are timed.  `LookAhead` is
taken where it is worth more, *and* where nothing speaks against what it finds.

**Worth.**  A pseudo-marginal random walk with proposals of length l, on an estimate whose logarithm has standard
deviation :math:`\sigma`, has per second the efficiency

.. math::  \max_l \; l^2 \, 2 \Phi\!\left( -\tfrac12 \sqrt{l^2 + 2 \sigma^2} \right) / t

(Sherlock, Thiery, Roberts & Rosenthal 2015, *Ann. Statist.* 43(1)), at the best number of particles N: :math:`\sigma^2`
falls and the time t grows in proportion to N, but for the time that the Gaussian approximation takes at each theta; or
at the number that is given.

**Trust.**  The approximation sits on one mode.  Where the states given all data have several, its estimates are
unbiased only by runs that are never seen, and what is seen is steady and too low.  It is not taken if

- its estimates are *lower* than those of the bootstrap filter by `SIGNIFICANT` standard errors.  Both are unbiased, and
  by Jensen's inequality the mean of the logarithms of the other is below the truth: a gap upwards cannot be the other's
  fault.  With R = 64 this sees a gap of :math:`\sigma_b / 2 + \sigma_b^2 / 2`, the latter where the bootstrap's
  standard deviation :math:`\sigma_b` is above one;
- more than `HEAVY_SHARE` of its runs have heavy-tailed weights, see `ssmscan.particles.concerns`.  Good approximations
  were told in 0 to 2 % of runs, with Student-t observations of three degrees of freedom in up to 20 %, bimodal models
  in 60 to 100 %; of 64 runs, 26 are then reached with probabilities of 1e-4 and 0.999;
- searches for the mode from random paths find another one that is not negligible, see
  `ssmscan.particles.mode_search`.  This needs no estimate of the bootstrap filter, which may be useless.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtr

from ssmscan.arguments import require_integer
from ssmscan.errors import ModelError
from ssmscan.model.protocols import Model, Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.particles.concerns import heavy_tail
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.look_ahead import LookAhead
from ssmscan.particles.loop import each
from ssmscan.particles.mode_search import STARTS, count_modes, search_modes
from ssmscan.particles.proposals import Bootstrap

TRIED = 64
"""Number of particles with which both are tried: fewer have no tail to look at."""
REPLICATES, BATCH = 64, 16
ENOUGH_SECONDS = 4.0
"""After this time for one proposal, no more batches of replicates."""
SIGNIFICANT = 4.0
HEAVY_SHARE = 0.4
WORTH = 1.5
"""Factor by which looking ahead must be worth more: times are measured, and ties would be decided by the machine."""
LEAST, MOST = 16, 2**14
"""Numbers of particles among which the best is looked for."""


def choose_proposal(
    key: Array, ssm: StateSpaceModel, theta: Mapping[str, Any], *, num_particles: int | None = None
) -> tuple[Bootstrap | LookAhead, str]:
    """Choose between `Bootstrap()` and `LookAhead()` by estimates of the likelihood at given parameters.

    Takes some seconds, most of them compilation.  Choose before a run, at typical parameters, and keep the choice.

    Args:
        key: one PRNG key, typed or raw; draw nothing else with it.
        ssm: what `ssmscan.trace` returned.
        theta: value of every parameter by name.
        num_particles: number of particles that will be used; None where the best may be, whatever it is.

    Returns:
        The proposal, and why, in sentences with the numbers.

    Raises:
        ValueError: under jit, vmap or grad, or if theta is not as `ParticleFilter.run` wants it.
        TypeError: if key is not one PRNG key, or ssm was not traced.
        ModelError: for a model that a filter cannot run.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ssmscan
        >>> from jax import random
        >>> from numpyro.contrib.control_flow import scan
        >>> def random_walk(y):
        ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        ...     def step(x, y):
        ...         x = numpyro.sample("x", dist.Normal(x, scale))
        ...         numpyro.sample("y", dist.Normal(x, 0.01), obs=y)
        ...         return x, None
        ...     scan(step, 0.0, y)
        >>> ssm = ssmscan.trace(random_walk, jnp.array([0.3, 0.9, 1.4]))
        >>> proposal, reason = ssmscan.choose_proposal(random.key(0), ssm, {"scale": 0.5})
        >>> print(type(proposal).__name__)
        LookAhead
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in (jnp.zeros(()), *jax.tree.leaves((key, ssm, theta)))):
        raise ValueError(
            "choose_proposal runs filters and looks at the clock, which a traced function cannot: call it outside jit, "
            "vmap and grad, and use the proposal that it returns inside."
        )
    require_observed(ssm)
    require_drawn(ssm)
    size = None if num_particles is None else require_integer("num_particles", num_particles, at_least=2)
    keys = jax.random.split(as_key(key), 3)
    theta = ssm.canonical(theta)
    plain, ahead = (ParticleFilter(TRIED, proposal=proposal, summaries=()) for proposal in (Bootstrap(), LookAhead()))
    every = [jax.random.split(one, (REPLICATES // BATCH, BATCH)) for one in keys[:2]]
    try:
        lowered = [
            _runs.lower(every[0][0], ssm, theta, settings=plain),
            _runs.lower(every[1][0], ssm, theta, settings=ahead),
            search_modes.lower(keys[2], ssm, theta),
        ]
    except ModelError as error:
        return Bootstrap(), f"Bootstrap, since LookAhead cannot be used here: {error}"
    with ThreadPoolExecutor(len(lowered)) as pool:
        run_plain, run_ahead, search = pool.map(lambda program: program.compile(), lowered)
    modes, fit_seconds = _timed(search, keys[2], ssm, theta)
    found = Findings(
        size,
        _measure(lambda keys: run_plain(keys, ssm, theta), every[0]),
        _measure(lambda keys: run_ahead(keys, ssm, theta), every[1]),
        [count_modes(loop) for loop in modes],
        fit_seconds / STARTS,
    )
    return (LookAhead(), found.reason()) if found.look_ahead else (Bootstrap(), found.reason())


class Measured(NamedTuple):
    """What was measured of one proposal.

    Attributes:
        log_likelihood: (R,) estimates.
        seconds: time of one.
        heavy: share of the runs with heavy-tailed weights.
    """

    log_likelihood: np.ndarray
    seconds: float
    heavy: float

    @property
    def sd(self) -> float:
        """Standard deviation of the estimates on the log scale; inf where one of them is -inf."""
        return float(self.log_likelihood.std(ddof=1)) if np.all(np.isfinite(self.log_likelihood)) else np.inf

    def log_mean(self) -> tuple[float, float]:
        """Return the logarithm of the mean estimate, and its standard error."""
        top = self.log_likelihood.max()
        if not np.isfinite(top):
            return -np.inf, 0.0
        ratios = np.exp(self.log_likelihood - top)
        error = ratios.std(ddof=1) / ratios.mean() / np.sqrt(len(ratios))
        return float(top + np.log(ratios.mean())), float(error)

    def at_least(self) -> tuple[float, float]:
        """Return what the log likelihood is not below, but for noise, and its standard error."""
        if self.sd < 1:
            return self.log_mean()
        if not np.isfinite(self.sd):
            return -np.inf, 0.0
        return float(self.log_likelihood.mean()), self.sd / np.sqrt(len(self.log_likelihood))

    def worth(self, num_particles: int | None, fixed: float) -> tuple[float, int]:
        """Return the efficiency per second, and the number of particles that has it.

        Args:
            num_particles: the number that will be used; None is the best.
            fixed: the part of the time that does not grow with it.
        """
        sizes = np.array([num_particles]) if num_particles else LEAST * 2 ** np.arange(int(np.log2(MOST / LEAST)) + 1)
        fixed = min(fixed, 0.9 * self.seconds)
        seconds = fixed + (self.seconds - fixed) * sizes / TRIED
        worth = [efficiency(self.sd * np.sqrt(TRIED / size)) for size in sizes] / seconds
        return float(worth.max()), int(sizes[worth.argmax()])


def efficiency(sd: float) -> float:
    """Return the largest mean squared jump of a pseudo-marginal random walk, whatever the time of a step is."""
    length = np.linspace(0.05, 6.0, 120)
    return float((length**2 * 2 * ndtr(-0.5 * np.sqrt(length**2 + 2 * min(sd, 1e3) ** 2))).max())


class Findings(NamedTuple):
    """What speaks for and against looking ahead.

    Attributes:
        num_particles: the number that will be used, None where the best may be.
        plain, ahead: what was measured.
        modes: for each loop, how many searches settled, and how many of them at another mode than the best.
        fit_seconds: time of one search.
    """

    num_particles: int | None
    plain: Measured
    ahead: Measured
    modes: list[tuple[int, int]]
    fit_seconds: float

    @property
    def gain(self) -> float:
        """How many times as much a second is worth."""
        return self._worth[1][0] / max(self._worth[0][0], 1e-300)

    @property
    def _worth(self) -> tuple[tuple[float, int], tuple[float, int]]:
        return self.plain.worth(self.num_particles, 0.0), self.ahead.worth(self.num_particles, self.fit_seconds)

    @property
    def look_ahead(self) -> bool:
        """Whether to look ahead."""
        return self.gain >= WORTH and not self.doubts()

    def doubts(self) -> list[str]:
        """Return what speaks against trusting it, a clause each."""
        found = []
        if not np.isfinite(self.ahead.sd):
            found.append("an estimate of it is -inf")
        (low, low_error), (mean, error) = self.plain.at_least(), self.ahead.log_mean()
        if np.isfinite(low) and low - mean > SIGNIFICANT * np.hypot(low_error, error):
            found.append(
                f"its estimates are lower than those of Bootstrap, by {low - mean:.1f} +- "
                f"{np.hypot(low_error, error):.1f} on the log scale, and both are unbiased"
            )
        if self.ahead.heavy > HEAVY_SHARE:
            found.append(f"{self.ahead.heavy:.0%} of its runs have heavy-tailed weights")
        others, settled = sum(other for _, other in self.modes), sum(count for count, _ in self.modes)
        if others:
            found.append(f"{others} of {settled} searches from random paths found another mode that is not negligible")
        return found

    def reason(self) -> str:
        """Return why, in sentences."""
        (_, size), (_, size_ahead) = self._worth
        numbers = (
            f"With {TRIED} particles the standard deviation of the log likelihood estimate is "
            f"{self.plain.sd:.2g} with Bootstrap, in {_time(self.plain.seconds)}, and {self.ahead.sd:.2g} with "
            f"LookAhead, in {_time(self.ahead.seconds)}"
        )
        worth = (
            f"{numbers}: a second of a random walk on the parameters is worth {self.gain:.2g} times as much with "
            f"LookAhead, with {size_ahead} particles instead of {size}."
        )
        if doubts := self.doubts():
            return f"Bootstrap, since LookAhead cannot be trusted here: {'; '.join(doubts)}. {numbers}."
        if self.gain < WORTH:
            return f"Bootstrap. {worth} It is taken from {WORTH:g} times on."
        return (
            f"LookAhead. {worth} Its estimates are not lower than those of Bootstrap, {self.ahead.heavy:.0%} of its "
            "runs have heavy-tailed weights, and no search found another mode."
        )


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.2g} ms" if seconds < 1 else f"{seconds:.2g} s"


@partial(jax.jit, static_argnames="settings")
def _runs(keys: Array, ssm: Model, theta: Theta, *, settings: ParticleFilter) -> tuple[Array, list]:
    """Estimate the likelihood with each key; of every loop ESS and the sparsest cloud."""

    def one(key: Array) -> tuple[Array, list]:
        found = settings.run(key, ssm, theta)
        return found.log_likelihood, [(loop.ess, loop.sparsest) for loop in found.loops]

    return each(one, keys)


def _measure(run: Callable[[Array], tuple[Array, list]], batches: Array) -> Measured:
    """Make estimates, batch by batch, until there are enough or the time is over."""
    began, seconds, estimates, heavy = time.perf_counter(), np.inf, [], []
    for keys in batches:
        (log_likelihood, loops), took = _timed(run, keys)
        seconds = min(seconds, took / len(keys))
        estimates.append(np.asarray(log_likelihood, np.float64))
        heavy += [any(_is_heavy(loop, i) for loop in loops) for i in range(len(keys))]
        if time.perf_counter() - began > ENOUGH_SECONDS:
            break
    found = np.concatenate(estimates)
    return Measured(np.where(np.isnan(found), -np.inf, found), seconds, float(np.mean(heavy)))


def _is_heavy(loop: tuple[Array, Array | None], number: int) -> bool:
    """Return whether a run of one loop has heavy-tailed weights, in any element."""
    if loop[1] is None:
        return False
    ess, clouds = np.asarray(loop[0][number]), np.asarray(loop[1][number])
    ess = ess.reshape(len(ess), -1)
    pairs = zip(ess.T, clouds.reshape(ess.shape[1], -1))
    return any(heavy_tail(one, TRIED, cloud) is not None for one, cloud in pairs)


def _timed(program: Any, *arguments: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    value = jax.block_until_ready(program(*arguments))
    return jax.device_get(value), time.perf_counter() - began
