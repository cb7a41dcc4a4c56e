"""Matrix LGSSM with batch dimension but no plate, 1-tuple carry with star unpacking, y through condition, arange(T +
future). Pattern: rnagumo/numpyro_example kalman_filter_multi.py.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan


def model(y=None, T=0, B=1, D=1, K=2, future=0):
    if y is not None:
        T, B, D = y.shape
    F = numpyro.sample("F", dist.Normal(jnp.zeros((K, K)), 0.4))
    H = numpyro.sample("H", dist.Normal(jnp.zeros((K, D)), jnp.ones((K, D))))
    zs = numpyro.sample("zs", dist.Gamma(2 * jnp.ones(K), 2 * jnp.ones(K)))
    ys = numpyro.sample("ys", dist.Gamma(2 * jnp.ones(D), 2 * jnp.ones(D)))

    def step(carry, t):
        z, *_ = carry
        z = numpyro.sample("z", dist.Normal(jnp.matmul(z, F), zs))
        numpyro.sample("y", dist.Normal(jnp.matmul(z, H), ys))
        return (z,), None

    with handlers.condition(data={"y": y}):
        scan(step, (jnp.zeros((B, K)),), jnp.arange(T + future))


model_args = (jnp.asarray(np.random.default_rng(5).normal(size=(10, 2, 1))),)
model_kwargs = {}
predict_kwargs = dict(future=3)
simulate_args, simulate_kwargs = (), dict(T=10, B=2, D=1)
OBS = ["y"]
LATENT_IN_SCAN = ["z"]
