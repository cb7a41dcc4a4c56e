import itertools
import signal
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import ssmscan
from ssmscan.inference import tempering
from ssmscan.inference.tempering import (
    MOST_TEMPERATURES,
    TemperedSMC,
    _doubts,
    _require_finite,
    _temper,
    combine_evidence,
)
from ssmscan.inference.tempering_runs import Ended
from ssmscan.inference.tempering_step import Ladder, bisect_log, coordinate_scales
from tests.inference.interrupting import control_c_at
from tests.inference.models import Y, decaying, linear_gaussian
from tests.truth import ERROR_RATE

SMALL = TemperedSMC(num_particles=400, num_runs=6, chain_length=10, num_leapfrog=6, num_paths=400)


def half_undefined(y):
    """The linear model, times a coin: the evidence is half of what it was."""
    sign = numpyro.sample("sign", dist.Uniform(-1.0, 1.0))
    numpyro.factor("undefined", jnp.where(sign < 0, jnp.nan, 0.0))
    linear_gaussian(y)


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(half_undefined, Y)


@pytest.fixture(scope="module")
def result(ssm):
    return SMALL.run(jax.random.key(0), ssm)


def t_threshold(runs, comparisons=1):
    return stats.t.isf(ERROR_RATE / 2 / comparisons, runs - 1)


def test_the_evidence_agrees_with_dense_linear_algebra(result, exact):
    error = result.log_evidence - (exact.log_evidence - np.log(2))
    assert abs(error) < t_threshold(SMALL.num_runs) * result.log_evidence_error
    assert result.log_evidence_error < 0.2


def test_parameters_and_states_agree_with_dense_linear_algebra(result, exact):
    values = {"rho": (result.draws["rho"], exact.rho), "q": (result.draws["q"], exact.q)}
    values |= {f"x{t}": (result.states["x"][:, :, t], exact.states[t]) for t in (0, 5, 11)}
    for name, (draws, truth) in values.items():
        means = draws.mean(axis=1)
        error = means.std(ddof=1) / np.sqrt(len(means))
        assert abs(means.mean() - truth) < t_threshold(len(means), len(values)) * error, name


def test_the_result_is_complete(result):
    assert result.independent_runs
    assert result.draws["rho"].shape == (6, 400)
    assert result.states["x"].shape == (6, 400, len(Y))
    per_run = result.sample_stats["log_evidence"][:, 0]
    assert result.log_evidence == pytest.approx(combine_evidence(per_run)[0])
    assert result.costs.gradient_evaluations > 6 * 400 * 6


def test_evidence_of_independent_runs():
    z = np.array([1.0, 2.0, 4.0, 1.0])
    total, error = combine_evidence(np.log(z) - 500)
    assert total == pytest.approx(np.log(2.0) - 500)
    assert error == pytest.approx(z.std(ddof=1) / 2 / 2)


@pytest.mark.parametrize("root", [0.3, 1e-6, 1e-20])
def test_bisection_finds_tiny_steps(root):
    found = bisect_log(lambda x: root - x, 0.0, jnp.ones(()))
    np.testing.assert_allclose(found, root, rtol=1e-4)


@pytest.mark.parametrize("high", [1.0, 0.25, 0.0])
def test_bisection_goes_all_the_way_where_it_can(high):
    assert bisect_log(lambda x: jnp.ones(()), 0.0, jnp.asarray(high)) == high


def test_scales_ignore_heavy_tails():
    draws = jax.random.cauchy(jax.random.key(0), (4001, 1)) * 3.0
    expected = 3.0 * np.tan(np.pi * (0.84 - 0.5))
    np.testing.assert_allclose(coordinate_scales({"z": draws}), [expected], rtol=0.2)


def test_likelihoods_that_are_not_finite_are_counted(result):
    # A sign of -1 makes the likelihood NaN: half of the prior.
    note = next(note for note in result.notes if "no finite" in note)
    lost = int(note.split()[0])
    assert stats.binomtest(lost, SMALL.num_runs * SMALL.num_particles, 0.5).pvalue > ERROR_RATE
    assert result.draws["sign"].min() >= 0


@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupt_returns_the_finished_runs(result, ssm, monkeypatch, presses):
    with pytest.warns(ssmscan.ResultWarning, match="was stopped") as caught:
        with control_c_at(monkeypatch, "TemperedSMC", presses=presses):
            stopped = SMALL.run(jax.random.key(0), ssm)
    assert caught[0].filename == __file__
    assert stopped.interrupted
    np.testing.assert_array_equal(stopped.draws["q"], result.draws["q"][:3])
    assert len(stopped.state_draws) == (400 if presses == 1 else 0)
    assert any("The spread between 3 runs" in sentence for sentence in map(str, stopped.doubts))


@pytest.mark.parametrize("label", ["TemperedSMC: compiling", "TemperedSMC"])
def test_an_interrupt_before_the_first_run_is_finished_is_raised(ssm, monkeypatch, label):
    temper = tempering._temper

    def pressed(*args):
        signal.raise_signal(signal.SIGINT)
        return temper(*args)

    if label == "TemperedSMC":
        monkeypatch.setattr(tempering, "_temper", pressed)
        with pytest.raises(KeyboardInterrupt):
            SMALL.run(jax.random.key(0), ssm)
    else:
        with pytest.raises(KeyboardInterrupt), control_c_at(monkeypatch, label):
            SMALL.run(jax.random.key(0), ssm)


