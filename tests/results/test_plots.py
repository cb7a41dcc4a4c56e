"""What the figures show is what the numbers say; how they look is for eyes (`figures.py`)."""

import dataclasses
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from ssmscan.labels import Labels
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.summaries import SD, Mean, Probabilities, Quantiles
from ssmscan.results import plots
from ssmscan.results.agreement import compare
from ssmscan.results.checked import CrossCheck
from ssmscan.results.plots.sources import Filtered
from ssmscan.results.summary import PROBABILITIES
from tests.results.made_up import STEPS, categories, made_up
from tests.results.samples import result


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def example():
    return made_up()


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def ribbon(ax, k):
    """Return low and high (T,) of the k-th ribbon."""
    vertices = ax.collections[k].get_paths()[0].vertices
    x = np.arange(1, STEPS + 1)
    return np.array([[f(vertices[vertices[:, 0] == t, 1]) for t in x] for f in (np.min, np.max)])


def test_smoothed_states_are_quantiles_of_the_paths(example):
    _, data, results, _ = example
    ax = plots.states(results["NUTS"], "x", observed=data)
    paths = results["NUTS"].states["x"].reshape(-1, STEPS)
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), np.median(paths, axis=0))
    np.testing.assert_allclose(ribbon(ax, 0), np.quantile(paths, [0.05, 0.95], axis=0))
    assert texts(ax) == ["observed", "90 %", "50 %", "x, smoothed median"]


def test_filtered_states_are_mean_and_normal_bands(example):
    _, _, _, filtered = example
    ax = plots.states(filtered, "x")
    mean, sd = filtered.summaries["mean"]["x"], filtered.summaries["sd"]["x"]
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), mean)
    np.testing.assert_allclose(ribbon(ax, 0), [mean - 1.645 * sd, mean + 1.645 * sd], atol=1e-3)
    assert texts(ax)[-1] == "x, filtered mean"


def test_quantiles_of_a_filter_are_drawn_as_they_are():
    levels = np.sort(np.random.default_rng(0).standard_normal((STEPS, 5, 2)), axis=1)
    filtered = SimpleNamespace(summaries={"quantiles": {"x": levels}})
    probabilities = (0.025, 0.25, 0.5, 0.75, 0.975)
    ax = plots.states(filtered, "x", element=(1,), probabilities=probabilities)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), levels[:, 2, 1])
    np.testing.assert_allclose(ribbon(ax, 0), levels[:, [0, 4], 1].T)
    assert texts(ax) == ["95 %", "50 %", "x[1], filtered median"]
    with pytest.raises(ValueError, match=r"filter's 5, 0.5 among them"):
        plots.states(filtered, "x", element=(1,))


def test_the_particle_filter_reports_what_the_figures_read():
    needed = {name for name in vars(Filtered) if not name.startswith("_")}
    assert needed == {"summaries", "ess", "resampled", "start_observed", "num_particles", "starving_limit"}
    assert needed <= set(FilterResult.__dataclass_fields__) | set(dir(FilterResult))
    assert (Mean().name, SD().name, Quantiles().name, Probabilities().name) == (
        "mean",
        "sd",
        "quantiles",
        "probabilities",
    )
    assert Quantiles().probs == PROBABILITIES


def test_probabilities_that_a_filter_kept_are_drawn_as_they_are():
    known = np.random.default_rng(0).dirichlet(np.ones(3), (STEPS, 2)).transpose(0, 2, 1)
    filtered = SimpleNamespace(summaries={"probabilities": {"z": known}, "mean": {"z": np.zeros((STEPS, 2))}})
    ax = plots.states(filtered, "z", element=(1,))
    np.testing.assert_allclose(ribbon(ax, 1)[1], known[:, :2, 1].sum(1))
    assert texts(ax) == ["z[1] = 0, filtered", "1", "2"]


@pytest.mark.parametrize("smoothed_first", [False, True])
def test_filtered_and_smoothed_are_never_mixed(example, smoothed_first):
    _, _, results, filtered = example
    one, other = (results["NUTS"], filtered) if smoothed_first else (filtered, results["NUTS"])
    ax = plots.states(one, "x")
    with pytest.raises(ValueError, match="in another"):
        plots.states(other, "x", ax=ax)
    assert plots.states(one, "x", ax=ax) is ax


def test_data_in_other_units_have_their_own_axis(example):
    _, data, _, filtered = example
    ax = plots.states(filtered, "x", observed=1e6 * data, observed_on_the_right=True)
    assert np.abs(ax.get_ylim()).max() < 100
    right = ax.figure.axes[1]
    np.testing.assert_allclose(right.lines[0].get_ydata(), 1e6 * data)


