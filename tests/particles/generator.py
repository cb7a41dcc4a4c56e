r"""Is the base noise what it should be?  Law and independence of 2e9 draws, and bits equal to JAX's.

    python -m tests.particles.generator [chunks]

Draws are made as a filter makes them, one key a step, in chunks of 2^24; 120 chunks (2.0e9 draws, the default) take
about a minute on one core.  Every line is one statistic with its z; the last line says whether all are below the
threshold of the suite's error rate for so many comparisons.

*Law.*  Moments of order 1 to 4, with the variance of eps^k under the normal law; counts of |eps| > k for k = 1..5
against the normal tails.  Float32 normals end at sqrt(64 log 2) = 6.66, where the normal law has 2.8e-11 left:
nothing that 2e9 draws could show.

*Independence.*  Correlations of eps and of eps^2 between draws of neighbouring keys, steps, streams and particles.
"""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ssmscan.particles.draws import as_key, standard_normal
from ssmscan.particles.filter_step import step_keys
from tests.truth import ERROR_RATE, z_threshold

CHUNK = 2**24
PAIRS = 2**18
TAILS = (1, 2, 3, 4, 5)
# Expectation and variance of eps^k.
MOMENTS = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}
LAGS = (1, 2, 3, 4, 8, 16, 32, 1024)


class Statistic(NamedTuple):
    """A name, what was found, and its z under the law that it should have."""

    name: str
    found: float
    z: float


def accepted(statistics: list[Statistic]) -> bool:
    """Whether no z is beyond the threshold of the suite."""
    return max(abs(s.z) for s in statistics) < z_threshold(len(statistics), ERROR_RATE)


# Draws are made by one compiled function and used by another: XLA would make them again for each use.
_draw = jax.jit(standard_normal, static_argnums=(1, 2))
_step_keys = jax.jit(step_keys)


@jax.jit
def _sums(eps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Row sums of powers, and counts in the tails."""
    eps = eps.reshape(-1, 1024)
    powers = jnp.stack([jnp.sum(eps**k, 1) for k in MOMENTS])
    tails = jnp.stack([jnp.sum(jnp.abs(eps) > k) for k in TAILS])
    return powers, tails


def law(seed: int, chunks: int, size: int = CHUNK) -> list[Statistic]:
    """Moments and tails of chunks * size draws."""
    key, n = as_key(jax.random.key(seed)), chunks * size
    powers, tails = np.zeros(len(MOMENTS)), np.zeros(len(TAILS), np.int64)
    for step in range(1, chunks + 1):
        rows, counts = _sums(_draw(_step_keys(key, jnp.uint32(step))[1], (size,)))
        powers += np.asarray(rows, np.float64).sum(1)
        tails += np.asarray(counts, np.int64)
    found = []
    for (k, (mean, variance)), total in zip(MOMENTS.items(), powers):
        found.append(Statistic(f"mean of eps^{k}", total / n, (total / n - mean) / (variance / n) ** 0.5))
    for k, count in zip(TAILS, tails):
        # The exact binomial tail as a normal score: ten are expected beyond 5 sd in 2e7 draws.
        p = 2 * stats.norm.sf(k)
        below, above = stats.binom.cdf(count, n, p), stats.binom.sf(count - 1, n, p)
        z = stats.norm.ppf(below) if below < above else stats.norm.isf(above)
        found.append(Statistic(f"|eps| > {k}, of {n * p:.0f}", float(count), float(z)))
    return found


@jax.jit
def _products(eps: jax.Array, other: jax.Array, stream: jax.Array, pair: jax.Array) -> jax.Array:
    """Row sums of the products of two arrays of draws and of their centred squares, for all ways to neighbour."""

    def both(x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = x.reshape(-1, 1024), y.reshape(-1, 1024)
        return jnp.stack([jnp.sum(x * y, 1), jnp.sum((x * x - 1.0) * (y * y - 1.0), 1) / 2.0])

    rolled = [both(eps, jnp.roll(eps, lag)) for lag in LAGS]
    return jnp.stack([both(eps, other), both(eps, stream), both(pair[:, 0], pair[:, 1]), *rolled])


def independence(seed: int, chunks: int, size: int = PAIRS) -> list[Statistic]:
    """Correlations between neighbours, from chunks * size pairs each."""
    key, n = as_key(jax.random.key(seed)), chunks * size
    keys = jax.random.split(key, 2 * chunks)
    found = []
    for what in ("steps", "keys"):
        totals = np.zeros((3 + len(LAGS), 2))
        for i in range(chunks):
            steps = (_step_keys(key, jnp.uint32(2 * i + j))[1] for j in (1, 2))
            first, second = steps if what == "steps" else keys[2 * i : 2 * i + 2]
            draws = (_draw(first, (size,)), _draw(second, (size,)), _draw(first, (size,), 1), _draw(first, (size, 2)))
            totals += np.asarray(_products(*draws), np.float64).sum(-1)
        names = [what, f"streams, {what}", f"columns, {what}", *(f"particles {lag} apart, {what}" for lag in LAGS)]
        for name, row in zip(names, totals):
            for power, total in zip(("eps", "eps^2"), row):
                found.append(Statistic(f"correlation of {power}: {name}", total / n, total / n**0.5))
    return found


def differences_from_jax(seed: int) -> list[str]:
    """Name the functions of `jax.random` that give other bits for a key of ours than for the same key of JAX."""
    key = jax.random.key(seed)
    ours = as_key(key)
    functions = {
        "bits, 32": lambda k: jax.random.bits(k, (3, 1001), jnp.uint32),
        "bits, 16": lambda k: jax.random.bits(k, (1001,), jnp.uint16),
        "bits, 8": lambda k: jax.random.bits(k, (1001,), jnp.uint8),
        "uniform": lambda k: jax.random.uniform(k, (1001,)),
        "randint": lambda k: jax.random.randint(k, (1001,), 0, 12345),
        "permutation": lambda k: jax.random.permutation(k, 1001),
        "split": lambda k: jax.random.key_data(jax.random.split(k, (3, 2))),
        "fold_in": lambda k: jax.random.key_data(jax.random.fold_in(k, 77)),
        "uniform of a split": lambda k: jax.random.uniform(jax.random.split(k)[1], (7,)),
    }
    return [name for name, fn in functions.items() if not np.array_equal(fn(key), fn(ours))]


def main(chunks: int = 120) -> None:
    """Print every statistic."""
    began = time.perf_counter()
    statistics = [*law(0, chunks), *independence(1, chunks)]
    for s in statistics:
        print(f"{s.name:48s} {s.found:16.9g}   z {s.z:6.2f}")
    differences = differences_from_jax(2)
    print(f"bits that differ from jax.random: {', '.join(differences) or 'none'}")
    threshold = z_threshold(len(statistics), ERROR_RATE)
    verdict = "pass" if accepted(statistics) and not differences else "FAIL"
    worst = max(abs(s.z) for s in statistics)
    largest = f"largest |z| {worst:.2f} of {len(statistics)}, threshold {threshold:.2f}"
    print(f"{chunks * CHUNK:.3g} draws, {largest}: {verdict}")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
