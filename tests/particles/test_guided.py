"""Guided filters: exact against Kalman and enumeration, the bootstrap filter where q is the model's law, and refused
in a sentence where they cannot be right."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.stats import norm

import ssmscan
from ssmscan import PIT, SD, Ancestry, FullHistory, LastSteps, Mean, ParticleFilter
from ssmscan.particles.compiled import join, split
from ssmscan.particles.filter_step import FAULTY, VANISHED
from ssmscan.particles.guided import Guided
from ssmscan.particles.proposed_laws import support_of
from tests.particles import gradient, guided
from tests.particles.guided import THETA, best, wide_start
from tests.particles.unbiased import LARGEST_SD

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def known():
    return guided.CASES["AR(1)+noise"]()


def own(theta, carry, y):
    return dist.Normal(theta["rho"] * carry, theta["sx"])


# ---- the same numbers as the bootstrap filter where q is the model's law ------------------------------


def own_start(theta, y):
    return dist.Normal(0.0, theta["sx"] / jnp.sqrt(1 - theta["rho"] ** 2))


@pytest.mark.slow
@pytest.mark.parametrize("proposal", [Guided(own), Guided(own, own_start)])
def test_with_the_models_own_laws_it_is_the_bootstrap_filter(known, proposal):
    settings = ParticleFilter(32, summaries=(Mean(), SD(), PIT()), store=FullHistory())
    bootstrap, found = (
        replace(settings, proposal=one).run(KEY, known.ssm, THETA) for one in (settings.proposal, proposal)
    )
    close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    close(found.increments, bootstrap.increments)
    np.testing.assert_array_equal(found.history.steps.ancestors, bootstrap.history.steps.ancestors)
    jax.tree.map(close, found.summaries, bootstrap.summaries)
    assert found.final.values.keys() == bootstrap.final.values.keys()


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [1, 0])
def test_a_start_that_is_weighed_and_not_observed_counts_once(known, threshold):
    """Its mean weight, an estimate of one, is in the first increment, whether the cloud is resampled then or not."""
    proposal = Guided(best, wide_start)
    run = ParticleFilter(64, proposal=proposal, threshold=threshold, store=FullHistory(), summaries=())
    found = run.run(KEY, known.ssm, THETA)
    start, sd = np.asarray(found.history.initial.values["x0"], float), THETA["sx"] / (1 - THETA["rho"] ** 2) ** 0.5
    ratio = norm.pdf(start, 0, sd) / norm.pdf(start, 0.2, 1.3 * sd)
    np.testing.assert_allclose(np.exp(found.history.initial.log_weights), ratio / ratio.sum(), rtol=1e-3)
    seen = norm.pdf(guided.series(THETA, 10)[0], THETA["rho"] * start, np.hypot(THETA["sx"], THETA["sy"]))
    parents = np.asarray(found.history.steps.ancestors[0])
    expected = ratio.mean() * seen[parents].mean() if threshold else (ratio * seen).mean()
    np.testing.assert_allclose(found.increments[0], np.log(expected), rtol=1e-4)
    np.testing.assert_allclose(found.increments.sum(), found.log_likelihood, rtol=1e-5)
    assert found.increments.shape == (10,)


@pytest.mark.slow
def test_chunks_are_the_whole_run(known):
    settings = ParticleFilter(64, proposal=Guided(best, wide_start), summaries=())
    found, online, increments = settings.run(KEY, known.ssm, THETA), settings.start(KEY, known.ssm, THETA), []
    for count in (1, 4, 5):
        online, steps = settings.update(online, known.ssm, THETA, count)
        increments.append(steps.increment)
    np.testing.assert_allclose(np.concatenate(increments), found.increments, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(online.state.log_likelihood.value(), found.log_likelihood, rtol=1e-5)


def vector_and_count(y, seen):
    """A masked vector beside a scaled count."""
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))

    def transition(carry, inputs):
        y, seen = inputs
        with numpyro.handlers.mask(mask=seen):
            x = numpyro.sample("x", dist.Normal(0.8 * carry[0], sd).to_event(1))
        with numpyro.handlers.scale(scale=0.5):
            k = numpyro.sample("k", dist.Poisson(1.0 + jnp.abs(carry[1])))
        g = numpyro.sample("g", dist.Gamma(2.0, 1.0))
        numpyro.sample("y", dist.Normal(x.sum() + k - g, 1.0), obs=y)
        return (x, jnp.sin(1.0 * k)), None

    scan(transition, (jnp.zeros(2), 0.0), (y, seen))


@pytest.mark.slow
def test_masked_scaled_discrete_and_vector_sites_keep_their_weights():
    """Fresh keys of each site's stream, so in law: the weights at given values are what they are in a step."""
    y, seen = np.random.default_rng(0).normal(size=6), np.array([1, 0, 1, 1, 0, 1], bool)
    ssm = ssmscan.trace(vector_and_count, jnp.asarray(y, float), seen)

    def propose(theta, carry, y):
        return {
            "g": dist.Gamma(2.0, 1.0),
            "k": dist.Poisson(1.0 + jnp.abs(carry[1])),
            "x": dist.Normal(0.8 * carry[0], theta["sd"]).to_event(1),
        }

    settings = ParticleFilter(64, summaries=())
    bootstrap, found = (
        replace(settings, proposal=proposal).run(KEY, ssm, {"sd": 0.7})
        for proposal in (settings.proposal, Guided(propose))
    )
    np.testing.assert_allclose(found.increments, bootstrap.increments, rtol=1e-4, atol=1e-4)


