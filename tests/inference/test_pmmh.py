from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmscan
from ssmscan.inference import progress
from ssmscan.inference.pilot import Pilot, target_acceptance
from ssmscan.inference.pmmh import PMMH
from ssmscan.inference.pmmh_chain import Move, adapt_scale, evaluate, pmmh_step
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import LikelihoodEstimate, Replicates
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.filter_step import COMPLETE
from ssmscan.results.summary import summarise
from tests.inference.models import Y, impossible, switching
from tests.inference.test_progress import Interrupting
from tests.truth import z_threshold

FEW = ParticleFilter(20, summaries=())
SMALL = PMMH(num_samples=3000, num_warmup=800, estimator=FEW, target_sd=0.6, num_paths=100)


@pytest.fixture(scope="module")
def used(result):
    return replace(FEW, num_particles=result.settings["used"]["num_particles"])


@pytest.fixture(scope="module")
def result(linear):
    return SMALL.run(jax.random.key(0), linear)


def test_parameters_and_states_agree_with_dense_linear_algebra(result, exact):
    values = {"rho": (result.draws["rho"], exact.rho), "q": (result.draws["q"], exact.q)}
    values |= {f"x{t}": (result.states["x"][:, :, t], exact.states[t]) for t in (0, 5, 11)}
    for name, (draws, truth) in values.items():
        mean = summarise(draws, independent_runs=False).statistics[0]
        assert abs(mean.value - truth) < z_threshold(len(values)) * mean.error, name


def test_the_result_is_complete(result):
    assert result.draws["rho"].shape == (4, 3000)
    assert result.states["x"].shape == (4, 100, len(Y))
    assert result.states["x_0"].shape == (4, 100)
    assert result.sample_stats["filter_key"].shape == (4, 3000, 2)
    assert result.costs.particle_steps > 4 * 3000 * result.settings["used"]["num_particles"] * len(Y)
    assert not any("differ" in note for note in result.notes)


def test_the_estimate_is_stored_until_a_proposal_is_accepted(result):
    moved = np.diff(result.draws["q"], axis=1) != 0
    np.testing.assert_array_equal(np.diff(result.sample_stats["log_likelihood_estimate"], axis=1) != 0, moved)
    np.testing.assert_array_equal(result.sample_stats["accepted"][:, 1:], moved)


def test_a_stored_key_replays_the_accepted_run(result, linear, used):
    draw = int(result.state_draws[50])
    theta = {name: jnp.asarray(values[2, draw]) for name, values in result.draws.items()}
    key = jnp.asarray(result.sample_stats["filter_key"][2, draw])
    again = used.run(as_key(key), linear, theta)
    np.testing.assert_allclose(again.log_likelihood, result.sample_stats["log_likelihood_estimate"][2, draw], rtol=1e-4)
    assert np.any(np.isclose(result.states["x"][2, 50, -1], again.final.values["x"]))


def test_raw_keys_are_taken_and_an_interrupt_returns_the_draws_made(result, linear, monkeypatch):
    original = progress.tqdm
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.01)
    monkeypatch.setattr(progress, "tqdm", lambda **k: (Interrupting if k["desc"] == "PMMH" else original)(**k))
    stopped = SMALL.run(jax.random.PRNGKey(0), linear)
    assert stopped.interrupted
    done = stopped.draws["q"].shape[1]
    assert 3 <= done < 3000
    np.testing.assert_array_equal(stopped.draws["q"], result.draws["q"][:, :done])


def test_the_pilot_reaches_the_wanted_noise(result, linear, used):
    theta = result.mean()
    keys = jax.random.split(as_key(jax.random.key(1)), 200)
    estimates = jax.jit(jax.vmap(lambda k: used.run(k, linear, theta).log_likelihood))(keys)
    assert used.num_particles != FEW.num_particles
    assert 0.3 < np.std(estimates) < 1.2


@pytest.mark.parametrize(("sd", "target"), [(0.0, 0.234), (1.2, 0.198), (2.0, 0.0786), (np.inf, 0.01)])
def test_the_target_is_half_of_what_a_proposal_of_length_zero_gets(sd, target):
    assert target_acceptance(sd, 2) == pytest.approx(target, abs=1e-3)
    assert target_acceptance(sd, 1) == pytest.approx(0.44 if sd == 0.0 else target, abs=1e-3)


def test_the_scale_follows_the_formula():
    scale = jnp.array([[1.0, 0.0], [0.5, 2.0]])
    direction = jnp.array([1.0, -2.0])
    move = Move(direction, jnp.asarray(0.9), jnp.array(True), jnp.asarray(0.0))
    new = adapt_scale(scale, move, jnp.asarray(0.2), jnp.asarray(8, jnp.int32))
    rate = min(1, 2 * 8 ** (-2 / 3))
    inner = np.eye(2) + rate * (0.9 - 0.2) * np.outer(direction, direction) / 5
    np.testing.assert_allclose(new @ new.T, scale @ inner @ scale.T, rtol=1e-5)
    assert new[0, 1] == 0


def test_the_scale_is_frozen_unless_adapting(linear):
    pilot = Pilot(as_key(jax.random.key(0)), linear, FEW, 4, 60.0, progress=False)
    pilot.start()
    frozen = pilot.advance(pilot.chains, 3, None)
    adapted = pilot.advance(pilot.chains, 3, 0.2)
    np.testing.assert_array_equal(frozen.state.scale, pilot.chains.scale)
    assert (adapted.state.scale != pilot.chains.scale).any(axis=(1, 2)).all()
    assert (frozen.state.num_steps == 3).all()


