"""SMC2 beside other libraries, and the time of an update against the length of the series.

    python benchmarks/smc2.py [--points 512] [--particles 512] [--steps 100] --peer particles=PYTHON smcx=PYTHON
    python benchmarks/smc2.py --updates [--steps 1000]

Stochastic volatility with unknown mean, persistence and volatility, on daily returns of GBP/USD.  Every library takes
in the same series with the same number of parameter points and of particles, which stays as it is, and moves points by
particle marginal Metropolis-Hastings where fewer than half are effective.  They differ in how often points are moved:
what each did is printed beside its time, and the processor's nanoseconds per particle and step of all filters that it
ran.  The first call, which compiles, is timed apart.  One process a library, one after the other on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent

MOVES = 4
"""Moves of the peers at each step where they move points, nearly as many as ssmscan makes by default."""


def returns(steps: int) -> np.ndarray:
    """Read the series from the file of the package, with nothing but NumPy."""
    rates = np.loadtxt(HERE.parent / "ssmscan/datasets/gbpusd.csv", delimiter=",", skiprows=1, usecols=1)
    return (100 * np.diff(np.log(rates)))[:steps]


def volatility(y: Any) -> None:
    """y_t ~ N(0, exp(x_t)), x a stationary autoregression."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.control_flow import scan

    mu = numpyro.sample("mu", dist.Normal(-1.0, 1.0))
    phi = numpyro.sample("phi", dist.Beta(20.0, 1.5))
    sigma = numpyro.sample("sigma", dist.Gamma(2.0, 10.0))
    x_0 = numpyro.sample("x_0", dist.Normal(mu, sigma / jnp.sqrt(1.0 - phi**2)))

    def step(x: Any, y: Any) -> tuple[Any, None]:
        x = numpyro.sample("x", dist.Normal(mu + phi * (x - mu), sigma))
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(x / 2)), obs=y)
        return x, None

    scan(step, x_0, y)


class Clock:
    """Seconds on the clock and of the processor since it was made."""

    def __init__(self):
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def times(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": time.process_time() - self._cpu}


def of_ssmscan(seed: int, y: np.ndarray, points: int, particles: int) -> dict[str, float]:
    """One run with default moves."""
    import jax

    import ssmscan

    engine = ssmscan.SMC2(num_points=points, num_particles=particles, num_runs=1, num_paths=0, progress=False)
    ssm = ssmscan.trace(volatility, y)
    clock = Clock()
    result = engine.run(jax.random.key(seed), ssm)
    times = clock.times
    moves = engine.running(result).num_moves[0]
    # Each run of a filter over part of the series: the run itself, and all moves.
    steps = points * (len(y) + float((moves * np.arange(len(moves))).sum()))
    return {
        **times,
        "log_evidence": result.log_evidence,
        "filter_steps": steps,
        "renewed": int((moves > 0).sum()),
        "moves": int(moves.sum()),
    }


def of_particles(seed: int, y: np.ndarray, points: int, particles: int) -> dict[str, float]:
    """SMC2 of particles: standard, not waste-free, chains of its own length."""
    import particles as pt
    from particles import distributions as dists
    from particles import smc_samplers
    from particles import state_space_models as ssms

    class Volatility(ssms.StateSpaceModel):
        def PX0(self):
            return dists.Normal(loc=self.mu, scale=self.sigma / np.sqrt(1 - self.phi**2))

        def PX(self, t, xp):
            return dists.Normal(loc=self.mu + self.phi * (xp - self.mu), scale=self.sigma)

        def PY(self, t, xp, x):
            return dists.Normal(loc=0.0, scale=np.exp(x / 2))

    prior = dists.StructDist(
        {"mu": dists.Normal(loc=-1.0), "phi": dists.Beta(20.0, 1.5), "sigma": dists.Gamma(2.0, 10.0)}
    )
    np.random.seed(seed)
    options = {"ESSrmin": 0.5, "resampling": "systematic"}
    model = smc_samplers.SMC2(
        ssm_cls=Volatility,
        prior=prior,
        data=y,
        init_Nx=particles,
        smc_options=options,
        wastefree=False,
        len_chain=MOVES + 1,
    )
    run = pt.SMC(fk=model, N=points, ESSrmin=0.5, resampling="systematic")
    clock = Clock()
    run.run()
    times = clock.times
    at = np.flatnonzero(np.asarray(run.summaries.rs_flags))
    steps = points * (len(y) + MOVES * float(at.sum()))
    return {
        **times,
        "log_evidence": float(run.logLt),
        "filter_steps": steps,
        "renewed": len(at),
        "moves": MOVES * len(at),
    }


def of_smcx(seed: int, y: np.ndarray, points: int, particles: int) -> dict[str, float]:
    """SMC2 of smcx, on unconstrained parameters."""
    import jax
    import jax.numpy as jnp
    import smcx

    def split(z: Any) -> tuple[Any, Any, Any]:
        return z[0], jax.nn.sigmoid(z[1]), jnp.exp(z[2])

    def sample(key: Any, count: int) -> Any:
        keys = jax.random.split(key, 3)
        phi, sigma = jax.random.beta(keys[1], 20.0, 1.5, (count,)), jax.random.gamma(keys[2], 2.0, (count,)) / 10.0
        mu = -1.0 + jax.random.normal(keys[0], (count,))
        return jnp.stack([mu, jax.scipy.special.logit(phi), jnp.log(sigma)], 1)

    def log_prior(z: Any) -> Any:
        mu, phi, sigma = split(z)
        stats = jax.scipy.stats
        density = (
            stats.norm.logpdf(mu, -1.0) + stats.beta.logpdf(phi, 20.0, 1.5) + stats.gamma.logpdf(sigma, 2.0, scale=0.1)
        )
        return density + jnp.log(phi) + jnp.log1p(-phi) + z[2]

    def start(key: Any, count: int, z: Any) -> Any:
        mu, phi, sigma = split(z)
        return mu + sigma / jnp.sqrt(1.0 - phi**2) * jax.random.normal(key, (count, 1))

    def step(key: Any, x: Any, z: Any) -> Any:
        mu, phi, sigma = split(z)
        return mu + phi * (x - mu) + sigma * jax.random.normal(key, (1,))

    def log_density(y: Any, x: Any, z: Any) -> Any:
        return jnp.sum(jax.scipy.stats.norm.logpdf(y, 0.0, jnp.exp(x / 2)))

    clock = Clock()
    found = smcx.smc2(
        *(jax.random.key(seed), sample, log_prior, start, step, log_density),
        *(jnp.asarray(y, jnp.float32), points, particles),
        num_pmmh_steps=MOVES,
    )
    jax.block_until_ready(found)
    times = clock.times
    at = np.flatnonzero(np.asarray(found.acceptance_rates))
    return {
        **times,
        "log_evidence": float(found.marginal_loglik),
        "filter_steps": points * (len(y) + MOVES * float((at + 1).sum())),
        "renewed": len(at),
        "moves": MOVES * len(at),
    }


RUNS = {"ssmscan": of_ssmscan, "particles": of_particles, "smcx": of_smcx}


def measured(name: str, python: str, arguments: list[str]) -> dict[str, Any]:
    """Run a library in a process of its own."""
    command = [python, str(HERE / "smc2.py"), "--runner", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"library": name, "error": done.stderr.strip().splitlines()[-1]}
    return {"library": name, **json.loads(done.stdout.splitlines()[-1])}


def runner(name: str, options: argparse.Namespace) -> None:
    """Run a library once to compile and some times more, and print what was found as JSON."""
    warnings.simplefilter("ignore")
    y = returns(options.steps)
    begun = time.perf_counter()
    first = RUNS[name](0, y, options.points, options.particles)
    first_seconds = time.perf_counter() - begun
    found = [RUNS[name](seed, y, options.points, options.particles) for seed in range(1, 1 + options.repeats)]
    ran = found or [first]
    last = ran[-1]
    seconds, cpu = (statistics.median(one[name] for one in ran) for name in ("seconds", "cpu_seconds"))
    nanoseconds = statistics.median(1e9 * one["cpu_seconds"] / (one["filter_steps"] * options.particles) for one in ran)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 3),
                "cpu_seconds": round(cpu, 3),
                "first": round(first_seconds, 1),
                "cpu_ns": round(nanoseconds, 1),
                "log_evidence": [round(one["log_evidence"], 3) for one in (first, *found)],
                "renewed": last["renewed"],
                "moves": last["moves"],
            }
        )
    )


