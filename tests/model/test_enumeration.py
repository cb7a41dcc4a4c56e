"""Discrete states summed out: densities against sums over all paths, and what cannot be summed by its message."""

from __future__ import annotations

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats
from scipy.special import logsumexp

import ssmscan
from ssmscan.model.noise.support import joint_values
from tests.model.discrete import (
    LEVELS,
    Y,
    hamilton,
    hidden_markov,
    level_of_a_regime,
    never_carried,
    regime_beside_a_level,
    sum_over_paths,
    three_animals,
)
from tests.truth import hmm_enumeration, hmm_forward_backward, z_threshold

pytestmark = pytest.mark.slow

T = len(Y)
ROWS = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.05, 0.15, 0.8]])
EPS = np.random.default_rng(3).normal(size=(3, T))
norm = stats.norm.logpdf


@cache
def traced(model, **kwargs):
    return ssmscan.trace(model, Y, **kwargs)


@cache
def compiled(model, **kwargs):
    """log-likelihood with its gradient in the parameters, and states, compiled once for each model."""
    ssm = traced(model, **kwargs)
    likelihood = jax.jit(jax.value_and_grad(ssm.log_likelihood_given_noise))
    states = jax.jit(jax.vmap(ssm.posterior_states, (None, None, 0)))
    return ssm, likelihood, states


def log_bernoulli(z, p):
    return np.log(np.where(z == 1, p, 1 - p))


def log_regime(paths, stay, before):
    """Log-probability of paths (P, T) of a regime that stays with the same probability in both states."""
    old = np.column_stack([np.full(len(paths), before), paths[:, :-1]])
    return log_bernoulli(paths, np.where(old == 1, stay, 1 - stay)).sum(1)


def markov(theta, start):
    """Truth of `hidden_markov`; with an observed start, that is the first of T + 1 steps."""
    rows = np.asarray(theta["rows"], np.float64)
    seen = norm(Y[:, None], LEVELS, theta["sd"])
    if start:
        seen = np.concatenate([norm(0.3, LEVELS, theta["sd"])[None], seen])
    return np.array([0.2, 0.3, 0.5]) if start else rows[0], rows, seen


@pytest.mark.parametrize("start", [False, True])
def test_a_hidden_markov_model_against_enumeration_and_forward_backward(start):
    theta = {"rows": jnp.asarray(ROWS, float), "sd": jnp.asarray(0.8)}
    _, likelihood, states = compiled(hidden_markov, start=start)
    value, _ = likelihood(theta, {})
    np.testing.assert_allclose(value, hmm_enumeration(*markov(theta, start)), rtol=1e-5)
    truth = hmm_forward_backward(*markov(theta, start))
    probabilities = states(theta, {}, jax.random.split(jax.random.key(0), 1)).probabilities
    np.testing.assert_allclose(probabilities["z"][0], truth.smoothed[-T:], atol=1e-5)
    if start:
        np.testing.assert_allclose(probabilities["z0"][0], truth.smoothed[0], atol=1e-5)


def test_the_gradient_of_a_transition_matrix_against_differences_in_double_precision():
    _, likelihood, _ = compiled(hidden_markov, start=True)
    theta = {"rows": jnp.asarray(ROWS, float), "sd": jnp.asarray(0.8)}
    _, grad = likelihood(theta, {})

    def truth(logits, sd):
        rows = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return hmm_enumeration(*markov({"rows": rows, "sd": sd}, True))

    # Along directions on which the rows stay probabilities: d rows = rows (d - sum rows d).
    logits, h = np.log(ROWS), 1e-5
    for i, j in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[i, j] = h
        slope = (truth(logits + step, 0.8) - truth(logits - step, 0.8)) / (2 * h)
        along = ROWS[i] * (np.eye(3)[j] - ROWS[i, j])
        np.testing.assert_allclose(grad["rows"][i] @ along, slope, atol=2e-5)
    slope = (truth(logits, 0.8 + h) - truth(logits, 0.8 - h)) / (2 * h)
    np.testing.assert_allclose(grad["sd"], slope, rtol=1e-4)


def hamilton_joint(theta, paths):
    means = np.where(np.column_stack([np.ones(len(paths)), paths]) == 1, 1.5, -0.5)
    residual = (Y - means[:, 1:]) - theta["phi"] * (np.array([0.4, *Y[:-1]]) - means[:, :-1])
    return log_regime(paths, theta["stay"], 1) + norm(residual, 0, 0.7).sum(1)


