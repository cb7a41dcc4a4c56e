"""Time per particle-step of models observed after the loop, at two lengths of the series.

    python benchmarks/tail.py [--particles 10000]

Each model is filtered at T = 50 and T = 5,000, beside the same model with the observation written
inside the transition, resampling at every step.  A time is the processor time of the fastest of
several compiled runs, all threads together, over N x T: it is not disturbed by others on the machine
as the time on the clock is.  Compilation is excluded.  Prints one line of JSON a model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan

LENGTHS = (50, 5000)
READOUT = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
LEVELS = np.array([-1.0, 1.0, 3.0], np.float32)


def volatility(y, *, inside):
    """Log-variance as an AR(1), returns seen through it."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))

    def step(h, yt):
        h = numpyro.sample("h", dist.Normal(mu + 0.97 * (h - mu), 0.2))
        if inside:
            numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=yt[0])
        return h, h

    _, h = scan(step, mu, y)
    if not inside:
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y[:, 0])


def readout(y, *, inside):
    """Two states seen through a matrix, in three channels."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(0.9 * x, s).to_event(1))
        if inside:
            numpyro.sample("y", dist.Normal(READOUT @ x, 1.0).to_event(1), obs=yt)
        return x, x

    _, path = scan(step, jnp.zeros(2), y)
    if not inside:
        numpyro.sample("y", dist.Normal(path @ READOUT.T, 1.0).to_event(1), obs=y)


def switching(y, *, inside):
    """A Markov chain that picks the level of the data."""
    stay = numpyro.sample("stay", dist.Beta(8.0, 2.0))
    rows = jnp.where(jnp.eye(3, dtype=bool), stay, (1 - stay) / 2)

    def step(z, yt):
        z = numpyro.sample("z", dist.Categorical(rows[z]))
        if inside:
            numpyro.sample("y", dist.Normal(jnp.asarray(LEVELS)[z], 1.0), obs=yt[0])
        return z, z

    _, z = scan(step, 0, y)
    if not inside:
        numpyro.sample("y", dist.Normal(jnp.asarray(LEVELS)[z], 1.0), obs=y[:, 0])


MODELS = {volatility: {"mu": -0.5}, readout: {"s": 0.5}, switching: {"stay": 0.9}}


def seconds(model: Callable, y: np.ndarray, theta: dict, particles: int, *, inside: bool) -> float:
    """Give the processor time of the fastest of several runs."""
    ssm = ssmscan.trace(model, y, inside=inside)
    settings = ssmscan.ParticleFilter(particles, threshold=1, summaries=())
    theta = ssm.canonical(theta)
    run = jax.jit(settings.run).lower(jax.random.key(0), ssm, theta).compile()
    times = []
    for i in range(60 if len(y) <= LENGTHS[0] else 3):
        start = time.process_time()
        run(jax.random.key(i), ssm, theta).log_likelihood.block_until_ready()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print ns per particle-step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=10_000)
    particles = parser.parse_args().particles
    for model, theta in MODELS.items():
        row: dict[str, object] = {"model": model.__name__, "particles": particles}
        for where in ("after", "inside"):
            for length in LENGTHS:
                y = np.random.default_rng(1).normal(size=(length, 3)).astype(np.float32)
                elapsed = seconds(model, y, theta, particles, inside=where == "inside")
                row[f"{where}, T = {length}"] = round(1e9 * elapsed / (particles * length), 2)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
