r"""NUTS on the noise-outside model.

The potential is minus the log posterior of `ssmscan.inference.posterior`: unconstrained parameters and the
standard normal base noise of every initial state and innovation move together; a state without a smooth map from noise
moves as it is.  The sampler, its adaptation of
step size and diagonal mass, and its tree are NumPyro's (Hoffman & Gelman 2014, *JMLR* 15, algorithm 6; Phan,
Pradhan & Jankowiak 2019), advanced in compiled chunks from the host.  `ssmscan.inference.nuts_start` chooses
where chains start and in what units parameters move.

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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import NUTS as Kernel
from numpyro.infer.hmc import HMCState
from numpyro.infer.util import ParamInfo

from ssmscan.arguments import require_flag, require_number
from ssmscan.inference.going_on import Checkpoint, begin, origin_of, strided
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.nuts_run import KEPT_NOISE, Run
from ssmscan.inference.nuts_start import (
    INIT_ATTEMPTS,
    Beginning,
    beginning,
    in_units,
    shapes_of_beginning,
    starting_point,
)
from ssmscan.inference.paths import STATES_STREAM, paths_from_noise
from ssmscan.inference.posterior import Position, log_posterior
from ssmscan.inference.progress import Chunk, compile_chunk, compile_timed, phase, run_chunks
from ssmscan.inference.reporting import result_of
from ssmscan.inference.rewarming import REWARM_ACCEPT, REWARM_STREAM, diverged, rewarmed
from ssmscan.inference.settings import gradients_required, require_counts, require_result_can_hold
from ssmscan.inference.spreading import side_by_side
from ssmscan.model.keys import one_key
from ssmscan.model.protocols import Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_observed
from ssmscan.particles.loop import each
from ssmscan.results.health import warn_of_concerns
from ssmscan.results.result import Result

Operand = tuple[StateSpaceModel, Theta, jax.Array]
Drawn = dict[str, dict[str, jax.Array]]
"""Of each chain "draws" and "noise" by site, and "stats" by name."""


@dataclass(frozen=True)
class NUTSStep:
    """One NUTS transition of every chain; see `ssmscan.inference.progress.Step`.

    The operand is (ssm, unit of each parameter, the acceptance that warm-up aims at).
    """

    num_warmup: int
    max_tree_depth: int

    def potential(self, ssm: StateSpaceModel, unit: Theta) -> Callable[[dict], jax.Array]:
        """Build minus the log posterior as a function of parameters in units, and noise."""
        return lambda z: -log_posterior(ssm, Position(in_units(z["parameters"], unit), z["noise"]))

    def kernel(self, ssm: StateSpaceModel, unit: Theta, target_accept: jax.Array | float = 0.8) -> Kernel:
        """Build NumPyro's kernel for this model."""
        return Kernel(
            potential_fn=self.potential(ssm, unit),
            max_tree_depth=self.max_tree_depth,
            target_accept_prob=target_accept,
        )

    def init(self, key: jax.Array, ssm: StateSpaceModel, unit: Theta, point: ParamInfo) -> HMCState:
        """Start one chain at a point with its density and gradient, which are not computed and compiled again."""
        return self.kernel(ssm, unit).init(key, self.num_warmup, point)

    def __call__(self, operand: Operand, states: HMCState) -> tuple[HMCState, Drawn]:
        """Advance all chains; states has the chains in front."""
        ssm, unit, target_accept = operand
        kernel = self.kernel(ssm, unit, target_accept)

        def advance(state: HMCState) -> tuple[HMCState, dict[str, jax.Array]]:
            # NumPyro's kernel learns its warm-up schedule in init; with the gradient given, nothing is evaluated.
            kernel.init(state.rng_key, self.num_warmup, ParamInfo(state.z, state.potential_energy, state.z_grad))
            state = kernel.sample(state, (), {})
            return state, ssm.constrain(in_units(state.z["parameters"], unit))

        states, draws = side_by_side(advance, states)
        return states, {
            "draws": draws,
            "noise": states.z["noise"],
            "stats": {
                "acceptance_rate": states.accept_prob,
                "diverging": states.diverging,
                "energy": states.energy,
                "n_steps": states.num_steps,
                "step_size": states.adapt_state.step_size,
            },
        }


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
        rewarm: whether a divergence among the draws leads, once, to a new warm-up that aims at an acceptance of 0.99,
            after which the draws are made anew; never where target_accept is as high as that.
    """

    num_warmup: int = 1000
    num_samples: int = 1000
    num_chains: int = 4
    target_accept: float = 0.9
    max_tree_depth: int = 10
    num_paths: int = 1000
    progress: bool = True
    rewarm: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        require_counts(self, num_warmup=1, num_samples=1, num_chains=1, max_tree_depth=1, num_paths=0)
        require_number("target_accept", self.target_accept, 0.0, 1.0)
        require_flag("rewarm", self.rewarm)
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
        require_observed(ssm)
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
        step = NUTSStep(num_warmup, self.max_tree_depth)
        with gradients_required("NUTS"), phase("NUTS: compiling", progress=self.progress), interruptible():
            keys = jax.random.split(key, self.num_chains)
            start_seconds = 0.0
            if before is None:
                begun, draw_seconds = beginning(key, ssm, self.num_chains)
                start, start_seconds = compile_timed(_start, keys, ssm, begun, step=step)
                start_seconds += draw_seconds
                states, found = start(keys, ssm, begun)
                if not np.all(found):
                    raise ValueError(
                        f"no point with a finite log density in {INIT_ATTEMPTS} attempts for chain(s) "
                        f"{np.flatnonzero(~np.asarray(found)).tolist()}: look for data outside the support of their "
                        "distribution, or for a prior that reaches where the model has no value"
                    )
                run = Run.new(key, states, begun.unit, self.target_accept, num_warmup)
            else:
                like = shapes_of_beginning(ssm, self.num_chains)
                shapes, _ = jax.eval_shape(partial(_start, step=step), keys, ssm, like)
                run = Run.gone_on(before, key, shapes, like.unit)
            chunk = compile_chunk(step, _operand(ssm, run), run.state, replicates=True)
        run.compile_seconds += start_seconds + chunk.compile_seconds
        self._advance(chunk, ssm, run, wanted, saving)
        if self._may_rewarm(run) and run.tally.diverging and not run.interrupted:
            run.warm_up_again(jax.random.split(jax.random.fold_in(run.key, REWARM_STREAM), self.num_chains))
            self._advance(chunk, ssm, run, wanted, saving)
        return self._result(ssm, run)

    def _may_rewarm(self, run: Run) -> bool:
        return self.rewarm and run.first is None and self.target_accept < REWARM_ACCEPT

    def _advance(self, chunk: Chunk, ssm: StateSpaceModel, run: Run, wanted: int, saving: Checkpoint) -> None:
        """Warm up and draw, until a divergence if another warm-up may follow."""
        operand, again = _operand(ssm, run), "" if run.first is None else " again"
        enough = diverged if self._may_rewarm(run) else None
        if enough is not None and run.tally.diverging:
            return

        def advance(label: str, num_steps: int, **options: Any) -> None:
            def build(state: HMCState, outputs: Drawn) -> Result:
                return self._result(ssm, run.ahead(state, outputs), whole=False)

            run.take(
                run_chunks(
                    chunk,
                    operand,
                    run.state,
                    num_steps,
                    label=f"{label}{again}",
                    progress=self.progress,
                    checkpoint=saving.of(build),
                    **options,
                )
            )

        advance("NUTS warm-up", run.warmup_left)
        if not run.interrupted:
            advance("NUTS", max(wanted - run.done, 0), enough=enough)

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
    return ssm, run.unit, jnp.asarray(run.target_accept, jnp.result_type(float))


def _with_depth(stats: dict[str, np.ndarray], limit: int) -> dict[str, np.ndarray]:
    """Add the depth of each tree, and whether it reached the limit: all doublings were made, and none turned."""
    depth = np.frexp(stats["n_steps"])[1]
    return {**stats, "tree_depth": depth, "reached_max_treedepth": stats["n_steps"] >= 2**limit - 1}


@partial(jax.jit, static_argnames=("step",))
def _start(keys: jax.Array, ssm: StateSpaceModel, begun: Beginning, *, step: NUTSStep) -> tuple[HMCState, jax.Array]:
    """Find a starting point for each chain and initialise the kernel; says for which chains it was found."""

    def one(chain: tuple[jax.Array, Theta]) -> tuple[HMCState, jax.Array]:
        (key_point, key_chain), own = jax.random.split(chain[0]), begun._replace(candidates=chain[1])
        point, found = starting_point(key_point, ssm, step.potential(ssm, begun.unit), own)
        return step.init(key_chain, ssm, begun.unit, point), found

    return each(one, (keys, begun.candidates))
