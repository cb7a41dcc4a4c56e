import itertools
import re
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import containers
from ssmscan.inference import nuts, progress, reporting
from ssmscan.inference.nuts import NUTS, _with_depth
from ssmscan.inference.paths import whole_draws
from ssmscan.inference.posterior import Position, log_likelihood, log_posterior, log_reference
from ssmscan.inference.rewarming import Tally, rewarmed
from ssmscan.results.summary import summarise
from tests.inference.interrupting import control_c_at, count_compilations
from tests.inference.models import Y, decaying, impossible
from tests.inference.test_progress import Interrupting
from tests.truth import z_threshold

# Without a new warm-up: whether a run of this size has a divergence depends on rounding.
SMALL = NUTS(num_warmup=300, num_samples=500, num_chains=4, target_accept=0.9, num_paths=500, rewarm=False)


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
    assert set(result.sample_stats) == {
        "acceptance_rate",
        "diverging",
        "energy",
        "lp",
        "n_steps",
        "reached_max_treedepth",
        "step_size",
        "tree_depth",
    }
    assert result.costs.gradient_evaluations > result.sample_stats["n_steps"].sum()
    assert result.costs.compile_seconds > 0
    assert result.initial == ("x_0",)
    assert not result.interrupted


def test_every_chain_has_a_key_of_its_own(linear, monkeypatch):
    class Stop(Exception):
        pass

    def refuse(step, keys, *_):
        assert len(np.unique(jax.random.key_data(keys), axis=0)) == SMALL.num_chains
        raise Stop

    monkeypatch.setattr(nuts, "lowered_programs", refuse)
    with pytest.raises(Stop):
        SMALL.run(jax.random.key(0), linear)


def test_what_is_compiled_side_by_side_is_compiled_once():
    def decay(y):
        rho = numpyro.sample("rho", dist.Beta(2.0, 2.0))
        scan(lambda x, y: (_seen(rho * x, y), None), 0.0, y)

    with count_compilations() as compiled:
        replace(SMALL, num_warmup=60, num_samples=5, num_paths=0, num_chains=2).run(
            jax.random.key(0), ssmscan.trace(decay, Y[:7])
        )
    for name in ("start_chains", "_advance", "guide_at", "rewhitened"):
        assert compiled.count(f"jit({name})") == 1, compiled


def _seen(mean, y):
    x = numpyro.sample("x", dist.Normal(mean, 1.0))
    numpyro.sample("y", dist.Normal(x, 0.7), obs=y)
    return x


def test_the_step_size_is_frozen_after_warm_up(result):
    assert np.ptp(result.sample_stats["step_size"], axis=1).max() == 0
    assert 0.7 < result.sample_stats["acceptance_rate"].mean() < 1


def test_the_depth_of_a_tree_is_the_number_of_its_doublings():
    steps = np.array([[1, 2, 3, 4, 6, 7]])
    found = _with_depth({"n_steps": steps}, 3)
    np.testing.assert_array_equal(found["tree_depth"], [[1, 2, 2, 3, 3, 3]])
    np.testing.assert_array_equal(found["reached_max_treedepth"], steps == 7)


def test_divergences_lead_to_one_new_warm_up_with_shorter_steps(result, linear, monkeypatch):
    rough = replace(SMALL, target_accept=0.3, rewarm=True)
    with count_compilations() as compiled:
        tamed = rough.run(jax.random.key(0), linear)
    assert not compiled  # the target is a number at run time
    note = tamed.notes[0]
    dropped = int(re.match("([0-9]+) of [0-9]+ draws at target_accept 0.3 ended in a divergence", note).group(1))
    assert dropped > 0 and "after a new warm-up 0 of 2,000 draws at target_accept 0.99 did" in note
    assert not tamed.doubts and not tamed.sample_stats["diverging"].any()
    assert 0.97 < tamed.sample_stats["acceptance_rate"].mean() and tamed.draws["q"].shape == (4, 500)
    assert tamed.sample_stats["step_size"].max() < result.sample_stats["step_size"].min()
    assert tamed.costs.warmup_seconds > 0
    # Where the new warm-up begins does not depend on how the run was cut.
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.01)
    again = rough.run(jax.random.key(0), linear)
    np.testing.assert_array_equal(again.draws["q"], tamed.draws["q"])

    with pytest.warns(ssmscan.ResultWarning, match="ended in a divergence") as caught:
        left = replace(rough, rewarm=False).run(jax.random.key(0), linear)
    assert caught[0].filename == __file__
    assert not any("divergence" in note for note in left.notes) and left.sample_stats["diverging"].any()
    assert any("ended in a divergence" in sentence for sentence in left.concerns())


