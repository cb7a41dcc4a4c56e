"""Verdicts on draws whose law is known, and the arithmetic they rest on."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from ssmscan.results.agreement import Comparison, compare
from ssmscan.results.criteria import DEFAULT, Tolerances
from ssmscan.results.data import Costs
from ssmscan.results.summary import STATISTICS, Estimate, Sample, summarise
from ssmscan.results.verdicts import Difference, Verdict, differences, judge, more_draws, wasserstein, with_intervals
from tests.results import compare_power
from tests.results.samples import autoregression, result
from tests.truth import ERROR_RATE, z_threshold


def engine(seed: int, num_draws: int = 2000, time: float = 1.0, shift: float = 0.0, **changes):
    rng = np.random.default_rng(seed)
    chains = 10 if changes.get("independent_runs") else 4
    draws = autoregression(rng, (chains, num_draws), time) + shift
    return result({"phi": 0.9 + 0.05 * draws}, **changes)


def verdict(one, other):
    return compare(one=one, other=other).pairs[0].verdict


def test_long_runs_of_one_law_agree():
    assert verdict(engine(0, 10_000), engine(1, 10_000)) is Verdict.AGREE


@pytest.mark.parametrize("independent_runs", [False, True])
def test_a_shift_of_a_third_of_a_sd_is_disagreement(independent_runs):
    moved = engine(1, 4000, shift=0.3, independent_runs=independent_runs)
    pair = compare(nuts=engine(0, 4000), moved=moved).pairs[0]
    assert pair.verdict is Verdict.DISAGREE
    means = [d for d in pair.differences if d.statistic == "mean"]
    assert means[0].low < -0.3 < means[0].high < 0 and means[0].p_value < 1e-6


def test_a_wrong_sd_is_disagreement_though_the_means_agree():
    one, other = engine(0, 10_000), engine(1, 10_000)
    wide = {"phi": 0.9 + 1.3 * (other.draws["phi"] - 0.9)}
    pair = compare(one=one, other=dataclasses.replace(other, draws=wide)).pairs[0]
    assert pair.verdict is Verdict.DISAGREE
    assert {d.statistic for d in pair.differences if d.p_value < 1e-3} == {"sd", "5 %", "95 %"}


def test_a_difference_that_is_real_but_small_is_agreement_and_is_named():
    one, other = engine(0, 100_000), engine(1, 100_000, shift=0.06)
    judgement = compare(one=one, other=other).pairs[0].judgement
    assert judgement.verdict is Verdict.AGREE
    assert "small but real: phi" in judgement.reason


def test_short_chains_get_no_verdict_and_are_told_why():
    comparison = compare(short=engine(0, 100, 50.0), long=engine(1, 2000))
    pair = comparison.pairs[0]
    assert pair.verdict is Verdict.CANNOT_TELL
    assert "short: R-hat of phi" in pair.judgement.reason and "long" not in pair.judgement.reason
    assert pair.judgement.more_draws > 20
    assert np.isnan([d.p_value for d in pair.differences]).all()
    assert comparison.engines[1].fault is None


def test_chains_that_did_not_meet_get_no_verdict_however_long():
    stuck = engine(0, 10_000)
    apart = stuck.draws["phi"] + np.array([0.0, 0.0, 0.0, 0.05])[:, None]
    pair = compare(one=dataclasses.replace(stuck, draws={"phi": apart}), other=engine(1, 10_000)).pairs[0]
    assert pair.verdict is Verdict.CANNOT_TELL and "one: R-hat of phi" in pair.judgement.reason


@pytest.mark.parametrize("draws", [np.full((4, 500), 0.9), np.full((4, 500), np.nan)], ids=["constant", "not finite"])
def test_draws_without_error_get_no_verdict(draws):
    comparison = compare(one=result({"phi": draws}), other=engine(1))
    assert comparison.pairs[0].verdict is Verdict.CANNOT_TELL
    assert "one: phi" in comparison.pairs[0].judgement.reason
    assert "cannot tell" in str(comparison)


def test_a_single_run_of_a_particle_sampler_gets_no_verdict():
    alone = engine(0, independent_runs=True)
    alone = dataclasses.replace(alone, draws={"phi": alone.draws["phi"][:1]})
    assert "single run" in compare(smc=alone, nuts=engine(1)).pairs[0].judgement.reason


def test_twice_the_factor_settles_what_the_draws_could_not():
    before = compare(one=engine(0, 300), other=engine(1, 300)).pairs[0].judgement
    assert before.verdict is Verdict.CANNOT_TELL
    longer = int(2 * before.more_draws * 300)
    assert verdict(engine(2, longer), engine(3, longer)) is Verdict.AGREE


def test_few_runs_are_told_to_make_more():
    rng = np.random.default_rng(0)
    runs = result({"phi": rng.standard_normal((3, 500))}, independent_runs=True)
    nuts = result({"phi": rng.standard_normal((4, 1000))})
    assert "more independent runs" in compare(smc=runs, nuts=nuts).pairs[0].judgement.reason


def test_exchanging_engines_mirrors_the_differences():
    one, other = engine(0), engine(1, time=5.0, num_draws=10_000)
    there, back = (compare(**pair).pairs[0] for pair in ({"a": one, "b": other}, {"b": other, "a": one}))
    for d, e in zip(there.differences, back.differences):
        np.testing.assert_allclose([d.estimate.value, d.low, d.p_value], [-e.estimate.value, -e.high, e.p_value])
    assert there.wasserstein["phi"] == pytest.approx(back.wasserstein["phi"])


def test_units_change_nothing():
    one, other = engine(0), engine(1)
    scaled = [dataclasses.replace(r, draws={"phi": 1e6 * r.draws["phi"] - 3e5}) for r in (one, other)]
    pair, same = (compare(a=a, b=b).pairs[0] for a, b in ((one, other), scaled))
    for d, e in zip(pair.differences, same.differences):
        np.testing.assert_allclose([d.estimate.value, d.low], [e.estimate.value, e.low], rtol=1e-6)


def test_holm_by_hand():
    # p values 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06
    raw = [Difference("a", "mean", Estimate(stats.norm.isf(p / 2), 1.0, np.inf)) for p in (0.01, 0.04, 0.03)]
    np.testing.assert_allclose([d.p_value for d in with_intervals(raw, DEFAULT)], [0.03, 0.06, 0.06])
    half = stats.norm.isf(0.01 / 3 / 2)
    np.testing.assert_allclose([d.high - d.estimate.value for d in with_intervals(raw, DEFAULT)], half)


def judged(criteria, **values):
    """Return the judgement of differences that are known to 0.01 sd."""
    family = [Difference("a", name, Estimate(value, 0.01, np.inf)) for name, value in values.items()]
    family = with_intervals(family, criteria)
    return judge(family, len(family), criteria)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_each_statistic_has_its_own_tolerance(statistic):
    limit = 0.3 if statistic in ("5 %", "95 %") else 0.15
    inside, outside = (judged(DEFAULT, **{statistic: value}) for value in (limit - 0.05, -limit - 0.05))
    assert (inside.verdict, outside.verdict) == (Verdict.AGREE, Verdict.DISAGREE)
    assert "±0.15 sd (mean, sd, median) and ±0.3 sd (5 and 95 % quantiles)" in inside.reason
    assert f", beyond ±{limit:g}, p = " in outside.reason
    strict = DEFAULT._replace(tolerances=Tolerances(0.01, 0.01, 0.01, 0.01))
    assert judged(strict, **{statistic: limit - 0.05}).verdict is Verdict.DISAGREE
    loose = DEFAULT._replace(tolerances=Tolerances(1.0, 1.0, 1.0, 1.0))
    assert judged(loose, **{statistic: -limit - 0.05}).verdict is Verdict.AGREE


def test_a_small_real_difference_is_no_disagreement_where_another_is_uncertain():
    family = [Difference("a", "mean", Estimate(0.05, 0.005, np.inf)), Difference("b", "mean", Estimate(0.0, 0.1, 50.0))]
    judgement = judge(with_intervals(family, DEFAULT), 2, DEFAULT)
    assert judgement.verdict is Verdict.CANNOT_TELL and judgement.reason.startswith("b mean")
    within = with_intervals([Difference("a", "mean", Estimate(0.14, 0.005, np.inf))], DEFAULT)
    assert within[0].high > 0.15 and within[0].p_value < 1e-6
    assert judge(within, 1, DEFAULT).verdict is Verdict.CANNOT_TELL


def test_level_and_significance_are_spent_as_told():
    raw = [Difference("a", "mean", Estimate(0.2, 0.05, np.inf))]
    for significance, verdict in ((1e-3, Verdict.DISAGREE), (1e-5, Verdict.CANNOT_TELL)):
        criteria = DEFAULT._replace(significance=significance, level=0.9999)
        (d,) = with_intervals(raw, criteria)
        assert d.high - d.low == pytest.approx(2 * 0.05 * stats.norm.isf(0.00005))
        assert judge([d], 1, criteria).verdict is verdict


def test_criteria_are_arguments_of_compare_and_shown():
    one, other = engine(0, 10_000), engine(1, 10_000)
    asked = {"tolerances": Tolerances(quantiles=0.02), "level": 0.9983, "significance": 2e-4}
    comparison = compare(one=one, other=other, **asked)
    assert comparison.pairs[0].verdict is Verdict.CANNOT_TELL
    title = comparison.tables()[0].title
    assert "99.83 % simultaneous intervals within ±0.15 sd (mean, sd, median) and ±0.02 sd (5 and 95" in title
    assert "Holm p < 0.0002" in title
    (row,) = compare(one=one, other=other).tables()[0].rows
    assert row[2].split()[1:5] == ["sd,", "5", "and", "95"] and float(row[2].split()[0]) < float(row[2].split()[-2])


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"tolerances": 0.1}, TypeError, "tolerances: expected ssmscan.Tolerances, got 0.1"),
        ({"tolerances": Tolerances(sd=-0.1)}, ValueError, "tolerances.sd: expected a number strictly between 0 and 10"),
        ({"tolerances": Tolerances(mean="x")}, TypeError, "tolerances.mean"),
        ({"level": 99}, ValueError, "level: expected a number strictly between 0 and 1"),
        ({"significance": None}, TypeError, "significance: expected a number"),
    ],
)
def test_criteria_that_cannot_be_are_named(asked, error, message):
    with pytest.raises(error, match=message):
        compare(one=engine(0), other=engine(1), **asked)


def test_differences_carry_the_degrees_of_freedom_of_welch():
    rng = np.random.default_rng(0)
    runs = [rng.standard_normal((n, 300)) + rng.standard_normal((n, 1)) for n in (5, 12)]
    one, other = ({"a": summarise(x, independent_runs=True)} for x in runs)
    welch = stats.ttest_ind(runs[0].mean(axis=1), runs[1].mean(axis=1), equal_var=False)
    mean = differences(one, other)[0].estimate
    assert mean.df == pytest.approx(welch.df)
    assert mean.value / mean.error == pytest.approx(welch.statistic)


def test_more_draws_shrink_the_interval_into_the_tolerance():
    uncertain = with_intervals([Difference("a", "mean", Estimate(0.0, 0.1, np.inf))], DEFAULT)
    factor = more_draws(uncertain, 1, DEFAULT)
    half = stats.norm.isf(0.005) * 0.1 / np.sqrt(factor)
    # what remains of the tolerance is exceeded by the estimate with probability 0.1
    assert 2 * stats.norm.sf((0.15 - half) / (0.1 / np.sqrt(factor))) == pytest.approx(0.1)


def test_wasserstein_distance_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 500)), rng.gamma(2.0, size=(2, 700))
    one, other = summarise(x), summarise(y)
    scale = np.sqrt((x.var() + y.var()) / 2)
    expected = stats.wasserstein_distance(x.ravel(), y.ravel()) / scale
    assert wasserstein(Sample.of(x), Sample.of(y), one, other)[0] == pytest.approx(expected)


@pytest.mark.parametrize("time", [1.0, 10.0])
def test_wasserstein_of_equal_laws_is_its_null_value_on_average(time):
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(160):
        x, y = autoregression(rng, (2, 4, 1000), time)
        pairs.append(wasserstein(Sample.of(x), Sample.of(y), summarise(x), summarise(y)))
    distance, null = np.array(pairs).T
    standard_error = distance.std() / np.sqrt(len(distance))
    # three quantiles stand for the effective sizes of all: within 5 % of the null value
    assert abs(distance.mean() - null.mean()) < z_threshold(2) * standard_error + 0.05 * null.mean()


def test_costs_and_efficiency_stand_side_by_side():
    one = engine(0, costs=Costs(100.0, 1.0, 3.0, 0, 5000), log_evidence=222.9789, log_evidence_error=0.12)
    comparison = compare(nuts=one, pmmh=engine(1))
    report = comparison.engines[0]
    assert report.ess_per_second == report.smallest_ess / 4.0
    text = str(comparison)
    assert "222.98 ± 0.12" in text and "5000" in text and "nuts - pmmh" in text
    for name in ("Verdicts", "Differences", "Parameters", "Costs"):
        assert name in text and f"**{name}" in comparison.to_markdown()


def test_three_engines_make_three_pairs_in_one_family():
    comparison = compare(a=engine(0), b=engine(1), c=engine(2))
    assert isinstance(comparison, Comparison)
    assert [(p.first, p.second) for p in comparison.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    alone = compare(a=engine(0), b=engine(1)).pairs[0].differences[0]
    together = comparison.pairs[0].differences[0]
    assert together.estimate == alone.estimate
    assert together.high > alone.high


def test_other_parameters_are_refused_by_name():
    one = result({"phi": np.zeros((4, 10)), "beta": np.zeros((4, 10, 2))})
    other = result({"phi": np.zeros((4, 10)), "beta": np.zeros((4, 10, 3)), "mu": np.zeros((4, 10))})
    message = r"beta: shape \(2,\) in nuts, shape \(3,\) in pmmh; mu: absent from nuts, shape \(\) in pmmh"
    with pytest.raises(ValueError, match=message):
        compare(nuts=one, pmmh=other)


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="two results.*got 1"):
        compare(nuts=engine(0))
    with pytest.raises(TypeError, match="pmmh must be a Result, got dict"):
        compare(nuts=engine(0), pmmh={"phi": 1})
    with pytest.raises(ValueError, match="pmmh has no draws"):
        compare(nuts=engine(0), pmmh=result({"phi": np.zeros((4, 0))}))


@pytest.mark.slow
def test_error_rates_of_the_verdicts_on_a_small_scale():
    # 4 x 8000 draws with autocorrelation time 50 make an ESS of 640, just enough for a verdict
    null = compare_power.scenario(0, 8000, 0.0, repeats=8)
    assert compare_power.share(null, Verdict.DISAGREE) == 0.0
    shifted = compare_power.scenario(0, 25_000, 0.3, repeats=3)
    assert compare_power.share(shifted, Verdict.DISAGREE) == 1.0
    short = compare_power.scenario(0, 100, 0.0, repeats=5)
    assert compare_power.share(short, Verdict.CANNOT_TELL) == 1.0


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_error_rates_of_the_verdicts(seed):
    null = compare_power.scenario(seed, 25_000, 0.0)
    assert compare_power.share(null, Verdict.DISAGREE) <= 0.01
    judged = [pair for pair in null if np.isfinite(pair.differences[0].low)]
    held = sum(compare_power.covers(pair, 0.0) for pair in judged)
    assert len(judged) >= 190 and held >= stats.binom.ppf(ERROR_RATE, len(judged), 0.99)
    shifted = compare_power.scenario(seed, 25_000, 0.3)
    assert compare_power.share(shifted, Verdict.DISAGREE) >= 0.95
    short = compare_power.scenario(seed, 100, 0.0)
    assert compare_power.share(short, Verdict.CANNOT_TELL) == 1.0
