r"""NUTS on the noise-outside model.

The potential is minus the log posterior of `ssmscan.inference.posterior`: unconstrained parameters and the
standard normal base noise of every initial state and innovation move together; a state without a smooth map from noise
moves as it is.  The sampler, its adaptation of
step size and diagonal mass, and its tree are NumPyro's (Hoffman & Gelman 2014, *JMLR* 15, algorithm 6; Phan,
Pradhan & Jankowiak 2019), advanced in compiled chunks from the host.  `ssmscan.inference.nuts_start` chooses
where chains start and in what units parameters move.

Where the model has a Gaussian approximation, the noise that moves is the white one of `ssmscan.inference.whitening`,
after a first look at the posterior with noise as it is.

Divergences lead to one new warm-up with shorter steps: `ssmscan.inference.rewarming`.

Chains run side by side under vmap: a leapfrog step through a time loop costs mostly the loop, so that four
chains cost about twice one, although all wait for the longest tree.

Finite discrete states are summed out at every density (`ssmscan.model.discrete.enumeration`), and drawn given each kept
draw.  Prefer PMMH where they cannot be, and tempered SMC where the posterior has several modes or the evidence
is wanted.
"""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import HMCState

from ssmscan.arguments import require_flag, require_number
from ssmscan.inference.going_on import Checkpoint, begin, origin_of, strided
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.nuts_run import KEPT_NOISE, Run
from ssmscan.inference.nuts_start import INIT_ATTEMPTS, at_points, beginning, shapes_of_beginning
from ssmscan.inference.nuts_step import Drawn, NUTSStep, Operand, lowered_programs, start_chains
from ssmscan.inference.paths import STATES_STREAM, paths_from_noise
from ssmscan.inference.progress import Chunk, call_timed, compile_ahead, compile_chunk, compile_timed, phase, run_chunks
from ssmscan.inference.reporting import result_of
from ssmscan.inference.rewarming import REWARM_ACCEPT, REWARM_STREAM, rewarmed, too_many
from ssmscan.inference.settings import gradients_required, require_counts, require_result_can_hold
from ssmscan.inference.whitening import (
    WHITEN_STREAM,
    adaptation,
    guide_at,
    identity,
    middle,
    rewhitened,
    steps_of_a_look,
    units_of,
)
from ssmscan.model.keys import one_key
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_data
from ssmscan.results.health import stray, warn_of_concerns
from ssmscan.results.result import Result


