"""The Gaussian approximation against a dense one of the same density, which shares no line with it.

The reference takes `ssm.log_likelihood_given_noise`, the function that NUTS samples, as one function of all noise, and
finds its mode by Newton steps with the dense Hessian.  Linear Gaussian models are in
`tests/model/test_linear_gaussian.py`, against the joint law.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.contrib.control_flow import scan
from scipy.stats import binom, norm

import ssmscan

RNG = np.random.default_rng(0)
Y = RNG.normal(size=12)
COUNTS = RNG.poisson(3.0, size=(12, 3))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def volatility(y):
    mu, sigma = numpyro.sample("mu", dist.Normal()), numpyro.sample("sigma", dist.HalfNormal())
    h0 = numpyro.sample("h0", dist.Normal(mu, 2.0 * sigma))

    def step(h, y):
        h = numpyro.sample("h", dist.Normal(mu + 0.9 * (h - mu), sigma))
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(0.5 * h)), obs=y)
        return h, None

    scan(step, h0, y)


def growth_with_an_observed_start(y):
    """A map that is not linear, a clock in the carry, missing data, a start that is observed."""
    mu, sigma = numpyro.sample("mu", dist.Normal()), numpyro.sample("sigma", dist.HalfNormal())
    x0 = numpyro.sample("x0", dist.Normal(1.0, 0.5))
    numpyro.sample("y0", dist.Normal(jnp.sinh(x0), 0.5), obs=0.3)

    def step(carry, y):
        t, x = carry
        x = numpyro.sample("x", dist.Normal(x + 0.4 * jnp.sin(x) * jnp.cos(0.1 * t), sigma))
        seen = ~jnp.isnan(y)
        numpyro.sample("y", dist.LogNormal(mu + x, 0.3).mask(seen), obs=jnp.where(seen, y, 1.0))
        return (t + 1, x), numpyro.deterministic("twice", 2.0 * x)

    scan(step, (0, x0), jnp.exp(y).at[3].set(jnp.nan))


def counts_after_the_loop(y):
    mu, sigma = numpyro.sample("mu", dist.Normal()), numpyro.sample("sigma", dist.HalfNormal())

    def step(x, _):
        e = numpyro.sample("e", dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3) + 0.5))
        x = 0.8 * x + sigma * e
        return x, x

    _, path = scan(step, jnp.zeros(3), None, length=12)
    numpyro.sample("y", dist.Poisson(jnp.exp(1.0 + mu + path)).to_event(1), obs=y)


def two_loops(y):
    mu, sigma = numpyro.sample("mu", dist.Normal()), numpyro.sample("sigma", dist.HalfNormal())

    def step(x, y, name):
        x = numpyro.sample(name, dist.Normal(0.9 * x + mu, sigma))
        numpyro.sample(name + "_y", dist.StudentT(4.0, x, 0.5), obs=y)
        return x, None

    scan(lambda x, y: step(x, y, "a"), 0.0, y)
    scan(lambda x, y: step(x, y, "b"), 1.0, 0.5 * y[:7])


def panel(y):
    mu, sigma = numpyro.sample("mu", dist.Normal()), numpyro.sample("sigma", dist.HalfNormal())

    def step(x, y):
        with numpyro.plate("series", 3):
            x = numpyro.sample("x", dist.Normal(0.9 * x + mu, sigma))
            numpyro.sample("y", dist.Poisson(jnp.exp(1.0 + x)), obs=y)
        return x, None

    scan(step, jnp.zeros(3), y)


def gamma_shocks(y):
    mu, sigma = numpyro.sample("mu", dist.Normal()), numpyro.sample("sigma", dist.HalfNormal())

    def step(x, y):
        g = numpyro.sample("g", dist.Gamma(3.0, 3.0 * jnp.exp(-mu)))
        x = 0.7 * x + sigma * g
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    scan(step, 1.0, y)


MODELS = {
    volatility: (Y,),
    growth_with_an_observed_start: (Y,),
    counts_after_the_loop: (COUNTS,),
    two_loops: (Y,),
    panel: (COUNTS,),
    gamma_shocks: (np.abs(Y),),
}
THETA = {"mu": 0.2, "sigma": 0.4}


def dense(ssm, theta):
    """Return Laplace's log likelihood, and mean and standard deviation of the noise by site."""
    zero = {
        name: 0.01 * jnp.cos(jnp.arange(np.prod(s.shape)) + 1.0).reshape(s.shape)
        for name, s in ssm.smooth_noise.items()
    }
    flat, back = ravel_pytree(zero)

    @jax.jit
    def derivatives(e):
        def height(e):
            return ssm.log_likelihood_given_noise(theta, back(e)) - 0.5 * jnp.sum(e**2)

        return height(e), jax.grad(height)(e), jax.hessian(height)(e)

    e = np.asarray(flat)
    for _ in range(200):
        value, gradient, hessian = map(np.asarray, derivatives(e))
        eigenvalues, vectors = np.linalg.eigh(-hessian)
        change = vectors @ ((vectors.T @ gradient) / np.maximum(np.abs(eigenvalues), 0.1))
        length = next(s for s in 0.5 ** np.arange(40) if derivatives(e + s * change)[0] >= value - 1e-12)
        e = e + length * change
    value, gradient, hessian = map(np.asarray, derivatives(e))
    assert np.abs(gradient).max() < 1e-8
    covariance = np.linalg.inv(-hessian)
    log_likelihood = value + 0.5 * np.linalg.slogdet(covariance)[1]
    return log_likelihood, back(jnp.asarray(e)), back(jnp.sqrt(jnp.diag(jnp.asarray(covariance))))