def beside_joint(theta, paths):
    x, levels = EPS[0, 0], []
    for e in EPS[1]:
        x = 0.8 * x + theta["q"] * e
        levels.append(x)
    z, k = np.divmod(paths, 3)
    mean = np.array(levels) + 2.0 * z + 0.3 * (k + 2)
    return log_regime(z, theta["stay"], 0) + T * np.log(1 / 3) + norm(Y, mean, 0.5).sum(1)


def mixture_of_a_step(p, y):
    """Log-weights of the twelve joint values of one step."""
    n, o = np.divmod(np.arange(12), 3)
    cut = 1 / (1 + np.exp(-(np.array([-1.0, 1.0]) - 0.5)))
    ordered = np.diff([0.0, *cut, 1.0])[o]
    return stats.binom.logpmf(n, 3, p) + np.log(ordered) + norm(y, n - 0.5 * o, 1.0)


CASES = {
    "hamilton": (hamilton, {"stay": 0.7, "phi": 0.4}, {}, hamilton_joint, 2),
    "beside": (regime_beside_a_level, {"stay": 0.7, "q": 0.6}, {"x0": EPS[0, 0], "x": EPS[1]}, beside_joint, 6),
}


@pytest.mark.parametrize("name", CASES)
def test_densities_smoothing_and_gradient_against_the_sum_over_all_paths(name):
    model, theta, noise, joint, num_values = CASES[name]
    ssm, likelihood, states = compiled(model)
    noise = {n: jnp.asarray(e, float) for n, e in noise.items()}
    assert set(ssm.smooth_noise) == set(noise)
    theta = {n: jnp.asarray(v) for n, v in theta.items()}
    value, grad = likelihood(theta, noise)
    exact = {n: float(v) for n, v in theta.items()}
    truth = sum_over_paths(lambda paths: joint(exact, paths), num_values, T)
    np.testing.assert_allclose(value, truth.log_likelihood, rtol=1e-5)
    probabilities = states(theta, noise, jax.random.split(jax.random.key(0), 1)).probabilities
    _, positions = joint_values(ssm.program.marginal.summed.sites)
    for site, position in positions.items():
        for k in range(position.max() + 1):
            expected = truth.marginals[:, position == k].sum(1)
            np.testing.assert_allclose(probabilities[site][0, :, k], expected, atol=1e-5)

    def log_likelihood(**changed):
        return sum_over_paths(lambda paths: joint(exact | changed, paths), num_values, T).log_likelihood

    h = 1e-4
    for n, at in exact.items():
        slope = (log_likelihood(**{n: at + h}) - log_likelihood(**{n: at - h})) / (2 * h)
        np.testing.assert_allclose(grad[n], slope, rtol=2e-4, atol=1e-4)


def test_draws_that_nothing_carries_are_summed_step_by_step():
    value, _ = compiled(never_carried)[1]({"p": jnp.asarray(0.3)}, {})
    np.testing.assert_allclose(value, sum(logsumexp(mixture_of_a_step(0.3, y)) for y in Y), rtol=1e-5)


def test_a_carried_function_of_the_regime_and_of_noise_against_values_of_the_package():
    """Paths are summed in NumPy; sizes come from the same model with the regime observed."""
    ssm, likelihood, _ = compiled(level_of_a_regime)
    noise = {"level": jnp.asarray(EPS[0], float), "size": jnp.asarray(EPS[1], float)}
    theta = {"slope": jnp.asarray(0.8)}
    transport = ssm.program.plan.inside[2].smooth
    sizes, corrections = {}, {}
    for z, shape in ((0, 2.0), (1, 3.0)):
        fn = dist.Gamma(shape, 1.5)
        sizes[z] = np.asarray(jax.vmap(lambda e, fn=fn: transport.apply(fn, e))(noise["size"]))
        corrections[z] = np.asarray(jax.vmap(lambda e, fn=fn: transport.log_correction(fn, e))(noise["size"]))

    def joint(paths):
        levels = np.where(paths == 1, 1.0, -1.0) + 0.5 * EPS[0]
        logits = 0.8 * np.column_stack([np.full(len(paths), 0.3), levels[:, :-1]])
        size = np.where(paths == 1, sizes[1], sizes[0])
        correction = np.where(paths == 1, corrections[1], corrections[0])
        prior = log_bernoulli(paths, 1 / (1 + np.exp(-logits)))
        return (prior + correction + norm(Y, levels, 0.2 + size)).sum(1)

    value, _ = likelihood(theta, noise)
    np.testing.assert_allclose(value, sum_over_paths(joint, 2, T).log_likelihood, rtol=1e-5)


