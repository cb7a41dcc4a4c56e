"""Time loops of densities: on a CPU one step a trip, on a GPU several, and the same numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ssmscan
from ssmscan.model.time_loops import MOST_OPERATIONS, MOST_STEPS, count_operations, scan_steps, steps_in_a_trip
from ssmscan.stochastic_volatility import stochastic_volatility


@pytest.fixture
def gpu(monkeypatch):
    """Make what is traced believe that it will run on a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def damped(x, inputs):
    e, name = inputs["e"], inputs["row"]
    x = 0.9 * x + jnp.tanh(e) * name[0]
    return x, (x, e * x)


def rows(length):
    return {"e": jnp.linspace(-1.0, 1.0, length), "row": jnp.arange(2.0 * length).reshape(length, 2)}


def value(scan, xs, reverse):
    def total(e):
        last, (path, products) = scan(damped, jnp.float32(0.3), {**xs, "e": e}, reverse=reverse)
        return last + jnp.sum(path * jnp.arange(len(path))) + jnp.sum(products)

    return jax.jit(jax.value_and_grad(total))(xs["e"])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 7, 30, 47])
def test_several_steps_a_trip_are_the_same_loop(gpu, length, reverse):
    mine, plain = (value(scan, rows(length), reverse) for scan in (scan_steps, lax.scan))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), mine, plain)


def test_a_cpu_takes_one_step_a_trip(monkeypatch):
    def written(scan):
        return str(jax.make_jaxpr(lambda xs: scan(damped, jnp.float32(0.3), xs))(rows(30)))

    assert written(scan_steps) == written(lax.scan)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert written(scan_steps) == written(lambda *args: lax.scan(*args, unroll=MOST_STEPS))


@pytest.mark.parametrize(
    "length, operations, steps",
    [(200, 20, 10), (750, 1, 10), (199, 20, 9), (7, 20, 7), (1, 20, 1), (0, 20, 1), (200, 300, 5), (200, 10_000, 1)],
)
def test_a_trip_is_long_leaves_little_and_is_no_larger_than_it_may_be(length, operations, steps):
    assert steps_in_a_trip(length, operations) == steps
    assert steps == 1 or steps * operations <= MOST_OPERATIONS


def test_what_is_called_counts():
    inner = jax.jit(lambda x: jnp.sin(x) + 1.0)
    assert count_operations(jax.make_jaxpr(lambda x: inner(x) * 2.0)(1.0).jaxpr) == 4


def test_the_density_of_a_model_is_unrolled_and_the_same(gpu):
    """And its gradient, which is what NUTS and tempered SMC compute."""
    y = np.linspace(-1.0, 1.0, 30).astype(np.float32)
    ssm = ssmscan.trace(stochastic_volatility, y)
    theta = ssm.canonical({"mu": -1.0, "phi": 0.9, "sigma": 0.3})
    noise = {name: jnp.full(spec.shape, 0.1) for name, spec in ssm.smooth_noise.items()}

    def density(noise):
        return ssm.log_likelihood_given_noise(theta, noise)

    text = str(jax.make_jaxpr(jax.grad(density))(noise))
    assert text.count(f"unroll={MOST_STEPS}") >= 2
    on_gpu = jax.jit(jax.value_and_grad(density))(noise)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        assert f"unroll={MOST_STEPS}" not in str(jax.make_jaxpr(jax.grad(density))(noise))
        plain = jax.jit(jax.value_and_grad(lambda noise: density(noise)))(noise)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), on_gpu, plain)
