"""Multinomials whose totals are data: density, draws, and the total of each draw."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.model.handlers.totals import draw_multinomial, with_data_totals
from tests.truth import z_threshold

TOTALS = np.array([4, 0, 9, 2, 6])
COUNTS = np.stack([np.random.default_rng(k).multinomial(n, [0.5, 0.3, 0.2]) for k, n in enumerate(TOTALS)])
FAMILIES = {
    "logits": lambda total, x: dist.Multinomial(total, logits=x),
    "probs": lambda total, x: dist.Multinomial(total, probs=jax.nn.softmax(x)),
    "largest": lambda total, x: dist.Multinomial(total, logits=x, total_count_max=20),
    "mixed": lambda total, x: dist.DirichletMultinomial(jnp.exp(x), total),
}


def model(counts, totals, family):
    def step(x, inputs):
        seen, total = inputs
        x = numpyro.sample("x", dist.Normal(x, 0.5).to_event(1))
        numpyro.sample("y", FAMILIES[family](total, x), obs=seen)
        return x, None

    scan(step, jnp.zeros(3), (counts, totals))


@pytest.mark.parametrize(
    "family", [name if name == "logits" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_totals_that_vary_by_step_are_data(family):
    ssm = ssmscan.trace(model, COUNTS, TOTALS, family)
    assert not ssm.source.fixed
    values = jnp.cumsum(0.5 * jax.random.normal(jax.random.key(0), (5, 3)), axis=0)
    eps = jnp.diff(values, axis=0, prepend=jnp.zeros((1, 3))) / 0.5
    expected = sum(FAMILIES[family](int(n), x).log_prob(y) for n, x, y in zip(TOTALS, values, COUNTS))
    np.testing.assert_allclose(ssm.log_likelihood_given_noise({}, {"x": eps}), expected, rtol=1e-5)


@pytest.mark.slow
def test_draws_have_the_totals_of_the_data():
    family = "mixed"
    ssm = ssmscan.trace(model, COUNTS, TOTALS, family)
    np.testing.assert_array_equal(ssm.simulate(jax.random.key(1), {})["y"].sum(-1), TOTALS)
    other = ssm.with_data(COUNTS + np.array([1, 0, 0]), TOTALS + 1, family)
    np.testing.assert_array_equal(other.simulate(jax.random.key(1), {})["y"].sum(-1), TOTALS + 1)


@pytest.mark.slow
def test_the_density_of_a_loop_with_totals_is_compared_with_that_of_numpyro():
    assert ssmscan.trace(model, COUNTS, TOTALS, "mixed").check(jax.random.key(0)).passed


@pytest.mark.slow
def test_a_draw_has_the_probability_of_its_counts():
    probs, total, size = np.array([0.15, 0.0, 0.6, 0.25]), 3, 20_000
    draws = np.asarray(draw_multinomial(jax.random.key(0), jnp.full(size, total), jnp.asarray(probs), (size,)))
    cells = [c for c in itertools.product(range(total + 1), repeat=4) if sum(c) == total]
    for cell in cells:
        ways = math.factorial(total) / math.prod(map(math.factorial, cell))
        expected = ways * math.prod(p**c for p, c in zip(probs, cell))
        share = np.mean((draws == np.array(cell)).all(-1))
        assert abs(share - expected) <= z_threshold(len(cells)) * math.sqrt(expected * (1 - expected) / size)


@pytest.mark.slow
def test_a_single_total_below_the_largest_is_kept():
    fn = with_data_totals(dist.Multinomial(3, probs=jnp.array([0.5, 0.5]), total_count_max=10))
    assert type(fn).__name__ == "MultinomialProbs"
    np.testing.assert_array_equal(fn.sample(jax.random.key(0)).sum(-1), 3)
    masked = with_data_totals(dist.Multinomial(jnp.array([3, 5]), probs=jnp.array([0.5, 0.5])).mask(True).to_event(1))
    assert jax.eval_shape(masked.sample, jax.random.key(0)).shape == (2, 2)
