"""The references agree with published numbers, with statsmodels and with each other."""

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.tsa.statespace.structural import UnobservedComponents

from ssmscan import datasets
from tests.truth import (
    ERROR_RATE,
    LinearGaussian,
    hmm_enumeration,
    hmm_forward_backward,
    linear_gaussian,
    minimal_detectable_effect,
    point_mass_filter,
    z_threshold,
)

NILE = LinearGaussian.scalar(m=1000, P=500**2, F=1, Q=1469.1, H=1, R=15098.5)


def normal_pdf(x, mean, sd):
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


def stochastic_volatility_grid(y, mu=-1.02, rho=0.9702, sigma=0.178):
    sd = sigma / np.sqrt(1 - rho**2)
    grid = mu + sd * np.linspace(-9, 9, 800)
    transition = normal_pdf(grid[None, :], mu + rho * (grid[:, None] - mu), sigma)
    log_emission = -0.5 * (np.log(2 * np.pi) + grid + y[:, None] ** 2 * np.exp(-grid))
    return point_mass_filter(grid, normal_pdf(grid, mu, sd), transition, log_emission)


def test_nile_is_the_published_log_likelihood():
    truth = linear_gaussian(NILE, datasets.nile().values[:, None])
    np.testing.assert_allclose(truth.log_likelihood, -639.7117153992368, rtol=1e-12)


def test_linear_gaussian_is_statsmodels_on_nile():
    y = datasets.nile().values
    reference = UnobservedComponents(y, level="llevel")
    reference.ssm.initialize_known(NILE.m, NILE.P)
    reference.ssm.loglikelihood_burn = 0
    reference = reference.smooth([15098.5, 1469.1])
    truth = linear_gaussian(NILE, y[:, None])
    np.testing.assert_allclose(truth.log_likelihood, reference.llf, rtol=1e-10)
    np.testing.assert_allclose(truth.increments, reference.llf_obs, rtol=1e-8)
    np.testing.assert_allclose(truth.filtered_mean.T, reference.filtered_state, rtol=1e-8)
    np.testing.assert_allclose(truth.smoothed_mean.T, reference.smoothed_state, rtol=1e-8)
    np.testing.assert_allclose(truth.smoothed_cov.T, reference.smoothed_state_cov, rtol=1e-7)


def test_linear_gaussian_is_statsmodels_with_two_states_and_missing_data():
    y = datasets.nile().values[:40].copy()
    y[[3, 10, 11, 39]] = np.nan
    reference = UnobservedComponents(y, level="lltrend")
    initial = np.array([1000.0, -3.0]), np.array([[200.0**2, 50.0], [50.0, 10.0**2]])
    reference.ssm.initialize_known(*initial)
    reference.ssm.loglikelihood_burn = 0
    reference = reference.smooth([15098.5, 1469.1, 10.0])
    model = LinearGaussian(
        *initial,
        F=np.array([[1.0, 1.0], [0.0, 1.0]]),
        Q=np.diag([1469.1, 10.0]),
        H=np.array([[1.0, 0.0]]),
        R=np.array([[15098.5]]),
    )
    truth = linear_gaussian(model, y[:, None])
    np.testing.assert_allclose(truth.log_likelihood, reference.llf, rtol=1e-10)
    np.testing.assert_allclose(truth.filtered_mean.T, reference.filtered_state, rtol=1e-7)
    np.testing.assert_allclose(truth.filtered_cov.transpose(1, 2, 0), reference.filtered_state_cov, rtol=1e-6)
    np.testing.assert_allclose(truth.smoothed_mean.T, reference.smoothed_state, rtol=1e-7)


def test_autoregression_with_noise_is_the_known_log_likelihood():
    z = np.random.RandomState(0).standard_normal((100, 2))
    x, y = z[0, 0] / np.sqrt(0.19), np.empty(100)
    for t in range(100):
        x = 0.9 * x + z[t, 0] if t > 0 else x
        y[t] = x + 0.2 * z[t, 1]
    model = LinearGaussian.scalar(m=0, P=1 / 0.19, F=0.9, Q=1, H=1, R=0.04)
    np.testing.assert_allclose(linear_gaussian(model, y[:, None]).log_likelihood, -146.70364792111695, rtol=1e-12)


