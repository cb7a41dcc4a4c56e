"""Peak memory of a particle filter against the number of steps, for each store, and of a gradient.

    python benchmarks/memory.py                     all of the table, a process each
    python benchmarks/memory.py STORE STEPS N       one line of it

*Planned* is what XLA allots before the run: temporaries and results of the compiled program.  *Measured* is how far
the resident set rises over its level after compilation while the program runs.  Measured is less where memory that
compilation has left is used again.  The gradient is that of the log likelihood in theta, at the default threshold.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

STEPS, PARTICLES, GRADIENT = (1000, 4000, 16_000), 1000, 10_000
STORES = ("FinalCloud()", "LastSteps(100)", "Ancestry()", "FullHistory()")


def resident_mb() -> float:
    """Resident set of this process, from the kernel."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(what: str, steps: int, particles: int) -> str:
    """Compile, run, and give a line of the table."""
    import jax
    import jax.numpy as jnp
    from workload_a_runners import MU, PHI, SIGMA, volatility_model
    from workloads import volatility

    import ssmscan

    ssm = ssmscan.trace(volatility_model(), jnp.asarray(volatility(steps)))
    theta = jax.tree.map(jnp.float32, {"mu": MU, "phi": PHI, "sigma": SIGMA})

    def log_likelihood(theta, key):
        return ssmscan.log_likelihood(key, ssm, theta, num_particles=particles)

    def filtered(theta, key):
        store = eval(what, vars(ssmscan))
        return ssmscan.ParticleFilter(particles, store=store, summaries=()).run(key, ssm, theta)

    measured = jax.grad(log_likelihood) if what == "gradient" else filtered
    compiled = jax.jit(measured).lower(theta, jax.random.key(0)).compile()
    plan = compiled.memory_analysis()
    planned = (plan.temp_size_in_bytes + plan.output_size_in_bytes) / 2**20
    baseline, peak, done = resident_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], resident_mb())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    result = jax.block_until_ready(compiled(theta, jax.random.key(1)))
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    note = "" if what == "gradient" else result.message().removeprefix("The run is complete.")
    return f"{what:15} {steps:6} {particles:6} {planned:9.1f} MB {peak[0] - baseline:9.1f} MB {seconds:7.3f} s {note}"


def main(*arguments: str) -> None:
    """Print one line, or the table."""
    if arguments:
        what, steps, particles = arguments
        print(measure(what, int(steps), int(particles)))
        return
    print(f"{'':15} {'T':>6} {'N':>6} {'planned':>12} {'measured':>12} {'time':>9}", flush=True)
    for what in (*STORES, "gradient"):
        for steps in (GRADIENT,) if what == "gradient" else STEPS:
            subprocess.run([sys.executable, __file__, what, str(steps), str(PARTICLES)], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
