"""Regime switching: recessions in the growth of the real GNP of the United States, 1951 to 1984.

    expansion_t ~ Bernoulli(stay if expansion_{t-1} else leave)
    growth_t - mu[expansion_t] ~ Normal(sum_k phi_k (growth_{t-k} - mu[expansion_{t-k}]), sigma)

A quarter needs the regimes of the last five, a carry of 16 values beside the present one: NUTS sums them out, and the
likelihood is exact.  Hamilton (1989), *Econometrica* 57(2), table I, has its maximum, -181.26.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets

HAMILTON = {"recession": -0.358811, "difference": 1.522327, "leave": 0.245327, "stay": 0.904085, "sigma": 0.769002}
HAMILTON["phi"] = np.array([0.013486, -0.057521, -0.246983, -0.212923])
RECESSIONS = ["1953-07/1954-05", "1957-08/1958-04", "1960-04/1961-02", "1969-12/1970-11"]
RECESSIONS += ["1973-11/1975-03", "1980-01/1980-07", "1981-07/1982-11"]  # National Bureau of Economic Research


def regime_switching(growth):
    """Explain (T,) growth; the first four quarters have regimes, and no density of their own."""
    recession = numpyro.sample("recession", dist.Normal(-0.5, 1.0))
    mu = jnp.stack([recession, recession + numpyro.sample("difference", dist.HalfNormal(2.0))])
    leave = numpyro.sample("leave", dist.Beta(2.0, 6.0))
    stay = numpyro.sample("stay", dist.Beta(9.0, 1.0))
    phi = numpyro.sample("phi", dist.Normal(0.0, 0.3).expand([4]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    padded = jnp.concatenate([jnp.zeros(4), growth])
    past = jnp.stack([padded[4 - k : len(padded) - k] for k in (1, 2, 3, 4)], axis=1)

    def transition(regimes, inputs):  # those of the last four quarters, the latest first
        y, past, counts = inputs
        now = numpyro.sample("expansion", dist.Bernoulli(jnp.where(regimes[0] == 1, stay, leave)))
        with numpyro.handlers.mask(mask=counts):
            numpyro.sample("growth", dist.Normal(mu[now] + phi @ (past - mu[regimes]), sigma), obs=y)
        return jnp.concatenate([now[None], regimes[:-1]]), None

    first = numpyro.sample("first", dist.Bernoulli(leave / (1 - stay + leave)))
    scan(transition, jnp.full(4, first), (growth, past, jnp.arange(len(growth)) >= 4))


def main(key, quick=False):
    """Smooth at the published maximum, sample the parameters, and draw the probability of an expansion."""
    data = datasets.gnp()
    ssm = ssmscan.trace(regime_switching, data.values)
    print(ssm)
    smooth_key, nuts_key = jax.random.split(key)
    regimes = published = ssmscan.Smoother(num_paths=1).run(smooth_key, ssm, HAMILTON)
    print(f"log likelihood at the published estimates: {published.log_likelihood:.3f}")
    found = {"log_likelihood": published.log_likelihood, "expansion": published.mean["expansion"]}
    if not quick:
        found["result"] = regimes = ssmscan.NUTS(num_samples=1500).run(nuts_key, ssm)
        print(regimes.summary())

    ax = ssmscan.plots.states(regimes, "expansion", times=data.time)
    for months in RECESSIONS:
        ax.axvspan(*np.array(months.split("/"), "datetime64[M]"), color="0.3", alpha=0.3, linewidth=0)
    return found | {"figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("regime_switching.png", dpi=110, bbox_inches="tight")
