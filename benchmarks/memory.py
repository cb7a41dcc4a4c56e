"""Peak memory of a particle filter that stores nothing, over the compiled baseline.

    python benchmarks/memory.py

Compiles the filter at T = 20,000 and N = 10,000 without running it, then measures how far the resident
set rises above that baseline while it runs.  A filter that kept its clouds would need
T x N x 8 bytes, 1.6 GB here.
"""

from __future__ import annotations

import resource
import threading
import time
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan

STEPS, PARTICLES = 20_000, 10_000


def stochastic_volatility(y):
    """Log-variance as an AR(1)."""
    mu = numpyro.sample("mu", dist.Normal(-1.0, 1.0))
    h0 = numpyro.sample("h0", dist.Normal(mu, 0.8))

    def step(h, yt):
        h = numpyro.sample("h", dist.Normal(mu + 0.97 * (h - mu), 0.2))
        numpyro.sample("y", dist.Normal(0.0, jax.numpy.exp(h / 2)), obs=yt)
        return h, None

    scan(step, h0, y)


def resident_mb() -> float:
    """Resident set of this process, from the kernel."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Print baseline, peak and their difference."""
    y = np.random.default_rng(0).normal(size=STEPS).astype(np.float32)
    ssm = ssmscan.trace(stochastic_volatility, y)
    theta = ssm.canonical({"mu": -1.0})
    run = jax.jit(ssmscan.ParticleFilter(PARTICLES).run).lower(jax.random.key(0), ssm, theta).compile()
    baseline, peak, done = resident_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], resident_mb())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    result = jax.block_until_ready(run(jax.random.key(1), ssm, theta))
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    print(f"T = {STEPS}, N = {PARTICLES}: log evidence {float(result.log_evidence):.2f} in {seconds:.2f} s")
    print(f"baseline {baseline:.1f} MB, peak {peak[0]:.1f} MB, difference {peak[0] - baseline:.1f} MB")


if __name__ == "__main__":
    main()
