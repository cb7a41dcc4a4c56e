"""Discrete states of elements that do not interact, against a sum over the paths of each element alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from scipy import stats

import ssmscan
from tests.truth import hmm_forward_backward, z_threshold

pytestmark = pytest.mark.slow

T, M = 5, 9
RNG = np.random.default_rng(21)
Y = RNG.normal(size=(T, M))
H = RNG.integers(0, 2, size=(T + 1, M))
norm = stats.norm.logpdf


def capture_recapture(seen):
    """Animals die for good; what is not seen again may be dead. An animal enters when it is first seen."""
    survival = numpyro.sample("survival", dist.Beta(4, 2))
    detection = numpyro.sample("detection", dist.Beta(2, 2))

    def step(carry, y):
        met, alive = carry
        with numpyro.plate("animals", M), handlers.mask(mask=met):
            alive = numpyro.sample("alive", dist.Bernoulli(met * survival * alive + (1 - met)))
            numpyro.sample("y", dist.Bernoulli(dist.util.clamp_probs(detection * alive)), obs=y)
        return (met | y.astype(bool), alive), None

    scan(step, (seen[0].astype(bool), jnp.ones(M, int)), seen[1:])


def capture_truth(seen, survival, detection):
    """Of one animal: states dead, alive; before it is met it is surely alive, and nothing is observed."""
    met = np.cumsum(seen[:-1]) > 0
    predicted, log_likelihood, smoothed = np.array([0.0, 1.0]), 0.0, []
    for t in range(T):
        move = np.array([[1.0, 0.0], [1 - survival, survival]]) if met[t] else np.array([[0.0, 1.0], [0.0, 1.0]])
        predicted = predicted @ move
        if met[t]:
            p = np.array([np.finfo(np.float32).tiny, detection])
            predicted = predicted * (p if seen[t + 1] else 1 - p)
        log_likelihood += np.log(predicted.sum())
        predicted = predicted / predicted.sum()
        smoothed.append(predicted)
    return log_likelihood, smoothed[-1]


def test_capture_and_recapture_is_a_sum_for_each_animal():
    ssm = ssmscan.trace(capture_recapture, jnp.asarray(H))
    assert f"summed out by gradient engines: 'alive', 2 values a step for each of {M} elements" in repr(ssm)
    theta = {"survival": jnp.asarray(0.8), "detection": jnp.asarray(0.6)}
    value, grad = jax.jit(jax.value_and_grad(ssm.log_likelihood_given_noise))(theta, {})

    def truth(**changed):
        at = {n: float(v) for n, v in theta.items()} | changed
        return sum(capture_truth(H[:, i], **at)[0] for i in range(M))

    np.testing.assert_allclose(value, truth(), rtol=1e-5)
    for name in theta:
        up, down = (truth(**{name: float(theta[name]) + h}) for h in (1e-5, -1e-5))
        np.testing.assert_allclose(grad[name], (up - down) / 2e-5, rtol=1e-3)
    found = jax.jit(ssm.posterior_states)(theta, {}, jax.random.key(0))
    assert found.states["alive"].shape == (T, M)
    last = [capture_truth(H[:, i], 0.8, 0.6)[1] for i in range(M)]
    np.testing.assert_allclose(found.probabilities["alive"][-1], last, atol=1e-5)


def regimes_of_series(y):
    """Three regimes, drawn at the start too, beside a state and a scale that the series share."""
    rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(3)).expand([3]).to_event(1))
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
    with numpyro.plate("series", M):
        z0 = numpyro.sample("z0", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("y0", dist.Normal(1.0 * z0, 1.0), obs=jnp.full(M, 0.7))

    def step(carry, yt):
        z, x, before = carry
        x = numpyro.sample("x", dist.Normal(0.9 * x, 0.3))
        numpyro.sample("common", dist.Normal(x, 1.0), obs=0.4)
        with numpyro.plate("series", M):
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            level = numpyro.sample("level", dist.Normal(jnp.array([-1.0, 0.0, 2.0])[z], 0.4))
            numpyro.sample("y", dist.Normal(level + x + 0.3 * before, 0.5), obs=yt)
        numpyro.factor("soft", -0.1 * jnp.sum(z**2) + 0.05 * x)
        return (z, x, yt), {"z": z}

    _, out = scan(step, (z0, x0, jnp.zeros(M)), y)
    numpyro.sample("late", dist.Normal(1.0 * out["z"], 2.0), obs=jnp.ones_like(y))


ROWS = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.05, 0.15, 0.8]])
EPS = {"x0": RNG.normal(), "x": RNG.normal(size=T), "level": RNG.normal(size=(T, M))}


def regimes_truth():
    x, xs = EPS["x0"], []
    for e in EPS["x"]:
        x = 0.9 * x + 0.3 * e
        xs.append(x)
    x = np.array(xs)
    before = np.concatenate([np.zeros((1, M)), Y[:-1]])
    k = np.arange(3)
    truths = []
    for i in range(M):
        mean = np.array([-1.0, 0.0, 2.0]) + 0.4 * EPS["level"][:, i, None] + x[:, None] + 0.3 * before[:, i, None]
        seen = norm(Y[:, i, None], mean, 0.5) - 0.1 * k**2 + norm(1.0, k, 2.0)
        seen = np.concatenate([norm(0.7, k, 1.0)[None], seen])
        truths.append(hmm_forward_backward(np.array([0.2, 0.3, 0.5]), ROWS, seen))
    return sum(t.log_likelihood for t in truths) + norm(0.4, x, 1.0).sum() + 0.05 * x.sum(), truths


@pytest.fixture(scope="module")
def regimes():
    return ssmscan.trace(regimes_of_series, Y)


def test_what_the_elements_share_is_counted_once(regimes):
    assert regimes.program.marginal.plan.elements.size == M
    assert {n: spec.shape for n, spec in regimes.smooth_noise.items()} == {"x0": (), "x": (T,), "level": (T, M)}
    noise = {n: jnp.asarray(e, float) for n, e in EPS.items()}
    value = jax.jit(regimes.log_likelihood_given_noise)({"rows": jnp.asarray(ROWS, float)}, noise)
    np.testing.assert_allclose(value, regimes_truth()[0], rtol=1e-5)


def test_probabilities_and_draws_go_back_to_their_elements(regimes):
    _, truths = regimes_truth()
    noise, count = {n: jnp.asarray(e, float) for n, e in EPS.items()}, 4000
    draw = jax.jit(jax.vmap(regimes.posterior_states, (None, None, 0)))
    found = draw({"rows": jnp.asarray(ROWS, float)}, noise, jax.random.split(jax.random.key(3), count))
    smoothed = np.stack([t.smoothed for t in truths], 1)
    np.testing.assert_allclose(found.probabilities["z"][0], smoothed[1:], atol=1e-5)
    np.testing.assert_allclose(found.probabilities["z0"][0], smoothed[0], atol=1e-5)
    assert found.states["z0"].shape == (count, M)
    means = np.array([-1.0, 0.0, 2.0])[found.states["z"]] + 0.4 * EPS["level"]
    np.testing.assert_allclose(found.states["level"], means, atol=1e-5)
    paths = np.concatenate([found.states["z0"][:, None], found.states["z"]], 1)
    frequency = np.mean(paths[..., None] == np.arange(3), axis=0)
    errors = (frequency - smoothed) / np.sqrt(smoothed * (1 - smoothed) / count)
    rare = smoothed * (1 - smoothed) * count < 20
    assert np.abs(errors[~rare]).max() < z_threshold(errors.size)


def coupled(y):
    def step(z, yt):
        with numpyro.plate("series", M):
            z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.6 * jnp.roll(z, 1)))
            numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
        return z, None

    scan(step, jnp.zeros(M, int), y)


def with_a_common_regime(y):
    def step(carry, yt):
        z, common = carry
        common = numpyro.sample("common", dist.Bernoulli(0.2 + 0.6 * common))
        with numpyro.plate("series", M):
            z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.6 * z))
            numpyro.sample("y", dist.Normal(1.0 * z + common, 1.0), obs=yt)
        return (z, common), None

    scan(step, (jnp.zeros(M, int), 0), y)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (coupled, "512 joint values of a step, .* cannot be summed one by one, as .* joins them"),
        (with_a_common_regime, "1024 joint values of a step, and up to 64 are summed out. Use"),
    ],
)
def test_elements_that_interact_are_refused(model, words):
    with pytest.raises(ssmscan.ModelError, match=words):
        ssmscan.trace(model, Y).smooth_noise  # noqa: B018


def test_one_element_may_have_too_many_values():
    def model(y):
        def step(z, yt):
            with numpyro.plate("series", M):
                z = numpyro.sample("z", dist.Categorical(jnp.ones(70)))
                numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
            return z, None

        scan(step, jnp.zeros(M, int), y)

    with pytest.raises(ssmscan.ModelError, match="have 70 joint values of a step for each of 9 elements, and up to 64"):
        ssmscan.trace(model, Y).smooth_noise  # noqa: B018