def test_elements_of_a_plate_are_summed_jointly_when_they_are_few():
    y = np.random.default_rng(4).normal(size=(T, 3))
    ssm = ssmscan.trace(three_animals, y)
    theta = {"stay": jnp.asarray(0.7)}
    value = jax.jit(ssm.log_likelihood_given_noise)(theta, {})
    transition = np.array([[0.7, 0.3], [0.3, 0.7]])
    truths = [hmm_forward_backward(transition[1], transition, norm(y[:, [i]], [0.0, 1.0])) for i in range(3)]
    np.testing.assert_allclose(value, sum(truth.log_likelihood for truth in truths), rtol=1e-5)
    found = jax.jit(ssm.posterior_states)(theta, {}, jax.random.key(0))
    np.testing.assert_allclose(found.probabilities["z"], np.stack([t.smoothed for t in truths], 1), atol=1e-5)
    assert found.states["z"].shape == (T, 3)


def test_drawn_paths_have_the_exact_marginals_of_each_step_and_of_neighbours():
    model, theta, noise, joint, num_values = CASES["hamilton"]
    ssm, _, states = compiled(model)
    count = 20_000
    drawn = states({n: jnp.asarray(v) for n, v in theta.items()}, {}, jax.random.split(jax.random.key(5), count)).states
    assert drawn["z"].dtype == next(s.dtype for s in ssm.sites if s.name == "z")
    truth = sum_over_paths(lambda paths: joint(theta, paths), num_values, T)
    z = np.asarray(drawn["z"])
    pairs = np.array(
        [[[np.mean((z[:, t] == i) & (z[:, t + 1] == j)) for j in (0, 1)] for i in (0, 1)] for t in range(4)]
    )
    exact = np.concatenate([truth.marginals[:, 1], truth.pairs.ravel()])
    errors = (np.concatenate([z.mean(0), pairs.ravel()]) - exact) / np.sqrt(exact * (1 - exact) / count)
    assert np.abs(errors).max() < z_threshold(len(errors))


def test_drawn_states_come_with_the_deterministics_and_the_continuous_states_of_their_path():
    model, theta, noise, _, _ = CASES["beside"]
    _, _, states = compiled(model)
    noise = {n: jnp.asarray(e, float) for n, e in noise.items()}
    drawn = states({n: jnp.asarray(v) for n, v in theta.items()}, noise, jax.random.split(jax.random.key(5), 7)).states
    assert set(drawn) == {"x0", "x", "z", "k", "mean"}
    assert set(np.unique(drawn["k"])) <= {2, 3, 4}
    np.testing.assert_allclose(drawn["mean"], drawn["x"] + 2.0 * drawn["z"] + 0.3 * drawn["k"], rtol=1e-5)
    assert np.ptp(drawn["x"], axis=0).max() == 0


def test_a_particle_filter_estimates_the_same_number():
    theta = {"stay": jnp.asarray(0.7), "phi": jnp.asarray(0.4)}
    ssm, likelihood, _ = compiled(hamilton)
    exact, _ = likelihood(theta, {})
    run = jax.jit(jax.vmap(lambda key: ssmscan.ParticleFilter(100).run(key, ssm, theta).log_likelihood))
    ratio = np.exp(np.asarray(run(jax.random.split(jax.random.key(1), 2000)) - exact, np.float64))
    assert abs(ratio.mean() - 1) < z_threshold() * ratio.std() / np.sqrt(len(ratio))


def test_without_a_key_summed_states_are_not_drawn():
    ssm = traced(hamilton)
    assert [site.name for site in ssm.summed_out] == ["z"]
    with pytest.raises(ValueError, match="the states 'z' are integrated out; pass a PRNG key"):
        ssm.states_from_noise({"stay": 0.5, "phi": 0.0}, {})


