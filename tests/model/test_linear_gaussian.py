"""Linear Gaussian models: recognised as users write them, nothing else is, and exact to rounding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.model.statespace.linear_gaussian import exactness
from tests import truth
from tests.model import linear_models
from tests.model.linear_models import CASES, NILE, dense, exact_log_likelihood

Y = np.random.RandomState(0).randn(6)
COUNTS = np.array([0, 1, 1, 0, 1, 1])


def chain(
    move=lambda x: x,
    draw=lambda x: dist.Normal(x, 1.0),
    see=dist.Normal,
    start=None,
    after=None,
    begin=lambda x: None,
):
    """Build a chain of one state that is changed in one place."""

    def model(y):
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        x = numpyro.sample("x0", start or dist.Normal(0.0, 1.0))
        begin(x)

        def step(x, y):
            x = numpyro.sample("x", draw(move(x)))
            numpyro.sample("y", see(x, s), obs=y)
            return x, x

        _, path = scan(step, x, y)
        if after:
            after(path, s, y)

    return model


def see_after(what):
    return lambda path, s, y: numpyro.sample("z", dist.Normal(what(path), s), obs=y)


def seen_a_step_later(y):
    """Nothing but the carry is no affine function."""
    x = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, y):
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return numpyro.sample("x", dist.Normal(0.5 * x * x, 1.0)), None

    scan(step, x, y)


LINEAR = {
    "an affine law": chain(
        draw=lambda x: dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(x, 2.0))
    ),
    "guarded": chain(move=lambda x: jnp.where(jnp.isfinite(x), x, 0.0)),
    "after the loop": chain(after=see_after(lambda path: 2.0 * path)),
    "a quadratic factor": chain(after=lambda path, s, y: numpyro.factor("f", -s * (path**2).sum())),
    "an observed start": chain(begin=lambda x: numpyro.sample("y0", dist.Normal(2.0 * x, 1.0), obs=0.3)),
    "a masked draw": chain(draw=lambda x: dist.Normal(x, 1.0).mask(False)),
    "an error of its own": chain(after=lambda path, s, y: numpyro.sample("e", dist.Normal(0.0, s), obs=y - path)),
}
ALMOST = {
    "seen a step later": (seen_a_step_later, "because of mul"),
    "a small sine": (chain(move=lambda x: x + 1e-6 * jnp.sin(x)), "'y' \\(Normal\\).*because of sin \\(test_linear"),
    "a small square": (chain(move=lambda x: x + 1e-8 * x * x), "because of mul \\(test_linear_gaussian.py:"),
    "an absolute value": (chain(move=jnp.abs), "because of abs"),
    "a branch": (chain(move=lambda x: jnp.where(x > 0.0, x, x)), "because of gt"),
    "a wide clip": (chain(move=lambda x: jnp.clip(x, -1e9, 1e9)), "because of max"),
    "rounding": (chain(move=lambda x: x.astype(jnp.bfloat16).astype(float)), "because of convert_element_type"),
    "a stopped gradient": (chain(move=lax.stop_gradient), "because of stop_gradient"),
    "a scale": (chain(see=lambda x, s: dist.Normal(x, s * jnp.exp(1e-9 * x))), "because of exp"),
    "a square seen": (chain(see=lambda x, s: dist.Normal(x * x, s)), "because of mul"),
    "heavy errors": (chain(see=lambda x, s: dist.StudentT(1e6, x, s)), "'y' \\(StudentT\\).*because of log1p"),
    "Cauchy errors": (chain(see=dist.Cauchy), "'y' \\(Cauchy\\)"),
    "counts": (chain(see=lambda x, s: dist.Poisson(jnp.exp(s * x))), "'y' \\(Poisson\\).*because of exp"),
    "binary data": (chain(see=lambda x, s: dist.Bernoulli(logits=x)), "'y' \\(BernoulliLogits\\)"),
    "a square after": (chain(after=see_after(lambda path: path**2)), "'z' \\(Normal\\).*because of integer_pow"),
    "joined steps": (chain(after=lambda p, s, y: numpyro.factor("f", -(p.sum() ** 2))), "cannot be taken apart"),
    "a quartic factor": (chain(after=lambda path, s, y: numpyro.factor("f", -(path**4).sum())), "'f'"),
    "Laplace shocks": (chain(draw=lambda x: dist.Laplace(x, 1.0)), "'x' \\(Laplace\\) is not normal"),
    "log-normal shocks": (chain(draw=lambda x: dist.LogNormal(0.01 * x, 1.0)), "'x' \\(LogNormal\\) is not normal"),
    "Student shocks": (chain(draw=lambda x: dist.StudentT(1e8, x, 1.0)), "'x' \\(StudentT\\) is not normal"),
    "gamma shocks": (chain(draw=lambda x: dist.Gamma(1e6, 1e6)), "'x' \\(Gamma\\) is not normal"),
    "a cut start": (chain(start=dist.TruncatedNormal(0.0, 1.0, low=-99.0)), "'x0' \\(.*\\) is not normal"),
    "a start on a half line": (chain(start=dist.HalfNormal(1.0)), "'x0' \\(HalfNormal\\) is not normal"),
    "a bent start": (chain(begin=lambda x: numpyro.sample("y0", dist.Normal(jnp.exp(x), 1.0), obs=0.3)), "'y0'"),
}


def traced(model, *args):
    return ssmscan.trace(model, *args)


QUICK = {
    "nile",
    "seen a step later",
    "feedback",
    "an error of its own",
    "a small sine",
    "a branch",
    "a scale",
    "Laplace shocks",
}


SOME = ("tracking", "panel", "after_the_loop", "regression")
RARE = pytest.mark.heavy, pytest.mark.slow


def each(names):
    """Return names as parameters, most of them of slow tests: each model is traced."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", [name for name in CASES if name in QUICK])
