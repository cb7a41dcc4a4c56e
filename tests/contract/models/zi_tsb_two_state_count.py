"""Zero-inflated TSB: two deterministic states (size, probability), ZeroInflatedNegativeBinomial2 site conditioned, T +
future. Pattern: juanitorduz zi_tsb_numpyro.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan


def model(y, z0, p0, future=0):
    T = y.shape[0]
    az = numpyro.sample("az", dist.Beta(10, 60))
    ap = numpyro.sample("ap", dist.Beta(10, 60))
    k = numpyro.sample("k", dist.HalfNormal(3.0))

    def step(c, t):
        z, p = c
        hit = (y[t] > 0) & (t < T)
        nz = jnp.where(t < T, jnp.where(hit, az * y[t] + (1 - az) * z, z), z)
        npb = jnp.where(t < T, jnp.where(hit, ap + (1 - ap) * p, (1 - ap) * p), p)
        o = numpyro.sample("o", dist.ZeroInflatedNegativeBinomial2(mean=nz, concentration=k + 0.1, gate=1 - npb))
        return (nz, npb), o

    with handlers.condition(data={"o": y}):
        _, os_ = scan(step, (z0, p0), jnp.arange(T + future))
    if future > 0:
        numpyro.deterministic("forecast", os_[-future:])


model_args = (jnp.asarray([0, 2, 0, 0, 3, 1, 0, 0, 4, 0]), 2.0, 0.4)
model_kwargs = {}
predict_kwargs = dict(future=3)
OBS = ["o"]
LATENT_IN_SCAN = []
