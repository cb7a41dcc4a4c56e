"""Roles by what a site does: not by how a start is written, how long the loop is, or where data are missing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from tests.model.zoo import SMOOTHING, Y, with_a_second_scan
from tests.truth import z_threshold

SITES, SEASONS = 30, 6


def names(sites):
    return {site.name for site in sites}


def why(ssm, name):
    return next(site.reason for site in ssm.sites if site.name == name)


def local_level(start):
    """A local level whose start is drawn by a function."""

    def model(y):
        def transition(carry, y):
            x = numpyro.sample("x", dist.Normal(jax.tree.leaves(carry)[0], 0.5))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
            return jax.tree.map(lambda _: x, carry), None

        scan(transition, start(), y)

    return ssmscan.trace(model, jnp.zeros(4))


# ---- hyper-parameters of the start ----------------------------------------------------------------


def occupancy(y):
    """Sites that are colonised and abandoned, seen with a probability; the first season has one of its own."""
    psi = numpyro.sample("psi", dist.Beta(2.0, 2.0))
    stay, come, seen = (numpyro.sample(name, dist.Beta(2.0, 2.0)) for name in ("stay", "come", "seen"))
    with numpyro.plate("sites", SITES):
        z = numpyro.sample("z0", dist.Bernoulli(psi))

    def transition(z, y):
        with numpyro.plate("sites", SITES):
            z = numpyro.sample("z", dist.Bernoulli(jnp.where(z == 1, stay, come)))
            numpyro.sample("y", dist.Bernoulli(z * seen), obs=y)
        return z, None

    scan(transition, z, y)


def log_likelihood_of_occupancy(y, psi, stay, come, seen):
    """The forward recursion of two states for each site, in double precision."""
    move = np.array([[1 - come, come], [1 - stay, stay]])
    total = 0.0
    for series in np.asarray(y).T:
        state = np.array([1 - psi, psi])
        for value in series:
            state = (state @ move) * ([1.0, 1 - seen] if value == 0 else [0.0, seen])
            total += np.log(state.sum())
            state /= state.sum()
    return total


def test_the_probability_of_a_first_state_is_a_parameter_and_elements_are_filtered_one_by_one():
    """The mean of Z-hat over Z is one, and its spread that of a filter for each element."""
    rng = np.random.default_rng(0)
    z = rng.random(SITES) < 0.6
    y = np.empty((SEASONS, SITES), np.int32)
    for t in range(SEASONS):
        z = rng.random(SITES) < np.where(z, 0.8, 0.3)
        y[t] = z & (rng.random(SITES) < 0.7)
    ssm = ssmscan.trace(occupancy, y)
    assert names(ssm.parameters) == {"psi", "stay", "come", "seen"} and names(ssm.initial) == {"z0"}
    assert why(ssm, "psi") == "acts on the distribution of 'z0'"
    assert ssm.panel is not None and ssm.panel.size == SITES
    theta = {"psi": 0.6, "stay": 0.8, "come": 0.3, "seen": 0.7}
    exact = log_likelihood_of_occupancy(y, **theta)
    run = jax.jit(jax.vmap(lambda key: ssmscan.log_likelihood(key, ssm, ssm.canonical(theta), num_particles=2000)))
    ratio = np.exp(np.asarray(run(jax.random.split(jax.random.key(0), 50)), np.float64) - exact)
    assert ratio.std() < 0.5
    assert abs(ratio.mean() - 1) < z_threshold(1) * ratio.std() / np.sqrt(len(ratio))


def test_a_start_that_is_written_around_its_mean_says_how_elements_are_filtered_one_by_one():
    """Mean and deviation both enter the start, as after a reparam: initial states, unless declared otherwise."""

    def model(y):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        with numpyro.plate("series", 3):
            deviation = numpyro.sample("deviation", dist.Normal(0.0, 1.0))

        def transition(x, y):
            with numpyro.plate("series", 3):
                x = numpyro.sample("x", dist.Normal(x, 0.5))
                numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
            return x, None

        scan(transition, mean + deviation, y)

    ssm = ssmscan.trace(model, jnp.zeros((4, 3)))
    assert names(ssm.initial) == {"mean", "deviation"}
    said = "filtered jointly: 'mean' is common to all elements; ssm.with_roles(parameters=('mean',)) lets them be"
    assert said in repr(ssm)
    declared = ssm.with_roles(parameters=("mean",))
    assert declared.panel is not None and names(declared.initial) == {"deviation"}


def chain():
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    return numpyro.sample("b", dist.Normal(a, 1.0))


def lags():
    """Both lags are in the carry; the first acts on the second as well."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    return numpyro.sample("b", dist.Normal(a, 1.0)), a


def chain_of_three():
    top = numpyro.sample("top", dist.Normal(0.0, 1.0))
    a = numpyro.sample("a", dist.Normal(top, 1.0))
    return numpyro.sample("b", dist.Normal(a, 1.0)), a


def mixture():
    """A discrete site has no engine that moves it as a parameter."""
    odds = numpyro.sample("odds", dist.Dirichlet(jnp.ones(2)))
    a = numpyro.sample("a", dist.Categorical(odds))
    return numpyro.sample("b", dist.Normal(jnp.array([-1.0, 1.0])[a], 1.0))