def absorbing(y):
    """Left to right: two moves are impossible, and what may not be observed either."""
    leave = numpyro.sample("leave", dist.Beta(1, 1))

    def step(z, yt):
        rows = jnp.array([[1 - leave, leave, 0.0], [0.0, 1 - leave, leave], [0.0, 0.0, 1.0]])
        z = numpyro.sample("z", dist.Categorical(rows[z]))
        numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
        numpyro.factor("bound", jnp.where(z > 3 * yt + 4, -jnp.inf, 0.0))
        return z, None

    scan(step, 0, y)


def test_impossible_moves_and_impossible_observations_have_a_gradient():
    ssm = ssmscan.trace(absorbing, Y)
    value, grad = jax.jit(jax.value_and_grad(lambda p: ssm.log_likelihood_given_noise({"leave": p}, {})))(0.3)

    def truth(p):
        rows = np.array([[1 - p, p, 0.0], [0.0, 1 - p, p], [0.0, 0.0, 1.0]])
        seen = norm(Y[:, None], [0.0, 1.0, 2.0])
        seen = np.where(np.arange(3) > 3 * Y[:, None] + 4, -np.inf, seen)
        return hmm_enumeration(rows[0], rows, seen)

    np.testing.assert_allclose(value, truth(0.3), rtol=1e-5)
    np.testing.assert_allclose(grad, (truth(0.3 + 1e-5) - truth(0.3 - 1e-5)) / 2e-5, rtol=1e-4)


# ---- what cannot be summed -----------------------------------------------------------------------------


def pushed(y):
    def step(carry, yt):
        z, x = carry
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.6 * z))
        x = numpyro.sample("x", dist.Normal(x + z, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return (z, x), None

    scan(step, (0, 0.0), y)


def discounted(y):
    """A count of which old terms fade: another value for each path."""

    def step(n, yt):
        n = 0.5 * n + numpyro.sample("z", dist.Bernoulli(0.2))
        numpyro.sample("y", dist.Normal(n, 1.0), obs=yt)
        return {"n": n}["n"], None

    scan(step, 0.0, jnp.tile(y, 3))


def last_seven(y):
    def step(window, yt):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.1 * window.sum()))
        window = jnp.append(window[1:], z)
        numpyro.sample("y", dist.Normal(window[0] + window[-1], 1.0), obs=yt)
        return window, None

    scan(step, jnp.zeros(7, int), jnp.tile(y, 3))


def spell_since_the_data_began(y):
    def step(carry, inputs):
        spell, before = carry
        z = numpyro.sample("z", dist.Bernoulli(0.2))
        spell = jnp.where(z == before, jnp.minimum(spell + 1, 3), 0)
        numpyro.sample("y", dist.Normal(1.0 * spell, 1.0), obs=inputs)
        return (spell, z), None

    scan(step, (0, (y[0] > 0).astype(int)), y)


def many(y):
    def step(z, yt):
        with numpyro.plate("animals", 10):
            z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.6 * z))
        numpyro.sample("y", dist.Normal(1.0 * z.sum(), 1.0), obs=yt)
        return z, None

    scan(step, jnp.zeros(10, int), y)


def unbounded(y):
    def step(n, yt):
        n = numpyro.sample("n", dist.Poisson(1.0 + n))
        numpyro.sample("y", dist.Normal(n, 1.0), obs=yt)
        return 1.0 * n, None

    scan(step, 0.0, y)


def as_many_as_there_were(y):
    def step(n, yt):
        n = numpyro.sample("n", dist.Binomial(n, 0.9))
        numpyro.sample("y", dist.Normal(1.0 * n, 1.0), obs=yt)
        return n, None

    scan(step, 5, y)


def seen_after_the_loop(y, joined=False):
    """The state is observed from its start on, after the loop; or its sum is."""
    z0 = numpyro.sample("z0", dist.Bernoulli(0.4))

    def step(z, _):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.6 * z))
        return z, z

    _, z = scan(step, z0, None, length=len(y) - 1)
    z = jnp.concatenate([z0[None], z])
    mean = jnp.array([-1.0, 1.0])[z]
    numpyro.sample("y", dist.Normal(jnp.cumsum(mean) if joined else mean, 1.0), obs=y)


def joined_after_the_loop(y):
    seen_after_the_loop(y, joined=True)


