r"""The way of the importance sampler from the prior to its proposal; all its points are thrown away.

Round 0 has draws of the prior.  After each round all points so far are weighed against the mixture of what they were
drawn from (Cornuet, Marin, Mira & Robert 2012, *Scand. J. Statist.* 39(4)),

.. math::  w_i = \frac{p(z_i) \, \hat Z(z_i)}{\sum_r n_r q_r(z_i) / \sum_r n_r} ,

and the next proposal is fitted to :math:`w_i^\gamma` with the largest *temperature* :math:`\gamma \le 1` at which
enough points are effective.  From a prior under which nearly all likelihoods are hopeless the proposal so moves in
steps, as tempering does.  At :math:`\gamma = 1` rounds go on until the effective share of a round, against its own
proposal alone, grows no more.

The number of particles, and where the bootstrap filter would be expensive the proposal of the filter, are chosen at a
central point once the temperature is no longer small, or once noise is what keeps it down; estimates with other noise
are then forgotten.  Var log Z near 1 is the best for importance sampling, as there is no chain that could stick (Tran,
Scharth, Pitt & Kohn 2014, arXiv:1309.3339, section 4).
"""

from __future__ import annotations

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from ssmscan.inference.importance_points import (
    Operand,
    Points,
    PointStep,
    dimension,
    first_numbers,
    lawless,
    make_points,
    num_lanes,
)
from ssmscan.inference.importance_proposal import Mixture, at_point, fit, from_prior, nearest
from ssmscan.inference.importance_weights import effective, warmest
from ssmscan.inference.interrupts import interruptible
from ssmscan.inference.prior_points import shapes_of_point
from ssmscan.inference.progress import Chunk, compile_chunk, phase
from ssmscan.inference.sizing import FEWEST, best_size, next_size
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.choosing import choose_proposal
from ssmscan.particles.estimators import Estimator, sized
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.look_ahead import LookAhead

STARTS = 512
REPLICATES = 64

MOST_ROUNDS = 40
"""Rounds after which the temperature is taken as it is."""

MOST_ROUNDS_AT_ONE = 8
"""Rounds at temperature one."""

GOOD_SHARE = 0.5
"""Effective share of a round from which no better proposal is looked for."""

GROWTH, PATIENCE = 1.15, 2
"""By this factor the share must grow for more rounds, or the rounds end when so many have not."""

EFFECTIVE_IN_ROUND = 150
"""Effective points that a round at temperature one should have by the share of the last, up to `LARGEST_ROUND`."""

LARGEST_ROUND = 4000
SETTLED = 0.3
"""Temperature from which the number of particles is chosen."""

EXPENSIVE = 2e5
"""Particle steps of one estimate from which another proposal than the bootstrap filter's is worth its compilation."""

CHEAP = 2e4
"""Particle steps of one estimate for which fewer particles are not worth their compilation."""

FEW = 64
"""With so many particles of the bootstrap filter nothing is worth the compilation of another."""


class Round(NamedTuple):
    """Points of one round and what they were drawn from."""

    points: Points
    proposal: Mixture


class Aim(NamedTuple):
    """What is to be chosen.

    Attributes:
        sd: wanted standard deviation of the log likelihood estimate.
        size: whether to choose the number of particles, at most `most`.
        proposal: whether to choose the proposal of the filter.
        most: the largest number of particles.
    """

    sd: float
    size: bool
    proposal: bool
    most: int


