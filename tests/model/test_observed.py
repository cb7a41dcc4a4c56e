"""`dynamics.observed(x)` is y_t: the rows of the data that weigh the particles at that step, else NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from tests.model import tails
from tests.model.tails import COUNTS, POINTWISE, Y2, T, Y

KEY = jax.random.key(0)
M = 3
GAPS = np.where(np.arange(T * M).reshape(T, M) == 4, np.nan, np.arange(T * M).reshape(T, M)).astype(np.float32)


def seen(dynamics):
    """What is observed, time in front."""
    return jax.device_get(jax.vmap(dynamics.observed)(dynamics.xs))


def loop(inside=None, after=None):
    """A random walk in each of M series."""

    def model(y):
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        with numpyro.plate("series", M):
            x0 = numpyro.sample("x0", dist.Normal(0, s))

        def step(x, yt):
            with numpyro.plate("series", M):
                x = numpyro.sample("x", dist.Normal(x, s))
                if inside is not None:
                    inside(x, yt)
            return x, x

        _, path = scan(step, x0, y)
        if after is not None:
            after(path, x0, y)

    return model


def see(name, mean, y):
    numpyro.sample(name, dist.Normal(mean, 1.0), obs=y)


PANELS = {
    "inside": (loop(inside=lambda x, y: see("y", x, y)), GAPS),
    "after": (loop(after=lambda p, x0, y: see("y", p, y)), GAPS),
    "transposed": (loop(after=lambda p, x0, y: see("y", p.T, y.T)), GAPS),
    "without two": (
        loop(after=lambda p, x0, y: see("y", p[2:], y[2:])),
        np.where(np.arange(T)[:, None] < 2, np.nan, GAPS),
    ),
    "common": (loop(inside=lambda x, y: see("y", x, y[0])), np.broadcast_to(GAPS[:, :1], (T, M))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PANELS)
def test_each_element_of_a_panel_observes_its_own_row_and_all_together_the_whole(name):
    model, expected = PANELS[name]
    ssm = ssmscan.trace(model, jnp.asarray(GAPS))
    theta, element = {"s": jnp.asarray(0.5)}, ssm.elements_at({"s": jnp.asarray(0.5)})
    np.testing.assert_array_equal(
        seen(ssm.at(theta))["y"].reshape(T, -1), expected if name != "common" else GAPS[:, :1]
    )
    for m in range(M):
        np.testing.assert_array_equal(seen(element(jnp.int32(m)))["y"].reshape(T), expected[:, m])


@pytest.mark.slow
def test_densities_of_the_elements_at_given_values_add_up_to_those_of_all():
    ssm = ssmscan.trace(PANELS["inside"][0], jnp.asarray(GAPS))
    theta, rng = {"s": jnp.asarray(0.5)}, np.random.default_rng(1)
    whole, element = ssm.at(theta), ssm.elements_at(theta)
    x0, x = (jnp.asarray(rng.normal(size=M), jnp.float32) for _ in range(2))
    start, step = whole.evaluate_start({"x0": x0}), whole.evaluate(x0, inputs(whole, 1), {"x": x})
    ones = [element(jnp.int32(m)) for m in range(M)]
    assert ones[0].initial[0].shape == ones[0].innovations[0].shape == (1,)
    starts = [e.evaluate_start({"x0": x0[m : m + 1]}) for m, e in enumerate(ones)]
    steps = [e.evaluate(s.carry, inputs(e, 1), {"x": x[m : m + 1]}) for m, (e, s) in enumerate(zip(ones, starts))]
    np.testing.assert_allclose(sum(s.log_initial for s in starts), start.log_initial, rtol=1e-5)
    np.testing.assert_allclose(sum(s.log_transition for s in steps), step.log_transition, rtol=1e-5)
    np.testing.assert_allclose(sum(s.log_observation for s in steps), step.log_observation, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([s.cdf["y"][0] for s in steps]), step.cdf["y"][0], rtol=1e-6)


def inputs(dynamics, t):
    return jax.tree.map(lambda a: a[t], dynamics.xs)


def of_steps(*rows):
    """Rows of the steps, NaN for those that have none."""
    width = next(np.shape(row) for row in rows if row is not None)
    return np.stack([np.full(width, np.nan) if row is None else row for row in rows])


NO = None
EXPECTED = {
    "plain": {"a": np.resize(Y2, T)},
    "slice": {"a": of_steps(NO, *np.resize(Y2, (4, 2)), NO)},
    "start in front": {"a": np.resize(Y2, (T + 1, 2))[1:]},
    "two sites": {"a": Y, "b": Y},
    "plates": {"a": Y2},
    "flat": {"a": Y2, "b": Y2},
    "later loop": {"a": Y, "b": Y},
    "families": {"a": COUNTS, "b": COUNTS},
    "rows": {"last": of_steps(*[NO] * 5, Y2[-1]), "third": of_steps(NO, NO, Y2[2], *[NO] * 3), "every": Y},
    "start and end": {"a": np.concatenate([Y2, Y2[:3]])[1 : T + 1], "c": of_steps(*Y2[1:3], *[NO] * 4)},
    "factors": {},
}


QUICK = ("start in front",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in POINTWISE])
def test_rows_after_the_loop_belong_to_the_steps_they_weigh(name):
    ssm = ssmscan.trace(tails.model(POINTWISE[name]), jnp.asarray(Y))
    dynamics = ssm.at(ssm.sample_prior(KEY))
    found, expected = seen(dynamics), EXPECTED.get(name)
    if expected is None:
        # Every observed number appears at some step, at most once for each time that it is in the data.
        expected, observed = found, {s.name: ssm.observed[s.name] for s in ssm.observations if s.name in found}
        for site, values in observed.items():
            numbers = found[site][~np.isnan(found[site])]
            assert np.isin(numbers.astype(np.float32), values.astype(np.float32)).all()
            assert numbers.size <= max(values.size, found[site].size)
    if name == "factors":
        assert found == {}
    for site, values in expected.items():
        np.testing.assert_array_equal(found[site], values)
        assert found[site].dtype == jnp.asarray(values).dtype or np.isnan(values).any()