@pytest.mark.parametrize(("length", "expected"), [(200, -158.34280921193), (750, -492.45424262228)], ids=["200", "750"])
def test_gbpusd_on_a_grid_is_the_known_log_likelihood(length, expected):
    truth = stochastic_volatility_grid(datasets.gbpusd().values[:length])
    np.testing.assert_allclose(truth.log_likelihood, expected, rtol=1e-11)


def test_nonlinear_benchmark_on_a_grid_is_the_known_log_likelihood():
    z = np.random.RandomState(0).standard_normal((100, 2))

    def mean(x, n):
        return x / 2 + 25 * x / (1 + x**2) + 8 * np.cos(1.2 * n)

    x, y = np.sqrt(5) * z[0, 0], np.empty(100)
    for t in range(100):
        x = mean(x, t + 1) + np.sqrt(10) * z[t, 0] if t > 0 else x
        y[t] = x**2 / 20 + np.sqrt(10) * z[t, 1]
    grid = np.linspace(-40, 40, 1001)
    truth = point_mass_filter(
        grid,
        normal_pdf(grid, 0, np.sqrt(5)),
        lambda t: normal_pdf(grid[None, :], mean(grid[:, None], t + 1), np.sqrt(10)),
        norm.logpdf(y[:, None], grid**2 / 20, np.sqrt(10)),
    )
    np.testing.assert_allclose(truth.log_likelihood, -310.0963727572, rtol=1e-10)


def test_grid_filter_is_the_joint_gaussian():
    y = datasets.nile().values[:50]
    grid = np.linspace(-1500, 3500, 1500)
    truth = linear_gaussian(NILE, y[:, None])
    approximate = point_mass_filter(
        grid,
        normal_pdf(grid, 1000, 500),
        normal_pdf(grid[None, :], grid[:, None], np.sqrt(1469.1)),
        norm.logpdf(y[:, None], grid, np.sqrt(15098.5)),
    )
    np.testing.assert_allclose(approximate.increments, truth.increments, rtol=1e-6)
    np.testing.assert_allclose(approximate.filtered_mean, truth.filtered_mean[:, 0], rtol=1e-6)
    np.testing.assert_allclose(approximate.filtered_sd, np.sqrt(truth.filtered_cov[:, 0, 0]), rtol=1e-6)


def test_forward_recursion_is_enumeration():
    rng = np.random.default_rng(0)
    initial = rng.dirichlet(np.ones(3))
    transition = rng.dirichlet(np.ones(3), size=3)
    transition[0] = [0, 0.5, 0.5]
    log_emission = rng.normal(size=(6, 3))
    truth = hmm_forward_backward(initial, transition, log_emission)
    np.testing.assert_allclose(truth.log_likelihood, hmm_enumeration(initial, transition, log_emission), rtol=1e-12)
    for t, k in [(0, 0), (3, 1), (5, 2)]:
        others = np.arange(3) != k
        pinned = log_emission.copy()
        pinned[t, others] = -np.inf
        joint = hmm_enumeration(initial, transition, pinned)
        np.testing.assert_allclose(truth.smoothed[t, k], np.exp(joint - truth.log_likelihood), rtol=1e-12)
    np.testing.assert_allclose(truth.filtered[-1], truth.smoothed[-1], rtol=1e-12)


def test_threshold_keeps_the_error_rate_of_the_family():
    for comparisons in (1, 12):
        assert np.isclose(2 * comparisons * norm.sf(z_threshold(comparisons)), ERROR_RATE)


def test_minimal_detectable_effect_is_detected_with_the_stated_power():
    effect = minimal_detectable_effect(0.5, num_comparisons=3)
    assert np.isclose(norm.sf(z_threshold(3), loc=effect / 0.5), 0.9)
