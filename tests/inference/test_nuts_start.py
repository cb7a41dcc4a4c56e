import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference.nuts_start import INIT_RADIUS, _unit, beginning, in_units
from ssmscan.inference.nuts_step import NUTSStep, start_chains
from ssmscan.results.summary import summarise
from tests.truth import z_threshold

STEPS, SMALL, LARGE = 10, 1e-3, 1e3


def badly_scaled(y):
    """An offset of unit 1,000 that is measured well, and a slope of unit 0.001 that is hardly measured."""
    large = numpyro.sample("large", dist.Normal(0.0, LARGE))
    small = numpyro.sample("small", dist.Normal(0.0, SMALL))

    def step(x, inputs):
        t, value = inputs
        x = numpyro.sample("x", dist.Normal(0.5 * x, 1.0))
        numpyro.sample("y", dist.Normal(x + large + 300.0 * t * small, 1.0), obs=value)
        return x, None

    scan(step, 0.0, (jnp.arange(STEPS) / STEPS, y))


def exact(y):
    """Posterior means and covariance of (large, small / SMALL), by dense algebra."""
    powers = np.arange(STEPS)[:, None] - np.arange(STEPS)
    noise = np.where(powers >= 0, 0.5 ** np.maximum(powers, 0), 0.0)
    design = np.stack([np.ones(STEPS), 300.0 * np.arange(STEPS) / STEPS * SMALL], axis=1)
    weight = np.linalg.inv(noise @ noise.T + np.eye(STEPS))
    covariance = np.linalg.inv(design.T @ weight @ design + np.diag([LARGE**-2, 1.0]))
    return covariance @ design.T @ weight @ y, covariance


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_parameters_of_any_unit_are_sampled_in_few_steps(seed):
    y = 700.0 + np.random.default_rng(0).normal(size=STEPS)
    ssm = ssmscan.trace(badly_scaled, y)
    result = ssmscan.NUTS(num_warmup=500, num_samples=1000, num_paths=0, progress=False).run(jax.random.key(seed), ssm)
    mean, covariance = exact(y)
    scaled = {"large": result.draws["large"], "small": result.draws["small"] / SMALL}
    for i, draws in enumerate(scaled.values()):
        found = summarise(draws, independent_runs=False).statistics
        assert abs(found[0].value - mean[i]) < z_threshold(12) * found[0].error
        assert abs(found[1].value - covariance[i, i] ** 0.5) < z_threshold(12) * found[1].error
    # With parameters in unit 1 more than 20, and after some starts a chain that is stuck.
    assert result.sample_stats["n_steps"].mean() < 16


def drifting(counts):
    drift = numpyro.sample("drift", dist.Normal(0.0, 0.1))
    level_0 = numpyro.sample("level_0", dist.Normal(2.0, 1.0))

    def week(level, y):
        level = numpyro.sample("level", dist.Normal(level + drift, 0.1))
        numpyro.sample("count", dist.Poisson(jnp.exp(level)), obs=y)
        return level, None

    scan(week, level_0, counts)


def vague(counts):
    """A log-rate whose prior is far too wide: at most of its draws the density is infinite or next to it."""
    rate = numpyro.sample("rate", dist.Normal(0.0, 1e5))

    def week(x, y):
        x = numpyro.sample("x", dist.Normal(0.5 * x, 0.1))
        numpyro.sample("count", dist.Poisson(jnp.exp(rate + x)), obs=y)
        return x, None

    scan(week, 0.0, counts)


def starts(model, *arguments, chains=20):
    """Return the parameters at which chains start."""
    ssm = ssmscan.trace(model, *arguments)
    begun, _ = beginning(jax.random.key(0), ssm, chains)
    states, found = start_chains(jax.random.split(jax.random.key(0), chains), ssm, begun, None, step=NUTSStep(10, 5))
    assert np.all(found)
    return {name: np.asarray(z) for name, z in in_units(states.z["parameters"], begun.unit).items()}


def test_chains_start_in_the_middle_of_a_prior_and_apart():
    # Uniform on (-2, 2) three of four have a drift beyond 0.5: a rate of exp(60) at the end.
    drift = starts(drifting, np.full(120, 7.0))["drift"]
    assert np.abs(drift).max() < 0.3
    assert drift.std() > 0.01  # of the posterior, 0.1 / sqrt(120) = 0.009


def test_chains_start_near_zero_where_the_prior_is_too_wide():
    rate = starts(vague, np.full(5, 3.0))["rate"]
    assert np.abs(rate).max() < INIT_RADIUS
    assert rate.std() > 0.26  # of the posterior: 1 / sqrt(15)


def test_no_parameters_is_no_exception():
    def known(y):
        def step(x, value):
            x = numpyro.sample("x", dist.Normal(0.5 * x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=value)
            return x, None

        scan(step, 0.0, y)

    assert starts(known, np.ones(3), chains=2) == {}


def test_a_unit_is_the_sd_of_the_prior_or_one():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(4096, 2)) * [4e-3, 256.0]
    np.testing.assert_array_equal(_unit(normal), [2**-8, 1.0])
    assert _unit(1e-3 * rng.standard_cauchy(4096)) in (2**-9, 2**-8)
    assert _unit(np.r_[np.inf, normal[1:, 0]]) == 2**-8
    assert _unit(np.ones(16)) == 1
