"""The groups of ArviZ: which arrays are in which, with which dimensions, and ArviZ's own functions on them."""

import arviz
import numpy as np
import pytest

from ssmscan.labels import Labels
from ssmscan.results.densities import PredictiveDensities
from ssmscan.results.predictions import Predictions
from tests.results.samples import result

CHAINS, DRAWS, STEPS, AHEAD = 2, 60, 7, 3
DATES = np.arange("2024-01", "2024-11", dtype="datetime64[M]")
PATHS = np.array([5, 15, 25, 35])
RNG = np.random.default_rng(0)
LABELS = Labels({"time": DATES[:STEPS], "place": ["Aarhus", "Bergen"]}, {"y": ("place",)})
LONGER = Labels({"time": DATES, "place": ["Aarhus", "Bergen"]}, {"y": ("place",)})


def fitted(**changes):
    fields = {
        "states": {
            "x": RNG.standard_normal((CHAINS, len(PATHS), STEPS)),
            "x_0": RNG.standard_normal((CHAINS, len(PATHS))),
        },
        "state_draws": PATHS,
        "initial": ("x_0",),
        "observed": {"y": RNG.standard_normal((STEPS, 2))},
        "constants": {"rain": np.ones(STEPS)},
        "labels": LABELS,
    } | changes
    return result({"sigma": RNG.standard_normal((CHAINS, DRAWS))}, **fields)


def predicted(steps=STEPS + AHEAD, labels=LONGER):
    data = np.full((steps, 2), np.nan)
    data[:STEPS] = RNG.standard_normal((STEPS, 2))
    return Predictions(
        {
            "x_0": np.zeros((CHAINS, 4)),
            "x": RNG.standard_normal((CHAINS, 4, steps)),
            "y": RNG.standard_normal((CHAINS, 4, steps, 2)),
        },
        labels,
        {"y": data},
        {"x": STEPS, "y": STEPS},
        ("x_0",),
        ("x_0",),
        PATHS,
    )


def densities(exact=False):
    values = RNG.normal(-1.0, 0.1, (CHAINS, 30, STEPS))
    ess = np.full(values.shape, np.inf if exact else 50.0)
    draws = np.arange(0, DRAWS, 2)
    return PredictiveDensities(values, ess, np.zeros(values.shape[:2], int), draws, None, (), (("y", STEPS),))


def test_one_object_is_split_where_the_forecast_begins():
    both = predicted()
    tree = fitted().to_arviz(posterior_predictive=both, predictions=both)
    within, beyond = tree["posterior_predictive"], tree["predictions"]
    assert set(within.data_vars) == {"y"} and set(beyond.data_vars) == {"x", "y"}
    np.testing.assert_array_equal(within["y"].values, both["y"][:, :, :STEPS])
    np.testing.assert_array_equal(beyond["y"].values, both["y"][:, :, STEPS:])
    assert within["y"].dims == beyond["y"].dims == ("chain", "draw", "time", "place")
    for group, dates in ((within, DATES[:STEPS]), (beyond, DATES[STEPS:])):
        np.testing.assert_array_equal(group["time"].values.astype("datetime64[M]"), dates)
        np.testing.assert_array_equal(group["draw"].values, PATHS)
    np.testing.assert_array_equal(tree["observed_data"]["time"].values, within["time"].values)


def test_without_dates_the_times_of_a_forecast_go_on():
    tree = fitted(labels=Labels()).to_arviz(predictions=predicted(labels=Labels()))
    np.testing.assert_array_equal(tree["predictions"]["time"].values, STEPS + np.arange(AHEAD))


def test_no_steps_ahead_are_no_forecast():
    in_sample = predicted(STEPS, LABELS)
    with pytest.raises(ValueError, match="there is no forecast. Trace it with more steps"):
        fitted().to_arviz(predictions=in_sample)
    with pytest.raises(TypeError, match="predictions: expected what ssmscan.predict returned"):
        fitted().to_arviz(predictions={"y": in_sample["y"]})


def test_draws_from_the_prior_have_their_groups():
    prior = Predictions(
        {
            "sigma": RNG.standard_normal((1, 9)),
            "x_0": np.zeros((1, 9)),
            "x": np.zeros((1, 9, STEPS)),
            "y": RNG.standard_normal((1, 9, STEPS, 2)),
        },
        LABELS,
        {"y": np.zeros((STEPS, 2))},
        {"x": 0, "y": 0},
        ("sigma", "x_0"),
        ("x_0",),
    )
    for tree in (fitted().to_arviz(prior=prior), prior.to_arviz()):
        assert set(tree["prior"].data_vars) == {"sigma"}
        assert set(tree["prior_states"].data_vars) == {"x", "x_0"}
        assert tree["prior_predictive"]["y"].dims == ("chain", "draw", "time", "place")
        assert tree["observed_data"]["y"].dims == ("time", "place")
    with pytest.raises(ValueError, match="prior: expected what ssmscan.prior_predictive returned"):
        fitted().to_arviz(prior=predicted())


def test_predictions_alone_have_both_groups_and_the_data_up_to_the_forecast():
    tree = predicted().to_arviz()
    assert tree["posterior_predictive"].sizes["time"] == tree["observed_data"].sizes["time"] == STEPS
    assert tree["predictions"].sizes["time"] == AHEAD and not np.isnan(tree["observed_data"]["y"].values).any()


def test_predictive_densities_are_what_loo_reads_and_say_what_they_are():
    found = densities()
    tree = fitted().to_arviz(log_likelihood=found)
    group = tree["log_likelihood"]
    assert group["y"].dims == ("chain", "draw", "time") and "one-step-ahead" in group.attrs["kind"]
    np.testing.assert_array_equal(group["draw"].values, found.draws)
    # Nothing depends on the draw but noise of sd 0.1: the score is near the log of the mean density.
    loo = arviz.loo(tree, var_name="y")
    value = float(getattr(loo, "elpd_loo", getattr(loo, "elpd", np.nan)))
    assert abs(value - np.log(np.exp(found.increments).mean((0, 1))).sum()) < 0.5


def test_arviz_summarises_parameters_and_not_a_row_for_each_state():
    tree = fitted().to_arviz()
    assert list(arviz.summary(tree).index) == ["sigma"]
    assert len(arviz.summary(tree, group="states")) == STEPS + 1
