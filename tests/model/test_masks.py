"""Masks and scales on what is drawn: what counts, what it is drawn from, and a check that sees every factor."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference.posterior import Position, log_likelihood, log_posterior, log_reference
from ssmscan.model.protocols import Step
from ssmscan.model.statespace import checking
from ssmscan.model.statespace.discrete_sum import DiscreteSum
from ssmscan.model.statespace.element_dynamics import ElementDynamics
from ssmscan.model.statespace.front import StateSpaceModel
from tests.model.zoo import Y

KEY = jax.random.key(0)


def some(names, quick):
    """Parameters of a test, slow unless they are among the quick ones."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


DATA = Y[:6] + 5.0
SEEN = jnp.array([True, False])


def by_handler():
    with handlers.mask(mask=False):
        return numpyro.sample("m", dist.Normal(0.0, 0.5))


def under_a_transform():
    log_m = dist.Normal(0.0, 0.5).mask(False)
    return numpyro.sample("m", dist.TransformedDistribution(log_m, dist.transforms.ExpTransform()))


def in_a_plate():
    with numpyro.plate("two", 2), handlers.mask(mask=SEEN):
        return numpyro.sample("m", dist.LogNormal(0.0, 0.5))


def scaled():
    with handlers.scale(scale=0.3):
        return numpyro.sample("m", dist.HalfNormal(0.5))


PRIORS = {
    "handler": (by_handler, lambda m: 0.0),
    "distribution": (lambda: numpyro.sample("m", dist.HalfNormal(0.5).mask(False)), lambda m: 0.0),
    "transform": (under_a_transform, lambda m: -jnp.log(m)),
    "vector": (
        lambda: numpyro.sample("m", dist.Normal(jnp.zeros(2), 0.5).mask(SEEN).to_event(1)),
        lambda m: dist.Normal(0.0, 0.5).log_prob(m[0]),
    ),
    "plate": (in_a_plate, lambda m: dist.LogNormal(0.0, 0.5).log_prob(m[0])),
    "scaled": (scaled, lambda m: 0.3 * dist.HalfNormal(0.5).log_prob(m)),
    "of nothing": (lambda: numpyro.sample("m", dist.Normal(0.0, 0.5).mask(True)), dist.Normal(0.0, 0.5).log_prob),
}
EXPECTED_LAW = {
    "handler": dist.Normal(0.0, 0.5),
    "distribution": dist.HalfNormal(0.5),
    "transform": dist.LogNormal(0.0, 0.5),
    "vector": dist.Normal(0.0, 0.5),
    "plate": dist.LogNormal(0.0, 0.5),
    "scaled": dist.HalfNormal(0.5),
    "of nothing": dist.Normal(0.0, 0.5),
}


