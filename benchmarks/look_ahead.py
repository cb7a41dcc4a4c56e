"""Noise of the likelihood estimate: bootstrap, one-step and look-ahead proposals on nine models as users write them.

    python benchmarks/look_ahead.py [--out benchmarks/results/look_ahead.json] [--sizes N ...] [--models NAME ...]

For each model and N = 2, 10, 64 and 512: the standard deviation of log Z-hat over replicates at the parameters that
made the data, and the time of one estimate, the Gaussian approximation included.  The one-step proposal is Laplace's
approximation of p(e | c, y_t), by a Newton step for each particle.  Ratios of variances: at equal N; at equal time,
with the approximation and without it.  Then the sentence of `choose_proposal`, which compares the efficiency of a
pseudo-marginal random walk at the best number of particles of each.  Times are the fastest of several batches on the
clock, on whatever else the machine does; compilation is excluded.  One line of JSON a model.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets
from ssmscan.model.gaussian.fit import fit_vectors
from ssmscan.model.gaussian.vectors import in_vectors
from ssmscan.particles.choosing import Measured
from ssmscan.particles.draws import draw_noise
from ssmscan.particles.proposals import Bootstrap, Move
from ssmscan.stochastic_volatility import stochastic_volatility

Made = tuple[Any, dict[str, Any]]


# ---- models --------------------------------------------------------------------------------------


def counts_with_trend(y, t):
    """Log-rate: a level with a drifting slope."""
    q = numpyro.sample("q", dist.HalfNormal(0.1))

    def step(carry, y):
        level, slope = carry
        slope = numpyro.sample("slope", dist.Normal(slope, 0.01 * q))
        level = numpyro.sample("level", dist.Normal(level + slope, q))
        numpyro.sample("y", dist.Poisson(jnp.exp(level)), obs=y)
        return (level, slope), None

    level = numpyro.sample("level_0", dist.Normal(1.0, 1.0))
    scan(step, (level, 0.0), y)


def binomial(y):
    """Spike counts of fifty trials, log-odds an AR(1)."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.99 * x, s))
        numpyro.sample("y", dist.BinomialLogits(x - 3.0, 50), obs=y)
        return x, None

    scan(step, 0.0, y)


def student(y):
    """AR(1) seen with outliers."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.95 * x, s))
        numpyro.sample("y", dist.StudentT(3.0, x, 0.3), obs=y)
        return x, None

    scan(step, 0.0, y)


def gamma_state(y):
    """A rate that is multiplied by a Gamma variable at every step, seen by counts."""
    a = numpyro.sample("a", dist.Gamma(4.0, 0.1))

    def step(rate, y):
        rate = rate * numpyro.sample("factor", dist.Gamma(a, a))
        numpyro.sample("y", dist.Poisson(20.0 * rate), obs=y)
        return rate, None

    scan(step, 1.0, y)


def epidemic(y):
    """SIR on shares of a population, with a contact rate that walks, seen by case counts."""
    s = numpyro.sample("s", dist.HalfNormal(0.5))

    def step(carry, y):
        susceptible, infected, log_rate = carry
        log_rate = numpyro.sample("log_rate", dist.Normal(log_rate, s))
        new = susceptible * (1 - jnp.exp(-jnp.exp(log_rate) * infected))
        numpyro.sample("y", dist.Poisson(2000.0 * new + 0.1), obs=y)
        return (susceptible - new, infected + new - 0.2 * infected, log_rate), None

    scan(step, (0.99, 0.01, jnp.log(0.5)), y)


COUPLING = 0.6 * np.linalg.qr(np.random.default_rng(0).normal(size=(10, 10)))[0] + 0.3 * np.eye(10)


def ten_dimensions(y):
    """A linear Gaussian state in ten dimensions, one of which is seen by a count as well."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(jnp.asarray(COUPLING, float) @ x, s).to_event(1))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y[:10])
        numpyro.sample("count", dist.Poisson(jnp.exp(1.0 + x[0])), obs=y[10])
        return x, None

    scan(step, jnp.zeros(10), y)