def observed_on_the_way():
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("seen", dist.Normal(a, 1.0), obs=0.5)
    return numpyro.sample("b", dist.Normal(a, 1.0))


@pytest.mark.parametrize(
    "start, parameters, initial",
    [
        (chain, {"a"}, {"b"}),
        (lags, set(), {"a", "b"}),
        (chain_of_three, {"top"}, {"a", "b"}),
        (mixture, {"odds"}, {"a", "b"}),
        (observed_on_the_way, {"a"}, {"b"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_reaches_the_start_only_through_a_distribution_is_a_parameter(start, parameters, initial):
    ssm = local_level(start)
    assert (names(ssm.parameters), names(ssm.initial)) == (parameters, initial)
    assert ssm.check(jax.random.key(0)).passed


def test_a_hyper_parameter_can_be_declared_an_initial_state():
    ssm = local_level(chain).with_roles(initial=("a",))
    assert names(ssm.initial) == {"a", "b"} and why(ssm, "a") == "declared by with_roles"
    assert ssm.check(jax.random.key(0)).passed


def test_a_hyper_parameter_of_one_of_several_loops_can_be_declared_an_initial_state():
    def model(y):
        def transition(name):
            def step(x, y):
                x = numpyro.sample(f"x_{name}", dist.Normal(x, 1.0))
                numpyro.sample(f"y_{name}", dist.Normal(x, 1.0), obs=y)
                return x, None

            return step

        scan(transition("one"), chain(), y)
        scan(transition("two"), 0.0, y)

    ssm = ssmscan.trace(model, jnp.zeros(4))
    assert names(ssm.parameters) == {"a"} and names(ssm.initial) == {"b"}
    assert names(ssm.with_roles(initial=("a",)).initial) == {"a", "b"}


# ---- the length of the loop, and gaps --------------------------------------------------------------


@pytest.mark.parametrize("model", SMOOTHING.values(), ids=SMOOTHING.keys())
def test_roles_do_not_change_with_the_length_of_the_loop(model):
    """Exponential smoothing draws nothing in the sample; the errors of its forecast make its level no state."""
    short, long = (ssmscan.trace(model, jnp.asarray(Y), future) for future in (0, 3))
    assert names(short.parameters) == names(long.parameters) == {"alpha", "level", "sd"}
    assert not short.initial and not long.initial
    assert why(short, "level") == why(long, "level")


def test_roles_do_not_change_with_gaps_in_the_data():
    """A first value that the first step alone reads; with gaps and without it is a parameter."""

    def model(y):
        before = numpyro.sample("before", dist.Normal(0.0, 1.0))

        def transition(last, y):
            return numpyro.sample("y", dist.Normal(0.5 * last, 1.0), obs=y), None

        scan(transition, before, y)

    full, gaps = (ssmscan.trace(model, jnp.asarray(y)) for y in (Y, np.where(np.arange(len(Y)) == 4, np.nan, Y)))
    assert names(full.parameters) == names(gaps.parameters) == {"before"}
    assert names(gaps.innovations) == {"y_missing"}


def test_a_scan_over_the_horizon_that_data_depend_on_is_no_forecast():
    """The last observation reads what the second scan draws, so that this is the loop of the states."""

    def model(y):
        with_a_second_scan(y)
        last, _ = scan(lambda x, _: (numpyro.sample("x", dist.Normal(x, 1.0)), None), 0.0, jnp.arange(5))
        numpyro.sample("end", dist.Normal(last, 1.0), obs=0.3)

    ssm = ssmscan.trace(model, jnp.asarray(Y))
    assert ssm.num_steps == 5 and names(ssm.innovations) == {"x"}
    assert ssm.check(jax.random.key(0)).passed


def observed_ahead(y):
    """A local level whose forecast is a scan of its own, seen after it."""
    last, _ = scan(lambda x, y: (numpyro.sample("x", dist.Normal(x, 1.0)), None), 0.0, y)
    numpyro.sample("y", dist.Normal(last, 1.0), obs=0.5)
    last, path = scan(lambda x, _: (numpyro.sample("x_ahead", dist.Normal(x, 1.0)),) * 2, last, jnp.arange(3))
    numpyro.sample("y_ahead", dist.Normal(path, 1.0))


def test_what_is_drawn_from_a_forecast_is_simulated():
    ssm = ssmscan.trace(observed_ahead, jnp.zeros(4))
    assert not ssm.parameters and names(ssm.innovations) == {"x"}
    assert "simulated" in why(ssm, "y_ahead")
    drawn = ssm.predict(jax.random.key(0), {}, {"x": jnp.full(4, 50.0)})
    assert drawn["y_ahead"].shape == (3,) and abs(drawn["y_ahead"] - 50.0).max() < 12


def test_what_is_drawn_from_one_of_several_loops_is_refused():
    def model(y):
        for name in ("a", "b"):

            def transition(x, y, name=name):
                x = numpyro.sample(f"x_{name}", dist.Normal(x, 1.0))
                numpyro.sample(f"y_{name}", dist.Normal(x, 1.0), obs=y)
                return x, None

            last, _ = scan(transition, 0.0, y)
            numpyro.sample(f"replicate_{name}", dist.Normal(last, 1.0))

    with pytest.raises(ssmscan.ModelError, match="site 'replicate_.' depends on the draws of another scan"):
        ssmscan.trace(model, jnp.zeros(4))
