"""Several mean-reverting series with series in front and time behind: innovations in two plates, one `jax.lax.scan`
for each series under `jax.vmap`, a matrix of data with series in front.

The structure follows public practice; code and data are our own.
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y):
    series, steps = y.shape
    rho = numpyro.sample("rho", dist.Beta(6.0, 2.0))
    with numpyro.plate("series", series, dim=-2):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("steps", steps, dim=-1):
            eps = numpyro.sample("eps", dist.Normal(0.0, 1.0))

    def one(shocks):
        def step(x, e):
            x = rho * x + e
            return x, x

        return jax.lax.scan(step, 0.0, shocks)[1]

    mean = jax.vmap(one)(scale * eps)
    with numpyro.plate("series", series, dim=-2), numpyro.plate("steps", steps, dim=-1):
        numpyro.sample("y", dist.Normal(mean, 0.7), obs=y)


model_args = (np.random.default_rng(24).normal(size=(3, 8)).cumsum(axis=1),)
model_kwargs = {}
OBS = ["y"]
LATENT_IN_SCAN = ["eps"]
GAUSSIAN = True
