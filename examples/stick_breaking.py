"""Stick-breaking: each step breaks a Beta share off what is left, and takes its part of the counts.

    share_t ~ Beta(1, alpha),  weight_t = share_t prod_{s<t} (1 - share_s)
    count_t ~ Binomial(left_t, share_t),  left_t = n - sum_{s<t} count_s

Given alpha and the counts the shares are independent, Beta(1 + count_t, alpha + left_t - count_t), so the
answer is known exactly.  The Beta has no smooth quantile function: NUTS gets a corrected map instead.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive

import ssmscan


def stick_breaking(total, counts=None, length=None):
    """Break a stick among categories; counts is (T,) or None, and then `length` pieces are broken."""
    alpha = numpyro.sample("alpha", dist.Gamma(3.0, 1.0))

    def transition(carry, count):
        stick, left = carry
        share = numpyro.sample("share", dist.Beta(1.0, alpha))
        numpyro.deterministic("weight", stick * share)
        count = numpyro.sample("count", dist.Binomial(left, share), obs=count)
        return (stick * (1 - share), left - count), share

    scan(transition, (1.0, total), counts, length=length)


def main(key, quick=False):
    """Simulate counts, estimate alpha by NUTS and the shares by particles, and return what was found."""
    simulate_key, nuts_key, filter_key = jax.random.split(key, 3)
    alpha, total = 3.0, 500
    data = Predictive(stick_breaking, {"alpha": jnp.array([alpha])})(simulate_key, total, length=6)
    counts = data["count"][0]
    ssm = ssmscan.trace(stick_breaking, total, counts)
    print(ssm)

    num = 200 if quick else 2000
    nuts = ssmscan.NUTS(num_warmup=num, num_samples=num, num_chains=2).run(nuts_key, ssm)
    print(nuts.summary())

    filtered = ssmscan.ParticleFilter(num_particles=20_000).run(filter_key, ssm, {"alpha": alpha})
    shares = filtered.summaries["mean"]["share"]
    left = total - jnp.cumsum(counts) + counts
    exact = (1 + counts) / (1 + alpha + left)
    print("shares, exact  ", exact.round(3))
    print("shares, filter ", shares.round(3))
    return {
        "counts": counts,
        "weights": data["weight"][0],
        "alpha": nuts.mean()["alpha"],
        "exact": exact,
        "shares": shares,
        "log_likelihood": filtered.log_likelihood,
    }


if __name__ == "__main__":
    main(jax.random.key(0))
