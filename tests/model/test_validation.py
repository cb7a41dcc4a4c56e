"""`trace` checks itself by site where more than the plainest rules took a model apart."""

from __future__ import annotations

import re
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.model import validation
from ssmscan.model.statespace import site_check
from ssmscan.model.statespace.dynamics import LoopDynamics
from ssmscan.model.statespace.element_dynamics import ElementDynamics

Y = jnp.array([0.3, -0.2, 0.8, 0.1])


@pytest.fixture(autouse=True)
def with_validation(monkeypatch):
    monkeypatch.setattr(validation, "_RIGHT", OrderedDict())
    with ssmscan.validation_enabled():
        yield


@pytest.fixture
def checked(monkeypatch):
    """The names of the sites of each comparison that was made."""
    seen, pairs = [], site_check._pairs

    def spy(*args):
        found = pairs(*args)
        seen.append(set(found))
        return found

    monkeypatch.setattr(site_check, "_pairs", spy)
    return seen


def walk(y, scale=1.0):
    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, scale))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return x, x

    return scan(step, 0.0, y)[1]


def after(y):
    q = numpyro.sample("q", dist.LogNormal(0.0, 1.0))
    _, path = scan(lambda x, _: (numpyro.sample("x", dist.Normal(x, q)),) * 2, 0.0, None, length=len(y))
    numpyro.sample("y", dist.Normal(path, 1.0), obs=y)


def panel(y):
    def step(x, yt):
        with numpyro.plate("n", 2):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return x, None

    scan(step, jnp.zeros(2), jnp.stack([y, y + 1], 1))


def test_a_plain_model_is_not_checked_and_one_under_a_handler_is(checked):
    ssmscan.trace(walk, Y)
    assert not checked
    ssmscan.trace(handlers.condition(walk, data={}), Y)
    assert checked == [{"x", "y"}]


def test_a_wrong_row_after_the_loop_is_named_with_both_numbers(monkeypatch, checked):
    rows = LoopDynamics.log_rows
    wrong = lambda self, *args: {name: value + 0.1 for name, value in rows(self, *args).items()}  # noqa: E731
    monkeypatch.setattr(LoopDynamics, "log_rows", wrong)
    with pytest.raises(ssmscan.ModelError, match=r"site 'y' has log-density -.* where NumPyro counts -") as found:
        ssmscan.trace(after, Y)
    ours, theirs = map(float, re.findall(r"-\d+\.\d+", str(found.value)))
    assert ours - theirs == pytest.approx(0.1 * len(Y), rel=0.01)
    with ssmscan.validation_enabled(False):
        ssmscan.trace(after, Y)
    assert len(checked) == 1


@pytest.mark.slow
def test_a_wrong_element_of_a_panel_is_seen(monkeypatch):
    evaluate = ElementDynamics.evaluate

    def wrong(self, *args):
        found = evaluate(self, *args)
        return found._replace(log_observation=found.log_observation + 0.1)

    monkeypatch.setattr(ElementDynamics, "evaluate", wrong)
    with pytest.raises(ssmscan.ModelError, match="the sum over the elements of the panel has log-density"):
        ssmscan.trace(panel, Y)


def test_a_program_that_was_right_is_not_checked_again(checked):
    def made():
        return lambda y: after(y)

    for shift in range(3):
        ssmscan.trace(made(), Y + shift)
    assert len(checked) == 1


@pytest.mark.slow
def test_missing_values_are_filled_and_a_horizon_is_left_alone(checked):
    ssmscan.trace(walk, Y.at[1].set(jnp.nan))
    assert len(checked) == 1

    def conditioned(y):
        def step(x, _):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0))
            return x, None

        with handlers.condition(data={"y": y}):
            scan(step, 0.0, None, length=6)

    ssmscan.trace(conditioned, Y)
    assert len(checked) == 1


def test_nothing_is_checked_while_a_jit_is_being_traced(checked):
    assert jax.jit(lambda y: ssmscan.trace(after, y).log_static({"q": 1.0}))(Y) == 0
    assert jax.jit(lambda: ssmscan.trace(after, Y).log_static({"q": 1.0}))() == 0
    assert not checked


@pytest.mark.slow
def test_a_loop_that_amplifies_rounding_is_no_failure(checked):
    def logistic(y):
        rate = numpyro.sample("rate", dist.Uniform(3.8, 3.99))
        _, path = scan(lambda x, _: (rate * x * (1 - x),) * 2, 0.3, None, length=len(y))
        numpyro.sample("y", dist.Normal(path, 0.01), obs=y)

    def perturbed(*args):
        found = pairs(*args)
        mine, theirs, tolerance = found["y"]
        return {**found, "y": (theirs + 20.0, theirs, tolerance)}

    pairs, y = site_check._pairs, jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.9, 200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_check, "_pairs", perturbed)
        ssmscan.trace(logistic, y)
        with pytest.raises(ssmscan.ModelError, match="site 'y'"):
            ssmscan.trace(logistic, y[:5])
