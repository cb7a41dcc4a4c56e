"""Conditional SMC: the law it must keep, what it does with one path, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from tests.particles.exact_conditional import BACKWARD, BROKEN, PROPOSALS, SCHEMES, linear, z_scores
from tests.truth import z_threshold

CELLS = [
    ("linear", 4, "systematic", "ancestor", "look-ahead"),
    ("hidden Markov", 2, "killing", "backward", "bootstrap"),
    ("linear", 4, "stratified", "none", "bootstrap"),
]


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: " ".join(map(str, cell)))
def test_the_law_of_states_and_data_stays(cell):
    """All cells, and twenty thousand replicates: python -m tests.particles.exact_conditional."""
    name, n, scheme, backward, proposal = cell
    z = z_scores(
        jax.random.key(0), name, n, SCHEMES[scheme], BACKWARD[backward], PROPOSALS[proposal], replicates=10_000
    )
    assert len(z) > 20 and np.abs(z).max() < z_threshold(len(z))


@pytest.mark.slow
@pytest.mark.parametrize("label", ["start lost", "no carried weight"])
def test_a_broken_kernel_is_rejected(label):
    z = z_scores(jax.random.key(0), *BROKEN[label], replicates=2_000)
    assert np.abs(z).max() > z_threshold(len(z))


THETA: dict[str, float] = {}
Y = jnp.array([0.4, -0.2, 1.3, 0.9, 0.1])


@pytest.fixture(scope="module")
def ssm():
    """A linear Gaussian model of five steps."""
    return ssmscan.trace(linear, Y)


@pytest.fixture(scope="module")
def path(ssm):
    """A path that is nothing special."""
    return {"x0": jnp.asarray(0.2), "x": 0.8 * Y}


def series_of_two(y):
    """Two series that do not interact, with what a state was before as a deterministic."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("series", 2):
        x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, y):
        with numpyro.plate("series", 2):
            now = numpyro.sample("x", dist.Normal(0.9 * x, scale))
            numpyro.sample("y", dist.Normal(now, 0.5), obs=y)
        numpyro.deterministic("change", now - x)
        return now, None

    scan(step, x0, y)


def test_a_path_far_from_the_data_is_left_at_once_and_the_way_back_is_slow(ssm, path):
    """The smoothing law is reached from anywhere."""
    smc = ssmscan.ConditionalSMC(50)
    far = {name: value + 8.0 for name, value in path.items()}
    found = jax.jit(smc.run)(jax.random.key(0), ssm, THETA, far)
    assert found.states["x"].shape == (5,) and found.updated.shape == (5,) and np.all(found.updated == 1)
    assert np.all(np.abs(found.states["x"]) < 4) and int(found.impossible) == -2


@pytest.mark.slow
def test_many_chains_are_the_same_under_vmap_and_one_by_one(ssm, path):
    smc = ssmscan.ConditionalSMC(8, backward=ssmscan.BackwardSampling())
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(lambda key: smc.run(key, ssm, THETA, path)))(keys)
    for i, key in enumerate(keys):
        alone = smc.run(key, ssm, THETA, path)
        np.testing.assert_allclose(together.states["x"][i], alone.states["x"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("proposal", PROPOSALS.values(), ids=PROPOSALS)
def test_elements_of_a_panel_move_one_by_one(proposal):
    """What an element does is a function of its own data and path; deterministics belong to the new path."""
    y = jnp.stack([Y, -Y], axis=1)
    ssm = ssmscan.trace(series_of_two, y)
    smc, theta = ssmscan.ConditionalSMC(6, proposal=proposal), {"scale": 0.6}
    path = {"x0": jnp.zeros(2), "x": 0.8 * y}
    found = smc.run(jax.random.key(1), ssm, theta, path)
    other = {"x0": jnp.array([0.0, 1.0]), "x": path["x"].at[:, 1].add(0.3)}
    again = smc.run(jax.random.key(1), ssm.with_data(y.at[:, 1].add(1.0)), theta, other)
    assert found.states["x"].shape == (5, 2) and found.updated.shape == (5,)
    np.testing.assert_array_equal(found.states["x"][:, 0], again.states["x"][:, 0])
    assert not np.array_equal(found.states["x"][:, 1], again.states["x"][:, 1])
    whole = jnp.concatenate([found.states["x0"][None], found.states["x"]])
    np.testing.assert_allclose(found.states["change"], jnp.diff(whole, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_several_loops_move_one_after_the_other():
    def two(y, z):
        def step(name):
            def move(x, y):
                x = numpyro.sample(name, dist.Normal(0.9 * x, 0.5))
                numpyro.sample(f"seen_{name}", dist.Normal(x, 0.5), obs=y)
                return x, None

            return move

        scan(step("a"), 0.0, y)
        scan(step("b"), 0.0, z)

    ssm = ssmscan.trace(two, Y, Y[:3])
    path = {"a": jnp.zeros(5), "b": jnp.zeros(3)}
    found = ssmscan.ConditionalSMC(6).run(jax.random.key(0), ssm, {}, path)
    assert found.states["a"].shape == (5,) and found.states["b"].shape == (3,) and found.updated.shape == (8,)


@pytest.mark.slow
def test_the_users_own_proposal_weighs_the_path(ssm, path):
    """Drawn from the model, it is the bootstrap's in law: as many updates of the middle state."""
    guided = ssmscan.Guided(lambda theta, carry, y: dist.Normal(0.9 * carry, 0.6))
    rates = []
    for proposal in (guided, ssmscan.Bootstrap()):
        smc = ssmscan.ConditionalSMC(4, proposal=proposal, backward=ssmscan.Ancestral())
        keys = jax.random.split(jax.random.key(0), 2_000)
        found = jax.jit(jax.vmap(lambda key, smc=smc: smc.run(key, ssm, THETA, path).updated[2]))(keys)
        rates.append(np.mean(found))
    assert 0.1 < rates[0] < 0.9 and abs(rates[0] - rates[1]) < z_threshold(1) * np.sqrt(2 * 0.25 / 2_000)


def test_what_is_refused(ssm, path):
    smc = ssmscan.ConditionalSMC(4)
    with pytest.raises(ValueError, match=r"path\['x'\].*\(5,\)"):
        smc.run(jax.random.key(0), ssm, THETA, {**path, "x": path["x"][:-1]})
    with pytest.raises(ValueError, match="x0"):
        smc.run(jax.random.key(0), ssm, THETA, {"x": path["x"]})
    with pytest.raises(ValueError, match="num_particles"):
        ssmscan.ConditionalSMC(1)
    with pytest.raises(TypeError, match="no ancestor to draw again"):
        ssmscan.ConditionalSMC(4, resampling=lambda key, weights, n: jnp.arange(n))
    with pytest.raises(TypeError, match="backward"):
        ssmscan.ConditionalSMC(4, backward=ssmscan.AncestorSampling)


@pytest.mark.slow
def test_a_path_outside_the_support_is_named():
    def positive(y):
        def step(x, y):
            x = numpyro.sample("x", dist.LogNormal(jnp.log(x), 0.5))
            numpyro.sample("y", dist.Poisson(x), obs=y)
            return x, None

        scan(step, 1.0, y)

    ssm = ssmscan.trace(positive, jnp.array([1, 0, 2, 3]))
    smc = ssmscan.ConditionalSMC(4)
    bad = {"x": jnp.array([1.0, 2.0, -1.0, 1.0])}
    with pytest.raises(ValueError, match="no density at step 2"):
        smc.run(jax.random.key(0), ssm, {}, bad)
    assert int(jax.jit(smc.run)(jax.random.key(0), ssm, {}, bad).impossible) == 2
