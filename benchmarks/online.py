"""One observation at a time: is it the whole run, and what does an update take?

    python benchmarks/online.py [--updates 100000] [--particles 1000]

Stochastic volatility.  Takes every step by a call of `ParticleFilter.update` from Python, compares all increments,
effective sample sizes and the log likelihood with those of one `run` over the whole series, bit by bit, and prints the
time of an update by tenths of the series: it must not grow.
"""

from __future__ import annotations

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from workload_a import data
from workload_a_runners import MU, PHI, SIGMA, volatility_model

import ssmscan

THETA = {"mu": MU, "phi": PHI, "sigma": SIGMA}


def main() -> None:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--particles", type=int, default=1000)
    options = parser.parse_args()
    y = np.tile(data(), -(-options.updates // 1000))[: options.updates]
    ssm, settings = ssmscan.trace(volatility_model(), jnp.asarray(y)), ssmscan.ParticleFilter(options.particles)
    key = jax.random.key(0)
    online = settings.start(key, ssm, THETA)
    settings.update(online, ssm, THETA)  # compiles
    print(f"{options.updates} updates, N = {options.particles}, load average {os.getloadavg()}")
    increments, sizes, times = [], [], []
    for _ in range(options.updates):
        begin = time.perf_counter()
        online, report = settings.update(online, ssm, THETA)
        increments.append(report.increment.block_until_ready())
        times.append(time.perf_counter() - begin)
        sizes.append(report.ess)
    tenths = [f"{1e6 * np.median(part):.0f}" for part in np.array_split(times, 10)]
    print(f"microseconds an update, median of each tenth of the series: {' '.join(tenths)}")
    whole = settings.run(key, ssm, THETA)
    alike = {
        "increments": np.array_equal(np.concatenate(increments), whole.increments),
        "effective sample sizes": np.array_equal(np.concatenate(sizes), whole.ess),
        "log likelihood": bool(online.state.log_likelihood.value() == whole.log_likelihood),
    }
    print(f"log likelihood {float(whole.log_likelihood):.4f}; identical to the whole run: {alike}")


if __name__ == "__main__":
    main()
