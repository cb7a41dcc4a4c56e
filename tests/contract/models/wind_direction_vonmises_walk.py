"""Wind direction as a walk on the circle, observed by a vane: von Mises states and observations, as in directional
filtering tutorials; a start that is nearly uniform, angles that pass from pi to -pi.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(angles=None, T=None):
    turn = numpyro.sample("turn", dist.Normal(0.0, 0.5))
    kappa = numpyro.sample("kappa", dist.Gamma(20.0, 2.0))
    kappa_obs = numpyro.sample("kappa_obs", dist.Gamma(10.0, 2.0))
    x_0 = numpyro.sample("x_0", dist.VonMises(3.0, 0.5))

    def transition(x, angle):
        x = numpyro.sample("x", dist.VonMises(x + turn, kappa))
        numpyro.sample("angle", dist.VonMises(x, kappa_obs), obs=angle)
        return x, x

    _, path = scan(transition, x_0, angles, length=T)
    numpyro.deterministic("north", jnp.cos(path))


_walk = 3.0 + np.cumsum(0.3 + 0.3 * np.random.default_rng(51).normal(size=10))
model_args = (jnp.asarray((_walk + np.pi) % (2 * np.pi) - np.pi, jnp.float32),)
model_kwargs = {}
simulate_args = ()
simulate_kwargs = {"T": 6}
OBS = ["angle"]
LATENT_IN_SCAN = ["x"]
