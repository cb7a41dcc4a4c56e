"""The discrete particle filter: exact where it has a particle for every carry, unbiased where it has fewer."""

from __future__ import annotations

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp
from scipy.stats import norm

import ssmscan
from ssmscan import DiscreteFilter, ImportanceSampler, ParticleFilter, Replicates
from ssmscan.particles import discrete_filter, optimal_resampling
from ssmscan.particles.filter_step import COMPLETE, FAULTY, VANISHED
from ssmscan.particles.finite_states import can_enumerate
from ssmscan.particles.optimal_resampling import leaders, merged, thinned
from tests.model.test_summing import MODELS
from tests.particles.unbiased import ratio
from tests.truth import hmm_forward_backward, z_threshold

KEY = jax.random.key(0)
LEVELS = np.array([-1.0, 0.5, 2.0])
ROWS = np.random.default_rng(1).dirichlet(np.ones(3), 3)
FIRST = np.array([0.2, 0.3, 0.5])
Y = np.random.default_rng(2).normal(size=12)


def hidden_markov(y, start=None):
    """Three states; the start is drawn, and may be observed."""
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    levels, rows = jnp.asarray(LEVELS), jnp.asarray(ROWS)
    z = numpyro.sample("z0", dist.Categorical(jnp.asarray(FIRST)))
    if start is not None:
        numpyro.sample("y0", dist.Normal(levels[z], sd), obs=start)

    def step(z, yt):
        z = numpyro.sample("z", dist.Categorical(rows[z]))
        numpyro.deterministic("mean", levels[z] + 1.0)
        numpyro.sample("y", dist.Normal(levels[z], sd), obs=yt)
        return z, None

    scan(step, z, y)


def markov_truth(sd, start):
    """The same by forward and backward recursions in NumPy; where the start is not observed its density is one."""
    with np.errstate(invalid="ignore"):
        seen = np.concatenate([[np.nan if start is None else start], Y])[:, None]
        emission = norm.logpdf(seen, LEVELS, sd)
    return hmm_forward_backward(FIRST, ROWS, np.nan_to_num(emission, nan=0.0))