def test_impossible_points_are_left_and_never_entered(linear):
    pilot = Pilot(as_key(jax.random.key(0)), linear, FEW, 4, 60.0, progress=False)
    pilot.start()
    chains = pilot.chains
    far = jnp.zeros((2, 2)).at[1, 1].set(1e6)  # rho is 0 or 1 to the last digit: no mass in floating point
    scale = jnp.stack([jnp.zeros((2, 2)), far, far, jnp.eye(2)])
    log_likelihood = chains.state.log_likelihood.at[0].set(-jnp.inf)
    log_prior = chains.state.log_prior.at[3].set(jnp.nan)
    state = chains.state._replace(log_likelihood=log_likelihood, log_prior=log_prior)
    moved = pilot.advance(chains._replace(state=state, scale=scale), 1, None).outputs
    np.testing.assert_array_equal(moved.acceptance[0], [1, 0, 0, 0])
    assert np.isfinite(moved.log_likelihood[0, 0])


class Known:
    """A model and an estimator with densities that are known."""

    def log_prior_unconstrained(self, z):
        return z, -0.5 * jnp.sum(z["a"] ** 2)

    def estimate(self, key, ssm, theta):
        value = 0.3 * jnp.sum(theta["a"]) + jax.random.normal(key)
        return LikelihoodEstimate(value, jnp.full((), COMPLETE, jnp.int32))


def test_a_proposal_is_accepted_by_prior_and_estimate_of_both_points_the_stored_one_not_drawn_again():
    known, scale, z = Known(), jnp.array([[1.0, 0.0], [0.4, 0.8]]), {"a": jnp.array([0.5, -0.2])}
    state = evaluate(as_key(jax.random.key(9)), known, z, known)._replace(log_likelihood=jnp.asarray(0.7))

    @jax.jit
    @jax.vmap
    def steps(key):
        return pmmh_step(key, state, scale, known, known)

    new, move = jax.tree.map(np.asarray, steps(jax.random.split(jax.random.key(0), 200)))
    proposal = np.asarray(z["a"]) + move.direction @ np.asarray(scale).T
    log_prior = [-0.5 * (point**2).sum(-1) for point in (proposal, np.asarray(z["a"]))]
    expected = np.minimum(1, np.exp(log_prior[0] + move.log_likelihood - log_prior[1] - 0.7))
    np.testing.assert_allclose(move.acceptance, expected, rtol=1e-4)
    assert abs(move.accepted.sum() - expected.sum()) < z_threshold() * np.sqrt((expected * (1 - expected)).sum())
    np.testing.assert_allclose(new.z["a"], np.where(move.accepted[:, None], proposal, z["a"]), rtol=1e-5)
    np.testing.assert_allclose(new.log_likelihood, np.where(move.accepted, move.log_likelihood, 0.7), rtol=1e-5)


def test_the_step_is_strict_about_types(linear):
    z = linear.unconstrain({"rho": jnp.asarray(0.5), "q": jnp.asarray(1.0)})
    key, count = as_key(jax.random.key(0)), jnp.asarray(1, jnp.int32)
    state = jax.eval_shape(lambda k: evaluate(k, linear, z, FEW), key)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        new, move = jax.eval_shape(lambda s: pmmh_step(key, s, jnp.eye(2), linear, FEW), state)
        scale = jax.eval_shape(lambda m: adapt_scale(jnp.eye(2), m, jnp.asarray(0.2), count), move)
    assert jax.tree.map(lambda a: a.dtype, new) == jax.tree.map(lambda a: a.dtype, state)
    assert scale.dtype == jnp.eye(2).dtype


@pytest.mark.slow
def test_discrete_innovations_are_no_obstacle():
    ssm = ssmscan.trace(switching, Y)
    z = ssm.unconstrain({"p": jnp.asarray(0.7)})

    @jax.jit
    def run(key):
        state = evaluate(key, ssm, z, FEW)
        return state, FEW.sample_path(key, ssm, ssm.constrain(z))

    state, (log_likelihood, path) = run(as_key(jax.random.key(0)))
    np.testing.assert_allclose(log_likelihood, state.log_likelihood, rtol=1e-5)
    assert path["s"].shape == (len(Y),)
    assert set(np.unique(path["s"])) <= {0, 1}


@pytest.mark.slow
def test_data_that_no_parameter_explains_are_refused():
    with pytest.raises(ValueError, match="log likelihood -inf"):
        SMALL.run(jax.random.key(0), ssmscan.trace(impossible, Y))


@pytest.mark.parametrize("wrong", [ParticleFilter, 100, PMMH(), {"num_particles": 100}])
def test_what_is_no_filter_is_refused_by_name(wrong):
    for kind in (PMMH, ssmscan.MaximumLikelihood, lambda estimator: Replicates(estimator, 2)):
        with pytest.raises(TypeError, match="^estimator: expected an estimator of the likelihood such as Part.*, got"):
            kind(estimator=wrong)


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"num_samples": 0}, ValueError),
        ({"num_warmup": 7}, ValueError),
        ({"num_chains": "four"}, TypeError),
        ({"num_particles": 1}, ValueError),
        ({"target_sd": 0.0}, ValueError),
        ({"num_paths": -1}, ValueError),
        ({"max_particles": 8}, ValueError),
        ({"pilot_seconds": 0.0}, ValueError),
    ],
)
def test_bad_settings_are_named(setting, error):
    with pytest.raises(error, match=next(iter(setting))):
        PMMH(**setting)
