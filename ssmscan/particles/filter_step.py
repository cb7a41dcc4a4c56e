r"""One step of every filter: resample if needed, propagate, weigh.

With carried log weights :math:`\log w_i` (below) and incremental ones :math:`g_i` of a proposal,

.. math::  \log \ell_t = \log \sum_i e^{\log w_i + g_i}, \qquad \log W_i = \log w_i + g_i - \log \ell_t .

:math:`\ell_t` estimates :math:`p(y_t | y_{1:t-1})`, their product the likelihood, without bias (Del Moral 2004, section
7.4.2; Chopin & Papaspiliopoulos 2020, algorithms 10.1 and 10.3).

The carried weight obeys one rule.  Without resampling it is :math:`\log W_i`.  Resampling with probabilities V, which
are W unless the proposal looks ahead, when :math:`V_i \propto W_i e^{h_i}`, makes it :math:`\log W_{a_i} - \log V_{a_i}
- \log N`, *never renormalised*.  The product is then unbiased for every scheme with :math:`E[\text{offspring of } i] =
N V_i` and every decision to resample that is a function of the past.  Renormalising biases auxiliary filters.

Gradients in theta see the same rule with :math:`\log V` held constant: the carried weight has value :math:`-\log N` but
the gradient of :math:`\log W_{a_i}` (Scibior & Wood 2021, arXiv 2106.10314).  An innovation that is no smooth function
of its noise puts the gradient of its log-density into its weight, see `ssmscan.model.noise.score`.

Here h is the sum of `Move.log_ahead`, known when a particle has moved, and of `log_auxiliary`, from the next input.  W
stays the filtering weight, that of summaries, stores and paths; whether to resample and the effective sample size
follow W exp(log_ahead): uneven filtering weights of a cloud that was drawn by what is still to come are no loss.

When every weight is zero the run goes on with equal weights, so that nothing is NaN and replicates beside it under vmap
are untouched, but its increments are -inf from there on and the status says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.model.noise.score import gradient_alone
from ssmscan.model.protocols import Dynamics
from ssmscan.model.threefry import threefry
from ssmscan.particles import settings_checks
from ssmscan.particles.draws import unrolled_threefry
from ssmscan.particles.loop import keep_for_gradient, scan_remembering_little
from ssmscan.particles.proposals import Move, Proposal
from ssmscan.particles.resampling import Resampling
from ssmscan.particles.weights import CompensatedSum, Sparsest, Weighed, normalise, uniform

COMPLETE, FAULTY, VANISHED = 0, 1, 2
"""Status: all is well; some log weight was NaN or +inf and counted as zero; every weight was zero."""


class Settings(Protocol):
    """What a step reads of a front object."""

    @property
    def num_particles(self) -> int:
        """N."""

    @property
    def resampling(self) -> Resampling:
        """Scheme that draws ancestors."""

    @property
    def threshold(self) -> float:
        """Resample when ESS < threshold * N; 1 is always, also on equal weights, and 0 is never."""

    @property
    def proposal(self) -> Proposal:
        """What moves and weighs."""


class State(NamedTuple):
    """A filter between two steps.

    Attributes:
        key: typed key of the run.
        keys: (2,) `step_keys` of the next step.  They are made one step ahead: made where they are used, XLA would
            fuse their derivation into the code that draws the noise, which takes minutes to compile.
        step: () int32, index of the next step.
        carry: carries of the particles, N in front.
        log_weights: (N,) normalised.
        weights: (N,) their exponentials.
        log_ahead: (N,) what the proposal sees ahead of each particle, see `Move`; None where it looks no further.
        ess: () effective sample size of the weights times exp(log_ahead).
        sparsest: the cloud where that was least; None where `log_ahead` is.
        log_likelihood: running log likelihood.
        pending: () log of the mean weight of a start that is weighed but not observed, which belongs to the increment
            of the first step, and 0 from there on; None where the particles of such a start are equal.
        status: () int32, COMPLETE, FAULTY or VANISHED.
        failed_step: () int32, step of the first event of that kind, the start being -1;
            `NOWHERE` while COMPLETE.
        faulty_step: () int32, first step with a log weight that is NaN or +inf, whatever came of it; else `NOWHERE`.
    """

    key: Array
    keys: Array
    step: Array
    carry: Any
    log_weights: Array
    weights: Array
    log_ahead: Array | None
    ess: Array
    sparsest: Sparsest | None
    log_likelihood: CompensatedSum
    pending: Array | None
    status: Array
    failed_step: Array
    faulty_step: Array


NOWHERE = -2
"""failed_step of a run without a failure, faulty_step of one without a fault."""


class StepInfo(NamedTuple):
    """What one step gave, beside the new state; what is stacked over the steps has no alive and nothing of the cloud.

    Attributes:
        increment: () estimate of log p(y_t | y_{1:t-1}); -inf from the step where all weights vanish.
        ess: () effective sample size after weighing; 0 from there on.
        resampled: () bool, whether the cloud was resampled before it moved.
        alive: () bool, whether there is weight left.
        ancestors: (N,) int32, index of each particle's parent in the cloud before.
        carried: (N,) carried log weights, before weighing.
        weights: (N,) normalised weights after weighing.
        moved: the cloud as the proposal returned it.
        summaries: by summary and site, where a filter has computed them.
        kept: what the store keeps of the cloud.
    """

    increment: Array
    ess: Array
    resampled: Array
    alive: Array
    ancestors: Array
    carried: Array
    weights: Array
    moved: Move
    summaries: dict[str, dict[str, Array]] = {}
    kept: Any = None

    def stacked(self, summaries: dict[str, dict[str, Array]], kept: Any) -> StepInfo:
        """Return what is stacked over the steps: numbers, summaries, and what is kept in place of the cloud."""
        numbers = self.increment, self.ess, self.resampled
        return StepInfo(*numbers, None, None, None, None, None, summaries, kept)  # type: ignore[arg-type]


class StartInfo(NamedTuple):
    """What the start of a filter gave.

    Attributes:
        state: the filter before the first step.
        values: values of the initial-state sites, N in front.
        increment: () estimate of the log-density of what is observed of the start; 0 where nothing is weighed.
    """

    state: State
    values: dict[str, Array]
    increment: Array


def start(settings: Settings, key: Array, dynamics: Dynamics) -> StartInfo:
    """Draw the initial cloud, and weigh it where the model observes its start or the proposal draws from another law.

    Args:
        settings: number of particles, proposal.
        key: a key made by `as_key`.
        dynamics: the model at theta.
    """
    n = settings.num_particles
    drawn = settings.proposal.begin(key, dynamics, n)
    state = State(
        key=key,
        keys=step_keys(key, 1),
        step=jnp.zeros((), np.int32),
        carry=drawn.carry,
        log_weights=uniform(n) + drawn.log_weight,
        weights=jnp.full(n, 1 / n, float),
        log_ahead=drawn.log_ahead,
        ess=jnp.full((), n, float),
        sparsest=None if drawn.log_ahead is None else Sparsest.of_equal(n),
        log_likelihood=CompensatedSum.zero(),
        pending=None,
        status=jnp.full((), COMPLETE, np.int32),
        failed_step=jnp.full((), NOWHERE, np.int32),
        faulty_step=jnp.full((), NOWHERE, np.int32),
    )
    if not dynamics.start_observed and drawn.log_prediction is None and drawn.log_ahead is None:
        # All are equal; what gradient they have is of draws without a smooth map, and stays until the first increment.
        return StartInfo(state, drawn.values, jnp.zeros(()))
    weighed = normalise(state.log_weights)
    state = _record(state, weighed, jnp.full((), -1, np.int32), drawn)
    if not dynamics.start_observed:
        state = state._replace(pending=weighed.log_sum)
    return StartInfo(state, drawn.values, weighed.log_sum)


def step_keys(key: Array, count: Array | int) -> Array:
    """Return the keys (resampling, move) of step number `count`, counted from 1."""
    low = np.uint32(2) * jnp.asarray(count, np.uint32) + jnp.arange(2, dtype=np.uint32)
    data = jnp.stack(threefry(jax.random.key_data(key), jnp.zeros_like(low), low), axis=-1)
    return jax.random.wrap_key_data(data, impl=unrolled_threefry)


def update(settings: Settings, state: State, dynamics: Dynamics, x: Any) -> tuple[State, StepInfo]:
    """Advance by one step: resample if needed, propagate, weigh.

    Compiled alone, XLA may round it differently in the last digit than inside a loop; `scan_updates` over two or more
    steps at a time gives the bits of the whole run.

    Args:
        settings: scheme, threshold, proposal.
        state: the filter before the step.
        dynamics: the model at theta.
        x: inputs of the step, one slice of `dynamics.xs`.
    """
    n, proposal = settings.num_particles, settings.proposal
    resample_key, move_key = state.keys

    # Resample, if needed: a particle is chosen by its weight, and by what the proposal sees ahead.
    needed = _needed(settings.threshold, state.ess, n)
    log_ahead, log_auxiliary = state.log_ahead, proposal.log_auxiliary(dynamics, state.carry, x, n)
    if log_auxiliary is not None:
        log_ahead = log_auxiliary if log_ahead is None else log_ahead + log_auxiliary
    carry, ancestors, carried = _resample(settings, resample_key, state, log_ahead, needed)

    # Propagate.
    moved = proposal.propagate(move_key, dynamics, carry, x, n)

    # Weigh: the log of the sum estimates log p(y_t | y_{1:t-1}).
    weighed = normalise(carried + moved.log_weight)

    # Record.
    new = _record(state, weighed, state.step, moved)
    alive = new.status != VANISHED
    increment = weighed.log_sum if state.pending is None else weighed.log_sum + state.pending
    info = StepInfo(
        increment=jnp.where(alive, increment, -jnp.inf),
        ess=new.ess,
        resampled=jnp.asarray(needed),
        alive=alive,
        ancestors=ancestors,
        carried=carried,
        weights=weighed.weights,
        moved=moved,
    )
    step = state.step + np.int32(1)
    pending = None if state.pending is None else jnp.zeros_like(state.pending)
    return new._replace(step=step, keys=step_keys(state.key, step + np.int32(1)), pending=pending), info


def _needed(threshold: float, ess: Array, n: int) -> Array | bool:
    """Decide from the past whether to resample; the extremes are known before compilation."""
    return bool(threshold) if threshold in (0, 1) else ess < threshold * n


def _resample(
    settings: Settings, key: Array, state: State, log_ahead: Array | None, needed: Array | bool
) -> tuple[Any, Array, Array]:
    """Choose ancestors where resampling is needed: their carries, their indices, and the log weights they carry."""
    n = settings.num_particles

    def resample(carry: Any, log_weights: Array, weights: Array) -> tuple[Any, Array, Array | None]:
        v = None if log_ahead is None else lax.stop_gradient(normalise(log_weights + log_ahead))
        ancestors = keep_for_gradient(settings.resampling(key, weights if v is None else v.weights, n))
        settings_checks.ancestors(ancestors, n)
        taken = jax.tree.map(lambda leaf: leaf.at[ancestors].get(mode="clip"), carry)
        return taken, ancestors, None if v is None else (log_weights - v.log_weights)[ancestors]

    def keep(carry: Any, log_weights: Array, _: Array) -> tuple[Any, Array, Array | None]:
        return carry, lax.iota(np.int32, n), None if log_ahead is None else log_weights

    cloud = state.carry, state.log_weights, state.weights
    if isinstance(needed, bool):
        carry, ancestors, ratio = (resample if needed else keep)(*cloud)
    else:
        carry, ancestors, ratio = lax.cond(needed, resample, keep, *cloud)
    if ratio is None:
        ratio = gradient_alone(state.log_weights[ancestors])
    return carry, ancestors, _carried(needed, ratio, state.log_weights)


def _carried(needed: Array | bool, ratio: Array, log_weights: Array) -> Array:
    """Return the log weights with which a cloud moves: after resampling W/V of its parents over N, else W."""
    return jnp.where(needed, ratio - math.log(len(ratio)), log_weights)


def _record(state: State, weighed: Weighed, step: Array, drawn: Move) -> State:
    """Record new weights: log likelihood, effective sample size, and the first step of the worst event."""
    event = jnp.where(weighed.log_sum == -jnp.inf, VANISHED, jnp.where(weighed.faulty, FAULTY, COMPLETE))
    status = jnp.maximum(state.status, event.astype(np.int32))
    # Once a cloud has vanished it goes on from states that cannot be.
    first_fault = weighed.faulty & (state.faulty_step == NOWHERE) & (state.status != VANISHED)
    ess, sparsest = weighed.ess, state.sparsest
    if drawn.log_ahead is not None and sparsest is not None:
        ahead = normalise(lax.stop_gradient(weighed.log_weights + drawn.log_ahead))
        ess, sparsest = ahead.ess, sparsest.or_sparser(ahead)
    return state._replace(
        carry=drawn.carry,
        log_weights=weighed.log_weights,
        weights=weighed.weights,
        log_ahead=drawn.log_ahead,
        ess=jnp.where(status == VANISHED, 0, ess),
        sparsest=sparsest,
        log_likelihood=state.log_likelihood.add(jnp.where(status == VANISHED, -jnp.inf, weighed.log_sum)),
        status=status,
        failed_step=jnp.where(status > state.status, step, state.failed_step),
        faulty_step=jnp.where(first_fault, step, state.faulty_step),
    )


def scan_updates(
    settings: Settings,
    state: State,
    dynamics: Dynamics,
    xs: Any,
    report: Callable[[Any, State, StepInfo], tuple[Any, Any]],
    *,
    begin: Callable[[dict[str, Array]], Any],
    length: int,
) -> tuple[State, dict[str, Array], Any, Any]:
    """Update once for each slice of xs: the whole series, or the next part of it.

    Args:
        settings, state, dynamics: as in `update`.
        xs: inputs, leaves with time in front.
        report: what to hand to the next step and what to stack of this one, from what the last one handed over, the
            new state and its `StepInfo`.
        begin: what to hand to the first step, from zeros of the shapes of the values of a step.
        length: number of slices.

    Returns:
        The last state, the values of its particles by site, what the last step handed over, and the stacked reports.
    """

    @partial(jax.jit, inline=True)
    def advance(state: State, x: Any) -> tuple[State, StepInfo]:
        return update(settings, state, dynamics, x)

    def step(loop: tuple[State, dict, Any], x: Any) -> tuple[tuple[State, dict, Any], Any]:
        state, info = advance(loop[0], x)
        held, stacked = report(loop[2], state, info)
        return (state, info.moved.values, held), stacked

    # Traced once, for the shapes of the values and in the loop.
    _, shapes = jax.eval_shape(advance, state, jax.tree.map(lambda leaf: leaf[0], xs))
    values = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.moved.values)
    (state, values, held), reports = scan_remembering_little(step, (state, values, begin(values)), xs, length)
    return state, values, held, reports
