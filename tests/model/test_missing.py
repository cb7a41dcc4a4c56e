"""Missing elements: likelihood against dense normal algebra that knows them, on the filter and given noise."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from scipy.stats import multivariate_normal, t

import ssmscan
from ssmscan.model.handlers import missing
from tests.truth import ERROR_RATE

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(1)
SERIES = RNG.normal(size=8).cumsum()
PAIRS = RNG.normal(size=(6, 2)).cumsum(axis=0)
MATRIX = np.array([[0.5, 0.2], [0.0, 0.7]])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])


def without(values, *places):
    values = np.array(values, float)
    for place in places:
        values[place] = np.nan
    return jnp.asarray(values)


def level(y):
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    start = numpyro.sample("x0", dist.Normal(0, 1))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    scan(transition, start, y)


def lags(y):
    """AR(2) on the observed value itself."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def transition(carry, y):
        last, before = carry
        y = numpyro.sample("y", dist.Normal(0.6 * last - 0.3 * before, q), obs=y)
        return (y, last), None

    scan(transition, (0.0, 0.0), y)


def conditioned(y, future=0):
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def transition(carry, _):
        last, before = carry
        y = numpyro.sample("y", dist.Normal(0.6 * last - 0.3 * before, q))
        return (y, last), y

    with handlers.condition(data={"y": y}):
        scan(transition, (0.0, 0.0), jnp.arange(len(y) + future))


def pair(y):
    """Two coordinates with correlated noise around a common level."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.MultivariateNormal(jnp.array([x, -x]), COVARIANCE), obs=y)
        return x, None

    scan(transition, 0.0, y)


def vector_lag(y):
    """VAR(1) with correlated noise: missing coordinates are drawn given the present ones."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def transition(last, y):
        y = numpyro.sample("y", dist.MultivariateNormal(MATRIX @ last, q * COVARIANCE), obs=y)
        return y, None

    scan(transition, jnp.zeros(2), y)


