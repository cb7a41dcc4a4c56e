"""The pruned tree against one that forgets nothing: the same paths, exactly the ancestors, and how many they are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmscan.particles import ancestry_tree
from ssmscan.particles.clouds import Cloud


def reference(ancestors):
    """Walk every path back: nodes by step, each a set, from the parents of the start to the last cloud."""
    alive = [set(range(ancestors.shape[1]))]
    for parents in ancestors[::-1]:
        alive.append({int(parents[i]) for i in alive[-1]})
    return alive[::-1]


@partial(jax.jit, static_argnames=("room",))
def grow(ancestors, room):
    """Store paths of the values t N + i, start included as -1 - i; the tree after each step."""
    steps, n = ancestors.shape
    first = Cloud(None, jnp.zeros(n), {"x0": -1 - jnp.arange(n)})
    values = jnp.arange(steps * n, dtype=jnp.int32).reshape(steps, n)
    begun = ancestry_tree.begin(first, {"x": values[0]}, room)

    def step(held, inputs):
        held = ancestry_tree.add(held, *inputs[:2], {"x": inputs[2]})
        return held, held

    return jax.lax.scan(step, begun, (jnp.arange(steps, dtype=jnp.int32), ancestors, values))[1]


def at(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def draw(seed, steps, n, *, sort):
    """Draw parents; at some steps nobody dies."""
    rng = np.random.default_rng(seed)
    ancestors = rng.integers(n, size=(steps, n)).astype(np.int32)
    ancestors[rng.random(steps) < 0.4] = np.arange(n)
    return np.sort(ancestors, axis=1) if sort else ancestors


@pytest.mark.parametrize("sort", [True, False])
def test_what_is_left_are_the_ancestors_and_no_others(sort):
    steps, n, room = 60, 6, ancestry_tree.Sizes(survivors=140, block=4)
    ancestors = draw(1, steps, n, sort=sort)
    grown = jax.tree.map(np.asarray, grow(ancestors, room))
    assert (grown.lost == -1).all()
    for done in range(1, steps + 1):
        held = at(grown, done - 1)
        parents, values, tree = held.parents, held.values["x"], ancestry_tree.finish(held, None, done)
        nodes, index = int(tree.last) + np.arange(n), np.arange(n)
        reached = set(nodes)
        for t in range(done - 1, -1, -1):
            np.testing.assert_array_equal(values[nodes], t * n + index)
            nodes, index = parents[nodes], ancestors[t][index]
            reached |= set(nodes)
        np.testing.assert_array_equal(-1 - parents[nodes], index)
        if done % room.block == 0:
            kept = sum(map(len, reference(ancestors[:done])))
            assert reached == set(range(room.survivors - kept, room.survivors))


def test_too_little_room_is_told_at_the_step_it_happens():
    steps, n, room = 40, 6, ancestry_tree.Sizes(survivors=40, block=4)
    ancestors = draw(2, steps, n, sort=True)
    lost = np.asarray(grow(ancestors, room).lost)
    ends = range(room.block, steps + 1, room.block)
    first = next(done for done in ends if sum(map(len, reference(ancestors[:done]))) > room.survivors)
    np.testing.assert_array_equal(lost, np.where(np.arange(steps) < first - 1, -1, first - 1))


def test_one_block_for_all_steps_never_prunes_and_tells_when_the_series_outgrows_it():
    sizes = ancestry_tree.sizes(16.0, 6, 20)
    assert sizes == (6, 21)
    lost = np.asarray(grow(draw(3, 24, 6, sort=True), sizes).lost)
    np.testing.assert_array_equal(lost, [-1] * 21 + [21] * 3)


def test_the_ancestors_are_the_steps_and_a_multiple_of_n_log_n():
    """Resampling at random at each step, paths meet after 2 N steps; until then sum_d 2 N / d are left."""
    n, short, long = 32, 300, 1500
    ancestors = np.random.default_rng(4).integers(n, size=(long, n))
    counts = [sum(map(len, reference(ancestors[:steps]))) - steps for steps in (short, long)]
    assert max(counts) < 4 * n * np.log(n)
    assert ancestry_tree.sizes(16.0, n, long).survivors == long + np.ceil(16 * n * np.log(n))
