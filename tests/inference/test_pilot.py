"""The pilot ends, says what it found, and loses nothing; so do the sampler and the paths after it."""

import re
import signal
import warnings
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference import paths, pilot, pmmh, progress
from ssmscan.inference.pilot import Pilot, central
from ssmscan.inference.pmmh_chain import Trace, evaluate
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter_step import COMPLETE, FAULTY
from tests.inference.models import Y, structural
from tests.inference.test_pmmh import FEW, SMALL

SHORT = replace(SMALL, num_samples=200, num_particles=20)
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def few_starts(monkeypatch):
    monkeypatch.setattr(pilot, "PRIOR_DRAWS", 8)


@pytest.fixture(scope="module")
def whole(linear):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pilot, "PRIOR_DRAWS", 8)
        return SHORT.run(KEY, linear)


def press():
    signal.raise_signal(signal.SIGINT)


class Stage(NamedTuple):
    """Where Control-C is pressed: at the bar of this text, or of a longer one, at an update or as it opens."""

    text: str
    update: int | None = None


def pressing(stages, monkeypatch):
    """Press Control-C once at each of some stages."""
    left = list(stages)

    class Bar(progress.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            self.text, self.updates = options["desc"], 0
            self.press(None)

        def press(self, update):
            for stage in left:
                here = self.text == stage.text if stage.text == "PMMH" else self.text.startswith(stage.text)
                if here and stage.update == update:
                    left.remove(stage)
                    press()
                    return

        def update(self, n=1):
            self.updates += 1
            self.press(self.updates)
            return super().update(n)

    monkeypatch.setattr(progress, "tqdm", Bar)
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.005)
    return left


def require_whole(result, tmp_path):
    """A result of an interrupted run is one like any other."""
    assert result.interrupted
    assert "stopped" in " ".join(result.concerns())
    again = ssmscan.load(result.save(tmp_path / "stopped.nc"))
    np.testing.assert_array_equal(again.draws["q"], result.draws["q"])
    result.to_arviz()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "stage",
    [
        Stage("PMMH: compiling for"),
        pytest.param(Stage("PMMH: compiling the prior"), marks=SLOW),
        pytest.param(Stage("PMMH pilot: 8 starts"), marks=SLOW),
        Stage("PMMH pilot: 8 starts", 3),
        pytest.param(Stage("PMMH pilot: noise"), marks=SLOW),
        pytest.param(Stage("PMMH pilot: noise", 1), marks=SLOW),
        pytest.param(Stage("PMMH pilot: round 2"), marks=SLOW),
        Stage("PMMH pilot: round 2", 1),
        Stage("PMMH warm-up"),
        pytest.param(Stage("PMMH warm-up", 2), marks=SLOW),
    ],
)
def test_control_c_before_the_first_draw_gives_a_result_without_draws(stage, linear, monkeypatch, tmp_path):
    left = pressing([stage], monkeypatch)
    stopped = SHORT.run(KEY, linear)
    assert not left
    assert stopped.draws["q"].shape == (4, 0)
    require_whole(stopped, tmp_path)


@pytest.mark.parametrize(
    ("stages", "drawn", "paths"),
    [
        ([Stage("PMMH", 3)], range(1, 200), True),
        ([Stage("PMMH", 3), Stage("state paths: compiling")], range(1, 200), False),
        pytest.param([Stage("state paths: compiling")], [200], False, marks=SLOW),
        pytest.param([Stage("state paths")], [200], False, marks=SLOW),
        # of paths of four chains at least one, however slow the machine is
        ([Stage("state paths", 5)], [200], range(1, 99)),
        ([Stage("PMMH", 3), Stage("state paths", 2)], range(1, 200), range(200)),
    ],
)
def test_no_interrupt_loses_draws(stages, drawn, paths, linear, whole, monkeypatch, tmp_path):
    left = pressing(stages, monkeypatch)
    stopped = SHORT.run(KEY, linear)
    assert not left
    done, made = stopped.num_draws, len(stopped.state_draws)
    assert done in drawn
    np.testing.assert_array_equal(stopped.draws["q"], whole.draws["q"][:, :done])
    assert made == min(done, 100) if paths is True else made in (paths or [0])
    assert stopped.states["x"].shape == (4, made, len(Y))
    if done == 200:
        at = np.searchsorted(whole.state_draws, stopped.state_draws)
        np.testing.assert_array_equal(stopped.state_draws, whole.state_draws[at])
        np.testing.assert_allclose(stopped.states["x"], whole.states["x"][:, at], rtol=1e-5)
        assert f"{made} of 100 state paths a chain are there" in " ".join(stopped.concerns())
    require_whole(stopped, tmp_path)


