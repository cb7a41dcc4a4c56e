import dataclasses

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.errors import ModelError
from ssmscan.inference.predict import predict
from ssmscan.results.data import Costs
from ssmscan.results.result import Result
from tests.inference.models import NOISE, Y, switching
from tests.model.zoo import SMOOTHING
from tests.truth import z_threshold

pytestmark = pytest.mark.slow

CHAINS, DRAWS, PATHS = 2, 50, 40


def made_by_hand(y, draws, states, state_draws, initial=(), sample_stats=None):
    return Result(
        engine="made by hand",
        draws=draws,
        states=states,
        state_draws=state_draws,
        sample_stats=sample_stats or {},
        independent_runs=False,
        log_evidence=None,
        log_evidence_error=None,
        costs=Costs(0.0, 0.0, 0.0),
        settings={},
        versions={},
        observed={"y": y},
        initial=initial,
    )


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    draws = {"rho": rng.uniform(size=(CHAINS, DRAWS)), "q": rng.uniform(size=(CHAINS, DRAWS))}
    states = {"x": rng.normal(size=(CHAINS, PATHS, len(Y))), "x_0": rng.normal(size=(CHAINS, PATHS))}
    return made_by_hand(Y, draws, states, np.arange(PATHS) + 10, initial=("x_0",))


def test_replicates_are_noise_around_the_states(result, linear):
    replicated = predict(jax.random.key(0), linear, result)["y"]
    assert replicated.shape == (CHAINS, PATHS, len(Y))
    noise = (replicated - result.states["x"]) / NOISE
    n = noise.size
    assert abs(noise.mean()) * np.sqrt(n) < z_threshold(2)
    assert abs((noise**2).mean() - 1) * np.sqrt(n / 2) < z_threshold(2)


def test_fewer_draws_are_spread_over_the_paths(result, linear):
    replicated = predict(jax.random.key(0), linear, result, num_draws=3)["y"]
    noise = replicated - result.states["x"][:, [0, 20, 39]]
    assert replicated.shape == (CHAINS, 3, len(Y))
    assert np.abs(noise).max() < 6 * NOISE