def updates(options: argparse.Namespace) -> None:
    """Take in one observation after the other, and print the time of an update."""
    import jax

    import ssmscan

    warnings.simplefilter("ignore")
    y = np.tile(returns(750), -(-options.steps // 750))[: options.steps]
    ssm = ssmscan.trace(volatility, y)
    engine = ssmscan.SMC2(
        num_points=options.points, num_particles=options.particles, num_runs=1, num_paths=0, progress=False
    )
    result = engine.run(jax.random.key(0), ssm, num_steps=1)
    times = []
    for t in range(2, options.steps + 1):
        begun = time.perf_counter()
        result = engine.update(result, ssm, num_steps=t)
        times.append(time.perf_counter() - begun)
    moves = engine.running(result).num_moves[0][2:]
    times, plain = np.array(times), moves == 0
    print(f"{options.points} points of {options.particles} particles, load average {os.getloadavg()[0]:.1f}")
    for part in np.array_split(np.arange(len(times)), 10):
        own, moved = times[part][plain[part]], times[part][~plain[part]]
        print(
            f"steps {part[0] + 2:5d} to {part[-1] + 2:5d}: {1e3 * np.median(own):7.1f} ms an update without moves "
            f"({len(own)}), {1e3 * np.median(moved) if len(moved) else np.nan:9.1f} ms with ({len(moved)}), "
            f"{1e3 * times[part].mean():9.1f} ms on average"
        )


def main() -> None:
    """Run all that was asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--particles", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--updates", action="store_true")
    parser.add_argument("--runner")
    options = parser.parse_args()
    if options.runner:
        return runner(options.runner, options)
    if options.updates:
        return updates(options)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    shape = [f"--{name}={getattr(options, name)}" for name in ("points", "particles", "steps", "repeats")]
    print(f"{options.points} points x {options.particles} particles x {options.steps} observations, one core")
    for name, python in [("ssmscan", sys.executable), *(peer.split("=", 1) for peer in options.peer)]:
        found = measured(name, python, shape)
        print(json.dumps({**found, "load": round(os.getloadavg()[0], 1)}), flush=True)
    return None


if __name__ == "__main__":
    main()