@dataclass(frozen=True, kw_only=True)
class NUTS:
    """The No-U-Turn sampler on parameters and noise.

    Example:
        >>> import jax, ssmscan
        >>> from ssmscan import datasets
        >>> from ssmscan.stochastic_volatility import stochastic_volatility
        >>> ssm = ssmscan.trace(stochastic_volatility, datasets.gbpusd().values[:50])
        >>> nuts = ssmscan.NUTS(num_warmup=500, progress=False).run(jax.random.key(0), ssm)
        >>> nuts.title, nuts.states["h"].shape
        ('NUTS: 4 chains of 1000 draws', (4, 1000, 50))

    Attributes:
        num_warmup: steps of adaptation, not kept.
        num_samples: draws kept in each chain.
        num_chains: chains, side by side.
        target_accept: acceptance probability that the step size aims at; more where there are divergences.
        max_tree_depth: at most 2**max_tree_depth gradients a draw.
        num_paths: state paths kept in each chain, evenly spread over its draws.
        progress: whether to show a progress bar on a terminal.
        rewarm: whether divergences, one in a thousand draws or more, lead once to a new warm-up that aims at an
            acceptance of 0.99, after which the draws are made anew; never where target_accept is as high as that.
        whiten: whether noise is moved relative to the Gaussian approximation of the states, where the model has one,
            after the first third of the warm-up or 99 steps of it; see `ssmscan.inference.whitening`.
    """

    num_warmup: int = 1000
    num_samples: int = 1000
    num_chains: int = 4
    target_accept: float = 0.9
    max_tree_depth: int = 10
    num_paths: int = 1000
    progress: bool = True
    rewarm: bool = True
    whiten: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        require_counts(self, num_warmup=1, num_samples=1, num_chains=1, max_tree_depth=1, num_paths=0)
        require_number("target_accept", self.target_accept, 0.0, 1.0)
        require_flag("rewarm", self.rewarm)
        require_flag("whiten", self.whiten)
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
            start: a result of NUTS for this model, to whose chains `num_samples` draws each are added without warm-up;
                the draws are those of one longer run, bit by bit.
            checkpoint: a file that holds what there is, written now and then; a run that was killed goes on from it
                when it is called again in the same words.
            every: seconds between two writings.

        Returns:
            A `Result`; stopped by Control-C, it holds the draws made by then, none if still in warm-up.

        Raises:
            ModelError: if an innovation, initial state or parameter is not a smooth
                function of noise, nor a discrete state that can be summed out, or JAX has no gradient of the model;
                before anything is compiled.
            ValueError: if no starting point with a finite density is found, or `start` or `checkpoint` is of something
                else.
        """
        require_data(ssm)
        key = one_key(key)
        before, added_to, saving = begin(self, key, ssm, start, checkpoint, every)
        with hold_interrupts():
            result = self._sample(key, ssm, before, added_to + self.num_samples, saving)
        return warn_of_concerns(result)

    def _sample(
        self, key: jax.Array, ssm: StateSpaceModel, before: Result | None, wanted: int, saving: Checkpoint
    ) -> Result:
        require_result_can_hold(ssm, self)
        num_warmup = self.num_warmup if before is None else int(before.settings["num_warmup"])
        with gradients_required("NUTS"), phase("NUTS: compiling", progress=self.progress), interruptible():
            look = steps_of_a_look(num_warmup) if self.whiten else 0
            guide = identity(ssm) if look else None
            look = 0 if guide is None else look
            step = self._step(num_warmup, look)
            keys = jax.random.split(key, self.num_chains)
            start_seconds = 0.0
            if before is None:
                begun, start_seconds = beginning(key, ssm, self.num_chains)
                began = time.perf_counter()
                compile_ahead(*lowered_programs(step, keys, ssm, begun, guide))
                start, _ = compile_timed(start_chains, keys, ssm, begun, guide, step=step)
                start_seconds += time.perf_counter() - began
                states, found = start(keys, ssm, begun, guide)
                if not np.all(found):
                    raise ValueError(
                        f"no point with a finite log density in {INIT_ATTEMPTS} attempts for chain(s) "
                        f"{np.flatnonzero(~np.asarray(found)).tolist()}: look for data outside the support of their "
                        "distribution, or for a prior that reaches where the model has no value"
                    )
                run = Run.new(key, states, begun.unit, guide, self.target_accept, num_warmup, look)
            else:
                like = shapes_of_beginning(ssm, self.num_chains)
                shapes, _ = jax.eval_shape(partial(start_chains, step=step), keys, ssm, like, guide)
                run = Run.gone_on(before, key, shapes, like.unit, guide, look)
            chunk = compile_chunk(step, _operand(ssm, run), run.state, replicates=True)
        run.compile_seconds += start_seconds + chunk.compile_seconds
        self._advance(chunk, ssm, run, wanted, saving)
        if self._must_rewarm(run, wanted) and not run.interrupted:
            run.warm_up_again(jax.random.split(jax.random.fold_in(run.key, REWARM_STREAM), self.num_chains))
            self._advance(chunk, ssm, run, wanted, saving)
        return self._result(ssm, run)

    def _may_rewarm(self, run: Run) -> bool:
        return self.rewarm and run.first is None and self.target_accept < REWARM_ACCEPT

    def _must_rewarm(self, run: Run, wanted: int) -> bool:
        return self._may_rewarm(run) and not stray(run.tally.diverging, wanted * self.num_chains)

    def _advance(self, chunk: Chunk, ssm: StateSpaceModel, run: Run, wanted: int, saving: Checkpoint) -> None:
        """Warm up and draw, until there are too many divergences if another warm-up may follow."""
        again = "" if run.first is None else " again"
        if self._must_rewarm(run, wanted):
            return
        enough = too_many(run.tally.diverging, wanted * self.num_chains) if self._may_rewarm(run) else None

        def advance(label: str, num_steps: int, **options: Any) -> None:
            def build(state: HMCState, outputs: Drawn) -> Result:
                return self._result(ssm, run.ahead(state, outputs), whole=False)

            run.take(
                run_chunks(
                    chunk,
                    _operand(ssm, run),
                    run.state,
                    num_steps,
                    label=f"{label}{again}",
                    progress=self.progress,
                    checkpoint=saving.of(build),
                    **options,
                )
            )

        while run.looks_left and not run.interrupted:
            advance("NUTS first look" if run.looks_left > 1 else "NUTS second look", run.look_left)
            if not run.interrupted:
                self._whiten(ssm, run)
        if not run.interrupted:
            advance("NUTS warm-up", run.warmup_left)
        if not run.interrupted:
            advance("NUTS", max(wanted - run.done, 0), enough=enough)

    def _step(self, num_warmup: int, look: int) -> NUTSStep:
        return NUTSStep(adaptation(num_warmup, look), self.max_tree_depth)

    def _whiten(self, ssm: StateSpaceModel, run: Run) -> None:
        """Let the chains move white noise from where a look has led them."""
        center, sd = middle(run.state, run.unit)
        unit = units_of(sd, run.unit)
        # On the host, where they belong to no device: chains begin on one and are spread again.
        now = jax.tree.map(np.asarray, run.state.z)
        z = jax.tree.map(np.multiply, now["parameters"], run.unit)
        keys = jax.random.split(jax.random.fold_in(run.key, WHITEN_STREAM - run.looks_left), self.num_chains)
        step = self._step(run.num_warmup, run.look)
        # Control-C waits for the next draws: there a run keeps what it has.
        with phase("NUTS: compiling", progress=self.progress):
            guide, *seconds = call_timed(guide_at, ssm, jnp.asarray(center, float), jnp.asarray(sd, float))
            noise, *more = call_timed(rewhitened, ssm, run.guide, guide, z, now["noise"])
            (states, found), *last = call_timed(start_chains, keys, ssm, at_points(z, noise, unit), guide, step=step)
        spent = np.sum([seconds, more, last], axis=0)
        run.whiten(states if np.all(found) else None, unit, guide, *map(float, spent))

    def _result(self, ssm: StateSpaceModel, run: Run, *, whole: bool = True) -> Result:
        """Build the result; one that is not whole has no state paths."""
        kept = run.kept()
        by_chain = jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0), kept.outputs)
        wanted = strided(kept.done, self.num_paths if whole else 0, kept.stride)
        paths = paths_from_noise(
            jax.random.fold_in(run.key, STATES_STREAM),
            ssm,
            by_chain["draws"],
            by_chain["noise"],
            wanted,
            num_chains=self.num_chains,
            progress=self.progress and whole,
        )
        notes, doubts = rewarmed(run.first, kept.tally, stopped=kept is not run)
        result = result_of(
            self,
            ssm,
            draws=by_chain["draws"],
            paths=paths,
            wanted=len(wanted),
            sample_stats=_with_depth(by_chain["stats"], self.max_tree_depth),
            costs=run.costs,
            interrupted=run.interrupted or not whole,
            notes=notes,
            doubts=doubts,
            continuation=run.continuation(max(self.num_paths, KEPT_NOISE)),
            origin={"model": origin_of(ssm), **run.origin(max(self.num_paths, KEPT_NOISE))},
        )
        settings = {**result.settings, "num_warmup": run.num_warmup, "num_samples": result.num_draws}
        return dataclasses.replace(result, settings=settings)


def _operand(ssm: StateSpaceModel, run: Run) -> Operand:
    return ssm, run.unit, run.guide, jnp.asarray(run.target_accept, jnp.result_type(float))


def _with_depth(stats: dict[str, np.ndarray], limit: int) -> dict[str, np.ndarray]:
    """Add the depth of each tree, and whether it reached the limit: all doublings were made, and none turned."""
    depth = np.frexp(stats["n_steps"])[1]
    return {**stats, "tree_depth": depth, "reached_max_treedepth": stats["n_steps"] >= 2**limit - 1}
