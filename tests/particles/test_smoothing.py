"""Smoothers against exact means, variances and cross-covariances; what is refused, and what is said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

import ssmscan
from ssmscan.particles.draws import as_key
from ssmscan.particles.genealogy import backward_paths
from ssmscan.particles.smoothing_backward import moved
from ssmscan.particles.smoothing_draws import draw_many, num_levels, table
from tests.particles import handmade, models
from tests.particles.handmade import THETA, autoregression
from tests.particles.smoothing import PathLaw, features, gaussian_path, markov_path, z_scores
from tests.particles.test_panel import THETA as THETA_PANEL
from tests.particles.test_panel import Y as Y_PANEL
from tests.particles.test_panel import panel
from tests.truth import LinearGaussian, linear_gaussian, z_threshold

THETA_SOFT = {**THETA, "sy": 2.0}
RUNS = 1500
EXACT_FILTER = ssmscan.ParticleFilter(
    8, resampling=ssmscan.multinomial, threshold=1, store=ssmscan.FullHistory(), summaries=()
)
TRANSITION = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]])
PLACES = np.array([-1.0, 0.3, 2.0])
Y_REGIMES = np.array([-0.8, -1.3, 0.9, 2.2, 1.1, 0.2])


def regimes(y):
    """Three regimes, begun in the first."""

    def step(s, y):
        s = numpyro.sample("s", dist.Categorical(probs=jnp.asarray(TRANSITION)[s]))
        numpyro.sample("y", dist.Normal(jnp.asarray(PLACES)[s], 1.0), obs=y)
        return s, None

    scan(step, 0, y)


def regimes_law(y) -> PathLaw:
    emission = -0.5 * ((y[:, None] - PLACES) ** 2 + np.log(2 * np.pi))
    return markov_path(TRANSITION[0], TRANSITION, emission)


def noisy_walk(y):
    """The state is a sum of noise, which the noise of one step does not determine."""

    def step(x, y):
        x = x + numpyro.sample("e", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, numpyro.deterministic("level", x)

    scan(step, 0.0, y)


def autoregression_law(ssm, theta=THETA_SOFT) -> PathLaw:
    variance = theta["sx"] ** 2 / (1 - theta["rho"] ** 2)
    model = LinearGaussian.scalar(0, variance, theta["rho"], theta["sx"] ** 2, 1, theta["sy"] ** 2)
    return gaussian_path(model, np.asarray(ssm.y, float))


@partial(jax.tree_util.register_dataclass, data_fields=["y", "penalty", "y_start"], meta_fields=["start_observed"])
@dataclass(frozen=True)
class WithoutTransition(handmade.Autoregression):
    """What a smoother sees that leaves out the density of the transition."""

    def at(self, theta):
        return NoTransition(self, theta)


class NoTransition(handmade.LoopDynamics):
    def evaluate(self, carry, x, values):
        return super().evaluate(carry, x, values)._replace(log_transition=jnp.zeros(()))


def as_it_is(key, result):
    return result


def random_parents(key, result):
    """Forget who the ancestors were."""
    steps = result.history.steps
    others = jax.random.randint(key, steps.ancestors.shape, 0, steps.ancestors.shape[1], np.int32)
    return replace(result, history=result.history._replace(steps=steps._replace(ancestors=others)))


def largest_z(ssm, theta, law, site, num_moves, *, keys=(0, 1, 2), seen=None, spoil=as_it_is):
    """Return the largest |z| of the features of paths, weighted by the likelihood, for each key; and the threshold.

    The paths are of eight particles, in `RUNS` runs with each key.
    """

    def one(key):
        keys = jax.random.split(key, 3)
        result = EXACT_FILTER.run(keys[0], ssm, theta)
        stored, model = spoil(keys[2], result), ssm if seen is None else seen
        paths, _ = backward_paths(keys[1], model, theta, stored, num_paths=4, num_moves=num_moves)
        return result.log_likelihood, paths[site]

    many, found = jax.jit(jax.vmap(one)), []
    for key in keys:
        log_z, paths = many(jax.random.split(jax.random.key(key), RUNS))
        ratio = np.exp(np.asarray(log_z, float) - law.log_likelihood)
        z = z_scores(ratio[:, None] * features(paths, law).mean(1))
        found.append(np.abs(z).max())
    return np.array(found), z_threshold(z.size)


@pytest.fixture(scope="module")
def linear():
    """A linear Gaussian model of eight steps, whose data say little about a state."""
    ssm = autoregression(8)
    return ssm, autoregression_law(ssm)


HEAVY = pytest.mark.heavy


@pytest.mark.slow
@pytest.mark.parametrize("num_moves", [None, 1, pytest.param(5, marks=HEAVY)])
def test_backward_paths_have_the_exact_law_of_a_linear_gaussian_model(linear, num_moves):
    ssm, law = linear
    z, limit = largest_z(ssm, THETA_SOFT, law, "x", num_moves)
    assert (z < limit).all()


@pytest.mark.slow
@pytest.mark.parametrize("num_moves", [1, pytest.param(None, marks=HEAVY)])
def test_backward_paths_have_the_exact_law_of_three_regimes(num_moves):
    ssm = ssmscan.trace(regimes, jnp.asarray(Y_REGIMES, float))
    z, limit = largest_z(ssm, {}, regimes_law(Y_REGIMES), "s", num_moves)
    assert (z < limit).all()


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["no density of the transition", "not begun at the ancestor"])
def test_moves_with_a_mistake_are_seen(linear, mistake):
    ssm, law = linear
    seen = WithoutTransition(ssm.y, ssm.penalty, ssm.y_start) if mistake.startswith("no ") else None
    spoil = as_it_is if seen else random_parents
    z, limit = largest_z(ssm, THETA_SOFT, law, "x", 1, keys=(0,), seen=seen, spoil=spoil)
    assert (z > 2 * limit).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear Gaussian", "three regimes"])
def test_exact_draws_have_exact_means_variances_and_cross_covariances(linear, kind):
    """20,000 paths with each key."""
    if kind == "three regimes":
        ssm, theta, site, law = ssmscan.trace(regimes, jnp.asarray(Y_REGIMES, float)), {}, "s", regimes_law(Y_REGIMES)
    else:
        ssm, theta, site, law = ssmscan.trace(models.autoregression, linear[0].y), THETA_SOFT, "x", linear[1]
    rng = np.random.default_rng(0)
    for key in (0, 1, 2):
        result = ssmscan.Smoother(ssmscan.Exact(), 20_000).run(jax.random.key(key), ssm, theta)
        paths = np.asarray(result.paths[site], float)
        z = z_scores(features(paths, law))
        assert np.abs(z).max() < z_threshold(z.size)
        # Paths whose steps are shuffled among each other keep their margins.
        shuffled = np.stack([rng.permutation(step) for step in paths.T], 1)
        assert np.abs(z_scores(features(shuffled, law))).max() > 2 * z_threshold(z.size)
    np.testing.assert_allclose(result.log_likelihood, law.log_likelihood, rtol=1e-5)
    np.testing.assert_allclose(result.mean[site], law.mean, atol=1e-4)
    np.testing.assert_allclose(result.sd[site], np.sqrt(np.diag(law.cov)), rtol=1e-3)


@pytest.mark.slow
def test_a_default_smoother_is_exact_or_moves_or_draws_among_few():
    y = jnp.asarray(Y_REGIMES, float)
    linear, volatility = ssmscan.trace(models.autoregression, y), ssmscan.trace(models.stochastic_volatility, y)
    assert ssmscan.Smoother().method_for(linear) == ssmscan.Exact()
    assert ssmscan.Smoother().method_for(ssmscan.trace(regimes, y)) == ssmscan.Exact()
    assert isinstance(ssmscan.Smoother().method_for(volatility), ssmscan.MCMCBackward)
    assert isinstance(ssmscan.Smoother(num_particles=50).method_for(volatility), ssmscan.BackwardSimulation)


def two_steps(y):
    """x_0 ~ N(0, 1), x_t ~ N(0.9 x_{t-1}, 0.8)."""
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.9 * x, 0.8))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, x0, y)


@pytest.mark.slow
def test_several_moves_are_the_power_of_one():
    """Of a path at each particle after the second step, where four moves lead from its parent, by matrices."""
    n, num_moves, num_paths = 8, 4, 40_000
    ssm = ssmscan.trace(two_steps, jnp.array([0.3, -0.5]))
    settings = ssmscan.ParticleFilter(n, threshold=1, store=ssmscan.FullHistory(), summaries=())
    history = settings.run(jax.random.key(1), ssm, {}).history
    draw_all = jax.jit(lambda key, ssm: moved(key, ssm.at({}), history, num_paths=num_paths, num_moves=num_moves))
    paths, _ = draw_all(as_key(jax.random.key(0)), ssm)
    x, weights = (np.asarray(leaf, float) for leaf in (history.steps.values["x"], np.exp(history.steps.log_weights)))
    first, second = (np.argmin(np.abs(np.asarray(paths["x"])[:, t, None] - x[t]), axis=1) for t in (0, 1))
    seen = np.bincount(n * second + first, minlength=n * n) / num_paths
    expected = np.zeros((n, n))
    for j in range(n):
        density = stats.norm.pdf(x[1, j], 0.9 * x[0], 0.8)
        step = weights[0] * np.minimum(1.0, density / density[:, None])
        step[np.diag_indices(n)] += 1.0 - step.sum(1)
        expected[j] = weights[1, j] * np.linalg.matrix_power(step, num_moves)[history.steps.ancestors[1, j]]
    error = np.sqrt(expected.ravel() * (1.0 - expected.ravel()) / num_paths)
    assert np.abs((seen - expected.ravel())[error > 0] / error[error > 0]).max() < z_threshold(n * n)


def test_moves_are_those_of_the_backward_law_and_a_state_that_cannot_lead_there_is_not_taken():
    """A sum of noise: paths stay on one line of ancestors, the result says so, and the levels add up."""
    ssm = ssmscan.trace(noisy_walk, jnp.asarray(Y_REGIMES, float))
    method = ssmscan.MCMCBackward(ssmscan.ParticleFilter(64, threshold=1))
    result = ssmscan.Smoother(method, 20).run(jax.random.key(0), ssm, {})
    level = np.asarray(result.paths["level"])
    np.testing.assert_allclose(level, np.cumsum(np.asarray(result.paths["e"]), 1), atol=1e-5)
    # Before the first step all particles are the same.
    assert not np.any(result.renewed[1:])
    assert any("follow their ancestors" in sentence for sentence in result.concerns())
    assert "follow their ancestors" in repr(result)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 37, 1000, 40_000])
def test_a_table_draws_with_the_weights_and_never_without(n):
    weights = np.random.default_rng(n).exponential(size=n) ** 4
    weights[[0, -1]] = 0, 1
    weights[n // 3 : n // 2] = 0
    log_weights = jnp.asarray(np.log(np.maximum(weights, 1e-300)) + 100, float)
    log_weights = jnp.where(weights > 0, log_weights, jnp.asarray([jnp.nan, jnp.inf, -jnp.inf])[np.arange(n) % 3])
    draws = 200_000
    levels = table(log_weights)
    assert len(levels) == num_levels(n) and len(levels[-1]) == 1
    index = np.asarray(jax.jit(partial(draw_many, shape=(draws,)))(jax.random.key(0), levels))
    counts, p = np.bincount(index, minlength=n), weights / weights.sum()
    assert len(counts) == n and counts[weights == 0].sum() == 0
    seen = p * draws > 20
    z = (counts - p * draws)[seen] / np.sqrt((p * (1 - p) * draws)[seen] + 1e-9)
    assert seen.sum() == 1 or np.abs(z).max() < z_threshold(seen.sum())


@pytest.mark.slow
@pytest.mark.parametrize("lag", [1, pytest.param(3, marks=HEAVY), pytest.param(50, marks=HEAVY)])
def test_fixed_lag_moments_are_those_given_data_up_to_the_lag(lag):
    """4,000 particles, 30 runs; a lag of two in place of one is far away."""
    steps = 12
    ssm = autoregression(steps)
    smoother = ssmscan.Smoother(ssmscan.FixedLag(ssmscan.ParticleFilter(4000), lag), 5)
    found = jax.jit(jax.vmap(lambda key: smoother.run(key, ssm, THETA_SOFT)))(jax.random.split(jax.random.key(0), 30))

    def truth(lag):
        laws = [autoregression_law(autoregression(min(t + lag + 1, steps))) for t in range(steps)]
        return np.array([(law.mean[t], np.sqrt(law.cov[t, t])) for t, law in enumerate(laws)])

    right, wrong = truth(lag), truth(lag + 1)
    terms = np.stack([found.mean["x"], found.sd["x"]], -1).astype(float)
    z = z_scores(terms - right)
    assert np.abs(z).max() < z_threshold(z.size)
    assert lag > 1 or np.abs(z_scores(terms - wrong)).max() > 2 * z_threshold(z.size)
    assert found.paths["x"].shape == (30, 5, min(lag + 1, steps))
    # The start, by the particles of the step lag - 1.
    law = autoregression_law(autoregression(min(lag, steps)))
    start = np.asarray(found.mean["x0"], float) - THETA["rho"] * law.mean[0]
    assert abs(z_scores(start[:, None])[0]) < z_threshold()


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        ssmscan.MCMCBackward(ssmscan.ParticleFilter(1000)),
        pytest.param(ssmscan.FixedLag(ssmscan.ParticleFilter(1000)), marks=pytest.mark.heavy),
    ],
    ids=["moves", "lag"],
)
def test_a_panel_is_smoothed_element_by_element(method):
    ssm = ssmscan.trace(panel, Y_PANEL)
    found = ssmscan.Smoother(method, 500).run(jax.random.key(1), ssm, THETA_PANEL)
    exact = ssmscan.Smoother(num_paths=2).run(jax.random.key(0), ssm, THETA_PANEL)
    one = LinearGaussian.scalar(0, 1, 0.8, 0.25, 1, 1)
    truth = [linear_gaussian(one, y.astype(float)[:, None]) for y in Y_PANEL.T]
    mean = np.stack([law.smoothed_mean[:, 0] for law in truth], 1)
    sd = np.sqrt(np.stack([law.smoothed_cov[:, 0, 0] for law in truth], 1))
    for result, tolerance in ((exact, 1e-3), (found, 0.2)):
        joined = [np.concatenate([of["x0"][None], of["x"]]) for of in (result.mean, result.sd)]
        np.testing.assert_allclose(joined, [mean, sd], atol=tolerance)
    assert exact.method == "Exact" and found.paths["x"].shape == (500, *Y_PANEL[1:].shape)


@pytest.mark.slow
@pytest.mark.parametrize("method", [ssmscan.MCMCBackward, ssmscan.FixedLag])
def test_a_filter_that_lost_all_weight_has_no_moments(linear, method):
    impossible = replace(linear[0], y=linear[0].y.at[3].set(jnp.inf))
    result = ssmscan.Smoother(method(ssmscan.ParticleFilter(50)), 4).run(jax.random.key(0), impossible, THETA_SOFT)
    assert result.log_likelihood == -np.inf and np.isnan(result.mean["x"]).all() and np.isnan(result.sd["x"]).all()
    assert any("Every particle has weight zero at step 3" in sentence for sentence in result.concerns())


def test_what_is_no_method_is_refused():
    with pytest.raises(TypeError, match="method: expected an object such as"):
        ssmscan.Smoother("exact")
    with pytest.raises(ValueError, match="num_moves: expected an integer of at least 1"):
        ssmscan.MCMCBackward(num_moves=0)
    with pytest.raises(TypeError, match="particle_filter: expected a ParticleFilter"):
        ssmscan.BackwardSimulation(1000)
    ssm = ssmscan.trace(models.stochastic_volatility, jnp.asarray(Y_REGIMES, float))
    with pytest.raises(ssmscan.ModelError, match="no exact smoothing law"):
        ssmscan.Smoother(ssmscan.Exact()).run(jax.random.key(0), ssm, {"mu": 0.0, "rho": 0.5, "sigma": 1.0})
