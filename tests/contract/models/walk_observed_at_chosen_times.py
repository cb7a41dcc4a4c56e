"""A random walk with observations at the times that come with them, several at some and none at others, in any order:
Stan's `y[n] ~ normal(x[t_obs[n]], sigma)`.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(T, t_obs, y=None):
    drift = numpyro.sample("drift", dist.Normal(0.0, 0.3))
    q = numpyro.sample("q", dist.HalfNormal(0.5))
    r = numpyro.sample("r", dist.HalfNormal(0.5))
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x + drift, q))
        return x, x

    _, path = scan(step, x0, None, length=T - 1)
    path = jnp.concatenate([x0[None], path])
    with numpyro.plate("obs", len(t_obs)):
        numpyro.sample("y", dist.Normal(path[t_obs], r), obs=y)


model_args = (12, jnp.array([9, 0, 3, 3, 10, 7, 3, 1]), jnp.array([1.1, 0.2, 0.6, 0.4, 1.3, 0.9, 0.1, 0.3]))
model_kwargs = {}
OBS = ["y"]
LATENT_IN_SCAN = ["x"]
