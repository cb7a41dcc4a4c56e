"""Labels by themselves, and on their way from a model through engines, files and forecasts."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmscan
from ssmscan.labels import Labels
from tests.inference.test_predict import made_by_hand
from tests.test_compilation import compilations

DAYS = np.arange("2024-01-30", "2024-02-04", dtype="M8[D]")
LABELS = Labels({"time": DAYS, "country": ["ES", "PT"], "time_1": [1, 2, 3]}, {"x": ["country"], "beta": ("country",)})
"""Five steps of one loop, three of another."""


def test_an_element_is_found_by_what_is_labelled_so():
    assert LABELS.index("x", "PT") == LABELS.index("x", ("PT",)) == LABELS.index("x", (1,)) == (1,)
    assert LABELS.index("x", ()) == () and LABELS.index("x", 3) == 3 and LABELS.index("z", (0, 2)) == (0, 2)
    assert LABELS.element("x", (1,)) == "x[PT]" and LABELS.element("x", (-1, 0)) == "x[PT,0]"
    assert LABELS.element("z", (1, 2)) == "z[1,2]" and LABELS.element("z", ()) == "z"
    with pytest.raises(ValueError, match="axis 0 of x has no 'FR'; it has ES, PT"):
        LABELS.index("x", "FR")
    with pytest.raises(ValueError, match="axis 0 of z has no 'PT'; it has no labels"):
        LABELS.index("z", "PT")


def test_values_are_dates_numbers_or_text():
    assert [LABELS.coords[name].dtype.kind for name in LABELS.coords] == ["M", "U", "i"]
    with pytest.raises(TypeError, match=r"coords\['a'\] must be dates, numbers or text"):
        Labels({"a": [None, 1]})
    with pytest.raises(ValueError, match=r"coords\['a'\] must be a list"):
        Labels({"a": [[1, 2]]})
    with pytest.raises(ValueError, match="read-only"):
        LABELS.coords["country"][0] = "FR"


def test_the_time_of_a_loop_is_told_by_its_length():
    np.testing.assert_array_equal(LABELS.times(5), DAYS)
    assert LABELS.times(4) is None
    assert LABELS.time_names([3, 5, 4]) == {3: "time_1", 5: "time", 4: "time_2"}
    assert Labels().time_names([3, 3, 5]) == {3: "time", 5: "time_1"}


def test_axes_that_nobody_named_are_counted():
    assert LABELS.axes("x", "x", (2,)) == ("country",)
    assert LABELS.axes("x", "x", (2, 4)) == ("country", "x_dim_1")
    assert LABELS.axes("a/z", "a.z", (2, 4)) == ("a.z_dim_0", "a.z_dim_1")


def test_equal_labels_are_equal():
    assert pickle.loads(pickle.dumps(LABELS)) == LABELS
    assert Labels(LABELS.coords) != LABELS and Labels() == Labels() and not Labels() and LABELS
    assert LABELS != Labels({**LABELS.coords, "country": ["ES", "FR"]}, LABELS.dims)
    assert str(LABELS).splitlines() == ["time: 2024-01-30 to 2024-02-03", "country: ES, PT", "time_1: 1 to 3"]


def walk(y, future=0):
    import numpyro
    import numpyro.distributions as dist
    from numpyro import handlers
    from numpyro.contrib.control_flow import scan

    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, scale))
        numpyro.sample("y", dist.Normal(x, 1.0))
        return x, None

    with handlers.condition(data={"y": y}):
        scan(step, 0.0, jnp.arange(len(y) + future))


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(walk, np.zeros(5)).with_labels(time=DAYS)


def test_results_of_a_filter_and_a_smoother_have_them(ssm):
    theta, key = {"scale": 1.0}, jax.random.key(0)
    found = ssmscan.ParticleFilter(20).run(key, ssm, theta)
    np.testing.assert_array_equal(found.labels.times(5), DAYS)
    assert not jax.tree.map(lambda leaf: leaf, found).labels and not jax.jit(lambda r: r)(found).labels
    smoothed = ssmscan.Smoother(num_paths=3).run(key, ssm, theta)
    np.testing.assert_array_equal(smoothed.labels.times(5), DAYS)


def test_other_labels_compile_nothing(ssm):
    key = jax.random.key(0)
    ssmscan.ParticleFilter(20).run(key, ssm, {"scale": 1.0})
    with compilations() as counts:
        other = ssmscan.ParticleFilter(20).run(key, ssm.with_labels(time=DAYS + np.timedelta64(1, "D")), {"scale": 1.0})
    assert not counts and other.labels.times(5)[0] == DAYS[1]


def test_a_forecast_has_dates(ssm):
    rng = np.random.default_rng(0)
    draws, states = {"scale": rng.uniform(size=(2, 4))}, {"x": rng.normal(size=(2, 4, 5))}
    result = made_by_hand(np.zeros(5), draws, states, np.arange(4))
    longer = ssmscan.trace(walk, np.zeros(5), future=2).with_labels(time=DAYS)
    drawn = ssmscan.predict(jax.random.key(0), longer, result)
    assert isinstance(drawn, ssmscan.Predictions) and set(drawn) == {"x", "y"} and len(drawn.values()) == 2
    np.testing.assert_array_equal(drawn.times("y"), np.arange("2024-01-30", "2024-02-06", dtype="M8[D]"))
    assert (drawn.num_known, drawn.num_steps("y"), drawn.initial) == (5, 7, ())
    np.testing.assert_array_equal(np.isnan(drawn.observed["y"]), [0, 0, 0, 0, 0, 1, 1])
    assert "2024-01-30 to 2024-02-05, 7 steps" in repr(drawn) and "2024-02-05" in drawn._repr_html_()
    with pytest.raises(KeyError, match="no site 'scale' with a time axis"):
        drawn.times("scale")


def panel(y):
    """Two series, each with a scale of its own."""
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.control_flow import scan

    with numpyro.plate("country", 2):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(x, y):
        with numpyro.plate("country", 2):
            x = numpyro.sample("x", dist.Normal(x, scale))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, jnp.zeros(2), y)


def test_a_result_is_not_joined_to_a_model_whose_columns_stand_in_another_order():
    ssm, key = ssmscan.trace(panel, np.zeros((3, 2))), jax.random.key(0)
    draws = {"scale": np.tile(np.array([0.001, 1.0], np.float32), (1, 4, 1))}
    unnamed = made_by_hand(np.zeros((3, 2)), draws, {"x": np.zeros((1, 4, 3, 2), np.float32)}, np.arange(4))
    names = {"x": ("country",), "scale": ("country",), "y": ("country",)}
    result = replace(unnamed, labels=Labels({"country": ["ES", "PT"]}, names))
    there, back = (ssm.with_labels(coords={"country": order}) for order in (["ES", "PT"], ["PT", "ES"]))
    joins = (
        ssmscan.predict,
        ssmscan.predictive_densities,
        partial(ssmscan.forecast_scores, horizons=1),
        ssmscan.leave_future_out,
        ssmscan.evidence,
    )
    for join in joins:
        with pytest.raises(
            ValueError, match=r"has \[PT, ES\], and the result \[ES, PT\].*y\[\['ES', 'PT'\]\] has them"
        ):
            join(key, back, result)
    other = ssm.with_labels(coords={"country": ["ES", "FR"]})
    with pytest.raises(ValueError, match=r"has \[ES, FR\], and the result \[ES, PT\].*with_labels"):
        ssmscan.predict(key, other, result)
    expected = ssmscan.predict(key, there, result)
    for one, given in ((back, unnamed), (ssm, result)):
        np.testing.assert_array_equal(ssmscan.predict(key, one, given)["y"], expected["y"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        ssmscan.PMMH(num_samples=8, num_warmup=8, num_chains=1, num_particles=20, num_paths=8),
        ssmscan.NUTS(num_warmup=8, num_samples=8, num_chains=1),
    ],
    ids=lambda engine: type(engine).__name__,
)
def test_the_result_of_an_engine_has_them_through_a_file(ssm, engine, tmp_path):
    result = engine.run(jax.random.key(0), ssm)
    loaded = ssmscan.load(result.save(tmp_path / "result.nc"))
    for one in (result, loaded):
        np.testing.assert_array_equal(one.labels.times(5), DAYS)
        np.testing.assert_array_equal(one.to_arviz()["states"]["time"], DAYS)
