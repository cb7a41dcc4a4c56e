import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

import ssmscan
from ssmscan import ImportanceSampler
from ssmscan.inference import progress
from ssmscan.inference.importance_proposal import COMPONENTS, Mixture, draw, fit, from_prior, mixture
from ssmscan.inference.importance_weights import combine, effective, resample, warmest
from ssmscan.particles.draws import as_key
from tests.inference.models import NOISE, Y
from tests.inference.test_progress import Interrupting
from tests.truth import LinearGaussian, linear_gaussian, z_threshold

SMALL = ImportanceSampler(
    num_points=1500,
    estimator=ssmscan.ParticleFilter(32, threshold=1, summaries=()),
    num_particles=32,
    num_paths=0,
    progress=False,
)
TWO = mixture(
    0.1, np.array([0.6, 0.3]), np.array([[0.0, 1.0], [3.0, -2.0]]), np.array([np.eye(2), [[0.5, 0.0], [0.2, 0.7]]])
)


@pytest.fixture(scope="module")
def result(linear):
    return SMALL.run(jax.random.key(0), linear)


def evidence_misses(log_weights, exact):
    """Return by how many standard errors the evidence misses the exact one."""
    found, error = combine(log_weights)
    return abs(np.expm1(found - exact.log_evidence)) / error


def test_evidence_and_means_agree_with_dense_linear_algebra(result, exact):
    assert evidence_misses(result.log_weights, exact) < z_threshold(3)
    assert result.log_evidence_error < 0.05
    weights = np.exp(result.log_weights - result.log_weights.max())
    weights /= weights.sum()
    for name, truth in (("rho", exact.rho), ("q", exact.q)):
        mean = weights @ result.points[name]
        error = np.sqrt((weights**2) @ (result.points[name] - mean) ** 2)
        assert abs(mean - truth) < z_threshold(3) * error, name


def test_a_density_without_one_of_its_parts_or_an_old_proposal_is_seen(result, exact):
    stored = result.continuation
    z, law = np.asarray(stored["z"], np.float64), stored["log_law"]
    frozen = Mixture(*(stored[f"proposal_{name}"] for name in Mixture._fields))
    log_posterior = stored["log_prior"].astype(float) + stored["log_likelihood"]
    np.testing.assert_allclose(log_posterior - frozen.log_density(z, law), result.log_weights)
    share = frozen.shares / (1 - frozen.prior)
    for other in (
        frozen._replace(shares=share, means=frozen.means + 0.6),
        frozen._replace(factors=1.4 * frozen.factors),
    ):
        assert evidence_misses(log_posterior - other.log_density(z, law), exact) > z_threshold(3)


@jax.jit
def draw_each(keys, proposal):
    """Draw from a mixture whose defence is N(0, 9)."""
    return jax.vmap(lambda key: draw(key, proposal, lambda own: 3.0 * jax.random.normal(own, (2,))))(keys)


@pytest.mark.parametrize("prior", [0.0, 0.1, 0.5])
def test_weights_of_a_known_law_have_mean_one_and_without_the_defence_they_have_not(prior):
    shares = TWO.shares * (1 - prior) / 0.9
    proposal = TWO._replace(prior=np.float64(np.float32(prior)), shares=shares)
    law = stats.multivariate_normal([0.0, 0.0], 9 * np.eye(2))
    keys = jax.random.split(as_key(jax.random.key(0)), 20_000)
    z = np.asarray(draw_each(keys, proposal.on_device()), np.float64)
    target = stats.multivariate_normal([0.5, 0.5], np.eye(2)).logpdf(z)

    def z_score(density):
        w = np.exp(target - density)
        return abs(w.mean() - 1) / (w.std() / np.sqrt(len(w)))

    assert z_score(proposal.log_density(z, law.logpdf(z))) < z_threshold(3)
    if prior:
        assert z_score(proposal._replace(prior=0.0).log_density(z, law.logpdf(z))) > z_threshold(3)
    fewer = proposal._replace(shares=np.append(shares[:1], np.zeros(COMPONENTS - 1)))
    assert z_score(fewer.log_density(z, law.logpdf(z))) > z_threshold(3)


def test_the_density_of_a_component_is_scipys():
    z = np.random.default_rng(0).normal(size=(5, 2))
    only = mixture(0.0, np.ones(1), TWO.means[1:2], TWO.factors[1:2])
    factor = only.factors[0]
    expected = stats.multivariate_t(only.means[0], factor @ factor.T, df=5).logpdf(z)
    np.testing.assert_allclose(only.log_density(z, np.zeros(5)), expected, rtol=1e-10)


def test_a_fit_finds_two_modes_and_does_not_make_two_of_one():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal([-4, 0], 0.5, (350, 2)), rng.normal([4, 1], 1.0, (150, 2))])
    found = fit(z, np.zeros(500), prior=True)
    means = np.array([mean for share, mean, _ in found.components if share > 0.1])
    assert len(means) == 2
    np.testing.assert_allclose(means[np.argsort(means[:, 0])], [[-4, 0], [4, 1]], atol=0.2)
    assert len(fit(rng.normal(size=(500, 2)), np.zeros(500), prior=True).components) == 1


