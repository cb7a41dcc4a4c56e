"""The laws of the random numbers of a filter: of ancestors given weights, exactly, and of keys, which never repeat.

A scheme of four points has so few outcomes that the probability of each can be computed: the *joint* law of all
ancestors is tested, of which expected offspring, variances and the law of the offset are functions.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

import ssmscan
from ssmscan.model.keys import loop_keys
from ssmscan.model.threefry import normal_of_words
from ssmscan.particles import filter_step
from ssmscan.particles.draws import as_key
from ssmscan.particles.proposals import Bootstrap
from ssmscan.particles.resampling import multinomial, stratified, systematic
from ssmscan.particles.stores import FullHistory
from tests.particles.handmade import THETA, autoregression
from tests.truth import ERROR_RATE, z_threshold

SCHEMES = [systematic, stratified, multinomial]
WEIGHTS = np.array([0.34, 0.0, 0.17, 0.37, 0.12])
POINTS = 4
REPLICATES = 20_000

Law = dict[tuple[int, ...], float]
"""Probability of each sorted tuple of ancestors."""


def ancestors_at(points: np.ndarray) -> np.ndarray:
    """Look up which particle each ordered point (..., n) falls on."""
    return np.searchsorted(np.cumsum(WEIGHTS)[:-1], points, side="right")


def law_of_systematic() -> Law:
    """The offset is uniform, and ancestors change where a point crosses a cumulative weight."""
    edges = np.unique(np.concatenate([[0, 1], (POINTS * np.cumsum(WEIGHTS)) % 1]).round(12))
    law: Law = {}
    for low, high in itertools.pairwise(edges):
        outcome = tuple(ancestors_at((np.arange(POINTS) + (low + high) / 2) / POINTS).tolist())
        law[outcome] = law.get(outcome, 0) + high - low
    return law


def law_of_stratified() -> Law:
    """Each point is uniform on a stratum of its own."""
    ends = np.cumsum(WEIGHTS)
    slots = [
        np.clip(np.minimum(ends, (k + 1) / POINTS) - np.maximum(ends - WEIGHTS, k / POINTS), 0, None) * POINTS
        for k in range(POINTS)
    ]
    return {
        outcome: math.prod(slot[i] for slot, i in zip(slots, outcome))
        for outcome in itertools.product(range(len(WEIGHTS)), repeat=POINTS)
        if all(slot[i] > 1e-12 for slot, i in zip(slots, outcome))
    }


def law_of_multinomial() -> Law:
    """Offspring are multinomial."""
    law = {}
    for outcome in itertools.combinations_with_replacement(np.flatnonzero(WEIGHTS).tolist(), POINTS):
        law[outcome] = stats.multinomial(POINTS, WEIGHTS).pmf(np.bincount(outcome, minlength=len(WEIGHTS)))
    return law


LAWS = [law_of_systematic, law_of_stratified, law_of_multinomial]


def follows(law: Law, ancestors: np.ndarray) -> bool:
    """Test outcomes (replicates, n) by chi-square; one that has no probability rejects by itself."""
    found, counts = np.unique(ancestors, axis=0, return_counts=True)
    observed = dict(zip(map(tuple, found.tolist()), counts.tolist()))
    if not observed.keys() <= law.keys():
        return False
    expected = len(ancestors) * np.array(list(law.values()))
    seen = np.array([observed.get(outcome, 0) for outcome in law])
    rare = expected < 10
    expected, seen = (np.append(x[~rare], x[rare].sum()) for x in (expected, seen))
    expected, seen = expected[expected > 0], seen[expected > 0]
    return stats.chi2.sf(((seen - expected) ** 2 / expected).sum(), len(expected) - 1) > ERROR_RATE


@pytest.mark.parametrize(("scheme", "law"), list(zip(SCHEMES, LAWS)), ids=[scheme.__name__ for scheme in SCHEMES])
def test_ancestors_have_the_joint_law_of_their_scheme(scheme, law):
    """Of 20,000 draws a change of the probability of an outcome from 0.2 by 0.02 is seen with power 0.9."""
    keys = jax.random.split(as_key(jax.random.key(0)), REPLICATES)
    draw = jax.jit(jax.vmap(lambda key, weights: scheme(key, weights, POINTS), in_axes=(0, None)))
    assert follows(law(), np.asarray(draw(keys, jnp.asarray(WEIGHTS, float))))
    for nobody in (0.0, jnp.nan):
        index = np.asarray(draw(keys, jnp.full(len(WEIGHTS), nobody)))
        assert ((index >= 0) & (index < len(WEIGHTS))).all()


def test_at_the_largest_uniform_there_is_no_particle_without_weight_has_offspring(monkeypatch):
    """Two hundred clouds of 1,000, a third without weight, the end too: rounding must not reach beyond the last."""
    largest = jnp.finfo(float).epsneg
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, 1 - 2 * largest))
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(200, 1000)) * (rng.random((200, 1000)) < 0.7) * (np.arange(1000) < 900)
    weights /= weights.sum(1, keepdims=True)

    @jax.jit
    @jax.vmap
    def draw(weights):
        return [scheme(as_key(jax.random.key(0)), weights, 1000) for scheme in (systematic, stratified)]

    for ancestors in draw(jnp.asarray(weights, float)):
        assert (np.take_along_axis(weights, np.asarray(ancestors), 1) > 0).all()


def test_laws_are_probabilities_and_the_same_test_rejects_other_points():
    """Each law accepts its own points, drawn here in float64, and rejects those of every mistake."""
    rng = np.random.default_rng(0)
    one, each = rng.random((REPLICATES, 1)), rng.random((REPLICATES, POINTS))
    gaps = rng.exponential(size=(REPLICATES, POINTS + 1)).cumsum(1)
    strata = np.arange(POINTS)
    points = {
        law_of_systematic: ((strata + one) / POINTS, (strata + one / 2) / POINTS, (strata + each) / POINTS),
        law_of_stratified: ((strata + each) / POINTS, (strata + each**2) / POINTS, (strata + one) / POINTS),
        law_of_multinomial: (
            gaps[:, :-1] / gaps[:, -1:],
            gaps[:, :-1] / gaps[:, -2:-1] * (1 - 1e-9),
            (strata + each) / POINTS,
        ),
    }
    for law, (right, *wrong) in points.items():
        np.testing.assert_allclose(sum(law().values()), 1, rtol=1e-9)
        assert follows(law(), ancestors_at(right)), law.__name__
        assert not any(follows(law(), ancestors_at(other)) for other in wrong), law.__name__


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("key", value) for value in (0, None, jax.random.key, np.zeros(2))),
        *(
            ("weights", value)
            for value in ([0.5, 0.5], np.array([1, 0]), np.full((2, 2), 0.25), np.zeros(0), "ab", 1.0)
        ),
        *(("n", value) for value in (0, -1, 2.0, True, "3", None, np.arange(3))),
    ],
)
def test_what_cannot_be_resampled_is_refused_by_name(scheme, argument, value):
    arguments = {"key": as_key(jax.random.key(0)), "weights": np.array([0.5, 0.5], np.float32), "n": 2, argument: value}
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: expected"):
        scheme(**arguments)


# ---- keys -----------------------------------------------------------------------------------------------


class Used(NamedTuple):
    """Keys that a run used: (steps, 2) words each."""

    resampling: list[jax.Array]
    moving: list[jax.Array]


@dataclass(frozen=True, eq=False)
class Recording:
    """Settings of a filter that write down the key of every use."""

    used: Used
    num_particles: int = 4
    threshold: float = 1

    def resampling(self, key, weights, n):
        self.used.resampling.append(jax.random.key_data(key))
        return systematic(key, weights, n)

    @property
    def proposal(self):
        return self

    begin, log_auxiliary = Bootstrap.begin, Bootstrap.log_auxiliary

    def propagate(self, key, dynamics, carry, x, n):
        self.used.moving.append(jax.random.key_data(key))
        return Bootstrap().propagate(key, dynamics, carry, x, n)


def test_no_key_is_used_twice_and_the_start_draws_from_none_of_the_steps():
    """Every use of every step of 50 runs has a key of its own; nothing the start drew is made of the words of one."""
    steps, ssm = 3, autoregression(4)

    @jax.jit
    @jax.vmap
    def uses(key):
        settings = Recording(Used([], []))
        dynamics = ssm.at(ssm.canonical(THETA))
        began = filter_step.start(settings, key, dynamics)
        state = began.state
        for t in range(steps):
            state, _ = filter_step.update(settings, state, dynamics, jax.tree.map(itemgetter(t), dynamics.xs))
        words = jnp.stack([jax.random.key_data(key), *settings.used.resampling, *settings.used.moving])
        return words, began.values["x0"] * jnp.sqrt(1 - THETA["rho"] ** 2)

    words, start = uses(jax.vmap(as_key)(jax.random.split(jax.random.key(0), 50)))
    assert words.shape == (50, 1 + 2 * steps, 2)
    assert len(np.unique(words.reshape(-1, 2), axis=0)) == 50 * (1 + 2 * steps)
    if start.dtype == np.float32:
        made_of_keys = normal_of_words(words[..., 0], words[..., 1])
        assert not np.isclose(start[:, :, None], made_of_keys[:, None, :], rtol=1e-3).any()


def walks(y):
    """Three independent random walks, with nothing to see of them."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0, 1).expand([3]).to_event(1))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, s).to_event(1))
        numpyro.sample("y", dist.Normal(x, 1e6), obs=y)
        return x, None

    scan(step, x0, y)


def test_starts_steps_and_elements_of_a_panel_have_independent_noise():
    """20,000 particles that are never resampled: a correlation of 0.04 of two of the nine noises is seen."""
    n, steps = 20_000, 2
    ssm = ssmscan.trace(walks, np.zeros((steps, 3), np.float32))
    assert ssm.panel.size == 3
    run = ssmscan.ParticleFilter(n, threshold=0, summaries=(), store=FullHistory())
    history = run.run(jax.random.key(0), ssm, {"s": 1.0}).history
    path = np.concatenate([np.asarray(history.initial.values["x0"])[None], history.steps.values["x"]])
    noise = np.diff(path, axis=0, prepend=0)  # (start and steps, particles, elements)
    columns = noise.swapaxes(1, 2).reshape(-1, n)
    z = np.corrcoef(columns)[np.triu_indices(len(columns), 1)] * n**0.5
    assert len(z) == 36 and np.abs(z).max() < z_threshold(len(z))


def test_every_loop_has_a_key_of_its_own():
    key = as_key(jax.random.key(0))
    keys = [key, *loop_keys(key, 3)]
    assert len(np.unique([jax.random.key_data(key) for key in keys], axis=0)) == 4
