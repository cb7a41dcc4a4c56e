"""Stand-ins of counts: the mean at noise zero, the spread of the law, inside the support, with finite derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from ssmscan.model.noise.in_place import gradient_map
from ssmscan.model.noise.moments import Matched, Transported, stand_in

pytestmark = pytest.mark.slow

WEIGHTS = np.array([0.2, 0.5, 0.3])
# name -> (family of a positive number, numbers, bounds of its support at a number)
COUNTS = {
    "Poisson": (lambda m: dist.Poisson(m), (0.0, 1e-3, 0.3, 40.0), lambda m: (0.0, np.inf)),
    "Binomial": (lambda n: dist.Binomial(n, 0.3), (0.0, 1e-3, 0.3, 80.0), lambda n: (0.0, n)),
    "Binomial, sure": (lambda p: dist.Binomial(9.0, p), (0.0, 1e-6, 0.999, 1.0), lambda p: (0.0, 9.0)),
    "BetaBinomial": (lambda n: dist.BetaBinomial(20.0, 30.0, n), (0.0, 0.5, 60.0), lambda n: (0.0, n)),
    "GammaPoisson": (lambda m: dist.NegativeBinomial2(m, 30.0), (1e-3, 0.1, 50.0), lambda m: (0.0, np.inf)),
    "ZeroInflated": (lambda m: dist.ZeroInflatedPoisson(0.1, m), (0.0, 0.2, 30.0), lambda m: (0.0, np.inf)),
    "Multinomial": (lambda n: dist.Multinomial(n, WEIGHTS), (0.0, 0.5, 500.0), lambda n: (0.0, n)),
    "DirichletMultinomial": (
        lambda n: dist.DirichletMultinomial(100.0 * WEIGHTS, n),
        (0.0, 0.5, 500.0),
        lambda n: (0.0, n),
    ),
}


@pytest.fixture(scope="module")
def mapped():
    """By family and for all its numbers: moments of the law, the map at zero and at many noises, and derivatives."""

    def one(make, number):
        fn = make(number)
        stand = stand_in(fn, gradient_map(fn))
        assert isinstance(stand, Matched)
        many = jax.random.normal(jax.random.key(0), (5_000, *stand.spec.shape))
        far = jnp.stack([jnp.zeros(stand.spec.shape) + e for e in (0.0, -1.5, 2.0, -30.0, 30.0)])

        def value(number, e):
            return stand.apply(make(number), e)

        slope = jax.jacfwd(value, (0, 1))
        return {
            "mean": fn.mean,
            "sd": jnp.sqrt(fn.variance),
            "values": jax.vmap(value, (None, 0))(number, many),
            "far": jax.vmap(value, (None, 0))(number, far),
            "derivatives": jax.vmap(lambda e: (slope(number, e), jax.jacfwd(slope, (0, 1))(number, e)))(far[:3]),
        }

    def everything():
        return {n: jax.vmap(lambda x, f=f: one(f, x))(jnp.array(numbers)) for n, (f, numbers, _) in COUNTS.items()}

    with jax.enable_x64(True):
        return jax.device_get(jax.jit(everything)())


@pytest.mark.parametrize("name", COUNTS)
def test_a_stand_in_has_the_mean_at_zero_and_stays_inside_the_support(name, mapped):
    (_, numbers, bounds), found = COUNTS[name], mapped[name]
    np.testing.assert_allclose(found["far"][:, 0], found["mean"], rtol=1e-6, atol=1e-12)
    for derivative in jax.tree.leaves(found["derivatives"]):
        assert np.all(np.isfinite(derivative))
    for number, far in zip(numbers, found["far"]):
        low, high = bounds(number)
        assert np.all(far >= low) and np.all(far <= high * (1 + 1e-12))
        if name.endswith("ultinomial"):
            np.testing.assert_allclose(far.sum(axis=-1), number, rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "Binomial, sure"])
def test_a_stand_in_of_a_large_count_has_the_mean_and_the_covariance_of_the_law(name, mapped):
    mean, sd, values = (mapped[name][entry][-1] for entry in ("mean", "sd", "values"))
    assert np.all(np.abs(values.mean(axis=0) - mean) <= 0.08 * sd)
    np.testing.assert_allclose(values.std(axis=0), sd, rtol=0.05)
    if name.endswith("ultinomial"):
        p, q = WEIGHTS[0], WEIGHTS[1]
        correlation = np.corrcoef(values.T)[0, 1]
        np.testing.assert_allclose(correlation, -np.sqrt(p * q / ((1 - p) * (1 - q))), atol=0.05)


class Thinned(dist.Poisson):
    """A class of the user's whose moments are not those of its base."""

    def sample(self, key, sample_shape=()):
        return super().sample(key, sample_shape) // 2


class Bounded(dist.Distribution):
    """A density alone."""

    support = dist.constraints.unit_interval

    def log_prob(self, value):
        return jnp.log(2 * value)


CHOSEN = {
    "a category": (lambda: dist.Categorical(WEIGHTS), str),
    "a coin": (lambda: dist.Bernoulli(0.3).expand([3]).to_event(1), str),
    "moments of a base class": (lambda: Thinned(3.0), str),
    "a masked count": (lambda: dist.Poisson(jnp.ones(2)).mask(jnp.array([True, False])), Matched),
    "an angle": (lambda: dist.VonMises(0.3, 4.0), Matched),
    "a mixture": (
        lambda: dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Normal(jnp.arange(3.0), 1.0)),
        Matched,
    ),
    "a density": (Bounded, Transported),
    "a normal": (lambda: dist.Normal(0.0, 1.0), type(None)),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_what_stands_for_a_family(name):
    make, kind = CHOSEN[name]
    fn = make()
    assert isinstance(stand_in(fn, gradient_map(fn)), kind)


@pytest.mark.parametrize("concentration", [1e-3, 0.5, 4.0, 1e4])
def test_an_angle_has_the_resultant_of_its_law(concentration):
    fn = dist.VonMises(0.3, concentration)
    e = np.linspace(-8.0, 8.0, 2001)
    angles = np.asarray(stand_in(fn, gradient_map(fn)).apply(fn.expand([2001]), jnp.asarray(e)), float)
    weights = np.exp(-0.5 * e * e) / np.sum(np.exp(-0.5 * e * e))
    resultant = np.sum(weights * np.cos(angles - 0.3))
    # The widest angle that stands for a law is that of a uniform one.
    exact = 1.0 - fn.variance if concentration > 0.4 else np.exp(-(np.pi**2) / 6)
    np.testing.assert_allclose(resultant, exact, rtol=2e-3)