def masked(y):
    """The level model as one writes it with `obs_mask`."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    start = numpyro.sample("x0", dist.Normal(0, 1))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=jnp.nan_to_num(y), obs_mask=~jnp.isnan(y))
        return x, None

    scan(transition, start, y)


def log_density(covariance, y):
    """Of the present elements of a normal vector with mean zero."""
    y = np.asarray(y, float).ravel()
    there = ~np.isnan(y)
    return multivariate_normal(cov=covariance[np.ix_(there, there)]).logpdf(y[there])


def level_truth(y, q):
    steps = np.arange(1, len(y) + 1)
    return log_density(1 + q**2 * np.minimum.outer(steps, steps) + 0.25 * np.eye(len(y)), y)


def recursion_truth(matrices, noise, y):
    """y_t = sum_k A_k y_{t-k} + N(0, noise), from zeros."""
    size, dim = len(y), len(noise)
    operator = np.eye(size * dim)
    for k, matrix in enumerate(matrices, 1):
        operator -= np.kron(np.eye(size, k=-k), matrix)
    inverse = np.linalg.inv(operator)
    return log_density(inverse @ np.kron(np.eye(size), noise) @ inverse.T, y)


def lags_truth(y, q):
    return recursion_truth([np.array([[0.6]]), np.array([[-0.3]])], np.array([[q**2]]), y)


def pair_truth(y, q):
    steps = np.arange(1, len(y) + 1)
    load = np.array([1.0, -1.0])
    walk = q**2 * np.minimum.outer(steps, steps)
    return log_density(np.kron(walk, np.outer(load, load)) + np.kron(np.eye(len(y)), COVARIANCE), y)


def vector_truth(y, q):
    return recursion_truth([MATRIX], q * COVARIANCE, y)


GAPS = without(SERIES, 0, 3, 4)
HOLES = without(PAIRS, (0, 1), 2, (4, 0))
CASES = {
    "level": (level, (GAPS,), {}, level_truth, GAPS),
    "whole start and end missing": (level, (without(SERIES, 0, 1, 7),), {}, level_truth, without(SERIES, 0, 1, 7)),
    "obs_mask": (masked, (GAPS,), {}, level_truth, GAPS),
    "lags": (lags, (GAPS,), {}, lags_truth, GAPS),
    "lags by condition": (conditioned, (GAPS,), {}, lags_truth, GAPS),
    "horizon": (conditioned, (jnp.asarray(SERIES),), {"future": 2}, lags_truth, jnp.asarray(SERIES)),
    "horizon and gaps": (conditioned, (GAPS,), {"future": 2}, lags_truth, GAPS),
    "pair": (pair, (HOLES,), {}, pair_truth, HOLES),
    "vector lag": (vector_lag, (HOLES,), {}, vector_truth, HOLES),
}


def traced(name):
    model, args, kwargs, truth, y = CASES[name]
    return ssmscan.trace(model, *args, **kwargs), truth(np.asarray(y), 0.8)


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    return traced(request.param)


def close(log_ratios, replicates):
    """Judge that the mean of exp(log ratios) is one."""
    ratio = np.exp(np.asarray(log_ratios, float))
    if np.ptp(ratio) < 1e-5:  # nothing random is left
        return np.testing.assert_allclose(ratio, 1, atol=1e-5)
    z = (ratio.mean() - 1) / (ratio.std(ddof=1) / np.sqrt(replicates))
    assert abs(z) < t.isf(ERROR_RATE / 2, replicates - 1), (z, ratio.mean())


@pytest.mark.parametrize("name", ["level", "lags", "horizon and gaps", "pair", "vector lag"])
def test_the_filter_integrates_missing_elements_out(name):
    ssm, exact = traced(name)
    keys = jax.random.split(jax.random.key(0), 64)
    run = jax.jit(jax.vmap(lambda key: ssmscan.log_likelihood(key, ssm, {"q": 0.8}, num_particles=1000)))
    found = np.asarray(run(keys), float)
    assert found.std() < 0.5
    close(found - exact, 64)


def test_the_density_given_noise_integrates_to_the_likelihood(case):
    ssm, exact = case
    theta = ssm.canonical({"q": 0.8})
    shapes = {name: spec.shape for name, spec in ssm.smooth_noise.items()}

    @jax.jit
    @jax.vmap
    def batch(key):
        noise = {
            name: jax.random.normal(k, (4096, *shape))
            for k, (name, shape) in zip(jax.random.split(key, len(shapes) + 1), shapes.items())
        }
        weights = (
            jax.vmap(lambda noise: ssm.log_likelihood_given_noise(theta, noise))(noise)
            if shapes
            else (ssm.log_likelihood_given_noise(theta, {})[None])
        )
        return jax.scipy.special.logsumexp(weights) - jnp.log(len(weights))

    found = np.asarray(batch(jax.random.split(jax.random.key(0), 48)), float)
    assert found.std() < 0.6
    close(found - exact, 48)


def test_gradients_and_reports_are_numbers(case):
    ssm, _ = case
    noise = {name: jnp.zeros(spec.shape) for name, spec in ssm.smooth_noise.items()}
    density = jax.jit(jax.grad(lambda q: ssm.log_likelihood_given_noise({"q": q}, noise)))
    assert np.isfinite(density(jnp.asarray(0.8)))


def test_only_what_the_model_reads_is_drawn():
    assert [s.name for s in ssmscan.trace(level, GAPS).innovations] == ["x"]
    ssm = ssmscan.trace(lags, GAPS)
    assert [s.name for s in ssm.innovations] == ["y_missing"]
    assert "missing elements of 'y', which the model reads" in str(ssm)
    np.testing.assert_allclose(ssm.observed["y"], GAPS)


def test_drawn_elements_keep_the_present_ones():
    ssm = ssmscan.trace(vector_lag, HOLES)
    noise = {name: jax.random.normal(jax.random.key(0), spec.shape) for name, spec in ssm.smooth_noise.items()}
    full = ssm.states_from_noise(ssm.canonical({"q": 0.8}), noise)["y_missing"]
    y = ssm.observed["y"]
    np.testing.assert_allclose(np.where(np.isnan(y), full, y), full)
    assert np.isfinite(full).all()


def test_the_pattern_is_data():
    ssm = ssmscan.trace(lags, GAPS)
    assert ssm.with_data(without(SERIES, 2)).program is ssm.program
    assert ssm.with_data(jnp.asarray(SERIES)).program is ssm.program
    assert ssmscan.trace(lags, without(SERIES, 5)).program is ssm.program
    assert ssmscan.trace(lags, jnp.asarray(SERIES)).program is not ssm.program


def test_the_parts_add_up_with_the_gaps_filled():
    for model, data in ((level, GAPS), (lags, GAPS), (vector_lag, without(PAIRS, (0, 1)))):
        assert ssmscan.trace(model, data).check(jax.random.key(0)).passed
    with pytest.raises(ssmscan.ModelError, match="fewer values than it has steps"):
        ssmscan.trace(conditioned, jnp.asarray(SERIES), future=2).check(jax.random.key(0))


def test_a_joint_value_may_be_missing_as_a_whole():
    def shares(y):
        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Dirichlet(jnp.exp(x) * jnp.ones(3)), obs=y)
            return x, None

        scan(transition, 0.0, y)

    y = np.full((4, 3), 1 / 3)
    whole = ssmscan.trace(shares, without(y, 2))
    run = ssmscan.ParticleFilter(500).run(jax.random.key(0), whole, {})
    assert np.isfinite(run.log_likelihood) and np.isclose(run.increments[2], 0, atol=1e-5)


FAMILIES = [
    dist.Normal(2.0, 1.0),
    dist.Gamma(2.0, 1.0),
    dist.Beta(2.0, 3.0),
    dist.Uniform(3.0, 4.0),
    dist.Poisson(3.0),
    dist.Bernoulli(0.3),
    dist.Dirichlet(jnp.ones(3)),
    dist.MultivariateNormal(jnp.ones(2), jnp.eye(2)),
    dist.Normal(jnp.zeros(3), 1.0).to_event(1),
    dist.Pareto(2.0, 1.5),
]


@pytest.mark.parametrize("fn", FAMILIES, ids=lambda fn: type(fn).__name__)
def test_a_filler_lies_in_the_support(fn):
    value = missing.filler(fn)
    assert value.shape == fn.shape() and jnp.all(fn.support(value)) and jnp.all(jnp.isfinite(fn.log_prob(value)))
