"""Markov-switching autoregression of order two (Hamilton): the density of a step needs the regimes of the last three
steps, kept in an array that is shifted by concatenate; lagged observations in another. A longer loop forecasts.

The structure follows public practice; code and data are our own.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(y, future=0):
    stay = numpyro.sample("stay", dist.Beta(8.0, 2.0).expand([2]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(jnp.array([-1.0, 1.0]), 1.0).to_event(1))
    phi = numpyro.sample("phi", dist.Normal(0.0, 0.3).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))

    def step(carry, _):
        regimes, lags = carry
        up = jnp.where(regimes[0] == 1, stay[1], 1.0 - stay[0])
        s = numpyro.sample("s", dist.Bernoulli(probs=up))
        mean = mu[s] + jnp.sum(phi * (lags - mu[regimes]))
        yt = numpyro.sample("y", dist.Normal(mean, sigma))
        regimes = jnp.concatenate([jnp.array([s]), regimes[:-1]])
        lags = jnp.concatenate([jnp.array([yt]), lags[:-1]])
        return (regimes, lags), None

    with numpyro.handlers.condition(data={"y": y}):
        scan(step, (jnp.zeros(2, dtype=int), jnp.zeros(2)), jnp.arange(len(y) + future))


model_args = (0.8 * jax.random.normal(jax.random.key(4), (10,)) + jnp.repeat(jnp.array([-1.0, 1.0]), 5),)
model_kwargs = {}
THETA = {
    "stay": jnp.array([0.7, 0.9]),
    "mu": jnp.array([-1.0, 0.8]),
    "phi": jnp.array([0.4, -0.2]),
    "sigma": jnp.array(0.7),
}
predict_kwargs = {"future": 4}
OBS = ["y"]
LATENT_IN_SCAN = ["s"]
