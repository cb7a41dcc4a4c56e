"""A run that looks ahead with heavy-tailed weights says so; whether from a cloud made up here or from a model."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmscan.model.protocols import Panel
from ssmscan.particles.filter_step import VANISHED
from ssmscan.particles.weights import SAMPLED, Sparsest, normalise, uniform
from ssmscan.tail_index import tail_index
from tests.particles.test_concerns import VAGUE, run

KEY = jax.random.key(0)
LIGHT = np.linspace(0, 1, 100)
HEAVY = np.log1p(np.random.default_rng(0).pareto(1.0, 100))


@pytest.fixture(scope="module")
def ahead():
    """A run of 100 particles that looked ahead, as far as the sentences can see."""
    found = run(VAGUE, num_particles=100)
    return replace(found, proposal="LookAhead", uses_later_data=True, sparsest=LIGHT)


def with_ess(result, *ess, **changed):
    return replace(result, ess=np.array(ess, np.float32), **changed)


def test_a_sparse_cloud_with_a_heavy_tail_is_not_trusted(ahead):
    assert 0.7 < tail_index(HEAVY) < 1.3 and tail_index(LIGHT) < 0.5
    (sentence,) = with_ess(ahead, 90, 20, 90, sparsest=HEAVY).concerns()
    assert sentence.startswith("The weights of LookAhead are heavy-tailed: at step 1 (counting from 0) 20.0 of 100")
    assert f"a tail index of {tail_index(HEAVY):.1f}, where 0.5 is infinite" in sentence and "be trusted" in sentence
    assert with_ess(ahead, 90, 20, 90, sparsest=HEAVY).message() == sentence
    few = np.full(100, -1e5)
    few[0] = 0
    assert "with all weight in a handful of particles" in with_ess(ahead, 1, 90, sparsest=few).message()


def test_both_are_needed_and_what_vanished_is_said_as_such(ahead):
    for ess, cloud in ((26, HEAVY), (20, LIGHT)):
        assert with_ess(ahead, 90, ess, sparsest=cloud).concerns() == ()
    assert with_ess(ahead, 90, 20, sparsest=None).concerns() == ()
    vanished = with_ess(ahead, 90, 0, sparsest=HEAVY, status=jnp.int32(VANISHED))
    assert len(vanished.concerns()) == 1 and vanished.concerns()[0].startswith("Every particle has weight zero")


def test_the_element_of_a_panel_is_named_by_its_own_cloud(ahead):
    panel = Panel(3, "shops", (), (), ())
    ess = np.array([[90, 20, 90], [90, 90, 10.0]])
    clouds = np.stack([HEAVY, HEAVY, LIGHT])
    (sentence,) = replace(ahead, panel=panel, ess=ess, sparsest=clouds).concerns()
    assert "at step 0 (counting from 0) in element 1 of 'shops' 20.0 of 100" in sentence and "elements" not in sentence
    (sentence,) = replace(ahead, panel=panel, ess=ess, sparsest=np.stack([HEAVY] * 3)).concerns()
    assert "at step 1 (counting from 0) in element 2" in sentence and "and in 2 of 3 elements" in sentence


def test_the_sparsest_cloud_is_kept_and_no_more_of_it_than_is_needed():
    kept = Sparsest.of_equal(10)
    for scale in (1.0, 3.0, 2.0):
        kept = kept.or_sparser(normalise(scale * jnp.arange(10.0)))
    np.testing.assert_allclose(kept.log_weights, normalise(3.0 * jnp.arange(10.0)).log_weights)
    np.testing.assert_allclose(kept.ess, normalise(3.0 * jnp.arange(10.0)).ess)
    for n, size in ((64, 64), (1000, 1000), (1001, 501), (2500, 834)):
        assert len(Sparsest.of_equal(n).log_weights) == size <= SAMPLED
        assert len(Sparsest.of_equal(n).or_sparser(normalise(uniform(n))).log_weights) == size
