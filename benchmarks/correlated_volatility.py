"""Twenty correlated series of stochastic volatility: what still moves the states where bootstrap particles stand still.

    python benchmarks/correlated_volatility.py [--series 20] [--steps 100] [--seconds 60] [--out FILE]

Conditional SMC at the parameters that made the data, with particles of the model and with ones that look ahead, each
with ancestor sampling; then particle Gibbs and NUTS, parameters unknown.  Effective draws per second, compilation and
warm-up apart, of the slowest of all states (series times steps), and of the slowest parameter.
"""

import argparse
import json
import time
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.diagnostics import effective_sample_size

import ssmscan

THETA = {"mu": -1.0, "phi": 0.95, "sigma": 0.3, "corr": 0.6}


def correlated(y):
    """Log variances of all series move together."""
    size = y.shape[1]
    mu = numpyro.sample("mu", dist.Normal(-1.0, 0.5))
    phi = numpyro.sample("phi", dist.Beta(20.0, 1.5))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.3, 0.5))
    corr = numpyro.sample("corr", dist.Beta(2.0, 2.0))
    scale_tril = sigma * jnp.linalg.cholesky(corr + (1 - corr) * jnp.eye(size))
    h_0 = numpyro.sample("h_0", dist.MultivariateNormal(mu, scale_tril=scale_tril / jnp.sqrt(1 - phi**2)))

    def step(h, y):
        h = numpyro.sample("h", dist.MultivariateNormal(mu + phi * (h - mu), scale_tril=scale_tril))
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)).to_event(1), obs=y)
        return h, None

    scan(step, h_0, y)


def slowest(states):
    """Return the smallest effective number of draws of all states, (chains, draws, T, series)."""
    flat = np.asarray(states).reshape(*states.shape[:2], -1)
    return min(
        float(effective_sample_size(flat[:, :, k])) if np.ptp(flat[:, :, k]) else 0.0 for k in range(flat.shape[2])
    )


@partial(jax.jit, static_argnames=("smc", "updates"))
def chain(key, ssm, path, *, smc, updates):
    """Run a chain of updates of the path."""

    def update(path, key):
        found = smc.run(key, ssm, THETA, path)
        path = {name: found.states[name] for name in path}
        return path, (path["h"], found.updated)

    return jax.lax.scan(update, path, jax.random.split(key, updates))


def conditional(ssm, path, smc, seconds):
    """Run conditional SMC for about so many seconds; return effective draws, seconds, share of steps updated."""
    updates = 20
    run = partial(chain, ssm=ssm, path=path, smc=smc)
    jax.block_until_ready(run(jax.random.key(0), updates=updates))
    began = time.perf_counter()
    jax.block_until_ready(run(jax.random.key(1), updates=updates))
    pace = (time.perf_counter() - began) / updates
    updates = int(np.clip(seconds / pace, 50, 5_000))
    jax.block_until_ready(run(jax.random.key(1), updates=updates))
    began = time.perf_counter()
    _, (states, updated) = jax.block_until_ready(run(jax.random.key(2), updates=updates))
    return slowest(states[None]), time.perf_counter() - began, float(updated.mean()), updates


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ssmscan.ResultWarning)
    empty = ssmscan.trace(correlated, np.zeros((options.steps, options.series), np.float32))
    drawn = empty.simulate(jax.random.key(0), THETA)
    ssm, path = empty.with_data(np.asarray(drawn["y"])), {name: drawn[name] for name in ("h_0", "h")}
    print(f"{options.series} series, T = {options.steps}, {ssmscan.__version__}")
    records = []
    for label, smc in {
        "conditional SMC, bootstrap, N = 100": ssmscan.ConditionalSMC(100),
        "conditional SMC, bootstrap, N = 1000": ssmscan.ConditionalSMC(1000),
        "conditional SMC, look-ahead, N = 20": ssmscan.ConditionalSMC(20, proposal=ssmscan.LookAhead()),
    }.items():
        ess, seconds, updated, updates = conditional(ssm, path, smc, options.seconds)
        records.append({"engine": label, "ESS": ess, "s": seconds, "updated": updated, "updates": updates})
        print(
            f"{label:38s} {ess / seconds:8.2f} effective/s of the slowest state ({ess:.0f} of {updates} updates in "
            f"{seconds:.0f} s), {100 * updated:.1f} % of the steps changed an update",
            flush=True,
        )
    engines = {
        "particle Gibbs, look-ahead, N = 20": ssmscan.ParticleGibbs(
            conditional=ssmscan.ConditionalSMC(20, proposal=ssmscan.LookAhead()),
            num_warmup=150,
            num_samples=350,
            num_chains=2,
            progress=False,
        ),
        "NUTS": ssmscan.NUTS(num_warmup=400, num_samples=400, num_chains=2, progress=False),
    }
    for label, engine in engines.items():
        result = engine.run(jax.random.key(3), ssm)
        states, seconds = result.states["h"], result.costs.run_seconds
        scale = result.num_draws / states.shape[1]
        ess = slowest(states)
        theta = min(float(effective_sample_size(np.asarray(draws))) for draws in result.draws.values())
        records.append({"engine": label, "ESS": ess, "ESS of parameters": theta, "s": seconds})
        print(
            f"{label:38s} {ess / seconds:8.2f} effective/s of the slowest state ({ess:.0f}, every {scale:g}th draw), "
            f"{theta / seconds:.2f} of the slowest parameter; {seconds:.0f} s after {result.costs.warmup_seconds:.0f} "
            f"of warm-up and {result.costs.compile_seconds:.0f} of compilation",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
