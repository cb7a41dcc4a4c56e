"""SMC2 against exact answers, and what it does where it cannot be trusted."""

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
from ssmscan.inference.going_on import Checkpoint
from ssmscan.inference.smc2_cloud import Cloud, noise_of, scatter
from ssmscan.inference.smc2_run import Run
from tests.inference.models import Y, impossible, linear_gaussian
from tests.truth import ERROR_RATE

SMALL = ssmscan.SMC2(num_points=64, num_runs=2, num_particles=8, num_paths=10, progress=False)

pytestmark = pytest.mark.filterwarnings("ignore::ssmscan.ResultWarning")


@pytest.fixture(scope="module")
def result(linear):
    return SMALL.run(jax.random.key(0), linear)


def differing(one, other):
    """Names of the arrays of two results that are not the same, bit by bit."""
    found = []
    for field in ("draws", "states", "sample_stats", "continuation"):
        x, y = getattr(one, field), getattr(other, field)
        found += sorted(x.keys() ^ y.keys())
        found += [k for k in x.keys() & y.keys() if x[k].tobytes() != y[k].tobytes()]
    return found if one.log_evidence == other.log_evidence else [*found, "log_evidence"]


def test_a_result_has_runs_paths_and_what_was_said_at_each_step(result):
    assert result.independent_runs and result.draws["rho"].shape == (2, 64)
    assert result.states["x"].shape == (2, 10, len(Y)) and result.states["x_0"].shape == (2, 10)
    running = ssmscan.SMC2.running(result)
    assert running.log_evidence.shape == (len(Y) + 1,) and running.mean["q"].shape == (len(Y) + 1,)
    assert running.log_evidence[0] == pytest.approx(0.0, abs=1e-6)
    assert running.log_evidence[-1] == pytest.approx(result.log_evidence)
    assert running.mean["rho"][0] == pytest.approx(0.5, abs=0.1)
    assert result.costs.particle_steps > 2 * 64 * 8 * len(Y)


def test_updates_are_one_run(linear, result):
    part = SMALL.run(jax.random.key(0), linear, num_steps=5)
    assert not part.states["x"].size and part.observed["y"].shape == (5,)
    part = SMALL.update(part, linear, num_steps=6)
    assert differing(SMALL.update(part, linear), result) == []


def test_what_an_update_cannot_take_is_refused(linear, result):
    with pytest.raises(ValueError, match="there is no way back"):
        SMALL.update(result, linear, num_steps=5)
    part = SMALL.run(jax.random.key(0), linear, num_steps=5)
    other = ssmscan.trace(linear_gaussian, Y + np.arange(len(Y)))
    with pytest.raises(ValueError, match="the first observations of 'y' are not those"):
        SMALL.update(part, other)
    with pytest.raises(ValueError, match="threshold was 0.5 and is 0.6"):
        dataclasses.replace(SMALL, threshold=0.6).update(part, linear)
    with pytest.raises(TypeError, match="a Result of SMC2"):
        SMALL.update(3, linear)


@pytest.mark.slow
def test_a_longer_series_of_the_same_model_is_an_update(linear, result):
    short = ssmscan.trace(linear_gaussian, Y[:7])
    first = SMALL.run(jax.random.key(0), short)
    assert first.states["x"].shape == (2, 10, 7)
    assert differing(SMALL.update(first, linear), result) == []


@pytest.mark.slow
def test_a_run_that_goes_on_is_one_longer_run(linear, tmp_path):
    whole = dataclasses.replace(SMALL, num_runs=4).run(jax.random.key(0), linear)
    first = SMALL.run(jax.random.key(0), linear)
    first.save(tmp_path / "first.nc")
    second = SMALL.run(jax.random.key(1), linear, start=ssmscan.load(tmp_path / "first.nc"))
    assert differing(whole, second) == [] and second.settings == whole.settings


@pytest.mark.slow
def test_the_evidence_is_that_of_quadrature(linear, exact):
    result = dataclasses.replace(SMALL, num_runs=8, num_paths=0).run(jax.random.key(0), linear)
    z = (result.log_evidence - exact.log_evidence) / result.log_evidence_error
    assert result.log_evidence_error < 0.15 and abs(z) < stats.t.isf(ERROR_RATE / 2, 7)


class Killed(Exception):
    """The end of a process."""


def after(times, error, function):
    """Return a function that fails when it has been called so many times."""
    calls = []

    def call(*arguments):
        calls.append(1)
        if len(calls) > times:
            raise error
        return function(*arguments)

    return call


@pytest.mark.slow
def test_a_run_that_was_stopped_or_killed_goes_on(linear, result, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_weighed", after(9, KeyboardInterrupt, Run._weighed))
        stopped = SMALL.run(jax.random.key(0), linear)
    assert stopped.interrupted and stopped.origin["runs"][-1]["step"] < len(Y)
    finished = stopped.num_chains if stopped.num_draws else 0
    more = dataclasses.replace(SMALL, num_runs=2 - finished)
    assert differing(more.run(jax.random.key(1), linear, start=stopped), result) == []

    again = {"checkpoint": tmp_path / "run.nc", "every": 1e-9}
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", after(6, Killed, Checkpoint.write))
        with pytest.raises(Killed):
            SMALL.run(jax.random.key(0), linear, **again)
    assert ssmscan.load(again["checkpoint"]).origin["runs"][0]["step"] > 0
    assert differing(SMALL.run(jax.random.key(0), linear, **again), result) == []


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="looks at the whole series"):
        ssmscan.SMC2(estimator=ssmscan.ParticleFilter(10, proposal=ssmscan.LookAhead()))
    with pytest.raises(TypeError, match="takes in one observation after the other"):
        ssmscan.SMC2(estimator=ssmscan.DiscreteFilter(4))
    with pytest.raises(ValueError, match="num_points"):
        ssmscan.SMC2(num_points=3)


