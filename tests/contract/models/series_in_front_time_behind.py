"""Several series with a common drift, written with the series in plate -2 and time in plate -1, the newest first; some
values are missing (NaN).

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(y, seen=None):
    M, T = y.shape
    phi = numpyro.sample("phi", dist.Uniform(0.5, 1.0))
    q = numpyro.sample("q", dist.HalfNormal(0.5))
    with numpyro.plate("series_level", M):
        level = numpyro.sample("level", dist.Normal(0.0, 1.0))

    def step(x, _):
        with numpyro.plate("series_step", M):
            x = numpyro.sample("x", dist.Normal(phi * x, q))
        return x, x

    _, path = scan(step, jnp.zeros(M), None, length=T)
    mean = level[:, None] + jnp.swapaxes(path, 0, 1)[:, ::-1]
    with numpyro.plate("series", M, dim=-2), numpyro.plate("time", T, dim=-1):
        numpyro.sample("y", dist.Normal(mean, 0.4).mask(True if seen is None else seen), obs=y)


_y = np.random.default_rng(32).normal(size=(3, 8))
_y[1, 2:4] = np.nan
model_args = (jnp.asarray(_y),)
model_kwargs = {}
OBS = ["y"]
LATENT_IN_SCAN = ["x"]
# NumPyro's own density has no missing values.
independent_args = (jnp.where(jnp.isnan(_y), 0.0, _y), ~jnp.isnan(_y))
