import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import ssmscan
from ssmscan.inference import tempering
from ssmscan.inference.temperature import Ladder, bisect_log, coordinate_scales
from ssmscan.inference.tempering import TemperedSMC, combine_evidence
from tests.inference.models import Y, counting, linear_gaussian
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


@pytest.mark.slow
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


def test_an_interrupt_returns_the_finished_runs(result, ssm, monkeypatch):
    class Interrupting(tempering.tqdm):
        def update(self, n=1):
            self.updates = getattr(self, "updates", 0) + 1
            if self.updates == 3:
                raise KeyboardInterrupt
            return super().update(n)

    monkeypatch.setattr(tempering, "tqdm", Interrupting)
    stopped = SMALL.run(jax.random.key(0), ssm)
    assert stopped.interrupted
    np.testing.assert_array_equal(stopped.draws["q"], result.draws["q"][:3])


def test_a_discrete_innovation_is_refused_by_name():
    with pytest.raises(ssmscan.ModelError, match="'s'"):
        SMALL.run(jax.random.key(0), ssmscan.trace(counting, Y))


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
