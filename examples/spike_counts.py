"""Spike counts: how a neuron in the thalamus answers a moving whisker, in 50 repetitions of three seconds.

    x_t ~ Normal(x_{t-1}, sigma),  spikes_t ~ Binomial(50, logistic(x_t)), t in milliseconds

The series has 3,000 steps, and the noise of a particle filter grows with their number.  Particles that know all data
(`ssmscan.LookAhead`) keep it small, so that a few hundred estimates of the likelihood do, and the evidence comes with
them.
"""

import jax
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets

NEAR = {"sigma": 0.33}


def spike_counts(spikes):
    """Let the log odds of a spike walk at random, observe the (T,) numbers of spikes in 50 repetitions."""
    sigma = numpyro.sample("sigma", dist.LogNormal(-2.0, 1.0))
    start = numpyro.sample("start", dist.Normal(-3.0, 2.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, sigma))
        rate = numpyro.deterministic("rate", 1000 * jax.nn.sigmoid(x))
        numpyro.sample("spikes", dist.Binomial(50, logits=x), obs=y)
        return x, rate

    scan(transition, start, spikes)


def main(key, quick=False):
    """Estimate the likelihood by particles that look ahead and by ones that do not, sample, and draw the rate."""
    data = datasets.thalamus()
    last = 200 if quick else len(data.values)
    ssm = ssmscan.trace(spike_counts, data.values[:last])
    print(ssm)
    filter_key, sampler_key = jax.random.split(key)
    ahead = ssmscan.ParticleFilter(64, proposal=ssmscan.LookAhead())
    rate = filtered = ahead.run(filter_key, ssm, NEAR)
    found = {"log_likelihood": filtered.log_likelihood}
    if not quick:
        keys = jax.random.split(filter_key, 20)
        for name, one in {"ahead": ahead, "bootstrap": ssmscan.ParticleFilter(64)}.items():
            sd = jax.vmap(lambda key: one.run(key, ssm, NEAR).log_likelihood)(keys).std()  # noqa: B023
            print(f"{name}: sd of the log likelihood estimate {sd:.2f}")
            found[f"sd_{name}"] = sd
        sampler = ssmscan.ImportanceSampler(estimator=ahead, target_ess=1000, num_paths=200)
        found["result"] = rate = sampler.run(sampler_key, ssm)
        print(rate.summary())

    ax = ssmscan.plots.states(rate, "rate", times=data.time[:last], observed=1000 * data.values[:last] / 50)
    ax.set(xlabel="ms", ylabel="spikes a second")
    return found | {"figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("spike_counts.png", dpi=110, bbox_inches="tight")
