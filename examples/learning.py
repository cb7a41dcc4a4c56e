"""A learning model without noise: 30 dogs learn to avoid a shock, in 25 trials (Solomon & Wynne 1953).

    p_t = p_{t-1} A if the dog avoided shock t-1, p_{t-1} B if not, p_0 = 1,  shock_t ~ Bernoulli(p_t)

What changes from trial to trial is computed, nothing is drawn: the parameters are the only unknowns, the likelihood is
a number, and every engine computes it exactly.  Do dogs learn more by an avoidance (A) than by a shock (B)?  The BUGS
examples, volume I, give posterior means of 0.783 and 0.924.
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

BUGS = {"A": 0.783, "B": 0.924}


def learning(avoided):
    """Explain (T, dogs) avoidances by those before them; in trial 0 no dog knows of the shock."""
    a = numpyro.sample("A", dist.Uniform(0.0, 1.0))
    b = numpyro.sample("B", dist.Uniform(0.0, 1.0))

    def transition(log_p, inputs):
        before, y = inputs
        log_p = log_p + jnp.where(before == 1, jnp.log(a), jnp.log(b))
        with numpyro.plate("dog", avoided.shape[1]):
            numpyro.sample("avoided", dist.Bernoulli(-jnp.expm1(log_p)), obs=y)
        return log_p, None

    scan(transition, jnp.zeros(avoided.shape[1]), (avoided[:-1], avoided[1:]))


def main(key, quick=False):
    """Compute the likelihood at the published means, sample by two engines, and draw the mean learning curve."""
    avoided = datasets.dogs().values
    ssm = ssmscan.trace(learning, avoided)
    print(ssm)
    log_likelihood = ssmscan.ParticleFilter(2, summaries=()).run(key, ssm, BUGS).log_likelihood
    print(f"log likelihood at the published means: {log_likelihood:.3f}")
    found, draws = {"log_likelihood": log_likelihood}, {name: np.array([value]) for name, value in BUGS.items()}
    if not quick:
        engines = {"nuts": ssmscan.NUTS(), "importance": ssmscan.ImportanceSampler(num_particles=2)}
        check = ssmscan.cross_check(key, ssm, seconds=120, engines=engines)
        print(check)
        result = check.results["nuts"]
        print(result.summary())
        found |= {"verdict": check.verdict, "result": result}
        draws = {name: result.draws[name].ravel()[::8] for name in BUGS}

    avoidances = np.cumsum(avoided, axis=0)[:-1]
    shocks = np.cumsum(1 - avoided, axis=0)[:-1]
    log_p = np.log(draws["A"])[:, None, None] * avoidances + np.log(draws["B"])[:, None, None] * shocks
    low, middle, high = np.quantile(np.exp(log_p).mean(2), [0.05, 0.5, 0.95], axis=0)
    ax, trials = plt.figure(figsize=(5.0, 3.0), layout="constrained").subplots(), np.arange(1, 25)
    ax.fill_between(trials, low, high, alpha=0.3, color="#0072B2", label="90 %")
    ax.plot(trials, middle, color="#0072B2", label="probability of a shock, mean of the dogs")
    ax.plot(trials, 1 - avoided[1:].mean(1), "o", color="black", markersize=4, label="share of dogs shocked")
    ax.set(xlabel="trial", ylim=(0, 1))
    ax.legend(frameon=False)
    return found | {"figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("learning.png", dpi=110, bbox_inches="tight")
