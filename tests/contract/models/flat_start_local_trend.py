"""A local linear trend with flat priors on the first level and slope (ImproperUniform) and on its noise, as in code
that is translated from Stan, where a parameter without a prior statement is flat; data by condition.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints


def model(y, future=0):
    T = len(y)
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    q = numpyro.sample("q", dist.HalfNormal(0.5))
    level_0 = numpyro.sample("level_0", dist.ImproperUniform(constraints.real, (), ()))
    slope_0 = numpyro.sample("slope_0", dist.ImproperUniform(constraints.real, (), ()))

    def transition(carry, _):
        level, slope = carry
        slope = numpyro.sample("slope", dist.Normal(slope, 0.3 * q))
        level = numpyro.sample("level", dist.Normal(level + slope, q))
        numpyro.sample("y", dist.Normal(level, sigma))
        return (level, slope), level

    with numpyro.handlers.condition(data={"y": y}):
        scan(transition, (level_0, slope_0), None, length=T + future)


_trend = 20.0 + 0.5 * np.arange(12) + 0.3 * np.random.default_rng(55).normal(size=12)
model_args = (jnp.asarray(_trend, jnp.float32),)
model_kwargs = {}
predict_kwargs = {"future": 3}
OBS = ["y"]
LATENT_IN_SCAN = ["level", "slope"]
