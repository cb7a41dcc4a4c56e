"""A level that is quiet on most days and jumps on some: increments from a mixture of two normals, in which the user has
summed the indicator out by MixtureSameFamily; observed with heavy tails.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(y):
    p = numpyro.sample("p", dist.Beta(2.0, 10.0))
    q = numpyro.sample("q", dist.HalfNormal(0.3))
    jump = numpyro.sample("jump", dist.LogNormal(0.5, 0.3))
    level_0 = numpyro.sample("level_0", dist.Normal(0.0, 2.0))

    def transition(level, y_t):
        moves = dist.MixtureSameFamily(
            dist.Categorical(probs=jnp.stack([1.0 - p, p])),
            dist.Normal(level, jnp.stack([q + 0.01, jump])),
        )
        level = numpyro.sample("level", moves)
        numpyro.sample("y", dist.StudentT(5.0, level, 0.5), obs=y_t)
        return level, level

    scan(transition, level_0, y)


_increments = np.where(np.arange(5) == 3, 2.5, 0.1 * np.random.default_rng(52).normal(size=5))
model_args = (jnp.asarray(np.cumsum(_increments) + 0.2 * np.random.default_rng(53).normal(size=5), jnp.float32),)
model_kwargs = {}
OBS = ["y"]
LATENT_IN_SCAN = ["level"]
