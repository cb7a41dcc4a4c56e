"""States that gradient engines sample where they are: densities, draws and starts of each kind of support."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer.util import log_density
from scipy import stats

import ssmscan
from ssmscan.inference import posterior
from ssmscan.model.noise.families import MapKind
from ssmscan.model.noise.in_place import InPlace, gradient_map
from ssmscan.model.noise.samplers import draw, has_sampler
from tests.truth import z_threshold

KEY = jax.random.key(0)
NUM_DRAWS = 20_000


class Directed(dist.Distribution):
    """Von Mises-Fisher on the sphere in three dimensions, as a user would write it: log p = k mu.x + constant."""

    support = constraints.sphere

    def __init__(self, k):
        self.k = k
        super().__init__((), (3,))

    def log_prob(self, value):
        return self.k * value[..., 0] + jnp.log(self.k / (4 * jnp.pi * jnp.sinh(self.k)))

    def sample(self, key, sample_shape=()):
        key_height, key_angle = jax.random.split(key)
        u = jax.random.uniform(key_height, sample_shape)
        height = 1 + jnp.log(u + (1 - u) * jnp.exp(-2 * self.k)) / self.k
        angle = jax.random.uniform(key_angle, sample_shape, maxval=2 * jnp.pi)
        radius = jnp.sqrt(1 - height**2)
        return jnp.stack([height, radius * jnp.cos(angle), radius * jnp.sin(angle)], -1)


FAMILIES = {
    "angle": lambda: dist.VonMises(3.0, 2.0),
    "angles of a plate": lambda: dist.VonMises(jnp.array([0.0, 2.0]), 4.0).to_event(1),
    "two angles": lambda: dist.SineBivariateVonMises(0.5, -3.0, 2.0, 1.0, 0.7),
    "direction": lambda: Directed(2.0),
    "mixture": lambda: dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.array([-1.0, 2.0]), 1.0)
    ),
    "mixture of others": lambda: dist.MixtureGeneral(
        dist.Categorical(jnp.array([0.4, 0.6])), [dist.Normal(0.0, 1.0), dist.StudentT(3.0, 1.0, 2.0)]
    ),
    "heavy vector": lambda: dist.MultivariateStudentT(3.0, jnp.ones(2), jnp.array([[1.0, 0.0], [0.5, 0.8]])),
    "heavy jump": lambda: dist.Levy(1.0, 0.5),
    "correlations": lambda: dist.LKJ(3, 2.0),
    "factor of correlations": lambda: dist.LKJCholesky(3, 2.0),
    "covariance": lambda: dist.Wishart(4.0, jnp.eye(2)),
    "neighbours": lambda: dist.CAR(0.0, 0.6, 2.0, jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])),
    "power law": lambda: dist.DoublyTruncatedPowerLaw(-2.0, 0.5, 4.0),
    "truncated": lambda: dist.LeftTruncatedGamma(dist.Gamma(2.0, 1.0), 0.5),
}


def log_density_in_place(fn, z):
    place = gradient_map(fn)
    return jax.vmap(lambda e: place.log_density(fn, e))(z)


@pytest.mark.parametrize("name", ["mixture", "heavy jump"])
def test_the_density_of_a_number_in_place_integrates_to_one(name):
    z = jnp.linspace(-45.0, 45.0, 20_001)
    total = jnp.sum(jnp.exp(log_density_in_place(FAMILIES[name](), z))) * 90.0 / 20_000
    np.testing.assert_allclose(total, 1.0, atol=1e-4)


def test_the_density_of_a_ring_is_that_of_the_angle_along_it():
    line = jnp.linspace(-3.0, 3.0, 301)
    z = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    density = jnp.exp(log_density_in_place(dist.VonMises(3.0, 2.0), z)) * (line[1] - line[0]) ** 2
    np.testing.assert_allclose(jnp.sum(density), 1.0, atol=1e-4)
    angle = jnp.arctan2(z[:, 1], z[:, 0])
    mean = jax.scipy.special.i1(2.0) / jax.scipy.special.i0(2.0)
    np.testing.assert_allclose(density @ jnp.cos(angle - 3.0), mean, atol=1e-4)
    np.testing.assert_allclose(density @ jnp.sum(z**2, 1), 1.0, atol=1e-4)


def walk(y):
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def transition(x, y):
        moves = dist.Normal(x, jnp.stack([q, 3.0]))
        x = numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([0.8, 0.2])), moves))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, x

    scan(transition, 100.0, y)


@pytest.mark.slow
def test_laws_count_as_prior_and_all_of_it_is_the_density_of_the_model():
    y = jnp.array([100.3, 100.0, 103.0])
    ssm = ssmscan.trace(walk, y)

    @jax.jit
    def evaluated(key):
        start = posterior.Position({"q": jnp.asarray(-0.5)}, posterior.start_noise(key, ssm, {"q": jnp.asarray(-0.5)}))
        drawn = posterior.sample_reference(key, ssm)
        parts = posterior.log_reference(ssm, start), posterior.log_likelihood(ssm, start)
        return start, drawn, parts, posterior.log_posterior(ssm, start)

    start, drawn, (reference, likelihood), whole = evaluated(KEY)
    q, x = np.exp(-0.5), np.asarray(start.noise["x"])
    np.testing.assert_allclose(likelihood, stats.norm.logpdf(y, x, 0.5).sum(), rtol=1e-4)
    np.testing.assert_allclose(reference + likelihood, whole, rtol=1e-5)
    values = {"q": jnp.asarray(q), "x": jnp.asarray(x)}
    original = log_density(handlers.substitute(walk, values), (y,), {}, {})[0]
    np.testing.assert_allclose(whole, original - 0.5, rtol=1e-5)  # and log |dq / dz|
    assert np.all(np.abs(x - 100.0) < 10.0)
    assert np.all(np.abs(drawn.noise["x"] - 100.0) < 30.0)


FEW = {"angle", "direction", "mixture", "heavy vector", "heavy jump", "factor of correlations"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in FEW else pytest.mark.heavy) for name in FAMILIES]
)
def test_draws_in_place_have_the_density_in_place(name):
    """Of draws in a box B, the mean of 1_B(z) / density(z) is the volume of B.

    So the value and its volume are right together.
    """
    fn = FAMILIES[name]()
    place = gradient_map(fn)
    assert isinstance(place, InPlace)

    @jax.jit
    def drawn(key):
        z = jax.vmap(lambda k: place.draw(k, fn))(jax.random.split(key, NUM_DRAWS))
        value, density = jax.vmap(lambda e: (place.apply(fn, e), place.log_density(fn, e)))(z)
        return z.reshape(NUM_DRAWS, -1), value, density

    z, value, log_density = map(np.asarray, drawn(KEY))
    assert z.shape[1] == np.prod(place.spec.shape)
    assert value.shape == (NUM_DRAWS, *fn.shape())
    assert np.all(fn.support(value[:100]))
    low, high = np.quantile(z[::2], [0.2, 0.8], axis=0)  # of every second draw; the others are counted
    inside = np.all((low < z) & (z < high), axis=1)[1::2]
    counted = np.where(inside, np.exp(-log_density[1::2], where=inside, out=np.zeros(inside.shape)), 0.0)
    counted = counted / np.prod(high - low)
    error = counted.std() / np.sqrt(len(counted))
    assert error < 0.1
    assert abs(counted.mean() - 1) < z_threshold(len(FAMILIES)) * error


@pytest.mark.parametrize(
    "fn",
    [
        dist.Bernoulli(0.3),
        dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Poisson(jnp.array([1.0, 5.0]))),
        dist.MixtureGeneral(
            dist.Categorical(jnp.ones(2) / 2),
            [dist.Delta(0.0), dist.Normal(0.0, 1.0)],
            support=constraints.real,
        ),
        dist.HurdleGamma(gate=0.3, concentration=1.0, rate=1.0),
        dist.RightCensoredDistribution(dist.Exponential(1.0), jnp.array(1)),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_integers_and_families_with_atoms_are_not_moved(fn):
    assert gradient_map(fn) is None


def test_a_projected_normal_is_a_function_of_normals():
    fn = dist.ProjectedNormal(jnp.array([1.0, -2.0]))
    place = gradient_map(fn)
    assert place.kind is MapKind.EXACT
    eps = jax.random.normal(KEY, place.spec.shape)
    direction = fn.concentration + eps
    np.testing.assert_allclose(place.apply(fn, eps), direction / np.linalg.norm(direction), rtol=1e-6)


def test_what_stands_for_a_draw_is_in_the_support():
    for support, event in (
        (constraints.positive, ()),
        (constraints.greater_than(3.0), (2,)),
        (constraints.simplex, (3,)),
    ):
        fn = dist.ImproperUniform(support, (), event)
        assert not has_sampler(fn)
        assert np.all(fn.support(draw(KEY, fn)))
    with numpyro.validation_enabled():
        assert has_sampler(dist.Normal(0.0, 1.0))
