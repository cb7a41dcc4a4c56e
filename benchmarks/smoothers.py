"""Smoothed paths: 100 of them, stochastic volatility, T = 500, N = 1,000, filter included, beside other libraries.

    python benchmarks/smoothers.py --peer cuthbert=PYTHON particles=PYTHON --out benchmarks/results/smoothers.json
    python benchmarks/smoothers.py --particles 1000 10000 100000 --methods backward mcmc      how the cost grows with N

    backward  each state among all N particles
    mcmc      five Metropolis moves from the ancestor (mcmc1: one)
    tracing   the ancestors

One process a library and method, one after the other on one CPU.  The first call compiles and is timed apart; then RUNS
calls with other keys, each until the numbers are on the host.  Beside medians of wall and CPU seconds: memory, by how
much the largest resident set of the process grew from its first call on; E[x_250], which says whether the libraries
computed the same thing; and how many of the 100 paths differ at the first step.  Excluded: imports, making the data,
tracing the NumPyro model (`ssmscan.trace`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from records import save, use_device
from workload_a import timed_run
from workload_a_runners import MU, PHI, SIGMA, volatility_model
from workloads import volatility

STEPS, PATHS = 500, 100
METHODS = ("backward", "mcmc", "mcmc1", "tracing")
MOVES = {"mcmc": 5, "mcmc1": 1}

Call = Callable[[int], np.ndarray]


def ssmscan_paths(method: str, n: int) -> Call:
    """Through the public functions, on the model as it is written in NumPyro."""
    import jax
    import jax.numpy as jnp

    import ssmscan

    ssm = ssmscan.trace(volatility_model(), jnp.asarray(volatility(STEPS)))
    theta, settings = {"mu": MU, "phi": PHI, "sigma": SIGMA}, ssmscan.ParticleFilter(n)
    if method == "tracing":
        stored = ssmscan.ParticleFilter(n, store=ssmscan.FullHistory(), summaries=())

        def traced(seed: int) -> np.ndarray:
            filter_key, path_key = jax.random.split(jax.random.key(seed))
            result = stored.run(filter_key, ssm, theta)
            return np.asarray(ssmscan.trace_ancestry(path_key, result, num_paths=PATHS)["x"])

        return traced
    how = ssmscan.BackwardSimulation(settings)
    if method in MOVES:
        how = ssmscan.MCMCBackward(settings, num_moves=MOVES[method])
    smoother = ssmscan.Smoother(how, PATHS)
    return lambda seed: np.asarray(smoother.run(jax.random.key(seed), ssm, theta).paths["x"])


def cuthbert_paths(method: str, n: int) -> Call:
    """Its particle filter and backward samplers."""
    from functools import partial

    import jax
    import jax.numpy as jnp
    from cuthbert import filter as run_filter
    from cuthbert import smoother as run_smoother
    from cuthbert.smc import backward_sampler, particle_filter
    from cuthbertlib.resampling import systematic
    from cuthbertlib.resampling.adaptive import ess_decorator
    from cuthbertlib.smc.smoothing import exact_sampling, mcmc, tracing

    mu, phi, sigma = (jnp.float32(v) for v in (MU, PHI, SIGMA))
    y = jnp.asarray(volatility(STEPS))

    def start(key):
        return mu + sigma / jnp.sqrt(1 - phi**2) * jax.random.normal(key)

    def move(key, x, y):
        return mu + phi * (x - mu) + sigma * jax.random.normal(key)

    def log_weight(before, x, y):
        return -0.5 * (jnp.log(2 * jnp.pi) + x + y**2 * jnp.exp(-x))

    def log_density(before, x, y):
        return -0.5 * ((x - mu - phi * (before - mu)) / sigma) ** 2

    simulate = {"backward": exact_sampling.simulate, "tracing": tracing.simulate}.get(method)
    if simulate is None:
        simulate = partial(mcmc.simulate, n_steps=MOVES[method])
    smc = particle_filter.build_filter(start, move, log_weight, n, ess_decorator(systematic.resampling, 0.5))
    smoother = backward_sampler.build_smoother(log_density, simulate, systematic.resampling, PATHS)

    @jax.jit
    def paths(key):
        start_key, run_key, path_key = jax.random.split(key, 3)
        states = run_filter(smc, y, smc.init_prepare(key=start_key), key=run_key)
        return run_smoother(smoother, states, key=path_key).particles

    return lambda seed: np.asarray(paths(jax.random.key(seed)))[1:].T


def particles_paths(method: str, n: int) -> Call:
    """Its bootstrap filter and the smoothers of its history, in NumPy."""
    import particles
    from particles import distributions as dists
    from particles import state_space_models as ssms

    class Volatility(ssms.StateSpaceModel):
        def PX0(self):
            return dists.Normal(loc=MU, scale=SIGMA / np.sqrt(1 - PHI**2))

        def PX(self, t, xp):
            return dists.Normal(loc=MU + PHI * (xp - MU), scale=SIGMA)

        def PY(self, t, xp, x):
            return dists.Normal(loc=0.0, scale=np.exp(x / 2))

    y = volatility(STEPS)

    def paths(seed: int) -> np.ndarray:
        np.random.seed(seed)
        bootstrap = ssms.Bootstrap(ssm=Volatility(), data=y)
        run = particles.SMC(fk=bootstrap, N=n, resampling="systematic", ESSrmin=0.5, store_history=True)
        run.run()
        if method == "backward":
            return np.array(run.hist.backward_sampling_ON2(PATHS)).T
        if method == "tracing":
            return np.array([run.hist.extract_one_trajectory() for _ in range(PATHS)])
        return np.array(run.hist.backward_sampling_mcmc(PATHS, nsteps=MOVES[method])).T

    return paths


LIBRARIES = {"ssmscan": ssmscan_paths, "cuthbert": cuthbert_paths, "particles": particles_paths}


def resident() -> int:
    """Return the largest resident set by now, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def time_one(library: str, method: str, n: int, runs: int) -> None:
    """Time one method of one library, and print what it took."""
    call, before = LIBRARIES[library](method, n), resident()
    begin = time.perf_counter()
    call(0)
    first, seconds, cpu, found = time.perf_counter() - begin, [], [], []
    for seed in range(1, runs + 1):
        begin, ticks = time.perf_counter(), time.process_time()
        found.append(call(seed))
        seconds.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - ticks)
    values = [float(paths[:, 250].mean()) for paths in found]
    different = [len(np.unique(paths[:, 0])) for paths in found]
    record = {"first": first, "seconds": seconds, "cpu_seconds": cpu, "values": values, "different": different}
    print(json.dumps({**record, "memory_mib": (resident() - before) / 1024}))


