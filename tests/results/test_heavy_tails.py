"""What has no mean or sd is not compared by them, if the draws of every engine or one set of sound weights say so."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from ssmscan.inference.looks import Pace, growth
from ssmscan.results.agreement import compare
from ssmscan.results.criteria import DEFAULT
from ssmscan.results.heavy_tails import without_moments
from ssmscan.results.verdicts import Verdict
from ssmscan.results.weighted import normalised
from tests.results.samples import result

SHAPE = (4, 4000)
TAIL = stats.t(2.5)
"""Density falls like |x|^-3.5: there is an sd, and no error of it."""


def draws(law, seed):
    rng = np.random.default_rng(seed)
    x = {"normal": rng.standard_normal, "t": lambda n: rng.standard_t(2.2, n), "cauchy": rng.standard_cauchy}[law]
    return result({"mu": x(SHAPE), "sigma": np.exp(0.3 * rng.standard_normal(SHAPE))})


def points(seed, *, target=TAIL, proposal=None, shift=0.0, number=20_000):
    """Return weighted points of a law, from a t with five degrees and a share of a Cauchy, likelihoods estimated."""
    rng = np.random.default_rng([seed, 7])
    if proposal is None:
        x = np.where(rng.random(number) < 0.03, 3.0 * rng.standard_cauchy(number), 1.3 * rng.standard_t(5, number))
        log_density = np.log(0.03 * stats.cauchy.pdf(x, scale=3.0) + 0.97 * stats.t.pdf(x, 5, scale=1.3))
        log_density += 0.8 * rng.standard_normal(number)
    else:
        x = proposal.rvs(number, random_state=rng)
        log_density = proposal.logpdf(x)
    log_weights = target.logpdf(x) - log_density
    resampled = rng.choice(x, (1, number), p=normalised(log_weights)) + shift
    return result({"mu": resampled}, points={"mu": x + shift}, log_weights=log_weights, engine="IS")


def chains(seed, law=TAIL, lacks=10.0):
    """Return draws of a law without what is further than so many from the median."""
    x = law.rvs(40_000, random_state=np.random.default_rng([seed, 1]))
    return result({"mu": x[np.abs(x) < lacks][:32_000].reshape(4, 8000)})


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("law", "gone"), [("normal", ()), ("t", ("sd",)), ("cauchy", ("sd", "mean"))])
def test_tails_that_both_engines_have_are_the_posteriors(law, gone, seed):
    engines = {"one": draws(law, [seed, 0]), "other": draws(law, [seed, 1])}
    assert without_moments(engines) == ({"mu": dict.fromkeys(gone, ("one", "other"))} if gone else {})
    compared = compare(**engines)
    left = {d.statistic for d in compared.pairs[0].differences if d.parameter == "mu"}
    assert left == {"mean", "sd", "5 %", "50 %", "95 %"} - set(gone)
    assert any("of mu not compared" in note for note in compared.notes) == bool(gone)
    # The 95 % quantile of a Cauchy law would need more draws.
    assert compared.pairs[0].verdict is (Verdict.CANNOT_TELL if law == "cauchy" else Verdict.AGREE)
    assert str(compared)


def test_tails_of_one_engine_alone_are_a_difference():
    engines = {"one": draws("normal", 0), "other": draws("cauchy", 1)}
    assert without_moments(engines) == {}
    assert compare(**engines).pairs[0].verdict is not Verdict.AGREE


def test_a_chain_that_strays_is_a_difference():
    stray = chains(0, stats.norm()).draws["mu"].copy()
    stray[:, ::200] *= 100.0 * np.random.default_rng(0).pareto(1.0, stray[:, ::200].shape)
    compared = compare(one=chains(1, stats.norm()), strays=result({"mu": stray}))
    assert compared.notes == () and compared.pairs[0].verdict is not Verdict.AGREE


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sound_weights_see_a_tail_that_chains_lack(seed):
    found = points(seed)
    assert found.tail_index < 0.7 and "squared deviations of mu" in found.concerns()[0]
    compared = compare(importance=found, nuts=chains(seed))
    (note,) = compared.notes
    assert note.startswith("sd of mu not compared: in the draws of importance its tails are so heavy that there may be")
    assert "not so in those of nuts" in note
    assert {d.statistic for d in compared.pairs[0].differences} == {"mean", "5 %", "50 %", "95 %"}
    assert compared.pairs[0].verdict is Verdict.AGREE and compared.engines[0].concerns


def test_what_is_left_is_still_compared():
    assert compare(importance=points(0, shift=0.6), nuts=chains(0)).pairs[0].verdict is Verdict.DISAGREE


@pytest.mark.parametrize(
    "faulty",
    [
        lambda lw: lw + np.log(np.random.default_rng(0).pareto(1.1, len(lw))),
        lambda lw: lw - 1e6 * (np.arange(len(lw)) != 3),
    ],
    ids=["heavy weights", "one point"],
)
def test_weights_at_fault_see_nothing(faulty):
    found = points(0)
    found = dataclasses.replace(found, log_weights=faulty(found.log_weights))
    compared = compare(importance=found, nuts=chains(0))
    assert compared.pairs[0].verdict is Verdict.CANNOT_TELL and compared.notes == ()


def test_a_proposal_that_is_too_narrow_is_at_fault_itself():
    right, at_fault = chains(0, stats.norm()), 0
    for seed in range(10):
        narrow = points(seed, target=stats.norm(), proposal=stats.norm(scale=0.57), number=4000)
        assert without_moments({"importance": narrow, "nuts": right}) == {}
        at_fault += narrow.tail_index <= 0.7 and bool(narrow.concerns())
    assert at_fault >= 3
    assert compare(importance=narrow, nuts=right).pairs[0].verdict is Verdict.CANNOT_TELL


def test_what_is_not_compared_does_not_say_how_long_to_run():
    few = result({"mu": chains(0).draws["mu"][:, :200]})
    compared = compare(importance=points(0), nuts=few)
    assert compared.pairs[0].verdict is Verdict.CANNOT_TELL and len(compared.notes) == 1
    grown = growth(compared, {name: Pace(0.0, 1.0) for name in ("importance", "nuts")}, DEFAULT.tolerances)
    # The error of the sd is that of the points, the others are those of the chains.
    assert grown["nuts"] > 2.0 > grown["importance"]
