"""White noise: the Jacobian is constant whatever the guide, so that no guide can make the posterior a wrong one."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference import nuts
from ssmscan.inference.posterior import Position, log_posterior, sample_noise
from ssmscan.inference.whitening import guide_at, identity, log_determinant, noise_of, white_of
from ssmscan.results.summary import summarise
from tests.inference.models import Y, decaying, switching
from tests.truth import z_threshold


def pair(y):
    """A rotation with a nonlinear pull and two numbers of noise a step, observed through counts."""
    pull = numpyro.sample("pull", dist.Beta(2.0, 2.0))
    sd = numpyro.sample("sd", dist.LogNormal(-1.0, 0.5))
    x_0 = numpyro.sample("x_0", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.4], [0.4, 1.0]])))

    def step(x, y):
        turned = jnp.stack([x[0] - 0.3 * jnp.sin(x[1]), x[1] + pull * x[0]])
        a = numpyro.sample("a", dist.Normal(turned[0], sd))
        b = numpyro.sample("b", dist.StudentT(6.0, turned[1] + 0.2 * a, sd))
        numpyro.sample("y", dist.Poisson(jnp.exp(0.5 * a)), obs=y)
        return jnp.stack([a, b]), None

    scan(step, x_0, y)


def panel(y):
    """Three levels that share the size of their moves."""
    sd = numpyro.sample("sd", dist.LogNormal(-1.0, 0.5))
    with numpyro.plate("series", 3):
        start = numpyro.sample("start", dist.Normal(0.0, 1.0))

    def step(x, y):
        with numpyro.plate("series", 3):
            x = numpyro.sample("x", dist.Normal(jnp.tanh(x), sd))
            numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    scan(step, start, y)


def two_loops(y, z):
    """Two loops that share a parameter."""
    sd = numpyro.sample("sd", dist.LogNormal(-1.0, 0.5))

    def first(x, y):
        x = numpyro.sample("x", dist.Normal(0.9 * x, sd))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    def second(w, z):
        w = numpyro.sample("w", dist.Normal(w, 2.0 * sd))
        numpyro.sample("z", dist.Poisson(jnp.exp(w)), obs=z)
        return w, None

    scan(first, 0.0, y)
    scan(second, 0.0, z)


COUNTS = np.array([1.0, 0.0, 3.0, 2.0])
MODELS = {
    "pair": (pair, COUNTS),
    "panel": (panel, np.stack([Y[:3], Y[3:6], Y[6:9]], axis=1)),
    "two loops": (two_loops, Y[:5], COUNTS),
}


@pytest.fixture(
    scope="module", params=["panel", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pair", "two loops"))]
)
def ssm(request):
    return ssmscan.trace(*MODELS[request.param])


def drawn(ssm, number, sd=0.7):
    """Draw a point (z, u), far from the middle of any guide."""
    key = jax.random.key(number)
    z = ssm.unconstrain(ssm.sample_prior(key))
    return jax.tree.map(lambda leaf: leaf + sd, z), sample_noise(key, ssm)


def guide_of(ssm, number):
    center = ravel_pytree(ssm.unconstrain(ssm.sample_prior(jax.random.key(number))))[0]
    return guide_at(ssm, center, jnp.full_like(center, 0.4))


def nonsense(ssm, center, sd):
    """Build a guide of random numbers, with positive scales."""
    leaves, tree = jax.tree.flatten(identity(ssm))
    rng = np.random.default_rng(0)
    guide = jax.tree.unflatten(tree, [leaf + 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype) for leaf in leaves])

    def scale(leaf):
        return np.tril(leaf, -1) + np.eye(leaf.shape[-1], dtype=leaf.dtype) * np.exp(0.3 * leaf)

    laws = tuple(
        law._replace(initial_scale_tril=scale(law.initial_scale_tril), scale_tril=scale(law.scale_tril))
        for law in guide.laws
    )
    return guide._replace(center=center, reach=2.0 * sd, laws=laws)


def test_the_jacobian_is_the_constant_that_is_reckoned_with_at_any_point(ssm):
    specs = {name: jnp.zeros(spec.shape) for name, spec in ssm.smooth_noise.items()}
    _, unravel = ravel_pytree(specs)
    random = nonsense(ssm, *(jnp.full_like(ravel_pytree(drawn(ssm, 0)[0])[0], x) for x in (0.3, 0.5)))

    @jax.jit
    def log_jacobian(guide, z, u):
        jacobian = jax.jacfwd(lambda flat: ravel_pytree(noise_of(ssm, guide, z, unravel(flat)))[0])
        return jnp.linalg.slogdet(jacobian(ravel_pytree(u)[0]))

    for guide in (guide_of(ssm, 5), random):
        for number in range(3):
            sign, found = log_jacobian(guide, *drawn(ssm, number))
            assert sign > 0
            np.testing.assert_allclose(found, log_determinant(guide), rtol=2e-4, atol=2e-4)
    assert abs(log_determinant(guide_of(ssm, 5))) > 0.01


def test_u_comes_back_from_noise_and_without_a_guide_is_the_noise(ssm):
    back = jax.jit(lambda guide, z, u: white_of(ssm, guide, z, noise_of(ssm, guide, z, u)))
    for guide in (guide_of(ssm, 5), identity(ssm)):
        for number in range(3):
            z, u = drawn(ssm, number)
            found = back(guide, z, u)
            assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, u)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, u)
    z, u = drawn(ssm, 0)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(noise_of)(ssm, identity(ssm), z, u), u)


def test_of_a_linear_gaussian_model_u_is_standard_normal_given_the_parameters_it_was_made_for(linear):
    z = linear.unconstrain({"rho": jnp.array(0.6), "q": jnp.array(0.8)})
    center = ravel_pytree(z)[0]

    def spread(guide):
        def ratio(u):
            density = log_posterior(linear, Position(z, noise_of(linear, guide, z, u))) + log_determinant(guide)
            return density + 0.5 * sum(jnp.sum(leaf**2) for leaf in u.values())

        return np.ptp(jax.vmap(ratio)(jax.vmap(lambda key: sample_noise(key, linear))(KEYS)))

    assert spread(guide_at(linear, center, jnp.full_like(center, 0.3))) < 1e-3
    assert spread(guide_at(linear, center + 1.0, jnp.full_like(center, 1e-3))) > 0.5
    assert spread(identity(linear)) > 5


KEYS = jax.random.split(jax.random.key(0), 20)


def test_where_there_is_no_approximation_u_is_the_noise(ssm):
    nowhere = jnp.full_like(ravel_pytree(drawn(ssm, 0)[0])[0], jnp.nan)
    guide, same = guide_at(ssm, nowhere, jnp.ones_like(nowhere)), identity(ssm)
    for name in ("laws", "slopes"):
        jax.tree.map(np.testing.assert_array_equal, getattr(guide, name), getattr(same, name))


def test_what_cannot_be_whitened_is_left_as_it_is(ssm):
    assert identity(ssm) is not None
    assert identity(ssmscan.trace(switching, Y)) is None
    with pytest.raises(ssmscan.ModelError):
        identity(ssmscan.trace(decaying, Y))


@pytest.mark.slow
def test_a_bad_guide_makes_it_slow_and_never_wrong(linear, exact, monkeypatch):
    seen = []

    def timed(function, *args, **static):
        if function is not guide_at:
            return call_timed(function, *args, **static)
        seen.append(nonsense(*args))
        return seen[-1], 0.0, 0.0

    call_timed = nuts.call_timed
    monkeypatch.setattr(nuts, "call_timed", timed)
    result = ssmscan.NUTS(num_warmup=300, num_samples=1000, num_paths=1000, progress=False).run(
        jax.random.key(0), linear
    )
    assert len(seen) == 2
    values = {"rho": (result.draws["rho"], exact.rho), "q": (result.draws["q"], exact.q)}
    values |= {f"x{t}": (result.states["x"][:, :, t], exact.states[t]) for t in (0, 5, 11)}
    for name, (draws, truth) in values.items():
        mean = summarise(draws, independent_runs=False).statistics[0]
        assert abs(mean.value - truth) < z_threshold(len(values)) * mean.error, name


def trend(counts):
    """Counts that say much about their rate."""
    drift = numpyro.sample("drift", dist.Normal(0.0, 0.1))
    sd = numpyro.sample("sd", dist.HalfNormal(0.3))
    level_0 = numpyro.sample("level_0", dist.Normal(2.0, 1.0))

    def week(level, y):
        level = numpyro.sample("level", dist.Normal(level + drift, sd))
        numpyro.sample("count", dist.Poisson(jnp.exp(level)), obs=y)
        return level, None

    scan(week, level_0, counts)


@pytest.mark.slow
def test_informative_counts_take_short_trees():
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.exp(2.0 + np.cumsum(rng.normal(0.01, 0.15, 120)))).astype(float)
    ssm = ssmscan.trace(trend, counts)
    settings = {"num_samples": 100, "num_paths": 0, "num_chains": 2, "progress": False}
    white = ssmscan.NUTS(num_warmup=300, **settings).run(jax.random.key(0), ssm)
    plain = ssmscan.NUTS(num_warmup=100, whiten=False, **settings).run(jax.random.key(0), ssm)
    assert white.sample_stats["n_steps"].mean() < 20 < 100 < plain.sample_stats["n_steps"].mean()