def test_the_key_decides(result, linear):
    draws = [predict(jax.random.key(k), linear, result, num_draws=2)["y"] for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def test_draws_of_some_paths_are_plotted_by_arviz(linear):
    found = ssmscan.PMMH(num_samples=300, num_warmup=80, num_particles=20, num_paths=30).run(jax.random.key(0), linear)
    replicated = ssmscan.predict(jax.random.key(1), linear, found)
    made = found.to_arviz(posterior_predictive=replicated)
    np.testing.assert_array_equal(made["posterior_predictive"]["draw"], found.state_draws)
    assert set(made["posterior_predictive"].data_vars) == {"y"}
    few = ssmscan.predict(jax.random.key(1), linear, found, num_draws=5)
    kept = found.to_arviz(posterior_predictive=few)["posterior_predictive"]["draw"].values
    np.testing.assert_array_equal(found.states["x"][:, np.isin(found.state_draws, kept)], few["x"])
    if arviz.__version__.startswith("0."):
        arviz.plot_ppc(made, num_pp_samples=5, show=False)


@pytest.fixture(scope="module")
def prior(linear):
    return ssmscan.prior_predictive(jax.random.key(0), linear, num_draws=4000)


def test_draws_from_the_prior_have_the_law_of_the_model(prior):
    """rho ~ U(0, 1), x_0 ~ N(0, 1), the first state and its observation given both."""
    rho, q, x_0, first = prior["rho"][0], prior["q"][0], prior["x_0"][0], prior["x"][0, :, 0]
    moments = [
        (rho - 0.5) * np.sqrt(12),
        (np.log(q) + 0.5) / 0.5,
        x_0,
        (first - rho * x_0) / q,
        (prior["y"][0, :, 0] - first) / NOISE,
        (prior["y"] - prior["x"]).reshape(-1) / NOISE,
    ]
    for values in moments:
        assert abs(values.mean()) * np.sqrt(len(values)) < z_threshold(2 * len(moments))
        spread = ((values - values.mean()) ** 2).std() / np.sqrt(len(values))
        assert abs(values.var() - 1) < z_threshold(2 * len(moments)) * spread


def test_what_is_drawn_from_the_prior_knows_no_step(prior, linear):
    assert prior["y"].shape == (1, 4000, len(Y)) and prior.num_known == 0
    assert set(prior.initial) == {"rho", "q", "x_0"} and prior.start == ("x_0",) and prior.state_draws is None
    np.testing.assert_array_equal(prior.observed["y"], linear.observed["y"])
    with pytest.raises(ModelError, match="parameter.s. 'a' .*cannot be drawn"):
        ssmscan.prior_predictive(jax.random.key(0), ssmscan.trace(improper, Y))


def improper(y):
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(a * x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, 0.0, y)


def test_more_draws_than_paths_are_refused(result, linear):
    with pytest.raises(ValueError, match="num_paths"):
        predict(jax.random.key(0), linear, result, num_draws=PATHS + 1)
    without = dataclasses.replace(result, states={}, state_draws=np.arange(0), initial=())
    with pytest.raises(ValueError, match="result: it has no state paths.*num_paths of 1 or more.*start=result"):
        predict(jax.random.key(0), linear, without)


def test_the_result_of_another_model_is_refused(result):
    with pytest.raises(ValueError, match="the model that the result was made with"):
        predict(jax.random.key(0), ssmscan.trace(switching, Y), result)


def horizon(y, future=0):
    """AR(1) signal and an AR(1) on its own lag, observed together."""
    rho = numpyro.sample("rho", dist.Uniform(0, 1))

    def transition(carry, _):
        x, last = carry
        x = numpyro.sample("x", dist.Normal(rho * x, 1.0))
        y = numpyro.sample("y", dist.Normal(x + 0.5 * last, 0.3))
        return (x, y), numpyro.deterministic("double", 2 * y)

    with handlers.condition(data={"y": y}):
        _, path = scan(transition, (0.0, 0.0), jnp.arange(len(y) + future))
    numpyro.deterministic("last", path[-1])


def test_a_forecast_has_the_moments_of_the_recursion():
    """From known states of six steps, against matrix powers; the data feed the first step ahead."""
    y, steps, future, rho = jnp.asarray(Y[:6]), 6, 3, 0.7
    chains, paths = 2, 4000
    x = np.random.default_rng(0).normal(size=steps)
    draws, states = {"rho": np.full((chains, paths), rho)}, {"x": np.broadcast_to(x, (chains, paths, steps))}
    given = made_by_hand(y, draws, states, np.arange(paths))
    ssm = ssmscan.trace(horizon, y, future=future)
    drawn = ssmscan.predict(jax.random.key(0), ssm, given)
    assert drawn["y"].shape == (chains, paths, steps + future) and set(drawn) == {"x", "y", "double", "last"}
    np.testing.assert_allclose(drawn["x"][0, 0, :steps], x, rtol=1e-6)
    np.testing.assert_allclose(drawn["double"][..., steps:], 2 * drawn["y"][..., steps:], rtol=1e-5)
    np.testing.assert_allclose(drawn["last"], drawn["double"][..., -1], rtol=1e-5)
    # (x, y) -> (rho x, rho x + y / 2) + noise
    move = np.array([[rho, 0.0], [rho, 0.5]])
    noise = np.array([[1.0, 1.0], [1.0, 1.09]])
    mean, covariance = np.array([x[-1], float(y[-1])]), np.zeros((2, 2))
    count = chains * paths
    for ahead in range(future):
        mean, covariance = move @ mean, move @ covariance @ move.T + noise
        for k, name in enumerate(("x", "y")):
            values = drawn[name][..., steps + ahead].astype(float)
            sd = np.sqrt(covariance[k, k])
            assert abs(values.mean() - mean[k]) < z_threshold(12) * sd / np.sqrt(count)
            assert abs(values.var() / sd**2 - 1) < z_threshold(12) * np.sqrt(2 / count)
    within = drawn["y"][..., :steps] - x - 0.5 * np.concatenate([[0.0], y[:-1]])
    assert abs(within.std() / 0.3 - 1) < z_threshold(1) / np.sqrt(2 * within.size)


def continued(y, ahead=3):
    """A local level whose horizon is a scan of its own, from the last level."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    def onward(x, _):
        x = numpyro.sample("x_ahead", dist.Normal(x, q))
        return x, numpyro.sample("y_ahead", dist.Normal(x, 0.5))

    last, _ = scan(transition, 0.0, y)
    numpyro.deterministic("forecast", scan(onward, last, jnp.arange(ahead))[1])


def test_a_second_scan_over_the_horizon_is_simulated():
    ssm = ssmscan.trace(continued, jnp.asarray(Y[:6]))
    assert [s.name for s in ssm.innovations] == ["x"] and ssm.check(jax.random.key(0)).passed
    theta, states = {"q": jnp.asarray(0.5)}, {"x": jnp.arange(6.0)}
    draw = jax.jit(jax.vmap(lambda key: ssm.predict(key, theta, states)))
    drawn = draw(jax.random.split(jax.random.key(0), 5000))
    np.testing.assert_array_equal(drawn["forecast"], drawn["y_ahead"])
    variance = 0.25 * np.arange(1, 4) + 0.25
    z = (np.asarray(drawn["forecast"], float).mean(0) - 5.0) / np.sqrt(variance / 5000)
    assert np.abs(z).max() < z_threshold(6)
    ratio = np.asarray(drawn["forecast"], float).var(0) / variance - 1
    assert np.abs(ratio).max() < z_threshold(6) * np.sqrt(2 / 5000)


def test_a_second_scan_that_data_depend_on_is_refused():
    def model(y):
        continued(y)
        numpyro.sample("total", dist.Normal(numpyro.deterministic("z", 0.0), 1.0), obs=0.0)

    assert ssmscan.trace(model, jnp.asarray(Y[:6])).num_steps == 6

    def joined(y):
        last, _ = scan(lambda x, _: (numpyro.sample("x", dist.Normal(x, 1.0)), None), 0.0, y)
        last, _ = scan(lambda x, _: (numpyro.sample("w", dist.Normal(x, 1.0)), None), last, y)
        numpyro.sample("end", dist.Normal(last, 1.0), obs=0.0)

    with pytest.raises(ssmscan.ModelError, match="the scan of site 'w' depends on the draws of another scan"):
        ssmscan.trace(joined, jnp.asarray(Y[:6]))


def test_a_shorter_model_is_refused(result, linear):
    shorter = ssmscan.trace(horizon, jnp.asarray(Y[:3]))
    with pytest.raises(ValueError, match="give the model that the result was made with"):
        ssmscan.predict(jax.random.key(0), shorter, result)


@pytest.mark.parametrize("model", SMOOTHING.values(), ids=SMOOTHING.keys())
def test_a_forecast_with_one_source_of_error_has_its_closed_form(model):
    """y_{T+h} ~ N(l_T, sd^2 (1 + (h - 1) alpha^2)), and the first two have the covariance alpha sd^2."""
    y, future, alpha, level, sd = jnp.asarray(Y[:6]), 3, 0.4, 0.3, 0.7
    shape = (2, 4000)
    draws = {name: np.full(shape, value) for name, value in {"alpha": alpha, "level": level, "sd": sd}.items()}
    drawn_in_sample = [site.name for site in ssmscan.trace(model, y).innovations]
    states = {name: np.zeros((*shape, len(y))) for name in drawn_in_sample}
    in_sample = made_by_hand(y, draws, states, np.arange(shape[1]))
    drawn = ssmscan.predict(jax.random.key(0), ssmscan.trace(model, y, future), in_sample)
    ahead = drawn["ahead"] if "ahead" in drawn else drawn["y"][..., len(y) :]
    ahead = ahead.reshape(-1, future).astype(float)
    last = level
    for value in np.asarray(y, float):
        last += alpha * (value - last)
    variance = sd**2 * (1 + alpha**2 * np.arange(future))
    z = (ahead.mean(0) - last) / np.sqrt(variance / len(ahead))
    assert np.abs(z).max() < z_threshold(5 * 7)
    assert np.abs(ahead.var(0) / variance - 1).max() < z_threshold(5 * 7) * np.sqrt(2 / len(ahead))
    covariance = np.cov(ahead[:, 0], ahead[:, 1])[0, 1]
    error = np.sqrt((variance[0] * variance[1] + (alpha * sd**2) ** 2) / len(ahead))
    assert abs(covariance - alpha * sd**2) < z_threshold(5 * 7) * error


def test_declared_roles_are_those_of_the_result():
    """The longer model is traced without them."""

    def model(y, future=0):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        start = numpyro.sample("start", dist.Normal(mean, 1.0))

        def transition(x, _):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0))
            return x, None

        with handlers.condition(data={"y": y}):
            scan(transition, start, jnp.arange(len(y) + future))

    y, paths = jnp.asarray(Y[:6]), 10
    x = {"x": np.zeros((1, paths, 6))}
    value = np.zeros((1, paths))
    long = ssmscan.trace(model, y, 2)
    for draws, initial in ({"mean": value, "start": value}, {}), ({}, {"mean": value, "start": value}):
        stats = {"energy": value}
        result = made_by_hand(y, draws, x | initial, np.arange(paths), tuple(initial), stats)
        drawn = ssmscan.predict(jax.random.key(0), long, result)
        assert drawn["y"].shape == (1, paths, 8) and (drawn["x"][..., :6] == 0).all()


def test_a_model_traced_without_data_goes_on_from_the_states():
    """As NumPyro's forecasts are often written: `obs=y`, with y None."""

    def model(length, y=None):
        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 0.1), obs=y)
            return x, None

        scan(transition, 0.0, y, length=length)

    x = np.random.default_rng(0).normal(size=(1, 50, 6))
    result = made_by_hand(Y[:6], {}, {"x": x}, np.arange(50), sample_stats={"energy": np.zeros((1, 50))})
    drawn = predict(jax.random.key(0), ssmscan.trace(model, 8), result)
    assert drawn["y"].shape == (1, 50, 8)
    np.testing.assert_allclose(drawn["x"][..., :6], x, rtol=1e-6)
    noise = (drawn["y"] - drawn["x"]) / 0.1
    assert abs((noise**2).mean() - 1) < z_threshold(1) * np.sqrt(2 / noise.size)