def test_an_array_site_needs_an_element(example):
    _, _, results, _ = example
    paths = np.stack([results["NUTS"].states["x"], -results["NUTS"].states["x"]], axis=-1)
    two = dataclasses.replace(results["NUTS"], states={"x": paths})
    ax = plots.states(two, "x", element=(1,))
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), np.median(paths[..., 1].reshape(-1, STEPS), axis=0))
    assert ax.get_ylabel() == "x[1]"
    with pytest.raises(ValueError, match=r"x has shape \(2,\).*element"):
        plots.states(two, "x")


def test_what_cannot_be_drawn_is_named(example):
    _, data, results, filtered = example
    with pytest.raises(KeyError, match="no state 'z'.*'x'"):
        plots.states(results["NUTS"], "z")
    with pytest.raises(KeyError, match="no state 'z'.*'x'"):
        plots.states(filtered, "z")
    with pytest.raises(KeyError, match=r"kept \['pit'\]; run it with summaries=\(Mean\(\), SD\(\)\)"):
        plots.states(SimpleNamespace(summaries={"pit": {}}), "x")
    with pytest.raises(ValueError, match=r"observed must be \(120,\).*got float64 \(119,\)"):
        plots.states(filtered, "x", observed=data[1:])
    with pytest.raises(KeyError, match="NUTS has no parameter 'mu'; it has phi, sigma"):
        plots.posterior(results, "mu")


def test_ess_marks_the_steps_that_were_resampled(example):
    *_, filtered = example
    ax = plots.ess(filtered)
    line, marks = ax.lines
    np.testing.assert_allclose(line.get_ydata(), filtered.ess)
    np.testing.assert_array_equal(marks.get_xdata(), 1 + np.flatnonzero(filtered.resampled))
    # a few particles of a thousand are seen: they have a decade of their own
    assert ax.get_ylim() == (1, 1000) and ax.get_yscale() == "log"
    least = int(np.argmin(filtered.ess))
    assert texts(ax) == [f"ESS, least {filtered.ess[least]:.0f} at step {least + 1}", "resampled", "starving: below 10"]


def test_ess_of_an_observed_start_is_at_time_zero(example):
    *_, filtered = example
    started = SimpleNamespace(
        start_observed=True,
        ess=np.append(999.0, filtered.ess),
        resampled=np.append(False, filtered.resampled),
        num_particles=filtered.num_particles,
        starving_limit=filtered.starving_limit,
    )
    np.testing.assert_array_equal(plots.ess(started).lines[0].get_xdata(), np.arange(STEPS + 1))


def test_agreement_shows_every_interval_and_verdict(example):
    _, _, results, _ = example
    comparison = compare(**results)
    ax = plots.agreement(comparison)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(map(str, comparison.pairs[0].differences))
    assert texts(ax) == [f"{pair.title}: {pair.verdict.value}" for pair in comparison.pairs]
    band, *intervals = ax.containers
    widths = [0.3, 0.3, 0.6, 0.3, 0.6]
    np.testing.assert_allclose([bar.get_width() for bar in band], widths * 2)
    np.testing.assert_allclose([bar.get_x() for bar in band], -np.array(widths * 2) / 2)
    assert "shaded:\n±0.15 sd (mean, sd, median),\n±0.3 sd (5 and 95 % quantiles)" in ax.get_xlabel()
    segments = np.array(intervals[0].lines[2][0].get_segments())[..., 0]
    np.testing.assert_allclose(segments, [[d.low, d.high] for d in comparison.pairs[0].differences])
    assert len(plots.agreement(comparison, parameters=["phi"]).get_yticks()) == 5
    check = CrossCheck(comparison.pairs[0].verdict, (), comparison, results, ())
    assert len(plots.agreement(check).get_yticks()) == len(ax.get_yticks())
    with pytest.raises(ValueError, match="some engine has no draws"):
        plots.agreement(dataclasses.replace(check, comparison=None))


def test_posterior_densities_integrate_to_one_and_are_drawn_into_the_axes_given(example):
    _, _, results, _ = example
    _, ax = plt.subplots()
    assert plots.posterior(results, "phi", ax=ax) is ax
    assert texts(ax) == list(results)
    for line in ax.lines:
        assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1.0, abs=0.02)
    assert isinstance(plots.posterior({"a": result({"b": np.random.rand(2, 50, 2)})}, "b[1]"), Axes)


