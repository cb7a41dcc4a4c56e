"""An animal's track: the heading turns little in one of two behaviours and much in the other, and fixes are noisy; a
hidden Markov chain beside a von Mises state that remembers its past.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(fixes):
    stay = numpyro.sample("stay", dist.Beta(8.0, 2.0).expand([2]).to_event(1))
    kappa = numpyro.sample("kappa", dist.Gamma(jnp.array([2.0, 30.0]), jnp.array([2.0, 2.0])).to_event(1))
    speed = numpyro.sample("speed", dist.LogNormal(0.0, 0.3))
    move = jnp.stack([jnp.stack([stay[0], 1 - stay[0]]), jnp.stack([1 - stay[1], stay[1]])])

    def transition(carry, fix):
        behaviour, heading, before = carry
        behaviour = numpyro.sample("behaviour", dist.Categorical(probs=move[behaviour]))
        heading = numpyro.sample("heading", dist.VonMises(heading, kappa[behaviour]))
        step = speed * jnp.stack([jnp.cos(heading), jnp.sin(heading)])
        numpyro.sample("fix", dist.Normal(before + step, 0.4).to_event(1), obs=fix)
        return (behaviour, heading, fix), heading

    scan(transition, (0, 0.0, jnp.zeros(2)), fixes)


_headings = np.cumsum(np.random.default_rng(57).vonmises(0.0, 3.0, size=8))
_track = np.cumsum(np.stack([np.cos(_headings), np.sin(_headings)], 1), 0)
model_args = (jnp.asarray(_track + 0.3 * np.random.default_rng(58).normal(size=(8, 2)), jnp.float32),)
model_kwargs = {}
OBS = ["fix"]
LATENT_IN_SCAN = ["behaviour", "heading"]
