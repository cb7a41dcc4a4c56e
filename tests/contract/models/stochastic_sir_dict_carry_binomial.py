"""Stochastic SIR with DICT carry, Binomial discrete transitions (not enumerable: particle methods only), deterministics
inside, Poisson-like reporting observed inside.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(cases=None, N=200, T=10):
    beta = numpyro.sample("beta", dist.LogNormal(-0.3, 0.3))
    gam = numpyro.sample("gam", dist.Beta(4, 8))
    rho = numpyro.sample("rho", dist.Beta(5, 5))

    def day(st, y):
        inf = numpyro.sample("inf", dist.Binomial(st["S"], probs=1 - jnp.exp(-beta * st["I"] / N)))
        rec = numpyro.sample("rec", dist.Binomial(st["I"], probs=gam))
        st = dict(S=st["S"] - inf, I=st["I"] + inf - rec, R=st["R"] + rec)
        numpyro.deterministic("I", st["I"])
        numpyro.sample("cases", dist.Poisson(rho * inf + 0.1), obs=y)
        return st, st["I"]

    _, I = scan(day, dict(S=jnp.array(N - 5), I=jnp.array(5), R=jnp.array(0)), cases, length=T)


model_args = (jnp.asarray([2, 3, 3, 6, 8, 9, 10, 12, 9, 6]),)
model_kwargs = dict(T=10)
simulate_args, simulate_kwargs = (None,), dict(T=10)
NUTS_OK = False
OBS = ["cases"]
LATENT_IN_SCAN = ["inf", "rec"]
