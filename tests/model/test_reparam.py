"""`noise_outside` against NumPyro's own densities and draws of the original model."""

from __future__ import annotations

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import initialize_model, log_density

from ssmscan.model.noise_outside import noise_outside
from tests.model.zoo import CASES, local_level
from tests.model.zoo import Y as DATA
from tests.truth import z_threshold

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


def latents(model, args=(), key=KEY):
    """Draw the latent sites of a model, in one compilation."""

    @jax.jit
    def draw(key, args):
        sites = handlers.trace(handlers.seed(model, key)).get_trace(*args)
        return {n: s["value"] for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}

    return draw(key, args)


def meet(model, *args):
    """Run a model abstractly: its sites as messages, values without numbers."""
    met = {}
    jax.eval_shape(lambda: met.update(handlers.trace(handlers.seed(model, KEY)).get_trace(*args)))
    return met


def density(model, args, values):
    """NumPyro's log density, in one compilation."""
    return jax.jit(lambda values: log_density(model, args, {}, values)[0])(values)


def states_of(model, args, names):
    """Return the function from latent sites of the moved model to the values of the original ones."""

    def run(values):
        seeded = handlers.seed(handlers.substitute(model, data=values), KEY)
        sites = handlers.trace(seeded).get_trace(*args)
        return {name: sites[name]["value"] for name in names}

    return run


def positive_states(y):
    """LogNormal, Gamma with the same law at every step, Beta with a law that changes."""
    c = numpyro.sample("c", dist.Gamma(2.0, 1.0))
    x0 = numpyro.sample("x0", dist.Gamma(3.0, 1.0))

    def step(x, yt):
        x = numpyro.sample("x", dist.LogNormal(jnp.log(x), 0.3))
        g = numpyro.sample("g", dist.Gamma(c + 0.5, c + 0.5))
        b = numpyro.sample("b", dist.Beta(1.0 + x, 2.0))
        numpyro.sample("y", dist.Normal(x * g * b, 1.0), obs=yt)
        return x, x

    scan(step, x0, y)


def gamma_walk(counts=None, length=6):
    """A Gamma innovation whose law changes with the state."""
    k = numpyro.sample("k", dist.LogNormal(1.5, 0.2))
    x0 = numpyro.sample("x0", dist.LogNormal(0.0, 0.5))

    def step(x, count):
        x = numpyro.sample("x", dist.Gamma(k, k / x))
        numpyro.sample("count", dist.Poisson(x), obs=count)
        return x, x

    scan(step, x0, counts, length=length)


def uniform_in_plate(y):
    def step(level, yt):
        with numpyro.plate("series", 2):
            u = numpyro.sample("u", dist.Uniform(0.0, 1.0 + level**2))
            t = numpyro.sample("t", dist.TruncatedNormal(level, 1.0 + u, low=0.0))
        numpyro.sample("y", dist.Normal(u.sum() + t.sum(), 1.0), obs=yt)
        return u, None

    scan(step, jnp.zeros(2), y)


def reparameterised_inside(y):
    def step(x, yt):
        with handlers.reparam(config={"x": LocScaleReparam(0)}):
            x = numpyro.sample("x", dist.Normal(x, 0.5))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return x, None

    scan(step, 0.0, y)


