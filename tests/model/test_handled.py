"""Handlers that give a value to a name: each name meets a site, or is an error."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from tests.model.zoo import Y


def walk(around=None, inside=None):
    """A random walk with handlers around the loop and in the transition."""
    scale = numpyro.param("scale", 1.0)
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def transition(x, _):
        with handlers.condition(data=inside or {}):
            x = numpyro.sample("x", dist.Normal(x, scale))
            numpyro.sample("y", dist.Normal(x, 1.0))
        return x, numpyro.deterministic("twice", 2 * x)

    with handlers.condition(data=around or {}):
        scan(transition, x0, jnp.arange(len(Y)))


SEEN = {"y": jnp.asarray(Y)}
WRONG = {
    "condition": (lambda: handlers.condition(walk, data=SEEN | {"yy": 1.0}), "condition", "yy", "y, x, x0"),
    "substitute": (lambda: handlers.substitute(walk, data=SEEN | {"X_0": 1.0}), "substitute", "X_0", "x0, x, scale, y"),
    "around the loop": (lambda: lambda: walk(SEEN | {"obs": 1.0}), "condition", "obs", "x, y"),
    "in the transition": (lambda: lambda: walk(SEEN, {"z": 1.0}), "condition", "z", "x, y"),
    "outer": (lambda: handlers.condition(lambda: walk(SEEN), data={"z": 1.0}), "condition", "z", "x, x0, y"),
    "deterministic": (lambda: lambda: walk(SEEN | {"twice": 1.0}), "condition", "twice", "x, y"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_name_that_meets_no_site_is_an_error(case):
    """It names the handler, the name, and what there is, the most similar first."""
    make, kind, name, sites = WRONG[case]
    with pytest.raises(ssmscan.ModelError) as error:
        ssmscan.trace(make())
    assert f"handlers.{kind} gives a value to '{name}'" in str(error.value)
    assert f"the most similar first: {sites}." in str(error.value)


def test_a_site_outside_the_handler_is_named():
    with pytest.raises(ssmscan.ModelError, match="'x0' stands outside it: put the handler around the whole model"):
        ssmscan.trace(lambda: walk(SEEN | {"x0": 1.0}))


@pytest.mark.parametrize(
    "model",
    [
        handlers.condition(walk, data=SEEN | {"x0": 0.5}),
        handlers.substitute(walk, data=SEEN | {"scale": 0.5}),
        handlers.condition(walk, data=SEEN | {"nobody": None}),
        handlers.condition(handlers.condition(walk, data={"x0": 0.5}), data=SEEN),
        handlers.condition(walk, condition_fn=lambda site: SEEN.get(site["name"])),
        handlers.block(handlers.condition(walk, data=SEEN), hide=["nobody"]),
    ],
    ids=["site", "param", "no value", "two handlers", "function", "block"],
)
def test_names_that_meet_a_site_and_names_without_a_value_are_taken(model):
    assert [site.name for site in ssmscan.trace(model).observations] == ["y"]


def test_a_scope_outside_the_handler_renames_what_the_handler_has_met():
    def model():
        mean = handlers.scope(
            handlers.condition(lambda: numpyro.sample("m", dist.Normal(0, 1)), data={"m": 0.5}), "a"
        )()
        scan(lambda x, y: (numpyro.sample("x", dist.Normal(x + mean, 1.0), obs=y), None), 0.0, jnp.asarray(Y))

    assert not ssmscan.trace(model).parameters
