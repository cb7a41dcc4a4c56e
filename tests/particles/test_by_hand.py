"""Every number of a result, computed again in NumPy from the clouds that the run stored, and the laws of its paths.

Six particles and five steps, some of them resampled: what a summary, a weight or an increment is can be read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm as jax_norm
from scipy import special
from scipy.stats import norm

from ssmscan.particles import filter_step
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.genealogy import backward_sample, trace_ancestry
from ssmscan.particles.proposals import Bootstrap, Move
from ssmscan.particles.stores import FullHistory
from ssmscan.particles.summaries import PIT, SD, Mean, Quantiles
from tests.particles.handmade import Autoregression
from tests.particles.unbiased import few_steps
from tests.truth import z_threshold

N, T, PATHS = 6, 5, 20_000
THETA = {"rho": 0.9, "sx": 0.5, "sy": 0.7}
PROBS = (0.2, 0.5)
KEY = jax.random.key(0)
SETTINGS = ParticleFilter(N, threshold=0.6, summaries=(Mean(), SD(), Quantiles(PROBS), PIT()), store=FullHistory())


@partial(jax.tree_util.register_dataclass, data_fields=["y", "penalty", "y_start"], meta_fields=["start_observed"])
@dataclass(frozen=True)
class WithStatic(Autoregression):
    """The autoregression, with something observed that no state reaches."""

    def log_static(self, theta):
        return -3 * theta["sy"]


class Step(NamedTuple):
    """One step computed again."""

    carried: np.ndarray
    weights: np.ndarray
    increment: float

    @property
    def ess(self) -> float:
        return 1 / (self.weights**2).sum()


def weighed(carried: np.ndarray, log_weight: np.ndarray) -> Step:
    increment = special.logsumexp(carried + log_weight)
    return Step(carried, np.exp(carried + log_weight - increment), increment)


@pytest.fixture(scope="module")
def ssm():
    plain, _, _ = few_steps()
    return WithStatic(plain.y, plain.penalty, jnp.asarray(0.5, float), start_observed=True)


@pytest.fixture(scope="module")
def result(ssm):
    return SETTINGS.run(KEY, ssm, THETA)


@pytest.fixture(scope="module")
def again(ssm, result) -> list[Step]:
    """The start and all steps, from the values and ancestors stored."""
    start, kept = (
        jax.tree.map(lambda x: np.asarray(x, float), x) for x in (result.history.initial, result.history.steps)
    )
    steps = [weighed(np.full(N, -np.log(N)), norm.logpdf(0.5, start.values["x0"], THETA["sy"]))]
    for x, y in zip(kept.values["x"], np.asarray(ssm.y, float)):
        before = steps[-1]
        carried = np.full(N, -np.log(N)) if before.ess < 0.6 * N else np.log(before.weights)
        steps.append(weighed(carried, norm.logpdf(y, x, THETA["sy"])))
    return steps


def test_weights_increments_and_decisions_are_those_of_the_stored_clouds(result, again):
    resampled = [False, *(step.ess < 0.6 * N for step in again[:-1])]
    assert 0 < sum(resampled) < T
    np.testing.assert_array_equal(result.resampled, resampled)
    np.testing.assert_allclose(result.ess, [step.ess for step in again], rtol=1e-4)
    np.testing.assert_allclose(result.increments, [step.increment for step in again], rtol=1e-4)
    total = sum(step.increment for step in again) - 3 * THETA["sy"]
    np.testing.assert_allclose(result.log_likelihood, total, rtol=1e-5)
    stored = [result.history.initial.log_weights, *result.history.steps.log_weights]
    np.testing.assert_allclose(np.exp(stored), [step.weights for step in again], atol=1e-5)
    for moved, ancestors in zip(resampled[1:], np.asarray(result.history.steps.ancestors)):
        assert moved or (ancestors == np.arange(N)).all()


def test_summaries_are_those_of_the_weighted_clouds(ssm, result, again):
    for t, (x, y, step) in enumerate(zip(np.asarray(result.history.steps.values["x"], float), ssm.y, again[1:])):
        found = {name: np.asarray(by_site.get("x", by_site.get("y")))[t] for name, by_site in result.summaries.items()}
        mean = step.weights @ x
        order = np.argsort(x)
        reached = np.cumsum(step.weights[order])
        np.testing.assert_allclose(found["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["sd"], np.sqrt(step.weights @ (x - mean) ** 2), rtol=1e-3, atol=1e-5)
        quantiles = [x[order][np.argmax(reached >= p)] for p in PROBS]
        np.testing.assert_allclose(found["quantiles"], quantiles, rtol=1e-5)
        # One step ahead: with the weights that the observation has not touched.
        predictive = np.exp(step.carried) @ norm.cdf(float(y), x, THETA["sy"])
        np.testing.assert_allclose(found["pit"], predictive, rtol=1e-4)


def test_ancestral_paths_end_with_the_last_weights_and_follow_the_parents(result, again):
    """Of 20,000 paths a probability that is off by 0.018 is seen with power 0.9."""
    paths = jax.tree.map(np.asarray, trace_ancestry(KEY, result, num_paths=PATHS))
    kept = jax.tree.map(np.asarray, result.history.steps)
    index = np.argmax(paths["x"][:, -1, None] == kept.values["x"][-1], axis=1)
    assert_frequencies(index, again[-1].weights)
    for t in reversed(range(T)):
        np.testing.assert_array_equal(paths["x"][:, t], kept.values["x"][t][index])
        index = kept.ancestors[t][index]
    np.testing.assert_array_equal(paths["x0"], np.asarray(result.history.initial.values["x0"])[index])


def test_backward_paths_have_the_smoothing_weights_of_the_clouds(ssm, result, again):
    """Smoothing weights by the recursion of Doucet, Godsill and Andrieu (2000), at the stored particles."""
    paths = jax.tree.map(np.asarray, backward_sample(KEY, ssm, THETA, result, num_paths=PATHS))
    clouds = [np.asarray(result.history.initial.values["x0"]), *np.asarray(result.history.steps.values["x"])]
    drawn = [paths["x0"], *paths["x"].T]
    smoothing = again[-1].weights
    assert_frequencies(np.argmax(drawn[-1][:, None] == clouds[-1], axis=1), smoothing)
    for t in reversed(range(T)):
        moved = norm.pdf(clouds[t + 1], THETA["rho"] * clouds[t][:, None].astype(float), THETA["sx"])
        parents = again[t].weights[:, None] * moved
        smoothing = (parents / parents.sum(0)) @ smoothing
        assert_frequencies(np.argmax(drawn[t][:, None] == clouds[t], axis=1), smoothing)


def assert_frequencies(index: np.ndarray, probabilities: np.ndarray) -> None:
    """Compare how often each particle was drawn, six particles at six times being one family."""
    seen = np.bincount(index, minlength=N) / len(index)
    error = np.sqrt(probabilities * (1 - probabilities) / len(index)) + 1e-4
    assert np.abs(seen - probabilities).max() < 0.05
    assert np.abs((seen - probabilities) / error).max() < z_threshold(N * (T + 1))


ANCESTORS, NOISE = jnp.array([0, 1, 1, 3]), jnp.array([-1.0, 0.3, 0.8, -0.2])


@dataclass(frozen=True)
class Given:
    """Settings of a filter with given ancestors and noise at every step; it looks ahead if it is told how far."""

    ahead: float | None
    num_particles = 4
    threshold = 1

    @property
    def proposal(self):
        return self

    def resampling(self, key, weights, n):
        return ANCESTORS

    begin = Bootstrap.begin

    def log_auxiliary(self, dynamics, carry, x, n):
        return None if self.ahead is None else jax_norm.logpdf(x[0], dynamics.theta["rho"] * carry, self.ahead)

    def propagate(self, key, dynamics, carry, x, n):
        step = jax.vmap(dynamics.step, in_axes=(0, None, 0))(carry, x, {"x": NOISE})
        return Move(step.carry, step.log_weight, None, step.values, step.cdf)


def test_the_gradient_is_of_weights_over_odds_that_are_held_constant():
    """d log Z-hat / d rho of two steps by the rule in `sequential`, without and with a look-ahead."""
    (ssm, _, _), aheads = few_steps(), (None, 1.2)

    def by_kernel(rho, ahead):
        settings, dynamics = Given(ahead), ssm.at(ssm.canonical({**THETA, "rho": rho}))
        state = filter_step.start(settings, as_key(KEY), dynamics).state._replace(carry=NOISE)
        for x in zip(ssm.y[:2], ssm.penalty):
            state, _ = filter_step.update(settings, state, dynamics, x)
        return state.log_likelihood.value()

    def by_hand(rho, ahead):
        x, total, log_w = NOISE, 0.0, jnp.full(4, -jnp.log(4.0))
        for y in ssm.y[:2]:
            log_v = log_w if ahead is None else log_w + jax_norm.logpdf(y, rho * x, ahead)
            log_v = jax.lax.stop_gradient(log_v - logsumexp(log_v))
            carried = (log_w - log_v)[ANCESTORS] - jnp.log(4.0)
            x = rho * x[ANCESTORS] + THETA["sx"] * NOISE
            log_w = carried + jax_norm.logpdf(y, x, THETA["sy"])
            total, log_w = total + logsumexp(log_w), log_w - logsumexp(log_w)
        return total

    @jax.jit
    def both(rho):
        return [[jax.value_and_grad(f)(rho, ahead) for ahead in aheads] for f in (by_kernel, by_hand)]

    found, expected = both(0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
