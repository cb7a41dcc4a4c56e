"""How the cost of a particle-step changes with the size of the problem.

    python benchmarks/scaling.py --out benchmarks/results/scaling [--device gpu] [--quick]

Four sweeps, one filter with default settings at each point, resampling when ESS < N/2:

    particles    stochastic volatility, T = 1,000 (less for many particles)     N = 100 ... 4,000,000
    steps        stochastic volatility, N = 1,000                               T = 100 ... 100,000
    dimension    d coordinates that pull at each other, all observed, N = 10,000, T = 100      d = 1 ... 40
    parameters   stochastic volatility, N = 1,000, T = 100, all in one call     1 ... 1,000 parameter vectors

Writes OUT.json, each point as soon as it is measured, and OUT.png: medians of ns per particle, step and (third sweep)
coordinate, on one thread.  The first call, which compiles, is reported apart.  Does not need ArviZ or BlackJAX; the
figure needs Matplotlib.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from records import save, use_device

PARTICLES = (100, 300, 1000, 3000, 10_000, 100_000, 1_000_000, 4_000_000)
STEPS = (100, 1000, 10_000, 100_000)
DIMENSIONS = (1, 2, 5, 10, 20, 40)
VECTORS = (1, 10, 100, 1000)


def median(call: Callable[[int], object], runs: int) -> tuple[float, float]:
    """Seconds of a call, and what the first one took beyond."""
    begin = time.perf_counter()
    call(0)
    first, seconds = time.perf_counter() - begin, []
    for seed in range(1, runs + 1):
        begin = time.perf_counter()
        call(seed)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), max(0.0, first - statistics.median(seconds))


def volatility_filter(n: int, steps: int, vectors: int = 0) -> Callable[[int], object]:
    """Filter stochastic volatility, for many parameters at once if `vectors` is positive."""
    import jax
    import jax.numpy as jnp
    from workload_a import data
    from workload_a_runners import MU, PHI, SIGMA, volatility_model

    import ssmscan

    y = np.tile(data(), -(-steps // 1000))[:steps]
    ssm, settings = ssmscan.trace(volatility_model(), jnp.asarray(y)), ssmscan.ParticleFilter(n)
    theta = {"mu": MU, "phi": PHI, "sigma": SIGMA}
    if not vectors:
        return lambda seed: float(settings.run(jax.random.key(seed), ssm, theta).log_likelihood)
    spread = {name: value + 0.01 * jnp.linspace(-1.0, 1.0, vectors) for name, value in theta.items()}
    many = jax.jit(jax.vmap(lambda key, theta: ssmscan.log_likelihood(key, ssm, theta, num_particles=n)))
    return lambda seed: np.asarray(many(jax.random.split(jax.random.key(seed), vectors), spread))


def coupled_filter(n: int, steps: int, dimension: int) -> Callable[[int], object]:
    """Filter an autoregression whose coordinates move towards their mean (independent ones would be a panel)."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.control_flow import scan

    import ssmscan

    def model(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        start = numpyro.sample("x0", dist.Normal(jnp.zeros(dimension), 1.0).to_event(1))

        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(0.8 * x + 0.1 * x.mean(), scale).to_event(1))
            numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)
            return x, None

        scan(transition, start, y)

    y = np.random.default_rng(1).normal(size=(steps, dimension)).astype(np.float32)
    ssm, settings = ssmscan.trace(model, jnp.asarray(y)), ssmscan.ParticleFilter(n)
    return lambda seed: float(settings.run(jax.random.key(seed), ssm, {"scale": 0.3}).log_likelihood)


def sweeps(runs: int, quick: bool, keep: Callable[[dict], None]) -> dict[str, list[dict[str, float]]]:
    """Measure all points, and hand over those there are after each."""
    limit = 10_000 if quick else 10**9
    found: dict[str, list[dict[str, float]]] = {"particles": [], "steps": [], "dimension": [], "parameters": []}

    def add(sweep: str, x: int, updates: int, call: Callable[[int], object]) -> None:
        seconds, compiling = median(call, runs)
        point = {"x": x, "ns": 1e9 * seconds / updates, "seconds": seconds, "compile": compiling}
        found[sweep].append({**point, "load": os.getloadavg()[0]})
        print(f"{sweep:10s} {x:8d}  {point['ns']:8.2f} ns  {seconds:8.4f} s  compile {compiling:5.2f} s", flush=True)
        keep(found)

    for n in (n for n in PARTICLES if n <= limit):
        steps = max(10, min(1000, 20_000_000 // n))
        add("particles", n, n * steps, volatility_filter(n, steps))
    for steps in (steps for steps in STEPS if steps <= limit):
        add("steps", steps, 1000 * steps, volatility_filter(1000, steps))
    for dimension in DIMENSIONS:
        add("dimension", dimension, 10_000 * 100 * dimension, coupled_filter(10_000, 100, dimension))
    for vectors in (m for m in VECTORS if m * 100 <= limit):
        add("parameters", vectors, 1000 * 100 * vectors, volatility_filter(1000, 100, vectors))
    return found


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """One panel a sweep."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    labels = {
        "particles": ("particles N", "ns per particle and step"),
        "steps": ("steps T", "ns per particle and step"),
        "dimension": ("state dimension d", "ns per particle, step and coordinate"),
        "parameters": ("parameter vectors in one call", "ns per particle and step"),
    }
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    for (sweep, points), axis in zip(found.items(), axes.flat):
        axis.plot([p["x"] for p in points], [p["ns"] for p in points], "o-", color="#30638e")
        axis.set(xscale="log", xlabel=labels[sweep][0], ylabel=labels[sweep][1])
        axis.set_ylim(0, 1.1 * max(p["ns"] for p in points))
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="gpu, or a platform of JAX")
    parser.add_argument("--quick", action="store_true", help="the small points alone")
    options = parser.parse_args()
    use_device(options.device)
    if options.device == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {options.device}"
    print(f"{machine}, load average {os.getloadavg()}", flush=True)
    path = options.out and options.out.with_suffix(".json")
    found = sweeps(options.runs, options.quick, lambda found: save(path, {"machine": machine, **found}))
    if options.out:
        draw(found, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