def test_a_prior_without_a_finite_likelihood_is_refused_before_the_ladder():
    _require_finite(np.array([3, 400]), 400)
    words = r"in 1 of 2 runs none of the 4,000 draws from the prior has a finite log likelihood \(7 of 8,000 in all\)"
    with pytest.raises(ValueError, match=words):
        _require_finite(np.array([0, 7]), 4000)


@pytest.mark.slow
def test_a_model_that_no_draw_from_the_prior_explains_does_not_run_for_ever():
    def impossible(y):
        numpyro.factor("never", jnp.where(numpyro.sample("a", dist.Normal()) > 100.0, 0.0, -jnp.inf))
        linear_gaussian(y)

    with pytest.raises(ValueError, match="in 6 of 6 runs none of the 400 draws"):
        SMALL.run(jax.random.key(0), ssmscan.trace(impossible, Y))


@pytest.fixture
def ladder_that_reaches():
    """A ladder of made-up temperatures, for `_temper`."""

    class Bar:
        def set_postfix(self, **_):
            pass

    def temper(temperatures):
        left = iter(temperatures)
        cloud = SimpleNamespace(particles=np.zeros(2))
        state = SimpleNamespace(cloud=cloud, log_evidence=0.0)
        report = lambda: SimpleNamespace(temperature=next(left), acceptance=0.9)  # noqa: E731
        return _temper(None, None, lambda *_: (state, 0), lambda *_: (state, report()), Bar())

    return temper


@pytest.mark.parametrize(
    ("temperatures", "end", "count"),
    [
        ([0.5, 1.0, 1.0], 1.0, 3),
        (np.minimum(np.geomspace(1e-30, 1.5, 200), 1.0), 1.0, None),
        (itertools.repeat(1e-12), 1e-12, 51),
        (itertools.repeat(np.nan), None, 50),
        (itertools.chain([0.1, 0.2], itertools.repeat(0.3)), 0.3, 53),
        ((1e-30 * 1.001 ** (n / 40) for n in itertools.count()), None, MOST_TEMPERATURES),
    ],
)
def test_a_ladder_that_does_not_advance_comes_to_an_end(ladder_that_reaches, temperatures, end, count):
    run = ladder_that_reaches(temperatures)
    assert (run.end.temperature >= 1) == (end == 1.0)
    if end is not None:
        assert run.end.temperature == end
    if count is not None:
        assert run.end.temperatures == count


def with_temperature(run, temperature):
    return run._replace(end=run.end._replace(temperature=temperature))


def test_runs_that_stand_still_are_left_out_and_named(result, ssm, monkeypatch):
    count = itertools.count()
    temper = tempering._temper

    def stalled(*args):
        return with_temperature(temper(*args), 1e-12 if next(count) % 2 else 1.0)

    monkeypatch.setattr(tempering, "_temper", stalled)
    kept = SMALL.run(jax.random.key(0), ssm)
    np.testing.assert_array_equal(kept.draws["q"], result.draws["q"][::2])
    doubt = str(kept.doubts[0])
    assert doubt.startswith(
        "3 of 6 runs came to a halt on the way from the prior (temperature 0) to the posterior (1), at"
    )
    assert "draws and evidence are of the others only. Use more particles" in doubt
    monkeypatch.setattr(tempering, "_temper", lambda *args: with_temperature(temper(*args), 1e-12))
    with pytest.raises(ValueError, match="6 of 6 runs came to a halt .* there are no draws. Use more particles"):
        SMALL.run(jax.random.key(0), ssm)


def test_what_speaks_against_the_runs_is_said():
    run = Ended(0.0, 12, 0.8, 0.8, 1.0)
    assert _doubts([run] * 4, np.full(4, 400), 400) == ()
    (few,) = map(str, _doubts([run] * 3, np.full(3, 400), 400))
    assert "The spread between 3 runs" in few and "at least 4 runs" in few
    (poor,) = map(str, _doubts([run] * 4, np.array([400, 9, 400, 400]), 400))
    assert "as few as 9 had a finite log likelihood" in poor and "more particles" in poor
    (stuck,) = map(str, _doubts([run] * 3 + [run._replace(last_acceptance=0.1)], np.full(4, 400), 400))
    assert "accepted with probability 0.10 in one run" in stuck


def test_a_discrete_innovation_is_refused_by_name():
    with pytest.raises(ssmscan.ModelError, match="'s'"):
        SMALL.run(jax.random.key(0), ssmscan.trace(decaying, Y))


def test_a_missing_blackjax_is_named(ssm, monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax.smc", None)
    with pytest.raises(ImportError, match="pip install blackjax"):
        SMALL.run(jax.random.key(0), ssm)


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"num_particles": 1001}, ValueError),
        ({"num_particles": 20}, ValueError),
        ({"num_runs": 1}, ValueError),
        ({"chain_length": 1}, ValueError),
        ({"num_leapfrog": 0.5}, TypeError),
        ({"target_ess": 1.5}, ValueError),
        ({"num_paths": -1}, ValueError),
    ],
)
def test_bad_settings_are_named(setting, error):
    with pytest.raises(error, match=next(iter(setting))):
        TemperedSMC(**setting)


def test_gradients_are_counted():
    ladder = Ladder(num_particles=40, chain_length=10, num_leapfrog=5, target_ess=0.5)
    # Four chains: nine moves of five leapfrog steps and three of tuning, and the two starts.
    assert ladder.gradients(tuning_moves=3) == 4 * ((9 + 3) * 5 + 2)
