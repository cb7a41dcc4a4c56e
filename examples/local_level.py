"""Local level: the flow of the Nile at Aswan, 1871 to 1970.

    level_t ~ Normal(level_{t-1}, sd_level),  flow_t ~ Normal(level_t, sd_flow)

Two engines that share nothing but the model sample the two standard deviations: NUTS moves the path of the level with
them, the importance sampler integrates it out exactly.  Durbin and Koopman (2012), section 2.10.2, give the maximum
likelihood estimates.
"""

import jax
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets

DURBIN_KOOPMAN = {"sd_level": 1469.1**0.5, "sd_flow": 15098.5**0.5}


def local_level(flow):
    """Sample the standard deviations and the level, observe the (T,) flow."""
    sd_level = numpyro.sample("sd_level", dist.HalfNormal(100.0))
    sd_flow = numpyro.sample("sd_flow", dist.HalfNormal(200.0))

    def transition(level, y):
        level = numpyro.sample("level", dist.Normal(level, sd_level))
        numpyro.sample("flow", dist.Normal(level, sd_flow), obs=y)
        return level, level

    scan(transition, numpyro.sample("level_0", dist.Normal(1000.0, 500.0)), flow)


def main(key, quick=False):
    """Smooth at the published estimates, sample by two engines, compare them, and draw the level."""
    data = datasets.nile()
    ssm = ssmscan.trace(local_level, data.values)
    print(ssm)
    smooth_key, nuts_key, importance_key = jax.random.split(key, 3)
    level = published = ssmscan.Smoother(num_paths=1).run(smooth_key, ssm, DURBIN_KOOPMAN)
    print(f"log likelihood at the published estimates: {published.log_likelihood:.3f}")
    found = {"log_likelihood": published.log_likelihood}
    if not quick:
        nuts = level = ssmscan.NUTS(num_samples=4000).run(nuts_key, ssm)
        importance = ssmscan.ImportanceSampler(estimator=ssmscan.ExactLikelihood()).run(importance_key, ssm)
        comparison = ssmscan.compare(nuts=nuts, importance=importance)
        print(comparison)
        found |= {"comparison": comparison, "importance": importance}

    ax = ssmscan.plots.states(level, "level", times=data.time, observed=data.values)
    ax.set_ylabel("flow, 1e8 m³ a year")
    return found | {"figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("local_level.png", dpi=110, bbox_inches="tight")
