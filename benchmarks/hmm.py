"""A hidden Markov model summed out: cost of the forward pass and of its gradient, and NUTS on it.

    python benchmarks/hmm.py

Three states, T = 2,000, the transition matrix, levels and scale unknown.  The likelihood is compared with a
forward pass in NumPy float64.  Times are the best of many calls and leave compilation out; ESS per second
counts the draws after warm-up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp
from scipy.stats import norm

import ssmscan

STEPS, CALLS = 2000, 200
ROWS = np.array([[0.95, 0.04, 0.01], [0.03, 0.94, 0.03], [0.02, 0.08, 0.90]])
LEVELS, SD = np.array([-1.0, 0.5, 2.5]), 0.7


def hidden_markov(y):
    """Levels in increasing order, so that the states have names."""
    rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(3)).expand([3]).to_event(1))
    first = numpyro.sample("first", dist.Normal(-1.0, 1.0))
    gaps = numpyro.sample("gaps", dist.LogNormal(0.5, 0.5).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    levels = first + jnp.concatenate([jnp.zeros(1), jnp.cumsum(gaps)])

    def step(z, yt):
        z = numpyro.sample("z", dist.Categorical(rows[z]))
        numpyro.sample("y", dist.Normal(levels[z], sd), obs=yt)
        return z, None

    scan(step, 0, y)


def simulate(seed: int) -> np.ndarray:
    """Draw the data."""
    rng, z, y = np.random.default_rng(seed), 0, np.empty(STEPS)
    for t in range(STEPS):
        z = rng.choice(3, p=ROWS[z])
        y[t] = rng.normal(LEVELS[z], SD)
    return y


def forward_in_numpy(y: np.ndarray) -> float:
    """Log likelihood in float64."""
    alpha = np.array([0.0, -np.inf, -np.inf])
    for log_seen in norm.logpdf(y[:, None], LEVELS, SD):
        alpha = logsumexp(alpha[:, None] + np.log(ROWS), axis=0) + log_seen
    return float(logsumexp(alpha))


def best_ms(fn: Callable, *args) -> float:
    """Shortest of many calls, in milliseconds."""
    jax.block_until_ready(fn(*args))
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    """Print times and the speed of NUTS as JSON."""
    y = simulate(0)
    ssm = ssmscan.trace(hidden_markov, y)
    gaps = np.diff(LEVELS)
    theta = ssm.canonical({"rows": ROWS, "first": LEVELS[0], "gaps": gaps, "sd": SD})
    value = jax.jit(lambda theta: ssm.log_likelihood_given_noise(theta, {}))
    gradient = jax.jit(jax.value_and_grad(lambda theta: ssm.log_likelihood_given_noise(theta, {})))
    states = jax.jit(lambda theta, key: ssm.posterior_states(theta, {}, key))
    report = {
        "log likelihood": float(value(theta)),
        "in NumPy float64": forward_in_numpy(y),
        "forward pass, ms": best_ms(value, theta),
        "with gradient, ms": best_ms(gradient, theta),
        "one path and smoothing probabilities, ms": best_ms(states, theta, jax.random.key(0)),
    }
    result = ssmscan.NUTS(num_warmup=300, num_samples=500, num_chains=4, progress=False).run(jax.random.key(1), ssm)
    table = result.summary()
    bulk = [float(row[table.columns.index("bulk ESS")]) for row in table.rows]
    report |= {
        "NUTS compile, s": result.costs.compile_seconds,
        "NUTS warm-up, s": result.costs.warmup_seconds,
        "NUTS run, s": result.costs.run_seconds,
        "gradients": result.costs.gradient_evaluations,
        "smallest bulk ESS": min(bulk),
        "ESS per second": min(bulk) / result.costs.run_seconds,
    }
    print(json.dumps(report, indent=2))
    print(table)


if __name__ == "__main__":
    main()
