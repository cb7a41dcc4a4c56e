"""Probabilities of discrete states are the same question to every engine: against enumeration of all paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.stats import norm

import ssmscan
from tests.truth import z_threshold

Y = np.array([0.2, 1.7, 2.4, 0.9, 3.8], np.float32)
STAY = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])


def regimes(y):
    """Three regimes, none of its parameters unknown but a scale that hardly is."""
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1e-3))

    def step(s, y):
        s = numpyro.sample("s", dist.Categorical(probs=jnp.asarray(STAY, jnp.float32)[s]))
        numpyro.sample("y", dist.Normal(2.0 * s, scale), obs=y)
        return s, None

    scan(step, 0, y)


def truth(*, filtering=False):
    """Return (T, 3) by summing over all 243 paths, of the data up to each step for a filter."""
    paths = np.array(list(itertools.product(range(3), repeat=len(Y))))
    before = np.concatenate([np.zeros((len(paths), 1), int), paths[:, :-1]], axis=1)
    logs = np.log(STAY[before, paths]) + norm.logpdf(Y, 2.0 * paths, 1.0)
    found = np.zeros((len(Y), 3))
    for t in range(len(Y)):
        weights = np.exp(logs[:, : t + 1 if filtering else None].sum(1))
        found[t] = [weights[paths[:, t] == k].sum() / weights.sum() for k in range(3)]
    return found


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(regimes, Y)


def agree(found, expected, size):
    """Fifteen frequencies of `size` independent draws; sees .09 of 2,000."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)
    gaps = np.abs(found - expected)
    return bool((gaps < z_threshold(15) * np.sqrt(expected * (1 - expected) / size)).all())


@pytest.mark.slow
def test_a_sampler_with_particles_has_them_and_one_that_sums_out(ssm):
    points = ssmscan.ImportanceSampler(num_points=2000, num_paths=2000, progress=False).run(jax.random.key(0), ssm)
    summed = ssmscan.NUTS(num_warmup=50, num_samples=50, num_chains=1, num_paths=50, progress=False)
    with pytest.warns(ssmscan.ResultWarning):
        exact = summed.run(jax.random.key(0), ssm).state_probabilities["s"]
    assert agree(points.state_probabilities["s"], truth(), 1000)
    np.testing.assert_allclose(exact, truth(), atol=5e-3)
    assert points.to_arviz()["state_probabilities"]["s"].dims == ("time", "s_value")
    # Filtering probabilities are another question.
    assert not agree(exact, truth(filtering=True), 1000)


def test_a_filter_has_those_given_the_data_so_far(ssm):
    theta = {"scale": 1.0}
    asked = ssmscan.ParticleFilter(4000, summaries=(ssmscan.Probabilities(3),)).run(jax.random.key(0), ssm, theta)
    found = asked.state_probabilities["s"]
    assert agree(found, truth(filtering=True), 1000) and not agree(found, truth(), 1000)
    with pytest.raises(ValueError, match=r"Probabilities\(K\)"):
        ssmscan.ParticleFilter(4, summaries=()).run(jax.random.key(0), ssm, theta).state_probabilities  # noqa: B018


def test_a_smoother_has_those_given_all_data(ssm):
    found = ssmscan.Smoother(num_paths=2000).run(jax.random.key(0), ssm, {"scale": 1.0})
    assert agree(found.state_probabilities["s"], truth(), 2000)
