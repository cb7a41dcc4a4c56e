"""A latent level, and a second scan that steps through the observations by their own time, reads the level at the time
of the observation and at the same season, and keeps an average of the data in its carry.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(times, y):
    q = numpyro.sample("q", dist.HalfNormal(0.5))
    r = numpyro.sample("r", dist.HalfNormal(0.5))
    season = numpyro.sample("season", dist.Normal(0.0, 1.0).expand([4]).to_event(1))

    def move(x, _):
        x = numpyro.sample("x", dist.Normal(x, q))
        return x, x

    _, level = scan(move, 0.0, None, length=10)

    def observe(mean, inputs):
        t, yt = inputs
        numpyro.sample("y", dist.Normal(level[t] + season[t % 4] + 0.2 * mean, r), obs=yt)
        return 0.5 * mean + 0.5 * yt, None

    scan(observe, 0.0, (times, y))


_r = np.random.default_rng(33)
model_args = (jnp.array([0, 1, 3, 4, 4, 6, 9]), jnp.asarray(_r.normal(size=7)))
model_kwargs = {}
OBS = ["y"]
LATENT_IN_SCAN = ["x"]
