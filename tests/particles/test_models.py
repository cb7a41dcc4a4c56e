"""The filter on traced NumPyro models: known likelihoods, predictive scores, what is stored, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import ParticleFilter
from tests.particles import models

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("make", "n", "sd"),
    [(models.nile, 1000, 0.25), (models.gbpusd, 1000, 0.34), (models.nonlinear_benchmark, 2000, 0.5)],
)
def test_known_likelihood_within_five_standard_deviations(make, n, sd):
    ssm, theta, truth = make()
    result = ParticleFilter(n).run(KEY, ssm, theta)
    assert abs(float(result.log_likelihood) - truth) < 5 * sd
    assert len(result.increments) == ssm.num_steps + ssm.start_observed
    np.testing.assert_allclose(np.sum(np.asarray(result.increments, float)), float(result.log_likelihood), rtol=1e-5)
    assert set(result.summaries) == {"mean", "sd"} and set(result.summaries["mean"]) == {"x"}


def switching(y):
    """A hidden coin changes the sign of the drift; counts are observed."""
    stay = numpyro.sample("stay", dist.Beta(5, 1))
    start = numpyro.sample("level", dist.Normal(1, 1))

    def transition(carry, y):
        level, up = carry
        up = numpyro.sample("up", dist.Bernoulli(jnp.where(up == 1, stay, 1 - stay)))
        level = level + numpyro.sample("push", dist.Normal(0.3 * (2 * up - 1), 0.2))
        numpyro.deterministic("rate", jnp.exp(level))
        numpyro.sample("count", dist.Poisson(jnp.exp(level)), obs=y)
        return (level, up), None

    scan(transition, (start, 1), y)


COUNTS = jnp.array([2, 3, 5, 4, 2, 1, 0, 2])


def test_discrete_innovations_counts_and_deterministics():
    ssm = ssmscan.trace(switching, COUNTS)
    summaries = ssmscan.Mean(), ssmscan.Quantiles((0.5,)), ssmscan.PIT()
    pf = ParticleFilter(2000, summaries=summaries, store=ssmscan.FullHistory())
    result = pf.run(KEY, ssm, {"stay": 0.8})
    assert result.message() == "The run is complete."
    up = np.asarray(result.summaries["mean"]["up"])
    assert ((up >= 0) & (up <= 1)).all()
    assert result.summaries["quantiles"]["rate"].shape == (8, 1)
    assert ((result.summaries["pit"]["count"] > 0) & (result.summaries["pit"]["count"] < 1)).all()
    paths = ssmscan.backward_sample(KEY, ssm, {"stay": 0.8}, result, num_paths=30)
    level = np.asarray(paths["level"])[:, None] + np.cumsum(np.asarray(paths["push"]), axis=1)
    np.testing.assert_allclose(paths["rate"], np.exp(level), rtol=1e-4)
    assert paths["up"].dtype == result.final.values["up"].dtype


def test_impossible_data_name_the_step_and_the_site():
    ssm = ssmscan.trace(models.autoregression, jnp.array([0.1, 0.2, 1e30, 0.1]))
    result = ParticleFilter(50).run(KEY, ssm, {"rho": 0.5, "sx": 1.0, "sy": 1.0})
    assert result.log_likelihood == -jnp.inf
    assert "step 2" in result.message() and "'y'" in result.message()


def test_bad_parameters_are_refused_before_compilation():
    ssm = models.small_autoregression().ssm
    for theta, match in (({"rho": 0.5}, "sx"), ({"rho": 2.0, "sx": 1.0, "sy": 1.0}, "rho")):
        with pytest.raises(ValueError, match=match):
            ParticleFilter(10).run(KEY, ssm, theta)


def test_new_data_and_a_new_trace_share_the_compilation(caplog):
    pf, theta = ParticleFilter(17, summaries=()), {"rho": 0.5, "sx": 1.0, "sy": 1.0}
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        for y in (jnp.zeros(5), jnp.ones(5)):
            pf.run(KEY, ssmscan.trace(models.autoregression, y), theta)
    compiled = [r for r in caplog.records if "Compiling" in r.getMessage() and "run_filter" in r.getMessage()]
    assert len(compiled) == 1
