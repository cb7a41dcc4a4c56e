"""Particle Gibbs: settings, the sweep from exact draws, posteriors, going on, and what speaks against a run."""

import dataclasses

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmscan
from ssmscan.inference import progress
from ssmscan.inference.gibbs import _require_found, obstacle_to_interweaving
from ssmscan.inference.gibbs_doubts import doubts_of
from ssmscan.inference.gibbs_run import Run
from ssmscan.inference.gibbs_sweep import Chain, Drawn
from ssmscan.results.summary import summarise
from tests.inference.exact_gibbs import CASES, z_scores
from tests.inference.gibbs_truth import CASES as TRUE
from tests.inference.gibbs_truth import checks
from tests.inference.interrupting import control_c_at, count_compilations
from tests.inference.models import Y, decaying, switching
from tests.inference.test_going_on import differing
from tests.truth import z_threshold

SMALL = ssmscan.ParticleGibbs(num_warmup=200, num_samples=800, num_particles=8, num_paths=800, progress=False)


@pytest.fixture(scope="module")
def result(linear):
    return SMALL.run(jax.random.key(0), linear)


@pytest.mark.slow
def test_parameters_and_states_agree_with_dense_linear_algebra(result, exact):
    values = {"rho": (result.draws["rho"], exact.rho), "q": (result.draws["q"], exact.q)}
    values |= {f"x{t}": (result.states["x"][:, :, t], exact.states[t]) for t in (0, 5, 11)}
    for name, (draws, truth) in values.items():
        mean = summarise(draws, independent_runs=False).statistics[0]
        assert abs(mean.value - truth) < z_threshold(len(values)) * mean.error, name


@pytest.mark.slow
def test_the_result_is_complete(result):
    assert result.draws["rho"].shape == (4, 800)
    assert result.states["x"].shape == (4, 800, len(Y)) and result.states["x_0"].shape == (4, 800)
    assert result.initial == ("x_0",) and not result.notes[:-1] and not result.doubts
    assert result.costs.gradient_evaluations > result.sample_stats["n_steps"].sum()
    assert result.costs.particle_steps == 4 * 1000 * 8 * len(Y)
    for name in ("step_size", "step_size_noise"):
        assert np.ptp(result.sample_stats[name], axis=1).max() == 0
    assert (result.sample_stats["step_size"] != result.sample_stats["step_size_noise"]).all()
    assert result.settings["used"]["num_particles"] == 8
    # The warm-up does not count.
    by_step = [x for x in result.continuation.values() if x.shape == (4, len(Y)) and x.dtype.kind == "f"]
    (updated,) = (x for x in by_step if x.min() > 0)
    assert updated.max() <= 800


@pytest.mark.slow
def test_a_run_that_goes_on_is_one_longer_run(result, linear, tmp_path):
    part = dataclasses.replace(SMALL, num_samples=400)
    with count_compilations() as compiled:
        first = part.run(jax.random.key(0), linear)
        first.save(tmp_path / "first.nc")
        second = part.run(jax.random.key(1), linear, start=ssmscan.load(tmp_path / "first.nc"))
    assert differing(result, second) == [] and second.settings == result.settings
    assert "jit(_advance)" not in compiled
    fewer = dataclasses.replace(SMALL, num_paths=100)
    assert fewer.run(jax.random.key(0), linear).states["x"].tobytes() == result.states["x"][:, ::8].tobytes()


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_draws(result, linear, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.01)
    shown, path = dataclasses.replace(SMALL, progress=True), tmp_path / "gibbs.nc"
    with control_c_at(monkeypatch, "ParticleGibbs warm-up"):
        stopped = shown.run(jax.random.key(0), linear, checkpoint=path, every=1e-6)
    assert stopped.interrupted and stopped.num_draws == 0 and path.exists()
    with control_c_at(monkeypatch, "ParticleGibbs"):
        stopped = shown.run(jax.random.key(0), linear, checkpoint=path)
    assert stopped.interrupted and 0 < stopped.num_draws < 800
    np.testing.assert_array_equal(stopped.draws["q"], result.draws["q"][:, : stopped.num_draws])
    rest = dataclasses.replace(SMALL, num_samples=800 - stopped.num_draws)
    assert differing(result, rest.run(jax.random.key(1), linear, start=stopped)) == []


def normal(z):
    """Two normal coordinates of different scale around 1 and 2."""
    return -0.5 * ((z["a"] - 1.0) ** 2 + ((z["b"][0] - 2.0) / 5.0) ** 2)


def langevin(log_density, step_size, inverse_mass):
    return blackjax.mala(log_density, step_size)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [ssmscan.BlackJAXKernel(blackjax.nuts), ssmscan.BlackJAXKernel(langevin, 0.6)])
def test_a_kernel_adapts_in_warm_up_alone_and_keeps_its_law(kernel):
    key, z = jax.random.key(0), {"a": jnp.zeros(()), "b": jnp.zeros(1)}

    def step(carry, key):
        known, z, done = kernel.move(key, *carry, normal, 300)
        return (known, z), (z, done)

    keys = jax.random.split(key, 6300)
    _, (draws, done) = jax.jit(lambda keys: jax.lax.scan(step, (kernel.begin(key, z, 300), z), keys))(keys)
    assert np.ptp(done.step_size[300:]) == 0 and np.ptp(done.step_size[:300]) > 0
    assert abs(done.acceptance_rate[300:].mean() - kernel.target_accept) < 0.15
    for x, mean, sd in ((draws["a"], 1.0, 1.0), (draws["b"][:, 0], 2.0, 5.0)):
        found = summarise(np.asarray(x)[None, 300:], independent_runs=False).statistics[:2]
        for estimate, truth in zip(found, (mean, sd)):
            assert abs(estimate.value - truth) < z_threshold(12) * estimate.error


