"""Stick-breaking: each step breaks a Beta share off what is left, and takes its part of the counts.

    share_t ~ Beta(1, alpha),  weight_t = share_t prod_{s<t} (1 - share_s)
    count_t ~ Binomial(n - sum_{s<t} count_s, share_t)

Given the counts the shares are independent, Beta(1 + count_t, alpha + n - sum_{s<=t} count_s), so the answer
is known exactly.  The Beta has no smooth quantile function: NUTS gets a corrected map instead.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive

import ssmscan


def stick_breaking(alpha, total, counts=None, length=None):
    """Break a stick among categories; counts is (T,) or None, and then `length` pieces are broken."""

    def transition(carry, count):
        stick, left = carry
        share = numpyro.sample("share", dist.Beta(1.0, alpha))
        numpyro.deterministic("weight", stick * share)
        count = numpyro.sample("count", dist.Binomial(left, share), obs=count)
        return (stick * (1 - share), left - count), share

    scan(transition, (1.0, total), counts, length=length)


def main(key, quick=False):
    """Simulate counts, estimate the shares by NUTS and by particles, and return what was found."""
    simulate_key, nuts_key, filter_key = jax.random.split(key, 3)
    alpha, total = 2.0, 500
    data = Predictive(stick_breaking, num_samples=1)(simulate_key, alpha, total, length=6)
    counts = data["count"][0]
    exact = (1 + counts) / (1 + alpha + total - jnp.cumsum(counts) + counts)

    ssm = ssmscan.trace(stick_breaking, alpha, total, counts)
    print(ssm)
    num = 200 if quick else 2000
    nuts = ssmscan.NUTS(num_warmup=num, num_samples=num, num_chains=2).run(nuts_key, ssm)
    shares = nuts.states["share"].mean((0, 1))
    filtered = ssmscan.ParticleFilter(num_particles=20_000).run(filter_key, ssm, {})
    for name, value in [("exact", exact), ("NUTS", shares), ("filter", filtered.summaries["mean"]["share"])]:
        print(f"{name:>6}", value.round(3))
    return {
        "weights": data["weight"][0],
        "exact": exact,
        "nuts": shares,
        "filter": filtered.summaries["mean"]["share"],
    }


if __name__ == "__main__":
    main(jax.random.key(0))
