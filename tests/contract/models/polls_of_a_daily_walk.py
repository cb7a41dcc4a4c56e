"""Daily support as a random walk on the logit scale, polls on the days they ended with an effect of the pollster, a
tracker every fourth day, and the election itself on the last day.

The structure follows public practice; code and data are our own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

ELECTION = 0.53
TRACKED = np.array([True, False, False, False] * 3)


def model(day, pollster, size, yes, tracker):
    scale = numpyro.sample("scale", dist.HalfNormal(0.2))
    with numpyro.plate("pollsters", 3):
        house = numpyro.sample("house", dist.Normal(0.0, 0.1))
    start = numpyro.sample("start", dist.Normal(0.0, 0.5))

    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, scale))
        return x, x

    _, support = scan(step, start, None, length=12)
    numpyro.sample("yes", dist.Binomial(size, logits=jnp.take(support, day) + house[pollster]), obs=yes)
    share = numpyro.deterministic("share", jax.nn.sigmoid(support))
    numpyro.sample("tracker", dist.Normal(share[TRACKED], 0.1).to_event(1), obs=tracker)
    numpyro.sample("election", dist.Normal(share[-1], 0.05), obs=ELECTION)


model_args = (
    jnp.array([2, 2, 5, 8, 10]),
    jnp.array([0, 1, 2, 0, 1]),
    jnp.array([50, 40, 60, 50, 45]),
    jnp.array([26, 19, 32, 27, 23]),
    jnp.array([0.5, 0.52, 0.49]),
)
model_kwargs = {}
OBS = ["yes", "tracker", "election"]
LATENT_IN_SCAN = ["x"]
