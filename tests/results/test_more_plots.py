"""Forecasts, evidence and genealogies show what the numbers say; how they look is for eyes (`figures.py`)."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ssmscan.inference.smc2_record import RunningPosterior
from ssmscan.labels import Labels
from ssmscan.particles.clouds import History, Kept, Tree
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.smoothing import SmoothingResult
from ssmscan.results import plots
from ssmscan.results.predictions import Predictions
from tests.results.made_up import STEPS, made_up

SEEN, AHEAD = 30, 6
DATES = np.datetime64("2020-01") + np.arange(SEEN + AHEAD)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def ribbon(collection, x):
    """Return low and high of a filled area at each x."""
    vertices = collection.get_paths()[0].vertices
    return np.array([[f(vertices[np.isclose(vertices[:, 0], t), 1]) for t in x] for f in (np.min, np.max)])


def named(ax, gid):
    return next(line for line in ax.lines if line.get_gid() == gid)


# ---- forecast ----------------------------------------------------------------------------------------


def predictions(**changes):
    rng = np.random.default_rng(0)
    shape = (2, 50, SEEN + AHEAD)
    data = np.where(np.arange(SEEN + AHEAD) < SEEN, rng.standard_normal(SEEN + AHEAD), np.nan)
    data[3] = np.nan
    fields = {
        "draws": {
            "x": rng.standard_normal(shape),
            "y": rng.standard_normal((*shape, 2)),
            "z": rng.integers(0, 3, shape),
            "count": rng.integers(0, 4, shape),
            "start": rng.standard_normal(shape[:2]),
        },
        "observed": {"y": np.stack([data, -data], -1), "count": np.zeros(SEEN + AHEAD)},
        "known": dict.fromkeys(("x", "y", "z", "count"), SEEN),
        "initial": ("start",),
    }
    return Predictions(**(fields | changes))


def test_a_forecast_of_data_is_points_and_a_fan_from_the_origin():
    made = predictions()
    later = np.full(SEEN + AHEAD, np.nan)
    later[-2:] = 9.0
    ax = plots.forecast(made, "y", element=(1,), bands=(0.5, 0.8))
    paths = made["y"][..., 1].reshape(-1, SEEN + AHEAD)
    ahead = np.arange(SEEN + 1, SEEN + AHEAD + 1)
    history, wide, narrow = ax.collections
    np.testing.assert_allclose(ribbon(history, range(1, SEEN + 1)), np.quantile(paths[:, :SEEN], [0.1, 0.9], axis=0))
    for area, band in ((wide, 0.8), (narrow, 0.5)):
        levels = np.quantile(paths[:, SEEN:], [0.5 - band / 2, 0.5 + band / 2], axis=0)
        np.testing.assert_allclose(ribbon(area, ahead), levels)
    centre = named(ax, "forecast")
    np.testing.assert_array_equal(centre.get_xdata(), ahead)
    np.testing.assert_allclose(centre.get_ydata(), np.median(paths[:, SEEN:], axis=0))
    np.testing.assert_array_equal(named(ax, "observed").get_ydata(), made.observed["y"][:SEEN, 1])
    np.testing.assert_allclose(named(ax, "origin").get_xdata(), SEEN + 0.5)
    assert texts(ax) == ["new draws, 80 %", "80 %", "50 %", "y[1], forecast median", "observed"]
    ax = plots.forecast(made, "y", element=(1,), observed=later)
    assert texts(ax)[-1] == "observed later"
    np.testing.assert_array_equal(named(ax, "observed later").get_ydata(), later[SEEN:])


def test_a_forecast_has_the_dates_of_the_predictions_and_as_much_history_as_is_asked_for():
    made = predictions(labels=Labels({"time": DATES}))
    ax = plots.forecast(made, "x", history=5)
    assert ax.get_xlabel() == "time"
    given = next(line for line in ax.lines if line.get_gid() == "history")
    np.testing.assert_array_equal(given.get_xdata().astype("datetime64[M]"), DATES[SEEN - 5 : SEEN])
    np.testing.assert_allclose(given.get_ydata(), np.median(made["x"].reshape(-1, SEEN + AHEAD), 0)[SEEN - 5 : SEEN])
    assert "x given the data" in texts(ax)
    assert "origin" not in [line.get_gid() for line in plots.forecast(made, "x", history=0).lines]


def test_draws_of_a_prior_are_all_fan_and_one_step_ahead_is_a_bar():
    prior = plots.forecast(predictions(known={"x": 0}, observed={}), "x")
    assert texts(prior) == ["90 %", "50 %", "x, prior median"]
    assert len(named(prior, "prior").get_xdata()) == SEEN + AHEAD
    made = predictions(known={"x": SEEN + AHEAD - 1})
    bar = plots.forecast(made, "x").collections[-2].get_segments()[0]
    np.testing.assert_allclose(bar[:, 1], np.quantile(made["x"].reshape(-1, SEEN + AHEAD)[:, -1], [0.05, 0.95]))


def test_a_forecast_of_regimes_is_probabilities_and_of_counts_a_fan():
    made = predictions()
    ax = plots.forecast(made, "z", history=2)
    first = (made["z"].reshape(-1, SEEN + AHEAD) == 0).mean(0)[SEEN - 2 :]
    np.testing.assert_allclose(ribbon(ax.collections[0], range(SEEN - 1, SEEN + AHEAD + 1))[1], first)
    assert named(ax, "origin") is not None
    assert "count, forecast median" in texts(plots.forecast(made, "count"))


# ---- evidence ----------------------------------------------------------------------------------------


def filter_run(increments, static=0.0, **changes):
    increments = np.asarray(increments, float)
    fields = {
        "increments": increments,
        "log_likelihood": increments.sum(-1) + static,
        "uses_later_data": False,
        "start_observed": False,
        "proposal": "Bootstrap",
    }
    return SimpleNamespace(**(fields | changes))


def test_evidence_of_replicates_is_that_of_their_mean_likelihood_with_its_error():
    increments = np.random.default_rng(0).normal(-3.0, 0.2, (10, 5))
    ax = plots.evidence(filter_run(increments, static=-7.0))
    sums = np.cumsum(np.concatenate([np.full((10, 1), -7.0), increments], 1), 1)
    likelihood = np.exp(sums)
    mean = likelihood.mean(0)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.log(mean))
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(6))
    error = likelihood.std(0, ddof=1) / np.sqrt(10) / mean
    np.testing.assert_allclose(
        ribbon(ax.collections[0], np.arange(6)), [np.log(mean) - 2 * error, np.log(mean) + 2 * error]
    )
    # the start is at step 0, and one run has no band
    alone = plots.evidence(filter_run(increments[0], start_observed=True))
    np.testing.assert_allclose(alone.lines[0].get_ydata(), np.cumsum(increments[0]))
    assert not alone.collections


def test_evidence_of_models_is_bayes_factors_against_the_first():
    running = SimpleNamespace(log_evidence=-np.arange(6.0), log_evidence_error=np.full(6, 0.3))
    other = SimpleNamespace(log_evidence=-2 * np.arange(6.0), log_evidence_error=np.full(6, 0.4))
    years = np.arange(1900, 1905)
    ax = plots.evidence({"one": running, "two": other, "three": filter_run(-np.ones(5))}, times=years)
    assert ax.get_ylabel() == "log Bayes factor against one"
    _, two, three = ax.lines
    np.testing.assert_array_equal(two.get_xdata(), years)
    np.testing.assert_allclose(two.get_ydata(), -np.arange(1.0, 6.0))
    np.testing.assert_allclose(three.get_ydata(), 0.0)
    np.testing.assert_allclose(np.diff(ribbon(ax.collections[0], years), axis=0), 4 * 0.5)
    np.testing.assert_allclose(np.diff(ribbon(ax.collections[1], years), axis=0), 4 * 0.3)
    assert texts(ax) == ["two: −5.00 ± 0.50 at the end", "three: 0.00 ± 0.30 at the end"]


# ---- genealogy ---------------------------------------------------------------------------------------


def stored(ancestors, values, **changes):
    """Return a filter that kept all clouds; both (T, N)."""
    steps = SimpleNamespace(ancestors=np.asarray(ancestors), values={"x": np.asarray(values, float)})
    history = SimpleNamespace(steps=steps, first=np.array(0))
    fields = {"history": history, "num_particles": len(ancestors[0]), "panel": None, "status": np.array(0)}
    return SimpleNamespace(**(fields | changes))


ANCESTORS = [[0, 1, 2, 3], [1, 1, 2, 2], [0, 1, 1, 1], [0, 1, 2, 2]]


def tree_of(ancestors, values):
    """Return the same as a tree, all of whose nodes are kept."""
    ancestors, values = np.asarray(ancestors), np.asarray(values, float)
    t, n = ancestors.shape
    parents = ancestors + n * (np.arange(t)[:, None] - 1)
    parents[0] = -1 - ancestors[0]
    return SimpleNamespace(
        parents=parents.ravel(),
        values={"x": values.ravel()},
        last=np.array(n * (t - 1)),
        num_steps=t,
        lost=np.array(-1),
    )


@pytest.mark.parametrize("as_tree", [False, True])
def test_lines_are_the_ancestors_of_the_last_cloud(as_tree):
    values = np.arange(16.0).reshape(4, 4)
    filtered = stored(ANCESTORS, values)
    if as_tree:
        filtered.history = tree_of(ANCESTORS, values)
    ax = plots.genealogy(filtered, "x")
    lines = next(c for c in ax.collections if c.get_gid() == "lines")
    found = {(int(x0), int(a), int(x1), int(b)) for (x0, a), (x1, b) in lines.get_segments()}
    # particle 0 of step 1 has no child; 0 and 1 of step 2 have the parent 1, which all of the last cloud descend from
    assert found == {(1, 1, 2, 4), (1, 1, 2, 5), (2, 4, 3, 8), (2, 5, 3, 9), (2, 5, 3, 10)} | {
        (3, 8, 4, 12),
        (3, 9, 4, 13),
        (3, 10, 4, 14),
        (3, 10, 4, 15),
    }
    assert texts(ax)[-2:] == ["1 ancestor of 4 particles at step 1", "one common ancestor up to step 1"]
    points = [line for line in ax.lines if line.get_gid() == "particles"]
    assert bool(points) is not as_tree
    # a part of the last cloud: the numbers are still of all
    fewer = plots.genealogy(filtered, "x", num_lines=2)
    assert len(next(c for c in fewer.collections if c.get_gid() == "lines").get_segments()) < len(found)
    assert texts(fewer)[-2:] == texts(ax)[-2:]


def test_lines_of_an_element_of_a_panel_are_its_own():
    ancestors = np.stack([ANCESTORS, np.tile(np.arange(4), (4, 1))], axis=1)
    values = np.arange(32.0).reshape(4, 4, 2)
    panel = SimpleNamespace(size=2, values=(("x", -1),))
    filtered = stored(ANCESTORS, values, panel=panel)
    filtered.history.steps.ancestors = ancestors
    assert "4 ancestors of 4 particles at step 1" in texts(plots.genealogy(filtered, "x", element=(1,)))
    assert "1 ancestor of 4 particles at step 1" in texts(plots.genealogy(filtered, "x", element=(0,)))
    with pytest.raises(ValueError, match="panel of 2 series.*choose a scalar"):
        plots.genealogy(filtered, "x")


def test_what_is_made_up_here_has_the_names_of_what_filters_and_smoothers_return():
    for made, real in [
        (vars(filter_run(np.ones(3))), FilterResult),
        (vars(stored(ANCESTORS, ANCESTORS)), FilterResult),
        (vars(stored(ANCESTORS, ANCESTORS).history), History),
        (vars(stored(ANCESTORS, ANCESTORS).history.steps), Kept),
        (vars(tree_of(ANCESTORS, ANCESTORS)), Tree),
        (("paths", "mean", "sd", "exact", "log_likelihood", "labels"), SmoothingResult),
        (("log_evidence", "log_evidence_error"), RunningPosterior),
        (("labels",), FilterResult),
    ]:
        fields = getattr(real, "__dataclass_fields__", getattr(real, "_fields", ()))
        assert set(made) <= {*fields, *dir(real)}, real


# ---- smoothers, and times of labels ------------------------------------------------------------------


def test_a_smoother_is_drawn_by_its_paths_or_by_its_exact_moments():
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((50, STEPS)), (rng.random((50, STEPS)) < 0.3).astype(int)
    mean = {"x": np.zeros(STEPS), "z": np.full(STEPS, 0.25), "start": np.zeros(())}
    sd = {"x": np.ones(STEPS), "z": np.full(STEPS, np.sqrt(0.25 * 0.75)), "start": np.ones(())}
    made = SimpleNamespace(paths={"x": x, "z": z}, mean=mean, sd=sd, exact=(), log_likelihood=0.0)
    steps = np.arange(1, STEPS + 1)
    ax = plots.states(made, "x")
    np.testing.assert_allclose(ribbon(ax.collections[0], steps), np.quantile(x, [0.05, 0.95], axis=0))
    assert texts(ax)[-1] == "x, smoothed median"
    np.testing.assert_allclose(ribbon(plots.states(made, "z").collections[0], steps)[1], z.mean(0))
    exact = SimpleNamespace(**(vars(made) | {"exact": ("x", "z")}))
    assert texts(plots.states(exact, "x"))[-1] == "x, smoothed mean"
    np.testing.assert_allclose(ribbon(plots.states(exact, "z").collections[0], steps)[1], 0.25)
    # paths of the last steps alone
    lagged = SimpleNamespace(**(vars(made) | {"paths": {"x": x[:, -5:]}}))
    np.testing.assert_allclose(ribbon(plots.states(lagged, "x").collections[0], steps)[1], 1.645, atol=1e-3)
    with pytest.raises(KeyError, match=r"no state 'start' with a time axis; it has \['x', 'z'\]"):
        plots.states(made, "start")


def test_times_of_labels_are_those_of_the_axis():
    *_, filtered = made_up()
    days = np.datetime64("1997-01-02") + np.arange(STEPS)
    dated = SimpleNamespace(**(vars(filtered) | {"labels": Labels({"time": days})}))
    for ax in (plots.states(dated, "x"), plots.ess(dated)):
        assert ax.get_xlabel() == "time"
        np.testing.assert_array_equal(ax.lines[-2 if ax.get_yscale() == "log" else -1].get_xdata()[-1], days[-1])
    worded = SimpleNamespace(**(vars(filtered) | {"labels": Labels({"time": [f"t{k}" for k in range(STEPS)]})}))
    assert plots.states(worded, "x").get_xlabel() == "time step"


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_a_legend_is_no_wider_than_the_figure(width):
    _, _, results, _ = made_up()
    with plt.rc_context({"font.size": 8}):
        _, ax = plt.subplots(figsize=(width, 2.3), layout="constrained")
        plots.states(results["PMMH"], "x", ax=plots.states(results["NUTS"], "x", ax=ax))
        ax.figure.canvas.draw()
        assert ax.get_legend().get_window_extent().x0 >= 0.0


def test_malformed_calls_are_sentences():
    made, run = predictions(), filter_run(np.ones(4))
    for call, error, message in [
        (lambda: plots.forecast({"x": 1}, "x"), TypeError, "predictions: expected what ssmscan.predict or"),
        (lambda: plots.forecast(made, "start"), KeyError, "no site 'start' with a time axis; they have"),
        (lambda: plots.forecast(made, 3), TypeError, "the name of a state, got int"),
        (lambda: plots.forecast(made, "y"), ValueError, r"y has shape \(2,\): choose a scalar"),
        (lambda: plots.forecast(made, "x", bands=(1.5,)), ValueError, "bands must be probabilities between 0 and 1"),
        (lambda: plots.forecast(made, "x", bands=0.5), ValueError, "bands must be probabilities"),
        (lambda: plots.forecast(made, "x", history=-1), ValueError, "history: expected an integer of at least 0"),
        (lambda: plots.forecast(made, "x", observed=[1.0]), ValueError, r"observed must be \(36,\) numbers"),
        (lambda: plots.forecast(made, "x", times=[1.0]), ValueError, r"times must be \(36,\)"),
        (lambda: plots.evidence({}), ValueError, "evidence needs a source, got none"),
        (lambda: plots.evidence(None), TypeError, "source: expected what ssmscan.SMC2.running returned, or"),
        (lambda: plots.evidence(made_up()[2]["NUTS"]), TypeError, "source: expected what ssmscan.SMC2.running"),
        (lambda: plots.evidence(filter_run(np.ones(4), uses_later_data=True)), ValueError, "knew later data"),
        (lambda: plots.evidence({"a": run, "b": filter_run(np.ones(3))}), ValueError, "has 3 steps and source.'a'. 4"),
        (lambda: plots.genealogy(made, "x"), TypeError, "result of a ParticleFilter, got Predictions"),
        (lambda: plots.genealogy(stored(ANCESTORS, ANCESTORS), "y"), KeyError, "no state 'y'; it has .'x'"),
        (lambda: plots.genealogy(stored(ANCESTORS, ANCESTORS, history=None), "x"), ValueError, "stored no paths"),
        (lambda: plots.genealogy(stored(ANCESTORS, ANCESTORS), "x", num_lines=0), ValueError, "num_lines: expected"),
    ]:
        with pytest.raises(error, match=message):
            call()
