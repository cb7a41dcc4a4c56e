"""Log consumption with skewed shocks, the skew normal being a class of the user's own with a log_prob and a sampler.

The structure follows public practice; code and data are our own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.stats import norm
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.distributions.util import promote_shapes


class SkewNormal(dist.Distribution):
    """Location xi, scale omega, shape alpha; Azzalini 1985."""

    arg_constraints = {"xi": constraints.real, "omega": constraints.positive, "alpha": constraints.real}
    support = constraints.real
    reparametrized_params = ["xi", "omega", "alpha"]

    def __init__(self, xi, omega, alpha, *, validate_args=None):
        self.xi, self.omega, self.alpha = promote_shapes(xi, omega, alpha)
        shape = jax.lax.broadcast_shapes(jnp.shape(xi), jnp.shape(omega), jnp.shape(alpha))
        super().__init__(batch_shape=shape, validate_args=validate_args)

    def sample(self, key, sample_shape=()):
        shape = sample_shape + self.batch_shape
        near, far = jax.random.normal(key, (2, *shape))
        delta = self.alpha / jnp.sqrt(1 + self.alpha**2)
        return self.xi + self.omega * (delta * jnp.abs(near) + jnp.sqrt(1 - delta**2) * far)

    def log_prob(self, value):
        z = (value - self.xi) / self.omega
        return jnp.log(2.0) - jnp.log(self.omega) + norm.logpdf(z) + norm.logcdf(self.alpha * z)


def model(c):
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 3.0))
    omega = numpyro.sample("omega", dist.HalfNormal(0.5))
    phi = numpyro.sample("phi", dist.Beta(8.0, 2.0))

    def transition(x, c_t):
        x = numpyro.sample("x", SkewNormal(phi * x, omega, alpha))
        numpyro.sample("c", dist.Normal(x, 0.4), obs=c_t)
        return x, x

    scan(transition, 0.0, c)


model_args = (jnp.asarray(0.5 * np.random.default_rng(56).gumbel(size=5), jnp.float32),)
model_kwargs = {}
OBS = ["c"]
LATENT_IN_SCAN = ["x"]
