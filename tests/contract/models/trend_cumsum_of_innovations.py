"""Local linear trend in its non-centred form: standard normal innovations drawn at once in a plate over time, level
and slope as cumulative sums of them, all data observed after them.  No loop that NumPyro sees; a forecast by a longer
plate.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y, future=0):
    n = y.shape[0]
    sigma_level = numpyro.sample("sigma_level", dist.HalfNormal(1.0))
    sigma_slope = numpyro.sample("sigma_slope", dist.HalfNormal(0.2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    level0 = numpyro.sample("level0", dist.Normal(0.0, 2.0))
    with numpyro.plate("time", n + future):
        z_level = numpyro.sample("z_level", dist.Normal(0.0, 1.0))
        z_slope = numpyro.sample("z_slope", dist.Normal(0.0, 1.0))
    slope = jnp.cumsum(sigma_slope * z_slope)
    level = numpyro.deterministic("level", level0 + jnp.cumsum(sigma_level * z_level + slope))
    with numpyro.plate("observed", n):
        numpyro.sample("y", dist.Normal(level[:n], sigma), obs=y)
    if future:
        numpyro.sample("y_future", dist.Normal(level[n:], sigma))


model_args = (np.random.default_rng(21).normal(size=12).cumsum(),)
model_kwargs = {}
predict_kwargs = {"future": 4}
OBS = ["y"]
LATENT_IN_SCAN = ["z_level", "z_slope"]
GAUSSIAN = True
