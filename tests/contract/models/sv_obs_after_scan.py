"""Stochastic volatility: latent log-vol inside scan (dummy zeros xs, 1-tuple carry, stationary h_0 prior), returns
observed AFTER the scan on the stacked output through a deterministic.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def log_vol(T):
    phi = 2 * numpyro.sample("phi_raw", dist.Beta(5.0, 1.5)) - 1
    s2 = numpyro.sample("s2", dist.Gamma(2.0, 4.0))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    h0 = numpyro.sample("h_0", dist.Normal(mu, jnp.sqrt(s2 / (1 - phi**2))))

    def step(c, _):
        (h,) = c
        h = numpyro.sample("h", dist.Normal(mu + phi * (h - mu), jnp.sqrt(s2)))
        return (h,), h

    _, h = scan(step, (h0,), jnp.zeros(T))
    return numpyro.deterministic("sigma2", jnp.exp(h))


def model(r):
    v = log_vol(r.shape[0])
    numpyro.sample("r", dist.Normal(0.0, jnp.sqrt(v)), obs=r)


model_args = (jnp.asarray(np.random.default_rng(10).normal(size=15)),)
model_kwargs = {}
OBS = ["r"]
LATENT_IN_SCAN = ["h"]
OBS_AFTER_SCAN = True
