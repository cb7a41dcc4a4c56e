"""Code after a loop in other layouts than a row a step, and what no state reaches, against NumPyro's own density."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from tests.contract import values
from tests.fuzz.after_loop import judge
from tests.model import tails

Y = np.random.default_rng(8).normal(size=6).astype(np.float32)
KEY = jax.random.key(0)


def smoothing(y):
    """A level without noise, of which everything is observed that is no row."""
    a = numpyro.sample("a", dist.Beta(2.0, 2.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(level, yt):
        numpyro.sample("y", dist.Normal(level, s), obs=yt)
        return level + a * (yt - level), level

    last, path = scan(step, 0.0, y)
    numpyro.sample("last", dist.Normal(last, s), obs=0.3)
    numpyro.sample("totals", dist.Normal(jnp.cumsum(path), s), obs=y)
    numpyro.sample("ranked", dist.Normal(jnp.sort(path)[::2] / path.sum(), s), obs=y[:3])


THETA = {"a": jnp.asarray(0.3), "s": jnp.asarray(0.7)}


def test_without_states_the_likelihood_is_a_number():
    ssm = ssmscan.trace(smoothing, Y)
    expected = values.without_noise(lambda: smoothing(Y), THETA).log_likelihood
    found = ssmscan.log_likelihood(KEY, ssm, THETA, num_particles=2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    reasons = {site.name: site.reason for site in ssm.observations}
    assert reasons["ranked"] == "observed after the loop, and no state reaches it"


@pytest.mark.heavy
def test_without_states_every_engine_of_the_likelihood_runs():
    ssm = ssmscan.trace(smoothing, Y)
    nuts = ssmscan.NUTS(num_warmup=300, num_samples=500, num_chains=2, progress=False).run(KEY, ssm)
    pmmh = ssmscan.PMMH(
        num_warmup=1000, num_samples=2000, num_chains=2, estimator=ssmscan.ParticleFilter(2), progress=False
    ).run(KEY, ssm)
    tempered = ssmscan.TemperedSMC(num_particles=300, progress=False).run(KEY, ssm)
    for name in THETA:
        expected, spread = np.mean(nuts.draws[name]), np.std(nuts.draws[name])
        # Four standard errors of some 200 effective draws.
        for result in (pmmh, tempered):
            assert abs(np.mean(result.draws[name]) - expected) < 4 * spread / np.sqrt(200)
    # Two particles, as there is nothing to filter: every estimate is the likelihood.
    exact = ssmscan.ParticleFilter(2, summaries=())
    mode = ssmscan.MaximumLikelihood(
        num_steps=200, num_starts=2, num_replicates=2, estimator=exact, progress=False
    ).run(KEY, ssm)
    assert float(mode.log_likelihood) >= values.without_noise(lambda: smoothing(Y), THETA).log_likelihood


def beside_states(y):
    """A level without noise beside a state, and rows of the state that read the whole of the level."""
    a = numpyro.sample("a", dist.Beta(2.0, 2.0))

    def step(carry, yt):
        level, x = carry
        x = numpyro.sample("x", dist.Normal(0.5 * x, 1.0))
        return (level + a * (yt - level), x), (level, x)

    (last, _), (path, x) = scan(step, (0.0, 0.0), y)
    numpyro.sample("both", dist.Normal(jnp.cumsum(path)[::-1] + x[::-1] + last, 1.0), obs=y)
    numpyro.sample("level", dist.Normal(path.max(), 1.0), obs=0.4)


@pytest.mark.slow
def test_what_no_noise_reaches_is_constant_to_the_steps():
    theta = {"a": jnp.asarray(0.3)}
    ssm = ssmscan.trace(beside_states, Y)
    exact = values.linear_gaussian(lambda: beside_states(Y), theta)
    found = ssmscan.ParticleFilter(4000).run(KEY, ssm, theta)
    # The standard deviation at this N is near 0.02.
    assert abs(float(found.log_likelihood) - exact.log_likelihood) < 0.1
    level = dist.Normal(_levels(0.3).max(), 1.0).log_prob(0.4)
    np.testing.assert_allclose(ssm.log_static(theta), level, rtol=1e-5)


def _levels(a):
    levels = [0.0]
    for yt in Y[:-1]:
        levels.append(levels[-1] + a * (yt - levels[-1]))
    return np.array(levels)


def chosen(index, y):
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, s))
        return x, x

    path = scan(step, 0.0, None, length=6)[1]
    numpyro.sample("y", dist.Normal(path[index], 0.5), obs=y)


@pytest.mark.slow
def test_an_index_array_stays_data():
    y = jnp.asarray(Y[:4])
    ssm, theta = ssmscan.trace(chosen, jnp.array([3, 3, 0, 5]), y), {"s": jnp.asarray(0.8)}
    other = jnp.array([1, 4, 4, 2])
    again = ssm.with_data(other, y)
    assert again.program is ssm.program
    exact = values.linear_gaussian(lambda: chosen(other, y), theta).log_likelihood
    result = ssmscan.ParticleFilter(4000).run(KEY, again, theta)
    assert abs(float(result.log_likelihood) - exact) < 0.1
    steps = np.bincount(np.asarray(other), minlength=6) > 0
    np.testing.assert_array_equal(np.asarray(result.increments) != 0, steps)


def test_rows_in_another_order_cost_a_step_what_rows_in_order_do():
    def tail(path, x0, y, last):
        tails.see("a", dist.Normal(path[::-1][:, 0] + path.T[1, ::-1], 1.0), y)
        tails.see("b", dist.Normal(path[np.array([4, 0, 1])], 1.0), tails.Y2[:3])

    step = ssmscan.trace(tails.model(tail), tails.Y).program.post_loop.step
    assert step.late_eqns
    assert not any(tails.T in v.aval.shape for eqn in step.late_eqns for v in eqn.outvars)


@pytest.mark.parametrize(
    "cut", [lambda path: (path > 0).sum() // 2, lambda path: path.sum().astype(int)], ids=["division", "conversion"]
)
def test_what_cuts_a_sum_off_is_no_sum(cut):
    def tail(path, x0, y, last):
        numpyro.factor("a", 1.0 * cut(path[:, 0]))

    assert ssmscan.trace(tails.model(tail), tails.Y).program.post_loop.mixing


@pytest.mark.slow
def test_a_constant_beside_a_sum_of_the_second_loop_counts():
    def model(y):
        s = numpyro.sample("s", dist.HalfNormal(1.0))

        def walk(name):
            return lambda x, _: (numpyro.sample(name, dist.Normal(x, s)),) * 2

        numpyro.sample("y", dist.Normal(scan(walk("x"), 0.0, None, length=6)[1], 1.0), obs=y)
        path = scan(walk("z"), 0.0, None, length=6)[1]
        numpyro.factor("f", dist.Normal(path, 1.0).log_prob(y).sum() + 5 * s)

    assert ssmscan.trace(model, Y).check(KEY).passed


@pytest.mark.slow
def test_random_programs_are_the_sum_of_their_parts():
    """A sample; `python -m tests.fuzz.after_loop` has thousands."""
    with jax.enable_x64(True):
        outcomes = [judge(seed) for seed in range(12)]
    assert not [o for o in outcomes if not o.error <= 1e-9 or (o.accepted and not o.acceptable)]
    assert sum(o.accepted for o in outcomes) >= 0.8 * sum(o.acceptable for o in outcomes)
