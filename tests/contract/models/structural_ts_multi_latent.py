"""Structural series: level + rolling seasonal vector (at[].set) + trend pair + drifting regression weights; 4-tuple
carry, four latent sites, covariates indexed by t through the closure, y conditioned. Pattern: rnagumo
seasonal_ssm.py.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan


def model(X, y=None, period=4):
    T, C = X.shape
    R = jnp.eye(period - 1, k=-1).at[0].add(-1.0)
    sv = numpyro.sample("sv", dist.LogNormal(-2, 0.5))
    tv = numpyro.sample("tv", dist.LogNormal(jnp.array([-2.0, -3.0]), 0.5))
    wv = numpyro.sample("wv", dist.LogNormal(-3 * jnp.ones(C), 0.5))
    lv = numpyro.sample("lv", dist.HalfNormal(0.3))
    sd = numpyro.sample("sd", dist.LogNormal(-1, 0.5))
    M = jnp.array([[1.0, 1.0], [0.0, 1.0]])

    def step(carry, t):
        lev, seas, tr, wt = carry
        lev = numpyro.sample("lev", dist.Normal(lev, lv))
        rot = R @ seas
        s0 = numpyro.sample("seas0", dist.Normal(rot[0], sv))
        seas = rot.at[0].set(s0)
        tr = numpyro.sample("tr", dist.Normal(M @ tr, tv))
        wt = numpyro.sample("wt", dist.Normal(wt, wv))
        numpyro.sample("y", dist.Normal(lev + s0 + tr[0] + X[t] @ wt, sd))
        return (lev, seas, tr, wt), None

    with handlers.condition(data={"y": y}):
        scan(step, (jnp.zeros(()), jnp.zeros(period - 1), jnp.zeros(2), jnp.zeros(C)), jnp.arange(T))


_r = np.random.default_rng(6)
model_args = (jnp.asarray(_r.normal(size=(12, 2))), jnp.asarray(_r.normal(size=12)))
model_kwargs = {}
simulate_args, simulate_kwargs = (model_args[0],), {}
OBS = ["y"]
LATENT_IN_SCAN = ["lev", "seas0", "tr", "wt"]