def test_where_draws_diverge_after_the_new_warm_up_too_it_is_said():
    first, second = Tally(2, 4, 0.9, 10), Tally(2, 4, 0.99, 10)
    sentence = (
        "2 of 4 draws at target_accept 0.9 ended in a divergence: they were dropped, and after a new warm-up 2 of 4 "
        "draws at target_accept 0.99 did."
    )
    (note,), (doubt,) = rewarmed(first, second, stopped=False)
    assert note == sentence and "did not get rid of all. What is left is" in str(doubt)
    assert rewarmed(None, first, stopped=False) == rewarmed(None, Tally(0, 4, 0.9, 10), stopped=False) == ((), ())
    notes, (doubt,) = rewarmed(first, first, stopped=True)
    assert not notes and "stopped in the new warm-up at 0.99" in str(doubt)


def test_fewer_divergences_than_one_in_a_thousand_are_noted_and_not_doubted():
    first, few, many = Tally(2, 4, 0.9, 10), Tally(7, 8000, 0.99, 10), Tally(8, 8000, 0.99, 10)
    (note,), doubts = rewarmed(None, few, stopped=False)
    assert note.startswith("7 of 8,000 draws at target_accept 0.99 ended in a divergence. Fewer than 1 in 1,000 are no")
    assert not doubts and rewarmed(None, many, stopped=False) == ((), ())
    (again, last), doubts = rewarmed(first, few, stopped=False)
    assert "after a new warm-up 7 of 8,000" in again and last == note and not doubts
    (again,), (doubt,) = rewarmed(first, many, stopped=False)
    assert "after a new warm-up 8 of 8,000" in again and "did not get rid of all" in str(doubt)
    _, (doubt,) = rewarmed(first, few, stopped=True)
    assert "stopped in the new warm-up" in str(doubt)


@pytest.mark.parametrize(
    ("target_accept", "label", "presses"),
    [(0.9, "NUTS warm-up", 1), (0.9, "NUTS", 2), (0.3, "NUTS warm-up again", 1), (0.3, "NUTS again", 2)],
)
def test_no_draw_is_lost_by_control_c_however_often(result, linear, monkeypatch, target_accept, label, presses):
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.01)
    with control_c_at(monkeypatch, label, presses=presses):
        settings = replace(SMALL, target_accept=target_accept, rewarm=label.endswith("again"))
        stopped = settings.run(jax.random.key(0), linear)
    assert stopped.interrupted
    assert any("was stopped" in sentence for sentence in stopped.concerns())
    draws, paths = stopped.num_draws, len(stopped.state_draws)
    assert (draws > 0) == (label != "NUTS warm-up")
    assert paths == (draws if presses == 1 else 0)
    if label == "NUTS":
        np.testing.assert_array_equal(stopped.draws["q"], result.draws["q"][:, :draws])
    if draws:
        assert np.isfinite(stopped.summaries["q"].mean.value)


@pytest.mark.slow
def test_control_c_while_paths_are_made_keeps_the_draws_and_the_paths_by_then(result, linear, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.01)
    with control_c_at(monkeypatch, "state paths"):
        stopped = SMALL.run(jax.random.key(0), linear)
    np.testing.assert_array_equal(stopped.draws["q"], result.draws["q"])
    paths = len(stopped.state_draws)
    assert stopped.interrupted and 0 < paths < 500
    assert stopped.states["x"].shape == (4, paths, len(Y))
    np.testing.assert_allclose(stopped.states["x"], result.states["x"][:, :paths], rtol=1e-5)
    assert any(f"{paths} of 500 state paths a chain are there" in sentence for sentence in stopped.concerns())

    with control_c_at(monkeypatch, "state paths: compiling"):
        stopped = SMALL.run(jax.random.key(0), linear)
    np.testing.assert_array_equal(stopped.draws["q"], result.draws["q"])
    assert stopped.interrupted and stopped.states["x"].shape == (4, 0, len(Y))

    def failing(*_):
        raise MemoryError("out of it.")

    monkeypatch.setattr("ssmscan.inference.paths.compile_chunk", failing)
    without = SMALL.run(jax.random.key(0), linear)
    np.testing.assert_array_equal(without.draws["q"], result.draws["q"])
    assert not without.interrupted and without.states["x"].shape == (4, 0, len(Y))
    assert "could not be made (MemoryError: out of it): 0 of 500" in str(without.doubts[0])