def test_what_users_write_is_recognised(name):
    """The others are: their likelihood is exact, see below."""
    case = CASES[name]
    assert exactness(traced(case.model, *case.args).program) == (True, "")


@pytest.mark.parametrize("name", each(LINEAR))
def test_other_ways_to_be_linear(name):
    assert exactness(traced(LINEAR[name], Y).program).exact


@pytest.mark.parametrize("name", each(ALMOST))
def test_almost_linear_is_not(name):
    model, why = ALMOST[name]
    ssm = traced(model, COUNTS if name in ("counts", "binary data") else Y)
    with pytest.raises(ssmscan.ModelError, match=f"^the states cannot be integrated out, .* Gaussian: .*{why}"):
        ssmscan.integrate_states(ssm)


@pytest.mark.slow
def test_what_no_density_reads_may_be_anything():
    def model(y):
        x = numpyro.sample("x0", dist.Normal(0.0, 1.0))

        def step(carry, y):
            x, _, clock = carry
            x = numpyro.sample("x", dist.Normal(jnp.cos(clock) + x, 1.0))
            numpyro.deterministic("risk", jnp.exp(x))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
            return (x, jnp.exp(x), clock + 0.1), jnp.sin(x)

        scan(step, (x, x, 0.0), y)

    assert exactness(traced(model, Y).program).exact