def kitagawa(y):
    """The benchmark of Kitagawa (1987), whose states have several modes."""
    q = numpyro.sample("q", dist.HalfNormal(10.0))
    x = numpyro.sample("x_0", dist.Normal(0.0, 5**0.5))

    def step(x, inputs):
        y, n = inputs
        x = numpyro.sample("x", dist.Normal(x / 2 + 25 * x / (1 + x**2) + 8 * jnp.cos(1.2 * n), q))
        numpyro.sample("y", dist.Normal(x**2 / 20, 10**0.5), obs=y)
        return x, None

    scan(step, x, (y, jnp.arange(1.0, len(y) + 1)))


def lotka_volterra(y):
    """Log-numbers of prey and predators, four Euler steps an observation, seen with error."""
    s = numpyro.sample("s", dist.HalfNormal(0.5))

    def step(log_x, y):
        for _ in range(4):
            prey, predators = jnp.exp(log_x)
            log_x = log_x + 0.1 * jnp.stack([1.0 - 0.5 * predators, 0.3 * prey - 0.8])
        log_x = numpyro.sample("log_x", dist.Normal(log_x, s).to_event(1))
        numpyro.sample("y", dist.Normal(jnp.exp(log_x), 0.1).to_event(1), obs=y)
        return log_x, None

    scan(step, jnp.log(jnp.array([2.0, 1.5])), y)


def simulated(model: Callable, theta: dict[str, Any], blank: np.ndarray, *more: Any) -> Made:
    """Return a model with data of its own."""
    ssm = ssmscan.trace(model, np.asarray(blank, float), *more)
    drawn = ssm.simulate(jax.random.key(0), ssm.canonical(theta))
    y = np.concatenate([np.reshape(drawn[site.name], (len(blank), -1)) for site in ssm.observations], axis=1)
    return ssmscan.trace(model, y.reshape(blank.shape).astype(float), *more), theta


MODELS: dict[str, Callable[[], Made]] = {
    "stochastic volatility, GBP/USD 750": lambda: (
        ssmscan.trace(stochastic_volatility, datasets.gbpusd().values[:750]),
        {"mu": -1.02, "phi": 0.9702, "sigma": 0.178},
    ),
    "Poisson counts with trend": lambda: simulated(counts_with_trend, {"q": 0.1}, np.zeros(200), np.zeros(1)),
    "binomial-logit AR(1), T = 3,000": lambda: simulated(binomial, {"s": 0.11**0.5}, np.zeros(3000)),
    "Student-t observations": lambda: simulated(student, {"s": 0.3}, np.zeros(300)),
    "Gamma state": lambda: simulated(gamma_state, {"a": 40.0}, np.zeros(200)),
    "SIR": lambda: simulated(epidemic, {"s": 0.1}, np.zeros(100)),
    "linear Gaussian, d = 10, one count": lambda: simulated(ten_dimensions, {"s": 0.5}, np.zeros((100, 11))),
    "Kitagawa": lambda: simulated(kitagawa, {"q": 10**0.5}, np.zeros(100)),
    "Lotka-Volterra": lambda: simulated(lotka_volterra, {"s": 0.1}, np.zeros((100, 2))),
}


