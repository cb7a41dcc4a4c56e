"""Observations after the loop weigh particles as the same model with the observation inside does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.particles.genealogy import backward_sample
from ssmscan.particles.stores import FullHistory
from tests.truth import LinearGaussian, linear_gaussian

pytestmark = pytest.mark.slow

T = 7
Y = np.random.default_rng(1).normal(size=(T + 1, 2)).astype(np.float32)
COUNTS = np.random.default_rng(2).poisson(2.0, size=T)
KEY = jax.random.key(8)


def parameters():
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    return s, numpyro.sample("x0", dist.Normal(0, 1).expand([2]).to_event(1))


def walk(observe, after):
    """Two states that cross over at each step, observed inside the loop, after it, or before it."""

    def model(start=None):
        s, x0 = parameters()
        if start is not None:
            start(x0)

        def step(x, inputs):
            t, y = inputs
            x = numpyro.sample("x", dist.Normal(0.9 * x[::-1], s).to_event(1))
            if observe is not None:
                observe(x, y, t)
            return x, x

        _, path = scan(step, x0, (jnp.arange(T), Y[1:]))
        if after is not None:
            after(path, x0)

    return model


def sites_inside(x, y, t):
    numpyro.sample("a", dist.Normal(x, 0.7).to_event(1), obs=y)
    numpyro.sample("b", dist.Poisson(jnp.exp(x[0])), obs=jnp.asarray(COUNTS)[t])


def sites_after(path, x0):
    numpyro.sample("a", dist.Normal(path, 0.7).to_event(1), obs=Y[1:])
    numpyro.sample("b", dist.Poisson(jnp.exp(path[:, 0])), obs=COUNTS)


def start_before(x0):
    numpyro.sample("a0", dist.Normal(x0, 0.7), obs=Y[0])


def start_inside(x, y, t):
    numpyro.sample("a", dist.Normal(x, 0.7).to_event(1), obs=y)


def start_after(path, x0):
    numpyro.sample("a", dist.Normal(jnp.concatenate([x0[None], path]), 0.7).to_event(1), obs=Y)


def head_inside(x, y, t):
    seen = dist.MultivariateNormal(x, jnp.eye(2) * 0.5)
    numpyro.sample("a", seen.mask(t < 4), obs=y)


def head_after(path, x0):
    numpyro.sample("a", dist.MultivariateNormal(path[:4], jnp.eye(2) * 0.5), obs=Y[1:5])


MU = jnp.array([-1.0, 2.0])


def look_up_inside(x, y, t):
    numpyro.sample("a", dist.Normal(MU[(x[0] > 0).astype(int)], 1.0), obs=y[0])


def look_up_after(path, x0):
    numpyro.sample("a", dist.Normal(MU[(path[:, 0] > 0).astype(int)], 1.0), obs=Y[1:, 0])


TWINS = {
    "sites": (sites_inside, None, sites_after),
    "start": (start_inside, start_before, start_after),
    "head": (head_inside, None, head_after),
    "look-up": (look_up_inside, None, look_up_after),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_likelihood_is_that_of_the_model_written_inside(name):
    inside, start, after = TWINS[name]
    particle_filter = ssmscan.ParticleFilter(50, store=FullHistory())
    theta = {"s": 0.6}
    one = ssmscan.trace(walk(inside, None), start=start)
    two = ssmscan.trace(walk(None, after))
    expected, result = (particle_filter.run(KEY, ssm, theta) for ssm in (one, two))
    np.testing.assert_allclose(result.log_likelihood, expected.log_likelihood, rtol=2e-6)
    np.testing.assert_allclose(result.increments, expected.increments, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.history.steps.ancestors, expected.history.steps.ancestors)
    assert one.start_observed == two.start_observed
    if name == "sites":
        paths = [backward_sample(KEY, ssm, theta, r, num_paths=3) for ssm, r in ((one, expected), (two, result))]
        np.testing.assert_array_equal(paths[0]["x"], paths[1]["x"])


def level_after(y):
    q, r = (numpyro.sample(name, dist.HalfNormal(1.0)) for name in ("q", "r"))
    x1 = numpyro.sample("x1", dist.Normal(0.0, 2.0))
    _, path = scan(lambda x, _: (numpyro.sample("x", dist.Normal(0.8 * x, q)),) * 2, x1, None, length=len(y) - 1)
    numpyro.sample("y", dist.Normal(jnp.concatenate([x1[None], path]), r), obs=y)


def test_the_likelihood_is_exact_in_the_limit():
    y = np.random.default_rng(3).normal(size=12)
    truth = linear_gaussian(LinearGaussian.scalar(0, 4, 0.8, 0.25, 1, 1), y[:, None])
    ssm = ssmscan.trace(level_after, jnp.asarray(y, float))
    result = ssmscan.ParticleFilter(20_000).run(KEY, ssm, {"q": 0.5, "r": 1.0})
    # The standard deviation at this N is near 0.01.
    np.testing.assert_allclose(result.log_likelihood, truth.log_likelihood, atol=0.06)
    np.testing.assert_allclose(result.increments, truth.increments, atol=0.06)
    np.testing.assert_allclose(result.summaries["mean"]["x"], truth.filtered_mean[1:, 0], atol=0.06)


def test_rows_that_only_parameters_reach_belong_to_the_parameters():
    def after(path, x0):
        known = jnp.ones((1, 2))
        numpyro.sample("a", dist.Normal(jnp.concatenate([known, path]), 0.7), obs=Y)

    ssm = ssmscan.trace(walk(None, after))
    expected = dist.Normal(1.0, 0.7).log_prob(Y[0]).sum()
    np.testing.assert_allclose(ssm.log_static({"s": jnp.asarray(0.5)}), expected, rtol=1e-6)
    assert not ssm.start_observed
    result = ssmscan.ParticleFilter(50).run(KEY, ssm, {"s": 0.5})
    np.testing.assert_allclose(result.log_likelihood, result.increments.sum() + expected, rtol=1e-5)


def test_simulation_draws_what_is_observed_after_the_loop():
    ssm = ssmscan.trace(walk(None, start_after))
    draw = ssm.simulate(KEY, {"s": 0.5})
    whole = np.concatenate([draw["x0"][None], draw["x"]])
    assert draw["a"].shape == Y.shape
    assert 0 < np.abs(draw["a"] - whole).max() < 5 * 0.7
    assert not np.array_equal(draw["a"], Y)


def test_no_array_of_a_particle_has_the_length_of_the_series():
    """The step of one particle costs the same for any T: what it computes does not mention T."""
    ssm = ssmscan.trace(walk(None, sites_after))
    step = ssm.program.post_loop.step
    shapes = {v.aval.shape for eqn in step.late_eqns for v in eqn.outvars}
    assert shapes
    assert not any(T in shape for shape in shapes)
