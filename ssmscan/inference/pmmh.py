"""PMMH: parameters by a random walk on an estimate of the likelihood, of a particle filter for one.

Takes every model the filter takes, discrete innovations included, and is exact for any number of particles:
see `ssmscan.inference.pmmh_chain` for the step, `ssmscan.inference.pilot` for what is tuned before it.  A random
walk needs many draws, and its chains run side by side.  Prefer NUTS where all innovations are smooth functions
of noise.
"""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.arguments import require_flag, require_number
from ssmscan.health import Reason, Section
from ssmscan.inference.common_doubts import not_numbers
from ssmscan.inference.default_estimator import begin_with, default_estimator, why
from ssmscan.inference.going_on import Arrays, Checkpoint, begin, estimator_again, origin_of, words
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.paths import paths_from_keys
from ssmscan.inference.pilot import Aim, Pilot, unstarted
from ssmscan.inference.pmmh_chain import Chain, Control, PMMHStep, Trace
from ssmscan.inference.pmmh_run import Run
from ssmscan.inference.progress import compile_chunk, no_steps, phase, run_chunks
from ssmscan.inference.reporting import result_of
from ssmscan.inference.settings import require_counts, require_parameters, require_result_can_hold, spread
from ssmscan.inference.sizing import FEWEST, MISSED
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_data, require_drawn
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import Estimator, require_estimator, sized
from ssmscan.particles.filter_step import FAULTY
from ssmscan.results.data import Costs
from ssmscan.results.health import STUCK_ACCEPTANCE, ResultWarning, warn_of_concerns
from ssmscan.results.result import Result
from ssmscan.results.table import significant

ROUND_SHARE = 8
"""Each round of the pilot takes this part of the warm-up."""

TOO_NOISY = 3.0
"""A standard deviation of the log likelihood estimate with which a chain is stuck for hundreds of steps."""

ACCEPTANCE = 0.05, 0.6
"""Shares of accepted proposals between which a chain of a random walk moves well enough."""

MANY_DRAWS = 100
"""Draws of a chain from which its share of accepted proposals is judged."""


