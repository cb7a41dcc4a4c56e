"""What is drawn and not inferred: sites after the loop that nothing observed depends on; families without a sampler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import ssmscan
from tests.truth import z_threshold

pytestmark = pytest.mark.slow

Y = np.random.default_rng(2).normal(size=6)


def late(y=None, steps=6):
    """Observed after the loop, or simulated; and a total that is drawn in any case."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, q))
        return x, x

    _, x = scan(step, 0.0, None, length=steps)
    r = numpyro.sample("r", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(x, r), obs=y)
    total = numpyro.sample("total", dist.Normal(x.sum(), 0.5))
    numpyro.sample("above", dist.Bernoulli(jax.nn.sigmoid(total)))


def test_the_same_function_without_data_is_simulated():
    ssm = ssmscan.trace(late)
    assert [site.name for site in ssm.parameters] == ["q", "r"] and not ssm.observations
    assert "nothing observed depends on it" in repr(ssm) and ssm.check(jax.random.key(0)).passed
    draw = jax.jit(jax.vmap(lambda key: ssm.simulate(key, {"q": 0.5, "r": 0.3})))
    drawn = draw(jax.random.split(jax.random.key(0), 4000))
    assert drawn["y"].shape == (4000, 6) and drawn["total"].shape == (4000,)
    # At step t the variance of y is t q^2 + r^2; the total keeps to the states that were drawn.
    ratio = drawn["y"].var(0) / (0.25 * np.arange(1, 7) + 0.09) - 1
    assert np.abs(ratio).max() < z_threshold(9) * np.sqrt(2 / 4000)
    rest = np.asarray(drawn["total"] - drawn["x"].sum(1), float)
    assert abs(rest.var() / 0.25 - 1) < z_threshold(9) * np.sqrt(2 / 4000)
    assert abs(np.corrcoef(rest, drawn["y"][:, -1])[0, 1]) < z_threshold(9) / np.sqrt(4000)


def test_a_draw_after_the_data_is_predicted():
    ssm = ssmscan.trace(late, Y)
    assert [site.name for site in ssm.observations] == ["y"] and ssm.check(jax.random.key(1)).passed
    theta = {"q": 0.5, "r": 0.3}
    predicted = jax.vmap(lambda key: ssm.predict(key, theta, {"x": jnp.asarray(Y)}))(
        jax.random.split(jax.random.key(0), 2000)
    )
    z = (np.asarray(predicted["total"], float).mean() - Y.sum()) / (0.5 / np.sqrt(2000))
    assert abs(z) < z_threshold() and set(np.unique(predicted["above"])) == {0, 1}


def test_what_an_observation_depends_on_is_refused():
    def model(y):
        _, x = scan(lambda x, _: (numpyro.sample("x", dist.Normal(x, 1.0)),) * 2, 0.0, None, length=6)
        noise = numpyro.sample("late", dist.Normal(x[-1], 1.0))
        numpyro.sample("end", dist.Normal(noise, 1.0), obs=y)

    with pytest.raises(ssmscan.ModelError, match="'late' is drawn after the loop and depends on the states"):
        ssmscan.trace(model, 0.3)


class Tilted(dist.Distribution):
    """A density without a sampler."""

    support = constraints.real
    pytree_data_fields = ("loc",)

    def __init__(self, loc):
        self.loc = loc
        super().__init__(jnp.shape(loc), ())

    def log_prob(self, value):
        return dist.Normal(self.loc, 1.0).log_prob(value)


def custom(y, family=Tilted):
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0, 1))
    numpyro.sample("first", family(x0), obs=0.1)

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", family(x), obs=y)
        return x, x

    _, path = scan(step, x0, y)
    numpyro.sample("again", family(path), obs=y)


def test_an_observed_family_needs_no_sampler():
    ssm, usual = ssmscan.trace(custom, Y), ssmscan.trace(custom, Y, family=lambda loc: dist.Normal(loc, 1.0))
    assert ssm.check(jax.random.key(0)).passed
    found = [ssmscan.log_likelihood(jax.random.key(0), m, {"q": 0.7}, num_particles=100) for m in (ssm, usual)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert set(ssm.simulate(jax.random.key(0), {"q": 0.7})) == {"x0", "x"}
