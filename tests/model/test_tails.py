"""The noise of a value: what the maps take to it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from ssmscan.model.noise.families import MapKind, smooth_map
from tests.model.test_noise import EXACTLY, KEY, TAILS, VECTOR

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["float32", "float64"])
def inverted(request):
    """Values of noise, the noise that the inverse finds, and the values of that."""

    def one(fn, noise_map, noise):
        noise = noise.astype(float)
        value = noise_map.apply(fn, noise)
        again = noise_map.invert(fn, value)
        return value, noise, again, noise_map.apply(fn, again)

    def everything(tails):
        found = {}
        for name, (family, _) in EXACTLY.items():
            found[name] = one(family().expand(tails.shape), smooth_map(family()), tails)
        for name, family in VECTOR.items():
            noise_map = smooth_map(family())
            if noise_map.kind is MapKind.EXACT:
                found[name] = one(family(), noise_map, jax.random.normal(KEY, noise_map.spec.shape))
        return found

    with jax.enable_x64(request.param == "float64"):
        # Primitives are compiled once for all families; one program of all takes half a minute.
        return request.param, everything(jnp.asarray(TAILS))


def test_the_inverse_finds_the_noise_of_a_value(inverted):
    """To rounding in noise near the middle; where a map is flat, to rounding of the value."""
    precision, found = inverted
    tight, near = (2e-3, 2e-5) if precision == "float32" else (1e-9, 1e-12)
    assert len(found) == len(EXACTLY) + 16
    for name, (value, noise, again, back) in found.items():
        assert again.shape == noise.shape, name
        middle = np.abs(noise) < 2.0
        np.testing.assert_allclose(np.asarray(again)[middle], np.asarray(noise)[middle], atol=tight, err_msg=name)
        np.testing.assert_allclose(back, value, rtol=near, atol=near, err_msg=name)


@pytest.mark.parametrize(
    "family",
    [
        lambda: dist.LowRankMultivariateNormal(jnp.zeros(2), jnp.ones((2, 1)), jnp.ones(2)),
        lambda: dist.ProjectedNormal(jnp.ones(2)),
        lambda: dist.Gamma(2.0, 1.0),
        lambda: dist.StudentT(3.0),
    ],
)
def test_what_has_no_inverse_says_so(family):
    fn = family()
    assert smooth_map(fn).invert(fn, smooth_map(fn).apply(fn, jnp.ones(smooth_map(fn).spec.shape))) is None