def test_control_c_at_the_end_is_late(result, linear, monkeypatch):
    original = reporting.Result

    def late(**fields):
        signal.raise_signal(signal.SIGINT)
        return original(**fields)

    monkeypatch.setattr(reporting, "Result", late)
    np.testing.assert_array_equal(SMALL.run(jax.random.key(0), linear).draws["q"], result.draws["q"])


def test_batches_of_draws_are_joined_in_the_order_they_came():
    draws = np.arange(3 * 70 * 2).reshape(3, 70, 2)
    batches = whole_draws(3, 70)
    cut = np.asarray(batches.split(draws))
    assert cut.shape == (4, 63, 2) and batches.real.sum() == 210
    np.testing.assert_array_equal(batches.join(cut), draws)
    np.testing.assert_array_equal(batches.join(cut[:2]), draws[:, :42])
    assert len(batches.first(2)) == 42 and whole_draws(100, 2).split(np.zeros((100, 2))).shape == (2, 100)


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
    ssm = ssmscan.trace(decaying, Y)
    with pytest.raises(ssmscan.ModelError, match="'s'"):
        SMALL.run(jax.random.key(0), ssm)


@pytest.mark.slow
def test_a_model_without_a_finite_density_is_refused():
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
        ({"rewarm": "no"}, TypeError),
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
    found = ssmscan.NUTS(num_warmup=300, num_samples=2000, num_chains=2, progress=False).run(jax.random.key(0), ssm)
    steps = np.arange(1, 5)
    cov = np.minimum.outer(steps, steps).astype(float)
    exact = cov @ np.linalg.solve(cov + np.eye(4), y)
    x = np.asarray(found.states["x"], float)
    errors = [x[..., t].std() / np.sqrt(containers.ess(x[..., t], "mean")) for t in range(4)]
    assert np.all(np.abs(x.mean((0, 1)) - exact) < z_threshold(4) * np.array(errors)) and max(errors) < 0.05
    assert not found.draws and found.num_draws == 2000 and found.summary().rows == ()
    with pytest.raises(ValueError, match="the model has none"):
        ssmscan.compare(one=found, other=found)


@pytest.mark.slow
def test_a_model_that_is_summed_out_whole_has_exact_states():
    def weather(y):
        def step(s, yt):
            s = numpyro.sample("s", dist.Bernoulli(jnp.where(s == 1, 0.8, 0.2)))
            numpyro.sample("y", dist.Normal(2.0 * s, 1.0), obs=yt)
            return s, None

        scan(step, 0, y)

    y = np.array([0.1, 1.9, 2.2, 0.3])
    found = NUTS(num_warmup=1, num_samples=2000, num_chains=2).run(jax.random.key(0), ssmscan.trace(weather, y))
    paths = np.array(list(itertools.product([0, 1], repeat=4)))
    before = np.concatenate([np.zeros((16, 1), int), paths[:, :-1]], axis=1)
    weights = np.where(paths == before, 0.8, 0.2).prod(1) * np.exp(-((y - 2 * paths) ** 2) / 2).prod(1)
    exact = weights @ paths / weights.sum()
    np.testing.assert_allclose(found.state_probabilities["s"][:, 1], exact, rtol=1e-4)
    errors = np.sqrt(exact * (1 - exact) / 2000)
    # Each chain has one path a draw, and they are independent.
    assert np.all(np.abs(found.states["s"].mean((0, 1)) - exact) < z_threshold(4) * errors)
    assert not found.concerns()


@pytest.mark.slow
def test_a_site_that_the_others_give_is_part_of_the_states():
    def copied(y):
        q = numpyro.sample("q", dist.HalfNormal(1.0))

        def step(x, yt):
            e = numpyro.sample("e", dist.Normal(0.0, q))
            x = numpyro.sample("x", dist.Delta(0.9 * x + e))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    found = NUTS(num_warmup=100, num_samples=50, num_chains=2).run(jax.random.key(0), ssmscan.trace(copied, Y))
    e, x = found.states["e"], found.states["x"]
    before = np.concatenate([np.zeros_like(x[..., :1]), x[..., :-1]], axis=-1)
    np.testing.assert_allclose(x, 0.9 * before + e, atol=1e-5)
