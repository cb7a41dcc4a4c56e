r"""`DiscreteFilter`: the likelihood of states with finitely many values, every one of which is tried.

    PMMH(estimator=DiscreteFilter(8))

The discrete particle filter (Fearnhead & Clifford 2003, *JRSS B* 65(4), 887-899).  N particles with carries c and
weights w have N K children at a step, one for each of the K joint values v of its innovations,

.. math::  w_{ik} = w_i \; p(v_k | c_i, x_t) \; p(y_t | c_i, v_k, x_t), \qquad c_{ik} = h(c_i, v_k, x_t) .

Nothing is drawn.  The sum of the weights is the increment of the likelihood; children with the same carry are merged,
and if more than N are left, they are thinned to N without bias (`ssmscan.particles.optimal_resampling`).  The
estimate is therefore unbiased for every N, and exact as soon as N is the number of carries that can differ: for a
regime that is all that the carry remembers, the number of regimes.  It then is the forward recursion of a hidden
Markov model, which nobody told it of.

Its gradient is exact where nothing is thinned, and an unbiased one of the likelihood where something is: what is kept
with probability p has the weight w / p, with p held constant.

A path is followed from a final particle backwards.  Where it comes to merged children, it goes to one of them with
probability proportional to its weight, which is backward sampling; where nothing was thinned it is a draw from the
exact law of the states given the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.arguments import require_integer
from ssmscan.model.keys import loop_keys
from ssmscan.model.protocols import Dynamics, Model, Theta, Values
from ssmscan.model.statespace.element_dynamics import join_values
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_observed
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import PATH_STREAM, LikelihoodEstimate, OneStepAhead, SampledPath
from ssmscan.particles.filter_step import COMPLETE, FAULTY, VANISHED
from ssmscan.particles.finite_states import joint_values, num_joint, require_finite
from ssmscan.particles.optimal_resampling import leaders, merged, thinned
from ssmscan.particles.panels import each_filter
from ssmscan.particles.weights import CompensatedSum, without_faults


@dataclass(frozen=True)
class DiscreteFilter:
    """The likelihood of states with finitely many values, by weighted particles; an `Estimator`.

    Attributes:
        num_particles: N; the estimate is exact where no more carries can differ.

    Raises:
        ValueError: for fewer than one particle.
    """

    num_particles: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_particles", require_integer("num_particles", self.num_particles, at_least=1))

    @property
    def uses_later_data(self) -> bool:
        """Whether particles at a step know data of later steps: they do not."""
        return False

    def with_num_particles(self, num_particles: int) -> DiscreteFilter:
        """Return the same with another number of particles."""
        return DiscreteFilter(num_particles)

    def particle_steps(self, ssm: Model) -> int:
        """Count the children of all steps."""
        return sum(self.num_particles * num_joint(loop, loop.innovations) * loop.num_steps for loop in ssm.loops)

    def estimate(self, key: Array, ssm: Model, theta: Theta) -> LikelihoodEstimate:
        """Estimate the likelihood.

        Raises:
            ModelError: a state has a continuum of values, or there are too many joint values.
        """
        return _estimate(*_checked(key, ssm, theta), n=self.num_particles)[0]

    def one_step_ahead(self, key: Array, ssm: Model, theta: Theta) -> OneStepAhead:
        """Compute the predictive density of each observation given those before it; exact where nothing is thinned."""
        return _one_step_ahead(*_checked(key, ssm, theta), n=self.num_particles)

    def sample_path(self, key: Array, ssm: Model, theta: Theta) -> SampledPath:
        """Make the run of `estimate` again, and draw a path from its final weights to the start."""
        return _sample_path(*_checked(key, ssm, theta), n=self.num_particles)

    def describe(self, key: Array, ssm: Model, theta: Theta) -> str:
        """Return how the run of `estimate` with this key ended, in a sentence; on the host."""
        found, most = _estimate(*_checked(key, ssm, theta), n=self.num_particles)
        exact = (
            "The likelihood is exact."
            if int(most) <= self.num_particles
            else f"Up to {int(most)} states were thinned to {self.num_particles}."
        )
        return {
            COMPLETE: exact,
            VANISHED: "Every particle has weight zero: the data are impossible at these parameters, or only from "
            "states that were thinned out.",
            FAULTY: "Some log weight is not a number, or +inf: the model has no value there; it counted as zero.",
        }[int(found.status)]


def num_carries(key: Array, ssm: Model, theta: Theta, *, at_most: int) -> int:
    """Count the carries that differ at a step, the most of all steps, as far as so many particles can tell."""
    return int(_estimate(*_checked(key, ssm, theta), n=at_most)[1])


def _checked(key: Array, ssm: Model, theta: Theta) -> tuple[Array, Model, Theta]:
    require_observed(ssm)
    require_finite(ssm)
    for core in ssm.cores if isinstance(ssm, StateSpaceModel) else ():
        core.refuse_unless_pointwise()
    return as_key(key), ssm, ssm.canonical(theta)


class Tally(NamedTuple):
    """What the steps so far have told.

    Attributes:
        log_likelihood: of the data so far.
        faulty: () whether a log weight was not a number, or +inf.
        most: () int32, the largest number of different children with weight at a step.
        increment: () log density of the last data given those before them, -inf where nothing has weight.
    """

    log_likelihood: CompensatedSum
    faulty: Array
    most: Array
    increment: Array


class State(NamedTuple):
    """Particles between two steps.

    Attributes:
        carry: leaves (N, ...).
        log_weights: (N,) normalised, -inf where a place is empty.
        tally: what the steps so far have told.
    """

    carry: Any
    log_weights: Array
    tally: Tally


class Origins(NamedTuple):
    """Where the particles of a step come from.

    Attributes:
        source: (N,) int32, the child that each was.
        leader: (N K,) int32, the child that each child was merged with.
        log_weights: (N K,) of the children.
    """

    source: Array
    leader: Array
    log_weights: Array


def _kept(tally: Tally, carry: Any, log_weights: Array, uniform: Array, n: int) -> tuple[State, Origins]:
    """Merge children and thin them to n particles; the tally is that of the steps before."""
    clean = without_faults(log_weights)
    alive = lax.stop_gradient(clean) > -jnp.inf
    leader = leaders(carry, alive)
    total = merged(clean, leader)
    top = jnp.max(lax.stop_gradient(total))
    some = top > -jnp.inf
    shift = jnp.where(some, top, 0)
    # Where nothing has weight, the sum is not zero and neither it nor its gradient is of use.
    increment = shift + jnp.log(jnp.where(some, jnp.sum(jnp.exp(total - shift)), 1))
    normalised = total - increment
    chosen = thinned(uniform, normalised, n)
    ours = jnp.where(chosen.filled, normalised[chosen.source], -jnp.inf)
    ours = ours + lax.stop_gradient(jnp.where(chosen.filled, jnp.maximum(chosen.log_least - ours, 0), 0))
    told = jnp.where(some, increment, -jnp.inf)
    tally = Tally(
        tally.log_likelihood.add(told),
        tally.faulty | jnp.any(~(log_weights < jnp.inf)),
        jnp.maximum(tally.most, jnp.sum(total > -jnp.inf, dtype=np.int32)),
        told,
    )
    carry = jax.tree.map(lambda leaf: leaf[chosen.source], carry)
    return State(carry, ours, tally), Origins(chosen.source, leader, clean)


def _possible(log_law: Array, log_observation: Array) -> Array:
    """Add log-densities; what the first says cannot be has no weight, whatever the second says."""
    never = log_law == -jnp.inf
    return jnp.where(never, -jnp.inf, log_law + jnp.where(never, 0, log_observation))


class Run(NamedTuple):
    """One loop, or one element of a panel, filtered.

    Attributes:
        last: the last state.
        first, origins: origins at the start, and at the steps (T, ...).
        increments: (T + 1,) log predictive densities, of the start first.
        before: carries (T, N, ...) before each step, and their normalised log weights (T, N).
    """

    last: State
    first: Origins
    origins: Origins
    increments: Array
    before: tuple[Any, Array]


def run_discrete(key: Array, dynamics: Dynamics, n: int) -> Run:
    """Filter one loop, or one element of a panel."""
    uniforms = jax.random.uniform(key, (dynamics.num_steps + 1,))
    initial, innovations = joint_values(dynamics.initial), joint_values(dynamics.innovations)
    k, k_start = (max(map(len, values.values()), default=1) for values in (innovations, initial))
    start = jax.vmap(dynamics.evaluate_start, axis_size=k_start)(initial)
    nothing = Tally(CompensatedSum.zero(), jnp.zeros((), bool), jnp.zeros((), np.int32), jnp.zeros(()))
    log_weights = _possible(start.log_initial, start.log_observation)
    state, first = _kept(nothing, start.carry, log_weights, uniforms[0], n)

    def step(state: State, inputs: tuple[Any, Array]) -> tuple[State, tuple[Origins, Array, tuple[Any, Array]]]:
        x, uniform = inputs

        def children(carry: Any) -> Any:
            return jax.vmap(lambda values: dynamics.evaluate(carry, x, values), axis_size=k)(innovations)

        out = jax.vmap(children)(state.carry)
        flat = jax.tree.map(lambda leaf: leaf.reshape(n * k, *leaf.shape[2:]), out)
        law = _possible(jnp.repeat(state.log_weights, k), flat.log_transition)
        after, origins = _kept(state.tally, flat.carry, _possible(law, flat.log_observation), uniform, n)
        return after, (origins, after.tally.increment, (state.carry, state.log_weights))

    last, (origins, increments, before) = lax.scan(step, state, (dynamics.xs, uniforms[1:]))
    return Run(last, first, origins, jnp.concatenate([state.tally.increment[None], increments]), before)


@partial(jax.jit, static_argnames="n")
def _estimate(key: Array, ssm: Model, theta: Theta, *, n: int) -> tuple[LikelihoodEstimate, Array]:
    """Return the estimate, and the largest number of carries that differed at a step."""
    found = [
        each_filter(lambda key, at: run_discrete(key, at, n).last.tally, loop, theta, own, together=True)
        for own, loop in zip(loop_keys(key, len(ssm.loops)), ssm.loops)
    ]
    return _ended(found, ssm, theta), jnp.stack([jnp.max(tally.most) for tally in found]).max()


@partial(jax.jit, static_argnames="n")
def _one_step_ahead(key: Array, ssm: Model, theta: Theta, *, n: int) -> OneStepAhead:
    tallies, increments = [], []
    for own, loop in zip(loop_keys(key, len(ssm.loops)), ssm.loops):
        run = each_filter(lambda key, at: _tally(key, at, n), loop, theta, own, together=True)
        tallies.append(run[0])
        increments.append(run[1] if loop.panel is None else run[1].sum(0))
    whole = jnp.concatenate(increments)
    return OneStepAhead(whole, jnp.full_like(whole, jnp.inf), _ended(tallies, ssm, theta).status)


def _tally(key: Array, dynamics: Dynamics, n: int) -> tuple[Tally, Array]:
    run = run_discrete(key, dynamics, n)
    return run.last.tally, run.increments if dynamics.start_observed else run.increments[1:]


def _ended(found: list[Tally], ssm: Model, theta: Theta) -> LikelihoodEstimate:
    """Add up the loops, their elements, and what no state reaches."""
    total, faulty = CompensatedSum.zero(), jnp.zeros((), bool)
    for tally, loop in zip(found, ssm.loops):
        parts = jax.vmap(CompensatedSum.value)(jax.tree.map(jnp.atleast_1d, tally.log_likelihood))
        total, _ = lax.scan(lambda total, part: (total.add(part), None), total, parts)
        total, faulty = total.add(loop.log_static(theta)), faulty | jnp.any(tally.faulty)
    value = total.value()
    status = jnp.where(value == -jnp.inf, np.int32(VANISHED), np.int32(COMPLETE))
    return LikelihoodEstimate(value, jnp.where(faulty, np.int32(FAULTY), status))


@partial(jax.jit, static_argnames="n")
def _sample_path(key: Array, ssm: Model, theta: Theta, *, n: int) -> SampledPath:
    found: list[Tally] = []
    states: Values = {}
    for own, loop in zip(loop_keys(key, len(ssm.loops)), ssm.loops):
        tally, path = each_filter(lambda key, at: _path(key, at, n), loop, theta, own, together=True)
        found.append(tally)
        states |= join_values(path, loop.panel)
    return SampledPath(_ended(found, ssm, theta).log_likelihood, states)


def _path(key: Array, dynamics: Dynamics, n: int) -> tuple[Tally, Values]:
    """Make a run, and follow one of its paths backwards."""
    last, first, origins, *_ = run_discrete(key, dynamics, n)
    keys = jax.random.split(jax.random.fold_in(key, PATH_STREAM), dynamics.num_steps + 2)

    def child(place: Array, origins: Origins, key: Array) -> Array:
        """Draw one of the children that were merged in a place."""
        alike = origins.leader == origins.leader[origins.source[place]]
        return jax.random.categorical(key, jnp.where(alike, origins.log_weights, -jnp.inf)).astype(np.int32)

    def back(place: Array, inputs: tuple[Origins, Array]) -> tuple[Array, Array]:
        one = child(place, *inputs)
        parent, choice = jnp.divmod(one, len(inputs[0].leader) // n)
        return parent, choice

    final = jax.random.categorical(keys[-1], last.log_weights).astype(np.int32)
    begin, choices = lax.scan(back, final, (origins, keys[1:-1]), reverse=True)
    chosen = child(begin, first, keys[0])
    initial = {name: leaf[chosen] for name, leaf in joint_values(dynamics.initial).items()}
    moves = {name: leaf[choices] for name, leaf in joint_values(dynamics.innovations).items()}

    def along(carry: Any, inputs: tuple[Any, Values]) -> tuple[Any, Values]:
        out = dynamics.evaluate(carry, *inputs)
        return out.carry, out.deterministics

    _, computed = lax.scan(along, dynamics.evaluate_start(initial).carry, (dynamics.xs, moves))
    return last.tally, {**initial, **moves, **computed}
