"""Models of several independent loops: each part against dense algebra, all engines on the whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.stats import t

import ssmscan
from tests.truth import ERROR_RATE

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(3)
Y = RNG.normal(size=8).cumsum()
V = np.array([0.4, -0.7, 0.9, 0.1, -0.3])
TIMES = [np.sort(RNG.random(k) * 3) for k in (3, 1, 4)]
ROWS = RNG.normal(size=(8, 2))
THETA = {"q": 0.8}


def level(y, q):
    x0 = numpyro.sample("x0", dist.Normal(0, 1))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, x

    return scan(step, x0, y)[1]


def damped(v, q):
    z0 = numpyro.sample("z0", dist.Normal(0, 1))
    numpyro.sample("s0", dist.Normal(z0, 1.0), obs=0.3)

    def step(z, _):
        z = numpyro.sample("z", dist.Normal(0.5 * z, q))
        return z, z

    _, path = scan(step, z0, v)
    numpyro.sample("v", dist.Normal(path, 0.5), obs=v)
    return numpyro.deterministic("twice", 2 * path)


def scale():
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    numpyro.sample("w", dist.Normal(q, 1.0), obs=0.7)
    return q


def both(y, v):
    q = scale()
    damped(v, q)
    level(y, q)


def only_level(y):
    level(y, scale())


def only_damped(v):
    damped(v, numpyro.sample("q", dist.HalfNormal(1.0)))


def subjects(times, y):
    """One loop a subject, all paths observed together."""
    phi = numpyro.sample("phi", dist.Uniform(0, 1))
    m = numpyro.sample("m", dist.Normal(0, 1).expand([2]))
    paths = []
    for i, time in enumerate(times):
        x0 = numpyro.sample(f"x0_{i}", dist.Normal(m, 1.0))

        def step(x, dt, i=i):
            x = numpyro.sample(f"x_{i}", dist.Normal(m + phi**dt * (x - m), jnp.sqrt(1 - phi ** (2 * dt))))
            return x, x

        if len(time) > 1:
            path = scan(step, x0, jnp.diff(time))[1]
            paths += [x0[None], path]
        else:
            paths.append(x0[None])
    x = numpyro.deterministic("all", jnp.concatenate(paths))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ jnp.array([[1.0, 0.5], [0.0, 1.0]]), 0.7).to_event(1), obs=y)


def normal_log_density(y, covariance):
    return -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1])


REPLICATES = 16


def check_likelihood(ssm, theta, truth):
    """Three models are checked like this; a bias of a quarter is seen."""
    run = jax.jit(lambda key: ssmscan.log_likelihood(key, ssm, theta, num_particles=10_000))
    found = np.array([run(key) for key in jax.random.split(jax.random.key(0), REPLICATES)], float)
    error = found.std(ddof=1) / np.sqrt(REPLICATES)
    assert abs(found.mean() - truth) < t.isf(ERROR_RATE / 6, REPLICATES - 1) * error and error < 0.03


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(both, Y, V)


def test_every_site_has_one_role(ssm):
    assert [loop.num_steps for loop in ssm.loops] == [5, 8] and ssm.num_steps == 13
    assert [site.name for site in ssm.parameters] == ["q"]
    assert {site.name for site in ssm.initial} == {"x0", "z0"}
    assert {site.name for site in ssm.innovations} == {"x", "z"}
    assert {site.name for site in ssm.observations} == {"s0", "v", "y"}
    assert set(ssm.observed) == {"s0", "v", "y", "w"}
    names = [site.name for site in ssm.sites]
    assert len(names) == len(set(names)) and "2 independent loops of 5 and 8 steps" in repr(ssm)
    assert ssm.check(jax.random.key(0)).passed
    with pytest.raises(ValueError, match="take one of ssm.loops"):
        ssm.at(ssm.canonical(THETA))


def test_log_likelihoods_add(ssm):
    q, n, m = THETA["q"], len(Y), len(V)
    steps = np.arange(1, n + 1)
    first = normal_log_density(Y, 1 + q**2 * np.minimum.outer(steps, steps) + np.eye(n))
    ar = np.array([[0.5 ** (i - j) if i >= j else 0.0 for j in range(m + 1)] for i in range(m + 1)])
    states = ar @ np.diag([1.0, *[q**2] * m]) @ ar.T
    second = normal_log_density(np.array([0.3, *V]), states + np.diag([1.0, *[0.25] * m]))
    truth = first + second + normal_log_density(np.array([0.7 - q]), np.eye(1))
    check_likelihood(ssm, THETA, truth)


def test_gradient_engines_add_what_the_loops_have_alone(ssm):
    alone = [ssmscan.trace(only_damped, V), ssmscan.trace(only_level, Y)]
    specs = {n: s.shape for n, s in ssm.smooth_noise.items()}
    noise = {n: jax.random.normal(jax.random.key(i), s) for i, (n, s) in enumerate(specs.items())}
    assert set(noise) == {"x0", "x", "z0", "z"}
    terms = [one.log_likelihood_given_noise(THETA, {n: noise[n] for n in one.smooth_noise}) for one in alone]
    np.testing.assert_allclose(ssm.log_likelihood_given_noise(THETA, noise), sum(terms), rtol=1e-5)
    states = ssm.states_from_noise(THETA, noise)
    for one in alone:
        for name, value in one.states_from_noise(THETA, {n: noise[n] for n in one.smooth_noise}).items():
            np.testing.assert_array_equal(states[name], value)


def test_rows_observed_together_are_each_of_one_loop():
    ssm = ssmscan.trace(subjects, TIMES, ROWS)
    assert [site.name for site in ssm.initial] == ["x0_0", "x0_2"]
    # The subject seen once has no loop: its start is a parameter, as far as anybody can tell.
    assert {site.name for site in ssm.parameters} == {"phi", "m", "x0_1"}
    assert ssm.check(jax.random.key(0)).passed
    theta = {"phi": 0.6, "m": np.array([0.2, -0.3]), "x0_1": np.array([0.5, 1.0])}
    load = np.array([[1.0, 0.5], [0.0, 1.0]])
    truth, row = 0.0, 0
    for i, time in enumerate(TIMES):
        n = len(time)
        mean = np.tile((theta["x0_1"] if i == 1 else theta["m"]) @ load, n)
        decay = theta["phi"] ** abs(np.subtract.outer(time, time))
        covariance = np.kron(decay, load.T @ load) * (i != 1) + 0.49 * np.eye(2 * n)
        truth += normal_log_density(ROWS[row : row + n].ravel() - mean, covariance)
        row += n
    check_likelihood(ssm, theta, truth)

    noise = {n: jax.random.normal(jax.random.key(9), s.shape) for n, s in ssm.smooth_noise.items()}
    states = ssm.states_from_noise(theta, noise)
    drawn = ssm.predict(jax.random.key(0), theta, states)
    parts = [states["x0_0"][None], states["x_0"], theta["x0_1"][None], states["x0_2"][None], states["x_2"]]
    path = np.concatenate(parts)
    np.testing.assert_allclose(drawn["all"], path, rtol=1e-5)
    assert drawn["y"].shape == ROWS.shape and not np.array_equal(drawn["y"], ROWS)
    density = dist.Normal(path @ load, 0.7).log_prob(ROWS).sum()
    np.testing.assert_allclose(ssm.log_likelihood_given_noise(theta, noise), density, rtol=1e-5)

    # A step of a loop observes its own row; the first of a subject observes the start.
    row = 0
    loops = iter(ssm.loops)
    for i, time in enumerate(TIMES):
        if i != 1:
            dynamics = next(loops).at(theta)
            own = jax.vmap(dynamics.observed)(dynamics.xs)["y"]
            np.testing.assert_array_equal(own, ROWS[row + 1 : row + len(time)].astype(own.dtype))
        row += len(time)


def test_a_start_that_two_loops_share_is_a_parameter():
    def model(y, v):
        start = numpyro.sample("start", dist.Normal(0, 1))
        for name, data in (("x", y), ("z", v)):

            def step(x, obs, name=name):
                x = numpyro.sample(name, dist.Normal(x, 1.0))
                numpyro.sample(f"{name}_seen", dist.Normal(x, 1.0), obs=obs)
                return x, None

            scan(step, start, data)

    ssm = ssmscan.trace(model, Y, V)
    assert [site.name for site in ssm.parameters] == ["start"] and not ssm.initial
    assert ssm.check(jax.random.key(0)).passed


def test_parts_are_of_any_kind():
    """Missing values in one loop, a chain of discrete states in the other."""

    def model(y, v):
        p = numpyro.sample("p", dist.Uniform(0, 1))

        def flip(s, obs):
            s = numpyro.sample("s", dist.Bernoulli(jnp.where(s == 1, p, 0.3)))
            numpyro.sample("v", dist.Normal(1.0 * s, 0.5), obs=obs)
            return s, None

        scan(flip, 0, v)
        level(y, 0.5 + p)

    y = np.where(np.arange(len(Y)) == 3, np.nan, Y)
    ssm = ssmscan.trace(model, y, V)
    assert [site.name for site in ssm.summed_out] == ["s"] and "x0" in ssm.smooth_noise and ssm.has_gaps
    theta = {"p": 0.6}
    steps, there = np.arange(1, len(Y) + 1), ~np.isnan(y)
    covariance = 1 + (0.5 + theta["p"]) ** 2 * np.minimum.outer(steps, steps) + np.eye(len(Y))
    truth = normal_log_density(y[there], covariance[np.ix_(there, there)])
    weights = np.array([1.0, 0.0])
    for v in V:
        moved = weights @ np.array([[0.7, 0.3], [1 - theta["p"], theta["p"]]])
        weights = moved * np.exp(dist.Normal(np.array([0.0, 1.0]), 0.5).log_prob(v))
    truth += np.log(weights.sum())
    check_likelihood(ssm, theta, truth)
    noise = {n: jnp.zeros(s.shape) for n, s in ssm.smooth_noise.items()}
    drawn = ssm.states_from_noise(theta, noise, jax.random.key(0))
    assert drawn["s"].shape == (len(V),) and drawn["x"].shape == (len(Y),)


def continued(y, v):
    path = level(y, 1.0)

    def step(x, obs):
        x = numpyro.sample("z", dist.Normal(x, 1.0))
        numpyro.sample("v", dist.Normal(x, 1.0), obs=obs)
        return x, None

    scan(step, path[-1], v)


def compared(y, v):
    a = level(y, 1.0)
    b = damped(v, 1.0)
    numpyro.sample("gap", dist.Normal(a[:5] - b, 1.0), obs=np.zeros(5))


@pytest.mark.parametrize(
    "model, message",
    [
        (continued, "the scan of site 'z' depends on the draws of another scan"),
        (compared, "site 'gap' is observed after several scans .* joins them"),
    ],
)
def test_loops_that_meet_are_refused(model, message):
    with pytest.raises(ssmscan.ModelError, match=message):
        ssmscan.trace(model, Y, V)


@pytest.mark.heavy
def test_every_engine_runs_all_loops(ssm):
    key = jax.random.key(0)
    walk = ssmscan.PMMH(num_samples=3000, num_warmup=800, num_particles=200, num_chains=2, progress=False).run(key, ssm)
    nuts = ssmscan.NUTS(num_samples=1000, num_warmup=300, num_chains=2, progress=False).run(key, ssm)
    q = [result.draws["q"].mean() for result in (walk, nuts)]
    assert abs(q[0] - q[1]) < 0.08
    for result in (walk, nuts):
        assert result.states["x"].shape[2] == len(Y) and result.states["z"].shape[2] == len(V)
        drawn = ssmscan.predict(key, ssm, result, num_draws=50)
        assert drawn["y"].shape == (2, 50, len(Y)) and drawn["v"].shape == (2, 50, len(V))
    found = ssmscan.ParticleFilter(500, store=ssmscan.FullHistory()).run(key, ssm, THETA)
    assert "Loop 1: The run is complete." in found.message()
    paths = ssmscan.backward_sample(key, ssm, THETA, found, num_paths=3)
    assert paths["x"].shape == (3, len(Y)) and paths["z0"].shape == (3,)


def test_a_later_scan_that_only_observes_is_no_part_though_values_are_missing():
    def model(y):
        path = level(np.zeros(len(Y)), 1.0)
        scan(lambda _, xy: (None, numpyro.sample("seen", dist.Normal(xy[0], 1.0), obs=xy[1])), None, (path, y))

    ssm = ssmscan.trace(model, np.where(np.arange(len(Y)) == 3, np.nan, Y))
    assert ssm.loops == (ssm,) and {s.name for s in ssm.observations} == {"y", "seen"}
