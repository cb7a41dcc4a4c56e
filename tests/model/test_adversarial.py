"""Models made to mislead tracing: each once gave a wrong number, a shared program or an obscure error."""

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
from tests.model.zoo import Y
from tests.truth import LinearGaussian, linear_gaussian, z_threshold


def level(y, sd=1.0):
    x0 = numpyro.sample("x0", dist.Normal(0, 1))

    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("y", dist.Normal(x, sd), obs=yt)
        return x, None

    scan(step, x0, y)


def weight(ssm) -> float:
    """Log-weight of the first step at a fixed carry and noise."""
    bound = ssm.at({})
    x = jax.tree.map(lambda a: a[0], bound.xs)
    carry, noise = jnp.asarray(0.5, bound.xs[1].dtype), jnp.asarray(0.7)
    return float(bound.step(carry, x, {"x": noise}).log_weight)


# ---- a site that the step reads past the carry is a parameter, however it is read ---------------


def masked_innovation(x0, x, yt):
    with handlers.mask(mask=False):
        return x + numpyro.sample("e", dist.Normal(x0, 1.0))


def reported(x0, x, yt):
    numpyro.deterministic("d", x0)
    return numpyro.sample("x", dist.Normal(x, 1.0))


def masked_observation(x0, x, yt):
    with handlers.mask(mask=False):
        numpyro.sample("w", dist.Normal(x0, 0.1), obs=yt)
    return numpyro.sample("x", dist.Normal(x, 1.0))


@pytest.mark.parametrize("move", [masked_innovation, reported, masked_observation], ids=lambda f: f.__name__)
def test_reading_a_start_at_every_step_makes_it_a_parameter(move):
    def model(y):
        x0 = numpyro.sample("x0", dist.Normal(5.0, 0.1))

        def step(x, yt):
            x = move(x0, x, yt)
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, x0, y)

    ssm = ssmscan.trace(model, Y)
    assert [site.name for site in ssm.parameters] == ["x0"] and not ssm.initial
    drawn = ssm.simulate(jax.random.key(0), {"x0": 5.0})
    seen = {"masked_innovation": "e", "reported": "d", "masked_observation": "w"}[move.__name__]
    assert abs(np.mean(drawn[seen]) - 5.0) < z_threshold(3) / np.sqrt(len(Y))


# ---- programs that print alike are not alike ----------------------------------------------------


def through_callback(shift):
    def host(x):
        return np.asarray(x + np.sum(shift), x.dtype)

    return lambda x: jax.pure_callback(host, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")


def through_nested_call(shift):
    inner = jax.jit(lambda a: a + jnp.sum(shift))
    return lambda x: jax.lax.cond(x > -1e6, inner, lambda a: a, x)


@pytest.mark.parametrize("make", [through_callback, through_nested_call], ids=lambda f: f.__name__)
def test_what_a_jaxpr_does_not_print_tells_programs_apart(make):
    def model_of(mean):
        def model(y):
            def step(x, yt):
                x = numpyro.sample("x", dist.Normal(x, 1.0))
                numpyro.sample("y", dist.Normal(mean(x), 1.0), obs=yt)
                return x, None

            scan(step, 0.0, y)

        return model

    for shift in (jnp.zeros(3), jnp.ones(3)):
        ssm = ssmscan.trace(model_of(make(shift)), Y)
        expected = dist.Normal(0.5 + 0.7 + shift.sum(), 1.0).log_prob(Y[0])
        np.testing.assert_allclose(weight(ssm), expected, rtol=1e-5)


# ---- weights and simulation of the start --------------------------------------------------------


@pytest.mark.slow
def test_a_scaled_start_weighs_the_particles():
    """p(x0)^3 is N(0, 1/3) times its integral; both Kalman and the filter count the integral."""

    def model(y):
        with handlers.scale(scale=3.0):
            x0 = numpyro.sample("x0", dist.Normal(0, 1))

        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, x0, y)

    data = Y[:4]
    integral = -1.5 * np.log(2 * np.pi) + 0.5 * np.log(2 * np.pi / 3)
    gaussian = LinearGaussian.scalar(0.0, 1 / 3 + 1.0, 1.0, 1.0, 1.0, 1.0)
    exact = integral + linear_gaussian(gaussian, data[:, None].astype(float)).log_likelihood
    ssm = ssmscan.trace(model, data)
    keys = jax.random.split(jax.random.key(0), 32)
    ratio = np.exp(
        jax.vmap(lambda k: ssmscan.ParticleFilter(500).run(k, ssm, {}).log_likelihood)(keys).astype(float) - exact
    )
    assert abs(ratio.mean() - 1) < z_threshold() * ratio.std(ddof=1) / np.sqrt(len(ratio))


