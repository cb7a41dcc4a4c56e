"""A comparison of models by evidence: did the level of the Nile wander, or did it drop once?

    level:  level_t ~ Normal(level_{t-1}, sd_level),  flow_t ~ Normal(level_t, sd_flow)
    change: changed_t ~ Bernoulli(1 if changed_{t-1} else 1/100),  flow_t ~ Normal(mean[changed_t], sd_flow)

SMC2 has the evidence after every year, so that one sees when the data speak: hardly until the flow falls in 1899, the
year in which the dam at Aswan was begun, and for one change in the decades in which it stays where it fell.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets


def level(flow):
    """Let the level of the (T,) flow wander."""
    sd_level = numpyro.sample("sd_level", dist.HalfNormal(100.0))
    sd_flow = numpyro.sample("sd_flow", dist.HalfNormal(200.0))

    def transition(level, y):
        level = numpyro.sample("level", dist.Normal(level, sd_level))
        numpyro.sample("flow", dist.Normal(level, sd_flow), obs=y)
        return level, None

    scan(transition, numpyro.sample("level_0", dist.Normal(1000.0, 500.0)), flow)


def change(flow):
    """Let the (T,) flow have one mean until a year that nobody knows, and another from then on."""
    mean = numpyro.sample("mean", dist.Normal(1000.0, 500.0).expand([2]).to_event(1))
    sd_flow = numpyro.sample("sd_flow", dist.HalfNormal(200.0))

    def transition(changed, y):
        changed = numpyro.sample("changed", dist.Bernoulli(jnp.where(changed == 1, 1.0, 0.01)))
        numpyro.sample("flow", dist.Normal(mean[changed], sd_flow), obs=y)
        return changed, None

    scan(transition, 0, flow)


def main(key, quick=False):
    """Compute the evidence of both models after every year, and draw the log of their ratio."""
    data = datasets.nile()
    keys, found = jax.random.split(key, 2), {}
    for key, model in zip(keys, (level, change)):
        ssm = ssmscan.trace(model, data.values)
        print(ssm)
        if quick:
            estimator = ssmscan.ExactLikelihood() if model is level else ssmscan.DiscreteFilter(2)
            result = ssmscan.ImportanceSampler(num_points=4000, num_paths=0, estimator=estimator).run(key, ssm)
        else:
            result = ssmscan.SMC2(num_points=500).run(key, ssm)
        print(result.summary())
        print(f"log evidence {result.log_evidence:.2f} with standard error {result.log_evidence_error:.2f}")
        found[model.__name__] = result

    if quick:
        ax = ssmscan.plots.posterior(found, "sd_flow")
    else:
        running = {name: ssmscan.SMC2.running(result) for name, result in found.items()}
        ax = ssmscan.plots.evidence(running, times=data.time)
    return found | {"figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("model_comparison.png", dpi=110, bbox_inches="tight")
