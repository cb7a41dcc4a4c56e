"""Weights stay weights, whatever the log weights are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from ssmscan.particles.weights import CompensatedSum, normalise, uniform

INF = np.inf


@pytest.mark.parametrize("shift", [0.0, -1e5, 1e5])
def test_normalised_log_weights_sum_to_one_and_do_not_see_a_shift(shift):
    raw = np.random.default_rng(0).normal(0, 3, 1000)
    cloud = normalise(jnp.asarray(raw) + jnp.asarray(shift))
    tolerance = 1e-5 if shift == 0 else 1e-2  # the shift itself rounds to 1/128 in float32
    np.testing.assert_allclose(logsumexp(np.asarray(cloud.log_weights, float)), 0, atol=1e-6)
    np.testing.assert_allclose(cloud.log_sum, logsumexp(raw) + shift, rtol=1e-7, atol=tolerance)
    w = np.exp(raw - logsumexp(raw))
    np.testing.assert_allclose(cloud.ess, 1 / (w**2).sum(), rtol=tolerance)
    np.testing.assert_allclose(cloud.weights, w, rtol=10 * tolerance, atol=1e-9)
    assert not cloud.faulty


def test_equal_weights_have_full_effective_sample_size():
    cloud = normalise(uniform(17))
    np.testing.assert_allclose(cloud.ess, 17, rtol=1e-6)
    np.testing.assert_allclose(cloud.log_sum, 0, atol=1e-6)


def test_a_cloud_without_weight_is_minus_infinity_not_nan():
    cloud = normalise(jnp.full(4, -INF))
    assert cloud.log_sum == -INF and cloud.ess == 0 and not cloud.faulty
    np.testing.assert_allclose(cloud.weights, 0.25)
    gradient = jax.grad(lambda x: normalise(x).log_sum)(jnp.full(4, -INF))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("fault", [np.nan, INF])
def test_a_fault_costs_its_particle_the_weight_and_is_reported(fault):
    cloud = normalise(jnp.array([0.0, fault, 1.0]))
    without = normalise(jnp.array([0.0, -INF, 1.0]))
    assert cloud.faulty and not without.faulty
    np.testing.assert_array_equal(cloud.log_weights, without.log_weights)
    np.testing.assert_array_equal(cloud.log_sum, without.log_sum)
    assert normalise(jnp.full(3, fault)).log_sum == -INF


@pytest.mark.parametrize("n", [1000, 10_007])
@pytest.mark.parametrize("fault", [np.nan, INF])
def test_a_fault_is_seen_wherever_it_is(fault, n):
    """A long maximum is another kernel than a short one, for which NaN is not a number to notice."""
    raw = np.random.default_rng(0).standard_normal(n)
    for place in (0, 1, n // 2, n - 1):
        faulty, without = raw.copy(), raw.copy()
        faulty[place], without[place] = fault, -INF
        cloud, rest = (jax.jit(normalise)(jnp.asarray(x)) for x in (faulty, without))
        assert cloud.faulty and not rest.faulty
        np.testing.assert_array_equal(cloud.log_weights, rest.log_weights)


def test_gradient_of_the_log_sum_is_the_weights_also_beside_zero_weights():
    raw = jnp.array([0.3, -INF, -2.0, 1.5])
    gradient = jax.grad(lambda x: normalise(x).log_sum)(raw)
    np.testing.assert_allclose(gradient, normalise(raw).weights, atol=1e-7)


def test_one_replicate_without_weight_leaves_the_others_alone():
    raw = jnp.array([[0.0, 1.0], [-INF, -INF]])
    both = jax.vmap(normalise)(raw)
    np.testing.assert_array_equal(both.log_sum[0], normalise(raw[0]).log_sum)
    assert both.log_sum[1] == -INF


def test_compensated_sum_keeps_the_digits_a_plain_one_loses():
    terms = np.random.default_rng(0).normal(-1.4, 1, 100_000).astype(np.float32)
    total, _ = jax.lax.scan(lambda s, x: (s.add(x), None), CompensatedSum.zero(), jnp.asarray(terms, float))
    exact = terms.astype(float).sum()
    assert abs(float(total.value()) - exact) <= abs(exact) * 2**-24
    with jax.enable_x64(False):
        plain, _ = jax.lax.scan(lambda s, x: (s + x, None), jnp.zeros(()), jnp.asarray(terms))
    assert abs(float(plain) - exact) > 20 * abs(exact) * 2**-24


def test_compensated_sum_with_minus_infinity_is_minus_infinity():
    total = CompensatedSum.zero().add(jnp.asarray(1.0)).add(jnp.asarray(-INF)).add(jnp.asarray(2.0))
    assert total.value() == -INF


def test_a_gpu_looks_for_faults_without_a_conditional_and_finds_the_same(monkeypatch):
    """At a conditional the host waits for the device, at every step of a filter."""
    clouds = [[0.0, 0.3, -2.0], [0.0, np.nan, 1.0], [INF, 0.0, -INF], [-INF] * 3, [np.nan, INF, np.nan]]

    def of_all(normalised):
        return [jax.jit(lambda x: normalised(x))(jnp.array(cloud)) for cloud in clouds]

    def conditionals():
        return "cond[" in str(jax.make_jaxpr(lambda x: normalise(x))(jnp.zeros(3)))

    on_cpu, here = of_all(normalise), conditionals()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert here and not conditionals()
    jax.tree.map(np.testing.assert_array_equal, of_all(lambda x: normalise(x)), on_cpu)