def test_simulated_observations_of_the_start_feed_the_loop():
    def model(y, y0):
        x0 = numpyro.sample("x0", dist.Normal(0, 1))
        lag = numpyro.sample("y0", dist.Normal(x0, 0.1), obs=y0)

        def step(carry, yt):
            x, lag = carry
            x = x + numpyro.sample("shock", dist.Normal(0, 1))
            return (x, numpyro.sample("y", dist.Normal(lag, 0.1), obs=yt)), None

        scan(step, (x0, lag), y)

    ssm = ssmscan.trace(model, Y, np.float32(500.0))
    drawn = ssm.simulate(jax.random.key(0), {})
    assert abs(drawn["y0"] - drawn["x0"]) < 1.0 and abs(drawn["y"][0] - drawn["y0"]) < 1.0


@pytest.mark.slow
def test_scales_may_differ_by_element():
    weights = np.array([1.0, 2.0, 3.0], np.float32)

    def model(y):
        with handlers.scale(scale=weights):
            sd = numpyro.sample("sd", dist.HalfNormal(jnp.ones(3)))

        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, sd), obs=yt)
            return x, None

        scan(step, 0.0, y)

    ssm = ssmscan.trace(model, np.stack([Y] * 3, axis=1))
    theta = ssm.sample_prior(jax.random.key(0))
    expected = jnp.sum(weights * dist.HalfNormal(1.0).log_prob(theta["sd"]))
    np.testing.assert_allclose(ssm.log_prior(theta), expected, rtol=1e-5)
    assert ssm.check(jax.random.key(0)).passed


# ---- refusals and comparisons -------------------------------------------------------------------


def under_vmap(x):
    return jax.vmap(lambda a: numpyro.sample("u", dist.Normal(a, 1.0)))(x * jnp.ones(3)).sum()


def under_lax_cond(x):
    return jax.lax.cond(x > 0, lambda a: numpyro.sample("u", dist.Normal(a, 1.0)), lambda a: a, x)


@pytest.mark.parametrize("draw", [under_vmap, under_lax_cond], ids=lambda f: f.__name__)
def test_a_site_under_a_transformation_inside_the_loop_is_named(draw):
    def model(y):
        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(draw(x), 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    with pytest.raises(ssmscan.ModelError, match="site 'u' stands inside jax.lax.scan or another JAX transformation"):
        ssmscan.trace(model, Y)


def test_a_scan_under_jit_is_refused():
    @jax.jit
    def run(x0, y):
        return scan(lambda x, yt: (numpyro.sample("x", dist.Normal(x + yt, 1.0)), None), x0, y)

    with pytest.raises(ssmscan.ModelError, match="site 'x' stands inside .*another JAX transformation"):
        ssmscan.trace(lambda y: run(numpyro.sample("x0", dist.Normal(0, 1)), y), Y)


def test_static_arguments_that_are_not_numbers_are_compared():
    ssm = ssmscan.trace(lambda y, names, missing: level(y), Y, np.array(["a", "b"]), float("nan"))
    again = ssm.with_data(Y + 1, np.array(["a", "b"]), float("nan"))
    assert again.program is ssm.program
    with pytest.raises(ValueError, match="argument 1 .* is part of the program"):
        ssm.with_data(Y, np.array(["a", "c"]), float("nan"))


@pytest.mark.skipif(jax.config.jax_enable_x64, reason="64-bit integers are held")
def test_integers_that_would_wrap_are_refused():
    stamps = 1_700_000_000_000_000_000 + np.arange(12)
    with pytest.raises(ValueError, match="argument 1 holds integers from 17.* which int32 cannot hold"):
        ssmscan.trace(lambda y, times: level(y, 1.0 + np.diff(times).mean()), Y, stamps)


def test_discrete_parameters_are_not_rounded():
    def model(y):
        level(y, 1.0 + numpyro.sample("k", dist.Poisson(3.0)))

    ssm = ssmscan.trace(model, Y)
    assert ssm.canonical({"k": 2.0})["k"] == 2
    for value in (2.7, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"theta\['k'\] = .* is not of type int"):
            ssm.canonical({"k": value})
