"""Estimators of the likelihood: a filter, and the mean of several, seen by samplers as one thing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmscan
from ssmscan.inference.pmmh import PMMH
from ssmscan.inference.pmmh_chain import evaluate, pmmh_step
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import LikelihoodEstimate, Replicates, SampledPath
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.filter_step import COMPLETE, FAULTY, VANISHED
from tests.inference.models import Y
from tests.model import test_several as loops
from tests.particles.test_panel import THETA, M, T, panel
from tests.particles.test_panel import Y as PANEL_Y

KEY = as_key(jax.random.key(3))
POINT = {"rho": 0.5, "q": 1.0}
FEW = ParticleFilter(20, summaries=())


@dataclass(frozen=True)
class Known:
    """Estimates that are a function of the key, and a path that says whose it is."""

    num_particles = 1

    def with_num_particles(self, num_particles):
        return self

    def particle_steps(self, ssm):
        return 3

    def estimate(self, key, ssm, theta):
        return LikelihoodEstimate(3.0 * jax.random.normal(key), jnp.asarray(COMPLETE, jnp.int32))

    def sample_path(self, key, ssm, theta):
        value = self.estimate(key, ssm, theta).log_likelihood
        return SampledPath(value, {"x": value})

    def describe(self, key, ssm, theta):
        return f"{self.estimate(key, ssm, theta).log_likelihood:.3f}"


@dataclass(frozen=True)
class Ending(Known):
    """Estimates that end in one of some ways."""

    statuses: tuple[int, ...]

    def estimate(self, key, ssm, theta):
        status = jax.random.choice(key, jnp.asarray(self.statuses, jnp.int32))
        return LikelihoodEstimate(jnp.where(status == VANISHED, -jnp.inf, 0.0), status)


@pytest.mark.slow
def test_the_estimate_is_the_mean_and_the_path_of_a_replicate_chosen_in_proportion():
    four = Replicates(Known(), 4)
    values = jax.vmap(lambda key: Known().estimate(key, None, {}).log_likelihood)(jax.random.split(KEY, 4))
    found, path = four.estimate(KEY, None, {}), four.sample_path(KEY, None, {})
    np.testing.assert_allclose(found.log_likelihood, np.log(np.mean(np.exp(values))), rtol=1e-6)
    np.testing.assert_array_equal(path.log_likelihood, found.log_likelihood)
    assert float(path.states["x"]) in map(float, values)
    assert four.particle_steps(None) == 12

    keys = jax.random.split(KEY, 4000)
    chosen = jax.vmap(lambda key: four.sample_path(key, None, {}).states["x"])(keys)
    every = jax.vmap(lambda key: jax.vmap(lambda k: Known().estimate(k, None, {})[0])(jax.random.split(key, 4)))(keys)
    shares = np.exp(every - jax.nn.logsumexp(every, axis=1, keepdims=True))
    hit = np.asarray(chosen[:, None] == every)
    assert (hit.sum(1) == 1).all()
    difference = (hit - shares)[:, 0]
    assert abs(difference.mean()) < 4.5 * difference.std() / len(keys) ** 0.5


@pytest.mark.slow
def test_one_faulty_replicate_makes_a_mean_faulty_and_only_all_together_vanish():
    def ends(*statuses):
        return int(Replicates(Ending(statuses), 16).estimate(KEY, None, {}).status)

    assert ends(COMPLETE, VANISHED) == COMPLETE
    assert ends(COMPLETE, FAULTY) == ends(FAULTY, VANISHED) == FAULTY
    assert ends(VANISHED) == VANISHED
    nothing = Replicates(Ending((VANISHED,)), 2).estimate(KEY, None, {})
    assert nothing.log_likelihood == -np.inf


@pytest.mark.slow
def test_a_filter_estimates_what_it_finds(linear):
    theta, quiet = linear.canonical(POINT), replace(FEW, store=ssmscan.FullHistory())
    found = FEW.run(KEY, linear, theta)
    assert quiet.estimate(KEY, linear, theta).log_likelihood == found.log_likelihood
    path = FEW.sample_path(KEY, linear, theta)
    np.testing.assert_allclose(path.log_likelihood, found.log_likelihood, rtol=1e-5)
    assert np.isclose(found.final.values["x"], path.states["x"][-1]).any()
    assert FEW.describe(KEY, linear, theta) == found.message()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one", "panel", "several"])
def test_replicates_run_under_jit_and_vmap_on_every_kind_of_model(kind, linear):
    if kind == "one":
        ssm, theta, sites = linear, POINT, {"x": (len(Y),), "x_0": ()}
    elif kind == "panel":
        ssm, theta, sites = ssmscan.trace(panel, PANEL_Y), THETA, {"x": (T, M), "x0": (M,)}
    else:
        ssm, theta = ssmscan.trace(loops.both, loops.Y, loops.V), loops.THETA
        sites = {"x": (8,), "z": (5,), "z0": ()}
    theta, three = ssm.canonical(theta), Replicates(FEW, 3)
    keys = jax.random.split(KEY, 2)
    together = jax.jit(jax.vmap(lambda key: three.estimate(key, ssm, theta)))(keys)
    one = jax.jit(lambda key: FEW.estimate(key, ssm, theta).log_likelihood)
    alone = [one(key) for key in jax.random.split(keys[1], 3)]
    np.testing.assert_allclose(together.log_likelihood[1], np.log(np.mean(np.exp(alone))), rtol=1e-5)
    path = jax.jit(lambda key: three.sample_path(key, ssm, theta))(keys[1])
    np.testing.assert_allclose(path.log_likelihood, together.log_likelihood[1], rtol=1e-5)
    assert {name: path.states[name].shape for name in sites} == sites
    assert three.describe(keys[0], ssm, theta).startswith("Replicate 0: ")


@pytest.mark.slow
def test_a_chain_on_replicates_keeps_the_keys_of_their_runs(linear):
    engine = PMMH(num_samples=50, num_warmup=24, num_chains=2, num_particles=10, num_paths=50, progress=False)
    engine = replace(engine, estimator=Replicates(FEW, 4))
    with pytest.warns(ssmscan.ResultWarning):
        found = engine.run(jax.random.key(0), linear)
    used = Replicates(replace(FEW, num_particles=10), 4)
    assert found.settings["used"]["num_replicates"] == 4
    assert found.settings["used"]["estimator"]["num_particles"] == 10
    assert found.costs.particle_steps % (4 * 10 * len(Y)) == 0
    assert not any("differ" in note for note in found.notes)
    theta = {name: jnp.asarray(values[1, 7]) for name, values in found.draws.items()}
    path = used.sample_path(as_key(jnp.asarray(found.sample_stats["filter_key"][1, 7])), linear, theta)
    np.testing.assert_allclose(path.log_likelihood, found.sample_stats["log_likelihood_estimate"][1, 7], rtol=1e-4)
    np.testing.assert_allclose(path.states["x"], found.states["x"][1, 7], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_more_replicates_make_a_quieter_estimate_that_stays_unbiased(linear, exact):
    theta = linear.canonical(POINT)

    def of(estimator):
        keys = jax.random.split(KEY, 2000)
        return np.asarray(jax.jit(jax.vmap(lambda key: estimator.estimate(key, linear, theta)[0]))(keys), np.float64)

    one, four = of(FEW), of(Replicates(FEW, 4))
    assert four.std() < 0.65 * one.std()
    ratio = np.exp(np.concatenate([one[:, None], four[:, None]], axis=1) - four.max())
    difference = ratio[:, 0] - ratio[:, 1]
    assert abs(difference.mean()) < 4.5 * difference.std() / len(one) ** 0.5


def test_a_step_on_replicates_is_strict_about_types(linear):
    z = linear.unconstrain({"rho": jnp.asarray(0.5), "q": jnp.asarray(1.0)})
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        state = jax.eval_shape(lambda k: evaluate(k, linear, z, Replicates(FEW, 2)), KEY)
        new, _ = jax.eval_shape(lambda s: pmmh_step(KEY, s, jnp.eye(2), linear, Replicates(FEW, 2)), state)
    assert jax.tree.map(lambda a: a.dtype, new) == jax.tree.map(lambda a: a.dtype, state)
