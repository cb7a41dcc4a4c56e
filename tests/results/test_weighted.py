"""What weighted points say, against the law they stand for, and against draws of equal weight."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from ssmscan.results.agreement import compare
from ssmscan.results.summary import PROBABILITIES, STATISTICS, Sample, summarise
from ssmscan.results.verdicts import Verdict, find_fault_of_weights, wasserstein
from ssmscan.results.weighted import effective_number, normalised, summarise_weighted
from tests.results.samples import result
from tests.results.weighted_coverage import NORMAL, SCENARIOS, study
from tests.truth import ERROR_RATE, z_threshold

GOOD = ("good", "wide", "off", "skew", "noisy")


def weighted(seed: int, number: int = 4000, scenario: str = "good", shift: float = 0.0, **changes):
    """Return a result of weighted points of N(shift, 1), from which its draws are resampled."""
    rng = np.random.default_rng(seed)
    x, log_weights = SCENARIOS[scenario].draw(rng, number)
    draws = {"phi": rng.choice(x + shift, (1, 500), p=normalised(log_weights))}
    fields = {"draws": draws, "points": {"phi": x + shift}, "log_weights": log_weights, "engine": "IS"} | changes
    return result(fields.pop("draws"), **fields)


def unweighted(seed: int, number: int = 4000, shift: float = 0.0):
    return result({"phi": np.random.default_rng(seed).standard_normal((4, number // 4)) + shift})


def wrong(found, scenario) -> np.ndarray:
    """Return for each statistic whether the mean of repetitions is off, or 95 % intervals hold too rarely."""
    repeats = len(found.values)
    z = (found.values.mean(axis=0) - scenario.truth) / (found.values.std(axis=0) / np.sqrt(repeats))
    # estimators of ratios and quantiles are biased by a small part of their error
    biased = np.abs(z) > z_threshold(10) + 0.1 * np.sqrt(repeats)
    least = stats.binom.ppf(ERROR_RATE / 10, repeats, 0.94)
    return biased | (found.coverage(scenario.truth, 0.95) * repeats < least)


@pytest.mark.parametrize("name", GOOD)
def test_estimates_and_their_intervals_are_right(name):
    scenario = SCENARIOS[name]
    assert not wrong(study(scenario, 0, 2000, 60), scenario).any()


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", GOOD)
def test_coverage_over_a_thousand_repetitions(name, seed):
    scenario = SCENARIOS[name]
    found = study(scenario, seed, 2000, 1000)
    assert not wrong(found, scenario).any()
    held = found.coverage(scenario.truth, 0.999) * len(found.values)
    assert np.all(held >= stats.binom.ppf(ERROR_RATE / 5, len(found.values), 0.997))
    spread = found.values.std(axis=0)
    np.testing.assert_allclose(np.sqrt(np.mean(found.errors**2, axis=0)) / spread, 1.0, atol=0.15)
    assert np.quantile(found.rhat, 0.99) < 1.04


@pytest.mark.parametrize(
    ("variant", "sees"),
    [
        (lambda x, w: summarise_weighted(x, np.full_like(w, 1 / len(w))), STATISTICS),
        (lambda x, w: summarise_weighted(x, w**2 / np.sum(w**2)), STATISTICS[:2]),
        (lambda x, w: summarise_weighted(x, np.minimum(w, 1.5 / len(w)) / np.minimum(w, 1.5 / len(w)).sum()), ()),
        (lambda x, w: _of_equal_weight(x, w), ("mean",)),
    ],
    ids=["moments of unweighted points", "squared weights", "truncated weights", "errors of unweighted points"],
)
def test_mistakes_with_weights_are_seen(variant, sees):
    scenario = SCENARIOS["off"]
    rejected = wrong(study(scenario, 0, 2000, 60, variant), scenario)
    assert rejected.any()
    assert {name for name, seen in zip(STATISTICS, rejected) if seen} >= set(sees)


def _of_equal_weight(x, w):
    """Summarise with the right estimates and the errors of as many draws of equal weight."""
    right, naive = summarise_weighted(x, w), summarise_weighted(x, np.full_like(w, 1 / len(w)))
    errors = zip(right.statistics, naive.statistics)
    return right._replace(statistics=tuple(a._replace(error=b.error * 0.6, df=1e6) for a, b in errors))


def test_equal_weights_are_draws():
    x = np.random.default_rng(0).gamma(3.0, size=4000)
    one, other = summarise_weighted(x, np.full(4000, 1 / 4000)), summarise(x[None])
    for a, b in zip(one.statistics, other.statistics):
        np.testing.assert_allclose(a.value, b.value, rtol=1e-3)
        np.testing.assert_allclose(a.error, b.error, rtol=0.12)
    np.testing.assert_allclose([one.ess_bulk, *one.ess_quantiles], 4000, rtol=0.01)
    assert abs(one.rhat - 1.0) < 0.01
    assert one.mean.df == pytest.approx(2 / (stats.kurtosis(x, fisher=False) - 1) * 4000, rel=0.01)


def test_a_point_of_weight_three_is_three_points():
    rng = np.random.default_rng(0)
    x, times = rng.standard_normal(50), rng.integers(1, 4, 50)
    w = times / times.sum()
    found, repeated = summarise_weighted(x, w), np.repeat(x, times)
    np.testing.assert_allclose([found.mean.value, found.sd.value], [repeated.mean(), repeated.std()])
    low, high = (np.quantile(repeated, PROBABILITIES, method=m) for m in ("lower", "higher"))
    for estimate, a, b in zip(found.statistics[2:], low, high):
        assert a - 0.3 <= estimate.value <= b + 0.3
    assert effective_number(np.log(w)) == pytest.approx(1 / np.sum(w**2))


def test_units_of_weights_and_points_without_any_change_nothing():
    x, log_weights = SCENARIOS["off"].draw(np.random.default_rng(0), 500)
    found = summarise_weighted(x, normalised(log_weights))
    scaled = summarise_weighted(x, normalised(log_weights - 1e4))
    np.testing.assert_allclose(np.array(scaled.statistics), np.array(found.statistics), rtol=1e-9)
    more = np.concatenate([x, [np.nan, np.inf, -np.inf, 0.0]]), np.concatenate([log_weights, np.full(4, -np.inf)])
    with_more = summarise_weighted(more[0], normalised(more[1]))
    np.testing.assert_allclose(np.array(with_more.statistics), np.array(found.statistics), rtol=0.02)
    np.testing.assert_array_equal([e.value for e in with_more.statistics], [e.value for e in found.statistics])


@pytest.mark.parametrize(
    ("x", "log_weights"),
    [
        (np.arange(100.0), np.full(100, -np.inf)),
        (np.arange(100.0), np.where(np.arange(100) == 3, 0.0, -np.inf)),
        (np.arange(100.0), np.where(np.arange(100) == 3, 0.0, -1e4)),
        (np.where(np.arange(100) == 3, np.nan, 1.0), np.zeros(100)),
        (np.ones(100), np.zeros(100)),
        (np.arange(5.0), np.zeros(5)),
    ],
    ids=["no weight", "one point", "one point in effect", "not finite", "constant", "few"],
)
def test_what_has_no_error_says_so(x, log_weights):
    found = summarise_weighted(x, normalised(log_weights))
    assert np.isnan([found.mean.error, found.ess_bulk, found.ess_tail, found.rhat]).all()


@pytest.mark.parametrize("share", [0.6, 1 - 1e-9, 1 - 1e-16])
def test_a_point_with_nearly_all_weight_breaks_nothing(share):
    w = np.full(1000, (1 - share) / 999)
    w[7] = share
    found = summarise_weighted(np.random.default_rng(0).standard_normal(1000), w / w.sum())
    assert np.isfinite([e.value for e in found.statistics]).all()


def test_pieces_that_differ_have_a_large_rhat():
    x = np.random.default_rng(0).standard_normal(4000)
    w = np.full(4000, 1 / 4000)
    assert summarise_weighted(x, w).rhat < 1.01
    assert summarise_weighted(x + np.repeat([0.0, 0.0, 0.0, 0.5], 1000), w).rhat > 1.01
    assert summarise_weighted(x * np.repeat([1.0, 1.0, 1.0, 2.0], 1000), w).rhat > 1.01


def test_no_points_are_an_error():
    with pytest.raises(ValueError, match="one a point"):
        summarise_weighted(np.zeros(0), np.zeros(0))


def test_a_result_of_points_is_about_points_everywhere(tmp_path):
    made = weighted(0, 10_000, "off")
    x, w = made.points["phi"], normalised(made.log_weights)
    np.testing.assert_allclose(made.mean()["phi"], w @ x)
    assert made.summaries["phi"] == summarise_weighted(x, w)
    assert made.title == f"IS: 10,000 points, {made.effective_points:,.0f} effective"
    assert str(made.summary()).startswith(made.title) and repr(made).startswith(made.title)
    assert made.concerns() == () and made.tail_index < 0.5
    assert unweighted(0).tail_index is None
    assert dataclasses.replace(made, interrupted=True).title.endswith("effective, interrupted")
    report = compare(points=made, draws=unweighted(1)).engines[0]
    assert report.size == f"10000 points, {made.effective_points:.0f} effective"


def test_matrices_of_points_have_their_means():
    rng = np.random.default_rng(0)
    points, log_weights = rng.standard_normal((50, 2, 3)), rng.standard_normal(50)
    made = result({"beta": points[None]}, points={"beta": points}, log_weights=log_weights)
    w = normalised(log_weights)
    np.testing.assert_allclose(made.mean()["beta"], np.einsum("i,ijk->jk", w, points))
    np.testing.assert_allclose(made.summaries["beta[1,2]"].mean.value, w @ points[:, 1, 2])


def test_the_distance_of_weighted_samples_is_that_of_scipy():
    x, log_weights = SCENARIOS["off"].draw(np.random.default_rng(0), 700)
    y = np.random.default_rng(1).standard_normal(900)
    w = normalised(log_weights)
    one, other = summarise_weighted(x, w), summarise(y[None])
    scale = np.sqrt((one.sd.value**2 + other.sd.value**2) / 2)
    expected = stats.wasserstein_distance(x, y, w) / scale
    assert wasserstein(Sample(x, w), Sample.of(y), one, other)[0] == pytest.approx(expected)
    assert wasserstein(Sample.of(y), Sample(x, w), other, one)[0] == pytest.approx(expected)


def test_weighted_points_and_draws_of_one_law_agree_and_of_two_do_not():
    assert compare(a=weighted(0, 8000, "off"), b=unweighted(1, 8000)).pairs[0].verdict is Verdict.AGREE
    assert compare(a=weighted(0, 8000), b=unweighted(1, 8000, 0.4)).pairs[0].verdict is Verdict.DISAGREE
    # resampled draws of the same points are nothing to go by
    with pytest.raises(ValueError, match="a and b hold the same draws"):
        compare(a=weighted(0), b=dataclasses.replace(weighted(0), draws=unweighted(3).draws))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, lw: lw - 1e6 * (np.arange(len(x)) != 3), "one of 4,000 points has 100 % of the weight"),
        (lambda x, lw: np.full_like(lw, -np.inf), "no point has any weight"),
        (lambda x, lw: np.random.default_rng(0).pareto(1.0, len(x)), "of the weight"),
        (lambda x, lw: np.log(np.random.default_rng(0).pareto(1.1, len(x))), "k-hat of the weights is 1.07 > 0.70"),
    ],
    ids=["one point", "none", "overwhelming", "heavy"],
)
def test_weights_that_cannot_be_relied_on_are_told_and_get_no_verdict(change, words):
    made = weighted(0)
    made = dataclasses.replace(made, log_weights=change(made.points["phi"], made.log_weights))
    (sentence,) = made.concerns()
    assert words in sentence and "use another engine" in sentence
    judgement = compare(points=made, draws=unweighted(1)).pairs[0].judgement
    assert judgement.verdict is Verdict.CANNOT_TELL and words in judgement.reason and np.isnan(judgement.more_draws)


def test_few_effective_points_are_told_with_how_many_are_needed():
    (sentence,) = weighted(0, 600, "wide").concerns()
    assert "effective points < 400" in sentence and "times as many" in sentence and "The points" in sentence


@pytest.mark.parametrize(("scale", "told"), [(0.45, True), (1.0, False)])
def test_a_proposal_with_light_tails_is_known_from_the_squares(scale, told):
    rng = np.random.default_rng(0)
    x = scale * rng.standard_normal(10_000)
    log_weights = NORMAL.logpdf(x) - stats.norm.logpdf(x, scale=scale)
    fault = find_fault_of_weights(log_weights, {"phi": Sample(x, normalised(log_weights))})
    assert (fault is not None) is told


def test_squares_show_what_weights_alone_do_not():
    found = [0, 0]
    for seed in range(20):
        x, log_weights = SCENARIOS["bad"].draw(np.random.default_rng(seed), 10_000)
        points = {"phi": Sample(x, normalised(log_weights))}
        found[0] += find_fault_of_weights(log_weights, {}) is not None
        found[1] += find_fault_of_weights(log_weights, points) is not None
    assert found[1] >= 10 > 2 * found[0]