QUICK = growth_with_an_observed_start


@pytest.mark.parametrize("model", [m if m is QUICK else pytest.param(m, marks=pytest.mark.slow) for m in MODELS])
def test_against_the_dense_mode_and_curvature_of_all_noise(model):
    ssm = ssmscan.trace(model, *MODELS[model])
    path = ssmscan.gaussian_approximation(ssm, THETA)
    log_likelihood, mean, sd = dense(ssm, ssm.canonical(THETA))
    assert path.word == "Laplace" and "mode was found" in path.message()
    np.testing.assert_allclose(path.log_likelihood, log_likelihood, rtol=1e-7)
    for name in mean:
        np.testing.assert_allclose(path.noise[name], mean[name], atol=1e-4)
        np.testing.assert_allclose(path.noise_sd[name], sd[name], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", [volatility, growth_with_an_observed_start])
def test_derivatives_are_those_of_the_value(model):
    ssm = ssmscan.trace(model, *MODELS[model])

    @jax.jit
    def value(theta):
        return ssmscan.gaussian_approximation(ssm, theta).log_likelihood

    score = jax.grad(value)(ssm.canonical(THETA))
    for name, here in THETA.items():
        there = [float(value(ssm.canonical({**THETA, name: here + d}))) for d in (1e-4, -1e-4)]
        np.testing.assert_allclose(score[name], (there[0] - there[1]) / 2e-4, rtol=1e-5)


@pytest.mark.slow
def test_states_are_the_models_own_values_and_draws_have_their_moments():
    ssm = ssmscan.trace(growth_with_an_observed_start, Y)
    path = ssmscan.gaussian_approximation(ssm, THETA)
    assert set(path.mean) == {"x0", "x", "twice"}
    np.testing.assert_allclose(path.mean["twice"], 2.0 * path.mean["x"])
    np.testing.assert_allclose(path.sd["twice"], 2.0 * path.sd["x"])
    noise = {name: path.noise[name] for name in ("x0", "x")}
    np.testing.assert_allclose(ssm.states_from_noise(THETA, noise)["x"], path.mean["x"], atol=1e-5)
    draws = path.sample(jax.random.key(0), 20_000)
    assert draws["x"].shape == (20_000, 12)
    # The delta method is not exact here, and the draws are on the curved states: a tenth of a standard deviation.
    np.testing.assert_allclose(draws["x"].mean(0), path.mean["x"], atol=0.1 * float(path.sd["x"].max()))
    np.testing.assert_allclose(draws["x"].std(0), path.sd["x"], rtol=0.1)


@pytest.mark.slow
def test_a_panel_is_its_series_and_several_parameters_are_each_alone():
    whole = ssmscan.gaussian_approximation(ssmscan.trace(panel, COUNTS), THETA)
    assert whole.mean["x"].shape == (12, 3) and whole.covariance["x"].shape == (12, 3, 1, 1)
    assert whole.noise["x"].shape == (12, 3)

    def series(y):
        mu, sigma = numpyro.sample("mu", dist.Normal()), numpyro.sample("sigma", dist.HalfNormal())

        def step(x, y):
            x = numpyro.sample("x", dist.Normal(0.9 * x + mu, sigma))
            numpyro.sample("y", dist.Poisson(jnp.exp(1.0 + x)), obs=y)
            return x, None

        scan(step, 0.0, y)

    alone = [ssmscan.gaussian_approximation(ssmscan.trace(series, COUNTS[:, k]), THETA) for k in range(3)]
    np.testing.assert_allclose(whole.log_likelihood, sum(one.log_likelihood for one in alone), rtol=1e-9)
    for k, one in enumerate(alone):
        np.testing.assert_allclose(whole.mean["x"][:, k], one.mean["x"], atol=1e-6)
        np.testing.assert_allclose(whole.sd["x"][:, k], one.sd["x"], rtol=1e-6)
    again = ssmscan.gaussian_approximation(whole.ssm, THETA, start=whole.noise)
    assert int(again.passes) <= 2
    np.testing.assert_allclose(again.log_likelihood, whole.log_likelihood, rtol=1e-9)

    ssm = ssmscan.trace(series, COUNTS[:, 0])
    many = {"mu": jnp.array([0.2, -0.5]), "sigma": jnp.array([0.4, 1.0])}
    batch = jax.vmap(lambda theta: ssmscan.gaussian_approximation(ssm, theta).log_likelihood)(many)
    each = [ssmscan.gaussian_approximation(ssm, {n: v[k] for n, v in many.items()}).log_likelihood for k in range(2)]
    np.testing.assert_allclose(batch, each, rtol=1e-9)


def test_what_an_approximation_is_worth_is_said():
    ssm = ssmscan.trace(volatility, Y)
    hasty = ssmscan.gaussian_approximation(ssm, THETA, max_passes=1)
    assert hasty.word == "surrogate" and "not settled after 1 passes" in hasty.message()

    def nowhere(y):
        def step(x, y):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0).mask(y < 9.0), obs=y)
            numpyro.factor("impossible", jnp.where(y < 9.0, -jnp.inf, 0.0))
            return x, None

        scan(step, 0.0, y)

    lost = ssmscan.gaussian_approximation(ssmscan.trace(nowhere, Y), {})
    assert lost.word == "surrogate" and np.isnan(lost.log_likelihood)
    assert "No path with a finite log density" in lost.message()


