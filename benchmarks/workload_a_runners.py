"""One filter of workload A, timed: what `workload_a.py` runs in the interpreter of each library.

    python workload_a_runners.py LIBRARY y.f32 N T MODE RUNS      prints one JSON line

MODE is "every" (resample at every step) or "ess" (when ESS < N/2).  The first call compiles and is
timed apart; then RUNS calls with other keys, each until the log-likelihood is on the host.  CPU seconds are
of the whole process: on a machine that others use they say what wall time would be without them.
A library is imported only by its own function, so that this file runs anywhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

MU, PHI, SIGMA = -1.0, 0.97, 0.2
Filter = Callable[[int], float]


def volatility_model() -> Callable:
    """Give the stochastic volatility model in NumPyro."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.control_flow import scan

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        phi = numpyro.sample("phi", dist.Uniform(-1, 1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        start = numpyro.sample("x0", dist.Normal(mu, sigma / jnp.sqrt(1 - phi**2)))

        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(mu + phi * (x - mu), sigma))
            numpyro.sample("y", dist.Normal(0.0, jnp.exp(x / 2)), obs=y)
            return x, None

        scan(transition, start, y)

    return model


def ssmscan_filter(y: np.ndarray, n: int, mode: str) -> Filter:
    """Default settings, means and standard deviations of the state included, through `run`."""
    import jax
    import jax.numpy as jnp

    import ssmscan

    model = volatility_model()
    ssm = ssmscan.trace(model, jnp.asarray(y))
    particle_filter = ssmscan.ParticleFilter(n, threshold=1 if mode == "every" else 0.5)
    theta = {"mu": MU, "phi": PHI, "sigma": SIGMA}
    return lambda seed: float(particle_filter.run(jax.random.key(seed), ssm, theta).log_likelihood)


def cuthbert_filter(y: np.ndarray, n: int, mode: str) -> Filter:
    """Bootstrap filter from cuthbert's own parts; it keeps the whole history."""
    import jax
    import jax.numpy as jnp
    from cuthbert import filter as run_filter
    from cuthbert.smc import particle_filter
    from cuthbertlib.resampling import systematic
    from cuthbertlib.resampling.adaptive import ess_decorator

    def start(key):
        return MU + SIGMA / np.sqrt(1 - PHI**2) * jax.random.normal(key)

    def move(key, x, y):
        return MU + PHI * (x - MU) + SIGMA * jax.random.normal(key)

    def log_weight(before, x, y):
        return -0.5 * (jnp.log(2 * jnp.pi) + x + y**2 * jnp.exp(-x))

    scheme = systematic.resampling if mode == "every" else ess_decorator(systematic.resampling, 0.5)

    @jax.jit
    def log_likelihood(key, y):
        start_key, run_key = jax.random.split(key)
        smc = particle_filter.build_filter(start, move, log_weight, n, scheme)
        states = run_filter(smc, y, smc.init_prepare(key=start_key), key=run_key)
        return states.log_normalizing_constant[-1]

    data = jnp.asarray(y)
    return lambda seed: float(log_likelihood(jax.random.key(seed), data))


def genjax_filter(y: np.ndarray, n: int, mode: str) -> Filter:
    """GenJAX's init, extend and resample in a scan; its state starts at mu instead of stationary."""
    import jax
    import jax.numpy as jnp
    from genjax import const, gen, normal, seed
    from genjax.inference import smc

    @gen
    def transition(x):
        x = normal(MU + PHI * (x - MU), SIGMA) @ "x"
        normal(0.0, jnp.exp(x / 2)) @ "y"
        return x

    def resample(cloud):
        if mode == "every":
            return smc.resample(cloud, method="systematic")
        needed = cloud.effective_sample_size() < n / 2
        return jax.lax.cond(needed, lambda c: smc.resample(c, method="systematic"), lambda c: c, cloud)

    def run(y):
        def step(cloud, y):
            cloud = smc.extend(cloud, transition, (cloud.traces.get_retval(),), {"y": y})
            return resample(cloud), None

        first = resample(smc.init(transition, (jnp.float32(MU),), const(n), {"y": y[0]}))
        return jax.lax.scan(step, first, y[1:])[0].log_marginal_likelihood()

    log_likelihood, data = jax.jit(lambda key, y: seed(run)(key, y)), jnp.asarray(y)
    return lambda number: float(log_likelihood(jax.random.key(number), data))


def smcx_filter(y: np.ndarray, n: int, mode: str) -> Filter:
    """The bootstrap filter of smcx, without its history."""
    import jax
    import jax.numpy as jnp
    import smcx

    log_likelihood = jax.jit(lambda key, y: smcx_volatility(smcx, key, (MU, PHI, SIGMA), y, n, mode).marginal_loglik)
    data = jnp.asarray(y)
    return lambda seed: float(log_likelihood(jax.random.key(seed), data))


def smcx_volatility(smcx, key, theta, y, n: int, mode: str):
    """Filter workload A or C with smcx, whose state and observation are vectors."""
    import jax
    import jax.numpy as jnp

    mu, phi, sigma = theta

    def start(key, n, *_):
        return mu + sigma / jnp.sqrt(1 - phi**2) * jax.random.normal(key, (n, 1))

    def move(key, x):
        return mu + phi * (x - mu) + sigma * jax.random.normal(key, (1,))

    def log_density(y, x):
        return -0.5 * (jnp.log(2 * jnp.pi) + x[0] + y[0] ** 2 * jnp.exp(-x[0]))

    threshold = 1.1 if mode == "every" else 0.5
    return smcx.bootstrap_filter(
        key, start, move, log_density, y[:, None], n, resampling_threshold=threshold, store_history=False
    )


FILTERS = {"ssmscan": ssmscan_filter, "cuthbert": cuthbert_filter, "genjax": genjax_filter, "smcx": smcx_filter}


def main(library: str, path: str, n: str, steps: str, mode: str, runs: str) -> None:
    """Time one filter and print what it took."""
    y = np.fromfile(path, np.float32)[: int(steps)]
    run = FILTERS[library](y, int(n), mode)
    begin = time.perf_counter()
    run(0)
    first, seconds, cpu, values = time.perf_counter() - begin, [], [], []
    for seed in range(1, int(runs) + 1):
        begin, ticks = time.perf_counter(), time.process_time()
        values.append(run(seed))
        seconds.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - ticks)
    print(json.dumps({"first": first, "seconds": seconds, "cpu_seconds": cpu, "log_likelihood": values}))


if __name__ == "__main__":
    main(*sys.argv[1:])