class Adaptation:
    """The rounds: what they have found so far, and what has been spent.

    Attributes:
        estimator: with the number of particles to use.
        chunk: the compiled program, None before there is one; it may be given that of another run alike.
        proposal: the mixture to draw from, None before the first fit.
        share: effective share of the last round at temperature one; nan where there was none.
        temperature: of the last fit.
        rounds: how many there were.
        sd: standard deviation of the log likelihood estimate at a central point, nan where it was not measured.
        choice: why it uses the proposal of the filter that it does; empty where that was not its to choose.
        limit: what kept it from more particles, a clause; empty if nothing did.
        compile_seconds, seconds, estimates: what it took; estimates is a number of particle steps.
        interrupted: whether Control-C ended it.
    """

    def __init__(
        self, key: jax.Array, ssm: StateSpaceModel, estimator: Estimator, aim: Aim, seconds: float, *, progress: bool
    ):
        self.key, self.ssm, self.estimator, self.aim, self.progress = key, ssm, estimator, aim, progress
        self.lanes, self.dimension = num_lanes(), dimension(ssm)
        self.deadline = time.perf_counter() + seconds
        self.allowed = f"its {seconds:g} seconds (pilot_seconds) did not allow for more"
        self.proper = not lawless(ssm)
        self.chunk: Chunk | None = None
        self.proposal: Mixture | None = None
        self.history: list[Round] = []
        self.share, self.temperature, self.sd, self.rounds = np.nan, 0.0, np.nan, 0
        self.choice = self.limit = ""
        self.compile_seconds = self.seconds = 0.0
        self.particle_steps = 0
        self.interrupted = False

    @property
    def wanted(self) -> int:
        """Number of effective points to fit to."""
        return 30 + 10 * self.dimension

    def run(self) -> Adaptation:
        """Adapt.

        Raises:
            ValueError: if no draw from the prior has positive likelihood.
        """
        try:
            if self.chunk is None:
                self.compile()
            self.round(from_prior(self.dimension), STARTS)
            self.require_finite()
            sized_, at_one, best, stands_still = self.estimator.num_particles == 0, 0, 0.0, 0
            for _ in range(MOST_ROUNDS):
                last = self.refit()
                if not sized_ and self.rounds > 1 and (self.temperature >= SETTLED or self.noise_matters()):
                    sized_ = True
                    if self.size():
                        at_one = 0
                elif self.temperature == 1.0 and self.rounds > 1:
                    at_one += 1
                    self.share = last
                    stands_still = 0 if last >= GROWTH * best else stands_still + 1
                    if last >= GOOD_SHARE or at_one == MOST_ROUNDS_AT_ONE or stands_still == PATIENCE:
                        break
                    best = max(best, last)
                if self.out_of_time:
                    break
                usual = 2 * (STARTS // 4 + 40 * self.dimension)
                larger = EFFECTIVE_IN_ROUND / max(last, 1e-9) if self.temperature == 1.0 else 0
                self.round(self.proposal, max(usual, int(min(larger, LARGEST_ROUND))))
        except KeyboardInterrupt:
            self.interrupted = True
        return self

    def next_key(self) -> jax.Array:
        """Return a fresh key."""
        self.key, key = jax.random.split(self.key)
        return key

    def operand(self, proposal: Mixture) -> Operand:
        """Return what the points of one round share."""
        return Operand(self.ssm, jax.random.key_data(self.next_key()), proposal.on_device())

    def compile(self) -> None:
        """Compile the points with the estimator."""
        with phase(f"ImportanceSampler: compiling for {sized(self.estimator)}", progress=self.progress):
            operand = self.operand(from_prior(self.dimension))
            with interruptible():
                self.chunk = compile_chunk(
                    PointStep(self.estimator, self.lanes), operand, first_numbers(0, self.lanes), replicates=True
                )
        self.compile_seconds += self.chunk.compile_seconds

    def make(self, proposal: Mixture, count: int, label: str) -> Points:
        """Make points of one proposal."""
        assert self.chunk is not None
        first, label = first_numbers(0, self.lanes), f"ImportanceSampler: {label}"
        made = make_points(
            self.chunk, self.operand(proposal), first, count, label=label, progress=self.progress, leave=False
        )
        self.seconds += made.seconds
        self.particle_steps += len(made.points.z) * self.estimator.particle_steps(self.ssm)
        if made.interrupted:
            raise KeyboardInterrupt
        return made.points

    def round(self, proposal: Mixture | None, count: int) -> None:
        """Make the points of a round."""
        assert proposal is not None
        label = f"round {self.rounds}, temperature {self.temperature:.2g}" if self.rounds else "draws from the prior"
        points = self.make(proposal, count, label)
        self.history.append(Round(points, proposal))
        self.rounds += 1

    def require_finite(self) -> None:
        """Raise unless some draws of the prior have a likelihood."""
        if not np.isfinite(self.history[0].points.log_posterior()).any():
            raise ValueError(
                f"every one of {STARTS} parameter draws from the prior has log likelihood -inf with "
                f"{sized(self.estimator)}: check the data against the support of their distribution, "
                f"{'use more particles, ' if self.estimator.num_particles else ''}or a prior that says more"
            )

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all points (n, d) and their log weights against the mixture of all their proposals."""
        z = np.concatenate([np.asarray(r.points.z, np.float64) for r in self.history])
        log_law = np.concatenate([r.points.log_law for r in self.history])
        log_posterior = np.concatenate([r.points.log_posterior() for r in self.history])
        log_sizes = np.log([len(r.points.z) for r in self.history])
        with np.errstate(invalid="ignore", over="ignore"):
            each = [self.log_density(r.proposal, z, log_law) + size for r, size in zip(self.history, log_sizes)]
            found = log_posterior - logsumexp(np.stack(each), axis=0)
        usable = np.isfinite(z).all(1) & np.isfinite(found)
        return np.where(usable[:, None], z, 0.0), np.where(usable, found, -np.inf)

    def log_density(self, proposal: Mixture, z: np.ndarray, log_law: np.ndarray) -> np.ndarray:
        """Evaluate a proposal; starts without a density count as evenly spread."""
        if proposal.prior == 1.0 and not self.proper:
            return np.zeros(len(z))
        return proposal.log_density(z, log_law)

    def refit(self) -> float:
        """Fit the next proposal to all points; return the effective share of the last round."""
        z, log_weights = self.pooled()
        self.temperature = warmest(log_weights, self.wanted)
        self.proposal = fit(z, self.temperature * log_weights, prior=self.proper)
        last = self.history[-1]
        own = last.points.log_posterior() - self.log_density(
            last.proposal, np.asarray(last.points.z, np.float64), last.points.log_law
        )
        return effective(np.where(np.isfinite(own), own, -np.inf)) / len(own)

    def noise_matters(self) -> bool:
        """Whether noise of the estimates keeps the temperature down, measured at a central point."""
        return self.rounds > 2 and self.temperature * self.measure(self.centre()) > 0.5

    def centre(self) -> np.ndarray:
        """Return a typical point, (d,)."""
        z, log_weights = self.pooled()
        assert self.proposal is not None
        among = z[log_weights > -np.inf]
        return among[nearest(among, self.proposal)]

    def measure(self, centre: np.ndarray) -> float:
        """Return the standard deviation of the log likelihood estimate at one point, inf if an estimate is -inf."""
        if not self.estimator.num_particles:
            return 0.0
        found = self.make(at_point(centre), REPLICATES, f"noise with {self.estimator.num_particles} particles")
        estimates = np.asarray(found.log_likelihood, np.float64)
        self.sd = float(np.std(estimates, ddof=1)) if np.all(np.isfinite(estimates)) else np.inf
        return self.sd

    def size(self) -> bool:
        """Choose the proposal of the filter and the number of particles at a central point; return what changed."""
        centre, before = self.centre(), self.estimator
        self.measure(centre)
        if self.aim.proposal:
            self.choose(centre)
        if self.aim.size:
            self.search(centre)
        if self.estimator == before:
            return False
        self.history = []
        return True

    def choose(self, centre: np.ndarray) -> None:
        """Choose the proposal of the filter where that of the bootstrap filter is expensive."""
        size = self.estimator.num_particles
        needed = size * min((self.sd / self.aim.sd) ** 2, 1e6) if self.aim.size else size
        cost = needed * self.estimator.particle_steps(self.ssm) / size
        if needed <= FEW or cost <= EXPENSIVE:
            self.choice = "Bootstrap, which is cheap enough here: nothing else was tried"
            return
        began = time.perf_counter()
        with phase("ImportanceSampler: choosing the proposal of the filter", progress=self.progress), interruptible():
            theta = self.ssm.constrain(self.unflatten(centre))
            proposal, reason = choose_proposal(
                self.next_key(), self.ssm, theta, num_particles=None if self.aim.size else size
            )
        self.seconds += time.perf_counter() - began
        self.choice = reason.rstrip(".")
        if isinstance(proposal, LookAhead):
            self.use(ParticleFilter(FEWEST if self.aim.size else size, proposal=proposal, summaries=()))
            self.measure(centre)

    def unflatten(self, centre: np.ndarray) -> dict[str, jax.Array]:
        """Return unconstrained values by site."""
        leaves, tree = jax.tree.flatten(shapes_of_point(self.ssm))
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = np.split(centre, ends[:-1])
        return jax.tree.unflatten(
            tree, [jnp.asarray(p.reshape(leaf.shape), leaf.dtype) for p, leaf in zip(parts, leaves)]
        )

    def use(self, estimator: Estimator) -> None:
        """Use another estimator."""
        self.estimator = estimator
        self.compile()

    def search(self, centre: np.ndarray) -> None:
        """Choose the number of particles at one point, where the noise has been measured with the present one."""
        here: dict[int, float] = {}
        while True:
            size = self.estimator.num_particles
            here[size] = self.sd
            # With less noise than wanted each point says more: only a much smaller number is worth its compilation.
            least = -1.0 if self.estimator.particle_steps(self.ssm) <= CHEAP else self.aim.sd / 4
            enough = least < self.sd <= self.aim.sd
            wanted = None if enough else next_size(here, size, self.aim.sd, self.aim.most)
            if wanted is None:
                break
            if self.out_of_time:
                self.limit = self.allowed
                break
            self.use(self.estimator.with_num_particles(wanted))
            self.measure(centre)
        if (best := best_size(here, self.aim.sd)) != self.estimator.num_particles and here[best] < np.inf:
            self.use(self.estimator.with_num_particles(best))
        self.sd = here[self.estimator.num_particles]
        if 2 * self.estimator.num_particles > self.aim.most and self.sd > self.aim.sd:
            self.limit = f"max_particles={self.aim.most} allowed for no more"

    @property
    def out_of_time(self) -> bool:
        """Whether the time for the adaptation is over."""
        return time.perf_counter() > self.deadline
