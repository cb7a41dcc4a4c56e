"""Scan as a likelihood loop with no state (carry None): per-step observed site under a plate with a masked mixture
likelihood, y by condition. Pattern: pybefit temporal_rev_learn mixture_model, forum 4436. (The original uses masked
Categorical components; numpyro 0.22 rejects both MaskedDistribution and Categorical inside MixtureSameFamily, so
Normal components with the mask outside.)

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan


def model(L, mask, y=None):
    T, N, M = L.shape
    g = numpyro.sample("g", dist.InverseGamma(2.0, 2.0).expand([N]))
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)).expand([N]))

    def step(carry, t):
        comp = dist.Normal(L[t][:, :2], g[:, None])
        with numpyro.plate("subject", N):
            numpyro.sample("y", dist.MixtureSameFamily(dist.CategoricalProbs(w), comp).mask(mask[t]))
        return None, None

    with handlers.condition(data={"y": y}):
        scan(step, None, jnp.arange(T))


_r = np.random.default_rng(26)
model_args = (jnp.asarray(_r.normal(size=(6, 3, 4))), jnp.asarray(_r.random((6, 3)) > 0.2))
model_kwargs = dict(y=jnp.asarray(_r.normal(size=(6, 3))))
simulate_args, simulate_kwargs = model_args, {}
OBS = ["y"]
LATENT_IN_SCAN = []