@pytest.mark.parametrize("name", ["two", "three"])
def test_categories_are_probabilities_and_not_medians_of_codes(name):
    z = categories()[name]
    ax = plots.states(z, "z")
    paths = z.states["z"].reshape(-1, STEPS)
    shown = range(1, 2) if name == "two" else range(3)
    edges = np.cumsum([(paths == value).mean(0) for value in shown], axis=0)
    for k, edge in enumerate(edges):
        np.testing.assert_allclose(ribbon(ax, k)[1], edge, atol=1e-12)
    assert ax.get_ylim() == (0, 1) and ax.get_ylabel() == "probability of z"
    assert texts(ax) == (["z = 1, smoothed"] if name == "two" else ["z = 0, smoothed", "1", "2"])
    # another engine's are lines where the areas meet
    plots.states(z, "z", ax=ax)
    for line, edge in zip(ax.lines, edges if name == "two" else edges[:-1], strict=True):
        np.testing.assert_allclose(line.get_ydata(), edge)


def test_probabilities_of_a_state_that_was_summed_out_are_drawn_as_they_are():
    known = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], (STEPS, 2))
    z = np.ones((1, 4, STEPS, 2), int)
    made = result({"phi": np.zeros((1, 4))}, states={"z": z}, state_draws=range(4), state_probabilities={"z": known})
    ax = plots.states(made, "z", element=(1,))
    np.testing.assert_allclose(ribbon(ax, 0)[1], known[:, 1, 0])
    # of three values the paths have one; they count from zero as far as is known
    assert texts(ax) == ["z[1] = 0, smoothed", "1", "2"]


def test_a_filtered_state_of_zero_and_one_is_a_probability_and_a_count_is_not():
    one = np.random.default_rng(0).random(STEPS)
    kept = {"mean": {"z": one}, "sd": {"z": np.sqrt(one * (1 - one))}}
    final = SimpleNamespace(values={"z": np.array([0, 1, 1])})
    ax = plots.states(SimpleNamespace(summaries=kept, final=final), "z")
    np.testing.assert_allclose(ribbon(ax, 0)[1], one)
    assert texts(ax) == ["z = 1, filtered"]
    count = SimpleNamespace(summaries=kept | {"sd": {"z": np.sqrt(one)}}, final=final)
    assert texts(plots.states(count, "z"))[-1] == "z, filtered mean"


def test_the_second_engine_is_lines_over_the_ribbons_of_the_first(example):
    _, _, results, _ = example
    ax = plots.states(results["NUTS"], "x")
    ribbons, colours = len(ax.collections), {line.get_color() for line in ax.lines}
    plots.states(results["PMMH"], "x", ax=ax)
    assert len(ax.collections) == ribbons == 2
    paths = results["PMMH"].states["x"].reshape(-1, STEPS)
    low, high, median = ax.lines[-3:]
    np.testing.assert_allclose(median.get_ydata(), np.median(paths, axis=0))
    np.testing.assert_allclose([low.get_ydata(), high.get_ydata()], np.quantile(paths, [0.05, 0.95], axis=0))
    assert median.get_color() not in colours
    assert texts(ax)[-1:] == ["PMMH, median and 90 %"]


@pytest.mark.parametrize("days", [30, STEPS, 3000])
def test_labels_of_dates_do_not_overlap(example, days):
    _, _, results, _ = example
    times = np.datetime64("1997-01-02") + np.linspace(0, days, STEPS).astype(int)
    ax = plots.states(results["NUTS"], "x", times=times)
    ax.figure.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
    assert len(boxes) >= 3
    assert not any(one.overlaps(other) for one, other in zip(boxes, boxes[1:]))


def test_a_step_without_particles_is_a_gap(example):
    *_, filtered = example
    dead = SimpleNamespace(**(vars(filtered) | {"ess": np.append(filtered.ess[:-1], 0.0)}))
    assert np.isnan(plots.ess(dead).lines[0].get_ydata()[-1])
    assert texts(plots.ess(SimpleNamespace(**(vars(filtered) | {"ess": np.zeros(STEPS)}))))[0] == "ESS"


def test_the_posterior_of_one_result_and_of_draws_that_are_equal(example):
    _, _, results, _ = example
    assert texts(plots.posterior(results["NUTS"], "phi")) == ["NUTS"]
    made = result({"phi": np.zeros((2, 9))}, deterministics={"half_life": np.random.rand(2, 9)})
    assert plots.posterior(made, "half_life").get_xlabel() == "half_life"
    (line,) = plots.posterior(result({"phi": np.full((2, 9), 0.7)}), "phi").lines
    assert list(line.get_xdata()) == [0.7, 0.7]


