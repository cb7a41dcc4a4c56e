"""Damped trend smoothing of observed sales; after the loop the quarters are compared with totals of another source,
the fitted path with its ranked values, and the forecast from the last carry with an expert's.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(sales, totals, expert):
    alpha = numpyro.sample("alpha", dist.Beta(2.0, 2.0))
    beta = numpyro.sample("beta", dist.Beta(1.0, 4.0))
    phi = numpyro.sample("phi", dist.Beta(8.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    level = numpyro.sample("level", dist.Normal(0.0, 1.0))

    def step(carry, y):
        level, trend = carry
        mean = level + phi * trend
        numpyro.sample("sales", dist.Normal(mean, sigma), obs=y)
        new = mean + alpha * (y - mean)
        return (new, phi * trend + beta * (new - level - phi * trend)), mean

    (level, trend), fitted = scan(step, (level, 0.0), sales)
    numpyro.sample("totals", dist.Normal(fitted.reshape(-1, 3).sum(1), 2 * sigma), obs=totals)
    ahead = level + trend * jnp.cumsum(phi ** jnp.arange(1, 4))
    numpyro.sample("expert", dist.Normal(ahead, 1.0).to_event(1), obs=expert)
    numpyro.sample("top", dist.Normal(jnp.sort(fitted)[-2:].mean() + fitted[-1], 1.0), obs=1.2)


_r = np.random.default_rng(31)
model_args = (jnp.asarray(_r.normal(size=9).cumsum()), jnp.asarray(_r.normal(size=3)), jnp.asarray(_r.normal(size=3)))
model_kwargs = {}
OBS = ["sales", "totals", "expert", "top"]
LATENT_IN_SCAN = []
