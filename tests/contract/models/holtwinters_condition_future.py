"""Single-source-of-error Holt-Winters: no latent inside scan, y via handlers.condition inside the model, closure
indexing y[t] with where(t < T), tuple carry with a rolling season buffer, T + future steps. Pattern: NumPyro
examples/holt_winters.py, SGT tutorial.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan


def model(y, period, future=0):
    T = y.shape[0]
    a = numpyro.sample("a", dist.Beta(2, 2))
    b = numpyro.sample("b", dist.Beta(2, 2))
    g = numpyro.sample("g", dist.Beta(2, 2))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    lev0 = numpyro.sample("lev0", dist.Normal(0, 1))
    tr0 = numpyro.sample("tr0", dist.Normal(0, 0.5))
    with numpyro.plate("period", period):
        s0 = numpyro.sample("s0", dist.Normal(0, 1))

    def step(carry, t):
        lev, tr, seas = carry
        mu = lev + jnp.where(t < T, 1, t - T + 1) * tr + seas[0]
        nlev = jnp.where(t < T, a * (y[t] - seas[0]) + (1 - a) * (lev + tr), lev)
        ntr = jnp.where(t < T, b * (nlev - lev) + (1 - b) * tr, tr)
        ns = jnp.where(t < T, g * (y[t] - lev - tr) + (1 - g) * seas[0], seas[0])
        out = numpyro.sample("out", dist.Normal(mu, sd))
        return (nlev, ntr, jnp.concatenate([seas[1:], ns[None]])), out

    with handlers.condition(data={"out": y}):
        _, outs = scan(step, (lev0, tr0, s0), jnp.arange(T + future))
    if future > 0:
        numpyro.deterministic("forecast", outs[-future:])


_r = np.random.default_rng(1)
_t = np.arange(24)
model_args = (jnp.asarray(np.sin(2 * np.pi * _t / 6) + 0.05 * _t + 0.1 * _r.normal(size=24)), 6)
model_kwargs = dict(future=0)
predict_kwargs = dict(future=4)
OBS = ["out"]
LATENT_IN_SCAN = []