def with_prior(draw):
    def model(y):
        m = draw()

        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(0.5 * x, 1.0))
            numpyro.sample("y", dist.Normal(x + jnp.sum(m), 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    return model


@pytest.mark.parametrize("name", some(PRIORS, ("handler", "plate")))
def test_a_parameter_counts_as_numpyro_counts_it_and_is_drawn_from_its_law(name):
    draw, counted = PRIORS[name]
    ssm = ssmscan.trace(with_prior(draw), DATA)
    theta = jax.jit(ssm.sample_prior)(KEY)
    assert ssm.reweighted == (() if name == "of nothing" else ("m",))
    prior = counted(theta["m"])
    np.testing.assert_allclose(ssm.log_prior(theta), prior, rtol=1e-5, atol=1e-6)

    position = Position(jax.jit(ssm.unconstrain)(theta), {"x": jnp.zeros(6)})
    law = jnp.sum(EXPECTED_LAW[name].log_prob(theta["m"]))
    jacobian = ssm.log_prior_unconstrained(position.parameters)[1] - prior
    noise = dist.Normal(0.0, 1.0).log_prob(jnp.zeros(6)).sum()
    np.testing.assert_allclose(log_reference(ssm, position), law + jacobian + noise, rtol=1e-5)
    data = ssm.log_likelihood_given_noise(theta, position.noise)
    np.testing.assert_allclose(log_likelihood(ssm, position), data + prior - law, rtol=1e-5)
    np.testing.assert_allclose(log_posterior(ssm, position), data + prior + jacobian + noise, rtol=1e-5)


@pytest.mark.parametrize("name", some(("handler", "plate", "scaled"), ("scaled",)))
def test_every_factor_of_a_masked_or_scaled_prior_is_that_of_numpyro(name):
    found = ssmscan.trace(with_prior(PRIORS[name][0]), DATA).check(KEY)
    assert found.passed and set(found.factors) == {
        "sites", "prior", "transformed", "law", "reweighted", "values", "weights", "noise",
    }  # fmt: skip
    assert abs(found.factors["law"].parts - found.factors["transformed"].parts) > found.tolerance


def faulty(method, fault):
    return lambda self, *args: fault(method(self, *args))


FAULTS = {
    "prior": ("log_prior", lambda value: value + 0.1),
    "transformed": ("log_prior_unconstrained", lambda out: (out[0], out[1] + 0.1)),
    "law": ("log_law_unconstrained", lambda out: (out[0] + 0.1, out[1] - 0.1)),
    "reweighted": ("log_law_unconstrained", lambda out: (out[0], 0.0 * out[1])),
    "values": ("log_static", lambda value: value + 0.1),
    "noise": ("log_likelihood_given_noise", lambda value: value + 0.1),
}


@pytest.mark.parametrize("name", some(FAULTS, ("prior", "reweighted")))
def test_the_check_reads_the_functions_that_engines_call(name, monkeypatch):
    ssm = ssmscan.trace(with_prior(scaled), DATA)
    method, fault = FAULTS[name]
    monkeypatch.setattr(StateSpaceModel, method, faulty(getattr(StateSpaceModel, method), fault))
    evaluate = checking._evaluate
    monkeypatch.setattr(checking, "_evaluate", lambda *args: evaluate(*args))  # what jit has kept is without the fault
    with jax.disable_jit(False), pytest.raises(ssmscan.ModelError, match=f"factor '{name}'"):
        ssm.check(KEY)


def test_the_table_says_what_a_mask_or_a_scale_means():
    def model(y, seen):
        m = by_handler()

        def step(x, inputs):
            yt, ok = inputs
            with handlers.mask(mask=ok):
                x = numpyro.sample("x", dist.Normal(x + m, 1.0))
                numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, (y, seen))

    ssm = ssmscan.trace(model, DATA, jnp.arange(6) < 4)
    reasons = {site.name: site.reason for site in ssm.sites}
    assert reasons["m"].endswith("; its prior is flat where it is masked")
    assert reasons["x"].endswith("; where it is masked it has its law all the same")
    assert ";" not in reasons["y"]
    assert ssm.check(KEY).passed


@pytest.mark.slow
def test_what_an_obs_mask_leaves_open_keeps_its_law():
    def model(y):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]), obs=jnp.array([0.3, 9.0]), obs_mask=SEEN)

        def step(x, yt):
            x = numpyro.sample("x", dist.Normal(0.5 * x + jnp.sum(z), 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, 0.0, y)

    ssm = ssmscan.trace(model, DATA)
    assert [site.name for site in ssm.parameters] == ["z_unobserved"] and not ssm.reweighted
    value = jnp.array([0.1, 0.2])
    expected = dist.Normal(0.0, 1.0).log_prob(value).sum()
    np.testing.assert_allclose(ssm.log_prior({"z_unobserved": value}), expected, rtol=1e-6)
    assert ssm.check(KEY).passed


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        ssmscan.NUTS(num_warmup=500, num_samples=2000, num_chains=4, progress=False),
        ssmscan.PMMH(num_samples=4000, num_warmup=1000, num_particles=100, progress=False),
        ssmscan.TemperedSMC(num_particles=1000, num_runs=4, progress=False),
    ],
    ids=lambda engine: type(engine).__name__,
)
@pytest.mark.parametrize("name", ["handler", "scaled"])
def test_engines_sample_the_posterior_that_numpyro_defines(engine, name):
    """Given m the data are normal; a grid over m has the posterior mean."""
    draw, counted = PRIORS[name]
    covariance = np.array([[1.0 * (i == j) for i in range(6)] for j in range(6)])
    walk = np.tril(0.5 ** np.subtract.outer(np.arange(6), np.arange(6)))
    joint = dist.MultivariateNormal(jnp.zeros(6), jnp.asarray(covariance + walk @ walk.T))
    grid = jnp.linspace(0.0 if name == "scaled" else -10.0, 15.0, 4001)[1:]
    log_posterior = joint.log_prob(DATA - grid[:, None]) + counted(grid)
    weights = jax.nn.softmax(log_posterior)
    mean = float(jnp.sum(weights * grid))
    sd = float(jnp.sqrt(jnp.sum(weights * (grid - mean) ** 2)))
    result = engine.run(KEY, ssmscan.trace(with_prior(draw), DATA))
    # The prior as a law would move the mean by more than two standard deviations.
    assert abs(float(np.mean(result.draws["m"])) - mean) < 0.2 * sd
    if result.engine == "TemperedSMC":
        assert result.log_evidence is None and any("no evidence" in note for note in result.notes)


