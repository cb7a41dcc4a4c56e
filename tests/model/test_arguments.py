"""What is no array, what is missing, what returns no pair: each is said by name."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from tests.model.zoo import Y

SERIES = Y[:4].astype(np.float32)


def step(x, yt):
    x = numpyro.sample("x", dist.Normal(x, 1.0))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
    return x, None


def walk(y):
    scan(step, 0.0, y)


def by_index(y):
    scan(lambda x, t: step(x, y[t]), 0.0, jnp.arange(y.shape[0]))


def converting(y):
    walk(jnp.asarray(y, jnp.float32))


def tables():
    pandas, xarray = pytest.importorskip("pandas"), pytest.importorskip("xarray")
    return pandas.Series(SERIES), pandas.DataFrame({"a": SERIES}), xarray.DataArray(SERIES), pandas.Index(SERIES)


def test_a_table_is_named_where_jax_does_not_take_it_and_its_values_asked_for():
    for table, kind in zip(
        tables(), ("a pandas Series", "a pandas DataFrame", "an xarray DataArray", "a pandas Index")
    ):
        with pytest.raises(TypeError, match=f"argument 0 is {kind}, which JAX does not take: pass its values") as error:
            ssmscan.trace(by_index, table)
        assert len(str(error.value)) < 400
        with pytest.raises(TypeError, match=rf"argument 'y'\['a'\] is {kind}"):
            ssmscan.trace(lambda y: by_index(y["a"]), y={"a": table})
        with pytest.raises(ValueError, match=f"argument 0 is {kind}"):
            ssmscan.trace(walk, SERIES).with_data(table)


def test_what_a_model_turns_into_an_array_itself_is_left_to_it():
    expected = ssmscan.trace(converting, SERIES).observed["y"]
    for given in (SERIES.tolist(), tuple(SERIES.tolist()), *(t for t in tables() if t.ndim == 1)):
        np.testing.assert_array_equal(ssmscan.trace(converting, given).observed["y"], expected)


@pytest.mark.parametrize("model", [walk, by_index])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, 2.0, 3.0], "argument 0 is a list of 3 numbers, which JAX takes for as many inputs: pass np.asarray"),
        ((1.0,), "argument 0 is a tuple of 1 number, which"),
        (None, "nothing was given as argument 0"),
        (3.0, "argument 0 is 3.0"),
        ("data", "argument 0 is 'data'"),
        (np.array(["a", "b"]), "argument 0 is an array of dtype <U1, which JAX does not have"),
    ],
    ids=lambda v: str(type(v).__name__),
)
def test_what_is_no_array_is_named(model, given, message):
    with pytest.raises((TypeError, ssmscan.ModelError), match=message):
        ssmscan.trace(model, given)


def test_a_fault_of_the_model_stays_what_it_is():
    def model(y, names=None):
        raise KeyError("a fault of the model")

    with pytest.raises(KeyError, match="a fault of the model"):
        ssmscan.trace(model, SERIES, names=None)


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (lambda x: None, "nothing"),
        (lambda x: x, "one array"),
        (lambda x: jnp.stack([x, x]), "one array"),
        (lambda x: (x, None, None), "3 values"),
        (lambda x: {"carry": x, "y": None}, "a dict"),
    ],
)
def test_a_transition_returns_a_pair(result, what):
    def model(y):
        scan(lambda x, yt: result(step(x, yt)[0]), 0.0, y)

    with pytest.raises(ssmscan.ModelError, match=f"the transition returns {what}, where a scan expects a pair"):
        ssmscan.trace(model, SERIES)


@pytest.mark.parametrize(
    "wrap", [lambda m: m, handlers.trace, lambda m: functools.partial(m)], ids=["", "handler", "partial"]
)
def test_arguments_that_the_model_does_not_take_are_told_from_its_own_faults(wrap):
    with pytest.raises(TypeError, match=r"\(y\) does not take that: missing a required argument: 'y'"):
        ssmscan.trace(wrap(walk))
    with pytest.raises(TypeError, match=r"\(y\) does not take that: too many positional arguments"):
        ssmscan.trace(wrap(walk), SERIES, SERIES)
    with pytest.raises(TypeError, match=r"\(y\) does not take that: got an unexpected keyword argument 'z'"):
        ssmscan.trace(wrap(walk), SERIES, z=1)
