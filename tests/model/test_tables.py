"""Tables of pandas as arguments: handed on as they are, their values taken where arrays are wanted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.model.handlers.tables import filled
from ssmscan.model.statespace.requirements import require_data

pandas = pytest.importorskip("pandas")
WEEKS = pandas.date_range("2024-01-01", periods=5, freq="D")
SALES = pandas.Series(np.random.default_rng(6).normal(size=5), index=WEEKS, name="sales")
FRAME = pandas.DataFrame({"sales": SALES, "spend": SALES**2, "region": list("abcde")})


def walk(y, effect=0.0):
    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("y", dist.Normal(x + effect, 1.0), obs=yt)
        return x, None

    scan(step, 0.0, y)


def by_columns(frame):
    walk(frame["sales"], jnp.mean(jnp.asarray(frame.spend.values)))


def by_index(frame):
    walk(jnp.asarray(frame.sales), float((frame.index.day_of_week >= 5).sum()))


def after_the_loop(y):
    _, path = scan(lambda x, _: (numpyro.sample("x", dist.Normal(x, 1.0)),) * 2, 0.0, None, length=5)
    numpyro.sample("y", dist.Normal(path, 1.0), obs=y)


def test_a_series_stands_for_its_values():
    ssm = ssmscan.trace(walk, SALES)
    assert ssm.program is ssmscan.trace(lambda y: walk(jnp.asarray(y.values)), SALES).program
    np.testing.assert_allclose(ssm.observed["y"], SALES, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", [by_columns, by_index])
def test_a_frame_is_read_by_its_columns_and_its_index(model):
    np.testing.assert_allclose(ssmscan.trace(model, FRAME).observed["y"], SALES, rtol=1e-6)


@pytest.mark.slow
def test_a_series_is_observed_after_the_loop():
    np.testing.assert_allclose(ssmscan.trace(after_the_loop, SALES).observed["y"], SALES, rtol=1e-6)


def test_a_table_of_other_values_is_other_data_of_the_same_program():
    ssm = ssmscan.trace(walk, SALES)
    other = ssm.with_data(SALES * 2.0)
    assert other.program is ssm.program
    np.testing.assert_allclose(other.observed["y"], 2.0 * SALES, rtol=1e-6)
    with pytest.raises(ValueError, match=r"argument 0 is a pandas Series of shape \(4,\) and dtype float64, .*\(5,\)"):
        ssm.with_data(SALES[:4])
    with pytest.raises(ValueError, match=r"argument 0 is float32\[5\], the model was traced with a pandas Series"):
        ssm.with_data(jnp.zeros(5, jnp.float32))


PANEL = pandas.DataFrame(np.arange(6.0).reshape(3, 2), WEEKS[:3], ["ES", "PT"])


def total(y):
    walk(jnp.asarray(y.to_numpy()).sum(1))


def test_other_data_have_the_columns_of_the_model_in_their_order():
    ssm = ssmscan.trace(total, PANEL)
    np.testing.assert_allclose(ssm.with_data(PANEL + 1.0).observed["y"], [3.0, 7.0, 11.0])
    order = r"has the columns \[PT, ES\], and the model was traced with \[ES, PT\].*as y\[\['ES', 'PT'\]\] does"
    with pytest.raises(ValueError, match=order):
        ssm.with_data(PANEL[["PT", "ES"]])
    with pytest.raises(ValueError, match=r"the columns \[ES, FR\], and .* \[ES, PT\]\. Pass a table with the same col"):
        ssm.with_data(PANEL.rename(columns={"PT": "FR"}))
    with pytest.raises(ValueError, match=r"shape \(2, 2\) with the columns ES \(float64\), PT \(float64\), .*\(3, 2\)"):
        ssm.with_data(PANEL[:2])


def test_other_data_have_the_dimensions_of_the_model_in_their_order():
    array = pytest.importorskip("xarray").DataArray(PANEL, dims=("day", "country"))
    ssm = ssmscan.trace(total, array)
    later = array.assign_coords(day=WEEKS[1:4]) + 1.0
    np.testing.assert_allclose(ssm.with_data(later).observed["y"], [3.0, 7.0, 11.0])
    with pytest.raises(ValueError, match=r"the country \[PT, ES\].*y.reindex\({'country': \['ES', 'PT'\]}\) does"):
        ssm.with_data(array[:, ::-1])
    with pytest.raises(ValueError, match=r"the dimensions \[day, place\], and .* \[day, country\]"):
        ssm.with_data(array.rename(country="place"))


@pytest.mark.slow
def test_missing_values_of_a_table_are_missing():
    for gaps in (SALES.where(SALES.index != WEEKS[2]), pandas.Series([1, 2, None, 4, 5], dtype="Int64")):
        np.testing.assert_array_equal(np.isnan(ssmscan.trace(walk, gaps).observed["y"]), [0, 0, 1, 0, 0])


GAPS = pandas.Series([1.0, 2.0, np.nan, 2.5, 3.0], WEEKS)


def as_array(y):
    walk(jnp.asarray(y))


def as_values(y):
    walk(y.to_numpy())


def test_a_model_that_takes_the_values_of_its_table_is_checked_over_them():
    ssm = ssmscan.trace(walk, GAPS)
    plain, source = ssm.source.over_arrays(ssm)
    assert plain.sites == ssm.sites and not ssm.source.arrays
    np.testing.assert_array_equal(source.arrays, [GAPS])
    assert plain.source.over_arrays(plain)[0] is plain


@pytest.mark.slow
@pytest.mark.parametrize("model", [walk, as_array, as_values])
def test_a_table_with_missing_values_is_checked_as_its_values_are(model):
    key = jax.random.key(0)
    expected = ssmscan.trace(walk, GAPS.to_numpy()).check(key)
    found = ssmscan.trace(model, GAPS).check(key)
    assert found.parts == pytest.approx(expected.parts) and found.factors.keys() == expected.factors.keys()


def test_samplers_refuse_data_of_which_nothing_is_there_and_filters_begin_before_any():
    ssm = ssmscan.trace(walk, np.full(5, np.nan))
    require_data(ssm.with_data(GAPS.to_numpy()))
    for engine in (ssmscan.NUTS(), ssmscan.PMMH()):
        with pytest.raises(ssmscan.ModelError, match=r"every value of the observed site\(s\) 'y' is missing"):
            engine.run(jax.random.key(0), ssm)
    assert ssmscan.ParticleFilter(10).start(jax.random.key(0), ssm, {}).step == 0
    assert np.isfinite(ssm.simulate(jax.random.key(0), {})["y"]).all()


def test_missing_values_of_a_frame_are_filled_by_column():
    frame = pandas.DataFrame({"a": GAPS, "b": [None, 7, 8, 9, None], "c": list("abcd") + [None], "d": np.nan})
    whole = filled(frame.astype({"b": "Int64"}))
    assert whole["a"].tolist() == [1.0, 2.0, 1.0, 2.5, 3.0] and whole["b"].tolist() == [7, 7, 8, 9, 7]
    assert whole["c"].isna().sum() == 1 and whole["d"].isna().all() and whole.index.equals(WEEKS)
    np.testing.assert_array_equal(filled(GAPS.to_xarray()), whole["a"])
    assert filled("text") == "text"


def test_integers_that_would_wrap_around_are_refused():
    if jnp.result_type(int) == jnp.int32:
        with pytest.raises(TypeError, match="a pandas Series.* a table holds integers from 1 to 8589934592"):
            ssmscan.trace(walk, pandas.Series([1, 2, 2**33]))


@pytest.mark.parametrize("values", [WEEKS, list("abcde")], ids=["dates", "text"])
def test_what_no_array_holds_is_named(values):
    with pytest.raises(TypeError, match="argument 0 is a pandas Series, which JAX does not take"):
        ssmscan.trace(walk, pandas.Series(values))


def test_only_columns_without_numbers_are_named():
    with pytest.raises(
        TypeError, match=r"a pandas DataFrame, .* no numbers in its columns \['region'\]: leave them out"
    ):
        ssmscan.trace(lambda frame: walk(jnp.asarray(frame)), FRAME)


def of_another_shape(y):
    walk(jnp.concatenate([jnp.asarray(y), jnp.zeros((2, 3))]))


def deciding(y):
    walk(y, 0.0 if numpyro.sample("effect", dist.Normal(0.0, 1.0)) > 1.0 else 1.0)


@pytest.mark.parametrize("model", [of_another_shape, deciding])
def test_a_fault_of_the_model_is_the_same_on_a_table_and_on_its_values(model):
    found = []
    for given in (SALES, SALES.to_numpy()):
        with pytest.raises((AssertionError, TypeError, ssmscan.ModelError)) as error:
            ssmscan.trace(model, given)
        found.append(
            (error.type, str(error.value).replace("float64", "float32"), getattr(error.value, "__notes__", []))
        )
    assert found[0] == found[1] and "pandas" not in found[0][1]
    line = rf"test_tables.py:{model.__code__.co_firstlineno + 1}, in {model.__name__}"
    assert line in " ".join([found[0][1], *found[0][2]])