@dataclass(frozen=True, kw_only=True)
class PMMH:
    """Particle marginal Metropolis-Hastings with an adaptive random walk.

    Example:
        >>> import jax, ssmscan
        >>> from ssmscan import datasets
        >>> from ssmscan.stochastic_volatility import stochastic_volatility
        >>> ssm = ssmscan.trace(stochastic_volatility, datasets.gbpusd().values[:50])
        >>> pmmh = ssmscan.PMMH(num_warmup=1000, num_particles=32, num_paths=100, progress=False)
        >>> result = pmmh.run(jax.random.key(1), ssm)
        >>> result.title, result.states["h"].shape
        ('PMMH: 4 chains of 5000 draws', (4, 100, 50))

        The mean of several filters is an estimator too: `PMMH(estimator=Replicates(ParticleFilter(100), 4))`.

    Attributes:
        num_samples: draws kept in each chain.
        num_warmup: steps of adaptation, not kept, the pilot's included.
        num_chains: chains, side by side.
        num_particles: number of particles of the estimator, or None to let the pilot choose.
        target_sd: standard deviation of the log likelihood estimate that the pilot aims at.
        estimator: of the likelihood: a `ParticleFilter`, or `Replicates` of one, whose number of particles is where the
            pilot starts; or `ExactLikelihood()` of a linear Gaussian model. None is `DiscreteFilter` where all states
            have finitely many values, else a particle filter whose proposal the pilot chooses where the bootstrap
            filter needs many particles, see `ssmscan.choose_proposal`; the notes of the result say which, and why.
        num_paths: state paths kept in each chain, evenly spread over its draws.
        progress: whether to show a progress bar on a terminal.
        max_particles: the pilot chooses no more, rounded down to a power of two.
        pilot_seconds: after this time the pilot tries no more particles; what is left of its rounds is warm-up.
    """

    num_samples: int = 5000
    num_warmup: int = 2000
    num_chains: int = 4
    num_particles: int | None = None
    target_sd: float = 1.2
    estimator: Estimator | None = None
    num_paths: int = 500
    progress: bool = True
    max_particles: int = 2**14
    pilot_seconds: float = 120.0

    def __post_init__(self) -> None:
        """Check the settings."""
        require_counts(self, num_samples=1, num_warmup=ROUND_SHARE, num_chains=1, num_paths=0, max_particles=FEWEST)
        require_number("target_sd", self.target_sd, 0.0, 5.0)
        require_number("pilot_seconds", self.pilot_seconds, 0.0, np.inf)
        if self.num_particles is not None:
            require_counts(self, num_particles=2)
        if self.estimator is not None:
            require_estimator("estimator", self.estimator)
        require_flag("progress", self.progress)

    def run(
        self,
        key: jax.Array,
        ssm: StateSpaceModel,
        *,
        start: Result | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float = 60.0,
    ) -> Result:
        """Sample the posterior of the parameters and the states.

        Args:
            key: one PRNG key, typed or raw; of no effect on a run that goes on.
            ssm: a model from `ssmscan.trace`.
            start: a result of PMMH for this model, to whose chains `num_samples` draws each are added without pilot and
                warm-up; the draws are those of one longer run, bit by bit.
            checkpoint: a file that holds what there is, written now and then; a run that was killed after its pilot
                goes on from it when it is called again in the same words.
            every: seconds between two writings.

        Returns:
            A `Result`; stopped by Control-C, it holds the draws made by then, none if still in warm-up, and the state
            paths that there was time for.

        Warns:
            ResultWarning: if the pilot misses its target, at once; at the end, of whatever `Result.concerns` returns.

        Raises:
            ModelError: if a parameter is discrete, or there are none.
            TypeError: if a site is not of real numbers.
            ValueError: if no draw from the prior has positive likelihood, or `start` or `checkpoint` is of something
                else.
        """
        require_data(ssm)
        require_drawn(ssm)
        require_parameters(ssm)
        require_result_can_hold(ssm, self)
        key = as_key(key)
        before, added_to, saving = begin(self, key, ssm, start, checkpoint, every)
        with hold_interrupts():
            run = self._tuned(key, ssm) if before is None else self._gone_on(before, ssm)
            if before is None and run.doubts:
                warnings.warn(" ".join(map(str, run.doubts)), ResultWarning, stacklevel=2)
            self._sample(ssm, run, added_to + self.num_samples, saving)
            result = self._result(ssm, run)
        return warn_of_concerns(result)

    def _tuned(self, key: jax.Array, ssm: StateSpaceModel) -> Run:
        """Run the pilot."""
        began = time.perf_counter()
        estimator = begin_with(ssm, self.estimator, num_particles=self.num_particles, most=self.max_particles)
        counting = time.perf_counter() - began
        pilot = Pilot(key, ssm, estimator, self.num_chains, float(self.pilot_seconds), progress=self.progress)
        pilot.compile_seconds, pilot.choice = counting, why(self.estimator, estimator)
        pilot.aim = Aim(self.target_sd, self.num_particles is None, self.estimator is None and not pilot.choice)
        pilot.run(self.num_warmup // ROUND_SHARE, max_particles=self.max_particles)
        return Run.of_pilot(pilot, words(key), self.num_warmup, doubts=self._pilot_doubts(pilot))

    def _gone_on(self, before: Result, ssm: StateSpaceModel) -> Run:
        """Go on with the chains of a result."""
        estimator = estimator_again(before, self.estimator, default_estimator(ssm))
        keys = jax.random.split(as_key(jax.random.key(0)), self.num_chains)
        run = Run.gone_on(before, estimator, unstarted(keys, ssm, estimator))
        with phase(f"PMMH: compiling for {sized(estimator)}", progress=self.progress), interruptible():
            control = Control(ssm, run.target_array, jnp.asarray(False))
            run.chunk = compile_chunk(PMMHStep(estimator), control, run.chains, replicates=True)
        run.compile_seconds += run.chunk.compile_seconds
        return run

    def _sample(self, ssm: StateSpaceModel, run: Run, wanted: int, saving: Checkpoint) -> None:
        """Finish the warm-up, freeze the proposal, and make the draws."""
        control = Control(ssm, run.target_array, jnp.asarray(run.warmup_left > 0))
        if run.chunk is None:
            none = no_steps(PMMHStep(run.estimator), control, run.chains)
            run.take(none, ssm)
            return

        def advance(label: str, num_steps: int) -> None:
            def build(chains: Chain, outputs: Trace) -> Result:
                return self._result(ssm, run.ahead(chains, outputs), whole=False)

            assert run.chunk is not None
            adapting = control._replace(adapting=jnp.asarray(run.warmup_left > 0))
            show = self.progress and not run.interrupted
            made = run_chunks(
                run.chunk, adapting, run.chains, num_steps, label=label, progress=show, checkpoint=saving.of(build)
            )
            run.take(made, ssm)

        if run.warmup_left:
            advance("PMMH warm-up", 0 if run.interrupted else run.warmup_left)
        advance("PMMH", 0 if run.interrupted or run.warmup_left else max(wanted - run.done, 0))

    def _result(self, ssm: StateSpaceModel, run: Run, *, whole: bool = True) -> Result:
        """Build the result; one that is not whole has no state paths."""
        theta, stats = run.by_chain()
        kept, room = spread(run.done, self.num_paths if whole else 0), self.num_paths
        paths = paths_from_keys(
            stats["filter_key"], ssm, theta, kept, run.estimator, room=room, progress=self.progress and whole
        )
        again = np.zeros((self.num_chains, 0)) if paths.log_likelihood is None else paths.log_likelihood
        result = result_of(
            self,
            ssm,
            draws=theta,
            paths=paths,
            wanted=len(kept),
            sample_stats=stats,
            costs=Costs(
                compile_seconds=run.compile_seconds,
                warmup_seconds=run.warmup_seconds,
                run_seconds=run.run_seconds,
                particle_steps=run.particle_steps + again.size * run.estimator.particle_steps(ssm),
            ),
            interrupted=run.interrupted or not whole,
            notes=(*run.notes, *_differing(again, stats["log_likelihood_estimate"][:, paths.draws])),
            doubts=(
                *run.doubts,
                *fault_doubts(theta, stats, run.faulty_proposals, ssm, run.estimator),
                *acceptance_doubts(stats["accepted"]),
            ),
            used=run.estimator,
            continuation=run.continuation(),
            origin={"model": origin_of(ssm), **run.origin()},
        )
        return dataclasses.replace(result, settings={**result.settings, "num_samples": result.num_draws})

    def _pilot_doubts(self, pilot: Pilot) -> tuple[Reason, ...]:
        """Return what to say of a pilot that did not find what it looked for."""
        if pilot.interrupted:
            return ()
        noise = f"with {pilot.estimator.num_particles:,} particles it is {significant(pilot.sd)} at the centre"
        ways = (
            "Chains stick with such noise: give priors that say more, of the start above all, or use another "
            "proposal or engine"
        )
        if self.num_particles is not None:
            if pilot.sd <= TOO_NOISY:
                return ()
            sentence = f"The standard deviation of the log likelihood estimate is large: {noise}."
            return (Reason(sentence, f"{ways}, or a larger num_particles.", Section.NOISE),)
        if pilot.sd <= MISSED * self.target_sd:
            return ()
        limit = f"; {pilot.limit}" if pilot.limit else ""
        sentence = (
            f"The pilot could not bring the standard deviation of the log likelihood estimate to {self.target_sd:g}: "
            f"{noise}{limit}."
        )
        return (Reason(sentence, f"{ways}.", Section.WIDE_PRIOR),)


def fault_doubts(
    theta: Arrays, stats: Arrays, faulty_proposals: int, ssm: StateSpaceModel, estimator: Estimator
) -> tuple[Reason, ...]:
    """Return what to say of filters that met log weights that are not numbers, with where for one of them."""
    drawn = stats["filter_status"] == FAULTY
    if not (drawn.any() or faulty_proposals):
        return ()
    example = ""
    if drawn.any():
        chain, draw = np.argwhere(drawn)[0]
        here = jax.tree.map(lambda leaf: jnp.asarray(leaf[chain, draw]), theta)
        said = estimator.describe(as_key(jnp.asarray(stats["filter_key"][chain, draw])), ssm, here)
        example = f"Draw {draw} of chain {chain}: {said}"
    which = f"{int(drawn.sum()):,} of {drawn.size:,} draws and {faulty_proposals:,} of the proposals come from"
    return (not_numbers(which, example),)


def acceptance_doubts(accepted: np.ndarray) -> tuple[Reason, ...]:
    """Return what to say of chains that accept too few proposals or too many."""
    if accepted.shape[1] < MANY_DRAWS:
        return ()
    shares = accepted.mean(axis=1)
    low, high = ACCEPTANCE
    # What is below STUCK_ACCEPTANCE is said of every random walk.
    few = np.flatnonzero((shares < low) & (shares >= STUCK_ACCEPTANCE))
    found = []
    if len(few):
        sentence = f"Chain(s) {few.tolist()} accepted only {_percent(shares[few])} of the proposals."
        remedy = "Use more particles (a smaller target_sd), or a longer warm-up, num_warmup."
        found.append(Reason(sentence, remedy, Section.STICKS))
    many = np.flatnonzero(shares > high)
    if len(many):
        sentence = (
            f"Chain(s) {many.tolist()} accepted {_percent(shares[many])} of the proposals, which are too short to get "
            "anywhere."
        )
        found.append(Reason(sentence, "Use a longer warm-up, num_warmup.", Section.STICKS))
    return tuple(found)


def _percent(shares: np.ndarray) -> str:
    return ", ".join(significant(100 * float(share)) for share in shares) + " %"


def _differing(again: np.ndarray, stored: np.ndarray) -> tuple[str, ...]:
    """Return a sentence on runs that were made again and differ from the accepted ones."""
    differ = int(np.sum(~np.isclose(again, stored, rtol=1e-4, atol=1e-3)))
    if not differ:
        return ()
    return (f"{differ} of {again.size} replayed filter runs differ from the accepted ones by rounding",)
