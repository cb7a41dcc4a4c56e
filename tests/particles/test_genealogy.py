"""Paths: ancestral ones, and backward ones against the exact smoothing distribution, for every kind of carry."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.genealogy import backward_sample, trace_ancestry
from ssmscan.particles.smoothing_draws import draw_index
from ssmscan.particles.stores import FullHistory
from tests.particles import handmade
from tests.particles.handmade import THETA, autoregression, exact
from tests.truth import z_threshold

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
STORED = ParticleFilter(256, store=FullHistory(), summaries=())
THETA_SOFT = {**THETA, "sy": 1.0}


@partial(jax.tree_util.register_dataclass, data_fields=["y", "penalty", "y_start"], meta_fields=["start_observed"])
@dataclass(frozen=True)
class RandomWalk(handmade.Autoregression):
    """The same law told by its increments: the carry (x, t) remembers what an increment alone does not say."""

    def at(self, theta):
        return WalkBound(self, theta)


class WalkBound(handmade.LoopDynamics):
    def init(self, noise):
        start = super().init(noise)
        return start._replace(carry={"x": start.carry, "t": jnp.zeros((), jnp.int32)})

    def step(self, carry, x, noise):
        ev = self.evaluate(carry, x, values := {"x": self.theta["sx"] * noise["x"]})
        return handmade.Step(ev.carry, ev.log_observation, {**values, **ev.deterministics}, {})

    def evaluate(self, carry, x, values):
        state = self.theta["rho"] * carry["x"] + values["x"]
        return handmade.Evaluated(
            {"x": state, "t": carry["t"] + 1},
            norm.logpdf(values["x"], 0.0, self.theta["sx"]),
            norm.logpdf(x[0], state, self.theta["sy"]),
            {"level": state},
            {},
        )


def test_ancestral_paths_are_made_of_parents_and_children():
    ssm = autoregression()
    result = STORED.run(KEY, ssm, THETA)
    paths = trace_ancestry(KEY, result, num_paths=50)
    assert paths["x"].shape == paths["twice"].shape == (50, 10) and paths["x0"].shape == (50,)
    steps, initial = result.history.steps, np.asarray(result.history.initial.values["x0"])
    values, ancestors = np.asarray(steps.values["x"]), np.asarray(steps.ancestors)
    for path, start in zip(np.asarray(paths["x"]), np.asarray(paths["x0"])):
        index = int(np.flatnonzero(values[-1] == path[-1])[0])
        for t in range(9, -1, -1):
            assert values[t, index] == path[t]
            index = ancestors[t, index]
        assert initial[index] == start
    np.testing.assert_array_equal(paths["twice"], 2 * paths["x"])


@pytest.mark.parametrize("start_observed", [False, True])
def test_paths_have_the_smoothing_means(start_observed):
    """Weighted by the likelihood estimate, paths of a filter are unbiased: E[Z_hat path] = Z E[path | y]."""
    ssm, pf = autoregression(6, start_observed=start_observed), ParticleFilter(64, store=FullHistory(), summaries=())
    replicates = 300

    def one(key):
        result = pf.run(key, ssm, THETA_SOFT)
        key = jax.random.fold_in(key, 1)
        ancestral = trace_ancestry(key, result, num_paths=4)
        backward = backward_sample(key, ssm, THETA_SOFT, result, num_paths=4)
        means = [jnp.concatenate([p["x0"][:, None], p["x"]], axis=1).mean(0) for p in (ancestral, backward)]
        return result.log_likelihood, jnp.stack(means)

    log_z, paths = jax.jit(jax.vmap(one))(jax.random.split(KEY, replicates))
    truth = exact(ssm, THETA_SOFT)
    mean = truth.smoothed_mean[:, 0]
    if not start_observed:  # E[x_0 | y] = rho E[x_1 | y] under the stationary law
        mean = np.concatenate([[0.9 * mean[0]], mean])
    ratio = np.exp(np.asarray(log_z, float) - truth.log_likelihood)
    terms = ratio[:, None, None] * (np.asarray(paths) - mean)
    z = terms.mean(0) / (terms.std(0, ddof=1) / replicates**0.5)
    assert np.abs(z).max() < z_threshold(z.size)


def test_backward_paths_do_not_share_their_past():
    ssm = autoregression(60)
    result = ParticleFilter(64, threshold=1, store=FullHistory(), summaries=()).run(KEY, ssm, THETA_SOFT)
    ancestral = trace_ancestry(KEY, result, num_paths=40)["x"]
    backward = backward_sample(KEY, ssm, THETA_SOFT, result, num_paths=40)["x"]
    ancestors = np.arange(64)
    for parents in result.history.steps.ancestors[:20:-1]:
        ancestors = np.asarray(parents)[ancestors]
    left = len(set(ancestors.tolist()))
    assert len(np.unique(ancestral[:, 20])) <= left
    assert len(np.unique(backward[:, 20])) > max(10, 2 * left)


def test_a_carry_that_remembers_everything_gives_the_ancestral_path():
    base = autoregression(12)
    ssm = RandomWalk(base.y, base.penalty, base.y_start)
    result = ParticleFilter(64, threshold=1, store=FullHistory(), summaries=()).run(KEY, ssm, THETA_SOFT)
    paths = backward_sample(KEY, ssm, THETA_SOFT, result, num_paths=20)
    level = np.asarray(paths["level"])
    previous = np.concatenate([np.asarray(paths["x0"])[:, None], level[:, :-1]], axis=1)
    np.testing.assert_allclose(level, 0.9 * previous + paths["x"], rtol=1e-5, atol=1e-5)
    family = {tuple(path) for path in np.asarray(trace_ancestry(KEY, result, num_paths=2000)["x"])}
    assert {tuple(path) for path in np.asarray(paths["x"])} <= family


@pytest.mark.parametrize("n", [2, 37, 1000])
def test_an_index_is_drawn_with_its_weight_and_never_without(n):
    weights = np.random.default_rng(n).exponential(size=n) ** 4
    weights[[0, -1]] = 0, 1
    weights[n // 3 : n // 2] = 0
    log_weights = jnp.asarray(np.log(np.maximum(weights, 1e-300)) + 100, float)
    log_weights = jnp.where(weights > 0, log_weights, jnp.asarray([jnp.nan, jnp.inf, -jnp.inf])[np.arange(n) % 3])
    draws = 200_000
    uniforms = jax.random.uniform(KEY, (draws, 2))
    uniforms = uniforms.at[:3].set(jnp.asarray([[0, 0], [1, 1], [0, 1]], float))  # 1 is what rounding may make of them
    counts = np.bincount(np.asarray(jax.jit(jax.vmap(draw_index, (0, None)))(uniforms, log_weights)), minlength=n)
    p = weights / weights.sum()
    assert counts[weights == 0].sum() == 0
    seen = p * draws > 20
    z = (counts - p * draws)[seen] / np.sqrt((p * (1 - p) * draws)[seen] + 1e-9)
    assert seen.sum() == 1 or np.abs(z).max() < z_threshold(seen.sum())


def test_an_index_among_none_with_weight_is_the_one_given():
    assert int(draw_index(jnp.full(2, 0.5), jnp.full(20, -jnp.inf), otherwise=7)) == 7


def test_paths_of_a_run_without_history_are_refused():
    result = ParticleFilter(16).run(KEY, autoregression(), THETA)
    with pytest.raises(ValueError, match=r"result: .*store=FullHistory\(\)"):
        trace_ancestry(KEY, result, num_paths=1)
    with pytest.raises(ValueError, match=r"result: .*store=FullHistory\(\)"):
        backward_sample(KEY, autoregression(), THETA, result, num_paths=1)
