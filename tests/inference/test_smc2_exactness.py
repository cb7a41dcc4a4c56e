r"""Are the move and the exchange of SMC2 exact?  From exact draws they must stay exact, whatever N.

As `tests.inference.exactness`, whose model and conditional filter it shares: theta and states from the prior, data
from the states, and the first estimate from a filter that keeps the drawn path, so that (theta, filter) begins in the
target.
After moves, and after an exchange to twice as many particles with its weight, every function of (theta, data) has the
same expectation.  Data go on after the steps that are taken in, and are nonsense there.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import ssmscan
from ssmscan.inference.smc2_filters import begin
from ssmscan.inference.smc2_run import exchange_weights
from ssmscan.inference.smc2_step import Law, Operand, Points, evaluate, move
from ssmscan.particles.draws import as_key
from tests.inference.exactness import FILTER, NUM_STEPS, conditional_log_likelihood, kalman, model
from tests.truth import z_threshold

ROOM = NUM_STEPS + 2
MOVES = 6
NAMES = ("theta", "theta^2", "log p(y|theta)")
STEPS = jnp.int32(NUM_STEPS)


def move_only(key, point, operand, settings):
    return settings, point, jnp.zeros(())


def exchange(key, point, operand, settings):
    more = settings.with_num_particles(2 * settings.num_particles)
    new = evaluate(more, key, operand.ssm, point.z, STEPS)
    return more, new, new.log_likelihood - point.log_likelihood


def exchange_without_weight(key, point, operand, settings):
    return *exchange(key, point, operand, settings)[:2], jnp.zeros(())


def redrawing(settings, key, point, operand, count):
    """Estimate the present point again before the move."""
    key, again = jax.random.split(key)
    return move(settings, key, evaluate(settings, again, operand.ssm, point.z, count), operand, count)


VARIANTS = {
    "right": (move_only, move),
    "right, exchanged": (exchange, move),
    "estimated again": (move_only, redrawing),
    "exchanged without weight": (exchange_without_weight, move),
}


@partial(jax.jit, static_argnames=("name", "num_particles", "num_replicates"))
def differences(key, ssm, *, name, num_particles, num_replicates):
    """Return after, weighed, minus before for each function, (num_replicates, 3)."""
    settings = FILTER.with_num_particles(num_particles)
    first, kernel = VARIANTS[name]

    def functions(theta, y):
        return jnp.stack([theta, theta**2, kalman(theta, y)])

    def one(key):
        keys = jax.random.split(key, 5)
        theta = ssm.sample_prior(keys[0])
        drawn = ssm.simulate(keys[1], theta)
        y, x = drawn["y"][:NUM_STEPS], drawn["x"][:NUM_STEPS]
        series = drawn["y"].at[NUM_STEPS:].set(50.0)
        data = jax.tree.map(lambda leaf: series if leaf.shape == series.shape else leaf, ssm)
        z = data.unconstrain(theta)
        estimate = conditional_log_likelihood(keys[2], num_particles, theta["theta"], drawn["x_0"], x, y)
        filters = begin(settings, as_key(jax.random.key_data(keys[2])), data, theta)
        nothing = jnp.zeros(2, jnp.uint32), jnp.zeros((), jnp.int32)
        prior = data.log_prior_unconstrained(z)[1]
        point = Points(ravel_pytree(z)[0], prior, estimate, *nothing, filters)

        def operand(forgets):
            law = Law(jnp.zeros(1), jnp.full((1, 1), 0.75), forgets, jnp.asarray(False))
            return Operand(data, as_key(jax.random.key(0)), STEPS, law)

        own, point, weight = first(as_key(jax.random.key_data(keys[3])), point, operand(jnp.asarray(False)), settings)

        def step(point, inputs):
            number, key = inputs
            return kernel(own, key, point, operand(number % 2 == 0), STEPS)[0], None

        moves = jnp.arange(MOVES), jax.random.split(as_key(jax.random.key_data(keys[4])), MOVES)
        point, _ = jax.lax.scan(step, point, moves)
        after = data.constrain({"theta": point.z[0]})["theta"]
        return jnp.exp(weight) * functions(after, y) - functions(theta["theta"], y)

    return jax.lax.map(one, jax.random.split(key, num_replicates), batch_size=100)


def z_scores(seed, name, num_particles, num_replicates):
    ssm = ssmscan.trace(model, np.zeros(ROOM))
    key = jax.random.key(seed)
    found = differences(key, ssm, name=name, num_particles=num_particles, num_replicates=num_replicates)
    found = np.asarray(found, np.float64)
    return found.mean(0) / (found.std(0, ddof=1) / np.sqrt(num_replicates))


@pytest.mark.heavy
@pytest.mark.parametrize("num_particles", [2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_move_is_exact(seed, num_particles):
    assert np.abs(z_scores(seed, "right", num_particles, 10_000)).max() < z_threshold(9 * len(NAMES))


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_exchange_is_exact(seed):
    assert np.abs(z_scores(seed, "right, exchanged", 8, 10_000)).max() < z_threshold(3 * len(NAMES))


@pytest.mark.heavy
@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("right")])
def test_a_wrong_move_is_rejected(name):
    assert np.abs(z_scores(0, name, 4, 10_000)).max() > z_threshold(9 * len(NAMES))


def test_the_weight_of_an_exchange_is_new_over_old():
    found = exchange_weights(np.array([-1.0, 2.0], np.float32), np.array([-2.0, 3.0], np.float32))
    assert found.tolist() == [1.0, -1.0]