def row(record: dict[str, Any]) -> str:
    """Lay out one record."""
    name = f"{record['library']:10s}{record['method']:9s} N = {record['N']:<7d}"
    if "error" in record:
        return f"{name} failed: {record['error']}"
    values, different = np.mean(record["values"]), np.mean(record["different"])
    return (
        f"{name} {record['wall']:8.4f} s {record['cpu']:8.4f} CPU s, first call {record['first']:6.2f} s, "
        f"{record['memory_mib']:7.1f} MiB, E[x_250] {values:8.4f}, {different:5.1f} of {PATHS} differ at the first step"
    )


def main() -> None:
    """Parse the command line, measure, print, write."""
    if sys.argv[1:2] == ["one"]:
        library, method, n, runs = sys.argv[2:]
        time_one(library, method, int(n), int(runs))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", nargs="+", default=[], metavar="NAME=PYTHON", help="cuthbert, particles")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--particles", nargs="+", type=int, default=[1000])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="gpu, or a platform of JAX")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    use_device(options.device)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-1:]))
    pythons = {"ssmscan": sys.executable} | dict(argument.split("=", 1) for argument in options.peer)
    written: dict[str, Any] = {"machine": platform.machine(), "python": platform.python_version(), "records": []}
    for n in options.particles:
        for method in options.methods:
            for library, python in pythons.items():
                command = [python, str(Path(__file__)), "one", library, method, str(n), str(options.runs)]
                record = {"library": library, "method": method, "N": n, **timed_run(command)}
                written["records"].append(record)
                print(row(record), flush=True)
                save(options.out, written)
    print(f"load average {os.getloadavg()}")


if __name__ == "__main__":
    main()