# ---- exact --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", guided.CASES)
def test_sixteen_guided_particles_average_to_the_likelihood(name):
    for cell in guided.cells(4000, keys=(0,), only=(name,)):
        if cell.settings.threshold != 0.5 and name != "start too":
            continue  # in the heavy test
        found = cell.run()
        assert found.accepted(8) and found.sd < LARGEST_SD, f"{name} {cell.settings.threshold}: z {found.z:.2f}"


@pytest.mark.slow
def test_its_variance_is_a_tenth_or_less_where_observations_are_precise():
    found = guided.variances(replicates=300)
    assert found["Guided"] < 0.1 * found["Bootstrap"]


@pytest.mark.slow
@pytest.mark.parametrize("case", [1, 3])
def test_its_gradient_is_that_of_the_likelihood(case):
    """A smooth q and a discrete one, the start guided too."""
    with jax.enable_x64(True):
        known, proposal = guided.gradient_cases()[case]
        settings = ParticleFilter(known.num_particles, summaries=(), proposal=proposal)
        found = gradient.measure(known, settings, 0, 4000)
    assert found.accepted and found.sd < LARGEST_SD, found.z


@pytest.mark.slow
def test_each_mistake_is_rejected():
    for name, right, wrong in guided.broken(4000):
        assert right.accepted(4) and not wrong.accepted(4), f"{name}: z {right.z:.2f}, {wrong.z:.2f}"


@pytest.mark.heavy
@pytest.mark.parametrize("part", ["unbiased", "variance", "gradient", "broken"])
def test_everything_on_a_hundred_thousand_filters(part):
    assert guided.main([part]) == 0


@pytest.mark.slow
def test_of_several_loops_each_is_guided():
    y, v = guided.series(THETA, 10), guided.series(THETA, 6, 1)
    ssm = ssmscan.trace(guided.two_series, jnp.asarray(y, float), jnp.asarray(v, float))

    def propose(theta, carry, y):
        return best(theta, carry, {"y": next(iter(y.values()))})

    settings = ParticleFilter(2000, proposal=Guided(propose), summaries=())
    truth = guided.exact(THETA, y) + guided.exact(THETA, v)
    assert abs(settings.run(KEY, ssm, THETA).log_likelihood - truth) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("store", [Ancestry(), FullHistory(), LastSteps(3)])