def test_a_second_interrupt_between_the_stages_waits_for_the_paths(linear, whole, monkeypatch):
    spread = pmmh.spread

    def pressed(*arguments):
        press()
        press()
        return spread(*arguments)

    monkeypatch.setattr(pmmh, "spread", pressed)
    stopped = SHORT.run(KEY, linear)
    np.testing.assert_array_equal(stopped.draws["q"], whole.draws["q"])
    assert stopped.interrupted and not len(stopped.state_draws)


def test_paths_that_fail_leave_the_draws(linear, whole, monkeypatch):
    def too_large(*_, **__):
        raise MemoryError("FullHistory() takes 3 TiB")

    monkeypatch.setattr(paths, "compile_chunk", too_large)
    found = SHORT.run(KEY, linear)
    np.testing.assert_array_equal(found.draws["q"], whole.draws["q"])
    assert not found.interrupted
    assert any("could not be made (MemoryError: FullHistory() takes 3 TiB): 0 of 100" in s for s in found.concerns())


@SLOW
def test_paths_are_spread_over_the_draws_whenever_they_end(linear, whole, monkeypatch):
    left = pressing([Stage("state paths", 6)], monkeypatch)
    stopped = SHORT.run(KEY, linear)
    made = len(stopped.state_draws)
    assert not left and 4 <= made < 100
    assert np.diff(stopped.state_draws, prepend=0, append=199).max() < 3 * 200 / made


# ---- how many particles, where -------------------------------------------------------------------


def test_the_centre_is_a_point_visited_in_the_better_mode():
    rng = np.random.default_rng(0)
    mode = np.arange(4) % 2  # chains 0 and 2 at -5, chains 1 and 3, better by 30, at 5
    z = rng.normal(10.0 * mode - 5.0, 1.0, (100, 4))
    wide = rng.normal(0.0, 1e6, (100, 4, 2))
    log_likelihood = 30.0 * mode + rng.normal(size=(100, 4))
    log_likelihood[70, 1] = np.nan
    nothing = np.zeros((100, 4))
    trace = Trace({"a": z, "b": wide}, {}, nothing, log_likelihood, *[nothing] * 6)
    centre = central(trace)
    at = np.argwhere(z == centre["a"])
    assert len(at) == 1 and at[0, 0] >= 50 and at[0, 1] in (1, 3)
    np.testing.assert_array_equal(centre["b"], wide[tuple(at[0])])
    assert abs(centre["a"] - 5) < 1 and np.abs(centre["b"]).max() < 1e6


def noisy(linear, monkeypatch, noise, **settings):
    """Run PMMH with this noise of the log likelihood, by number of particles, and no compilation but the first."""
    tried = []
    chunks = {}

    def compile_once(self, estimator):
        tried.append(estimator.num_particles)
        return chunks.setdefault(0, original(self, FEW)) if not chunks else chunks[0]

    def replicate(self, centre):
        self.sd = float(noise(self.estimator.num_particles))
        return self.sd

    original = Pilot.compile
    monkeypatch.setattr(Pilot, "compile", compile_once)
    monkeypatch.setattr(Pilot, "replicate", replicate)
    engine = replace(SHORT, num_particles=None, target_sd=1.2, num_paths=0, **settings)
    with pytest.warns(ssmscan.ResultWarning) as caught:
        found = engine.run(KEY, linear)
        warnings.warn("at least one", ssmscan.ResultWarning, stacklevel=1)
    return found, tried, [str(warning.message) for warning in caught], [warning.filename for warning in caught]


def test_a_pilot_that_cannot_reach_its_target_says_so_at_once_and_at_the_end(linear, monkeypatch):
    found, tried, said, files = noisy(linear, monkeypatch, lambda n: 50 * n**-0.25, max_particles=5000)
    sentence = (
        "The pilot could not bring the standard deviation of the log likelihood estimate to 1.2: with 4,096 particles "
        "it is 6.2 at the centre; max_particles=5000 allowed for no more."
    )
    assert str(found.doubts[0]).startswith(sentence)
    assert said[0].startswith(sentence) and said[1].startswith("PMMH: 4 chains of 200 draws") and sentence in said[1]
    assert files[0] == files[1] == __file__
    assert len(tried) <= 6 and max(tried) == 4096


