"""Tracing: roles, parts against the original, programs shared, and every refusal by its message."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.infer.reparam import LocScaleReparam

import ssmscan
from ssmscan import Role
from tests.model.zoo import CASES, Y, conditioned, local_level

NAMES = list(CASES)


@pytest.fixture(scope="module")
def traced():
    cache = {}

    def get(name: str) -> ssmscan.StateSpaceModel:
        if name not in cache:
            case = CASES[name]
            cache[name] = ssmscan.trace(case.model, *case.args, **case.kwargs)
        return cache[name]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_roles_follow_the_data_flow(traced, name):
    ssm, case = traced(name), CASES[name]
    assert {s.name for s in ssm.parameters} == set(case.parameters)
    assert {s.name for s in ssm.initial} == set(case.initial)
    assert tuple(s.name for s in ssm.innovations) == case.innovations
    assert tuple(s.name for s in ssm.observations) == case.observations


@pytest.mark.parametrize("name", NAMES)
def test_parts_add_up_to_the_density_of_the_original(traced, name):
    assert traced(name).check(jax.random.key(0)).passed


def test_check_rejects_a_model_taken_apart_wrongly(traced):
    ssm = traced("local_level")
    broken = ssmscan.StateSpaceModel(ssm.program, ssm.arrays, ssm.source)
    other = ssmscan.trace(local_level, Y + 1.0)
    broken.source = other.source
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

    start = bound.init(noise(ssm.initial_noise))
    carry = bound.start_from(start.values)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), start.carry, carry)
    x = jax.tree.map(lambda a: a[0], bound.xs)
    step = bound.step(start.carry, x, noise(ssm.step_noise))
    values = {s.name: step.values[s.name] for s in ssm.innovations}
    seen = bound.evaluate(carry, x, values)
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


def test_replicate_draws_around_the_given_states(traced):
    ssm = traced("hierarchical_start")
    theta = ssm.sample_prior(jax.random.key(0))
    states = {"m": jnp.float32(0.0), "x0": jnp.float32(100.0), "x": jnp.full(12, -50.0, jnp.float32)}
    states = {n: jnp.asarray(v, ssm.arrays[0].dtype) for n, v in states.items()}
    draws = jax.vmap(lambda k: ssm.replicate(k, theta, states))(jax.random.split(jax.random.key(1), 400))
    assert draws["y"].shape == (400, 12) and draws["y0"].shape == (400,)
    assert abs(draws["y0"].mean() - 100.0) < 0.5 and abs(jnp.median(draws["y"]) + 50.0) < 0.5


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
    np.testing.assert_array_equal(two.observed["y"], Y + 1)


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
    with pytest.raises(ValueError, match=r"argument 0 is float32\[11\].*traced with float32\[12\]|float64\[11\]"):
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


# ---- refusals -----------------------------------------------------------------------------------


def walk(y, body):
    scan(lambda x, yt: body(x, yt), 0.0, y)


def plain(x, yt):
    x = numpyro.sample("x", dist.Normal(x, 1.0))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
    return x, None


def in_lax_scan(y):
    jax.lax.scan(plain, 0.0, y)


def python_loop(y):
    x = 0.0
    for t in range(4):
        x = numpyro.sample(f"x{t}", dist.Normal(x, 1.0))


def two_noisy(y):
    walk(y, plain)
    scan(lambda x, yt: (numpyro.sample("z", dist.Normal(x, 1.0)), None), 0.0, y)


def backwards(y):
    scan(plain, 0.0, y, reverse=True)


def under_plate(y):
    with numpyro.plate("n", 3):
        walk(y, plain)


def masked_outside(y):
    with handlers.mask(mask=False):
        walk(y, plain)


def nested(y):
    def body(x, yt):
        x, _ = scan(lambda a, _: (numpyro.sample("z", dist.Normal(a, 1.0)), None), x, None, length=2)
        return x, None

    walk(y, body)


def branching(y):
    def body(x, yt):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        cond(
            x > 0, lambda _: numpyro.sample("u", dist.Normal(0, 1)), lambda _: numpyro.sample("u", dist.Normal(1, 1)), 0
        )
        return x, None

    walk(y, body)


def own_noise(y):
    def body(carry, yt):
        x, key = carry
        key, sub = jax.random.split(key)
        x = numpyro.sample("x", dist.Normal(x + jax.random.normal(sub), 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return (x, key), None

    scan(body, (0.0, jax.random.key(0)), y)


def asks_for_a_key(y):
    def body(x, yt):
        return plain(x + jax.random.normal(numpyro.prng_key()), yt)

    walk(y, body)


def twice_named(y):
    numpyro.sample("x", dist.Normal(0, 1))
    walk(y, plain)


def parameter_from_states(y):
    _, x = scan(lambda x, yt: (plain(x, yt)[0],) * 2, 0.0, y)
    numpyro.sample("late", dist.Normal(x[-1], 1.0))


def param_inside(y):
    walk(y, lambda x, yt: plain(x * numpyro.param("a", 1.0), yt))


def carry_changes(y):
    scan(lambda x, yt: ((plain(x, yt)[0], 1), None), 0.0, y)


REFUSALS = {
    in_lax_scan: "site 'x' stands inside jax.lax.scan or another JAX transformation",
    python_loop: "no numpyro.contrib.control_flow.scan .*It has 4 numbered sites: a Python loop",
    two_noisy: r"2 scans with noise \(sites 'x', 'z'\)",
    backwards: "reverse=True",
    under_plate: "Please move those `plate` statements into the control flow",
    masked_outside: "'mask' stands around the scan",
    nested: "site 'z' stands inside a scan or cond nested in the loop",
    branching: "nested in the loop",
    own_noise: "draws random numbers with jax.random",
    asks_for_a_key: r"the model calls numpyro.prng_key\(\)",
    twice_named: "'x'",
    parameter_from_states: "site 'late' is drawn after the loop and depends on the states",
    param_inside: "numpyro.param 'a' stands inside the loop",
}


@pytest.mark.parametrize("model", REFUSALS, ids=lambda m: m.__name__)
def test_what_is_not_supported_is_refused_by_name(model):
    with pytest.raises((ssmscan.ModelError, AssertionError, NotImplementedError), match=REFUSALS[model]):
        ssmscan.trace(model, Y)


def test_what_jax_refuses_is_refused_with_its_reason():
    with pytest.raises(TypeError, match="scan body function carry"):
        ssmscan.trace(carry_changes, Y)


def test_a_key_in_the_carry_that_only_names_draws_is_harmless():
    def body(carry, yt):
        x, key = carry
        key, sub = jax.random.split(key)
        x = numpyro.sample("x", dist.Normal(x, 1.0), rng_key=sub)
        numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return (x, key), None

    ssm = ssmscan.trace(lambda y: scan(body, (0.0, jax.random.key(0)), y), Y)
    draws = jax.vmap(lambda k: ssm.simulate(k, {})["x"])(jax.random.split(jax.random.key(0), 3))
    assert len(np.unique(draws[:, 0])) == 3


@pytest.mark.parametrize("key", [0, jnp.zeros(2), jnp.zeros((3, 2), jnp.uint32), "a"])
def test_what_is_not_one_key_is_refused(traced, key):
    with pytest.raises(TypeError, match="key: expected one PRNG key"):
        traced("local_level").simulate(key, {"q": 1.0, "r": 1.0})
    with pytest.raises(TypeError, match="key: expected one PRNG key"):
        traced("local_level").sample_prior(key)


def test_raw_and_typed_keys_are_the_same_key(traced):
    one, two = (traced("local_level").sample_prior(key(3)) for key in (jax.random.key, jax.random.PRNGKey))
    np.testing.assert_array_equal(one["q"], two["q"])


def test_a_reparam_around_the_scan_that_names_its_sites_is_refused():
    config = {"x": LocScaleReparam(0)}
    with pytest.raises(ssmscan.ModelError, match="site 'x' is named in a handlers.reparam around the scan"):
        ssmscan.trace(handlers.reparam(local_level, config=config), Y)
    outside = ssmscan.trace(handlers.reparam(local_level, config={"x_0": LocScaleReparam(0)}), Y)
    assert {s.name for s in outside.initial} == {"x_0_decentered"}


def test_observations_after_the_loop_are_refused_to_particles_only(traced):
    ssm = traced("after_the_loop")
    theta = ssm.sample_prior(jax.random.key(0))
    with pytest.raises(ssmscan.ModelError, match="'y' are observed after the loop"):
        ssmscan.ParticleFilter(10).run(jax.random.key(0), ssm, theta)
    noise = {name: jnp.zeros(spec.shape) for name, spec in ssm.smooth_noise.items()}
    expected = dist.Normal(0.0, theta["r"]).log_prob(Y).sum()
    np.testing.assert_allclose(ssm.log_likelihood_given_noise(theta, noise), expected, rtol=1e-5)


def test_trace_inside_a_handler_is_refused():
    with handlers.seed(rng_seed=0), pytest.raises(ssmscan.ModelError, match="inside the NumPyro handler"):
        ssmscan.trace(local_level, Y)
    with pytest.raises(TypeError, match="model must be a NumPyro model"):
        ssmscan.trace(3)


@pytest.mark.parametrize(
    ("length", "words"), [(20, "length less than or equal to scan length"), (9, "as many steps as there are data")]
)
def test_conditioned_lengths_must_agree(length, words):
    def model(y):
        with handlers.condition(data={"y": y}):
            scan(plain, 0.0, None, length=12)

    data = jnp.zeros(length)
    with pytest.raises((ssmscan.ModelError, RuntimeError), match=words):
        ssmscan.trace(model, data)


@pytest.mark.parametrize(("position", "value"), [(3, np.nan), (5, np.inf)])
def test_data_without_finite_density_are_named(position, value):
    data = Y.copy()
    data[position] = value
    with pytest.raises(ssmscan.ModelError, match=rf"observed site 'y' at step {position} .*NaN or outside the support"):
        ssmscan.trace(local_level, data)
    with pytest.raises(ssmscan.ModelError, match=rf"observed site 'y' at step {position}"):
        ssmscan.trace(conditioned, data)


def test_masked_elements_may_hold_anything():
    case = CASES["masked_and_scaled"]
    data = np.where(case.args[1], Y, np.nan).astype(np.float32)
    assert ssmscan.trace(case.model, data, case.args[1]).num_steps == 12


def test_theta_is_checked_by_name_shape_and_support(traced):
    ssm = traced("local_level")
    assert ssm.canonical({"q": 1, "r": np.float64(2.0)})["q"].dtype == ssm.parameters[0].dtype
    with pytest.raises(ValueError, match=r"missing: \['r'\], unknown: \['s'\]"):
        ssm.canonical({"q": 1.0, "s": 1.0})
    with pytest.raises(ValueError, match=r"theta\['q'\] has shape \(2,\), expected \(\)"):
        ssm.canonical({"q": jnp.ones(2), "r": 1.0})
    with pytest.raises(ValueError, match=r"theta\['q'\] = -1.0 is outside the support of its prior HalfNormal"):
        ssm.canonical({"q": -1.0, "r": 1.0})
    with pytest.raises(ValueError, match=r"theta\['q'\] = nan"):
        ssm.canonical({"q": np.nan, "r": 1.0})


def test_gradient_view_refuses_discrete_innovations_by_name(traced):
    with pytest.raises(
        ssmscan.ModelError, match=r"site\(s\) 'z0' \(BernoulliProbs\), 'z' .* cannot be written as a smooth"
    ):
        traced("switching").smooth_noise  # noqa: B018
