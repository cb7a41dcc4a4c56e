"""Counts with a trend: monthly cases of poliomyelitis in the United States, 1970 to 1983.

    x_t ~ Normal(phi x_{t-1}, sigma),  cases_t ~ Poisson(exp(intercept + trend, season and x_t))

Zeger (1988) asked whether the cases become fewer.  A regression that takes months as independent says so without a
doubt; once the correlation of months is allowed for, the interval of the trend is several times as wide.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets

NEAR = {"intercept": 0.2, "trend": -4.0, "season": np.array([0.2, -0.5, 0.4, 0.0]), "phi": 0.65, "sigma": 0.55}


def counts_with_trend(month, cases):
    """Explain (T,) cases by trend (in 1,000 months), two harmonics of the year, and an autoregression."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.0))
    trend = numpyro.sample("trend", dist.Normal(0.0, 10.0))
    season = numpyro.sample("season", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    phi = numpyro.sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    angle = 2 * jnp.pi * month / 12
    harmonics = jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.cos(2 * angle), jnp.sin(2 * angle)])
    known = intercept + trend * (month - 73) / 1000 + season @ harmonics

    def transition(x, inputs):
        known, y = inputs
        x = numpyro.sample("x", dist.Normal(phi * x, sigma))
        rate = numpyro.deterministic("rate", jnp.exp(known + x))
        numpyro.sample("cases", dist.Poisson(rate), obs=y)
        return x, None

    x_0 = numpyro.sample("x_0", dist.Normal(0.0, sigma / jnp.sqrt(1 - phi**2)))
    scan(transition, x_0, (known, cases))


def main(key, quick=False):
    """Filter near the maximum, sample by two engines until there is a verdict, and draw the rate of each month."""
    data = datasets.polio()
    month = np.arange(1.0, len(data.values) + 1)
    ssm = ssmscan.trace(counts_with_trend, month, data.values)
    print(ssm)
    filter_key, check_key = jax.random.split(key)
    rate = filtered = ssmscan.ParticleFilter(2000).run(filter_key, ssm, NEAR)
    print(f"log likelihood near its maximum: {filtered.log_likelihood:.2f}")
    found = {"log_likelihood": filtered.log_likelihood}
    if not quick:
        check = ssmscan.cross_check(
            check_key, ssm, seconds=300, engines={"nuts": ssmscan.NUTS(), "pmmh": ssmscan.PMMH()}
        )
        print(check)
        rate = check.results["nuts"]
        print(rate.summary())
        found |= {"verdict": check.verdict, "result": rate}

    ax = ssmscan.plots.states(rate, "rate", times=data.time, observed=data.values)
    ax.set_ylabel("cases a month")
    return found | {"figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("counts_with_trend.png", dpi=110, bbox_inches="tight")
