"""Is float32 right at a million particles and over a hundred thousand steps?

    python -m tests.particles.large [ancestors] [unbiased] [steps]

`ancestors`: systematic and stratified resampling of 1e6 and 4e6 float32 weights against NumPy in float64, from the
same uniforms: the offspring of no particle may end more than one place off (two where the uniforms of neighbouring
strata are near one and near zero), and none without weight may have any.
`unbiased`: E[Z_hat / Z] = 1 for a million particles on the first 200 values of GBP/USD, 50 replicates; Z by
quadrature.
`steps`: the likelihood of 1e5 steps against the float64 sum of its increments.
"""

from __future__ import annotations

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import ssmscan
from ssmscan import datasets
from ssmscan.particles.draws import as_key
from ssmscan.particles.resampling import stratified, systematic
from ssmscan.particles.weights import normalise
from tests.inference.sv_quadrature import log_likelihood
from tests.particles.models import stochastic_volatility
from tests.truth import minimal_detectable_effect, z_threshold

THETA = {"mu": -1.02, "rho": 0.9702, "sigma": 0.178}
REPLICATES, PARTICLES = 50, 1_000_000


def ancestors() -> bool:
    """Compare with NumPy, for light and for heavy tails of the weights, and with a quarter of them zero."""
    right = True
    for n in (1_000_000, 4_000_000):
        for scheme, shape, limit in ((systematic, (), 1), (stratified, (n,), 2)):
            for spread in (1.0, 4.0):
                raw = np.random.default_rng(0).normal(0, spread, n).astype(np.float32)
                raw[np.random.default_rng(1).random(n) < 0.25] = -np.inf
                key = as_key(jax.random.key(0))
                place = jax.jit(lambda key, raw, scheme=scheme, n=n: scheme(key, normalise(raw).weights, n))
                found = np.bincount(np.asarray(place(key, jnp.asarray(raw))), minlength=n)
                u = np.asarray(jax.random.uniform(key, shape), float)
                reached = np.cumsum(np.exp(raw.astype(float)))
                reached[np.flatnonzero(np.isfinite(raw))[-1] :] = reached[-1]
                expected = np.bincount(
                    np.searchsorted(reached / reached[-1], (np.arange(n) + u) / n, side="right"), minlength=n
                )
                off = np.abs(np.cumsum(found) - np.cumsum(expected))
                rank = np.cumsum(np.isfinite(raw))
                moved = np.abs(np.repeat(rank, found) - np.repeat(rank, expected))
                dead = int(found[np.isneginf(raw)].sum())
                right &= bool(off.max() <= limit and dead == 0 and found.sum() == n)
                print(
                    f"N {n:8d}  {scheme.__name__:10s}  sd of log weights {spread:.0f}: offspring end another place for "
                    f"{np.mean(off > 0):.1e} of the particles, at most {off.max()} off, without weight {dead}; other "
                    f"ancestors {np.mean(moved > 0):.1e}, at most {moved.max()} particles with weight away"
                )
    return right


def unbiased() -> bool:
    """Average the ratio of the estimate to the truth."""
    y = datasets.gbpusd().values[:200]
    ssm = ssmscan.trace(stochastic_volatility, jnp.asarray(y, float))
    exact = float(log_likelihood(y, np.array([THETA["mu"]]), THETA["rho"], THETA["sigma"])[0])
    run = jax.jit(lambda key: ssmscan.log_likelihood(key, ssm, THETA, num_particles=PARTICLES))
    began = time.perf_counter()
    found = np.array([run(jax.random.key(seed)) for seed in range(REPLICATES)], float)
    seconds = time.perf_counter() - began
    ratio = np.exp(found - exact)
    error = ratio.std(ddof=1) / np.sqrt(REPLICATES)
    z = (ratio.mean() - 1) / error
    print(
        f"N {PARTICLES}, {REPLICATES} replicates, T = 200, {seconds:.0f} s: exact {exact:.5f}, "
        f"mean {found.mean():.5f}, sd {found.std(ddof=1):.5f}; E[Z_hat/Z] - 1 = {ratio.mean() - 1:+.2e} (z {z:.2f}); "
        f"a bias of {minimal_detectable_effect(error, 1):.1e} would be found with 90 % power"
    )
    return bool(abs(z) < z_threshold(1))


def steps() -> bool:
    """Add increments in float64."""
    y = np.tile(datasets.gbpusd().values, 134)[:100_000]
    ssm = ssmscan.trace(stochastic_volatility, jnp.asarray(y, float))
    result = ssmscan.ParticleFilter(100, summaries=()).run(jax.random.key(0), ssm, THETA)
    increments = np.asarray(result.increments)
    whole, plain = np.sum(increments.astype(float)), np.add.accumulate(increments)[-1]
    spacing = float(np.spacing(np.float32(abs(whole))))
    print(
        f"T = {len(y)}: log likelihood {float(result.log_likelihood):.4f}, increments in float64 {whole:.4f} "
        f"(float32 is spaced by {spacing:.4f} there), a plain float32 sum {plain:.4f}"
    )
    return abs(float(result.log_likelihood) - whole) <= spacing


PARTS = {"ancestors": ancestors, "unbiased": unbiased, "steps": steps}


def main(names: list[str]) -> None:
    """Run parts and exit with 1 if one fails."""
    verdicts = {name: PARTS[name]() for name in names or PARTS}
    print(", ".join(f"{name}: {'PASS' if right else 'FAIL'}" for name, right in verdicts.items()))
    sys.exit(not all(verdicts.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