def test_points_that_do_not_fit_in_memory_are_refused_before_anything_is_compiled(linear):
    with pytest.raises(MemoryError, match=r"SMC2 with 10,000,000 points of 1,000,000 particles each needs .* GiB"):
        dataclasses.replace(SMALL, num_points=10**7, num_particles=10**6).run(jax.random.key(0), linear)


@pytest.mark.slow
def test_data_that_no_point_explains_are_said():
    with pytest.raises(ValueError, match="none of the 64 points can explain observation 0 of the loop"):
        SMALL.run(jax.random.key(0), ssmscan.trace(impossible, Y[:4]))


@pytest.mark.slow
def test_noisy_filters_get_more_particles_and_points_that_stay_are_said(linear):
    changes = {"num_particles": None, "estimator": ssmscan.ParticleFilter(2), "max_moves": 1, "max_particles": 16}
    engine = dataclasses.replace(SMALL, num_runs=1, num_paths=0, **changes)
    result = engine.run(jax.random.key(0), ssmscan.trace(linear_gaussian, 3 * Y))
    sizes = ssmscan.SMC2.running(result).num_particles[0]
    assert sizes[0] == 2 and sizes[-1] > 2
    assert any("had moved at step" in doubt for doubt in map(str, result.doubts))


def panel_and_more(y, w):
    """A panel of two elements, and another loop, which is shorter."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(x, y):
        with numpyro.plate("elements", 2):
            x = numpyro.sample("x", dist.Normal(0.5 * x, scale))
            numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    scan(step, jnp.zeros(2), y)

    def other(x, w):
        x = numpyro.sample("v", dist.Normal(0.5 * x, scale))
        numpyro.sample("w", dist.Normal(x, 0.5), obs=w)
        return x, None

    scan(other, 0.0, w)


def panel_evidence(series):
    """Log evidence by a sum over scale; series share nothing but it."""

    def log_likelihood(scale, y):
        mean, variance, total = 0.0, 0.0, 0.0
        for value in y:
            mean, variance = 0.5 * mean, 0.25 * variance + scale**2
            total += -0.5 * (np.log(2 * np.pi * (variance + 0.25)) + (value - mean) ** 2 / (variance + 0.25))
            gain = variance / (variance + 0.25)
            mean, variance = mean + gain * (value - mean), (1 - gain) * variance
        return total

    scales = np.linspace(1e-4, 6, 4000)
    logs = np.array([sum(log_likelihood(s, y) for y in series) for s in scales])
    logs += np.log(2) - 0.5 * np.log(2 * np.pi) - 0.5 * scales**2
    return float(np.log(np.exp(logs - logs.max()).sum() * (scales[1] - scales[0])) + logs.max())


@pytest.mark.slow
def test_panels_and_several_loops_have_the_right_evidence():
    y, w = np.stack([Y, Y[::-1] + 0.3], axis=1), np.array([0.5, -0.5, 0.2, 0.4, 1.0])
    engine = ssmscan.SMC2(num_points=256, num_runs=8, num_particles=32, num_paths=4, progress=False)
    ssm = ssmscan.trace(panel_and_more, y, w)
    assert len(ssm.loops) == 2 and ssm.loops[0].panel is not None
    result = engine.run(jax.random.key(0), ssm)
    assert result.states["x"].shape == (8, 4, len(Y), 2) and result.states["v"].shape == (8, 4, len(w))
    exact, error = panel_evidence([*y.T, w]), result.log_evidence_error
    assert error < 0.1
    assert abs(result.log_evidence - exact) < stats.t.isf(ERROR_RATE / 2, 7) * error


def test_noise_is_of_repeats_at_one_point_and_not_of_the_cloud():
    rng = np.random.default_rng(0)
    apart = 100.0 * np.arange(8)[:, None] + 0.5 * rng.normal(size=(8, 400))
    assert noise_of(apart) == pytest.approx(0.5, rel=0.1)
    assert noise_of(np.full((8, 4), -np.inf)) == np.inf
    some = np.zeros((8, 4))
    some[:, 0] = -np.inf
    assert noise_of(some) == np.inf


def test_scatter_is_that_of_weighted_points_and_few_of_them_have_one():
    rng = np.random.default_rng(0)
    true = np.array([[2.0, 0.0], [1.0, 0.5]])
    z = rng.normal(size=(20_000, 2)) @ true.T + 3.0
    mean, factor = scatter(z, np.where(z[:, 0] > -50, 0.0, -np.inf))
    ratio = factor @ factor.T / (true @ true.T)
    np.testing.assert_allclose(mean, 3.0, atol=0.1)
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=0.05)
    assert 0.5 < ratio[0, 0] < 1.0  # of a t distribution
    one = scatter(z, np.where(np.arange(len(z)) == 3, 0.0, -np.inf))
    assert np.isfinite(one[1]).all()
    tilted = scatter(z, 0.3 * z[:, 0])[0]
    np.testing.assert_allclose(tilted, 3.0 + 0.3 * (true @ true.T)[0], atol=0.15)


def test_resampling_adds_what_it_costs_to_the_variance():
    log_weights = np.log([0.7, 0.1, 0.1, 0.1])
    cloud = Cloud(None, {}, log_weights, -2.0, 0.3, 5, 8, np.zeros((0, 0)), 0)
    after = cloud.chosen(np.array([0, 0, 0, 2]), None)
    assert after.variance == pytest.approx(0.3 + (0.49 + 3 * 0.01) - 1 / 4)
    assert after.log_evidence == pytest.approx(cloud.log_evidence)
