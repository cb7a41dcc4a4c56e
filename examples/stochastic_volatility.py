"""Stochastic volatility of an exchange rate: the model that `ssmscan demo` fits.

    h_0 ~ Normal(mu, sigma / sqrt(1 - phi^2))
    h_t ~ Normal(mu + phi (h_{t-1} - mu), sigma)
    y_t ~ Normal(0, exp(h_t / 2))

h_t is the log variance of the day's return.  (phi + 1) / 2 is Beta(20, 1.5), the prior of Kim, Shephard and
Chib (1998), section 2.2; mu says that a return is typically 0.4 to 1 per cent; sigma has its mass between 0.08
and 0.5, and none at zero, where h would not move.
Everything about the model is ordinary NumPyro; copy this file, change the model, keep the rest.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.distributions.transforms import AffineTransform

import ssmscan
from ssmscan import datasets

NEAR = {"mu": -1.02, "phi": 0.9702, "sigma": 0.178}


def stochastic_volatility(returns):
    """Sample the parameters and the log variances h, observe the (T,) returns."""
    mu = numpyro.sample("mu", dist.Normal(-1.0, 0.5))
    persistence = AffineTransform(-1.0, 2.0, domain=dist.constraints.unit_interval)
    phi = numpyro.sample("phi", dist.TransformedDistribution(dist.Beta(20.0, 1.5), persistence))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.6, 0.5))
    h_0 = numpyro.sample("h_0", dist.Normal(mu, sigma / jnp.sqrt(1 - phi**2)))

    def transition(h, y):
        h = numpyro.sample("h", dist.Normal(mu + phi * (h - mu), sigma))
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y)
        return h, h

    scan(transition, h_0, returns)


def main(key, quick=False):
    """Fit the returns by NUTS, filter at the posterior mean, and draw the volatility of each day."""
    data = datasets.gbpusd()
    ssm = ssmscan.trace(stochastic_volatility, data.values)
    print(ssm)
    nuts_key, filter_key = jax.random.split(key)
    theta = NEAR
    if not quick:
        nuts = ssmscan.NUTS().run(nuts_key, ssm)
        print(nuts.summary())
        theta = nuts.mean()

    filtered = ssmscan.ParticleFilter(num_particles=2000 if quick else 10_000).run(filter_key, ssm, theta)
    print(f"log likelihood: {filtered.log_likelihood:.2f}. {filtered.message()}")
    source = filtered if quick else nuts
    ax = ssmscan.plots.states(source, "h", times=data.time, observed=data.values, observed_on_the_right=True)
    ax.set_ylabel("log variance h")
    return {"theta": theta, "log_likelihood": filtered.log_likelihood, "figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("stochastic_volatility.png", dpi=110, bbox_inches="tight")
