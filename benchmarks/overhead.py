"""What tracing costs: the same filter for a model in NumPyro and for its functions written by hand in JAX.

    python benchmarks/overhead.py [--particles 1000 10000 100000] [--runs 7]

Stochastic volatility of workload A, resampling at every step and when ESS < N/2.  By hand, `init` and `step` are what
somebody would write who knows the model: no distributions, no trace, constants kept out of the loop.  The kernel is
the same, and so are the keys; rounding parts the clouds, so the two log-likelihoods agree to their Monte Carlo error.
Runs alternate; medians of processor time on one CPU.  The aim is less than 15 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from workload_a import data
from workload_a_runners import MU, PHI, SIGMA, volatility_model

import ssmscan
from ssmscan.model.protocols import NoiseSpec, Start, Step


@partial(jax.tree_util.register_dataclass, data_fields=["y"], meta_fields=[])
@dataclass(frozen=True)
class ByHand:
    """The model as the kernel sees it; y is (T,)."""

    y: jax.Array
    panel = None
    start_observed = False
    observations = ()
    initial_noise = {"x0": NoiseSpec((), False)}
    step_noise = {"x": NoiseSpec((), False)}

    @property
    def loops(self) -> tuple[ByHand, ...]:
        return (self,)

    @property
    def num_steps(self) -> int:
        return len(self.y)

    def canonical(self, theta: Any) -> Any:
        return {name: jnp.asarray(value, float) for name, value in theta.items()}

    def log_static(self, theta: Any) -> jax.Array:
        return jnp.zeros(())

    def at(self, theta: Any) -> LoopDynamics:
        return LoopDynamics(self, theta)


class LoopDynamics:
    """The model at its parameters."""

    def __init__(self, model: ByHand, theta: Any) -> None:
        self.xs, self.theta, self.num_steps = model.y, theta, model.num_steps
        self.start_observed, self.initial_noise, self.step_noise = False, ByHand.initial_noise, ByHand.step_noise
        self.constant = 0.5 * jnp.log(2 * jnp.pi)

    def init(self, noise: dict) -> Start:
        x = self.theta["mu"] + self.theta["sigma"] / jnp.sqrt(1 - self.theta["phi"] ** 2) * noise["x0"]
        return Start(x, jnp.zeros(()), {"x0": x})

    def step(self, x: jax.Array, y: jax.Array, noise: dict) -> Step:
        x = self.theta["mu"] + self.theta["phi"] * (x - self.theta["mu"]) + self.theta["sigma"] * noise["x"]
        return Step(x, -0.5 * (x + y * y * jnp.exp(-x)) - self.constant, {"x": x}, {})


def main() -> None:
    """Print ns per particle-step of both, and the overhead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    y = jnp.asarray(data())
    models = {"traced": ssmscan.trace(volatility_model(), y), "by hand": ByHand(y)}
    theta = {"mu": MU, "phi": PHI, "sigma": SIGMA}
    print(f"load average {os.getloadavg()}\n{'N':>7s} {'resampling':10s} {'traced':>7s} {'by hand':>8s} overhead")
    for n in options.particles:
        for threshold in (1, 0.5):
            settings = ssmscan.ParticleFilter(n, threshold=threshold)
            runs = {
                name: jax.jit(settings.run).lower(jax.random.key(0), ssm, ssm.canonical(theta)).compile()
                for name, ssm in models.items()
            }
            times: dict[str, list[float]] = {name: [] for name in runs}
            found: dict[str, float] = {}
            for seed in range(options.runs):
                for name, run in runs.items():
                    begin = time.process_time()
                    result = run(jax.random.key(seed), models[name], models[name].canonical(theta))
                    found[name] = float(result.log_likelihood)
                    times[name].append(time.process_time() - begin)
            ns = {name: 1e9 * statistics.median(seconds) / (n * len(y)) for name, seconds in times.items()}
            print(
                f"{n:7d} {'every' if threshold == 1 else 'ESS < N/2':10s} {ns['traced']:7.2f} {ns['by hand']:8.2f} "
                f"{100 * (ns['traced'] / ns['by hand'] - 1):+7.1f} %   log Z {found['traced']:.3f} "
                f"{found['by hand']:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
