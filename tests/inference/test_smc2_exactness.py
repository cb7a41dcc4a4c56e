r"""Are the move and the exchange of SMC2 exact?  From exact draws they must stay exact, whatever N.

As `tests.inference.exactness`, whose model and conditional filter it shares: theta and states from the prior, data
from the states, and the first estimate from a filter that keeps the drawn path, so that (theta, filter) begins in the
target.  After moves every function of (theta, data) has the same expectation.  After an exchange, with its weight, the
new estimate has the law of one by a filter of its size that keeps the path; it is from many particles to few, since
1 / Z of few has so heavy a tail that no mean of it is normal.  Data go on after the steps that are taken in, and are
nonsense there.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.contrib.control_flow import scan
from scipy.stats import multivariate_t

import ssmscan
from ssmscan.inference.smc2_filters import begin
from ssmscan.inference.smc2_run import exchange_weights
from ssmscan.inference.smc2_step import DEGREES, WIDER, Law, Operand, Points, evaluate, move, propose
from ssmscan.particles.draws import as_key
from tests.inference.exactness import FILTER, NOISE, NUM_STEPS, conditional_log_likelihood, kalman, model
from tests.truth import z_threshold

ROOM = NUM_STEPS + 2
MOVES = 6
NAMES = ("theta", "theta^2", "log p(y|theta)")
STEPS = jnp.int32(NUM_STEPS)
EXCHANGED = ("log Z - log p(y|theta)", "theta", "weight")
MANY, FEW = 48, 8


def quiet(y):
    """The same with a small scale, where estimates vary so little that the mean of exchange weights is normal."""
    theta = numpyro.sample("theta", dist.LogNormal(-1.5, 0.3))
    x_0 = numpyro.sample("x_0", dist.Normal(1.0, 1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(1.0 + 0.8 * (x - 1.0), theta))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=y)
        return x, None

    scan(transition, x_0, y)


def redrawing(settings, key, point, operand, count):
    """Estimate the present point again before the move."""
    key, again = jax.random.split(key)
    return move(settings, key, evaluate(settings, again, operand.ssm, point.z, count), operand, count)


def ours(key):
    return as_key(jax.random.key_data(key))


def drawn(key, ssm, num_particles):
    """Draw parameters, data, and the estimate of a filter that keeps the path."""
    keys = jax.random.split(key, 3)
    theta = ssm.sample_prior(keys[0])
    path = ssm.simulate(keys[1], theta)
    series = path["y"].at[NUM_STEPS:].set(50.0)
    data = jax.tree.map(lambda leaf: series if leaf.shape == series.shape else leaf, ssm)
    y, x = (path[name][:NUM_STEPS] for name in ("y", "x"))

    def kept(key, n):
        return conditional_log_likelihood(key, n, theta["theta"], path["x_0"], x, y)

    return theta, y, data, kept(keys[2], num_particles), kept


def score(found):
    found = np.asarray(found, np.float64)
    return found.mean(0) / (found.std(0, ddof=1) / np.sqrt(len(found)))


@partial(jax.jit, static_argnames=("kernel", "num_particles", "num_replicates"))
def moved(key, ssm, *, kernel, num_particles, num_replicates):
    """Return after moves minus before for each function, (num_replicates, 3)."""
    settings = FILTER.with_num_particles(num_particles)

    def functions(theta, y):
        return jnp.stack([theta, theta**2, kalman(theta, y)])

    def one(key):
        keys = jax.random.split(key, 3)
        theta, y, data, estimate, _ = drawn(keys[0], ssm, num_particles)
        z = data.unconstrain(theta)
        filters, prior = begin(settings, ours(keys[1]), data, theta), data.log_prior_unconstrained(z)[1]
        nothing = jnp.zeros(2, jnp.uint32), jnp.zeros((), jnp.int32)

        def step(point, inputs):
            number, key = inputs
            # As narrow as a posterior, so that the density of the proposal matters.
            law = Law(jnp.full(1, 0.2), jnp.full((1, 1), 0.4), number % 2 == 0, jnp.asarray(False))
            return kernel(settings, key, point, Operand(data, key, STEPS, law), STEPS)[0], None

        moves = jnp.arange(MOVES), jax.random.split(ours(keys[2]), MOVES)
        point, _ = jax.lax.scan(step, Points(ravel_pytree(z)[0], prior, estimate, *nothing, filters), moves)
        after = data.constrain({"theta": point.z[0]})["theta"]
        return functions(after, y) - functions(theta["theta"], y)

    return jax.lax.map(one, jax.random.split(key, num_replicates), batch_size=100)


@partial(jax.jit, static_argnames=("weighed", "num_replicates"))
def exchanged(key, ssm, *, weighed, num_replicates):
    """Return what is exchanged, with its weight, minus what is in the target with so many particles."""
    settings = FILTER.with_num_particles(FEW)

    def one(key):
        keys = jax.random.split(key, 3)
        theta, y, data, estimate, kept = drawn(keys[0], ssm, MANY)
        new = evaluate(settings, ours(keys[1]), data, ravel_pytree(data.unconstrain(theta))[0], STEPS).log_likelihood
        weight = jnp.exp(new - estimate) if weighed else jnp.ones(())
        exact, theta = kalman(theta["theta"], y), theta["theta"]
        right = kept(keys[2], FEW)
        return jnp.stack([weight * (new - exact) - (right - exact), weight * theta - theta, weight - 1.0])

    return jax.lax.map(one, jax.random.split(key, num_replicates), batch_size=100)


def z_of_moves(seed, kernel, num_particles, num_replicates=10_000):
    ssm = ssmscan.trace(model, np.zeros(ROOM))
    how = {"kernel": kernel, "num_particles": num_particles, "num_replicates": num_replicates}
    return score(moved(jax.random.key(seed), ssm, **how))


def z_of_exchange(seed, weighed, num_replicates=10_000):
    ssm = ssmscan.trace(quiet, np.zeros(ROOM))
    found = exchanged(jax.random.key(seed), ssm, weighed=weighed, num_replicates=num_replicates)
    return score(found if weighed else found[:, :1])


@pytest.mark.heavy
@pytest.mark.parametrize("num_particles", [2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_move_is_exact(seed, num_particles):
    assert np.abs(z_of_moves(seed, move, num_particles)).max() < z_threshold(9 * len(NAMES))


@pytest.mark.heavy
def test_a_move_that_estimates_the_present_point_again_is_rejected():
    assert np.abs(z_of_moves(0, redrawing, 4)).max() > z_threshold(9 * len(NAMES))


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_exchange_is_exact(seed):
    assert np.abs(z_of_exchange(seed, weighed=True)).max() < z_threshold(3 * len(EXCHANGED))


@pytest.mark.heavy
def test_an_exchange_without_weight_is_rejected():
    assert np.abs(z_of_exchange(0, weighed=False)[0]) > z_threshold(3 * len(EXCHANGED))


def test_the_weight_of_an_exchange_is_new_over_old():
    found = exchange_weights(np.array([-1.0, 2.0], np.float32), np.array([-2.0, 3.0], np.float32))
    assert found.tolist() == [1.0, -1.0]


def test_the_ratio_of_a_forgetful_proposal_is_that_of_scipys_t():
    mean, factor, z = np.array([0.3, -1.0]), np.array([[1.2, 0.0], [0.5, 0.4]]), np.array([0.1, 0.7])
    shape = WIDER**2 * factor @ factor.T
    drawn, ratio = propose(as_key(jax.random.key(0)), jnp.asarray(z, float), Law.of(mean, factor, forgets=True))
    before, after = (multivariate_t.logpdf(x, mean, shape, DEGREES) for x in (z, np.asarray(drawn)))
    np.testing.assert_allclose(ratio, before - after, rtol=1e-4)
    assert propose(as_key(jax.random.key(0)), jnp.asarray(z, float), Law.of(mean, factor))[1] == 0
