"""AR(2) by `jax.lax.scan` over innovations drawn before it with a leading time axis, the first two of which start the
series; a helper under `jax.jit`; heavy-tailed data observed after it.

The structure follows public practice; code and data are our own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


@jax.jit
def autoregression(phi1, phi2, start, innovations):
    def step(carry, e):
        before, last = carry
        new = phi1 * last + phi2 * before + e
        return (last, new), new

    return jax.lax.scan(step, (jnp.zeros(()), start), innovations)[1]


def model(y):
    phi1 = numpyro.sample("phi1", dist.Normal(0.6, 0.2))
    phi2 = numpyro.sample("phi2", dist.Normal(0.1, 0.1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([y.shape[0]]).to_event(1))
    start = 2.0 * z[0]
    path = jnp.concatenate([start[None], autoregression(phi1, phi2, start, sigma * z[1:])])
    numpyro.sample("y", dist.StudentT(4.0, path, 1.0), obs=y)


model_args = (np.random.default_rng(22).normal(size=10).cumsum() * 0.5,)
model_kwargs = {}
OBS = ["y"]
LATENT_IN_SCAN = ["z"]
