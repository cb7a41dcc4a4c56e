"""Linear Gaussian SSM, y rides as xs (or None plus length for simulation), x0 sampled before. Pattern: scan docstring,
most blog local-level models.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(y=None, T=10):
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    r = numpyro.sample("r", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x_0", dist.Normal(0, 1))

    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, q))
        yt = numpyro.sample("y", dist.Normal(x, r), obs=yt)
        return x, (x, yt)

    _, (xs, ys) = scan(step, x0, y, length=T)
    return xs, ys


model_args = (jnp.asarray(np.cumsum(np.random.default_rng(4).normal(size=12))),)
model_kwargs = dict(T=12)
simulate_args, simulate_kwargs = (None,), dict(T=12)
OBS = ["y"]
LATENT_IN_SCAN = ["x"]
