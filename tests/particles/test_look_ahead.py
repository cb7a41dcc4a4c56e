"""Filters that look ahead: exact where the model is, unbiased everywhere, and of the filtering law."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmscan
from ssmscan import PIT, Ancestry, Bootstrap, FullHistory, LookAhead, Mean, ParticleFilter, Quantiles
from ssmscan.particles import filter_step
from ssmscan.particles import look_ahead as module
from ssmscan.particles.draws import as_key, spread_choice
from ssmscan.particles.resampling import multinomial, stratified, systematic
from tests.particles import gradient, handmade, look_ahead, models
from tests.particles.ahead_models import EXACT, by_hand, heavy, heavy_truth, surprising
from tests.particles.unbiased import mistake, renormalise_carried
from tests.truth import z_threshold

KEY = jax.random.key(0)


# ---- with gains from NumPy ----------------------------------------------------------------------------


def by_hand_errors(start_observed: bool, cells: list, change=lambda proposal: proposal) -> np.ndarray:
    """Return the relative error of the log likelihood of two particles, in float32."""
    ssm = handmade.autoregression(30, start_observed=start_observed)
    proposal, truth = change(by_hand(ssm, handmade.THETA)), handmade.exact(ssm).log_likelihood

    @jax.jit
    def run(key, proposal):
        settings = [
            ParticleFilter(2, threshold=threshold, resampling=scheme, proposal=proposal, summaries=())
            for threshold, scheme in cells
        ]
        return jnp.stack([one.run(key, ssm, handmade.THETA).log_likelihood for one in settings])

    found = np.stack([run(jax.random.key(k), proposal) for k in range(3)])
    return np.abs(found - truth) / abs(truth)


@pytest.mark.parametrize(
    ("start_observed", "cells"),
    [
        (False, [(0, systematic), (1, stratified)]),
        pytest.param(True, [(0.5, multinomial), (1, systematic)], marks=pytest.mark.slow),
    ],
)
def test_two_particles_give_the_likelihood_of_a_linear_gaussian_model(start_observed, cells):
    assert by_hand_errors(start_observed, cells).max() < 1e-5


def later(proposal):
    """Gains of step t + 1 at step t."""
    steps, values = proposal.plan
    return replace(proposal, plan=(jax.tree.map(lambda leaf: jnp.roll(leaf, -1, axis=0), steps), values))


def unguided(proposal):
    """Ancestors that are chosen by the value of another carry."""
    steps, values = proposal.plan
    return replace(proposal, plan=(steps, values._replace(gradient=values.gradient + 1.0)))


@pytest.mark.slow
def test_which_shows_each_mistake():
    right = [(1, multinomial)]
    assert by_hand_errors(False, right).max() < 1e-5
    assert by_hand_errors(False, right, later).max() > 1e-3
    assert by_hand_errors(False, right, unguided).max() > 1e-3
    for replacement in (look_ahead.without_v, renormalise_carried):
        with mistake(filter_step, "_carried", replacement):
            assert by_hand_errors(False, right).max() > 1e-3


def test_what_is_ahead_is_in_the_ancestors_and_the_effective_sample_size_and_not_in_the_weights():
    """Where all is known the particles are equal, and the weights lead back to the filtering law."""
    ssm = handmade.autoregression(30)
    settings = ParticleFilter(4000, proposal=by_hand(ssm, handmade.THETA), summaries=(Mean(),))
    found, truth = settings.run(KEY, ssm, handmade.THETA), handmade.exact(ssm)
    np.testing.assert_allclose(found.ess, 4000, rtol=1e-4)
    assert not found.resampled.any()
    np.testing.assert_allclose(found.summaries["mean"]["x"], truth.filtered_mean[:, 0], atol=0.03)
    assert "no predictive scores" in repr(found) and found.uses_later_data


def test_as_many_draw_from_the_model_as_said_and_evenly():
    chosen = jax.vmap(lambda key: spread_choice(as_key(key), 0.02, 500, 1))(jax.random.split(KEY, 2000))
    assert set(np.unique(chosen.sum(1))) <= {8, 9, 10, 11, 12}
    z = (chosen.mean(0) - 0.02) / np.sqrt(0.02 * 0.98 / 2000)
    assert np.abs(z).max() < z_threshold(500)
    assert not spread_choice(as_key(KEY), 0.0, 500, 1).any()


# ---- with gains from the trace ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "x64", "number"),
    [("Nile", True, 1), ("d = 10", False, 2), ("panel", False, 3)],
)
def test_two_particles_are_enough(name, x64, number):
    with jax.enable_x64(x64):
        assert look_ahead.errors(EXACT[name](), look_ahead.SETTINGS[number : number + 1]).max() < (
            1e-9 if x64 else 1e-5
        )


@pytest.mark.slow
def test_sixteen_particles_average_to_the_likelihood():
    """Errors of heavy tails, resampled at every step, a fifth drawn from the model."""
    found = look_ahead.cells(4000, keys=(0,), only=("heavy",))[3].run()
    assert look_ahead.valid(found), f"bias {found.bias:.4f}, z {found.z:.2f}, sd {found.sd:.2f}"


@pytest.mark.slow
def test_surprising_data_do_not_leave_it_with_what_it_should_have_given_up():
    """A draw of the model has not paid for going where data are, so that one that is kept would take all weight."""
    known, settings = surprising(), ParticleFilter(64, proposal=LookAhead(), summaries=())
    run = jax.jit(jax.vmap(lambda key: settings.run(key, known.ssm, known.theta).log_likelihood))
    found = np.asarray(run(jax.random.split(KEY, 20)), float)
    assert np.abs(found - known.log_likelihood).max() < 0.5  # Held at -10, they are off by 50 to 50,000.


@pytest.mark.slow
def test_filtering_law_and_paths_are_those_of_a_bootstrap_filter():
    """Means against a grid; quantiles and backward paths against a filter of many particles."""
    ssm, theta, _ = heavy()
    site, count = "x", 200
    ahead = ParticleFilter(400, proposal=LookAhead(), store=FullHistory(), summaries=(Mean(), Quantiles((0.1, 0.8))))

    @jax.jit
    def run(key, settings_key):
        found = ahead.run(settings_key, ssm, theta)
        paths = ssmscan.backward_sample(key, ssm, theta, found, num_paths=4)[site]
        return found.summaries["mean"][site], found.summaries["quantiles"][site], paths.mean(0), (paths**2).mean(0)

    keys = jax.random.split(KEY, count)
    mean, quantiles, first, second = (np.asarray(a, float) for a in jax.lax.map(lambda key: run(key, key), keys))
    many = replace(ahead, num_particles=20_000, proposal=Bootstrap()).run(KEY, ssm, theta)
    paths = np.asarray(ssmscan.backward_sample(KEY, ssm, theta, many, num_paths=2000)[site], float)

    def z(found, truth, error=0.0):
        return (found.mean(0) - truth) / np.hypot(found.std(0, ddof=1) / count**0.5, error)

    limit = z_threshold(50)
    assert np.abs(z(mean, heavy_truth().filtered_mean)).max() < limit
    # The error of a quantile of many particles, by the density of a normal law: 1.5 is on the safe side for this one.
    error = 2 * np.asarray(many.final.values[site]).std() / 20_000**0.5
    assert np.abs(z(quantiles, np.asarray(many.summaries["quantiles"][site]), error)).max() < limit
    for found, truth in ((first, paths), (second, paths**2)):
        assert np.abs(z(found, truth.mean(0), truth.std(0) / 2000**0.5)).max() < limit


@pytest.mark.slow
def test_its_tree_of_ancestors_has_the_paths_of_its_clouds():
    ssm = handmade.autoregression(10)
    settings = ParticleFilter(50, proposal=by_hand(ssm, handmade.THETA), threshold=1, summaries=())
    paths = [
        ssmscan.trace_ancestry(KEY, replace(settings, store=store).run(KEY, ssm, handmade.THETA), num_paths=5)
        for store in (FullHistory(), Ancestry())
    ]
    jax.tree.map(np.testing.assert_array_equal, *paths)


@pytest.mark.slow
def test_the_score_of_a_linear_gaussian_model_is_exact():
    """Of two particles, in float64; over more steps than a chunk of the backward pass."""
    with jax.enable_x64(True):
        known = gradient.autoregression(num_steps=230)
        settings = ParticleFilter(2, proposal=LookAhead(), threshold=1, summaries=())
        value = jax.jit(jax.value_and_grad(lambda theta: settings.run(KEY, known.ssm, theta).log_likelihood))
        found, slopes = value(known.ssm.canonical(known.theta))
    np.testing.assert_allclose(found, known.log_likelihood(known.theta), rtol=1e-10)
    for name, score in known.score().items():
        np.testing.assert_allclose(slopes[name], score, rtol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("part", ["exact", "unbiased", "broken", "gradient"])
def test_everything_on_a_hundred_thousand_filters(part):
    assert look_ahead.main([part]) == 0


# ---- what goes wrong ----------------------------------------------------------------------------------


def test_who_goes_on_step_by_step_cannot_look_ahead(tmp_path):
    ssm, theta, _ = models.small_autoregression()
    settings = ParticleFilter(16, proposal=LookAhead(), summaries=())
    assert settings.uses_later_data and not ParticleFilter(16).uses_later_data
    sentence = (
        r"proposal: LookAhead\(.*\) looks at the whole series before its first step.* Use Bootstrap\(\) or Guided"
    )
    with pytest.raises(ValueError, match=sentence):
        settings.start(KEY, ssm, theta)
    with pytest.raises(ValueError, match=sentence):
        settings.update(None, ssm, theta)
    with pytest.raises(ValueError, match=sentence):
        ssmscan.long_run(KEY, ssm, theta, particle_filter=settings)
    with pytest.raises(ValueError, match=sentence):
        ssmscan.resume(tmp_path / "filter.npz", ssm, theta, particle_filter=settings)


def test_it_makes_no_predictions():
    with pytest.raises(ValueError, match=r"summaries: PIT\(\) is of the law of an observation given those before"):
        ParticleFilter(16, proposal=LookAhead(), summaries=(Mean(), PIT()))


@pytest.mark.parametrize(("argument", "value"), [("defence", 0), ("defence", 1.0), ("bound", 0.0), ("bound", "x")])
def test_settings_are_numbers_of_their_range(argument, value):
    with pytest.raises((ValueError, TypeError), match=f"{argument}: expected"):
        LookAhead(**{argument: value})


@pytest.mark.slow
def test_gains_that_are_not_numbers_fall_back_to_the_models_own_draws():
    ssm = handmade.autoregression(10)
    proposal = by_hand(ssm, handmade.THETA)
    nothing = jax.tree.map(lambda leaf: leaf * jnp.nan, proposal.plan)
    steps = jax.vmap(module._guide)(*nothing[0][:4])
    values = jax.vmap(module._value)(*nothing[1])
    found = ParticleFilter(2000, proposal=replace(proposal, plan=(steps, values))).run(KEY, ssm, handmade.THETA)
    assert abs(found.log_likelihood - handmade.exact(ssm).log_likelihood) < 0.5


@pytest.mark.slow
def test_few_particles_of_many_filters_side_by_side():
    """Small clouds under vmap, which XLA once took minutes to compile."""
    ssm, theta, _ = heavy()
    settings = ParticleFilter(8, proposal=LookAhead(), summaries=())
    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(lambda key: settings.run(key, ssm, theta).log_likelihood))(keys)
    np.testing.assert_allclose(together, [settings.run(k, ssm, theta).log_likelihood for k in keys], rtol=1e-5)
