"""The loop of the filter: values of `lax.scan`, its derivatives, and the memory they take."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssmscan.model.time_loops import on_cpu
from ssmscan.particles.loop import SHORT, chunk_size, each, filters_at_once, scan_remembering_little


def step(carry, x, angle):
    (state, count), (key, y) = carry, x
    moved = angle * state + y + 0.1 * jax.random.normal(key, state.shape)
    # Batched, a branch becomes a selection, which must not happen to its derivative.
    state = lax.cond(moved.sum() > 0, jnp.sin, jnp.cos, moved)
    return (state, count + 1), (state.sum(), count)


def inputs(length, size=3):
    keys = jax.random.split(jax.random.key(1), length)
    return (jnp.linspace(0.0, 1.0, size), jnp.int32(0)), (keys, jnp.linspace(-1.0, 1.0, length))


def total(scan, angle, length, size=3):
    """A function of the last state and of all outputs; angle is closed over, as parameters are in the filter."""
    carry, xs = inputs(length, size)
    (state, _), (sums, counts) = scan(lambda carry, x: step(carry, x, angle), carry, xs, length)
    return state.sum() + sums @ jnp.cos(counts)


@pytest.mark.parametrize("length", [1, SHORT, 210, 211])
def test_values_and_derivatives_are_those_of_a_scan(length):
    def functions(scan):
        value = partial(total, scan, length=length)
        batch = jnp.array([0.3, 0.9])
        outside = jax.grad(lambda angles: jax.vmap(value)(angles).sum())
        return value(0.7), jax.grad(value)(0.7), jax.vmap(jax.grad(value))(batch), outside(batch)

    mine, plain = (jax.jit(functions, static_argnums=0)(scan) for scan in (scan_remembering_little, lax.scan))
    np.testing.assert_array_equal(mine[0], plain[0])
    for a, b in zip(mine[1:], plain[1:]):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_data_may_have_no_derivative():
    """An argument without a tangent gets none: betainc has no derivative in its first two arguments."""

    def value(x):
        def step(carry, a):
            return carry * jax.scipy.special.betainc(a, 2.0, x), None

        return scan_remembering_little(step, jnp.ones(()), jnp.linspace(0.5, 1.5, 4), 4)[0]

    difference = (value(0.5 + 1e-2) - value(0.5 - 1e-2)) / 2e-2
    np.testing.assert_allclose(jax.grad(value)(0.5), difference, rtol=1e-3)


def test_a_gradient_remembers_the_root_of_the_steps():
    def temporaries(length):
        gradient = jax.jit(jax.grad(lambda angle: total(scan_remembering_little, angle, length, size=10_000)))
        return gradient.lower(0.7).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(6400) < 5 * temporaries(400)


@pytest.mark.parametrize(("length", "size"), [(1, 1), (SHORT, SHORT), (211, 14), (1000, 25), (10_000, 100), (1009, 31)])
def test_chunks_divide_the_loop_where_they_can(length, size):
    assert chunk_size(length) == size


def test_arrays_of_any_kind_may_be_closed_over_in_a_compiled_function():
    @jax.jit
    def value(angle, numbers, flag):
        whole, either = numbers * 2, ~flag

        def step(carry, x):
            return jnp.where(either, jnp.sin(angle * carry + whole[0]), carry), whole

        return scan_remembering_little(step, angle, jnp.zeros(3), 3)[0]

    slope = jax.grad(value)(0.7, jnp.arange(1, 3), jnp.array(False))
    difference = (value(0.7 + 1e-2, jnp.arange(1, 3), False) - value(0.7 - 1e-2, jnp.arange(1, 3), False)) / 2e-2
    np.testing.assert_allclose(slope, difference, rtol=1e-2)


def read_by_its_neighbour(carry, x):
    state, shown, last, before = carry
    state = jnp.sin(state + x)
    return (state, state, x, shown), (state, before)


def read_by_none(carry, x):
    state, shown, product, again = carry
    return (state + x, state + x, state * x, state * x), state


@pytest.mark.parametrize("step", [read_by_its_neighbour, read_by_none])
def test_a_leaf_that_repeats_another_is_left_out_and_comes_back(step):
    first, xs = (0.3, 7.0, 8.0, 9.0), jnp.linspace(0.0, 1.0, 5)

    def functions(scan):
        def total(first):
            return sum(scan(step, first, xs, 5)[0])

        return scan(step, jax.tree.map(jnp.float32, first), xs, 5), jax.grad(total)(first)

    mine, plain = (jax.jit(functions, static_argnums=0)(scan) for scan in (scan_remembering_little, lax.scan))
    jax.tree.map(np.testing.assert_array_equal, mine[0], plain[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mine[1], plain[1])


def test_the_default_device_decides_how_replicates_are_laid_out(monkeypatch):
    """A process with a GPU whose default device is a CPU takes them one by one, and so does what it compiles anew."""

    def loops():
        text = str(jax.make_jaxpr(lambda xs: each(jnp.sin, xs))(jnp.ones(3)))
        return "scan" in text

    assert on_cpu() and loops() and filters_at_once() is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not on_cpu() and not loops() and filters_at_once() == 8
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        assert on_cpu() and loops() and filters_at_once() is None
