"""Every model and every input that is refused, by its message."""

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
from tests.model.zoo import CASES, Y, conditioned, local_level


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


def test_trace_inside_a_handler_is_refused():
    with handlers.seed(rng_seed=0), pytest.raises(ssmscan.ModelError, match="inside the NumPyro handler"):
        ssmscan.trace(local_level, Y)
    with pytest.raises(TypeError, match="model must be a NumPyro model"):
        ssmscan.trace(3)


def test_more_values_than_steps_are_refused():
    def model(y):
        with handlers.condition(data={"y": y}):
            scan(plain, 0.0, None, length=12)

    with pytest.raises((ssmscan.ModelError, RuntimeError), match="length less than or equal to scan length"):
        ssmscan.trace(model, jnp.zeros(20))


def test_data_without_finite_density_are_named():
    data = Y.copy()
    data[5] = np.inf
    with pytest.raises(ssmscan.ModelError, match="observed site 'y' at step 5 .*outside the support"):
        ssmscan.trace(local_level, data)
    with pytest.raises(ssmscan.ModelError, match="observed site 'y' at step 5"):
        ssmscan.trace(conditioned, data)


def test_masked_elements_may_hold_anything():
    case = CASES["masked_and_scaled"]
    data = np.where(case.args[1], Y, np.nan)
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
        ssmscan.ModelError, match=r"site\(s\) 'new' \(BinomialProbs\) cannot be written as a smooth function of noise"
    ):
        traced("growth").smooth_noise  # noqa: B018
    assert [site.name for site in traced("switching").summed_out] == ["z0", "z", "k"]