def test_noise_to_start_from_is_asked_for_by_site():
    ssm = ssmscan.trace(volatility, Y)
    with pytest.raises(ValueError, match=r"start: expected noise of the sites \['h0', 'h'\].*It lacks \['h'\]"):
        ssmscan.gaussian_approximation(ssm, THETA, start={"h0": 0.0})


@pytest.mark.slow
def test_counts_are_replaced_by_normals_and_that_is_said():
    def survivors(y):
        rate = numpyro.sample("rate", dist.Beta(5.0, 1.0))

        def step(alive, y):
            alive = numpyro.sample("alive", dist.Binomial(alive, probs=rate))
            numpyro.sample("y", dist.Normal(alive, 8.0), obs=y)
            return alive, None

        scan(step, 400, y)

    ssm = ssmscan.trace(survivors, jnp.array([380.0, 365.0, 340.0, 325.0, 310.0, 290.0]))
    path = ssmscan.gaussian_approximation(ssm, {"rate": 0.95})
    counts = np.arange(401)
    law, exact = np.eye(401)[400], 0.0
    for y in np.asarray(ssm.observed["y"]):  # the forward pass over all counts
        law = law @ binom.pmf(counts[None, :], counts[:, None], 0.95) * norm.pdf(y, counts, 8.0)
        exact, law = exact + np.log(law.sum()), law / law.sum()
    assert path.word == "surrogate" and "stands for 'alive'" in path.message()
    assert abs(path.log_likelihood - exact) < 0.05