@pytest.mark.parametrize("precision", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_a_particle_for_every_state_gives_the_forward_recursion(precision):
    with jax.enable_x64(precision == "float64"):
        ssm, truth = ssmscan.trace(hidden_markov, Y, start=0.3), markov_truth(0.8, 0.3)
        found = DiscreteFilter(3).estimate(KEY, ssm, {"sd": 0.8})
        assert found.log_likelihood.dtype == precision and found.status == COMPLETE
        rounding = 1e-6 if precision == "float32" else 1e-14
        np.testing.assert_allclose(found.log_likelihood, truth.log_likelihood, rtol=rounding)


@pytest.mark.slow
def test_paths_are_draws_from_the_smoothed_law():
    ssm, truth, count = ssmscan.trace(hidden_markov, Y, start=0.3), markov_truth(0.8, 0.3), 4000
    keys, theta = jax.random.split(KEY, count), ssm.canonical({"sd": 0.8})
    paths = jax.jit(jax.vmap(lambda key: DiscreteFilter(3).sample_path(key, ssm, theta)))(keys)
    np.testing.assert_allclose(paths.log_likelihood, truth.log_likelihood, rtol=1e-6)
    z = np.concatenate([paths.states["z0"][:, None], paths.states["z"]], axis=1)
    shares = np.stack([(z == k).mean(0) for k in range(3)], axis=1)
    errors = np.sqrt(truth.smoothed * (1 - truth.smoothed) / count)
    assert np.all(np.abs(shares - truth.smoothed) < z_threshold(shares.size) * errors)
    pairs = truth.filtered[0][:, None] * ROWS * truth.smoothed[1] / (truth.filtered[0] @ ROWS)
    moves = np.stack([[((z[:, 0] == i) & (z[:, 1] == j)).mean() for j in range(3)] for i in range(3)])
    assert np.all(np.abs(moves - pairs) < z_threshold(9) * np.sqrt(pairs * (1 - pairs) / count))
    np.testing.assert_allclose(paths.states["mean"], LEVELS[z[:, 1:]] + 1.0, rtol=1e-6)


def switching(y):
    """A level that remembers when its regime was on: no two paths have the same carry, 2^T of them."""
    rate = numpyro.sample("rate", dist.Beta(2.0, 2.0))

    def step(carry, yt):
        z, level = carry
        z = numpyro.sample("z", dist.Bernoulli(jnp.where(z == 1, 0.7, 0.4)))
        level = rate * level + 0.5 * z
        numpyro.sample("y", dist.Normal(level, 0.7), obs=yt)
        return (z, level), None

    scan(step, (0, 1.0), y)


STEPS = np.array([0.3, 1.2, 0.8, 0.1, 1.5, 0.9])


def every_path(rate, y):
    """Log of the sum over all paths, and the probability that z_t = 1 at each step."""
    paths = np.array(list(itertools.product((0, 1), repeat=len(y))))
    z, level, log_joint = np.zeros(len(paths)), np.ones(len(paths)), np.zeros(len(paths))
    for new, yt in zip(paths.T, y):
        p = np.where(z == 1, 0.7, 0.4)
        level = rate * level + 0.5 * new
        log_joint += np.log(np.where(new == 1, p, 1 - p)) + norm.logpdf(yt, level, 0.7)
        z = new
    total = logsumexp(log_joint)
    return total, np.exp(log_joint - total) @ paths


def bias(seed, count, n=3):
    ssm, theta = ssmscan.trace(switching, STEPS), {"rate": 0.6}
    keys = jax.random.split(jax.random.key(seed), count)
    run = jax.jit(jax.vmap(lambda key: DiscreteFilter(n).estimate(key, ssm, ssm.canonical(theta)).log_likelihood))
    return ratio(np.asarray(run(keys), np.float64), every_path(0.6, STEPS)[0])


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_three_particles_of_64_paths_are_unbiased(seed):
    found = bias(seed, 20_000)
    assert 0.02 < found.sd < 0.5 and found.error < 0.003
    assert found.accepted(3), found


def forgotten(uniform, log_weights, n):
    """Keep the weights of the light ones as they were."""
    return thinned(uniform, log_weights, n)._replace(log_least=jnp.array(-jnp.inf))


def heaviest(uniform, log_weights, n):
    """Keep the n heaviest with a common factor, as a beam search would."""
    if len(log_weights) <= n:
        return thinned(uniform, log_weights, n)
    order = jnp.argsort(-log_weights)[:n].astype(jnp.int32)
    return optimal_resampling.Thinned(order, jnp.ones(n, bool), jnp.array(-jnp.inf))


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [forgotten, heaviest])
def test_the_same_test_rejects_weights_that_are_not_made_up_for(wrong):
    with mock.patch.object(discrete_filter, "thinned", wrong):
        jax.clear_caches()
        found = bias(0, 20_000)
    jax.clear_caches()
    assert abs(found.bias) > z_threshold(3) * max(found.error, 1e-3)


@pytest.mark.slow
def test_merged_weights_that_are_not_added_give_another_likelihood():
    def one_alone(log_weights, leader):
        return jnp.where(leader == jnp.arange(len(leader)), log_weights, -jnp.inf)

    ssm = ssmscan.trace(hidden_markov, Y)
    right = markov_truth(0.8, None).log_likelihood
    np.testing.assert_allclose(DiscreteFilter(3).estimate(KEY, ssm, {"sd": 0.8}).log_likelihood, right, rtol=1e-6)
    with mock.patch.object(discrete_filter, "merged", one_alone):
        jax.clear_caches()
        wrong = DiscreteFilter(3).estimate(KEY, ssm, {"sd": 0.8}).log_likelihood
    jax.clear_caches()
    assert abs(float(wrong) - right) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("n", [64, 3])
def test_paths_weighted_by_their_estimates_have_the_law_of_the_states_given_the_data(n):
    """With fewer particles E[Z_hat 1(z_t = 1)] = Z P(z_t = 1 | y): what samplers of the parameters rely on."""
    ssm, theta = ssmscan.trace(switching, STEPS), {"rate": 0.6}
    total, exact = every_path(0.6, STEPS)
    keys = jax.random.split(KEY, 10_000)
    paths = jax.jit(jax.vmap(lambda key: DiscreteFilter(n).sample_path(key, ssm, ssm.canonical(theta))))(keys)
    terms = np.exp(np.asarray(paths.log_likelihood, float) - total)[:, None] * np.asarray(paths.states["z"])
    z = (terms.mean(0) - exact) / (terms.std(0) / len(keys) ** 0.5)
    assert np.all(np.abs(z) < z_threshold(len(STEPS))), z


