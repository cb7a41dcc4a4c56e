import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference import progress
from ssmscan.inference.nuts import NUTS
from ssmscan.inference.posterior import Position, log_likelihood, log_posterior, log_reference
from ssmscan.results import containers
from ssmscan.results.summary import summarise
from tests.inference.models import Y, counting
from tests.inference.test_progress import Interrupting
from tests.truth import z_threshold

SMALL = NUTS(num_warmup=300, num_samples=500, num_chains=4, target_accept=0.9, num_paths=500)


@pytest.fixture(scope="module")
def result(linear):
    return SMALL.run(jax.random.key(0), linear)


def test_parameters_and_states_agree_with_dense_linear_algebra(result, exact):
    values = {"rho": (result.draws["rho"], exact.rho), "q": (result.draws["q"], exact.q)}
    values |= {f"x{t}": (result.states["x"][:, :, t], exact.states[t]) for t in (0, 5, 11)}
    for name, (draws, truth) in values.items():
        mean = summarise(draws, independent_runs=False).statistics[0]
        assert abs(mean.value - truth) < z_threshold(len(values)) * mean.error, name


def test_the_result_is_complete(result, linear):
    assert result.draws["rho"].shape == (4, 500)
    assert result.states["x"].shape == (4, 500, len(Y))
    assert result.states["x_0"].shape == (4, 500)
    assert set(result.sample_stats) == {"acceptance_rate", "diverging", "energy", "n_steps", "step_size"}
    assert result.costs.gradient_evaluations > result.sample_stats["n_steps"].sum()
    assert result.costs.compile_seconds > 0
    assert result.initial == ("x_0",)
    assert not result.interrupted


def test_the_step_size_is_frozen_after_warm_up(result):
    assert np.ptp(result.sample_stats["step_size"], axis=1).max() == 0
    assert 0.7 < result.sample_stats["acceptance_rate"].mean() < 1


def test_raw_and_typed_keys_give_the_same_draws(result, linear):
    again = SMALL.run(jax.random.PRNGKey(0), linear)
    np.testing.assert_array_equal(again.draws["q"], result.draws["q"])


def test_an_interrupt_returns_the_draws_made(result, linear, monkeypatch):
    original = progress.tqdm
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.0)
    monkeypatch.setattr(progress, "tqdm", lambda **k: (Interrupting if k["desc"] == "NUTS" else original)(**k))
    stopped = SMALL.run(jax.random.key(0), linear)
    assert stopped.interrupted
    np.testing.assert_array_equal(stopped.draws["q"], result.draws["q"][:, :3])
    assert stopped.states["x"].shape == (4, 3, len(Y))

    monkeypatch.setattr(progress, "tqdm", Interrupting)
    in_warmup = SMALL.run(jax.random.key(0), linear)
    assert in_warmup.interrupted
    assert in_warmup.draws["q"].shape == (4, 0)


def test_reference_and_likelihood_make_the_posterior(linear):
    noise = {"x_0": jnp.asarray(0.3), "x": jnp.linspace(-1.0, 1.0, len(Y))}
    position = Position({"rho": jnp.asarray(0.2), "q": jnp.asarray(-0.1)}, noise)
    whole, likelihood, reference = jax.jit(
        lambda p: (log_posterior(linear, p), log_likelihood(linear, p), log_reference(linear, p))
    )(position)
    np.testing.assert_allclose(whole, reference + likelihood, rtol=1e-6)
    theta, log_prior = linear.log_prior_unconstrained(position.parameters)
    normals = sum(dist.Normal().log_prob(e).sum() for e in noise.values())
    np.testing.assert_allclose(reference, log_prior + normals, rtol=1e-6)


def test_a_discrete_innovation_that_cannot_be_summed_out_is_refused_by_name():
    ssm = ssmscan.trace(counting, Y)
    with pytest.raises(ssmscan.ModelError, match="'s'"):
        SMALL.run(jax.random.key(0), ssm)


@pytest.mark.slow
def test_a_model_without_a_finite_density_is_refused():
    def impossible(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))

        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(x, scale))
            numpyro.factor("never", jnp.where(x < 1e30, -jnp.inf, 0.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
            return x, None

        scan(transition, 0.0, y)

    with pytest.raises(ValueError, match="no point with a finite log density"):
        SMALL.run(jax.random.key(0), ssmscan.trace(impossible, Y))


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"num_warmup": 0}, ValueError),
        ({"num_samples": 0}, ValueError),
        ({"num_chains": 2.0}, TypeError),
        ({"target_accept": 1.0}, ValueError),
        ({"target_accept": "high"}, TypeError),
        ({"max_tree_depth": True}, TypeError),
        ({"num_paths": -1}, ValueError),
    ],
)
def test_bad_settings_are_named(setting, error):
    with pytest.raises(error, match=next(iter(setting))):
        NUTS(**setting)


def test_something_that_is_not_one_key_is_refused(linear):
    with pytest.raises(TypeError, match="one PRNG key"):
        SMALL.run(jax.random.split(jax.random.key(0)), linear)


@pytest.mark.slow
def test_a_model_without_parameters_has_states():
    y = np.array([0.3, 0.5, 1.2, 0.4])

    def walk(y):
        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    ssm = ssmscan.trace(walk, y)
    nuts = ssmscan.NUTS(num_warmup=300, num_samples=2000, num_chains=2, progress=False).run(jax.random.key(0), ssm)
    steps = np.arange(1, 5)
    cov = np.minimum.outer(steps, steps).astype(float)
    exact = cov @ np.linalg.solve(cov + np.eye(4), y)
    x = np.asarray(nuts.states["x"], float)
    errors = [x[..., t].std() / np.sqrt(containers.ess(x[..., t], "mean")) for t in range(4)]
    assert np.all(np.abs(x.mean((0, 1)) - exact) < z_threshold(4) * np.array(errors)) and max(errors) < 0.05
    assert not nuts.draws and nuts.num_draws == 2000 and nuts.summary().rows == ()
    with pytest.raises(ValueError, match="the model has none"):
        ssmscan.compare(one=nuts, other=nuts)
