"""Positive-valued latents inside (LogNormal multiplicative walk and Gamma-distributed mixing variable), seen in
test_scan_constrain and NKPC/capital-growth style code; y by obs.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(y):
    s = numpyro.sample("s", dist.HalfNormal(0.5))
    c = numpyro.sample("c", dist.Gamma(2.0, 1.0))

    def step(x, yt):
        x = numpyro.sample("x", dist.LogNormal(jnp.log(x), s))
        g = numpyro.sample("g", dist.Gamma(c + 0.5, c + 0.5))
        numpyro.sample("y", dist.Poisson(x * g), obs=yt)
        return x, x

    scan(step, 2.0, y)


model_args = (jnp.asarray(np.random.default_rng(34).poisson(2, size=10)),)
model_kwargs = {}
OBS = ["y"]
LATENT_IN_SCAN = ["x", "g"]