@pytest.mark.slow
def test_its_gradient_is_unbiased_too_where_particles_are_thinned():
    ssm, step = ssmscan.trace(switching, STEPS), 1e-5
    low, high = (np.exp(every_path(0.6 + side * step, STEPS)[0]) for side in (-1, 1))

    def likelihood(rate, key):
        return jnp.exp(DiscreteFilter(3).estimate(key, ssm, {"rate": rate}).log_likelihood)

    found = np.asarray(jax.jit(jax.vmap(jax.grad(likelihood), (None, 0)))(0.6, jax.random.split(KEY, 10_000)), float)
    z = (found.mean() - (high - low) / (2 * step)) / (found.std() / 100)
    assert found.std() > 0 and abs(z) < z_threshold(), z


@pytest.mark.slow
@pytest.mark.parametrize("name", ["second_order", "spells_of_elements", "scaled_and_masked"])
def test_the_forward_recursion_and_a_filter_that_knows_nothing_of_it_agree(name):
    model, arguments = next((model, data) for model, data in MODELS.items() if model.__name__ == name)
    ssm = ssmscan.trace(model, *arguments)
    exact, estimator = ssm.log_likelihood_given_noise({}, {}), DiscreteFilter(32)
    np.testing.assert_allclose(estimator.estimate(KEY, ssm, {}).log_likelihood, exact, rtol=1e-5)
    assert estimator.describe(KEY, ssm, {}) == "The likelihood is exact."
    other = jax.eval_shape(lambda key: ParticleFilter(2).sample_path(key, ssm, {}).states, KEY)
    found = jax.eval_shape(lambda key: estimator.sample_path(key, ssm, {}).states, KEY)
    assert found == other


# ---- merging and thinning ------------------------------------------------------------------------


@pytest.fixture(params=["pairs", "sorted"])
def route(request):
    with mock.patch.object(optimal_resampling, "PAIRWISE", 64 if request.param == "pairs" else 0):
        yield request.param


def test_equal_carries_are_merged_and_a_collision_of_hashes_merges_nothing(route):
    carry = {"a": jnp.array([1, 2, 1, 1, 2, 1]), "b": jnp.array([0.0, jnp.nan, 0.0, -0.0, jnp.nan, 0.0])}
    alive = jnp.array([True, True, True, True, True, False])
    found = np.asarray(jax.jit(leaders)(carry, alive))
    assert found[0] == found[2] and found[1] == found[4] and len(set(found)) == 4
    log_weights = jnp.where(alive, jnp.log(jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])), -jnp.inf)
    total = np.exp(jax.jit(merged)(log_weights, jnp.asarray(found)))
    np.testing.assert_allclose(sorted(total), [0, 0, 0, 4, 4, 7], rtol=1e-6)
    with mock.patch.object(optimal_resampling, "_hash", lambda words: jnp.zeros(len(words), jnp.uint32)):
        collided = np.asarray(jax.jit(lambda *a: leaders(*a))(carry, alive))
    values = list(zip(np.asarray(carry["a"]), np.asarray(carry["b"]).view(np.int32)))
    assert all(values[i] == values[leader] for i, leader in enumerate(collided))


def test_thinning_keeps_expected_weights_and_exactly_n(route):
    weights = np.array([0.3, 0.02, 0.0, 0.28, 0.1, 0.1, 0.05, 0.15])
    n, uniforms = 4, (jnp.arange(1000) + 0.5) / 1000
    log_weights = jnp.log(jnp.asarray(weights))
    found = jax.jit(jax.vmap(lambda u: thinned(u, log_weights, n)))(uniforms)
    least = np.exp(np.asarray(found.log_least, float))
    np.testing.assert_allclose(least, 0.21, rtol=1e-5)  # sum min(w / c, 1) = 2 + 0.42 / c = 4
    assert np.all(found.filled)
    source = np.asarray(found.source)
    assert all(len(set(row)) == n for row in source)
    kept = np.stack([(source == i).any(1) for i in range(8)], axis=1)
    np.testing.assert_allclose((kept * np.maximum(weights, least[:, None])).mean(0), weights, atol=1e-3)
    whole = jax.jit(lambda u: thinned(u, log_weights, 7))(0.3)
    assert np.isneginf(whole.log_least) and set(np.asarray(whole.source)) == {0, 1, 3, 4, 5, 6, 7}


