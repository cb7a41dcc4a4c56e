"""Bayesian change points: an integer counts the segments so far, up to the number that the model has; each segment has
a rate. The carry is one float array, segment and time since the last change, as stacked states often are.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

SEGMENTS = 3


def model(counts):
    p = numpyro.sample("p", dist.Beta(1.0, 5.0))
    log_rates = numpyro.sample("log_rates", dist.Normal(1.0, 1.0).expand([SEGMENTS]).to_event(1))

    def step(state, y):
        segment, quiet = state[0], state[1]
        # No two changes within two steps.
        allowed = jnp.where((segment < SEGMENTS - 1) & (quiet >= 2), p, 0.0)
        change = numpyro.sample("change", dist.Bernoulli(allowed))
        segment = segment + change
        quiet = jnp.where(change == 1, 0.0, jnp.clip(quiet + 1.0, 0.0, 2.0))
        numpyro.sample("y", dist.Poisson(jnp.exp(log_rates[segment.astype(jnp.int32)])), obs=y)
        return jnp.stack([segment, quiet]), segment

    scan(step, jnp.array([0.0, 2.0]), counts)


model_args = (jnp.asarray([2, 3, 1, 2, 9, 8, 11, 10, 4, 3, 5, 4]),)
model_kwargs = {}
THETA = {"p": jnp.array(0.2), "log_rates": jnp.array([0.7, 2.2, 1.4])}
OBS = ["y"]
LATENT_IN_SCAN = ["change"]
