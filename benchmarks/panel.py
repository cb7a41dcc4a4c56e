"""A panel of 64 series: filtered one by one, jointly, and in a Python loop.

    python benchmarks/panel.py [--particles 500]

Prints one line of JSON: effective sample sizes, log likelihood of the panel and the sum of its series
run alone with the same keys, and processor times of compiled runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.particles.draws import as_key

STEPS, SERIES = 50, 64
THETA = {"s": 0.5}


def model(y, *, coupling=None):
    """Autoregressions; coupled by a term of value zero, or by a shared factor."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(x, yt):
        mean = 0.8 * x + (0 * x.mean() if coupling == "zero" else 0)
        if coupling == "factor":
            mean = mean + numpyro.sample("g", dist.Normal(0.0, 0.3))
        x = numpyro.sample("x", dist.Normal(mean, s).to_event(1))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=yt)
        return x, None

    scan(step, np.zeros(y.shape[1], np.float32), y)


def timed(run: Callable) -> float:
    """Give the processor time of the faster of two runs."""
    times = []
    for _ in range(2):
        start = time.process_time()
        jax.block_until_ready(run())
        times.append(time.process_time() - start)
    return round(min(times), 3)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=500)
    settings = ssmscan.ParticleFilter(parser.parse_args().particles, summaries=())
    y = np.random.default_rng(0).normal(scale=1.3, size=(STEPS, SERIES)).astype(np.float32)
    key = jax.random.key(0)
    panel, joint, factor = (ssmscan.trace(model, y, coupling=c) for c in (None, "zero", "factor"))
    singles = [ssmscan.trace(model, y[:, m : m + 1]) for m in range(SERIES)]
    keys = [jax.random.fold_in(as_key(key), m) for m in range(SERIES)]

    def loop() -> list:
        return [settings.run(k, one, THETA).log_likelihood for k, one in zip(keys, singles)]

    own, together, alone = settings.run(key, panel, THETA), settings.run(key, joint, THETA), loop()
    print(
        json.dumps(
            {
                "particles": settings.num_particles,
                "mean ESS, one by one": round(float(own.ess.mean()), 1),
                "mean ESS, jointly": round(float(together.ess.mean()), 1),
                "log likelihood, panel": float(own.log_likelihood),
                "log likelihood, sum of single runs": float(np.sum(np.array(alone, np.float64))),
                "log likelihood, jointly": float(together.log_likelihood),
                "seconds, panel": timed(lambda: settings.run(key, panel, THETA).log_likelihood),
                "seconds, loop": timed(loop),
                "seconds, jointly": timed(lambda: settings.run(key, joint, THETA).log_likelihood),
                "shared factor": repr(factor).splitlines()[-1],
            }
        )
    )


if __name__ == "__main__":
    main()
