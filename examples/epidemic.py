"""An epidemic: influenza at a boarding school, 763 boys, January 1978.

    infected_t ~ Binomial(S_{t-1}, 1 - exp(-R0 I_{t-1} / 763 dt)),  recovered_t ~ Binomial(I_{t-1}, 1 - exp(-dt))
    S_t = S_{t-1} - infected_t,  I_t = I_{t-1} + infected_t - recovered_t
    in_bed ~ NegativeBinomial2(I_t, 1 / dispersion), once a day

Time is in infectious periods of `days`, and a step is a quarter of a day: between two counts the data are NaN, which is
missing.  Infections are counts of up to 763: no gradient engine takes them, particles do.  Murray (2002), *Mathematical
Biology I*, section 10.2, fits the deterministic model: R0 = 3.65, and 2.27 days.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets

BOYS, STEPS_A_DAY = 763, 4
MURRAY = {"R0": 3.65, "days": 2.27, "dispersion": 0.1}


def epidemic(in_bed):
    """Run the epidemic through (T,) quarters of days with a count or NaN in each."""
    r0 = numpyro.sample("R0", dist.LogNormal(jnp.log(3.0), 0.5))
    days = numpyro.sample("days", dist.LogNormal(jnp.log(3.0), 0.5))
    dispersion = numpyro.sample("dispersion", dist.Exponential(20.0))
    dt = 1.0 / (STEPS_A_DAY * days)

    def transition(carry, y):
        susceptible, ill = carry
        infected = numpyro.sample("infected", dist.Binomial(susceptible, -jnp.expm1(-r0 * dt * ill / BOYS)))
        recovered = numpyro.sample("recovered", dist.Binomial(ill, -jnp.expm1(-dt)))
        susceptible, ill = susceptible - infected, numpyro.deterministic("ill", ill + infected - recovered)
        numpyro.sample("in_bed", dist.NegativeBinomial2(ill + 1e-3, 1 / dispersion), obs=y)
        return (susceptible, ill), None

    start = 1 + numpyro.sample("ill_0", dist.Poisson(1.0))
    scan(transition, (BOYS - start, start), in_bed)


def main(key, quick=False):
    """Filter at published values, sample how many a boy infects and for how long, and draw the epidemic."""
    data = datasets.influenza()
    in_bed = np.full((len(data.values), STEPS_A_DAY), np.nan)
    in_bed[:, -1] = data.values
    ssm = ssmscan.trace(epidemic, in_bed.ravel())
    print(ssm)
    filter_key, sampler_key = jax.random.split(key)
    ill = filtered = ssmscan.ParticleFilter(500).run(filter_key, ssm, MURRAY)
    print(f"log likelihood at the values of Murray: {filtered.log_likelihood:.2f}")
    found = {"log_likelihood": filtered.log_likelihood}
    if not quick:
        found["result"] = ill = ssmscan.ImportanceSampler().run(sampler_key, ssm)
        print(ill.summary())

    midnight = data.time[0].astype("datetime64[h]")
    times = midnight + 24 // STEPS_A_DAY * np.arange(1 - STEPS_A_DAY, in_bed.size + 1 - STEPS_A_DAY)
    ax = ssmscan.plots.states(ill, "ill", times=times, observed=in_bed.ravel())
    ax.set_ylabel("boys ill")
    return found | {"figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("epidemic.png", dpi=110, bbox_inches="tight")
