r"""The pilot of PMMH: where chains start, how many particles, and which acceptance to aim at.

Each chain starts at the likeliest of `PRIOR_DRAWS` draws of its own from the prior, so that starts stay
overdispersed.  Then, in rounds: repeated estimates at a *central* theta measure :math:`\sigma = sd(\log \hat Z)` and
choose the number of particles (`ssmscan.inference.sizing`); the chains move with adaptation; the next central theta is
the medoid of the better half of the points they visited.  It is a point of the posterior even where chains sit on
several modes, between which their medians lie.

Where the user has not said which estimator to use, and the bootstrap filter needs more than `FEW` particles there, the
*proposal* is chosen at the first central theta that chains have moved to (`ssmscan.particles.choosing`), and kept.
What it looks ahead with is a function of the proposed theta alone, so that the chain stays exact.

The efficiency of a pseudo-marginal random walk is flat around :math:`\sigma_* = 1.2` (Doucet, Pitt, Deligiannidis
& Kohn 2015, *Biometrika* 102(2): 1.0 to 1.7; Sherlock, Thiery, Roberts & Rosenthal 2015, *Ann. Stat.* 43(1)).
Even a proposal of length zero is accepted only with probability :math:`2 \Phi(-\sigma / \sqrt 2)`; adaptation
that aims above it shrinks the proposal to nothing, so the target is half of it, at most 0.234 (0.44 for one parameter).

The pilot ends: each number of particles is tried once in a round, none that would take longer than the time left, and
rounds that are cut short leave their steps to the warm-up.  Starts and replicates are steps of the same compiled chain
with a proposal of length zero: nothing else is compiled.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import ndtr

from ssmscan.inference.interrupts import interruptible
from ssmscan.inference.pmmh_chain import Chain, Control, PMMHState, PMMHStep, Trace, evaluate
from ssmscan.inference.prior_points import prior_point, prior_points
from ssmscan.inference.progress import Chunk, Progress, call_timed, compile_chunk, phase, run_chunks
from ssmscan.inference.sizing import FEWEST, best_size, next_size
from ssmscan.model.protocols import Model, Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.choosing import choose_proposal
from ssmscan.particles.estimators import Estimator, sized
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.look_ahead import LookAhead

PRIOR_DRAWS = 128
ROUNDS = 3
REPLICATES = 64
INITIAL_SCALE = 0.3
CANDIDATES = 500
"""Points among which the central one is looked for."""


def target_acceptance(sd: float, dim: int) -> float:
    """Return half the acceptance of a proposal of length zero, at least 0.01 and at most what suits exact densities.

    That is 0.44 for one coordinate and 0.234 for many (Roberts & Rosenthal 2001, *Stat. Sci.* 16(4), section 2.2).
    """
    return float(np.clip(ndtr(-sd / np.sqrt(2)), 0.01, 0.44 if dim == 1 else 0.234))


def central(trace: Trace) -> Theta:
    """Return the medoid of the better half of the points visited in the second half of a round, z by site.

    The better half by the posterior estimate leaves out chains that have not arrived; distances are sums over
    coordinates, each on the scale of its spread.
    """
    late = jax.tree.map(lambda leaf: leaf[len(leaf) // 2 :].reshape(-1, *leaf.shape[2:]), trace)
    log_posterior = np.nan_to_num(late.log_prior + late.log_likelihood, nan=-np.inf, posinf=-np.inf)
    better = np.argsort(-log_posterior, kind="stable")[: max(len(log_posterior) // 2, 1)]
    better = better[np.linspace(0, len(better) - 1, min(len(better), CANDIDATES)).astype(int)]
    points = np.concatenate([leaf[better].reshape(len(better), -1) for leaf in jax.tree.leaves(late.z)], axis=1)
    low, high = np.quantile(points, [0.16, 0.84], axis=0)
    points = points / np.where(high > low, high - low, 1.0)
    distances = sum(np.abs(x[:, None] - x[None, :]) for x in points.T)
    medoid = better[np.argmin(distances.sum(1))]
    return jax.tree.map(lambda leaf: leaf[medoid], late.z)


FEW = 64
"""With so many particles of the bootstrap filter nothing is worth the compilation of another."""


class Aim(NamedTuple):
    """What a pilot is to find.

    Attributes:
        sd: wanted standard deviation of the log likelihood estimate.
        size: whether to choose the number of particles.
        proposal: whether to choose the proposal.
    """

    sd: float
    size: bool
    proposal: bool


class Pilot:
    """The pilot: what it has found so far, and what has been spent.

    Attributes:
        estimator: with the number of particles to use.
        chunk: the compiled chain step with that estimator, None before there is one.
        chains: the chains where the pilot left them.
        sd: standard deviation of the log likelihood estimate at the central theta, nan if it was never measured.
        num_steps: steps of adaptation that were taken.
        aim: what to find.
        choice: why it uses the proposal that it does, in sentences; empty where that was not its to choose.
        limit: what kept the search from more particles, a clause; empty if nothing did.
        compile_seconds, seconds: what it took.
        particle_steps: particles moved.
        interrupted: whether Control-C ended it; then the rest is as it was by then.
    """

    def __init__(
        self,
        key: jax.Array,
        ssm: StateSpaceModel,
        estimator: Estimator,
        num_chains: int,
        seconds: float,
        *,
        progress: bool,
    ):
        self.key, self.ssm, self.progress = key, ssm, progress
        self.aim, self.choice = Aim(np.inf, False, False), ""
        self.estimator, self.num_chains = estimator, num_chains
        self.deadline = time.perf_counter() + seconds
        self.allowed = f"its {seconds:g} seconds (pilot_seconds) did not allow for more"
        self.compile_seconds = self.seconds = 0.0
        self.particle_steps = self.num_steps = 0
        self.chunk: Chunk | None = None
        self.sd, self.limit, self.interrupted = np.nan, "", False
        self.too_noisy: dict[int, float] = {}
        self.chains = unstarted(self.next_keys(), ssm, estimator)

    @property
    def target(self) -> float:
        """Acceptance to aim at."""
        return target_acceptance(self.sd if np.isfinite(self.sd) else np.inf, self.chains.scale.shape[-1])

    def run(self, num_steps: int, *, max_particles: int) -> Pilot:
        """Start the chains, move them, and choose what `aim` says and the target acceptance.

        Args:
            num_steps: steps of each chain in a round.
            max_particles: the largest number to choose.

        Raises:
            ValueError: if no draw from the prior has positive likelihood.
        """
        try:
            centre = self.start()
            for round_ in range(ROUNDS + 1):
                # Before the chains have moved, a bad start may ask for any number: one stride is enough to move.
                tries = 0 if not self.aim.size or self.out_of_time else 1 if round_ == 0 else np.inf
                if round_ == 1 and self.aim.proposal and not self.out_of_time:
                    self.choose(centre)
                self.fit(centre, self.aim.sd if self.aim.size else np.inf, max_particles, tries)
                if round_ == ROUNDS or self.out_of_time:
                    break
                centre = self.move(num_steps, round_, centre)
        except KeyboardInterrupt:
            self.interrupted = True
        return self

    def next_key(self) -> jax.Array:
        """Return a fresh key."""
        self.key, key = jax.random.split(self.key)
        return key

    def next_keys(self) -> jax.Array:
        """Return a fresh key for each chain."""
        return jax.random.split(self.next_key(), self.num_chains)

    def start(self) -> Theta:
        """Start each chain at the likeliest of its own draws from the prior; return the best of these points."""
        self.chunk = self.compile(self.estimator)
        with phase("PMMH: compiling the prior", progress=self.progress), interruptible():
            keys = jax.random.split(self.next_key(), (PRIOR_DRAWS, self.num_chains))
            draws = call_timed(prior_points, keys, self.ssm)
        self.compile_seconds += draws.compile_seconds
        leaves, tree = jax.tree.flatten(jax.device_get(draws.value))
        points = [jax.tree.unflatten(tree, [leaf[i] for leaf in leaves]) for i in range(PRIOR_DRAWS)]
        self.chains = self.chains._replace(state=self.chains.state._replace(z=points[0]))
        best = np.full(self.num_chains, -np.inf)
        label = f"PMMH pilot: {PRIOR_DRAWS} starts a chain"
        with phase(label, progress=self.progress, total=PRIOR_DRAWS, leave=False) as bar:
            for point in points:
                if self.out_of_time and np.all(np.isfinite(best)):
                    break
                there = jax.device_get(self.still(point, 1, "", bar=False).state.state)
                better = np.isfinite(there.log_likelihood) & (there.log_likelihood > best)
                self.chains = self.chains._replace(state=_where(better, there, self.chains.state))
                best = np.where(better, there.log_likelihood, best)
                bar.update()
        if not np.any(np.isfinite(best)):
            raise ValueError(
                f"every one of {PRIOR_DRAWS * self.num_chains} parameter draws from the prior has log likelihood -inf "
                f"with {sized(self.estimator)}: check the data against the support of their distribution, "
                f"{'use more particles, ' if self.estimator.num_particles else ''}or a prior that says more"
            )
        return jax.tree.map(lambda leaf: leaf[int(np.argmax(best))], self.chains.state.z)

    def compile(self, estimator: Estimator) -> Chunk:
        """Compile the chain step with an estimator."""
        text = f"PMMH: compiling for {sized(estimator)}"
        with phase(text, progress=self.progress), interruptible():
            chunk = compile_chunk(PMMHStep(estimator), self.control(0.0), self.chains, replicates=True)
        self.compile_seconds += chunk.compile_seconds
        return chunk

    def control(self, target: float | None) -> Control:
        """Return what the steps share; they adapt if there is a target."""
        dtype = self.chains.scale.dtype
        adapting = jnp.asarray(target is not None)
        return Control(self.ssm, jnp.asarray(target or 0.0, dtype), adapting)

    def advance(
        self, chains: Chain, num_steps: int, target: float | None, label: str = "PMMH pilot", **options: Any
    ) -> Progress:
        """Move chains; adapt if there is a target."""
        assert self.chunk is not None
        options = {"progress": self.progress, "leave": False} | options
        run = run_chunks(self.chunk, self.control(target), chains, num_steps, label=label, **options)
        self.seconds += run.seconds
        self.particle_steps += run.done * self.num_chains * self.estimator.particle_steps(self.ssm)
        return run

    def still(self, z: Theta, num_steps: int, label: str, *, bar: bool | None = None) -> Progress:
        """Take steps of length zero at z, one point a chain; each has an estimate of its own, the first is accepted."""
        # From an estimate of -inf a proposal of length zero is taken, with its fresh estimate.
        nothing = jnp.full_like(self.chains.state.log_likelihood, -jnp.inf)
        state = self.chains.state._replace(z=z, log_likelihood=nothing)
        chains = self.chains._replace(key=self.next_keys(), state=state, scale=jnp.zeros_like(self.chains.scale))
        run = self.advance(chains, num_steps, None, label, progress=self.progress if bar is None else bar)
        if run.interrupted:
            raise KeyboardInterrupt
        return run

    def replicate(self, centre: Theta) -> float:
        """Return the standard deviation of the log likelihood estimate at one theta, inf if an estimate is -inf."""
        everywhere = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * self.num_chains), centre)
        label = f"PMMH pilot: noise with {self.estimator.num_particles} particles"
        estimates = self.still(everywhere, -(-REPLICATES // self.num_chains), label).outputs.proposed_log_likelihood
        self.sd = float(np.std(estimates, ddof=1)) if np.all(np.isfinite(estimates)) else np.inf
        return self.sd

    def choose(self, centre: Theta) -> None:
        """Choose the proposal at one theta, where the bootstrap filter needs many particles."""
        size = self.estimator.num_particles
        needed = size * (self.replicate(centre) / self.aim.sd) ** 2
        enough = FEW if self.aim.size else size
        if needed <= enough:
            self.choice = f"Bootstrap, of which {enough} particles are enough here: nothing else was tried"
            return
        began = time.perf_counter()
        with phase("PMMH pilot: choosing the proposal", progress=self.progress), interruptible():
            theta = self.ssm.constrain(jax.tree.map(jnp.asarray, centre))
            proposal, reason = choose_proposal(
                self.next_key(), self.ssm, theta, num_particles=None if self.aim.size else size
            )
        self.seconds += time.perf_counter() - began
        self.choice = reason.rstrip(".")
        if isinstance(proposal, LookAhead):
            self.too_noisy = {}
            size = FEWEST if self.aim.size else size
            self.use(ParticleFilter(size, proposal=proposal, summaries=()))

    def resize(self, num_particles: int) -> None:
        """Use another number of particles, with new estimates where the chains are."""
        self.use(self.estimator.with_num_particles(num_particles))

    def use(self, estimator: Estimator) -> None:
        """Use another estimator, with new estimates where the chains are."""
        self.chunk = self.compile(estimator)
        self.estimator = estimator
        state = self.still(self.chains.state.z, 1, "", bar=False).state.state
        self.chains = self.chains._replace(state=state)

    def fit(self, centre: Theta, target_sd: float, most: int, tries: float) -> None:
        """Choose the number of particles at one theta, with at most `tries` tries of other numbers.

        What was too noisy at the centre of the last round is not tried again.
        """
        here: dict[int, float] = {}
        self.limit = self.allowed if self.out_of_time else ""
        while True:
            began, size = time.perf_counter(), self.estimator.num_particles
            # Without particles there is no noise and nothing to choose.
            here[size] = self.sd = self.replicate(centre) if size else 0.0
            before = {n: sd for n, sd in self.too_noisy.items() if n < min(here)}
            wanted = next_size({**before, **here}, size, target_sd, most) if size else None
            took = time.perf_counter() - began
            if wanted is None or len(here) > tries:
                break
            expected = took * wanted / size + (self.chunk.compile_seconds if self.chunk else 0.0)
            if wanted > size and time.perf_counter() + expected > self.deadline:
                self.limit = self.allowed
                break
            self.resize(wanted)
        if (best := best_size(here, target_sd)) != self.estimator.num_particles:
            self.resize(best)
        self.sd = here[best]
        if self.num_steps:
            self.too_noisy = {n: sd for n, sd in here.items() if sd > target_sd}
        if 2 * best > most:
            self.limit = f"max_particles={most} allowed for no more"

    def move(self, num_steps: int, round_: int, centre: Theta) -> Theta:
        """Move the chains by a round, adapting; return the centre of where they have been, if they have moved."""
        label = f"PMMH pilot: round {round_ + 1} of {ROUNDS}, {sized(self.estimator)}, noise {self.sd:.2g}"
        run = self.advance(self.chains, num_steps, self.target, label, deadline=self.deadline)
        self.chains = run.state
        self.num_steps += run.done
        if run.interrupted:
            raise KeyboardInterrupt
        return central(run.outputs) if run.done else centre

    @property
    def out_of_time(self) -> bool:
        """Whether the time for the pilot is over."""
        return time.perf_counter() > self.deadline


def unstarted(keys: jax.Array, ssm: Model, estimator: Estimator) -> Chain:
    """Make chains with an estimate of -inf, from which any proposal with a finite one is taken."""

    def start(key: jax.Array) -> PMMHState:
        return evaluate(key, ssm, prior_point(ssm, key), estimator)

    shapes = jax.eval_shape(start, keys[0])
    state = jax.tree.map(lambda leaf: jnp.zeros((len(keys), *leaf.shape), leaf.dtype), shapes)
    state = state._replace(log_likelihood=jnp.full_like(state.log_likelihood, -jnp.inf))
    flat = jax.eval_shape(lambda z: ravel_pytree(z)[0], shapes.z)
    scale = jnp.stack([INITIAL_SCALE * jnp.eye(flat.size, dtype=flat.dtype)] * len(keys))
    return Chain(keys, state, scale, jnp.zeros(len(keys), jnp.int32))


def _where(better: np.ndarray, first: PMMHState, second: PMMHState) -> PMMHState:
    """Choose between two states of every chain, on the host."""
    return jax.tree.map(
        lambda a, b: jnp.asarray(np.where(better.reshape(-1, *[1] * (np.ndim(a) - 1)), a, b)),
        first,
        jax.device_get(second),
    )
