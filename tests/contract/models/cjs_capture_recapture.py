"""Cormack-Jolly-Seber: discrete alive state per animal (plate inside), boolean mask carried in the state, clamp_probs,
y both observed and used to update the carry. Pattern: examples/capture_recapture.py model_1.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan


def model(H):
    N, T = H.shape
    phi = numpyro.sample("phi", dist.Uniform(0, 1))
    rho = numpyro.sample("rho", dist.Uniform(0, 1))

    def step(carry, y):
        seen, z = carry
        with numpyro.plate("animals", N, dim=-1):
            with handlers.mask(mask=seen):
                z = numpyro.sample(
                    "z",
                    dist.Bernoulli(dist.util.clamp_probs(seen * phi * z + (1 - seen))),
                    infer={"enumerate": "parallel"},
                )
                numpyro.sample("y", dist.Bernoulli(dist.util.clamp_probs(rho * z)), obs=y)
        return (seen | y.astype(bool), z), None

    scan(step, (H[:, 0].astype(bool), jnp.ones(N, dtype=jnp.int32)), jnp.swapaxes(H[:, 1:], 0, 1))


model_args = (jnp.asarray(np.random.default_rng(8).integers(0, 2, size=(10, 6))),)
model_kwargs = {}
NEEDS_FUNSOR = True
OBS = ["y"]
LATENT_IN_SCAN = ["z"]
