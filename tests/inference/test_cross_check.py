"""The cross-check: what it says of engines whose laws are known, how it spends looks and time, and what it refuses."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

import jax
import numpy as np
import pytest

import ssmscan
from ssmscan.inference import cross_check as module
from ssmscan.inference.engines import Engaged
from ssmscan.inference.interrupts import interruptible
from ssmscan.inference.looks import MOST_LOOKS, Pace, growth, next_growth, share, within
from ssmscan.results.verdicts import Verdict
from tests.inference.synthetic import Chains, Points, result_of, traced


@pytest.fixture(scope="module")
def ssm():
    return traced()


def check(ssm, seed=0, *, seconds=60.0, start=None, **engines):
    return ssmscan.cross_check(jax.random.key(seed), ssm, seconds=seconds, engines=engines, start=start, progress=False)


@pytest.mark.parametrize("seed", range(3))
def test_engines_of_one_law_agree_and_a_shift_of_half_an_sd_is_named(ssm, seed):
    found = check(ssm, seed, chains=Chains(), points=Points())
    assert found.verdict is Verdict.AGREE and found.comparison.pairs[0].within < 0.3, found
    other = check(ssm, seed, chains=Chains(shift=0.5), points=Points())
    assert other.verdict is Verdict.DISAGREE
    assert "chains and points do not sample the same posterior: a " in other.sentences[0]
    assert any("plots.posterior(check.results, 'a')" in sentence for sentence in other.sentences)


def test_all_looks_together_spend_the_level_and_the_error_rate(ssm):
    assert MOST_LOOKS * share(0.01) == pytest.approx(0.01)
    found = check(ssm, chains=Chains(), points=Points())
    single = ssmscan.compare(**found.results).pairs[0].differences
    for one, look in zip(single, found.comparison.pairs[0].differences):
        # Normal quantiles at .01 / 15 and at a sixth of it.
        assert (look.high - look.low) / (one.high - one.low) == pytest.approx(3.866 / 3.403, rel=0.02)


def test_the_draws_are_those_of_one_longer_run_and_double_from_look_to_look(ssm):
    chains = Chains(num_samples=200, persistence=0.9)
    found = check(ssm, chains=chains, points=Points())
    draws = [look.draws["chains"] for look in found.looks]
    assert len(found.looks) <= MOST_LOOKS and draws == sorted(draws) and len(set(draws)) > 2
    assert draws[-1] == 4 * sum(chains.calls)
    key = jax.random.split(jax.random.key(0), 2)[0]
    np.testing.assert_allclose(found.results["chains"].draws["b"], chains.draw(key, sum(chains.calls))[..., 1])


def test_the_engine_that_limits_is_the_one_that_grows(ssm):
    results = {"slow": Chains(persistence=0.95, num_samples=4000).run(jax.random.key(0), ssm)}
    results["fast"] = Points(num_points=100_000).run(jax.random.key(1), ssm)
    comparison = ssmscan.compare(**results)
    equal = {"slow": Pace(1.0, 1.0), "fast": Pace(1.0, 1.0)}
    grown = growth(comparison, equal, ssmscan.Tolerances())
    factor = comparison.pairs[0].judgement.more_draws
    assert grown["fast"] == 1.0 and factor * 0.9 < grown["slow"] < factor * 1.2
    assert growth(comparison, {"slow": Pace(1.0, 1e6), "fast": Pace(1.0, 1e-6)}, ssmscan.Tolerances())["fast"] > 1.0


def test_the_growth_takes_the_least_time(ssm):
    results = {"one": Chains(num_samples=4000).run(jax.random.key(0), ssm)}
    results["two"] = Chains(num_samples=4000).run(jax.random.key(1), ssm)
    comparison = ssmscan.compare(**results)
    assert all(report.fault is None for report in comparison.engines)
    tight = ssmscan.Tolerances(0.02, 0.02, 0.02, 0.04)
    comparison = ssmscan.compare(tolerances=tight, **results)
    grown = growth(comparison, {"one": Pace(0.0, 1.0), "two": Pace(0.0, 4.0)}, tight)
    # Equal variances, of which a second buys four times as much of the first: g is as the square root of v / c.
    assert grown["one"] / grown["two"] == pytest.approx(2.0, rel=0.15)


def test_a_look_goes_as_far_as_time_and_the_looks_that_are_left_allow():
    paces = {"one": Pace(1.0, 10.0), "two": Pace(2.0, 10.0)}
    assert next_growth({"one": 40.0, "two": 1.0}, 5) == {"one": 40.0 ** (1 / 5), "two": 1.0}
    assert next_growth({"one": 3.0, "two": 1.5}, 5) == {"one": 2.0, "two": 1.5}
    assert within({"one": 2.0, "two": 1.5}, paces, 20.0) == {"one": 2.0, "two": 1.5}
    half = within({"one": 2.0, "two": 1.5}, paces, 3.0 + 7.5)
    assert half == pytest.approx({"one": 1.5, "two": 1.25})
    assert within({"one": 2.0, "two": 1.5}, paces, 4.0) is None
    assert within({"one": 2.0, "two": 1.0}, paces, 0.5) is None


@dataclass(frozen=True)
class Slow(Chains):
    """Draws that take a tenth of a second a hundred, and that Control-C stops, pressed by itself after some calls."""

    press_at: int = -1

    def run(self, key, ssm, *, start=None):
        total = start.num_draws if start is not None else 0
        wanted, interrupted = total + self.num_samples, False
        try:
            with interruptible():
                while total < wanted:
                    time.sleep(0.05)
                    total += 100
                    if self.press_at == total:
                        signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            interrupted = True
        return result_of(self, self.draw(key, total), ssm.observed, interrupted=interrupted)


def test_out_of_time_it_says_by_how_much_and_goes_on_from_there(ssm):
    began = time.perf_counter()
    engines = {"slow": Slow(persistence=0.97, num_samples=1000), "points": Points()}
    found = check(ssm, seconds=1.5, **engines)
    assert time.perf_counter() - began < 3.0
    assert found.verdict is Verdict.CANNOT_TELL
    assert (
        found.sentences[0].startswith("Time is out after ") and "times the draws would settle it" in found.sentences[0]
    )
    assert "start=check goes on" in found.sentences[1]
    longer = check(ssm, seconds=1.5, start=found, **engines)
    before = found.results["slow"].draws["a"]
    np.testing.assert_allclose(longer.results["slow"].draws["a"][:, : before.shape[1]], before)
    assert longer.looks[: len(found.looks)] == found.looks and len(longer.looks) > len(found.looks)


def test_time_that_is_out_before_a_first_look_loses_nothing(ssm):
    engines = {"points": Points(), "slow": Slow(num_samples=100_000)}
    found = check(ssm, seconds=0.5, slow=engines["slow"], points=engines["points"])
    assert found.verdict is Verdict.CANNOT_TELL and found.comparison is None and found.looks == ()
    assert found.sentences[0].startswith("Time is out after ")
    assert "slow made draws" in found.sentences[0] and found.results["slow"].num_draws >= 100
    assert "Time is out" in found._repr_html_() and "Time is out" in found.to_markdown()


@pytest.mark.parametrize("press_at", [300, 1300])
def test_control_c_returns_what_there_is(ssm, press_at):
    found = check(ssm, points=Points(), slow=Slow(persistence=0.98, num_samples=1000, press_at=press_at))
    assert found.verdict is Verdict.CANNOT_TELL
    assert found.sentences[0].startswith("Control-C stopped it after ")
    assert found.results["slow"].num_draws == press_at and len(found.looks) == 1 + (press_at > 1000)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@dataclass(frozen=True)
class Refusing:
    """An engine that runs no model."""

    def run(self, key, ssm, *, start=None):
        raise ssmscan.ModelError("not this model.")


def test_engines_that_refuse_the_model_are_replaced_by_others(ssm, monkeypatch):
    def rows(*engines):
        monkeypatch.setattr(module, "choices", lambda ssm, progress: engines)
        return ssmscan.cross_check(jax.random.key(0), ssm, seconds=60.0, progress=False)

    no, second = Engaged("no", Refusing()), Engaged("points", Points())
    assert set(rows([no, Engaged("chains", Chains())], [second]).results) == {"chains", "points"}
    assert set(rows([no], [Engaged("chains", Chains()), second]).results) == {"chains", "points"}
    assert set(rows([Engaged("chains", Chains()), no], [second, Engaged("more", Chains())]).results) == {
        "chains",
        "points",
    }
    with pytest.raises(ssmscan.ModelError, match="fewer than two engines run this model.*not this model"):
        rows([no], [second])


def test_what_both_share_is_said(ssm):
    engaged = module.shared([Engaged("pmmh", ssmscan.PMMH()), Engaged("again", ssmscan.PMMH())])
    assert engaged == ("Both use the same filter: a fault of it would not show.",)
    assert (
        "nothing that computes a likelihood"
        in module.shared([Engaged("nuts", ssmscan.NUTS()), Engaged("pmmh", ssmscan.PMMH())])[0]
    )
    assert module.shared([Engaged("nuts", ssmscan.NUTS()), Engaged("own", Chains())]) == ()


@pytest.mark.parametrize(
    ("engines", "words"),
    [
        ({"points": Points()}, "an engine cannot disagree with itself"),
        ({"points": Points(), "other": Points}, r"engines\['other'\]: expected an engine"),
        ({"points": Points(), "other": 3}, r"engines\['other'\]: expected an engine"),
        ([Points(), Points()], "engines: expected a mapping"),
        ({"points": Points(), "level": Points()}, "give the engine another name"),
    ],
)
def test_what_is_no_set_of_engines_is_refused(ssm, engines, words):
    with pytest.raises((TypeError, ValueError), match=words):
        ssmscan.cross_check(jax.random.key(0), ssm, engines=engines)


def test_seconds_and_start_are_checked(ssm):
    with pytest.raises(ValueError, match="seconds"):
        check(ssm, seconds=0.0, one=Points(), two=Chains())
    with pytest.raises(TypeError, match="start: expected a CrossCheck"):
        check(ssm, start=3, one=Points(), two=Chains())
    found = check(ssm, one=Points(), two=Chains())
    with pytest.raises(ValueError, match="start holds results of one, two, and the engines are this, that"):
        check(ssm, start=found, this=Points(), that=Chains())
