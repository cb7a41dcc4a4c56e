"""A run that is not to be trusted says so wherever it is seen, in a sentence with what to do."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmscan import FilterResult, ParticleFilter, log_likelihood
from ssmscan.health import Condition
from ssmscan.model.protocols import Panel
from ssmscan.particles.concerns import starving_limit
from ssmscan.particles.filter_step import FAULTY, NOWHERE, VANISHED
from tests.particles.handmade import THETA, autoregression, exact

KEY = jax.random.key(0)
PRECISE = {**THETA, "sy": 1e-3}
VAGUE = {**THETA, "sy": 5.0}


def run(theta, num_particles=32, **changed):
    return ParticleFilter(num_particles).run(KEY, autoregression(**changed), theta)


@pytest.fixture(scope="module")
def healthy():
    result = run(VAGUE)
    assert result.message() == "The run is complete." and result.concerns() == ()
    return result


@pytest.fixture(scope="module")
def starved():
    return run(PRECISE)


def with_ess(result, *ess, **changed):
    return replace(result, ess=np.array(ess, np.float32), **changed)


def test_a_filter_on_precise_data_is_not_complete(starved):
    """The estimate is off by thousands; the sentence names the step, the observation, the size, and the ways out."""
    assert starved.log_likelihood - exact(autoregression(), PRECISE).log_likelihood < -1e3
    (sentence,) = starved.concerns()
    worst = int(np.argmin(starved.ess))
    start = f"The effective sample size fell to 1.0 of 32 particles at step {worst} (counting from 0), at the "
    assert sentence.startswith(start + "observation of 'y', and below 3.2 at all 10 steps. ")
    assert "Use more particles, or a proposal" in sentence and "ssmscan.NUTS" in sentence
    assert starved.message() == sentence and str(starved).endswith(sentence)


def test_the_function_that_returns_a_number_warns(starved):
    with pytest.warns(UserWarning, match="fell to 1.0 of 32 particles") as caught:
        value = log_likelihood(KEY, autoregression(), PRECISE, num_particles=32)
    np.testing.assert_allclose(value, starved.log_likelihood, rtol=1e-6)
    assert [warning.filename for warning in caught] == [__file__]


def test_under_a_trace_and_at_minus_infinity_nothing_is_said():
    ssm = autoregression()
    impossible = type(ssm)(ssm.y.at[4].set(jnp.inf), ssm.penalty, ssm.y_start)
    assert log_likelihood(KEY, impossible, THETA, num_particles=32) == -jnp.inf
    batch = jax.vmap(lambda key: log_likelihood(key, ssm, PRECISE, num_particles=32))(jax.random.split(KEY, 2))
    assert batch.shape == (2,)


def test_one_starved_step_is_named_and_counted(healthy):
    n = healthy.num_particles
    assert starving_limit(n) == pytest.approx(3.2) and starving_limit(10_000) == 10
    assert with_ess(healthy, 20, 3.3, 20).concerns() == ()
    (sentence,) = with_ess(healthy, 20, 3.1, 20).concerns()
    assert "fell to 3.1 of 32 particles at step 1 (counting from 0)" in sentence and "at that step alone" in sentence
    large = replace(healthy, final=healthy.final._replace(log_weights=np.zeros(1000)))
    assert with_ess(large, 500, 5.1, 500).concerns() == with_ess(large, 10, 10.0, 10).concerns() == ()
    assert "fell to 4.9 of 1000" in with_ess(large, 500, 4.9, 500).message()
    assert "fell to 9.0 of 1000 particles at step 2" in with_ess(large, 9.5, 500, 9.0).message()
    (sentence,) = with_ess(healthy, 2.0, 3.1, 1.5, start_observed=True, first_step=0).concerns()
    assert "fell to 1.5 of 32 particles at step 1" in sentence and "below 3.2 at all 3 steps" in sentence
    (sentence,) = with_ess(healthy, 2.0, 20, start_observed=True).concerns()
    assert "at the start" in sentence
    (sentence,) = with_ess(healthy, 20, 2.0, first_step=100).concerns()
    assert "at step 101 (" in sentence


@pytest.mark.parametrize("n", [2, 5, 9])
def test_few_particles_starve_too(n):
    """Estimates that are off by thousands are of no use, however few particles made them."""
    starved = run(PRECISE, n)
    assert starved.log_likelihood - exact(autoregression(), PRECISE).log_likelihood < -1e3
    assert starved.health().verdict is Condition.UNUSABLE
    assert f"fell to 1.0 of {n} particles" in starved.message()


@pytest.mark.parametrize("n", [2, 5, 9])
def test_few_particles_that_all_count_are_sound(n):
    """Of equal weights nothing is lost, nor by one step at which a particle in five has none."""
    few = run(VAGUE, n)
    assert with_ess(few, n, n, n).health().verdict is Condition.SOUND
    assert with_ess(few, n, max(0.8 * n, 1.5), n).health().verdict is Condition.SOUND
    assert with_ess(few, n, 1.0, n).health().verdict is Condition.DOUBTFUL


def test_the_element_of_a_panel_is_named(healthy):
    panel = Panel(3, "shops", (), (), ())
    (sentence,) = replace(healthy, panel=panel, ess=np.array([[20, 1.5, 20], [20, 20, 20.0]])).concerns()
    assert "at step 0 (counting from 0) in element 1 of 'shops'" in sentence
    assert "at that step alone, in 1 of 3 elements" in sentence
    assert "3 elements of 'shops'" in str(replace(healthy, panel=panel, ess=np.ones((10, 3)) * 20))


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_said_whatever_came_of_the_run(fault):
    penalty = np.where(np.arange(10) == 4, fault, 0.0)
    faulty = run(VAGUE, penalty=penalty)
    assert (faulty.status, faulty.faulty_step) == (FAULTY, 4)
    (sentence,) = faulty.concerns()
    assert sentence.startswith("Log weights were NaN or +inf, first at step 4 (counting from 0): the density of 'y'")
    assert "counted as impossible" in sentence and "complete" not in faulty.message()
    with pytest.warns(UserWarning, match="first at step 4"):
        log_likelihood(KEY, autoregression(penalty=penalty), VAGUE, num_particles=32)
    # All weights of a later step vanish: the first fault is not forgotten.
    ssm = autoregression(penalty=penalty)
    vanished = ParticleFilter(32).run(KEY, type(ssm)(ssm.y.at[7].set(jnp.inf), ssm.penalty, ssm.y_start), VAGUE)
    assert (vanished.status, vanished.failed_step, vanished.faulty_step) == (VANISHED, 7, 4)
    assert vanished.message().startswith("Every particle has weight zero at step 7")
    assert "Log weights were NaN or +inf, first at step 4" in vanished.message()


def test_a_density_that_is_nan_for_every_particle_is_not_called_an_impossible_observation():
    ssm = autoregression()
    nowhere = type(ssm)(ssm.y.at[4].set(jnp.nan), ssm.penalty, ssm.y_start)
    result = ParticleFilter(32).run(KEY, nowhere, THETA)
    assert (result.status, result.failed_step, result.faulty_step) == (VANISHED, 4, 4)
    assert "the density of 'y' is not a number there" in result.message()


def test_a_density_outside_the_loop_that_is_not_finite_is_said(healthy):
    (sentence,) = replace(healthy, log_likelihood=jnp.float32(jnp.nan)).concerns()
    assert sentence.startswith("The log likelihood is nan: the observations and factors that no state reaches")


def test_loops_name_themselves(healthy, starved):
    loops = FilterResult.of_loops((healthy, starved))
    (sentence,) = loops.concerns()
    assert sentence.startswith("Loop 1: The effective sample size fell to 1.0")
    assert loops.faulty_step == NOWHERE
    assert FilterResult.of_loops((healthy, replace(healthy, faulty_step=jnp.int32(2)))).faulty_step == 2
    assert str(loops).startswith("Particle filters of 2 independent loops") and str(loops).endswith(sentence)


def test_what_loops_have_no_time_for_in_common_is_asked_of_one(healthy, starved):
    loops = FilterResult.of_loops((healthy, starved))
    assert loops.loops == (healthy, starved) and healthy.loops == (healthy,)
    np.testing.assert_array_equal(loops.increments, np.concatenate([healthy.increments, starved.increments]))
    np.testing.assert_allclose(loops.increments.sum(), loops.log_likelihood, rtol=1e-5)
    for name in ("ess", "resampled", "final", "history", "failed_element", "panel", "first_step", "observations"):
        with pytest.raises(AttributeError, match=rf"2 independent loops.* result\.loops\[k\]\.{name}"):
            getattr(loops, name)
    failed = [replace(healthy, status=jnp.int32(s), failed_step=jnp.int32(t)) for s, t in ((1, 2), (2, 7), (2, 5))]
    together = FilterResult.of_loops((healthy, *failed))
    assert (together.status, together.failed_step) == (2, 5)
    batch = jax.jit(jax.vmap(lambda _: loops))(jnp.arange(3))
    assert batch.increments.shape == (3, 20) and batch.failed_step.shape == batch.log_likelihood.shape == (3,)
    assert len(jax.tree.leaves(loops)) == 2 * len(jax.tree.leaves(healthy))


def test_what_is_printed_is_short_and_a_notebook_shows_the_same(healthy, starved):
    for result in (healthy, starved, FilterResult.of_loops((healthy, starved))):
        lines = str(result).splitlines()
        assert len(lines) <= 10 and max(map(len, lines[:-1])) <= 100
        assert "<table>" in result._repr_html_()
    assert "32 particles, 10 steps" in str(healthy) and f"{float(healthy.log_likelihood):.8g}" in str(healthy)
    assert f"least {healthy.ess.min():.1f} at step" in str(healthy)


def test_batches_tracers_and_shapes_can_be_printed(healthy, capsys):
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), healthy)
    assert "a batch of (2,)" in str(batch) and "2 complete" in str(batch)
    loops = FilterResult.of_loops((batch, batch))
    assert "a batch of (2,)" in str(loops)
    with pytest.raises(ValueError, match="index the batch first"):
        loops.message()

    @jax.jit
    def traced(result):
        print(result, FilterResult.of_loops((result, result)))
        with pytest.raises(ValueError, match="no values while it is traced"):
            result.message()
        return 0

    traced(healthy)
    shapes = jax.eval_shape(lambda: healthy)
    print(shapes, shapes._repr_html_())
    assert "log_likelihood" in capsys.readouterr().out
    print(jax.tree.map(lambda leaf: object(), healthy), jax.device_get(healthy), jax.device_get(batch))