def panel(y):
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def step(x, yt):
        with numpyro.plate("series", 3):
            x = numpyro.sample("x", dist.Normal(x, q))
            numpyro.sample("y", dist.StudentT(4.0, x, 1.0), obs=yt)
        return x, None

    scan(step, jnp.zeros(3), jnp.stack([y, -y, y**2], 1))


def summed_elements(y):
    stay = numpyro.sample("stay", dist.Beta(8, 2))

    def step(carry, yt):
        z, level = carry
        level = numpyro.sample("level", dist.Normal(0.9 * level, 0.5))
        with numpyro.plate("series", 2), handlers.mask(mask=yt > 5.0):
            z = numpyro.sample("z", dist.Bernoulli(jnp.where(z == 1, stay, 1 - stay)))
            numpyro.sample("y", dist.Normal(2.0 * z + level, 1.0), obs=yt)
        return (z, level), None

    scan(step, (jnp.zeros(2, int), 0.0), y)


def summed_moving(y):
    def step(z, inputs):
        yt, t = inputs
        rows = jnp.array([[0.7, 0.3], [0.2, 0.8]])
        with handlers.scale(scale=0.5):
            z = numpyro.sample("z", dist.Categorical(logits=jnp.log(rows)[z] + 0.1 * t * jnp.arange(2)))
        numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=yt)
        return z, None

    scan(step, numpyro.sample("z0", dist.Bernoulli(0.5)), (y, jnp.arange(6.0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "factor"), [(panel, "elements"), (summed_elements, "noise"), (summed_moving, "noise")]
)
def test_elements_of_a_panel_and_sums_over_discrete_states_are_checked(model, factor, monkeypatch):
    ssm = ssmscan.trace(model, DATA)
    assert factor in ssm.check(KEY).factors

    evaluate = checking._evaluate
    monkeypatch.setattr(checking, "_evaluate", lambda *args: evaluate(*args))  # what jit has kept is without the fault
    if model is panel:
        monkeypatch.setattr(ElementDynamics, "step", lambda self, *args: Step(*_heavier(element_step(self, *args))))
    else:
        monkeypatch.setattr(DiscreteSum, "series", lambda *args: _other(series(*args)))
    with pytest.raises(ssmscan.ModelError, match=f"factor '{factor}'"):
        ssm.check(KEY)


element_step, series = ElementDynamics.step, DiscreteSum.series


def _heavier(step):
    return step._replace(log_weight=step.log_weight + 0.1)


def _other(series):
    emission = series.chain.emission.at[..., 0, :].add(0.1)
    return series._replace(chain=series.chain._replace(emission=emission))
