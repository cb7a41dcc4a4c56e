"""How often conditional SMC updates the states of a long series, step by step.

    python benchmarks/update_rates.py [--steps 1000] [--particles 20] [--updates 400] [--out FILE]

Stochastic volatility at its simulated parameters.  From a path of the smoothing law, the share of updates in which the
values of a step are another particle's: without ancestor or backward sampling, with either, and with a proposal that
looks ahead.  Then the number of particles with which nine in ten updates change the first state.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

import ssmscan
from ssmscan.stochastic_volatility import stochastic_volatility

THETA = {"mu": -1.0, "phi": 0.97, "sigma": 0.18}
FIRST = 0.9


@partial(jax.jit, static_argnames=("smc", "updates"))
def rates(key, ssm, path, *, smc, updates):
    """Run a chain of updates; return the share of them that change each step."""

    def update(path, key):
        found = smc.run(key, ssm, THETA, path)
        return {name: found.states[name] for name in path}, found.updated

    _, updated = jax.lax.scan(update, path, jax.random.split(key, updates))
    return updated.mean(0)


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--particles", type=int, default=20)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    empty = ssmscan.trace(stochastic_volatility, np.zeros(options.steps, np.float32))
    y = np.asarray(empty.simulate(jax.random.key(0), THETA)["y"])
    ssm = empty.with_data(y)
    filtered = ssmscan.ParticleFilter(1_000, store=ssmscan.FullHistory()).run(jax.random.key(1), ssm, THETA)
    drawn = ssmscan.backward_sample(jax.random.key(2), ssm, THETA, filtered, num_paths=1)
    path = {name: drawn[name][0] for name in ("h_0", "h")}
    kinds = {
        "bootstrap, ancestral": {"backward": ssmscan.Ancestral()},
        "bootstrap, ancestor sampling": {"backward": ssmscan.AncestorSampling()},
        "bootstrap, backward sampling": {"backward": ssmscan.BackwardSampling()},
        "look-ahead, ancestral": {"backward": ssmscan.Ancestral(), "proposal": ssmscan.LookAhead()},
        "look-ahead, ancestor sampling": {"proposal": ssmscan.LookAhead()},
    }
    shown = [0, options.steps // 4, options.steps // 2, 3 * options.steps // 4, options.steps - 1]
    records = []
    print(f"stochastic volatility, T = {options.steps}, N = {options.particles}, {options.updates} updates")
    print(f"{'':30s}" + "".join(f"{f't = {t}':>9s}" for t in shown) + f"{'least':>8s}{'ms':>8s}")
    for name, settings in kinds.items():
        run = partial(rates, smc=ssmscan.ConditionalSMC(options.particles, **settings), updates=options.updates)
        jax.block_until_ready(run(jax.random.key(3), ssm, path))
        began = time.perf_counter()
        found = np.asarray(run(jax.random.key(4), ssm, path))
        each = 1000 * (time.perf_counter() - began) / options.updates
        print(f"{name:30s}" + "".join(f"{found[t]:9.3f}" for t in shown) + f"{found.min():8.3f}{each:8.2f}", flush=True)
        records.append({"kind": name, "N": options.particles, "rates": found.tolist(), "ms an update": each})
    for name in kinds:
        for n in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            smc = ssmscan.ConditionalSMC(n, **kinds[name])
            first = float(rates(jax.random.key(5), ssm, path, smc=smc, updates=max(40, min(200, 40_000 // n)))[0])
            if first >= FIRST:
                break
        print(f"{name:30s} first state changed in {first:.2f} of the updates with N = {n}", flush=True)
        records.append({"kind": name, "N for the first state": n, "rate": first})
    if options.out:
        options.out.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
