"""AR(2) on data: init carry from data, condition inside model, deterministic site from stacked means. Pattern:
examples/ar2.py.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan


def model(y):
    p1 = numpyro.sample("p1", dist.Normal(0, 0.5))
    p2 = numpyro.sample("p2", dist.Normal(0, 0.5))
    c = numpyro.sample("c", dist.Normal(0, 1))
    s = numpyro.sample("s", dist.HalfNormal(1))

    def step(carry, _):
        last, before = carry
        m = c + p1 * last + p2 * before
        cur = numpyro.sample("cur", dist.Normal(m, s))
        return (cur, last), m

    with handlers.condition(data={"cur": y[2:]}):
        _, ms = scan(step, (y[1], y[0]), jnp.arange(y.shape[0] - 2))
    numpyro.deterministic("ms", ms)


model_args = (jnp.asarray(np.cumsum(np.random.default_rng(2).normal(size=20)) * 0.3),)
model_kwargs = {}
OBS = ["cur"]
LATENT_IN_SCAN = []
