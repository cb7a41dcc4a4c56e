"""The gradient of the estimate against exact scores, and the mistakes that the same test sees."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.filter_run import run_filter
from tests.particles import gradient
from tests.particles.unbiased import LARGEST_SD

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("threshold", [0.5, *(pytest.param(extreme, marks=pytest.mark.heavy) for extreme in (0, 1))])
def test_a_regime_of_three_values_against_the_sum_over_its_paths(float64, threshold):
    known = gradient.hidden_markov()
    found = gradient.measure(known, ParticleFilter(32, threshold=threshold, summaries=()), 0, 4000)
    assert found.accepted, found.z
    assert found.sd < LARGEST_SD


@pytest.mark.heavy
def test_without_the_density_of_discrete_draws_the_same_test_fails(float64):
    known, settings = gradient.hidden_markov(), ParticleFilter(32, threshold=0.5, summaries=())
    with gradient.mistake("no density of discrete draws"):
        assert not gradient.measure(known, settings, 0, 4000).accepted


@pytest.mark.heavy
@pytest.mark.parametrize("known", [gradient.counts, gradient.mixed])
def test_draws_by_inversion_and_by_rejection_against_sums(known, float64):
    """Binomial states, counts in a Markov chain, and Gamma states under Poisson observations."""
    found = gradient.measure(known(), ParticleFilter(32, summaries=()), 0, 2000)
    assert found.accepted, found.z


def test_without_a_gradient_the_density_of_discrete_draws_is_not_computed():
    """The compiled filter has as many operations as one whose densities are free."""
    known = gradient.hidden_markov()

    def operations():
        args = as_key(KEY), known.ssm, known.ssm.canonical(known.theta)
        compiled = run_filter.lower(*args, settings=ParticleFilter(100, summaries=())).compile()
        return compiled.cost_analysis()["flops"]

    own = operations()
    with gradient.mistake("no density of discrete draws"):
        assert operations() == own


def animals(alive):
    """Animals that live or die, observed with error; a panel."""
    survival = numpyro.sample("survival", dist.Beta(2, 2))

    def transition(alive, seen):
        with numpyro.plate("animals", alive.shape[-1]):
            alive = numpyro.sample("alive", dist.Bernoulli(0.1 + 0.8 * alive * survival))
            numpyro.sample("seen", dist.Bernoulli(0.05 + 0.8 * alive), obs=seen)
        return alive, alive

    scan(transition, jnp.ones(alive.shape[-1], jnp.int32), alive)


@pytest.mark.heavy
def test_the_gradient_of_a_panel_of_discrete_states_is_the_sum_of_those_of_its_elements():
    seen, settings = np.array([[1, 1], [0, 1], [1, 0], [0, 0]]), ParticleFilter(50, summaries=())

    def slope(data, key):
        ssm = ssmscan.trace(animals, data)
        return jax.grad(lambda s: settings.run(key, ssm, {"survival": s}).log_likelihood)(0.6)

    alone = [slope(seen[:, m : m + 1], jax.random.fold_in(as_key(KEY), m)) for m in range(2)]
    assert ssmscan.trace(animals, seen).panel.size == 2
    np.testing.assert_allclose(slope(seen, KEY), sum(alone), rtol=1e-4)


@pytest.mark.heavy
def test_every_scheme_and_threshold_on_a_hundred_thousand_filters(float64):
    assert gradient.report([gradient.autoregression()], 100_000, "smooth innovations")
    assert gradient.report([gradient.hidden_markov(), gradient.counts()], 100_000, "without a smooth map")


@pytest.mark.heavy
def test_each_mistake_is_rejected(float64):
    assert gradient.report_broken(100_000)
