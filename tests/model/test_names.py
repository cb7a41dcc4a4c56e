"""Names of sites under `scope` and from f-strings, and values that are given by them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density

import ssmscan
from ssmscan.model.handlers.names import SiteNames

Y = np.random.default_rng(5).normal(size=6)
TRACED = "x_Traced<int32[]>with<DynamicJaxprTrace>"


def walk(y=None, q=1.0):
    def step(c, yt):
        x = numpyro.sample("x", dist.Normal(c, q))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=yt)
        return x, x

    return scan(step, 0.0, y, length=len(Y))


def base(y=None):
    walk(y, numpyro.sample("q", dist.HalfNormal(1.0)))


def with_fstring(order):
    def model(y):
        def step(c, inputs):
            t, yt = inputs
            names = ["x", f"x_{t}"]
            a, b = (numpyro.sample(names[k], dist.Normal(0.0 if k else c, 1.0 + k)) for k in order)
            numpyro.sample(f"y_{t}", dist.Normal(a + 2.0 * b, 1.0), obs=yt)
            return a, b

        scan(step, 0.0, (jnp.arange(len(y)), y))

    return model


def beside_the_start(y):
    def step(c, inputs):
        t, yt = inputs
        x = numpyro.sample(f"x_{t}", dist.Normal(c, 1.0))
        numpyro.sample(f"y_{t}", dist.Normal(x, 1.0), obs=yt)
        return x, None

    scan(step, numpyro.sample("x", dist.Normal(0.0, 1.0)), (jnp.arange(len(y)), y))


def names_of(sites):
    return [site.name for site in sites]


def test_a_plain_name_is_kept_and_what_is_left_of_another_is_numbered():
    names = SiteNames()
    name_of = names.numbering()
    assert [name_of(n) for n in (TRACED, "z", TRACED)] == ["x", "z", "x__2"] and not names.collide
    name_of("x")
    assert names.collide
    name_of = SiteNames(frozenset(names.plain)).numbering()
    assert [name_of(n) for n in (TRACED, "x", TRACED)] == ["x__2", "x", "x__3"]


@pytest.mark.parametrize("order", [(0, 1), pytest.param((1, 0), marks=pytest.mark.slow)])
def test_a_site_from_an_fstring_may_stand_beside_a_plain_name(order):
    ssm = ssmscan.trace(with_fstring(order), Y)
    assert names_of(ssm.innovations) == [("x", "x__2")[k] for k in order] and names_of(ssm.observations) == ["y"]
    assert ssm.check(jax.random.key(0)).passed


@pytest.mark.slow
def test_a_site_from_an_fstring_may_have_the_name_of_one_outside():
    ssm = ssmscan.trace(beside_the_start, Y)
    assert names_of(ssm.initial) == ["x"] and names_of(ssm.innovations) == ["x__2"]
    assert ssm.check(jax.random.key(0)).passed


@pytest.mark.slow
@pytest.mark.parametrize("model", [beside_the_start])
def test_noise_outside_has_the_names_of_the_traced_model(model):
    ssm, moved = ssmscan.trace(model, Y), ssmscan.noise_outside(model)
    noise = {
        name: jax.random.normal(jax.random.key(k), spec.shape)
        for k, (name, spec) in enumerate(ssm.smooth_noise.items())
    }
    expected = ssm.log_likelihood_given_noise({}, noise) + sum(dist.Normal().log_prob(e).sum() for e in noise.values())
    density, _ = log_density(moved, (Y,), {}, {f"{name}_noise": eps for name, eps in noise.items()})
    np.testing.assert_allclose(density, expected, rtol=1e-5)


SCOPED = {
    "around the model": lambda y: handlers.scope(base, prefix="a")(y),
    "conditioned by the scoped name": lambda y: handlers.condition(handlers.scope(base, prefix="a"), data={"a/y": y})(),
    "by the name in the loop": lambda y: handlers.condition(handlers.scope(base, prefix="a"), data={"y": y})(),
    "inside the scope": lambda y: handlers.scope(handlers.condition(base, data={"y": y}), prefix="a")(),
    "by a function": lambda y: handlers.condition(
        handlers.scope(base, prefix="a"), condition_fn=lambda site: {"a/y": y}.get(site["name"])
    )(),
}


@pytest.mark.parametrize(
    "how", [h if h.startswith("cond") else pytest.param(h, marks=pytest.mark.slow) for h in SCOPED]
)
def test_a_scope_around_the_scan_only_renames(how):
    plain, scoped = ssmscan.trace(base, Y), ssmscan.trace(SCOPED[how], Y)
    assert [names_of(s) for s in (scoped.parameters, scoped.innovations, scoped.observations)] == [
        ["a/q"],
        ["a/x"],
        ["a/y"],
    ]
    noise = {"x": jax.random.normal(jax.random.key(0), Y.shape)}
    expected = plain.log_likelihood_given_noise({"q": 0.7}, noise)
    np.testing.assert_allclose(
        scoped.log_likelihood_given_noise({"a/q": 0.7}, {"a/x": noise["x"]}), expected, rtol=1e-6
    )


@pytest.mark.slow
def test_scopes_keep_apart_what_two_loops_are_given():
    def model():
        with handlers.scope(prefix="a"):
            walk()
        with handlers.scope(prefix="b"), handlers.scope(prefix="c", divider=".", hide_types=["deterministic"]):
            walk()

    ssm = ssmscan.trace(handlers.condition(model, data={"a/y": Y, "b/c.y": Y + 1.0}))
    np.testing.assert_allclose(ssm.observed["b/c.y"] - ssm.observed["a/y"], 1.0, rtol=1e-5)
    assert ssm.check(jax.random.key(0)).passed
    one = ssmscan.trace(walk, Y).log_likelihood_given_noise({}, {"x": jnp.zeros(6)})
    other = ssmscan.trace(walk, Y + 1.0).log_likelihood_given_noise({}, {"x": jnp.zeros(6)})
    both = ssm.log_likelihood_given_noise({}, {"a/x": jnp.zeros(6), "b/c.x": jnp.zeros(6)})
    np.testing.assert_allclose(both, one + other, rtol=1e-5)


WRONG = {
    "a/z": lambda data: handlers.condition(handlers.scope(base, prefix="a"), data=data),
    "q": lambda data: handlers.condition(handlers.scope(base, prefix="a"), data=data),
    "a/y": lambda data: handlers.scope(handlers.condition(base, data=data), prefix="a"),
    "yy": lambda data: handlers.block(handlers.condition(base, data=data), hide=["other"]),
    "xx": lambda data: handlers.condition(handlers.block(base, hide=["other"]), data=data),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_for_a_name_that_meets_no_site_is_refused_with_the_sites(name):
    with pytest.raises(
        ssmscan.ModelError, match=f"gives a value to '{name}', which is no sample.*the most similar first: "
    ):
        ssmscan.trace(WRONG[name]({name: 0.5}), Y)


@pytest.mark.slow
def test_a_value_under_a_block_that_hides_its_site_is_left_alone():
    hidden = handlers.block(handlers.condition(base, data={"q": 0.5}), hide=["q"])
    assert names_of(ssmscan.trace(hidden, Y).parameters) == []
