"""Dates and names of axes: found in tables, plates and panels, or declared; never part of a program."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.model.staging import table_axes

pandas = pytest.importorskip("pandas")
xarray = pytest.importorskip("xarray")

T = 6
VALUES = np.random.default_rng(0).normal(size=(T, 3))
MONTHS = pandas.date_range("2024-01-31", periods=T, freq="ME")
SERIES = pandas.Series(VALUES[:, 0], MONTHS, name="sales")
FRAME = pandas.DataFrame(VALUES, MONTHS, ["ES", "FR", "PT"])


def walk(y, dates=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, scale))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, 0.0, y)


def longer(y, future=0):
    """The data condition the first steps."""

    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0))
        return x, None

    with handlers.condition(data={"y": y}):
        scan(step, 0.0, jnp.arange(len(y) + future))


def from_the_first(y):
    """The first value starts the loop."""
    y = jnp.asarray(np.asarray(y))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, y[0], y[1:])


def plates(y):
    with numpyro.plate("country", y.shape[1]):
        numpyro.sample("rate", dist.Dirichlet(jnp.ones(2)))
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    def step(x, y):
        with numpyro.plate("country", y.shape[0]):
            x = numpyro.sample("x", dist.Normal(x, scale))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
            numpyro.deterministic("twice", 2.0 * x)
        return x, None

    scan(step, jnp.zeros(y.shape[1]) + beta[0], y)


def batch(y):
    """A panel without a plate."""

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, jnp.zeros(y.shape[-1]), y)


def two_loops(a, b):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    for name, y in (("a", a), ("b", b)):

        def step(x, y, name=name):
            x = numpyro.sample(f"x_{name}", dist.Normal(x, scale))
            numpyro.sample(f"y_{name}", dist.Normal(x, 1.0), obs=y)
            return x, None

        scan(step, 0.0, y)


def dates_of(labels, name="time"):
    return labels.coords[name].astype("M8[D]").astype(str).tolist()


MONTH_ENDS = ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30", "2024-05-31", "2024-06-30"]
WITH_DATES = {
    "Series": (SERIES,),
    "frame of one": (FRAME[["ES"]].rename(columns={"ES": "y"})["y"],),
    "periods": (pandas.Series(VALUES[:, 0], pandas.period_range("2024-01", periods=T, freq="M")),),
    "time zone": (SERIES.tz_localize("Europe/Lisbon"),),
    "nullable": (SERIES.astype("Float64"),),
    "DataArray": (xarray.DataArray(VALUES[:, 0], dims="t", coords={"t": MONTHS}),),
    "array and dates": (VALUES[:, 0], MONTHS.to_numpy()),
    "array and index": (VALUES[:, 0], MONTHS),
    "array and Series of dates": (VALUES[:, 0], pandas.Series(MONTHS)),
    "array and objects": (VALUES[:, 0], np.array(MONTHS.date)),
}


@pytest.mark.parametrize(
    "form", ["Series", *(pytest.param(one, marks=pytest.mark.slow) for one in list(WITH_DATES)[1:])]
)
def test_dates_go_in_as_they_are(form):
    ssm = ssmscan.trace(walk, *WITH_DATES[form])
    firsts = [f"2024-0{month}-01" for month in range(1, 7)]
    assert dates_of(ssm.labels) == (firsts if form == "periods" else MONTH_ENDS)
    np.testing.assert_allclose(ssm.observed["y"], VALUES[:, 0], rtol=1e-6)
    assert "time: 2024-0" in repr(ssm)
    assert ssm.program is ssmscan.trace(walk, VALUES[:, 0]).program


@pytest.mark.slow
def test_an_index_that_counts_and_one_with_repetitions_say_nothing():
    for index in (None, [1, 1, 2, 2, 3, 3]):
        assert not ssmscan.trace(walk, pandas.Series(VALUES[:, 0], index)).labels


SHUFFLED = [0, 2, 1, 3, 4, 5]
OUT_OF_ORDER = {
    "Series": ((SERIES.iloc[SHUFFLED],), r"row 2 .*2024-02-29.* after 2024-03-31.*y\.sort_index\(\)"),
    "frame": ((FRAME.iloc[::-1],), r"row 1 .*sort_index\(\)"),
    "columns": ((FRAME.iloc[::-1].T,), r"column 1 .*sort_index\(axis=1\)"),
    "repeated": ((pandas.concat([SERIES, SERIES]),), "row 6"),
    "periods": ((SERIES.set_axis(MONTHS.to_period("M")[::-1]),), "row 1 .*2024-05 after 2024-06"),
    "DataArray": ((xarray.DataArray(VALUES[:, 0], {"t": MONTHS[::-1]}, ("t",)),), r"'t' 1 .*sortby\('t'\)"),
    "array and dates": ((VALUES[:, 0], MONTHS.to_numpy()[SHUFFLED]), "step 2 .*2024-02-29 after 2024-03-31"),
}


@pytest.mark.parametrize("form", OUT_OF_ORDER)
def test_dates_out_of_order_are_refused(form):
    given, message = OUT_OF_ORDER[form]
    with pytest.raises(ValueError, match=f"dates .*not in order, first at {message}"):
        ssmscan.trace(walk, *given)


def test_the_same_date_twice_is_no_disorder_and_clocks_may_be_put_back():
    hours = pandas.date_range("2024-10-27", periods=T, freq="30min", tz="UTC").tz_convert("Europe/Lisbon")
    for index in (MONTHS[[0, 0, 1, 1, 2, 2]], hours + pandas.Timedelta(minutes=15)):
        assert table_axes.require_dates_in_order("y", SERIES.set_axis(index)) is None
    assert table_axes.require_dates_in_order("y", SERIES.set_axis([3, 2, 1, 6, 5, 4])) is None


def test_months_without_a_row_are_said_and_those_with_a_row_of_nan_are_not():
    months = pandas.date_range("2023-01-31", periods=T + 1, freq="ME")
    with pytest.warns(UserWarning, match=r"first before 2023-06-30, which follows 2023-04-30: .*y\.asfreq"):
        ssm = ssmscan.trace(walk, SERIES.set_axis(months[[0, 1, 2, 3, 5, 6]]))
    assert dates_of(ssm.labels)[4] == "2023-06-30"
    assert ssmscan.trace(walk, pandas.Series([*VALUES[:4, 0], np.nan, *VALUES[4:, 0]], months)).num_steps == T + 1


def test_a_longer_loop_has_the_dates_that_follow():
    labels = ssmscan.trace(longer, SERIES, future=2).labels
    assert dates_of(labels) == [*MONTH_ENDS, "2024-07-31", "2024-08-31"]


@pytest.mark.slow
def test_dates_that_do_not_go_on_are_said_and_can_be_given():
    odd = SERIES.iloc[:4].set_axis(MONTHS[[0, 1, 2, 5]])
    with pytest.warns(UserWarning, match="argument 0 end at 2024-06-30 and follow no rule.*with_labels"):
        ssm = ssmscan.trace(longer, odd, future=1)
    assert not ssm.labels.coords
    assert dates_of(ssm.with_labels(time=MONTHS[:5]).labels) == MONTH_ENDS[:5]


@pytest.mark.slow
def test_dates_before_the_loop_are_left_out():
    assert dates_of(ssmscan.trace(from_the_first, SERIES).labels) == MONTH_ENDS[1:]


@pytest.mark.slow
def test_arguments_that_disagree_are_not_believed():
    with pytest.warns(UserWarning, match="argument 0 and argument 'dates' have different dates.*with_labels"):
        ssm = ssmscan.trace(walk, SERIES, dates=MONTHS + pandas.Timedelta(days=1))
    assert not ssm.labels.coords


@pytest.mark.slow
def test_dates_go_before_numbers():
    numbered = pandas.Series(np.zeros(T), np.arange(10, 10 + T))
    assert dates_of(ssmscan.trace(walk, SERIES, dates=numbered).labels) == MONTH_ENDS


@pytest.mark.slow
@pytest.mark.parametrize("form", ["frame", "array", "transposed"])
def test_a_plate_has_the_columns_of_the_frame_that_its_site_observes(form):
    array = xarray.DataArray(VALUES, {"when": MONTHS, "place": list(FRAME)}, ("when", "place"))
    if form == "transposed":
        labels = ssmscan.trace(lambda y: plates(jnp.asarray(y.values.T)), array.T).labels
    else:
        labels = ssmscan.trace(plates, FRAME if form == "frame" else array).labels
    assert labels.coords["country"].tolist() == ["ES", "FR", "PT"] and dates_of(labels) == MONTH_ENDS
    country = ("country",)
    assert labels.dims == {
        "rate": ("country", "rate_dim_1"), "scale": country, "x": country, "y": country, "twice": country
    }  # fmt: skip


@pytest.mark.slow
def test_the_states_of_a_panel_share_the_axis_of_their_data():
    named = ssmscan.trace(batch, FRAME.rename_axis(columns="country")).labels
    assert named.dims == {"x": ("country",), "y": ("country",)} and "country" in named.coords
    unnamed = ssmscan.trace(batch, FRAME).labels
    assert unnamed.dims == {"x": ("y_dim_0",), "y": ("y_dim_0",)} and "y_dim_0" in unnamed.coords


@pytest.mark.slow
def test_loops_of_other_lengths_have_their_own_dates():
    labels = ssmscan.trace(two_loops, SERIES, SERIES.iloc[:4] + 1.0).labels
    assert dates_of(labels) == MONTH_ENDS and dates_of(labels, "time_1") == MONTH_ENDS[:4]
    assert labels.time_names([4, 6]) == {4: "time_1", 6: "time"}


def test_other_data_bring_their_dates_and_no_other_program():
    ssm = ssmscan.trace(walk, SERIES)
    later = SERIES.set_axis(MONTHS + pandas.offsets.MonthEnd(1)) * 2.0
    other = ssm.with_data(later)
    assert other.program is ssm.program and dates_of(other.labels)[-1] == "2024-07-31"
    np.testing.assert_allclose(other.observed["y"], later, rtol=1e-6)
    assert dates_of(ssm.with_labels(time=list("abcdef")).with_data(later).labels)[-1] == "2024-07-31"
    assert dates_of(ssm.labels) == MONTH_ENDS
    beside = ssmscan.trace(walk, VALUES[:, 0], MONTHS.to_numpy())
    assert (
        dates_of(beside.with_data(VALUES[:, 1], MONTHS.to_numpy() + np.timedelta64(1, "D")).labels)[0] == "2024-02-01"
    )


@pytest.mark.slow
def test_arrays_keep_what_was_declared():
    ssm = ssmscan.trace(walk, VALUES[:, 0]).with_labels(time=MONTHS)
    assert dates_of(ssm.with_data(VALUES[:, 1]).labels) == MONTH_ENDS
    assert dates_of(ssm.with_roles(parameters=("scale",)).labels) == MONTH_ENDS


@pytest.fixture(scope="module")
def panel():
    return ssmscan.trace(plates, FRAME)


def test_what_is_declared_goes_before_what_was_found(panel):
    ssm = panel.with_labels(dims={"beta": "coefficient"}, coords={"coefficient": ["level", "slope"]})
    ssm = ssm.with_labels(dims={"x": ("place",)}, time=np.arange(2001, 2001 + T))
    labels = ssm.labels
    assert labels.dims["beta"] == ("coefficient",) and labels.coords["coefficient"].tolist() == ["level", "slope"]
    assert labels.dims["x"] == ("place",) and labels.coords["place"].tolist() == ["ES", "FR", "PT"]
    assert labels.dims["y"] == ("country",) and labels.coords["time"].tolist() == list(range(2001, 2001 + T))


WRONG = {
    "time has 2 entries, and the loop of the model 6 steps|follows no rule": {"time": [1, 2]},
    "time has 7 entries": {"time": np.arange(7)},
    "time has 1 more than once": {"time": [1, 1, 2, 3, 4, 5]},
    "the model has no site 'gamma'": {"dims": {"gamma": "a"}},
    r"dims\['x'\] has 2 names, and a value of the site has shape \(3,\)": {"dims": {"x": ("a", "b")}},
    "'chain' is no name": {"dims": {"x": "chain"}},
    "'y' is the name of a site": {"dims": {"x": "y"}},
    "'country' has 2 entries in 'beta' and 3": {"dims": {"beta": "country"}},
    "no site has a dimension 'place'": {"coords": {"place": [1, 2, 3]}},
    r"coords\['country'\] has 2 entries, and the dimension 3": {"coords": {"country": ["a", "b"]}},
    r"coords\['country'\] has a more than once": {"coords": {"country": ["a", "b", "a"]}},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_is_refused_by_name(panel, message):
    with pytest.raises(ValueError, match=message):
        panel.with_labels(**WRONG[message])


def test_what_is_no_name_or_label_is_refused(panel):
    with pytest.raises(TypeError, match="names of axes by site"):
        panel.with_labels(dims=("country",))
    with pytest.raises(TypeError, match=r"coords\['country'\] must be dates, numbers or text"):
        panel.with_labels(coords={"country": [1j, 2j, 3j]})


def test_a_notebook_shows_the_table_and_the_labels():
    ssm = ssmscan.trace(walk, SERIES)
    shown = ssm._repr_html_()
    for words in ("State-space model of 6 steps", '<td style="text-align: left">innovation</td>', "2024-01-31"):
        assert words in shown
    assert shown.count("<tr>") == 4 and "acts on every step: the distribution of &#x27;x&#x27;" in shown