@pytest.mark.slow
def test_a_count_in_the_carry_is_no_number_of_the_state():
    def model(y):
        x = numpyro.sample("x0", dist.Normal(0.0, 1.0))

        def step(carry, y):
            x, visits = carry
            x = numpyro.sample("x", dist.Normal(x + 0.1 * visits, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
            return (x, visits + (x > 1e9).astype(int)), None

        scan(step, (x, 0), y)

    found = exactness(traced(model, Y).program)
    assert not found.exact and "because of gt" in found.why


# ---- exact ------------------------------------------------------------------------------------------


@jax.jit
def log_likelihood(ssm, theta):
    return ssm.log_likelihood_given_noise(theta, {})


def gaussian(case):
    return ssmscan.gaussian_approximation(traced(case.model, *linear_models.data(case)), case.theta)


def integrated(name):
    case = CASES[name]
    ssm = ssmscan.integrate_states(traced(case.model, *linear_models.data(case)))
    return ssm, ssm.canonical(case.theta)


@pytest.mark.parametrize("name", ["nile", *(pytest.param(n, marks=RARE[n in SOME]) for n in CASES if n != "nile")])
def test_the_likelihood_is_that_of_the_joint_law(name):
    expected = exact_log_likelihood(name)
    if name == "nile":
        np.testing.assert_allclose(log_likelihood(*integrated(name)), expected, rtol=1e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(log_likelihood(*integrated(name)), expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, *(pytest.param(size, marks=pytest.mark.heavy) for size in (20, 40))])
def test_dimension(size):
    case = linear_models.wide(size)
    expected = dense(case.matrices()).log_likelihood
    for x64, rtol in ((False, 1e-5), (True, 1e-9)):
        with jax.enable_x64(x64):
            ssm = ssmscan.integrate_states(traced(case.model, *linear_models.data(case)))
            np.testing.assert_allclose(log_likelihood(ssm, ssm.canonical(case.theta)), expected, rtol=rtol)


@pytest.mark.slow
def test_the_reference_is_the_other_one():
    model = truth.LinearGaussian.scalar(1000.0, 300.0**2 + 38.0**2, 1.0, 38.0**2, 1.0, 123.0**2)
    other = truth.linear_gaussian(model, NILE[:, None])
    ours = dense(CASES["nile"].matrices())
    np.testing.assert_allclose(ours.log_likelihood, other.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(ours.mean, other.smoothed_mean, rtol=1e-10)
    np.testing.assert_allclose(ours.cov, other.smoothed_cov, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nile", *(pytest.param(n, marks=pytest.mark.heavy) for n in CASES if n != "nile")])
def test_smoothed_moments_are_those_of_the_joint_law(name):
    case, answer = CASES[name], dense(CASES[name].matrices())
    with jax.enable_x64(True):
        path = jax.device_get(gaussian(case))
    assert path.word == "exact"
    np.testing.assert_allclose(path.log_likelihood, exact_log_likelihood(name), rtol=1e-9)
    for site, states in case.states.items():
        sd = np.sqrt(np.einsum("kd,tde,ke->tk", states, answer.cov, states))
        np.testing.assert_allclose(np.reshape(path.sd[site], sd.shape), sd, rtol=1e-8)
        away = (np.reshape(path.mean[site], sd.shape) - answer.mean @ states.T) / sd
        assert np.abs(away).max() < 1e-8


@pytest.mark.slow
def test_the_trend_and_seasonal_of_statsmodels():
    structural = pytest.importorskip("statsmodels.tsa.statespace.structural")
    case = CASES["seasonal"]
    y = case.args[0]
    model = structural.UnobservedComponents(y, "lltrend", seasonal=12)
    of = case.matrices()
    model.loglikelihood_burn = 0
    model.initialize_known(of.F @ of.m, of.F @ of.P @ of.F.T + of.Q)
    found = model.smooth([0.25, 0.3**2, 0.05**2, 0.2**2])
    with jax.enable_x64(True):
        path = jax.device_get(gaussian(case))
    # Its log likelihood and ours, of all months; and its smoothed states.
    np.testing.assert_allclose(path.log_likelihood, found.llf, rtol=1e-9)
    for k, site in enumerate(("level", "slope", "season")):
        np.testing.assert_allclose(path.mean[site], found.smoothed_state[k], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(path.sd[site], np.sqrt(found.smoothed_state_cov[k, k]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nile", pytest.param("tracking", marks=pytest.mark.heavy)])
def test_the_score_is_that_of_the_joint_law(name):
    case = CASES[name]
    with jax.enable_x64(True):
        ssm, theta = integrated(name)
        score = jax.jit(jax.grad(lambda theta: ssm.log_likelihood_given_noise(theta, {})))(theta)

        def at(**change):
            return float(log_likelihood(ssm, ssm.canonical({**case.theta, **change})))

        for name, here in case.theta.items():
            # The values are those of the joint law: see above.
            h = 1e-4 * here
            slopes = [(at(**{name: here + k * h}) - at(**{name: here - k * h})) / (2 * k * h) for k in (1, 2)]
            np.testing.assert_allclose(score[name], (4 * slopes[0] - slopes[1]) / 3, rtol=1e-7)


def draws_against_the_joint_law(name, num_draws=2000):
    """Compare means and standard deviations of draws of the states with the joint law."""
    case, answer = CASES[name], dense(CASES[name].matrices())
    ssm, theta = integrated(name)
    keys = jax.random.split(jax.random.key(0), num_draws)
    draws = jax.jit(jax.vmap(lambda key: ssm.states_from_noise(theta, {}, key)))(keys)
    for site, states in case.states.items():
        sd = np.sqrt(np.einsum("kd,tde,ke->tk", states, answer.cov, states))
        x = np.asarray(draws[site], np.float64).reshape(num_draws, *sd.shape)
        z = (x.mean(0) - answer.mean @ states.T) / sd * np.sqrt(num_draws)
        ratio = (x.var(0) / sd**2 - 1) * np.sqrt(num_draws / 2)
        assert max(np.abs(z).max(), np.abs(ratio).max()) < truth.z_threshold(2 * z.size)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["panel", "seasonal"])
def test_draws_have_the_joint_law(name):
    draws_against_the_joint_law(name)


@pytest.mark.slow
def test_noise_far_out_has_its_density():
    """Data say that the noise of the start was 50: nothing is clipped."""

    def model(y):
        x = numpyro.sample("x0", dist.Normal(0.0, 1.0))

        def step(x, y):
            numpyro.sample("y", dist.Normal(x, 0.1), obs=y)
            return numpyro.sample("x", dist.Normal(x, 0.1)), None

        scan(step, x, y)

    ssm = ssmscan.integrate_states(traced(model, jnp.full(1, 50.0)))
    expected = -0.5 * (50.0**2 / 1.01 + np.log(2 * np.pi * 1.01))
    np.testing.assert_allclose(log_likelihood(ssm, {}), expected, rtol=1e-6)


# ---- the model that is returned -----------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_printed_and_what_other_data_and_roles_keep():
    ssm = ssmscan.integrate_states(traced(CASES["nile"].model, NILE))
    said = "integrated out by gradient engines: 'start', 'level', jointly normal given the parameters"
    with_gap = NILE.copy()
    with_gap[3] = np.nan
    for other in (ssm, ssm.with_data(NILE[::-1].copy()), ssm.with_data(with_gap), ssm.with_roles(initial=("start",))):
        assert repr(other).endswith(said)
        assert other.smooth_noise == {} and [site.name for site in other.summed_out] == ["start", "level"]
    assert ssmscan.integrate_states(ssm).program is ssm.program
    with pytest.raises(ValueError, match="the states 'start', 'level' are integrated out; pass a PRNG key"):
        ssm.states_from_noise(CASES["nile"].theta, {})
    # As a parameter it is not integrated out.
    assert {site.name for site in ssm.with_roles(parameters=("start",)).summed_out} == {"level"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["panel", pytest.param("after_the_loop", marks=pytest.mark.heavy)])
def test_check_compares_the_integral_with_the_density_of_numpyro(name):
    with jax.enable_x64(True):
        ssm, theta = integrated(name)
        checked = ssm.check(jax.random.key(0), theta=theta)
    assert "noise" in str(checked)


@pytest.mark.slow
def test_a_form_that_is_no_law_has_no_likelihood():
    ssm = traced(chain(after=lambda path, s, y: numpyro.factor("f", s * (path**2).sum())), Y)
    ssm = ssmscan.integrate_states(ssm)
    assert np.isnan(log_likelihood(ssm, ssm.canonical({"s": 5.0})))