def test_kernels_promote_no_dtypes(route):
    with jax.numpy_dtype_promotion("strict"):
        log_weights, carry = (
            jnp.log(jnp.arange(1.0, 9.0) / 36),
            {"z": jnp.arange(8) % 3, "on": jnp.arange(8) > 3, "none": jnp.zeros((8, 0))},
        )
        leader = jax.eval_shape(leaders, carry, log_weights > -jnp.inf)
        total = jax.eval_shape(merged, log_weights, leader)
        assert jax.eval_shape(lambda u, w: thinned(u, w, 4), jnp.array(0.4), total).source.dtype == np.int32


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_impossible_data_and_values_that_are_none():
    def model(y, gap=0.0):
        p = numpyro.sample("p", dist.Beta(2, 2))

        def step(z, yt):
            z = numpyro.sample("z", dist.Categorical(jnp.array([p, 1 - p, 0.0])))
            numpyro.factor("f", jnp.where(z == 2, jnp.nan, jnp.where(yt > 5, -jnp.inf, jnp.where(yt < 0, gap, 0.0))))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=yt)
            return z, None

        scan(step, 0, y)

    def status(y, gap):
        return int(DiscreteFilter(3).estimate(KEY, ssmscan.trace(model, np.array(y), gap), {"p": 0.4}).status)

    assert status([0.5, 1.5], 0.0) == COMPLETE  # the value without a density has probability zero
    assert status([0.5, 9.0], 0.0) == VANISHED
    assert status([0.5, -0.5], np.nan) == FAULTY


def test_settings_and_what_is_enumerated():
    with pytest.raises(ValueError, match="num_particles"):
        DiscreteFilter(0)
    ssm = ssmscan.trace(switching, STEPS)
    assert DiscreteFilter(4).with_num_particles(7) == DiscreteFilter(7)
    assert DiscreteFilter(4).particle_steps(ssm) == 4 * 2 * 6 and can_enumerate(ssm)

    def counts(y):
        def step(left, yt):
            n = numpyro.sample("n", dist.Binomial(left, 0.5))
            numpyro.sample("y", dist.Poisson(n + 0.1), obs=yt)
            return left - n, None

        scan(step, 20, y)

    assert not can_enumerate(ssmscan.trace(counts, np.array([3, 4])))


@pytest.mark.slow
def test_it_is_what_engines_choose_and_replicates_take():
    ssm = ssmscan.trace(hidden_markov, Y)
    np.testing.assert_allclose(
        Replicates(DiscreteFilter(2), 3).estimate(KEY, ssm, {"sd": 0.8}).log_likelihood,
        markov_truth(0.8, None).log_likelihood,
        atol=1.0,
    )
    result = ImportanceSampler(num_points=500, num_paths=20, progress=False).run(KEY, ssm)
    assert result.settings["used"] == {"type": "DiscreteFilter", "num_particles": 3}
    assert result.notes[0].startswith("3 particles") and result.states["z"].shape[-1] == len(Y)
    grid = np.linspace(0.02, 6.0, 300)
    density = np.array([markov_truth(sd, None).log_likelihood for sd in grid]) + norm.logpdf(grid)
    weights = np.exp(density - density.max())
    mean = result.summaries["sd"].mean
    assert abs(mean.value - weights @ grid / weights.sum()) < z_threshold() * mean.error
    more = ImportanceSampler(num_points=100, num_paths=0, progress=False).run(KEY, ssm, start=result)
    assert len(more.log_weights) == 600
    pmmh = ssmscan.PMMH(num_warmup=80, num_samples=20, num_chains=2, num_paths=0, progress=False).run(KEY, ssm)
    assert pmmh.settings["used"] == result.settings["used"]
