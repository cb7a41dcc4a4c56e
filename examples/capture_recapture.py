"""Capture-recapture: survival of 294 European dippers, and the flood of 1983.

    alive_t ~ Bernoulli(alive_{t-1} survival_t),  caught_t ~ Bernoulli(alive_t recapture)

A bird counts from the season after its first capture on.  Whether one that is not seen is dead is a discrete state of
two values a bird, summed out by NUTS; the filter tries both values, and its likelihood is exact.  Lebreton, Burnham,
Clobert and Anderson (1992) prefer this model of theirs, with one survival for the two flood intervals 1982-84 and
another for the others: 0.469 (standard error 0.043) and 0.607 (0.031), recapture 0.900 (0.029).
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets

LEBRETON = {"survival": np.array([0.607, 0.469]), "recapture": 0.900}


def capture_recapture(flood, known, caught):
    """Observe (T, birds) captures of birds `known` (T, birds) from before, after T intervals with or without flood."""
    survival = numpyro.sample("survival", dist.Uniform(0.0, 1.0).expand([2]).to_event(1))
    recapture = numpyro.sample("recapture", dist.Uniform(0.0, 1.0))

    def transition(alive, inputs):
        flood, known, y = inputs
        with numpyro.plate("bird", caught.shape[1]):
            chance = jnp.where(known, alive * survival[flood], 1.0)  # before its first capture a bird cannot die
            alive = numpyro.sample("alive", dist.Bernoulli(chance))
            with numpyro.handlers.mask(mask=known):
                numpyro.sample("caught", dist.Bernoulli(alive * recapture), obs=y)
        return alive, None

    scan(transition, jnp.ones(caught.shape[1], int), (flood, known, caught))


def main(key, quick=False):
    """Compute the likelihood at the published estimates, sample by two engines until they agree, draw survival."""
    data = datasets.dippers()
    known = np.cumsum(data.values, axis=0)[:-1] > 0
    flood = np.isin(data.time[:-1], np.array(["1982", "1983"], "datetime64[Y]")).astype(int)
    ssm = ssmscan.trace(capture_recapture, flood, known, data.values[1:])
    print(ssm)
    log_likelihood = ssmscan.DiscreteFilter(2).estimate(key, ssm, LEBRETON).log_likelihood
    print(f"log likelihood at the published estimates: {log_likelihood:.3f}")
    found = {"log_likelihood": log_likelihood}
    draws = LEBRETON
    if not quick:
        engines = {"nuts": ssmscan.NUTS(), "importance": ssmscan.ImportanceSampler()}
        check = ssmscan.cross_check(key, ssm, seconds=300, engines=engines)
        print(check)
        found |= {"verdict": check.verdict, "result": check.results["nuts"]}
        draws = check.results["nuts"].draws

    ax = plt.figure(figsize=(5.0, 2.8), layout="constrained").subplots()
    for k, (years, style) in enumerate({"ordinary years": "-", "flood": "--"}.items()):
        values = draws["survival"].reshape(-1, 2)[:, k]
        ax.hist(values, 40, density=True, histtype="step", ls=style, color=("#0072B2", "#D55E00")[k], label=years)
        ax.axvline(LEBRETON["survival"][k], ls=":", color="black", label=None if k else "published")
    ax.set(xlabel="survival from one season to the next", ylabel="posterior density")
    ax.legend(frameon=False)
    return found | {"figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("capture_recapture.png", dpi=110, bbox_inches="tight")