@SLOW
def test_eleven_unknown_starts_are_too_many_for_a_filter_that_does_not_look_ahead():
    t = np.arange(48)
    data = 10 + 3 * np.sin(2 * np.pi * t / 12) + np.random.default_rng(0).normal(0, 0.5, len(t))
    ssm = ssmscan.trace(structural, data)
    engine = ssmscan.PMMH(num_samples=2, num_warmup=8, num_paths=0, max_particles=64)
    with pytest.warns(ssmscan.ResultWarning, match="fewer than four draws"):
        found = engine.run(KEY, ssm)
    assert any(note.startswith("LookAhead") for note in found.notes) and not found.doubts
    engine = replace(engine, estimator=ssmscan.ParticleFilter(100, summaries=()))
    with pytest.warns(ssmscan.ResultWarning, match="The pilot could not bring the standard deviation"):
        found = engine.run(KEY, ssm)
    assert "with 64 particles" in str(found.doubts[0]) and "priors that say more, of the start above all" in str(
        found.doubts[0]
    )


def test_a_pilot_whose_rule_contradicts_itself_ends(linear, monkeypatch):
    found, tried, said, _ = noisy(linear, monkeypatch, lambda n: np.inf if n < 300 else 0.05)
    assert found.settings["used"]["num_particles"] in (256, 512) and len(tried) <= 8
    assert not any("pilot" in sentence for sentence in said)


def test_no_number_of_particles_is_tried_that_the_time_does_not_allow(linear, monkeypatch):
    found, tried, _, _ = noisy(linear, monkeypatch, lambda n: 9.0, pilot_seconds=1e-9)
    assert tried == [20]
    assert found.num_draws == 200
    assert "with 20 particles it is 9" in str(found.doubts[0]) and "(pilot_seconds) did not allow for more" in str(
        found.doubts[0]
    )
    assert found.costs.warmup_seconds > 0


def test_a_number_given_that_is_too_noisy_is_said(linear, monkeypatch):
    monkeypatch.setattr(pilot.np, "std", lambda *_, **__: 7.0)
    assert "The standard deviation of the log likelihood estimate is large: with 20 particles it is 7" in str(
        SHORT.run(KEY, linear).doubts[0]
    )


# ---- filters whose weights are not numbers ----------------------------------------------------------


def broken_above(y):
    """A local level whose observations have no scale where the level is above 1."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, jnp.where(x > 1.0, jnp.nan, 0.5)), obs=y)
        return x, None

    with numpyro.validation_enabled(False):
        scan(transition, 0.0, y)


@SLOW
def test_filters_with_weights_that_are_not_numbers_are_counted_and_said():
    ssm = ssmscan.trace(broken_above, Y)
    with pytest.warns(ssmscan.ResultWarning, match="mend the density of the model"):
        found = SHORT.run(KEY, ssm)
    assert (found.sample_stats["filter_status"] == 1).mean() > 0.3
    said = next(sentence for sentence in found.concerns() if "were not numbers" in sentence)
    assert "of 800 draws" in said and "the density of 'y' is not a number there" in said and "at step" in said


def test_a_filter_of_which_no_weight_is_a_number_is_faulty_too():
    def broken(y):
        q = numpyro.sample("q", dist.HalfNormal(1.0))

        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, jnp.where(q > 1.0, jnp.nan, 0.5)), obs=y)
            return x, None

        with numpyro.validation_enabled(False):
            scan(transition, 0.0, y)

    ssm, particle_filter = ssmscan.trace(broken, Y), ssmscan.ParticleFilter(8, summaries=())
    good, bad = (evaluate(as_key(KEY), ssm, ssm.unconstrain({"q": q}), particle_filter) for q in (0.5, 2.0))
    assert (good.status, bad.status) == (COMPLETE, FAULTY)
    assert np.isfinite(good.log_likelihood) and bad.log_likelihood == -np.inf


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.04, r"Chain\(s\) \[1\] accepted only 4.0 % of"), (0.7, r"Chain\(s\) \[1\] accepted 70 % of"), (0.2, None)],
)
def test_chains_that_accept_too_little_or_too_much_are_named(share, said):
    accepted = np.zeros((2, 1000), bool)
    accepted[0, :250], accepted[1, : int(1000 * share)] = True, True
    found = " ".join(map(str, pmmh.acceptance_doubts(accepted)))
    assert found == "" if said is None else re.search(said, found)
    assert pmmh.acceptance_doubts(accepted[:, :50]) == ()


@SLOW
def test_one_chain_and_one_draw_are_enough(linear):
    tiny = replace(SHORT, num_chains=1, num_particles=None, num_samples=1, num_warmup=8, num_paths=3)
    found = tiny.run(as_key(KEY), linear)
    assert found.states["x"].shape == (1, 1, len(Y))
