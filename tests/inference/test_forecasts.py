"""Forecasts of models of every shape: against what is known in closed form, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp
from scipy.stats import norm

import ssmscan
from tests.inference.models import NOISE, Y, switching
from tests.inference.test_forecast_scores import ALL, FIRST, Grid, drawn
from tests.truth import LinearGaussian, z_threshold
from tests.truth import linear_gaussian as solve

pytestmark = pytest.mark.slow
KEY = jax.random.key(0)
RHO, Q = 0.6, 0.8
KNOWN = drawn(rho=np.full((1, 400), RHO))
AR = LinearGaussian.scalar(0.0, Q**2, RHO, Q**2, 1.0, NOISE**2)


def scores_of(ssm, result=KNOWN, **settings):
    settings = {"num_draws": 400, "first_origin": FIRST, "progress": False} | settings
    return ssmscan.forecast_scores(KEY, ssm, result, **settings)


def two_ahead(y, t):
    """Mean and sd of what is two steps ahead of the first t observations."""
    truth = solve(AR, y[:, None])
    mean, var = truth.filtered_mean[t - 1, 0], truth.filtered_cov[t - 1, 0, 0]
    return RHO**2 * mean, np.sqrt(RHO**4 * var + Q**2 * (1 + RHO**2) + NOISE**2)


def step(rho, x):
    return numpyro.sample("x", dist.Normal(rho * x, Q))


def after_the_loop(y, start):
    rho = numpyro.sample("rho", dist.Uniform(-1.0, 1.0))

    def transition(x, _):
        x = step(rho, x)
        return x, x

    _, path = scan(transition, start, None, length=len(y) - 1)
    numpyro.sample("y", dist.Normal(jnp.concatenate([start[None], path]), NOISE), obs=y)


def test_what_is_observed_after_the_loop_has_its_rows_and_a_gap_counts_nowhere():
    """Row 0 belongs to the start, which is known here; one value is missing."""
    y = Y.copy()
    y[7] = np.nan
    found = scores_of(ssmscan.trace(after_the_loop, np.concatenate([[0.0], y]), jnp.zeros(())), horizons=(1, 2))
    truth = solve(AR, y[:, None]).increments[FIRST:]
    at = 7 - FIRST
    assert (
        np.isnan(found.log_scores[at, 0]) and np.isnan(found.crps["y"][at, 0]) and np.isnan(found.pit["y"][at - 1, 1])
    )
    there = np.arange(ALL - FIRST) != at
    np.testing.assert_allclose(found.log_scores[there, 0], truth[there], atol=1e-4)
    for row, t in enumerate(range(FIRST, ALL - 1)):
        if t + 1 == 7:
            continue
        mean, sd = two_ahead(y, t)
        assert abs(found.log_scores[row, 1] - norm.logpdf(y[t + 1], mean, sd)) < 0.05
        assert abs(found.pit["y"][row, 1] - norm.cdf(y[t + 1], mean, sd)) < 0.025


def panel(y):
    rho = numpyro.sample("rho", dist.Uniform(-1.0, 1.0))

    def transition(x, y):
        with numpyro.plate("series", 2):
            x = step(rho, x)
            numpyro.sample("y", dist.Normal(x, NOISE), obs=y)
        return x, None

    scan(transition, jnp.zeros(2), y)


def test_elements_of_a_panel_are_predicted_each_from_its_own_filter():
    both = np.stack([Y, 1.5 - 2.0 * Y], 1)
    ssm = ssmscan.trace(panel, both)
    found = scores_of(ssm, horizons=(1, 2), num_draws=200, estimator=ssmscan.ParticleFilter(300))
    assert ssm.panel is not None and found.crps["y"].shape == found.pit["y"].shape == (ALL - FIRST, 2, 2)
    truth = sum(solve(AR, y[:, None]).increments[FIRST:] for y in both.T)
    np.testing.assert_allclose(found.log_scores[:, 0], truth, atol=0.1)
    for row, t in enumerate(range(FIRST, ALL - 1)):
        for m in range(2):
            mean, sd = two_ahead(both[:, m], t)
            assert abs(found.pit["y"][row, 1, m] - norm.cdf(both[t + 1, m], mean, sd)) < 0.05
    assert 0 < found.weights.noise.max() < 2


def lagged(y, read):
    """An autoregression whose lag is the datum around its site, or what its site returned; a second site beside it."""
    rho = numpyro.sample("rho", dist.Uniform(-1.0, 1.0))

    def transition(before, inputs):
        now, last = inputs
        x = numpyro.sample("x", dist.Normal(rho * (last if read else before), Q))
        y = numpyro.sample("y", dist.Normal(x, NOISE), obs=now)
        numpyro.sample("z", dist.Normal(0.0, 1.0), obs=2.0 * now)
        return y, None

    scan(transition, jnp.zeros(()), (y, jnp.concatenate([jnp.zeros(1), y[:-1]])))


def test_observations_that_are_fed_back_are_drawn_where_they_have_not_come():
    """Two steps ahead the lag is unknown; a density that had read it is rejected, and a model that reads it refused."""
    y = jnp.asarray(Y, jnp.float32)
    found = scores_of(ssmscan.trace(lagged, y, False), horizons=(2,))
    t = np.arange(FIRST, ALL - 1)
    var = Q**2 + NOISE**2
    exact = norm.logpdf(Y[t + 1], RHO**2 * Y[t - 1], np.sqrt(var * (1 + RHO**2)))
    peeked = norm.logpdf(Y[t + 1], RHO * Y[t], np.sqrt(var))
    np.testing.assert_allclose(found.site_log_scores["y"][:, 0], exact, atol=0.05)
    assert np.abs(peeked - exact).max() > 0.2
    np.testing.assert_allclose(found.site_log_scores["z"][:, 0], norm.logpdf(2 * Y[t + 1]), atol=1e-4)
    both = found.site_log_scores["y"] + found.site_log_scores["z"]
    np.testing.assert_allclose(found.log_scores, both, atol=0.1)
    with pytest.raises(ssmscan.ModelError, match="cannot be predicted: 'x', 'y' would come out otherwise"):
        scores_of(ssmscan.trace(lagged, y, True), horizons=(2,))


def test_states_of_few_values_are_predicted_from_all_of_them():
    p = 0.8
    found = scores_of(ssmscan.trace(switching, Y), drawn(p=np.full((1, 400), p)), horizons=(1, 2))
    law = np.log(np.array([[p, 1 - p], [1 - p, p]]))
    alpha, ahead = np.array([0.0, -np.inf]), np.zeros((ALL, 2))
    for t, y in enumerate(Y):
        state = alpha
        for h in range(2):
            state = logsumexp(state[:, None] + law, axis=0)
            if t + h < ALL:
                ahead[t, h] = logsumexp(state + norm.logpdf(Y[t + h], 2.0 * np.arange(2)))
        joint = logsumexp(alpha[:, None] + law, axis=0) + norm.logpdf(y, 2.0 * np.arange(2))
        alpha = joint - logsumexp(joint)
    np.testing.assert_allclose(found.log_scores[:, 0], ahead[FIRST:, 0], atol=1e-4)
    np.testing.assert_allclose(found.log_scores[:-1, 1], ahead[FIRST:-1, 1], atol=0.03)
    assert not found.weights.noise.any()


def test_pit_is_uniform_under_the_true_model_and_not_under_a_wrong_one():
    """300 steps; a noise of 1.5 times the sd is seen."""
    rng, n = np.random.default_rng(0), 300
    x, y = 0.0, []
    for _ in range(n):
        x = RHO * x + Q * rng.standard_normal()
        y.append(x + NOISE * rng.standard_normal())
    y = np.array(y)

    def uniformity(data):
        found = scores_of(
            ssmscan.trace(panel_of_one, data), drawn(rho=np.full((1, 4), RHO)), num_draws=4, first_origin=1
        )
        values = found.pit["y"][:, 0]
        normal = norm.ppf(np.clip(values, 1e-6, 1 - 1e-6))
        lag = np.mean(normal[1:] * normal[:-1]) * np.sqrt(n - 1)
        return np.array([(values.mean() - 0.5) * np.sqrt(12 * n), (normal.var() - 1) * np.sqrt(n / 2), lag])

    assert (np.abs(uniformity(y)) < z_threshold(3)).all()
    assert np.abs(uniformity(1.5 * y)).max() > z_threshold(3)


def panel_of_one(y):
    rho = numpyro.sample("rho", dist.Uniform(-1.0, 1.0))

    def transition(x, y):
        x = step(rho, x)
        numpyro.sample("y", dist.Normal(x, NOISE), obs=y)
        return x, None

    scan(transition, jnp.zeros(()), y)


def test_smc2_has_the_score_of_every_step_on_its_way(linear):
    """Differences of its evidence, against the exact posterior at each step."""
    grid = Grid()
    result = ssmscan.SMC2(num_points=256, num_paths=0, progress=False).run(KEY, linear)
    found = scores_of(linear, result)
    assert "differences of the evidence" in " ".join(found.notes)
    exact = grid.one_ahead()
    error = found.monte_carlo_error[0]
    assert abs(found.log_score[0] - exact.sum()) < z_threshold() * error < 1.0
    np.testing.assert_allclose(found.log_scores[:, 0], exact, atol=0.3)