@pytest.mark.slow
def test_a_sweep_is_exact_and_a_path_of_a_plain_filter_is_rejected():
    for name in ("right, N = 2", "path of a plain filter"):
        z = z_scores(0, name, 2000)
        assert (max(map(abs, z.values())) < z_threshold(len(z))) == CASES[name].right, z


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_from_exact_draws(name, seed):
    z = z_scores(seed, name, 20_000)
    worst, limit = max(map(abs, z.values())), z_threshold(len(z))
    assert worst < limit if CASES[name].right else worst > limit, z


@pytest.mark.heavy
@pytest.mark.parametrize("name", TRUE)
def test_posteriors_agree_with_deterministic_integrals(name):
    traced, engine, truth = TRUE[name]
    result = engine.run(jax.random.key(0), traced())
    assert not result.doubts
    for one in checks(result, truth()):
        assert abs(one.z) < 4, one


def test_chains_without_a_point_to_begin_at_are_named():
    _require_found(np.array([True, True]))
    with pytest.raises(ValueError, match=r"in 100 attempts for chain\(s\) \[1\]: check the data"):
        _require_found(np.array([True, False]))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"num_samples": 0}, ValueError, "^num_samples"),
        ({"num_particles": 1}, ValueError, "^num_particles"),
        ({"conditional": ssmscan.ParticleFilter(10)}, TypeError, "^conditional: expected a ConditionalSMC"),
        ({"num_particles": 8, "conditional": ssmscan.ConditionalSMC(9)}, ValueError, "num_particles is 8 and cond.* 9"),
        ({"kernel": ssmscan.NUTS()}, TypeError, "^kernel: expected"),
        ({"kernel": ssmscan.NUTSKernel}, TypeError, "^kernel: expected"),
        ({"interweave": "yes"}, TypeError, "^interweave"),
    ],
)
def test_settings_are_refused_by_name(settings, error, words):
    with pytest.raises(error, match=words):
        ssmscan.ParticleGibbs(**settings)


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [(ssmscan.NUTSKernel, {"target_accept": 1.0}), (ssmscan.NUTSKernel, {"max_tree_depth": 0})]
    + [(ssmscan.BlackJAXKernel, {"build": 3}), (ssmscan.BlackJAXKernel, {"build": max, "target_accept": 2.0})],
)
def test_settings_of_kernels_are_refused_by_name(kernel, settings):
    with pytest.raises((TypeError, ValueError), match=f"^{list(settings)[-1]}"):
        kernel(**settings)


def test_noise_is_held_where_there_is_some(linear):
    assert obstacle_to_interweaving(linear) == ""
    for model in (switching, decaying):
        assert obstacle_to_interweaving(ssmscan.trace(model, Y)) == "'s' are no smooth one-to-one functions of noise"
    assert "integrated out" in obstacle_to_interweaving(ssmscan.integrate_states(linear))


def still(updated, **changed):
    """What is said of a run of 200 draws of two chains."""
    stats = {"impossible": changed.get("impossible", np.zeros((2, 200), bool)), "n_steps": np.ones((2, 200))}
    draws = {"a": changed.get("a", np.arange(400.0).reshape(2, 200)), "b": np.zeros((2, 200, 3))}
    return tuple(map(str, doubts_of(draws, stats, updated, changed.get("conditional", ssmscan.ConditionalSMC(8)))))


def test_what_stands_still_is_said_with_what_to_do():
    moves = np.full((2, 10), 150.0)
    assert still(moves) == ()
    (said,) = still(moves * [[1], [0]] + [[0], [100]] * (np.arange(10) > 3))
    assert "The states of 4 of 10 time steps" in said and "those of step 0 in 0 % by chain 1" in said
    assert said.endswith(
        "Use more particles, num_particles, or a proposal that looks ahead, "
        "conditional=ConditionalSMC(N, proposal=LookAhead())."
    )
    ahead = ssmscan.ConditionalSMC(8, proposal=ssmscan.LookAhead(), backward=ssmscan.Ancestral())
    assert still(0 * moves, conditional=ahead)[0].endswith("num_particles, or backward=AncestorSampling().")
    (said,) = still(moves, a=np.zeros((2, 200)))
    assert said.startswith("Chain(s) [0, 1] moved the parameters in only 0, 0 % of the sweeps")
    (said,) = still(moves, impossible=np.arange(400).reshape(2, 200) < 3)
    assert said.startswith("3 of 400 sweeps met states without a density")


def test_states_are_kept_of_draws_a_power_of_two_apart():
    chains = Chain(jax.random.key(0), {}, {}, (), jnp.zeros(()), jnp.zeros(()))
    run = Run(jax.random.key(0), chains, {}, num_paths=10, num_warmup=0, warmup_left=0)
    for first, count in ((0, 7), (7, 0), (7, 9), (16, 40)):
        number = np.arange(first, first + count)[:, None]
        run = run.ahead(chains, Drawn({"q": number}, {"x": 10 * number[..., None]}, {"n_steps": number}))
    np.testing.assert_array_equal(run.path_draws, np.arange(0, 56, 8))
    np.testing.assert_array_equal(run.by_chain()[1]["x"], 10 * run.path_draws[None, :, None])
    assert run.done == 56 and run.by_chain()[0]["q"].shape == (1, 56)
