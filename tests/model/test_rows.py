"""Noise that the user draws before the loop: moved to its steps, held against NumPyro's density of what was written.

`ssm.check` compares every factor that engines read with the original, in which the site is drawn at once; the exact
likelihoods are linear algebra on the covariance of the data.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam
from scipy.stats import multivariate_normal

import ssmscan
from ssmscan.model.noise.rows import DependentRows, row_of

T = 6
SCALES = np.linspace(0.5, 1.5, T)
Y = np.random.default_rng(0).normal(size=T).cumsum()
PANEL = np.random.default_rng(1).normal(size=(3, T)).cumsum(axis=1)


def innovations(scale=1.0, steps=T, name="eps"):
    return numpyro.sample(name, dist.Normal(0.0, scale).expand([steps]).to_event(1))


def autoregression(start, shocks):
    return jax.lax.scan(lambda x, e: (0.9 * x + e,) * 2, start, shocks)[1]


def observe(path, y):
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(path, 0.5), obs=y)


# ---- models that are moved -----------------------------------------------------------------------


def lax_scan(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("time", len(y)):
        eps = numpyro.sample("eps", dist.Normal(0.0, scale))
    observe(autoregression(numpyro.sample("x0", dist.Normal(0.0, 1.0)), eps), y)


def numpyro_scan(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    eps = innovations(steps=len(y))
    numpyro.deterministic("scaled", scale * eps)

    def step(x, inputs):
        x = 0.9 * x + inputs[0]
        numpyro.sample("y", dist.Normal(x, 0.5), obs=inputs[1])
        return x, None

    scan(step, 0.0, (scale * eps, y))


def cumulative(y):
    level, slope = (numpyro.sample(n, dist.HalfNormal(1.0)) for n in ("level", "slope"))
    trend = jnp.cumsum(innovations(slope, name="eta"))
    path = jnp.cumsum(innovations(level) + jnp.concatenate([jnp.zeros(1), trend[:-1]]))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(path, 0.5 + sd), obs=y)


def start_among_rows(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    eps = numpyro.sample("eps", dist.Normal(0.0, SCALES).to_event(1))
    start = 2.0 * eps[0]
    observe(jnp.concatenate([start[None], autoregression(start, scale * eps[1:])]), y)


def start_among_inputs(y):
    eps = innovations(steps=len(y))

    def step(x, inputs):
        x = 0.9 * x + inputs[0]
        numpyro.sample("y", dist.Normal(x, 0.5), obs=inputs[1])
        return x, None

    scan(step, numpyro.deterministic("start", 2.0 * eps[0]), (eps[1:], y[1:]))


def reparameterised(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with handlers.reparam(config={"eps": LocScaleReparam(0.0)}):
        eps = numpyro.sample("eps", dist.Normal(0.0, scale).expand([len(y)]).to_event(1))
    observe(jnp.cumsum(eps), y)


def read_again_after_it(y):
    eps = innovations(steps=len(y))
    observe(jnp.cumsum(eps) + 0.3 * eps, y)


def series_in_front(y):
    series, steps = y.shape
    with numpyro.plate("series", series, dim=-2), numpyro.plate("time", steps, dim=-1):
        eps = numpyro.sample("eps", dist.Normal(0.0, 1.0))
    path = jax.vmap(lambda e: autoregression(0.0, e))(eps)
    with numpyro.plate("series", series, dim=-2), numpyro.plate("time", steps, dim=-1):
        numpyro.sample("y", dist.Normal(path, 0.5), obs=y)


def beside_other_noise(y):
    eps = innovations(steps=len(y))

    def step(x, inputs):
        x = numpyro.sample("x", dist.Normal(0.5 * x + inputs[0], 0.3))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=inputs[1])
        return x, None

    scan(step, 0.0, (jnp.cumsum(eps), y))


def vectors(y):
    eps = numpyro.sample("eps", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2) + 0.3).expand([len(y)]))
    observe(autoregression(jnp.zeros(2), eps)[:, 0], y)


def read_by_number(y):
    scale, eps = numpyro.sample("scale", dist.HalfNormal(1.0)), innovations(steps=len(y))

    def step(carry, t):
        x, n = carry
        x = 0.9 * x + scale * eps[t] + 0.1 * eps[n]
        numpyro.sample("y", dist.Normal(x, 0.5), obs=jnp.asarray(y)[t])
        return (x, n + 1), None

    scan(step, (0.0, 0), jnp.arange(len(y)))


def behind_a_first_row(y):
    first = numpyro.sample("x0", dist.Normal(0.0, 1.0))
    path = jnp.cumsum(jnp.concatenate([first[None], innovations(0.3, steps=len(y) - 1)]))
    observe(autoregression(0.0, path), y)


MOVED = {
    lax_scan: (Y, {"eps": ()}),
    numpyro_scan: (Y, {"eps": ()}),
    cumulative: (Y, {"eps": (), "eta": ()}),
    start_among_rows: (Y, {"eps": ()}),
    start_among_inputs: (Y, {"eps": ()}),
    reparameterised: (Y, {"eps_decentered": ()}),
    read_again_after_it: (Y, {"eps": ()}),
    series_in_front: (PANEL, {"eps": (3,)}),
    beside_other_noise: (Y, {"eps": (), "x": ()}),
    vectors: (Y, {"eps": (2,)}),
    read_by_number: (Y, {"eps": ()}),
    behind_a_first_row: (Y, {"eps": ()}),
}
QUICK = (numpyro_scan, start_among_rows, cumulative)


@pytest.mark.parametrize(
    "model", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in MOVED], ids=lambda m: m.__name__
)
def test_rows_are_noise_of_the_loop_and_every_factor_is_that_of_the_model_as_written(model):
    y, states = MOVED[model]
    ssm = ssmscan.trace(model, y)
    assert {site.name: site.shape for site in ssm.innovations} == states
    assert ssm.check(jax.random.key(0)).passed
    assert "one row a step of what is drawn before the loop" in str(ssm)


def test_the_likelihood_is_the_exact_one_and_no_longer_depends_on_the_rows():
    ssm = ssmscan.trace(start_among_rows, Y)
    assert [site.name for site in ssm.initial] == ["eps_start"] and ssm.num_steps == T - 1
    weights = np.zeros((T, T))
    for t in range(T):
        weights[t, 0] = 2.0 * 0.9**t
        weights[t, 1 : t + 1] = 0.7 * 0.9 ** np.arange(t)[::-1]
    weights = weights * SCALES
    exact = multivariate_normal.logpdf(Y, np.zeros(T), weights @ weights.T + 0.25 * np.eye(T))
    keys = jax.random.split(jax.random.key(0), 16)
    run = jax.vmap(lambda key: ssmscan.log_likelihood(key, ssm, {"scale": 0.7}, num_particles=4000))
    logs = np.asarray(run(keys), float)
    error = logs.std() / 4
    assert error < 0.02 and abs(np.log(np.exp(logs - exact).mean())) < 5 * error


@pytest.mark.slow
def test_nuts_returns_the_rows_as_states():
    ssm = ssmscan.trace(series_in_front, PANEL)
    result = ssmscan.NUTS(num_warmup=20, num_samples=10, num_chains=1, progress=False).run(jax.random.key(0), ssm)
    assert result.states["eps"].shape[-2:] == (T, 3)


@pytest.mark.slow
def test_a_forecast_draws_the_rows_beyond_the_data():
    def model(y, future=0):
        eps = innovations(steps=len(y) + future)

        def step(x, e):
            x = 0.9 * x + e
            numpyro.sample("y", dist.Normal(x, 0.5))
            return x, None

        with handlers.condition(data={"y": y}):
            scan(step, numpyro.sample("x0", dist.Normal(0.0, 1.0)), eps)

    result = ssmscan.NUTS(num_warmup=20, num_samples=400, num_chains=1, progress=False).run(
        jax.random.key(0), ssmscan.trace(model, jnp.asarray(Y))
    )
    drawn = ssmscan.predict(jax.random.key(1), ssmscan.trace(model, jnp.asarray(Y), future=40), result)
    ahead = np.asarray(drawn["y"])[0, :, -1]
    # Far ahead the series is stationary: 1 / (1 - 0.9^2) + 0.25.
    assert abs(ahead.std() / np.sqrt(1 / 0.19 + 0.25) - 1) < 4 / np.sqrt(2 * 400)


# ---- models that are not -------------------------------------------------------------------------


def random_walk_prior(y):
    path = numpyro.sample("eps", dist.GaussianRandomWalk(1.0, len(y)))
    observe(autoregression(0.0, path), y)


def read_by_the_transition(y):
    eps = innovations(steps=len(y))

    def step(x, inputs):
        x = 0.9 * x + inputs[0]
        numpyro.sample("y", dist.Normal(x + eps.sum(), 0.5), obs=inputs[1])
        return x, None

    scan(step, 0.0, (eps, y))


def joined_before_it(y):
    eps = innovations(steps=len(y))

    def step(x, inputs):
        numpyro.sample("y", dist.Normal(x, 0.5), obs=inputs[1])
        return 0.9 * x + inputs[0], None

    scan(step, 0.0, (eps[::-1] + eps, y))


def prior_of_another(y):
    eps = innovations(steps=len(y))
    numpyro.sample("b", dist.Normal(eps[0], 1.0))

    def step(x, inputs):
        numpyro.sample("y", dist.Normal(x, 0.5), obs=inputs[1])
        return 0.9 * x + inputs[0], None

    scan(step, 0.0, (eps, y))


def scaled(y):
    with handlers.scale(scale=0.5):
        eps = innovations(steps=len(y))
    numpyro_loop = scan(lambda x, inputs: (0.9 * x + inputs[0], x), 0.0, (eps, y))[1]
    observe(numpyro_loop, y)


def subtracted_from_the_data(y):
    eps = innovations(steps=len(y))
    numpyro.sample("y", dist.Normal(jnp.cumsum(eps), 1.0), obs=y - eps)


STAYS = {
    subtracted_from_the_data: "it acts on the value that is given to 'y'",
    read_by_the_transition: "it reaches the distribution of 'y' otherwise than by the inputs of its step",
    joined_before_it: "rev (test_rows.py:",
    prior_of_another: "it acts on the distribution of 'b'",
    scaled: "its rows depend on each other, or are scaled",
}


@pytest.mark.parametrize("model", STAYS, ids=lambda m: m.__name__)
def test_what_cannot_be_moved_stays_a_parameter_and_the_table_says_why(model):
    ssm = ssmscan.trace(model, Y)
    (site,) = [site for site in ssm.parameters if site.name == "eps"]
    assert f"its rows are not noise of the loop: {STAYS[model]}" in site.reason
    assert not ssm.innovations


def test_a_declared_parameter_stays_one():
    ssm = ssmscan.trace(numpyro_scan, Y).with_roles(parameters=("eps",))
    assert {"eps", "scale"} == {site.name for site in ssm.parameters}


def test_a_loop_that_only_computes_without_noise_is_ordinary_computation():
    def smoothing(y):
        a = numpyro.sample("a", dist.Uniform(0.0, 1.0))
        path = jax.lax.scan(lambda level, y: (a * y + (1 - a) * level, level), 0.0, y)[1]
        observe(path, y)

    ssm = ssmscan.trace(smoothing, Y)
    density = handlers.trace(handlers.substitute(smoothing, data={"a": 0.3})).get_trace(Y)["y"]
    exact = density["fn"].log_prob(density["value"]).sum()
    found = ssmscan.log_likelihood(jax.random.key(0), ssm, {"a": 0.3}, num_particles=2)
    assert ssm.num_steps == T and float(found) == pytest.approx(float(exact), rel=1e-5)


# ---- one row of a distribution -------------------------------------------------------------------

ROWS = jnp.arange(1.0, 5.0)
APART = {
    "expanded": (dist.Normal(0.0, 1.0).expand([4]), 0),
    "of parameters": (dist.Normal(ROWS, 2.0), 0),
    "in an event": (dist.Normal(ROWS[:, None], jnp.ones(3)).to_event(2), 0),
    "behind series": (dist.Laplace(jnp.zeros((3, 1)), ROWS), 1),
    "masked": (dist.Normal(ROWS, 1.0).mask(ROWS > 2.0), 0),
    "transformed": (dist.LogNormal(ROWS, 0.5), 0),
    "affine": (dist.TransformedDistribution(dist.Gumbel(0.0, ROWS), dist.transforms.AffineTransform(ROWS, 2.0)), 0),
    "uniform": (dist.Uniform(-ROWS, ROWS), 0),
    "truncated": (dist.TruncatedNormal(ROWS, 1.0, low=0.0), 0),
    "normal vectors": (dist.MultivariateNormal(ROWS[:, None] * jnp.ones(2), jnp.eye(2)), 0),
    "simplex": (dist.Dirichlet(ROWS[:, None] * jnp.ones(3)), 0),
    "beta": (dist.Beta(ROWS, 2.0), 0),
    "expanded twice": (dist.Normal(ROWS[:, None], 1.0).expand([4, 3]).to_event(1), 0),
}


@pytest.mark.parametrize("case", APART)
def test_rows_of_a_distribution_have_its_density(case):
    fn, axis = APART[case]

    @jax.jit
    def densities(fn):
        shape = jnp.shape(dist.biject_to(fn.support).inv(fn.support.feasible_like(jnp.ones(fn.shape()))))
        value = dist.biject_to(fn.support)(jnp.sin(jnp.arange(np.prod(shape))).reshape(shape))
        rows = jax.vmap(lambda t, row: row_of(fn, axis, t).log_prob(row).sum(), in_axes=(0, axis))(jnp.arange(4), value)
        return rows.sum(), fn.log_prob(value).sum()

    assert row_of(fn, axis, jnp.asarray(0)).shape() == tuple(np.delete(fn.shape(), axis))
    each, whole = densities(fn)
    assert float(each) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize(
    "fn", [dist.GaussianRandomWalk(1.0, 4), dist.MultivariateNormal(jnp.zeros(4), jnp.eye(4)), dist.Dirichlet(ROWS)]
)
def test_entries_that_depend_on_each_other_are_no_rows(fn):
    with pytest.raises(DependentRows):
        row_of(fn, 0, jnp.asarray(0))
