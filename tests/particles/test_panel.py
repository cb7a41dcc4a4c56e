"""A panel is filtered as its series are one by one, and reported as one model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.particles.draws import as_key
from ssmscan.particles.genealogy import backward_sample, trace_ancestry
from ssmscan.particles.stores import FullHistory
from ssmscan.particles.summaries import PIT, SD, Mean, Quantiles
from tests.truth import LinearGaussian, linear_gaussian

pytestmark = pytest.mark.slow

T, M = 6, 4
Y = np.random.default_rng(0).normal(size=(T + 1, M)).astype(np.float32)
KEY = jax.random.key(11)
THETA = {"s": 0.5}


def panel(y, *, after=False, joined=False):
    """Autoregressions with an observed start; data (T + 1,) for one series, (T + 1, M) for a panel."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    shape = y.shape[1:]
    x0 = numpyro.sample("x0", dist.Normal(0, 1).expand(shape).to_event(len(shape)))
    if not after:
        numpyro.sample("y0", dist.Normal(x0, 1.0), obs=y[0])

    def step(x, yt):
        x = 0.8 * x + (0 * x.mean() if joined else 0)
        x = numpyro.sample("x", dist.Normal(x, s).to_event(len(shape)))
        if not after:
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return x, x

    _, path = scan(step, x0, y[1:])
    if after:
        numpyro.sample("y", dist.Normal(jnp.concatenate([x0[None], path]), 1.0), obs=y)


def bounded(y):
    """Data above one are impossible, whatever the state."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(x, yt):
        with numpyro.plate("animals", M):
            x = numpyro.sample("x", dist.Normal(x, s))
            numpyro.sample("y", dist.Uniform(-10.0, jnp.exp(-jnp.abs(x))), obs=yt)
        return x, x

    scan(step, jnp.zeros(M), y)


@pytest.fixture(scope="module")
def run():
    settings = ssmscan.ParticleFilter(60, store=FullHistory(), summaries=(Mean(), SD(), Quantiles(), PIT()))
    ssm = ssmscan.trace(panel, Y)
    single = [ssmscan.trace(panel, Y[:, m]) for m in range(M)]
    alone = [settings.run(jax.random.fold_in(as_key(KEY), m), one, THETA) for m, one in enumerate(single)]
    return ssm, settings.run(KEY, ssm, THETA), alone


def test_it_is_its_series_one_by_one(run):
    ssm, result, alone = run
    assert ssm.panel.size == M
    np.testing.assert_allclose(result.log_likelihood, sum(r.log_likelihood for r in alone), rtol=1e-6)
    np.testing.assert_allclose(result.increments, sum(r.increments for r in alone), rtol=1e-5)
    np.testing.assert_allclose(result.ess, np.stack([r.ess for r in alone], -1), rtol=1e-4)
    np.testing.assert_array_equal(result.resampled, np.stack([r.resampled for r in alone], -1))
    for name, by_site in result.summaries.items():
        for site, value in by_site.items():
            expected = np.stack([r.summaries[name][site] for r in alone], -1)
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.final.carry, np.stack([r.final.carry for r in alone], -1), atol=1e-5)
    np.testing.assert_allclose(result.final.log_weights, np.stack([r.final.log_weights for r in alone]), atol=1e-4)
    kept = [r.history.steps for r in alone]
    np.testing.assert_allclose(result.history.steps.values["x"], np.stack([k.values["x"] for k in kept], -1), atol=1e-5)
    np.testing.assert_array_equal(result.history.steps.ancestors, np.stack([k.ancestors for k in kept], 1))


def test_paths_are_drawn_element_by_element(run):
    ssm, result, _ = run
    history = result.history
    ancestral = trace_ancestry(KEY, result, num_paths=5)
    smoothed = backward_sample(KEY, ssm, THETA, result, num_paths=5)
    for paths in (ancestral, smoothed):
        assert paths["x"].shape == (5, T, M)
        assert paths["x0"].shape == (5, M)
        for m in range(M):
            # Every state of a path is a particle of its own element.
            cloud = np.asarray(history.steps.values["x"])[:, :, m]
            assert all(np.isin(paths["x"][:, t, m], cloud[t]).all() for t in range(T))
            assert np.isin(paths["x0"][:, m], np.asarray(history.initial.values["x0"])[:, m]).all()


def test_observations_after_the_loop_make_the_same_panel(run):
    _, result, _ = run
    ssm = ssmscan.trace(panel, Y, after=True)
    assert ssm.panel.size == M
    other = ssmscan.ParticleFilter(60).run(KEY, ssm, THETA)
    np.testing.assert_allclose(other.increments, result.increments, rtol=1e-5)


def test_the_likelihood_is_exact_in_the_limit():
    truth = [linear_gaussian(LinearGaussian.scalar(0, 1, 0.8, 0.25, 1, 1), Y[:, m : m + 1]) for m in range(M)]
    result = ssmscan.ParticleFilter(20_000).run(KEY, ssmscan.trace(panel, Y), THETA)
    np.testing.assert_allclose(result.log_likelihood, sum(t.log_likelihood for t in truth), atol=0.06)
    means = np.stack([t.filtered_mean[1:, 0] for t in truth], -1)
    np.testing.assert_allclose(result.summaries["mean"]["x"], means, atol=0.05)


def test_the_gradient_is_the_sum_of_the_gradients():
    settings = ssmscan.ParticleFilter(30, summaries=())

    def slope(data, key):
        ssm = ssmscan.trace(panel, data)
        return jax.grad(lambda s: settings.run(key, ssm, {"s": s}).log_likelihood)(0.5)

    alone = [slope(Y[:, m], jax.random.fold_in(as_key(KEY), m)) for m in range(2)]
    np.testing.assert_allclose(slope(Y[:, :2], KEY), sum(alone), rtol=1e-4)


def test_an_element_without_weight_ends_alone_and_is_named():
    data = np.zeros((T, M), np.float32)
    data[3, 2] = 6.0
    result = ssmscan.ParticleFilter(20).run(KEY, ssmscan.trace(bounded, data), THETA)
    assert result.log_likelihood == -np.inf
    assert (int(result.failed_step), int(result.failed_element)) == (3, 2)
    np.testing.assert_array_equal(np.asarray(result.ess)[-1] > 0, [True, True, False, True])
    assert result.message().startswith("Every particle has weight zero at step 3 (counting from 0) in element 2 of 'an")


def test_many_series_keep_their_particles():
    data = np.random.default_rng(2).normal(scale=2.0, size=(T + 1, 64)).astype(np.float32)
    settings = ssmscan.ParticleFilter(100, summaries=(), threshold=1)
    own = settings.run(KEY, ssmscan.trace(panel, data), THETA)
    joint = settings.run(KEY, ssmscan.trace(panel, data, joined=True), THETA)
    assert own.ess.shape == (T + 1, 64)
    assert own.ess.mean() > 50
    assert joint.ess.mean() < 5