def test_stores_and_paths(known, store):
    settings = ParticleFilter(500, proposal=Guided(best, wide_start), store=store)
    found = settings.run(KEY, known.ssm, THETA)
    assert ssmscan.trace_ancestry(KEY, found, num_paths=3)["x"].shape[0] == 3
    if not isinstance(store, Ancestry):
        paths = ssmscan.backward_sample(KEY, known.ssm, THETA, found, num_paths=200)["x"]
        np.testing.assert_allclose(paths[:, -1].mean(), found.summaries["mean"]["x"][-1], atol=0.2)


# ---- arrays -------------------------------------------------------------------------------------------


def gain_times(gain, theta, carry, y):
    return dist.Normal(theta["rho"] * carry + gain * y["y"], 0.6)


@pytest.mark.slow
def test_arrays_of_a_proposal_are_arguments_of_one_program_and_may_be_traced(known):
    traces = []

    def propose(gain, theta, carry, y):
        traces.append(gain)
        return gain_times(gain, theta, carry, y)

    def run(gain):
        proposal = Guided(jax.tree_util.Partial(propose, gain))
        return ParticleFilter(16, proposal=proposal, summaries=()).run(KEY, known.ssm, THETA).log_likelihood

    first, count = run(jnp.float32(0.0)), len(traces)
    second = run(jnp.float32(0.1))
    assert len(traces) == count and first != second
    np.testing.assert_allclose(jax.vmap(run)(jnp.float32([0.0, 0.1])), [first, second], rtol=1e-5)


def test_what_is_not_an_array_is_compared_by_value_and_type():
    arrays = jnp.ones(2), jnp.zeros(2)
    settings = [
        ParticleFilter(8, proposal=Guided(jax.tree_util.Partial(gain_times, gain))) for gain in (*arrays, 1, 1.0)
    ]
    parts = [split(one) for one in settings]
    assert parts[0][0] == parts[1][0] and hash(parts[0][0]) == hash(parts[1][0])
    assert parts[2][0] != parts[3][0] and parts[2][1] == []
    assert join(*parts[0]).proposal.propose.args[0] is arrays[0]
    assert join(*parts[2]) is settings[2]


# ---- what goes wrong ----------------------------------------------------------------------------------


def of(law):
    return Guided(lambda theta, carry, y: law)


@pytest.mark.parametrize(
    ("proposal", "error", "sentence"),
    [
        (of({}), ValueError, r"propose must have exactly the sites \['x'\]; missing: \['x'\], unknown: none\. Give a"),
        (of({"x": dist.Normal(), "z": dist.Normal()}), ValueError, r"unknown: \['z'\]"),
        (of(3.0), TypeError, r"propose: expected one NumPyro distribution, or a dict with a distribution for each of"),
        (of({"x": 3.0}), TypeError, r"propose\['x'\]: expected a NumPyro distribution, such as dist\.Normal"),
        (
            of(dist.Normal(jnp.zeros(2))),
            ValueError,
            r"propose\['x'\]: expected .* of shape \(\), as site 'x' .* \(2,\)",
        ),
        (of(dist.Poisson(3.0)), ValueError, r"propose\['x'\]: expected a continuous distribution, as that of site 'x'"),
        (
            of(dist.HalfNormal()),
            ValueError,
            r"HalfNormal draws from numbers from 0 to inf, and site 'x' \(Normal\) has",
        ),
        (of(dist.Uniform(-9.0, 9.0)), ValueError, r"Uniform draws from numbers from -9 to 9, and site 'x'"),
        (of(dist.Delta(0.0)), ValueError, r"expected a distribution with a density, got Delta"),
        (of(dist.Normal().mask(False)), ValueError, r"got one that is masked\. Give the distribution without the mask"),
        (
            Guided(own, lambda theta, y: dist.Beta(1.0, 1.0)),
            ValueError,
            r"initial\['x0'\]: Beta draws from numbers from 0",
        ),
    ],
)
def test_a_wrong_proposal_is_refused_by_a_sentence_before_anything_is_compiled(known, proposal, error, sentence):
    with pytest.raises(error, match=sentence):
        ParticleFilter(16, proposal=proposal).run(KEY, known.ssm, THETA)


