"""Arrays whose values a model needs in Python are made static, and as few of them as will do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.model.staging.fixed_arrays import fewest_fixed

COUNTS = np.array([0, 2, 1, 3, 1])
TOTALS = COUNTS + 4


def observe(counts, totals, effect):
    def step(x, t):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        logits = x + effect(t)
        numpyro.sample("y", dist.Binomial(jnp.asarray(totals)[t], logits=logits), obs=jnp.asarray(counts)[t])
        return x, None

    scan(step, 0.0, jnp.arange(len(counts)))


def by_numpy(counts, totals):
    observe(counts, totals, jnp.zeros(int(np.array(counts).max()) + 1).__getitem__)


def by_method(counts, totals):
    observe(counts, totals, lambda t: jnp.zeros(int(counts.max()))[0])


def by_numpy_and_index(counts, totals):
    effects = jnp.zeros(int(np.array(counts).max()) + 1)
    observe(counts, totals, lambda t: effects[counts[t]])


def by_table(counts, totals):
    levels, index = np.unique(counts, return_inverse=True)
    observe(counts, totals, lambda t: jnp.zeros(len(levels))[jnp.asarray(index)[t]])


def by_shape(counts, totals):
    observe(counts, totals, lambda t: jnp.sum(jnp.zeros(counts[1])))


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (by_method, np.asarray),
        *(
            pytest.param(model, form, marks=pytest.mark.slow)
            for model, form in [(by_numpy, np.asarray), (by_numpy_and_index, jnp.asarray), (by_table, np.asarray)]
        ),
        pytest.param(by_shape, jnp.asarray, marks=pytest.mark.slow),
    ],
)
def test_what_a_model_asks_in_python_is_static_and_the_rest_data(model, form):
    ssm = ssmscan.trace(model, form(COUNTS), form(TOTALS))
    assert ssm.source.fixed == ("argument 0",) and len(ssm.source.data) == 1
    plain = ssmscan.trace(lambda counts, totals: observe(counts, totals, lambda t: 0.0), COUNTS, TOTALS)
    noise = {"x": jax.random.normal(jax.random.key(0), (5,))}
    np.testing.assert_allclose(
        ssm.log_likelihood_given_noise({}, noise), plain.log_likelihood_given_noise({}, noise), rtol=1e-6
    )


@pytest.mark.parametrize("needed", [(), (1,), (0, 2)])
@pytest.mark.parametrize("error", [jax.errors.TracerArrayConversionError, TypeError])
def test_the_fewest_are_found_by_attempts(needed, error):
    def attempt(leaves, data):
        if set(needed) & set(data):
            # An error of JAX takes a tracer, which is not to be had here.
            raise error.__new__(error)
        return data

    assert fewest_fixed((np.zeros(1),) * 3, (0, 1, 2), attempt) == tuple(i for i in range(3) if i not in needed)


def test_a_fault_of_the_model_is_raised_and_not_searched_for():
    calls = []

    def attempt(leaves, data):
        calls.append(data)
        raise KeyError("a fault")

    with pytest.raises(KeyError, match="a fault"):
        fewest_fixed((np.zeros(1),) * 5, tuple(range(5)), attempt)
    assert len(calls) == 3