def backwards(y):
    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(0.5 * x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return x, None

    scan(step, 0.0, y, reverse=True)


Y = jnp.asarray(DATA)
ARGS = {name: jax.tree.map(jnp.asarray, case.args) for name, case in CASES.items()}
SHORT = Y[:5]
COUNTS = jnp.array([1, 0, 3, 2, 2, 5])
IN_ZOO = ("hierarchical_start", "conditioned", "masked_and_scaled", "vectors", "after_the_loop", "sample_shapes")
MODELS = {
    **{name: (CASES[name].model, ARGS[name], CASES[name].initial) for name in IN_ZOO},
    "positive_states": (positive_states, (SHORT,), ("x0",)),
    "gamma_walk": (gamma_walk, (COUNTS,), ("x0",)),
    "uniform_in_plate": (uniform_in_plate, (SHORT,), ()),
    "reparameterised_inside": (reparameterised_inside, (SHORT,), ()),
}


@pytest.mark.parametrize("name", MODELS)
def test_density_is_the_originals_plus_log_jacobian(name):
    model, args, initial = MODELS[name]
    moved = noise_outside(model, initial=initial)

    @jax.jit
    def both(args):
        sites = handlers.trace(handlers.seed(moved, KEY)).get_trace(*args)
        values = {n: s["value"] for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
        noise = {n: v for n, v in values.items() if n.endswith("_noise")}
        theta = {n: v for n, v in values.items() if n not in noise}
        to_states = states_of(moved, args, [n.removesuffix("_noise") for n in noise])
        flat, unflatten = ravel_pytree(noise)
        jacobian = jax.jacfwd(lambda flat: ravel_pytree(to_states({**theta, **unflatten(flat)}))[0])(flat)
        original = log_density(model, args, {}, {**theta, **to_states(values)})[0]
        return log_density(moved, args, {}, values)[0], original + jnp.linalg.slogdet(jacobian)[1]

    with jax.enable_x64(True):
        left, right = both(args)
    assert np.isfinite(left)
    np.testing.assert_allclose(left, right, rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_every_continuous_state_moves_and_comes_back_under_its_name(name):
    case = CASES[name]
    sites = meet(noise_outside(case.model, initial=case.initial), *ARGS[name])
    kept = {"switching": {"z0", "z", "k"}, "growth": {"new"}}.get(name, set())
    for site in {*case.initial, *case.innovations} - kept:
        assert sites[site]["type"] == "deterministic" and sites[f"{site}_noise"]["type"] == "sample"
    for site in {*case.parameters, *kept}:
        assert sites[site]["type"] == "sample" and f"{site}_noise" not in sites
    assert all(sites[site]["is_observed"] for site in case.observations)


@pytest.mark.parametrize("name", ["local_level", "hierarchical_start"])
def test_initial_states_are_found(name):
    sites = meet(noise_outside(CASES[name].model), *ARGS[name])
    assert all(f"{site}_noise" in sites for site in CASES[name].initial)
    assert all(f"{site}_noise" not in sites for site in CASES[name].parameters)


def test_index_in_a_name_makes_no_difference():
    def plain(y):
        def step(x, t):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y[t])
            return x, None

        scan(step, 0.0, jnp.arange(y.shape[0]))

    noise = {"x_noise": jax.random.normal(KEY, Y.shape)}
    indexed = density(noise_outside(CASES["named_by_index"].model, initial=()), (Y,), noise)
    np.testing.assert_allclose(indexed, density(noise_outside(plain, initial=()), (Y,), noise), rtol=1e-6)


def test_backward_loop_keeps_time_in_front():
    """Step t of a reversed loop reads noise t; the states obey the recursion backwards in time."""
    noise = jax.random.normal(KEY, SHORT.shape)
    x = states_of(noise_outside(backwards, initial=()), (SHORT,), ["x"])({"x_noise": noise})["x"]
    np.testing.assert_allclose(x[:-1], 0.5 * x[1:] + noise[:-1], rtol=1e-5, atol=1e-6)


def two_changing_laws(length=3):
    """Transports whose laws change in the loop, the second with the first."""

    def step(x, _):
        g = numpyro.sample("g", dist.Gamma(1.0 + x**2, 1.5))
        s = numpyro.sample("s", dist.StudentT(4.0, 0.3 * x, 0.5 + g))
        return 0.5 * x + 0.3 * jnp.tanh(s), None

    scan(step, 0.5, None, length=length)


def everything(length=3):
    """Every kind of map at once, and sites that stay in the loop."""
    x0 = numpyro.sample("x0", dist.StudentT(5.0, 0.0, 0.5))

    def step(x, _):
        g = numpyro.sample("g", dist.Gamma(1.0 + x**2, 1.5))
        b = numpyro.sample("b", dist.Beta(0.5 + g, 2.0))
        c = numpyro.sample("c", dist.InverseGamma(3.0, 2.0).expand([2]).to_event(1))
        s = numpyro.sample("s", dist.StudentT(4.0, 0.3 * x, 0.5 + b))
        h = numpyro.sample("h", dist.HalfNormal(0.5 + jnp.abs(s)))
        p = numpyro.sample("p", dist.Dirichlet(jnp.array([0.5, 2.0, 0.7])))
        v = numpyro.sample("v", dist.VonMises(0.3, 2.0))
        k = numpyro.sample("k", dist.Poisson(g))
        numpyro.sample("y", dist.Gamma(2.0, 2.0 / (0.1 + h)))
        return 0.5 * x + 0.3 * s + 0.1 * h + 0.1 * v + 0.05 * k + p[0] - 0.1 * c.sum(), None

    scan(step, x0, None, length=length)


def assert_same_law(one, other):
    """Compare means of bounded statistics of first and last step and of all their products."""

    def statistics(draws):
        states = [np.asarray(draws[n], np.float64) for n in sorted(one) if n in other]
        ends = [np.tanh(v.reshape(len(v), -1)[:, end]) for v in states for end in (0, -1)]
        ends = np.stack(ends, axis=1)
        products = (ends[:, :, None] * ends[:, None]).reshape(len(ends), -1)
        return np.concatenate([ends, products], axis=1)

    a, b = statistics(one), statistics(other)
    error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
    z = (a.mean(0) - b.mean(0)) / np.maximum(error, 1e-12)
    assert np.max(np.abs(z)) < z_threshold(z.size), z


@pytest.mark.parametrize(
    ("model", "draws"),
    [(two_changing_laws, 3000), pytest.param(everything, 20_000, marks=pytest.mark.heavy)],
)
def test_draws_have_the_law_of_the_original(model, draws):
    """From the prior; and from the first 3 of 5 steps of noise, continued."""
    moved = noise_outside(model, initial=["x0"] if model is everything else [])

    def predictive(model, key, noise=None):
        def many(key, noise):
            return Predictive(model, noise, num_samples=draws, parallel=True)(key, length=5)

        return jax.jit(many)(key, noise)

    original = predictive(model, jax.random.key(0))
    fresh = predictive(moved, jax.random.key(1))
    assert_same_law(original, fresh)
    noise = {n: v if n == "x0_noise" else v[:, :3] for n, v in fresh.items() if n.endswith("_noise")}
    continued = predictive(moved, jax.random.key(2), noise)
    assert_same_law(original, continued)
    if model is two_changing_laws:
        np.testing.assert_allclose(continued["s"][:, :3], fresh["s"][:, :3], rtol=1e-3, atol=1e-4)
        assert np.all(continued["s"][:, 3:] != fresh["s"][:, 3:])


@pytest.fixture(scope="module")
def posterior():
    """Twenty NUTS draws of the moved Gamma walk."""
    mcmc = MCMC(NUTS(noise_outside(gamma_walk, initial=["x0"])), num_warmup=20, num_samples=20, progress_bar=False)
    mcmc.run(KEY, COUNTS)
    return mcmc.get_samples()


def test_nuts_reports_the_states_under_their_names(posterior):
    assert {"k", "x0", "x0_noise", "x", "x_noise"} <= set(posterior)
    assert posterior["x"].shape == (20, 6) and np.all(np.isfinite(posterior["x"]))
    assert np.unique(np.asarray(posterior["k"])).size > 3


def test_posterior_predictive_goes_through_the_states_of_the_posterior(posterior):
    replicated = Predictive(noise_outside(gamma_walk, initial=()), posterior)(KEY)
    assert replicated["count"].shape == (20, 6)
    sites = Predictive(noise_outside(gamma_walk, initial=()), posterior, return_sites=["x0", "x"])(KEY)
    for name in ("x0", "x"):
        np.testing.assert_allclose(sites[name], posterior[name], rtol=1e-4)


def test_forecast_continues_the_states_of_the_posterior(posterior):
    sites = Predictive(noise_outside(gamma_walk, initial=()), posterior, return_sites=["x", "count"])(KEY, length=9)
    np.testing.assert_allclose(sites["x"][:, :6], posterior["x"], rtol=1e-4)
    assert sites["count"].shape == (20, 9)
    assert np.unique(np.asarray(sites["x"][:, 6:])).size == 60


def test_forecast_under_a_shorter_condition():
    def model(y, future=0):
        x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

        def step(x, _):
            x = numpyro.sample("x", dist.Normal(x, 0.5))
            numpyro.sample("y", dist.Normal(x, 0.1))
            return x, None

        with handlers.condition(data={"y": y}):
            scan(step, x0, jnp.arange(y.shape[0] + future))

    noise = latents(noise_outside(model), (SHORT,))
    draws = {name: value[None] for name, value in noise.items()}
    # A new wrapper has not seen the model whole: the given noise shows that x0 was moved.
    sites = Predictive(noise_outside(model), draws, return_sites=["x", "y", "x0"])(KEY, SHORT, future=2)
    x = states_of(noise_outside(model), (SHORT,), ["x"])(noise)["x"]
    np.testing.assert_allclose(sites["x"][0, :5], x, rtol=1e-5)
    np.testing.assert_allclose(sites["y"][0, :5], SHORT, rtol=1e-6)
    assert sites["y"].shape == (1, 7) and np.abs(sites["y"][0, 5:] - sites["x"][0, 5:]).max() < 0.6


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_conditioned_state_stays_observed(where):
    x = jnp.arange(12.0)
    model = local_level
    if where == "inside":
        model = noise_outside(handlers.condition(model, data={"x": x}), initial=["x_0"])
    else:
        model = handlers.condition(noise_outside(model, initial=["x_0"]), data={"x": x})
    sites = handlers.trace(handlers.seed(model, KEY)).get_trace(Y)
    assert sites["x"]["is_observed"] and "x_noise" not in sites and "x_0_noise" in sites
    np.testing.assert_array_equal(sites["x"]["value"], x)


def test_substituted_state_without_its_noise_stays():
    values = {"q": 1.0, "r": 1.0, "x_0": 0.3, "x": jnp.arange(12.0)}
    moved = density(noise_outside(local_level, initial=["x_0"]), (Y,), values)
    np.testing.assert_allclose(moved, density(local_level, (Y,), values), rtol=1e-6)


def test_masked_states_keep_the_density_of_their_noise():
    def model(y, seen):
        def step(x, inputs):
            yt, ok = inputs
            with handlers.mask(mask=ok):
                x = numpyro.sample("x", dist.Normal(x, 1.0))
                numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, (y, seen))

    eps, seen = jax.random.normal(KEY, SHORT.shape), jnp.array([True, False, True, False, False])
    x = np.cumsum(eps)
    log_prob = np.asarray(dist.Normal(x, 1.0).log_prob(SHORT))
    expected = np.sum(dist.Normal(0.0, 1.0).log_prob(eps)) + log_prob[np.asarray(seen)].sum()
    actual = density(noise_outside(model, initial=()), (SHORT, seen), {"x_noise": eps})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_scale_around_the_loop_scales_the_states_once():
    def model(y):
        with handlers.scale(scale=0.3):
            local_level(y)

    plain, moved = (noise_outside(m, initial=["x_0"]) for m in (local_level, model))

    @jax.jit
    def densities(values):
        states = {**values, **states_of(moved, (Y,), ["x_0", "x"])(values)}
        on = [(model, states), (local_level, states), (plain, values), (moved, values)]
        return [log_density(m, (Y,), {}, v)[0] for m, v in on]

    with jax.enable_x64(True):
        scaled, original, unscaled_moved, actual = densities(latents(moved, (Y,)))
    # What moving changes is the Jacobian, which no scale touches.
    np.testing.assert_allclose(actual, scaled + unscaled_moved - original, rtol=1e-9)


def test_scope_around_the_loop_names_the_noise_and_posterior_draws_reach_it():
    def model(y):
        handlers.scope(local_level, prefix="a")(y)

    moved = noise_outside(model, initial=["a/x_0"])
    values = latents(moved, (Y,))
    assert set(values) == {"a/q", "a/r", "a/x_0_noise", "a/x_noise"}
    x = states_of(moved, (Y,), ["a/x"])(values)["a/x"]
    expected = values["a/q"] * np.cumsum(values["a/x_noise"]) + values["a/x_0_noise"]
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


def test_state_without_a_map_stays_in_the_loop_with_its_density():
    def model(y):
        def step(x, yt):
            x = numpyro.sample("x", dist.VonMises(x, 2.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    values = {"x": jnp.linspace(-1.0, 1.0, 5)}
    moved = density(noise_outside(model, initial=()), (SHORT,), values)
    np.testing.assert_allclose(moved, density(model, (SHORT,), values), rtol=1e-6)


@pytest.mark.parametrize("name", ["switching", "growth"])
def test_discrete_innovation_can_be_drawn_but_has_no_density(name):
    moved, innovation = noise_outside(CASES[name].model, initial=()), CASES[name].innovations[0]
    sites = meet(moved, *ARGS[name])
    assert jnp.issubdtype(sites[innovation]["value"].dtype, jnp.integer)
    values = {n: jnp.zeros(s["value"].shape, s["value"].dtype) for n, s in sites.items() if s["type"] == "sample"}
    with pytest.raises(ValueError, match=f"site '{innovation}' .* is a discrete innovation"):
        jax.eval_shape(lambda: log_density(moved, ARGS[name], {}, values)[0])


def test_nuts_refuses_a_discrete_innovation_by_name():
    mcmc = MCMC(NUTS(noise_outside(CASES["growth"].model, initial=())), num_warmup=1, num_samples=1)
    with pytest.raises(ValueError, match=r"site 'new' \(Binomial\w*\) is a discrete innovation"):
        mcmc.run(KEY, *ARGS["growth"])


def test_noise_that_does_not_fit_is_refused():
    moved = noise_outside(local_level, initial=["x_0"])
    for shape in ((13,), (12, 2), ()):
        model = handlers.seed(handlers.substitute(moved, data={"x_noise": jnp.zeros(shape)}), KEY)
        with pytest.raises(ValueError, match=r"site 'x_noise' is given noise of shape .* the loop takes \(12,\)"):
            model(Y)
    values = {"q": 1.0, "r": 1.0, "x_0_noise": 0.0, "x_noise": jnp.zeros(5)}
    with pytest.raises(ValueError, match="5 steps for a loop of 12, and there is no PRNG key"):
        log_density(moved, (Y,), {}, values)


def test_initial_states_can_be_named():
    sites = latents(noise_outside(local_level, initial=()), (Y,))
    assert "x_0" in sites and "x_noise" in sites
    sites = latents(noise_outside(local_level, initial=["q"]), (Y,))
    assert "q_noise" in sites and "x_0" in sites


@pytest.mark.parametrize(
    ("initial", "error"), [("q", TypeError), (3, TypeError), (["x"], ValueError), (["k"], ValueError)]
)
def test_what_names_no_site_before_the_loop_is_refused(initial, error):
    with pytest.raises(error, match=r"^initial: .*(expected names|draws no site)"):
        latents(noise_outside(local_level, initial=initial), (Y,))


def test_variational_inference_takes_the_model():
    moved = noise_outside(local_level, initial=["x_0"])
    svi = SVI(moved, AutoNormal(moved), optax.adam(0.01), Trace_ELBO())
    result = svi.run(KEY, 5, Y, progress_bar=False)
    assert np.all(np.isfinite(result.losses))


def test_blackjax_takes_the_density():
    moved = noise_outside(local_level, initial=["x_0"])
    start = initialize_model(KEY, moved, model_args=(Y,))
    flat, unflatten = ravel_pytree(start.param_info.z)
    algorithm = blackjax.hmc(lambda z: -start.potential_fn(unflatten(z)), 0.05, jnp.ones(flat.size), 3)
    state, info = jax.jit(algorithm.step)(KEY, algorithm.init(flat))
    assert np.isfinite(info.energy) and np.isfinite(state.logdensity)
