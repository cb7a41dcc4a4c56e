"""RL learning model: no latent in scan, Bernoulli choice observed under a plate inside, python `if choices is not
None`, value table updated with at[].add, invalid trials masked by arithmetic, hierarchical subject parameters non-
centred with TransformReparam outside.

The structure follows public practice; code and data are our own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import TransformReparam


def model(stim, reward, choices=None, valid=None, save=False):
    S, T = stim.shape
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 1.0))
    sg = numpyro.sample("sg", dist.HalfCauchy(jnp.ones(2)))
    with numpyro.plate("subj", S), handlers.reparam(config={"pars": TransformReparam()}):
        pars = numpyro.sample(
            "pars",
            dist.TransformedDistribution(
                dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)), dist.transforms.AffineTransform(mu, sg)
            ),
        )
    lr, beta = jax.nn.sigmoid(pars[:, 0]), jnp.exp(pars[:, 1])

    def trial(q, t):
        s, ok = stim[:, t], valid[:, t]
        dv = ok * beta * (q[jnp.arange(S), s, 1] - q[jnp.arange(S), s, 0])
        with numpyro.plate("subj_trial", S):
            if choices is not None:
                ch = numpyro.sample("choice", dist.Bernoulli(logits=dv), obs=choices[:, t])
            else:
                ch = numpyro.sample("choice", dist.Bernoulli(logits=dv))
        r = reward[jnp.arange(S), t, ch]
        q = q.at[jnp.arange(S), s, ch].add(ok * lr * (r - q[jnp.arange(S), s, ch]))
        if save:
            q = numpyro.deterministic("q", q)
        return q, dv

    scan(trial, 0.5 * jnp.ones((S, 3, 2)), jnp.arange(T))


_r = np.random.default_rng(14)
model_args = (
    jnp.asarray(_r.integers(0, 3, size=(4, 10))),
    jnp.asarray(_r.integers(0, 2, size=(4, 10, 2)).astype(float)),
)
model_kwargs = dict(
    choices=jnp.asarray(_r.integers(0, 2, size=(4, 10))), valid=jnp.asarray((_r.random((4, 10)) > 0.1).astype(float))
)
simulate_args, simulate_kwargs = model_args, dict(valid=model_kwargs["valid"], save=True)
OBS = ["choice"]
LATENT_IN_SCAN = []
