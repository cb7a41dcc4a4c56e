"""Layer thicknesses: bounded (Uniform) latents under a plate inside, reshape of the plated draw, matrix carry, xs =
(lower, upper) stacks, Gaussian data after on the cumulative output. Pattern: numpyro issue 1963.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def units(M, N):
    with numpyro.plate("units", M * N):
        u = numpyro.sample("u", dist.Uniform())
    return u.reshape((M, N))


def model(lo, hi, obs=None):
    def step(h, b):
        l, u = b
        th = (l - h) + (u - l) * units(*h.shape)
        return h + th, th

    _, th = scan(step, jnp.zeros_like(hi[0]), (lo, hi))
    numpyro.deterministic("th", th)
    numpyro.sample("obs", dist.Normal(th.sum(0), 0.5).to_event(2), obs=obs)


_r = np.random.default_rng(28)
_lo = np.cumsum(1 + _r.random((3, 2, 2)), 0)
model_args = (jnp.asarray(_lo), jnp.asarray(_lo + 1.0), jnp.asarray(_lo[-1] + 0.5))
model_kwargs = {}
simulate_args, simulate_kwargs = model_args[:2], {}
OBS = ["obs"]
LATENT_IN_SCAN = ["u"]
OBS_AFTER_SCAN = True
