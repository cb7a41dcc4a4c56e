"""Second-order hidden Markov model: the carry is a tuple of the last two states, a tensor of transition rows indexed by
both, `history=2` and enumeration hints as for NumPyro's own enumeration. Pattern: second-order HMMs of NumPyro's docs.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.ops.indexing import Vindex


def model(counts, num_states=2, length=None):
    rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(num_states)).expand([num_states, num_states]).to_event(2))
    rates = numpyro.sample("rates", dist.Gamma(2.0, 0.5).expand([num_states]).to_event(1))

    def transition(carry, y):
        before, last = carry
        x = numpyro.sample("x", dist.Categorical(Vindex(rows)[before, last]), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Poisson(Vindex(rates)[x]), obs=y)
        return (last, x), None

    length = None if counts is not None else length
    scan(transition, (0, 0), counts, length=length, history=2)


model_args = (jnp.asarray([1, 0, 2, 5, 7, 4, 6, 1, 0, 1, 3]),)
model_kwargs = {}
THETA = {
    "rows": jnp.array([[[0.8, 0.2], [0.4, 0.6]], [[0.7, 0.3], [0.1, 0.9]]]),
    "rates": jnp.array([1.0, 5.0]),
}
OBS = ["y"]
LATENT_IN_SCAN = ["x"]
simulate_args = (None,)
simulate_kwargs = {"length": 20}
