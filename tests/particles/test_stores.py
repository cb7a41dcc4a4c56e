"""Stores: whichever is used, the paths are those of the whole history, and nothing else of the run changes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import Ancestry, FinalCloud, FullHistory, LastSteps, ParticleFilter, backward_sample, trace_ancestry
from ssmscan.particles.clouds import Cloud, Tree
from tests.particles.handmade import THETA, autoregression

KEY = jax.random.key(0)
T, N = 60, 8
FULL = ParticleFilter(N, threshold=0.9, store=FullHistory(), summaries=())
PRUNED = replace(FULL, store=Ancestry(1.0))
LAST = replace(FULL, store=LastSteps(7))


def close(a, b):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), a, b)


pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def ssm():
    return autoregression(T)


@pytest.fixture(scope="module")
def full(ssm):
    return FULL.run(KEY, ssm, THETA)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("store", [Ancestry(1.0), Ancestry(), LastSteps(T), LastSteps(10 * T), LastSteps(7)])
def test_paths_are_those_of_the_whole_history(ssm, full, store):
    result = replace(FULL, store=store).run(KEY, ssm, THETA)
    close((result.log_likelihood, result.increments, result.final), (full.log_likelihood, full.increments, full.final))
    paths, whole = (trace_ancestry(KEY, r, num_paths=20) for r in (result, full))
    if store == LastSteps(7):
        whole = {name: value[:, -7:] for name, value in whole.items() if name != "x0"}
    same(paths, whole)
    assert result.message() == "The run is complete."


def test_the_tree_is_smaller_than_the_history(ssm, full):
    tree = PRUNED.run(KEY, ssm, THETA).history
    assert isinstance(tree, Tree) and len(tree.parents) < T * N / 2
    assert ParticleFilter(1000, store=Ancestry()).store.begin(_cloud(1000), dict, 16_000).parents.size < 400_000


def _cloud(n):
    return Cloud(jnp.zeros(n), jnp.zeros(n), {"x0": jnp.zeros(n)})


def test_backward_paths_of_the_last_steps_are_those_of_the_history_cut(ssm, full):
    history = full.history
    before = jax.tree.map(lambda leaf: leaf[T - 8], history.steps)
    cut = history._replace(
        initial=Cloud(before.carry, before.log_weights, {}),
        steps=jax.tree.map(lambda leaf: leaf[T - 7 :], history.steps),
        first=jnp.int32(T - 7),
    )
    last = LAST.run(KEY, ssm, THETA)
    same(last.history, cut)
    same(*(backward_sample(KEY, ssm, THETA, r, num_paths=9) for r in (last, replace(full, history=cut))))


@pytest.mark.parametrize("settings", [PRUNED, LAST])
def test_filters_side_by_side_are_filters_one_by_one(ssm, settings):
    keys = jax.random.split(KEY, 3)

    def one(key):
        return trace_ancestry(key, settings.run(key, ssm, THETA), num_paths=4)

    together = jax.jit(jax.vmap(one))(keys)
    for i, key in enumerate(keys):
        close(one(key), {name: paths[i] for name, paths in together.items()})


def test_the_gradient_is_that_of_a_run_that_keeps_nothing(ssm):
    def gradient(settings):
        return jax.jit(jax.grad(lambda theta: settings.run(KEY, ssm, theta).log_likelihood))(theta)

    theta = jax.tree.map(jnp.float32, THETA)
    kept, nothing = gradient(PRUNED), gradient(replace(PRUNED, store=FinalCloud()))
    close(kept, nothing)


def test_a_tree_without_room_costs_its_paths_and_nothing_else(ssm, full):
    settings = replace(FULL, threshold=0, store=Ancestry(0.1))
    result, right = settings.run(KEY, ssm, THETA), replace(settings, store=FinalCloud()).run(KEY, ssm, THETA)
    close(
        (result.log_likelihood, result.increments, result.final), (right.log_likelihood, right.increments, right.final)
    )
    assert "complete. The ancestral paths are not complete: at step" in result.message() and "room=" in result.message()
    with pytest.raises(ValueError, match=r"paths are incomplete: at step .* larger Ancestry\(room=...\)"):
        trace_ancestry(KEY, result, num_paths=2)
    paths = jax.jit(lambda result: trace_ancestry(KEY, result, num_paths=2))(result)
    assert all(np.isnan(path).all() for path in paths.values())


def test_what_cannot_be_is_refused_with_a_sentence(ssm, monkeypatch):
    with pytest.raises(ValueError, match=r"ancestors alone, .*store=FullHistory\(\)\), or LastSteps\(k\)"):
        backward_sample(KEY, ssm, THETA, PRUNED.run(KEY, ssm, THETA), num_paths=2)
    for number, error in ((0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="num_steps: expected an integer of at least 1"):
            LastSteps(number)
    for room in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="room: expected a positive number"):
            Ancestry(room)
    with pytest.raises(TypeError, match="room: expected a positive number of times N log N, got '2'"):
        Ancestry("2")
    for draw in (partial(trace_ancestry, KEY), partial(backward_sample, KEY, ssm, THETA)):
        with pytest.raises(TypeError, match="num_paths: expected an integer of at least 1, got 2.0"):
            draw(None, num_paths=2.0)
        with pytest.raises(TypeError, match=r"result: expected what ParticleFilter\.run returned, got dict"):
            draw({}, num_paths=2)
    with pytest.raises(ValueError, match=r"of 60 steps and 40000000 particles makes room for 24\d+ nodes, more than"):
        ParticleFilter(4 * 10**7, store=Ancestry()).run(KEY, ssm, THETA)
    monkeypatch.setattr(ssmscan.particles.memory, "device_bytes", lambda: 2**30)
    for store in (LastSteps(50), Ancestry()):
        with pytest.raises(MemoryError, match=rf"{type(store).__name__}\(.*needs .* GiB"):
            ParticleFilter(10**7, store=store).run(KEY, ssm, THETA)


def panel(y):
    x0 = numpyro.sample("x0", dist.Normal(jnp.zeros(3), 1).to_event(1))

    def step(x, y):
        with numpyro.plate("series", 3):
            x = numpyro.sample("x", dist.Normal(0.9 * x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, x0, y)


def test_panels():
    y = np.random.default_rng(0).normal(size=(40, 3))
    ssm = ssmscan.trace(panel, y)
    whole = FULL.run(KEY, ssm, {})
    paths = trace_ancestry(KEY, whole, num_paths=5)
    same(trace_ancestry(KEY, replace(FULL, store=Ancestry(2.0)).run(KEY, ssm, {}), num_paths=5), paths)
    last = LAST.run(KEY, ssm, {})
    same(trace_ancestry(KEY, last, num_paths=5), {"x": paths["x"][:, -7:]})
    assert backward_sample(KEY, ssm, {}, last, num_paths=5)["x"].shape == (5, 7, 3)
    none = replace(FULL, threshold=0, store=Ancestry(0.1)).run(KEY, ssm, {})
    assert "ancestral paths are not" in none.message()
