"""Renewal model of an epidemic: the log of the reproduction number is a random walk by `cumsum` of innovations in a
plate, infections follow by a NumPyro scan that draws nothing and observes cases in the loop; a deterministic of the
innovations before it; cases are conditioned, a forecast runs the loop for longer.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan

GENERATION = jnp.array([0.2, 0.5, 0.3])


def model(cases, future=0):
    steps = cases.shape[0] + future
    log_r0 = numpyro.sample("log_r0", dist.Normal(0.2, 0.2))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("steps", steps):
        innovations = numpyro.sample("innovations", dist.Normal(0.0, 1.0))
    log_r = numpyro.deterministic("log_r", log_r0 + jnp.cumsum(0.1 * tau * innovations))

    def renew(window, log_r):
        new = jnp.exp(log_r) * jnp.dot(window, GENERATION)
        numpyro.sample("cases", dist.Poisson(new + 0.1))
        return jnp.concatenate([new[None], window[:-1]]), new

    with handlers.condition(data={"cases": cases}):
        _, infections = scan(renew, jnp.array([8.0, 7.0, 6.0]), log_r)
    numpyro.deterministic("infections", infections)


model_args = (jnp.asarray(np.random.default_rng(23).poisson(9.0, size=10)),)
model_kwargs = {}
predict_kwargs = {"future": 3}
OBS = ["cases"]
LATENT_IN_SCAN = ["innovations"]
