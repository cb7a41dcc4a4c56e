"""The exact likelihood of linear Gaussian models: the estimator without particles, and engines that integrate states.

Posteriors are compared with sums over a grid of exact likelihoods, which share nothing with the package.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import handlers
from scipy import optimize, stats

import ssmscan
from ssmscan import ExactLikelihood, MaximumLikelihood, Replicates
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter_step import COMPLETE, FAULTY, VANISHED
from ssmscan.results.summary import summarise
from tests.inference.models import NOISE, Y, linear_gaussian, switching
from tests.model.linear_models import CASES
from tests.model.test_linear_gaussian import chain
from tests.truth import LinearGaussian, z_threshold
from tests.truth import linear_gaussian as solve

KEY = as_key(jax.random.key(0))
THETA = {"rho": 0.6, "q": 0.7}
EXACT = ExactLikelihood()


def truth(rho, q):
    """Solve the model of `linear_gaussian` at a point."""
    return solve(LinearGaussian.scalar(0.0, rho**2 + q**2, rho, q**2, 1.0, NOISE**2), Y[:, None])


@pytest.fixture(scope="module")
def at_a_point(linear):
    theta = linear.canonical(THETA)
    return jax.jit(lambda key: (EXACT.estimate(key, linear, theta), EXACT.sample_path(key, linear, theta)))(KEY)


@pytest.mark.slow
def test_the_estimate_is_the_likelihood_and_a_path_comes_with_it(at_a_point):
    estimate, path = at_a_point
    np.testing.assert_allclose(estimate.log_likelihood, truth(**THETA).log_likelihood, rtol=1e-5)
    assert estimate.status == COMPLETE
    assert path.log_likelihood == estimate.log_likelihood
    assert {name: value.shape for name, value in path.states.items()} == {"x_0": (), "x": (len(Y),)}


def test_there_are_no_particles(linear):
    assert (EXACT.num_particles, EXACT.particle_steps(linear)) == (0, 0)
    assert EXACT.with_num_particles(0) is EXACT and hash(EXACT) == hash(ExactLikelihood())
    with pytest.raises(ValueError, match="num_particles: expected None, as ExactLikelihood.* has no particles, got 50"):
        ssmscan.PMMH(num_particles=50, estimator=EXACT, progress=False).run(KEY, linear)


def test_what_is_not_linear_and_gaussian_is_refused():
    ssm = ssmscan.trace(switching, Y)
    for engine in (
        ssmscan.PMMH(estimator=EXACT, progress=False),
        MaximumLikelihood(estimator=EXACT, progress=False),
        ssmscan.PMMH(estimator=Replicates(EXACT, 2), progress=False),
    ):
        with pytest.raises(ssmscan.ModelError, match="the states cannot be integrated out.*'s' \\(.*\\) is not normal"):
            engine.run(KEY, ssm)


@pytest.mark.heavy
def test_how_it_ended_is_said(linear):
    assert EXACT.describe(KEY, linear, THETA) == "The likelihood is exact."
    never = ssmscan.trace(chain(after=lambda path, s, y: numpyro.factor("f", jnp.where(s > 1.0, -jnp.inf, 0.0))), Y[:3])
    assert EXACT.estimate(KEY, never, never.canonical({"s": 2.0})).status == VANISHED
    assert "impossible" in EXACT.describe(KEY, never, never.canonical({"s": 2.0}))
    wild = ssmscan.trace(chain(after=lambda path, s, y: numpyro.factor("f", s * (path**2).sum())), Y[:3])
    assert EXACT.estimate(KEY, wild, wild.canonical({"s": 5.0})).status == FAULTY
    assert "not a number" in EXACT.describe(KEY, wild, wild.canonical({"s": 5.0}))


def compare(result, exact, draws=("rho", "q")):
    """Compare posterior means of the parameters and the states with the grid, in Monte Carlo errors."""
    values = {name: (result.draws[name], getattr(exact, name)) for name in draws}
    values |= {f"x[{t}]": (result.states["x"][:, :, t], exact.states[t]) for t in range(len(Y))}
    for name, (found, expected) in values.items():
        mean = summarise(found, independent_runs=result.independent_runs).statistics[0]
        assert abs(mean.value - expected) < z_threshold(len(values)) * mean.error, name


@pytest.mark.slow
def test_pmmh_on_the_exact_likelihood(linear, exact):
    result = ssmscan.PMMH(num_samples=4000, num_warmup=1000, estimator=EXACT, progress=False).run(KEY, linear)
    compare(result, exact)
    assert result.costs.particle_steps == 0
    assert result.notes[0].startswith("the exact likelihood, standard deviation of the log likelihood estimate 0.00")
    assert not any("replayed" in note for note in result.notes)


@pytest.mark.heavy
def test_nuts_on_the_parameters_alone(linear, exact):
    integrated = ssmscan.integrate_states(linear)
    result = ssmscan.NUTS(num_samples=1500, num_warmup=500, num_chains=2, progress=False).run(KEY, integrated)
    compare(result, exact)
    assert result.states["x"].shape == (2, 1000, len(Y))


@pytest.mark.heavy
def test_tempered_smc_on_the_parameters_alone(linear, exact):
    integrated = ssmscan.integrate_states(linear)
    result = ssmscan.TemperedSMC(num_particles=500, num_runs=6, progress=False).run(KEY, integrated)
    compare(result, exact)
    assert abs(result.log_evidence - exact.log_evidence) < z_threshold() * result.log_evidence_error


@pytest.mark.slow
def test_without_parameters_nothing_is_left_to_sample():
    ssm = ssmscan.trace(chain_without_parameters, Y)
    result = ssmscan.TemperedSMC(num_particles=40, num_runs=2, progress=False).run(KEY, ssmscan.integrate_states(ssm))
    # NumPyro counts the density of what is substituted: of rho it is one.
    expected = truth(0.6, 0.7).log_likelihood + stats.norm.logpdf(np.log(0.7), -0.5, 0.5) - np.log(0.7)
    np.testing.assert_allclose(result.log_evidence, expected, rtol=1e-5)
    assert "its states are integrated out" in result.notes[0]


def chain_without_parameters(y):
    with handlers.substitute(data={"rho": 0.6, "q": 0.7}):
        linear_gaussian(y)


@pytest.mark.slow
def test_maximum_likelihood_is_kalmans():
    case = CASES["nile"]

    def loss(log_theta):
        (level, flow), mean, var, total = np.exp(2 * log_theta), 1000.0, 300.0**2, 0.0
        for y in case.args[0]:
            var += level
            total += 0.5 * ((y - mean) ** 2 / (var + flow) + np.log(2 * np.pi * (var + flow)))
            mean, var = mean + var / (var + flow) * (y - mean), var * flow / (var + flow)
        return total

    best = optimize.minimize(loss, np.log([40.0, 120.0]), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    h = 1e-3
    unit = h * np.eye(2)
    information = np.array(
        [
            [sum(s * r * loss(best.x + s * a + r * b) for s in (1, -1) for r in (1, -1)) / (4 * h**2) for b in unit]
            for a in unit
        ]
    )
    errors = np.exp(best.x) * np.sqrt(np.diag(np.linalg.inv(information)))
    ssm = ssmscan.trace(case.model, *case.args)
    found = MaximumLikelihood(num_steps=400, num_starts=2, estimator=EXACT, progress=False).run(KEY, ssm)
    assert found.converged and found.agreeing == 2
    assert (found.log_likelihood_sd, found.log_likelihood_error, found.standard_error_noise) == (0.0, 0.0, 0.0)
    np.testing.assert_allclose(found.log_likelihood, -best.fun, rtol=1e-5)
    for k, name in enumerate(("level_sd", "flow_sd")):
        np.testing.assert_allclose(found.theta[name], np.exp(best.x[k]), rtol=2e-3)
        # Differences of the score over half a standard error.
        np.testing.assert_allclose(found.standard_errors[name], errors[k], rtol=0.03)
    assert found.costs.particle_steps == 0
