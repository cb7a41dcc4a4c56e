r"""The estimate of the likelihood of a particle filter that is known to contain an exact path.

A bootstrap filter with multinomial resampling draws its random numbers u from :math:`\psi(u)` and estimates
:math:`\hat Z(u)`.  Run beside a path drawn from p(x | y, theta), which one of the particles follows, its random numbers
are drawn from

.. math::  \frac{\hat Z(u)}{p(y | \theta)} \, \psi(u)

(Andrieu, Doucet & Holenstein 2010, *JRSS B* 72(3), theorem 4): the stationary law of pseudo-marginal samplers.  So the
estimate b of such a run among n fresh ones is the largest, the smallest, ... with known probabilities: given the n + 1
numbers, in no order, the one that is the conditional run's is number i with probability
:math:`W_i = \hat Z_i / \sum_j \hat Z_j`, whatever n and N are.  `position` makes a uniform number of that.

The filter is written here a second time, in the few lines of the textbook, and shares with `ParticleFilter` only the
model.  It resamples where the effective sample size is below a share of N, as there; the path stays in slot 0.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from ssmscan.model.protocols import Dynamics, Model, Theta, Values
from ssmscan.model.statespace.dynamics import draw_noise
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.draws import as_key
from ssmscan.particles.panels import each_filter, split


def conditional_log_likelihood(
    key: jax.Array, ssm: StateSpaceModel, theta: Theta, states: Values, *, num_particles: int, threshold: float
) -> jax.Array:
    """Estimate log p(y | theta) by a filter one of whose particles follows given states, a scalar.

    Args:
        key: PRNG key.
        ssm: the model.
        theta: the parameters.
        states: values of all latent sites.
        num_particles: N, the path included.
        threshold: resample where ESS < threshold * N.
    """
    run = partial(_run, num_particles=num_particles, threshold=threshold)
    total = ssm.log_static(theta)
    for number, loop in enumerate(ssm.loops):
        names = {site.name for site in (*loop.initial, *loop.innovations)}
        path = {name: value for name, value in states.items() if name in names}
        total = total + _of_loop(run, as_key(jax.random.fold_in(key, number)), loop, theta, path)
    return total


def position(key: jax.Array, values: jax.Array, log_weights: jax.Array, true: int = 0) -> jax.Array:
    """Return where value number `true` lies among all by weight, a uniform number if it was drawn by the weights.

    Args:
        key: PRNG key; ties, and the weight of the value itself, are divided at random.
        values: (n,) what is ordered.
        log_weights: (n,) up to a constant.
        true: number of the value.
    """
    weights = jax.nn.softmax(log_weights)
    below = jnp.sum(jnp.where(values < values[true], weights, 0.0))
    equal = jnp.sum(jnp.where(values == values[true], weights, 0.0))
    return below + equal * jax.random.uniform(key, (), weights.dtype)


def _of_loop(run: Any, key: jax.Array, loop: Model, theta: Theta, path: Values) -> jax.Array:
    if loop.panel is None:
        return each_filter(partial(run, path=path), loop, theta, key)
    places, size = dict(loop.panel.values), loop.panel.size
    each = {name: split(value, places[name], size) for name, value in path.items()}
    return jnp.sum(each_filter(run, loop, theta, key, each))


def _run(key: jax.Array | None, dynamics: Dynamics, path: Values, *, num_particles: int, threshold: float) -> jax.Array:
    assert key is not None
    n, log_n = num_particles, jnp.log(jnp.asarray(num_particles, float))
    initial = {site.name: path[site.name] for site in dynamics.initial}
    steps = {site.name: path[site.name] for site in dynamics.innovations}
    key_start, key_steps = jax.random.split(key)

    def noise_of(key: jax.Array, specs: Any) -> Any:
        return jax.vmap(lambda own: draw_noise(jax.random.wrap_key_data(own), specs))(
            jax.random.key_data(jax.random.split(key, n))
        )

    # The start: the path in slot 0.
    drawn = jax.vmap(dynamics.init, axis_size=n)(noise_of(key_start, dynamics.initial_noise))
    own = dynamics.evaluate_start(initial)
    carry = jax.tree.map(lambda all_of, one: all_of.at[0].set(one), drawn.carry, own.carry)
    log_weights = drawn.log_weight.at[0].set(own.log_observation + own.log_excess)
    first = logsumexp(log_weights) - log_n

    def step(cloud: tuple, inputs: tuple) -> tuple[tuple, jax.Array]:
        (carry, log_weights), (key, x, values) = cloud, inputs
        key_parents, key_noise = jax.random.split(key)
        w = jax.nn.log_softmax(log_weights)

        # Resample the others.
        needed = jnp.exp(-logsumexp(2 * w)) < threshold * n
        parents = jax.random.categorical(key_parents, w, shape=(n,)).at[0].set(0)
        parents = jnp.where(needed, parents, jnp.arange(n))
        carried = jnp.where(needed, -log_n, w)

        # Propagate and weigh: the path in slot 0.
        taken = jax.tree.map(lambda leaf: leaf[parents], carry)
        moved = jax.vmap(dynamics.step, in_axes=(0, None, 0), axis_size=n)(
            taken, x, noise_of(key_noise, dynamics.step_noise)
        )
        own = dynamics.evaluate(jax.tree.map(lambda leaf: leaf[0], carry), x, values)
        carry = jax.tree.map(lambda all_of, one: all_of.at[0].set(one), moved.carry, own.carry)
        increments = moved.log_weight.at[0].set(own.log_observation + own.log_excess)
        increments = jnp.where(increments < jnp.inf, increments, -jnp.inf)
        return (carry, carried + increments), logsumexp(carried + increments)

    keys = jax.random.split(key_steps, dynamics.num_steps)
    _, terms = lax.scan(step, (carry, log_weights), (keys, dynamics.xs, steps))
    return first + jnp.sum(terms)
