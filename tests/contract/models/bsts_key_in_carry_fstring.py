"""BSTS with a raw PRNG key in the carry, explicit rng_key= at the observed site, three f-string site names from the
traced index, lax.cond choosing data or mean as obs.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from numpyro.contrib.control_flow import scan


def model(y, period=6, order=1, future=0):
    T = y.shape[0]
    sl = numpyro.sample("sl", dist.HalfCauchy(0.5))
    ss = numpyro.sample("ss", dist.HalfCauchy(0.2))
    nu = numpyro.sample("nu", dist.Uniform(2, 20))
    sd = numpyro.sample("sd", dist.HalfCauchy(1.0))
    l0 = numpyro.sample("l0", dist.Normal(y[0], 3.0))
    b0 = numpyro.sample("b0", dist.Normal(0, 1))
    A = jnp.array([numpyro.sample(f"A_{k}", dist.Normal(0, 1)) for k in range(order)])

    def step(carry, t):
        l, b, key = carry
        key, sub = random.split(key)
        nl = l + b + numpyro.sample(f"le_{t}", dist.Normal(0, sl))
        nb = b + numpyro.sample(f"be_{t}", dist.Normal(0, ss))
        m = l + jnp.sum(A * jnp.sin(2 * jnp.pi * jnp.arange(1, order + 1) * t / period))
        yt = lax.cond(t < T, lambda _: y[t], lambda _: m, operand=None)
        o = numpyro.sample(f"y_{t}", dist.StudentT(nu, m, sd), obs=yt, rng_key=sub)
        return (nl, nb, key), o

    _, ys = scan(step, (l0, b0, random.PRNGKey(0)), jnp.arange(T + future))
    if future > 0:
        numpyro.deterministic("forecast", ys[-future:])


model_args = (jnp.asarray(np.random.default_rng(22).normal(size=12)),)
model_kwargs = {}
predict_kwargs = dict(future=3)
OBS = ["y_*"]
LATENT_IN_SCAN = ["le_*", "be_*"]
