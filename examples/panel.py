"""A panel: seizures of 59 patients in four visits, under a drug or a placebo.

    x_{t,i} ~ Normal(phi x_{t-1,i}, sigma),  seizures_{t,i} ~ Poisson(exp(covariates_i and x_{t,i}))

Patients share the parameters alone.  Particle engines find that out and filter each by itself, with weights of its own:
one filter of 59 states at once would starve.  Breslow and Clayton (1993), *JASA* 88, table 4, report for the treatment
-0.93 with a standard error of 0.40 in their model II, which has a constant effect a patient.  It is the effect at a
baseline of 4 seizures in eight weeks, the unit of the covariate.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets

NAMES = ("intercept", "treated", "baseline", "treated x baseline", "age", "last visit")
NEAR = {"beta": np.array([-1.3, -0.9, 0.9, 0.3, 0.5, -0.1]), "phi": 0.85, "sigma": 0.35}


def panel(covariates, last_visit, seizures):
    """Explain (T, patients) seizures by (patients, 5) covariates, the last of four visits, and an autoregression."""
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([6]).to_event(1))
    phi = numpyro.sample("phi", dist.Uniform(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))

    def transition(x, inputs):
        last, y = inputs
        with numpyro.plate("patient", len(covariates)):
            x = numpyro.sample("x", dist.Normal(phi * x, sigma))
            rate = jnp.exp(covariates @ beta[:5] + beta[5] * last + x)
            numpyro.sample("seizures", dist.Poisson(rate), obs=y)
        return x, None

    with numpyro.plate("patient", len(covariates)):
        x_0 = numpyro.sample("x_0", dist.Normal(0.0, sigma / jnp.sqrt(1 - phi**2)))
    scan(transition, x_0, (last_visit, seizures))


def main(key, quick=False):
    """Filter each patient, sample by two engines for five minutes at most, and draw the effect of the treatment."""
    data = datasets.epilepsy()
    treated = (data.covariates["treatment"] == "progabide").astype(float)
    baseline, age = np.log(data.covariates["baseline"] / 4), np.log(data.covariates["age"])
    covariates = np.stack([np.ones(59), treated, baseline, treated * baseline, age], axis=1)
    ssm = ssmscan.trace(panel, covariates, np.array([0.0, 0.0, 0.0, 1.0]), data.values)
    ssm = ssm.with_labels(dims={"beta": ("covariate",)}, coords={"covariate": NAMES})
    print(ssm)
    filter_key, check_key = jax.random.split(key)
    filtered = ssmscan.ParticleFilter(20_000).run(filter_key, ssm, NEAR)
    print(f"log likelihood near its maximum: {filtered.log_likelihood:.2f}")
    found = {"log_likelihood": filtered.log_likelihood, "covariates": covariates}
    if quick:
        ax = ssmscan.plots.states(filtered, "x", element=(24,), times=data.time)
        return found | {"figure": ax.figure}

    engines = {"nuts": ssmscan.NUTS(), "importance": ssmscan.ImportanceSampler()}
    check = ssmscan.cross_check(check_key, ssm, seconds=300, engines=engines)
    print(check)
    nuts = check.results["nuts"]
    print(nuts.summary())
    ax = ssmscan.plots.posterior(check.results, "beta[treated]")
    ax.set_xlabel("effect of the drug on the log rate, beta[treated]")
    return found | {"verdict": check.verdict, "result": nuts, "figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("panel.png", dpi=110, bbox_inches="tight")