# ---- the baseline --------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneStep(Bootstrap):
    """Draw noise from Laplace's approximation of its law given the carry and the observation, for each particle."""

    def propagate(self, key: jax.Array, dynamics: Any, carry: Any, x: Any, n: int) -> Move:
        """Move n particles."""
        guided = dynamics.guided
        drawn = draw_noise(key, guided.step_noise, n)

        def one(carry: Any, drawn: dict[str, jax.Array]) -> Move:
            own = {name: drawn[name] for name in dynamics.moved if name in drawn}
            z, unravel = jax.flatten_util.ravel_pytree(own)

            def log_weight(e: jax.Array) -> jax.Array:
                return guided.step(carry, x, {**drawn, **unravel(e)}).log_weight

            gradient, curvature = jax.grad(log_weight)(jnp.zeros_like(z)), jax.hessian(log_weight)(jnp.zeros_like(z))
            values, vectors = jnp.linalg.eigh(jnp.eye(len(z)) - 0.5 * (curvature + curvature.T))
            values = jnp.maximum(values, 1.0)
            mean = vectors @ ((vectors.T @ gradient) / values)
            e = mean + vectors @ (z / jnp.sqrt(values))
            log_ratio = 0.5 * jnp.sum(z**2 - e**2) - 0.5 * jnp.sum(jnp.log(values))
            step = guided.step(carry, x, {**drawn, **unravel(e)})
            return Move(step.carry, step.log_weight + log_ratio, log_ratio, step.values, step.cdf)

        return jax.vmap(one, axis_size=n)(carry, drawn)


PROPOSALS = {"bootstrap": Bootstrap(), "one-step": OneStep(), "look-ahead": ssmscan.LookAhead()}


# ---- measurement ---------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="settings")
def estimates(keys: jax.Array, ssm: Any, theta: Any, *, settings: Any) -> jax.Array:
    """Estimate the likelihood with each key, one after the other."""
    return jax.lax.map(lambda key: settings.estimate(key, ssm, theta).log_likelihood, keys)


@jax.jit
def fitted(ssm: Any, theta: Any) -> jax.Array:
    """Find the Gaussian approximation."""
    return fit_vectors(in_vectors(ssm.at(theta))).log_likelihood


def fastest(run: Callable, times: int) -> float:
    """Return the time of the fastest of several calls."""
    jax.block_until_ready(run())
    found = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return min(found)


def study(name: str, sizes: list[int], replicates: int, batch: int = 10) -> dict[str, Any]:
    """Measure one model."""
    ssm, theta = MODELS[name]()
    theta = ssm.canonical(theta)
    row: dict[str, Any] = {"model": name, "steps": ssm.num_steps, "load": os.getloadavg()[0]}
    row["fit seconds"] = fastest(lambda: fitted(ssm, theta), 5)
    cells: dict[tuple[str, int], Measured] = {}
    for kind, proposal in PROPOSALS.items():
        for n in sizes:
            settings = ssmscan.ParticleFilter(n, proposal=proposal, summaries=())
            found, seconds = [], np.inf
            estimates(jax.random.split(jax.random.key(0), batch), ssm, theta, settings=settings).block_until_ready()
            for i in range(replicates // batch):
                start = time.perf_counter()
                keys = jax.random.split(jax.random.key(1 + i), batch)
                found.append(np.asarray(estimates(keys, ssm, theta, settings=settings), float))
                seconds = min(seconds, (time.perf_counter() - start) / batch)
            one = cells[kind, n] = Measured(np.concatenate(found), seconds, 0.0)
            mean = one.log_likelihood.mean()
            row[f"{kind}, N = {n}"] = {
                "sd": one.sd,
                "mean": float(mean),
                "log mean": one.log_mean()[0],
                "ms": 1e3 * seconds,
            }
    for n in sizes:
        plain, ahead = cells["bootstrap", n], cells["look-ahead", n]
        ratio = (plain.sd / max(ahead.sd, 1e-6)) ** 2
        alone = max(ahead.seconds - row["fit seconds"], 0.05 * ahead.seconds)
        row[f"variance ratio, N = {n}"] = ratio
        row[f"at equal time, N = {n}"] = ratio * plain.seconds / ahead.seconds
        row[f"at equal time without the fit, N = {n}"] = ratio * plain.seconds / alone
    proposal, reason = ssmscan.choose_proposal(jax.random.key(0), ssm, theta)
    row["chosen"], row["reason"] = type(proposal).__name__, reason
    return row


def main() -> None:
    """Print a line a model, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 10, 64, 512])
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    options = parser.parse_args()
    rows = []
    for name in options.models:
        rows.append(study(name, options.sizes, options.replicates))
        print(json.dumps(rows[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps({"jax": jax.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