def test_a_wide_component_defends_where_the_prior_is_no_law():
    found = fit(np.random.default_rng(0).normal(size=(100, 2)), np.zeros(100), prior=False)
    assert found.prior == 0
    assert np.isclose(found.shares.sum(), 1)
    assert np.linalg.det(found.components[-1][2]) > 5 * np.linalg.det(found.components[0][2])
    assert from_prior(2).components == []


def test_the_temperature_leaves_enough_points_effective():
    log_weights = -(10.0 ** np.linspace(0, 7, 400))
    gamma = warmest(log_weights, 50)
    assert 0 < gamma < 1
    assert effective(gamma * log_weights) == pytest.approx(50, rel=1e-3)
    assert warmest(np.zeros(400), 50) == 1.0


def test_resampled_draws_are_copies_of_points_in_proportion_to_their_weights():
    log_weights = np.log(np.random.default_rng(0).exponential(size=300))
    log_weights[[0, 7, 299]] = -np.inf
    counts = np.bincount(resample(log_weights, jax.random.key_data(jax.random.key(1))), minlength=300)
    expected = 300 * np.exp(log_weights) / np.exp(log_weights).sum()
    assert np.all(np.abs(counts - expected) < 1)
    assert not counts[[0, 7, 299]].any()


@pytest.mark.slow
def test_the_path_of_a_draw_is_that_of_the_run_that_its_point_was_weighed_with(linear):
    result = dataclasses.replace(SMALL, num_paths=40).run(jax.random.key(0), linear)
    draw_ = int(result.state_draws[20])
    point = int(result.sample_stats["point"][0, draw_])
    assert result.draws["q"][0, draw_] == result.points["q"][point]
    theta = {name: jnp.asarray(values[point]) for name, values in result.points.items()}
    key = as_key(jnp.asarray(result.continuation["filter_key"][point]))
    again = SMALL.estimator.run(key, linear, theta)
    np.testing.assert_allclose(again.log_likelihood, result.continuation["log_likelihood"][point], rtol=1e-4)
    assert np.any(np.isclose(result.states["x"][0, 20, -1], again.final.values["x"]))


@pytest.mark.slow
def test_control_c_returns_the_points_made(result, linear, monkeypatch):
    original = progress.tqdm
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.001)
    monkeypatch.setattr(
        progress, "tqdm", lambda **k: (Interrupting if k["desc"] == "ImportanceSampler" else original)(**k)
    )
    stopped = SMALL.run(jax.random.key(0), linear)
    done = len(stopped.log_weights)
    assert stopped.interrupted
    assert 0 < done < 1500
    np.testing.assert_array_equal(stopped.log_weights, result.log_weights[:done])


def test_a_start_of_something_else_is_refused(result, linear):
    with pytest.raises(TypeError, match="start"):
        SMALL.run(jax.random.key(0), linear, start="result.nc")
    with pytest.raises(ValueError, match="settings"):
        dataclasses.replace(SMALL, num_particles=64).run(jax.random.key(0), linear, start=result)


def improper(y):
    level = numpyro.sample("level", dist.ImproperUniform(dist.constraints.real, (), ()))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.5 * x, 1.0))
        numpyro.sample("y", dist.Normal(level + x, 1.0), obs=y)
        return x, None

    scan(step, 0.0, y)


@pytest.mark.slow
def test_looking_ahead_makes_every_likelihood_exact_with_two_particles(linear, exact):
    ahead = ssmscan.ParticleFilter(2, proposal=ssmscan.LookAhead(), summaries=())
    found = dataclasses.replace(SMALL, num_points=400, num_particles=2, estimator=ahead).run(jax.random.key(0), linear)
    for number in range(20):
        rho, q = (float(found.points[name][number]) for name in ("rho", "q"))
        model = LinearGaussian.scalar(0.0, rho**2 + q**2, rho, q**2, 1.0, NOISE**2)
        truth = linear_gaussian(model, Y[:, None]).log_likelihood
        np.testing.assert_allclose(found.continuation["log_likelihood"][number], truth, atol=2e-3)
    assert evidence_misses(found.log_weights, exact) < z_threshold(3)
    assert found.effective_points > 200


@pytest.mark.slow
def test_an_improper_prior_is_defended_by_a_wide_t_and_gives_no_evidence():
    ssm = ssmscan.trace(improper, jnp.asarray(30.0 + np.random.default_rng(0).normal(size=20)))
    found = ImportanceSampler(num_points=2000, estimator=ssmscan.ExactLikelihood(), progress=False).run(
        jax.random.key(0), ssm
    )
    assert found.log_evidence is None
    assert any("no evidence" in note for note in found.notes)
    exact = ssmscan.ExactLikelihood()
    grid = np.linspace(25, 35, 400)
    log_density = jax.vmap(lambda x: exact.estimate(as_key(jax.random.key(0)), ssm, {"level": x}).log_likelihood)(grid)
    density = np.exp(np.asarray(log_density, float) - np.max(log_density))
    truth = density @ grid / density.sum()
    weights = np.exp(found.log_weights - found.log_weights.max())
    weights /= weights.sum()
    mean = weights @ found.points["level"]
    error = np.sqrt((weights**2) @ (found.points["level"] - mean) ** 2)
    assert abs(mean - truth) < z_threshold() * error