def test_what_is_no_function_of_the_right_arguments_is_refused_at_once():
    for wrong in (3, dist.Normal, lambda theta, carry: None):
        with pytest.raises(
            TypeError, match=r"propose: expected a function \(theta, carry, y\) -> NumPyro distributions"
        ):
            Guided(wrong)
    with pytest.raises(TypeError, match=r"initial: expected a function \(theta, y\)"):
        Guided(own, own)


@pytest.mark.slow
def test_parameters_that_are_not_numbers_are_told_with_the_step_and_the_proposal(known):
    def some(theta, carry, y):
        return dist.Normal(jnp.where(carry > 0.5, jnp.nan, theta["rho"] * carry), theta["sx"])

    found = ParticleFilter(64, proposal=Guided(some), summaries=()).run(KEY, known.ssm, THETA)
    assert found.status == FAULTY and np.isfinite(found.log_likelihood)
    assert "first at step" in found.message() and "what Guided proposes" in found.message()
    every = Guided(lambda theta, carry, y: dist.Normal(jnp.sqrt(-1.0 - carry**2), 1.0))
    found = ParticleFilter(64, proposal=every, summaries=()).run(KEY, known.ssm, THETA)
    assert found.status == VANISHED and found.log_likelihood == -jnp.inf and "what Guided proposes" in found.message()


def bounded(y):
    w = numpyro.sample("w", dist.HalfNormal(1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Uniform(x - w, x + w))
        s = numpyro.sample("s", dist.Gamma(2.0, 2.0))
        numpyro.sample("y", dist.Normal(x, s), obs=y)
        return x, None

    scan(transition, 0.0, y)


@pytest.mark.slow
def test_draws_outside_the_support_of_the_model_have_no_weight():
    """A q that is wider than the model's law, with observations that have no density there."""
    ssm = ssmscan.trace(bounded, jnp.asarray([0.3, -0.4, 0.2], float))

    def propose(theta, carry, y):
        return {"x": dist.Normal(carry, 2 * theta["w"]), "s": dist.Normal(1.0, 1.5)}

    run = ParticleFilter(20_000, threshold=1, summaries=())
    bootstrap, found = (run.run(KEY, ssm, {"w": 1.0}), replace(run, proposal=Guided(propose)).run(KEY, ssm, {"w": 1.0}))
    assert found.message() == "The run is complete."
    assert abs(found.log_likelihood - bootstrap.log_likelihood) < 0.1


@pytest.mark.parametrize(
    ("own", "wanted", "lacks"),
    [
        (dist.Normal(), dist.HalfNormal(), False),
        (dist.LogNormal(), dist.Gamma(1.0, 1.0), False),
        (dist.Beta(1.0, 1.0), dist.Gamma(1.0, 1.0), True),
        (dist.Uniform(0.0, jnp.arange(1.0, 3.0)), dist.HalfNormal(), True),
        (dist.Bernoulli(0.5), dist.Categorical(jnp.ones(3) / 3), True),
        (dist.Categorical(jnp.ones(3) / 3), dist.Bernoulli(0.5), False),
        (dist.Poisson(1.0), dist.Binomial(5, 0.5), False),
        (dist.Binomial(5, 0.5), dist.Poisson(1.0), True),
        (dist.Pareto(1.0, 2.0), dist.HalfNormal(), True),
        (dist.TruncatedNormal(low=-1.0), dist.HalfNormal(), False),
        (dist.Normal(jnp.zeros(2)).to_event(1), dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)), False),
        (dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3)), dist.Dirichlet(jnp.ones(3)), True),
        (dist.Dirichlet(jnp.ones(3)), dist.Dirichlet(jnp.ones(3)), False),
        (dist.VonMises(0.0, 1.0), dist.VonMises(0.0, 2.0), False),
    ],
)
def test_supports_are_compared_as_far_as_they_are_known(own, wanted, lacks):
    assert support_of(str(own.support)).lacks(support_of(str(wanted.support))) == lacks