def test_an_element_is_chosen_and_named_by_its_label(example):
    _, _, results, _ = example
    nuts = next(iter(results.values()))
    pair = np.stack([nuts.states["x"], 2 * nuts.states["x"]], axis=-1)
    labels = Labels({"town": ["Aachen", "Bonn"]}, {"x": ("town",)})
    named = dataclasses.replace(nuts, states={**nuts.states, "x": pair}, labels=labels)
    ax = plots.states(named, "x", element="Bonn")
    assert ax.get_ylabel() == "x[Bonn]"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 2 * plots.states(nuts, "x").lines[0].get_ydata(), rtol=1e-6)


def test_malformed_calls_are_sentences(example):
    _, data, results, filtered = example
    nuts, comparison = results["NUTS"], compare(**results)
    no_paths = dataclasses.replace(nuts, states={"x": np.zeros((4, 0, STEPS))}, state_draws=[])
    no_panel = dataclasses.replace(nuts, states={"x": np.zeros((4, 0, STEPS, 5))}, state_draws=[])
    batch = SimpleNamespace(**(vars(filtered) | {"ess": np.ones((2, STEPS))}))
    empty = result({"phi": np.zeros((2, 0))}, interrupted=True)
    for call, error, message in [
        (
            lambda: plots.states(results, "x"),
            TypeError,
            "source: expected a Result, or the result of a filter or a smoother, got a dict of",
        ),
        (
            lambda: plots.states(None, "x"),
            TypeError,
            "source: expected a Result, or the result of a filter or a smoother, got None",
        ),
        (lambda: plots.states(nuts, 3), TypeError, "the name of a state, got int"),
        (lambda: plots.states(filtered, ["x"]), TypeError, "the name of a state, got list"),
        (lambda: plots.states(filtered, "x", probabilities=0.5), ValueError, "increasing levels between 0 and 1"),
        (lambda: plots.states(nuts, "x", times=[None] * STEPS), TypeError, "numbers or dates, got object"),
        (
            lambda: plots.states(nuts, "x", observed=["a"] * STEPS),
            ValueError,
            "observed must be .* numbers, one a step",
        ),
        (lambda: plots.states(nuts, "x", colour=3), ValueError, "colour must be one of matplotlib.*got 3"),
        (lambda: plots.agreement(comparison, parameters="phi"), TypeError, "a list of labels, got 'phi'"),
        (lambda: plots.states(nuts, "x", element=3), ValueError, r"shape \(\): choose a scalar .* got 3"),
        (lambda: plots.states(nuts, "x", element=(4,)), ValueError, r"choose a scalar .* got \(4,\)"),
        (lambda: plots.states(nuts, "x", times=data[1:]), ValueError, r"times must be \(120,\).*got \(119,\)"),
        (lambda: plots.states(nuts, "x", ax="here"), TypeError, "one Axes of matplotlib, got str"),
        (lambda: plots.states(nuts, "x", ax=plt.subplots(2)[1]), TypeError, "one Axes of matplotlib, got ndarray"),
        (lambda: plots.states(no_paths, "x"), ValueError, "no path of 'x': run the engine with num_paths"),
        (lambda: plots.states(no_panel, "x"), ValueError, "no path of 'x': run the engine with num_paths"),
        (lambda: plots.ess(nuts), TypeError, "result of a ParticleFilter, got Result"),
        (lambda: plots.ess(batch), ValueError, "one filter"),
        (
            lambda: plots.agreement(results),
            TypeError,
            "comparison: expected what ssmscan.compare or ssmscan.cross_check returned, got a dict of",
        ),
        (lambda: plots.agreement(comparison, parameters=["mu"]), KeyError, "no parameter 'mu'; it has phi, sigma"),
        (lambda: plots.agreement(comparison, parameters=[]), KeyError, "it has phi, sigma"),
        (lambda: plots.posterior([nuts], "phi"), TypeError, "a Result, or results by name, got list"),
        (lambda: plots.posterior(nuts, ["phi"]), KeyError, "no parameter"),
        (lambda: plots.posterior({"a": filtered}, "phi"), TypeError, "a Result, or results by name"),
        (lambda: plots.posterior({}, "phi"), ValueError, "needs a result, got none"),
        (lambda: plots.posterior(empty, "phi"), ValueError, "has no draws: let it run longer"),
        (lambda: plots.posterior(result({"a": np.full((2, 9), np.inf)}), "a"), ValueError, "a that are not finite"),
    ]:
        with pytest.raises(error, match=message):
            call()
