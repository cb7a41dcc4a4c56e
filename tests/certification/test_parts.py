"""What a certificate rests on: short series, places of data, positions, and the words of the certificate."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.special import softmax
from scipy.stats import kstest

import ssmscan
from ssmscan.certification.calibration import weighted_positions
from ssmscan.certification.certificate import Certificate, Finding, Outcome
from ssmscan.certification.conditional_likelihood import position
from ssmscan.certification.exact_draws import draw_exactly, find_places, with_simulated
from ssmscan.certification.likelihood import compare_positions
from ssmscan.certification.oracles import local_level
from ssmscan.certification.replicates import compare_before_and_after
from ssmscan.certification.short_series import short_series
from ssmscan.results.table import Table
from tests.certification.models import READINGS, autoregression, jittered


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(autoregression, READINGS)


def test_a_long_series_is_cut_and_a_short_one_left_alone(ssm):
    found = short_series(ssm, 5)
    assert found.is_short and found.ssm.num_steps == 5
    np.testing.assert_allclose(found.ssm.observed["y"], READINGS[:5], rtol=1e-6)
    assert short_series(ssm, 20).ssm is ssm


def test_a_value_before_the_loop_is_cut_with_the_series():
    found = short_series(ssmscan.trace(local_level, np.arange(30.0)), 6)
    assert found.is_short and found.ssm.num_steps == 6
    assert found.ssm.observed["first_flow"] == 0.0
    np.testing.assert_array_equal(found.ssm.observed["flow"], np.arange(1.0, 7.0))


def test_a_model_that_takes_no_shorter_data_is_left_as_it_is():
    def fixed(y):
        assert len(y) == len(READINGS)
        autoregression(y)

    found = short_series(ssmscan.trace(fixed, READINGS), 5)
    assert not found.is_short and found.ssm.num_steps == len(READINGS) and "does not take" in found.note


@pytest.mark.parametrize("missing", [[], pytest.param([3, 4], marks=pytest.mark.slow)])
def test_data_enter_where_they_are_observed_and_missing_ones_stay_missing(missing):
    y = READINGS.copy()
    y[missing] = np.nan
    traced = ssmscan.trace(autoregression, y)
    new = np.arange(1.0, 1.0 + len(y))
    found = with_simulated(traced, find_places(traced), {"y": jnp.asarray(new)}).observed["y"]
    np.testing.assert_array_equal(found, np.where(np.isnan(y), np.nan, new))


def under_a_mask(y, seen):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(x, inputs):
        y, seen = inputs
        x = numpyro.sample("x", dist.Normal(x, scale))
        numpyro.sample("y", dist.Normal(x, 0.7).mask(seen), obs=y)
        return x, None

    scan(step, 0.0, (y, seen))


@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_drawn_where_nothing_is_observed_is_not_among_the_data(masked):
    """It follows the states: a statistic of it would change where a sampler moves them, though by their law."""
    seen = np.arange(6) % 3 > 0
    if masked:
        traced = ssmscan.trace(under_a_mask, READINGS[:6], seen)
    else:
        traced = ssmscan.trace(autoregression, np.where(seen, READINGS[:6], np.nan))
    places = find_places(traced)
    np.testing.assert_array_equal(places.silent["y"], ~seen)
    np.testing.assert_array_equal(places.missing["y"], np.zeros(6, bool) if masked else ~seen)
    found = draw_exactly(jax.random.key(0), traced, places).data["y"]
    np.testing.assert_array_equal(found == 0, ~seen)


def test_a_value_before_the_loop_has_a_place_of_its_own():
    traced = ssmscan.trace(local_level, np.arange(6.0))
    places = find_places(traced)
    assert {place.site: list(place.to) for place in places.places} == {"first_flow": [0], "flow": [1, 2, 3, 4, 5]}


def test_data_that_the_model_computes_have_no_place():
    found = find_places(ssmscan.trace(jittered, np.exp(READINGS)))
    assert "'y'" in found.reason and not found.places


def drawn_by_weights(rng, replicates, n):
    """Return logarithms of weights (replicates, n), the first of which is drawn by the weights."""
    logs = rng.normal(0.0, 1.5, (replicates, n))
    chosen = (logs + rng.gumbel(size=logs.shape)).argmax(axis=1)
    rows = np.arange(replicates)
    logs[rows, 0], logs[rows, chosen] = logs[rows, chosen], logs[rows, 0]
    return logs


@pytest.mark.parametrize("own", ["drawn", "anyone"])
def test_positions_are_uniform_where_the_first_was_drawn_by_weight(own):
    rng = np.random.default_rng(0)
    logs = drawn_by_weights(rng, 4000, 4) if own == "drawn" else rng.normal(0.0, 1.5, (4000, 4))
    keys = jax.random.split(jax.random.key(0), len(logs))
    found = np.asarray(jax.jit(jax.vmap(lambda key, row: position(key, row, row)))(keys, jnp.asarray(logs)))
    on_host = np.array([weighted_positions(row[:, None], row, rng)[0] for row in logs])
    for positions in (found, on_host):
        assert (kstest(positions, "uniform").pvalue > 1e-4) == (own == "drawn")
        assert compare_positions(positions, logs, 1e-4, 1.28).passed == (own == "drawn")


def placed(rng, logs, nats):
    """Return the position of the first among estimates that are wrong by a factor."""
    wrong = logs + np.where(np.arange(logs.shape[1]) == 0, 0.0, nats)
    weights = softmax(wrong, axis=1)
    below = np.where(wrong < wrong[:, :1], weights, 0.0).sum(axis=1)
    return below + weights[:, 0] * rng.random(len(logs))


def test_the_factor_that_would_be_seen_is_seen():
    rng = np.random.default_rng(1)
    logs = drawn_by_weights(rng, 2000, 6)
    clean = compare_positions(placed(rng, logs, 0.0), logs, 1e-4, 1.2816)
    assert clean.passed

    def seen(nats):
        found = []
        for _ in range(60):
            logs = drawn_by_weights(rng, 2000, 6)
            found.append(abs(placed(rng, logs, nats).mean() - 0.5) * np.sqrt(12 * 2000) > clean.threshold)
        return np.mean(found)

    # With probability .9: 45 of 60 or fewer happens once in two thousand times.
    assert seen(clean.visible) > 0.75
    assert seen(clean.visible / 3) < 0.25


def test_a_shift_that_would_be_seen_is_seen():
    rng = np.random.default_rng(2)
    names = ("a", "square of a")

    def chain(shift, part=0.6, size=2000):
        before = rng.normal(0.0, 1.0, size)
        after = part * before + (1 - part) * shift + np.sqrt(1 - part**2) * rng.normal(0.0, 1.0, size)
        pair = [np.column_stack([x, x**2]) for x in (before, after)]
        return compare_before_and_after(*pair, rng.normal(size=(size, 3)), names, 1e-4, 1.2816)

    clean = chain(0.0)
    assert clean.passed and clean.moved == 1.0
    seen = [not chain(clean.visible).passed for _ in range(100)]
    assert np.mean(seen) > 0.8
    assert np.mean([chain(clean.visible / 3).passed for _ in range(20)]) > 0.8


def test_a_certificate_is_true_where_nothing_failed_and_says_what_it_saw():
    good = Finding("densities", Outcome.PASSED, "Parts against NumPyro.", 0.2, 1.0, "of rounding", "1e-3 nats", "", 1.0)
    bad = good._replace(check="PMMH", outcome=Outcome.FAILED, statistic=9.0, threshold=4.9, advice="Report it.")
    none = Finding("NUTS", Outcome.SKIPPED, "Not tested.", advice="A count has no gradient.")
    sound, wrong = Certificate((good, none), "All."), Certificate((good, bad, none), "All.")
    assert sound and sound.passed and not wrong and wrong.failed == ("PMMH",)
    assert not Certificate((none,), "Nothing.")
    for text in (str(wrong), wrong._repr_html_(), wrong.to_markdown()):
        for part in ("PMMH", "FAILED", "Report it.", "1e-3 nats", "does not apply", "A count has no gradient."):
            assert part in text
    assert isinstance(wrong.table(), Table)


def test_what_cannot_be_certified_is_refused(ssm):
    with pytest.raises(TypeError, match="traced model"):
        ssmscan.certify(autoregression)
    with pytest.raises(ValueError, match="seconds"):
        ssmscan.certify(ssm, seconds=-1.0)
    with pytest.raises(ValueError, match=r"what ssmscan\.trace returned"):
        ssmscan.certify(ssmscan.StateSpaceModel(ssm.cores))
