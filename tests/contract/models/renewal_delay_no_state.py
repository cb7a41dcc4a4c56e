"""Infections of a renewal equation with a piecewise reproduction number, computed by scan over a buffer of past
infections, convolved with a delay after the loop, scaled by the day of the week, and observed under a plate.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

GENERATION = np.array([0.2, 0.5, 0.3])
DELAY = np.array([0.1, 0.4, 0.3, 0.2])


def model(counts):
    days = counts.shape[0]
    log_r = numpyro.sample("log_r", dist.Normal(0.1, 0.3).expand([3]).to_event(1))
    seed = numpyro.sample("seed", dist.LogNormal(2.0, 0.5))
    dow = numpyro.sample("dow", dist.Dirichlet(10 * jnp.ones(7)))
    k = numpyro.sample("k", dist.Gamma(4.0, 1.0))
    rt = jnp.exp(jnp.repeat(log_r, -(-days // 3))[:days])

    def renew(recent, r):
        new = r * jnp.dot(recent, GENERATION)
        return jnp.concatenate([new[None], recent[:-1]]), new

    _, infections = scan(renew, jnp.full(3, seed), rt)
    numpyro.deterministic("infections", infections)
    expected = jnp.convolve(jnp.pad(infections, (3, 0), mode="edge"), DELAY, mode="valid")
    expected = expected * 7 * jnp.tile(dow, -(-days // 7))[:days]
    with numpyro.plate("days", days):
        numpyro.sample("counts", dist.NegativeBinomial2(expected, k), obs=counts)


model_args = (jnp.array([5, 9, 7, 12, 14, 10, 9, 15, 20, 18, 16, 22]),)
model_kwargs = {}
OBS = ["counts"]
LATENT_IN_SCAN = []
