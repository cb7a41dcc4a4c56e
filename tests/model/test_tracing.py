"""Tracing: roles, parts against the original, programs shared, and every refusal by its message."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import Role
from tests.model.zoo import CASES, Y, local_level

NAMES = list(CASES)


@pytest.mark.parametrize("name", NAMES)
def test_roles_follow_the_data_flow(traced, name):
    ssm, case = traced(name), CASES[name]
    assert {s.name for s in ssm.parameters} == set(case.parameters)
    assert {s.name for s in ssm.initial} == set(case.initial)
    assert tuple(s.name for s in ssm.innovations) == case.innovations
    assert tuple(s.name for s in ssm.observations) == case.observations
    assert not any("forgotten" in s.reason for s in ssm.sites)


@pytest.mark.parametrize("name", NAMES)
def test_parts_add_up_to_the_density_of_the_original(traced, name):
    assert traced(name).check(jax.random.key(0)).passed


def test_check_rejects_a_model_taken_apart_wrongly(traced):
    ssm = traced("local_level")
    other = ssmscan.trace(local_level, Y + 1.0)
    broken = ssmscan.StateSpaceModel(ssm.cores, other.source)
    with pytest.raises(ssmscan.ModelError, match="traced parts give log-density"):
        broken.check(jax.random.key(0))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("growth", "after_the_loop")])
def test_step_by_noise_equals_step_by_value(traced, name):
    """The staged noise map, then the staged densities: carry and weight agree with the values drawn."""
    ssm = traced(name)
    theta = ssm.sample_prior(jax.random.key(0))
    bound = ssm.at(theta)
    key = jax.random.key(1)

    def noise(specs):
        return {
            n: jax.random.key(3) if s.is_key else jax.random.normal(jax.random.fold_in(key, i), s.shape)
            for i, (n, s) in enumerate(specs.items())
        }

    start = bound.init(noise(bound.initial_noise))
    carry = bound.evaluate_start(start.values).carry
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), start.carry, carry)
    x = jax.tree.map(lambda a: a[0], bound.xs)
    step = bound.step(start.carry, x, noise(bound.step_noise))
    values = {s.name: step.values[s.name] for s in ssm.innovations}
    seen = bound.evaluate(carry, x, values)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), step.cdf, seen.cdf)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), step.carry, seen.carry)
    excess = 0.0
    if name == "masked_and_scaled":
        excess = -0.5 * dist.Laplace(0.0, 1.0).log_prob(values["e"])
    np.testing.assert_allclose(step.log_weight, seen.log_observation + excess, rtol=2e-5, atol=1e-6)


def test_simulation_feeds_simulated_data_and_is_reproducible(traced):
    ssm = traced("lags_from_data")
    theta = ssm.sample_prior(jax.random.key(2))
    one, two = (ssm.simulate(jax.random.key(5), theta) for _ in range(2))
    other = ssm.simulate(jax.random.key(6), theta)
    assert set(one) == {"x", "y"} and one["y"].shape == (10,)
    np.testing.assert_array_equal(one["y"], two["y"])
    assert not np.array_equal(one["y"], other["y"])


def test_simulated_moments_match_the_model():
    """AR(1)+noise with known parameters: mean 0, variance of y_t = q^2 t + 1 + r^2 for the local level."""

    def model(y):
        x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, 0.5))
            numpyro.sample("y", dist.Normal(x, 0.7), obs=yt)
            return x, None

        scan(step, x0, y)

    ssm = ssmscan.trace(model, jnp.zeros(4))
    draws = jax.vmap(lambda k: ssm.simulate(k, {})["y"])(jax.random.split(jax.random.key(0), 20_000))
    expected = 1 + 0.25 * np.arange(1, 5) + 0.49
    # 4.5 standard errors of a normal sample variance.
    np.testing.assert_allclose(draws.var(axis=0), expected, rtol=4.5 * np.sqrt(2 / 20_000))


def test_prediction_draws_around_the_given_states(traced):
    ssm = traced("hierarchical_start")
    theta = ssm.sample_prior(jax.random.key(0))
    states = {"x0": jnp.full((), 100.0), "x": jnp.full(12, -50.0)}
    draws = jax.vmap(lambda k: ssm.predict(k, theta, states))(jax.random.split(jax.random.key(1), 400))
    assert draws["y"].shape == (400, 12) and draws["y0"].shape == (400,)
    assert abs(draws["y0"].mean() - 100.0) < 0.5 and abs(jnp.median(draws["y"]) + 50.0) < 0.5


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (None, TypeError),
        ("q", TypeError),
        ({"q": 1.0}, ValueError),
        ({"q": 1.0, "r": 1.0, 1: 1.0}, ValueError),
        ({"q": 1.0, "r": "a"}, TypeError),
        ({"q": 1.0, "r": 1j}, TypeError),
        ({"q": 1.0, "r": np.zeros(2)}, ValueError),
    ],
)
def test_pure_functions_take_the_names_and_shapes_of_the_model(traced, values, error):
    ssm, right = traced("local_level"), {"q": 1.0, "r": 1.0}
    noise = {name: jnp.zeros(spec.shape) for name, spec in ssm.smooth_noise.items()}
    for function in (ssm.constrain, ssm.log_prior_unconstrained):
        with pytest.raises(error, match="^z"):
            function(values)
    with pytest.raises(error, match="^theta"):
        ssm.unconstrain(values)
    for function in (ssm.log_likelihood_given_noise, ssm.states_from_noise):
        with pytest.raises(error, match="^theta"):
            function(values, noise)
        with pytest.raises((TypeError, ValueError), match="^noise"):
            function(right, values)


def test_unconstrained_space_round_trips(traced):
    ssm = traced("conditioned")
    theta = ssm.sample_prior(jax.random.key(0))
    z = ssm.unconstrain(theta)
    back, density = ssm.log_prior_unconstrained(z)
    np.testing.assert_allclose(back["q"], theta["q"], rtol=1e-6)
    expected = dist.LogNormal(0.0, 0.3).log_prob(theta["q"]) + jnp.log(theta["q"])
    expected = expected + dist.Normal(0, 1).log_prob(theta["after"])
    np.testing.assert_allclose(density, expected, rtol=1e-5)


def test_log_static_is_the_likelihood_no_state_reaches(traced):
    ssm = traced("conditioned")
    theta = ssm.sample_prior(jax.random.key(0))
    np.testing.assert_allclose(ssm.log_static(theta), dist.Normal(theta["q"], 1.0).log_prob(0.5), rtol=1e-6)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e300, np.float32(np.inf), jnp.inf], ids=str)
def test_a_parameter_that_is_not_finite_is_refused(traced, value):
    """Also infinity on the half line, which holds it; 1e300 is infinite in float32 and far from it in float64."""
    ssm = traced("local_level")
    value = value if jnp.result_type(float) == jnp.float32 else np.inf
    with pytest.raises(ValueError, match=r"theta\['q'\] = (inf|nan) is outside the support.*give a finite value"):
        ssm.canonical({"q": value, "r": 1.0})
    with pytest.raises(ValueError, match=r"theta\['q'\] = (inf|nan)"):
        jax.jit(lambda key: ssm.simulate(key, {"q": value, "r": 1.0}))(jax.random.key(0))


@pytest.mark.parametrize("theta", [None, "q", ["q", "r"], {"q", "r"}, dict, 1.0])
def test_what_is_no_mapping_is_no_theta(traced, theta):
    with pytest.raises(TypeError, match=r"^theta: expected a mapping from the parameters \['q', 'r'\]"):
        traced("local_level").canonical(theta)
    with pytest.raises(ValueError, match=r"unknown: \[1, None\]"):
        traced("local_level").canonical({"q": 1.0, "r": 1.0, None: 1.0, 1: 1.0})


def test_a_traced_parameter_is_not_judged(traced):
    found = jax.jit(lambda q: traced("local_level").canonical({"q": q, "r": 1.0})["q"])(jnp.inf)
    assert found == jnp.inf


@pytest.mark.parametrize("value", [np.inf, np.nan, 0.5, 2**40, 1j, "one"], ids=str)
def test_a_discrete_parameter_takes_integers_that_its_type_holds(value):
    def model(y):
        k = numpyro.sample("k", dist.Poisson(3.0))

        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, 1.0 + k))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    ssm = ssmscan.trace(model, Y)
    assert ssm.canonical({"k": 2.0})["k"] == 2
    if jnp.result_type(int) == jnp.int32 or value != 2**40:
        known = isinstance(value, float | int)
        words = r"\['k'\] = .*; give integers from" if known else r"\['k'\]: expected a real number or an array of them"
        with pytest.raises(ValueError if known else TypeError, match=f"theta{words}"):
            ssm.canonical({"k": value})


def test_infinite_data_are_refused_where_the_support_holds_them():
    def model(y):
        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.LogNormal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    with pytest.raises(ssmscan.ModelError, match="observed site 'y' at step 2 "):
        ssmscan.trace(model, jnp.array([1.0, 2.0, jnp.inf]))


# ---- programs are shared ------------------------------------------------------------------------


def test_same_code_over_other_data_is_one_program():
    def make(data):
        def closed_over(T):
            def step(x, t):
                x = numpyro.sample("x", dist.Normal(x, 1.0))
                numpyro.sample("y", dist.Normal(x, jax.nn.softplus(x)), obs=data[t])
                return x, None

            scan(step, 0.0, jnp.arange(T))

        return closed_over

    first = ssmscan.trace(make(jnp.asarray(Y)), 12)
    again = ssmscan.trace(make(jnp.asarray(Y + 1)), 12)
    shorter = ssmscan.trace(make(jnp.asarray(Y)), 11)
    assert first.program is again.program
    assert first.program is not shorter.program
    assert not np.array_equal(first.observed["y"], again.observed["y"])


def test_with_data_and_condition_share_the_program():
    ssm = ssmscan.trace(local_level, Y)
    assert ssm.with_data(Y + 1).program is ssm.program

    def unconditioned(T):
        def step(x, t):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0))
            return x, None

        scan(step, 0.0, jnp.arange(T))

    one, two = (
        ssmscan.trace(handlers.condition(unconditioned, data={"y": jnp.asarray(data)}), 12) for data in (Y, Y + 1)
    )
    assert one.program is two.program
    np.testing.assert_allclose(two.observed["y"], Y + 1, rtol=1e-6)


def test_a_changed_global_is_not_served_stale(monkeypatch):
    constants = {"sd": 1.0}

    def model(y):
        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, constants["sd"]))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    before = ssmscan.trace(model, Y)
    constants["sd"] = 2.0
    assert ssmscan.trace(model, Y).program is not before.program


def test_with_data_names_what_changed():
    ssm = ssmscan.trace(local_level, Y, T=12)
    with pytest.raises(ValueError, match=r"argument 0 is float\d\d\[11\].*traced with float\d\d\[12\]"):
        ssm.with_data(Y[:11], T=12)
    with pytest.raises(ValueError, match=r"argument 'T' = 11 is part of the program.*traced with 12"):
        ssm.with_data(Y, T=11)
    with pytest.raises(ValueError, match="structure"):
        ssm.with_data(Y)


def test_arrays_needed_in_python_are_fixed_at_trace():
    def model(y, regime, offset):
        levels = int(np.max(np.asarray(regime))) + 1
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([levels]).to_event(1))

        def step(x, inputs):
            yt, r = inputs
            x = numpyro.sample("x", dist.Normal(mu[r] + 0.5 * x, 1.0))
            numpyro.sample("y", dist.Normal(x + offset[0], 1.0), obs=yt)
            return x, None

        scan(step, 0.0, (y, regime))

    regime = np.arange(12) % 3
    ssm = ssmscan.trace(model, Y, regime, offset=np.ones(2, np.float32))
    assert "fixed at trace (the model needs their values): argument 1" in repr(ssm)
    assert ssm.check(jax.random.key(0)).passed
    assert ssm.with_data(Y + 1, regime, offset=np.zeros(2, np.float32)).program is ssm.program
    with pytest.raises(ValueError, match="argument 1 .* is part of the program"):
        ssm.with_data(Y, regime * 0, offset=np.ones(2, np.float32))


# ---- overriding roles ---------------------------------------------------------------------------


def test_roles_can_be_overridden(traced):
    ssm = traced("local_level").with_roles(parameters=("x_0",))
    assert {s.name for s in ssm.parameters} == {"q", "r", "x_0"} and not ssm.initial
    assert ssm.check(jax.random.key(0)).passed
    assert "declared by with_roles" in repr(ssm)


def test_a_site_that_acts_on_every_step_cannot_be_initial(traced):
    with pytest.raises(ssmscan.ModelError, match="'q' cannot be an initial state: it reaches the distribution of 'x'"):
        traced("local_level").with_roles(initial=("q",))
    with pytest.raises(ssmscan.ModelError, match="names 'nobody', which is not a latent site"):
        traced("local_level").with_roles(initial=("nobody",))


# ---- what the user reads ------------------------------------------------------------------------


def test_the_table_gives_every_site_its_reason(traced):
    text = repr(traced("parameter_in_carry"))
    assert "enters carry leaf 1, which no innovation refreshes" in text
    assert "starts carry leaf 0, refreshed by innovations" in text
    assert all(site.reason for site in traced("vectors").sites)
    assert {site.role for site in traced("conditioned").sites} >= {Role.PARAMETER_LIKELIHOOD, Role.DETERMINISTIC}


def test_a_number_given_beside_a_traced_value_belongs_to_no_trace(traced):
    ssm = traced("local_level")
    first, *others = [site.name for site in ssm.parameters]
    known = dict.fromkeys(others, 0.8125)
    jax.jit(lambda value: ssm.canonical({first: value, **known})[first])(0.5)
    assert not any(isinstance(value, jax.core.Tracer) for value in ssm.canonical({first: 0.5, **known}).values())


def test_known_values_are_checked_while_somebody_traces():
    """Data and parameters that are known under jit are computed and judged, and not traced."""
    case = CASES["local_level"]

    def log_likelihood(key, q):
        ssm = ssmscan.trace(case.model, *case.args, **case.kwargs)
        return ssmscan.log_likelihood(key, ssm, {"q": jnp.float32(q), "r": jnp.float32(1.0)}, num_particles=10)

    keys = jax.random.split(jax.random.key(0), 2)
    found = jax.jit(jax.vmap(lambda key: log_likelihood(key, 0.5)))(keys)
    np.testing.assert_allclose(found, [log_likelihood(key, 0.5) for key in keys], rtol=1e-5)
    bad = np.array(-1.0, np.float32)
    ssm = ssmscan.trace(case.model, *case.args, **case.kwargs)
    with pytest.raises(ValueError, match=r"theta\['q'\] = -1"):
        jax.jit(lambda key: ssmscan.log_likelihood(key, ssm, {"q": bad, "r": bad * 0 + 1}, num_particles=10))(keys[0])


def test_the_logarithm_of_an_exponential_is_not_computed():
    """log(c e^q) = log c + q: fewer operations, and no overflow where e^q has one."""

    def scaled(y):
        s = numpyro.sample("s", dist.HalfNormal(1.0))

        def transition(h, y):
            h = numpyro.sample("h", dist.Normal(h, s))
            numpyro.sample("y", dist.Laplace(0.0, jnp.exp(h)), obs=y)
            return h, None

        scan(transition, 0.0, y)

    ssm = ssmscan.trace(scaled, jnp.zeros(3))
    bound = ssm.at(ssm.canonical({"s": 1.0}))
    x = jax.tree.map(lambda leaf: leaf[0], bound.xs)
    weigh = lambda h: bound.evaluate(h, x, {"h": h}).log_observation  # noqa: E731
    np.testing.assert_allclose(weigh(200.0), -200.0 - np.log(2), rtol=1e-6)
    assert " log " not in str(jax.make_jaxpr(weigh)(0.0))