REFUSALS = {
    pushed: (
        "'z' (BernoulliProbs) cannot be summed out: carry[1] after a step is computed from carry[1] before it, which "
        "their draws reach, through 'x', and from noise, so that the carry remembers the draws of all earlier steps; "
        "what it remembers is summed out where draws and constants alone decide it, in up to 64 joint values"
    ),
    spell_since_the_data_began: (
        "'z' (BernoulliProbs) cannot be summed out: carry[0] after a step is computed from carry[0] before it, which "
        "their draws reach, and from a start that is known only when the model is run, so that the carry remembers the "
        "draws of all earlier steps; what it remembers is summed out where draws and constants alone decide it, in up "
        "to 64 joint values"
    ),
    discounted: (
        "'z' (BernoulliProbs) have more than 256 joint values in what the carry remembers of them, and up to 64 are "
        "summed out"
    ),
    last_seven: (
        "'z' (BernoulliProbs) have 128 joint values in what the carry remembers of them, and up to 64 are summed out"
    ),
    many: (
        "'z' (BernoulliProbs) have 1024 joint values of a step, and up to 64 are summed out; their elements cannot be "
        "summed one by one, as reduce_sum (test_enumeration.py:0, in step) joins them"
    ),
    unbounded: "'n' (Poisson) has no finite list of values that is known at trace",
    as_many_as_there_were: "'n' (BinomialProbs) has no finite list of values that is known at trace",
    joined_after_the_loop: (
        "'y', observed after the loop, joins steps and reads what the draws of 'z' (BernoulliProbs) reach; observe "
        "inside the transition to have it summed"
    ),
}


@pytest.mark.parametrize("model", REFUSALS, ids=lambda model: model.__name__)
def test_what_cannot_be_summed_out_is_refused_to_gradients_with_the_reason_and_the_ways_out(model):
    ssm = ssmscan.trace(model, Y)
    drawn = [site for site in (*ssm.initial, *ssm.innovations) if site.discrete]
    sites = ", ".join(f"'{site.name}' ({site.family})" for site in drawn)
    with pytest.raises(ssmscan.ModelError) as error:
        ssm.smooth_noise  # noqa: B018
    assert re.sub(r"\.py:\d+", ".py:0", str(error.value)) == (
        f"site(s) {sites} cannot be written as a smooth function of noise, so NUTS and other gradient "
        f"engines cannot sample this model: {REFUSALS[model]}. Use a particle engine (ParticleFilter, PMMH), or "
        "replace the distribution by a continuous one."
    )
    assert ssm.summed_out == ()
    theta = {site.name: np.zeros(site.shape, site.dtype) for site in ssm.parameters}
    with pytest.raises(ssmscan.ModelError):
        ssm.log_likelihood_given_noise(theta, {})


def test_observations_after_the_loop_are_those_of_the_steps_and_of_the_start():
    ssm = ssmscan.trace(seen_after_the_loop, Y)
    value = jax.jit(ssm.log_likelihood_given_noise)({}, {})
    transition, seen = np.array([[0.8, 0.2], [0.2, 0.8]]), norm(Y[:, None], [-1.0, 1.0])
    truth = hmm_forward_backward(np.array([0.6, 0.4]), transition, seen)
    np.testing.assert_allclose(value, truth.log_likelihood, rtol=1e-5)
    probabilities = jax.jit(ssm.posterior_states)({}, {}, jax.random.key(0)).probabilities
    np.testing.assert_allclose([probabilities["z0"], *probabilities["z"]], truth.smoothed, atol=1e-5)


@pytest.mark.parametrize("joined", [False, True])
def test_observations_after_the_loop_that_no_draw_reaches_are_counted(joined):
    def model(y):
        def step(carry, yt):
            z, x = carry
            z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.6 * z))
            x = numpyro.sample("x", dist.Normal(0.5 * x, 1.0))
            numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
            return (z, x), (x, z)

        _, (x, _) = scan(step, (0, 0.0), y)
        numpyro.sample("late", dist.Normal(jnp.cumsum(x) if joined else x, 1.0), obs=0.5 * y)

    ssm = ssmscan.trace(model, Y)
    value = jax.jit(ssm.log_likelihood_given_noise)({}, {"x": jnp.asarray(EPS[0], float)})
    x = [0.0]
    for e in EPS[0]:
        x.append(0.5 * x[-1] + e)
    transition = np.array([[0.8, 0.2], [0.2, 0.8]])
    truth = hmm_enumeration(transition[0], transition, norm(Y[:, None], [0.0, 1.0]))
    late = np.cumsum(x[1:]) if joined else x[1:]
    np.testing.assert_allclose(value, truth + norm(0.5 * Y, late).sum(), rtol=1e-5)
