"""A deterministic SIR epidemic stepped through with scan; after it, weekly case counts from differences of the
susceptibles, a serological survey at chosen days, and the size of the epidemic from the last carry.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

N = 1000.0


def model(cases, survey_days, positive, tested):
    weeks = cases.shape[0]
    beta = numpyro.sample("beta", dist.LogNormal(jnp.log(0.5), 0.3))
    gamma = numpyro.sample("gamma", dist.LogNormal(jnp.log(0.25), 0.2))
    report = numpyro.sample("report", dist.Beta(4.0, 4.0))
    i0 = numpyro.sample("i0", dist.LogNormal(1.5, 0.5))

    def day(carry, _):
        s, i, r = carry
        new, gone = beta * s * i / N, gamma * i
        carry = (s - new, i + new - gone, r + gone)
        return carry, jnp.stack(carry)

    (_, _, removed), path = scan(day, (N - i0, i0, 0.0), None, length=7 * weeks)
    infections = -jnp.diff(jnp.concatenate([jnp.array([N]) - i0, path[:, 0]]))
    weekly = infections.reshape(weeks, 7).sum(1)
    numpyro.sample("cases", dist.Poisson(report * weekly + 1e-3), obs=cases)
    numpyro.sample("survey", dist.Binomial(tested, probs=1 - path[survey_days, 0] / N), obs=positive)
    numpyro.sample("final", dist.Normal(removed / N, 0.1), obs=0.4)


model_args = (jnp.array([3, 6, 14, 22, 40]), jnp.array([10, 30]), jnp.array([2, 11]), jnp.array([50, 60]))
model_kwargs = {}
OBS = ["cases", "survey", "final"]
LATENT_IN_SCAN = []
